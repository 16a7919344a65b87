//! Shell: sends the newest report at each change of stage, and every two seconds while a download runs.
//!
//! A report that does not arrive is not sent again.

use std::time::Duration;

use bt_catalog::{Report, paths};
use tokio::sync::watch;

use super::http::Http;
use super::report::changes_stage;

/// How often a running download is reported.
const EVERY: Duration = Duration::from_secs(2);
/// How long the last report may take: the next kernel waits for it.
const LAST: Duration = Duration::from_millis(500);

/// Sends reports in the background; the newest one counts.
#[derive(Debug)]
pub struct Reporter {
    newest: watch::Sender<Option<Report>>,
    http: Http,
}

impl Reporter {
    /// Begins to report to this server.
    #[must_use]
    pub fn start(http: Http) -> Self {
        let (newest, reports) = watch::channel(None);
        tokio::spawn(send(http.clone(), reports));
        Self { newest, http }
    }

    /// This is how things are now.
    pub fn report(&self, report: Report) {
        self.newest.send_replace(Some(report));
    }

    /// Sends the newest report now, for a node that is about to leave.
    pub async fn flush(&self) {
        let Some(report) = self.newest.borrow().clone() else { return };
        if tokio::time::timeout(LAST, post(&self.http, &report)).await.is_err() {
            tracing::debug!("the last report did not arrive in time");
        }
    }
}

async fn send(http: Http, mut reports: watch::Receiver<Option<Report>>) {
    let mut sent: Option<Report> = None;
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        let (is_open, is_tick) = tokio::select! {
            changed = reports.changed() => (changed.is_ok(), false),
            _ = ticks.tick() => (true, true),
        };
        let newest = reports.borrow_and_update().clone();
        if let Some(report) = newest.filter(|report| is_due(sent.as_ref(), report, is_tick)) {
            post(&http, &report).await;
            sent = Some(report);
        }
        if !is_open {
            return;
        }
    }
}

fn is_due(sent: Option<&Report>, report: &Report, is_tick: bool) -> bool {
    sent.is_none_or(|sent| changes_stage(sent, report) || (is_tick && sent != report))
}

async fn post(http: &Http, report: &Report) {
    if let Err(error) = http.post(paths::REPORT, report.to_json()).await {
        tracing::debug!(%error, "report not delivered");
    }
}
