//! Shell: sends the newest report at each change of stage, and every two seconds while a download runs.
//!
//! A report that does not arrive is forgotten.

use std::time::Duration;

use tokio::sync::watch;

use super::http::Http;
use super::report::Report;

/// How often a running download is reported.
const EVERY: Duration = Duration::from_secs(2);
/// How long the last report may take: the next kernel waits for it.
const LAST: Duration = Duration::from_millis(500);

/// Sends reports in the background; the newest one counts.
#[derive(Debug)]
pub struct Reporter {
    newest: watch::Sender<Report>,
    http: Http,
}

impl Reporter {
    /// Begins to report to this server.
    #[must_use]
    pub fn start(http: Http) -> Self {
        let (newest, reports) = watch::channel(Report::default());
        tokio::spawn(send(http.clone(), reports));
        Self { newest, http }
    }

    /// This is how things are now.
    pub fn tell(&self, report: Report) {
        self.newest.send_replace(report);
    }

    /// Sends the newest report now, for a node that is about to be gone.
    pub async fn flush(&self) {
        let report = self.newest.borrow().clone();
        if tokio::time::timeout(LAST, post(&self.http, &report)).await.is_err() {
            tracing::debug!("the last report did not arrive in time");
        }
    }
}

async fn send(http: Http, mut reports: watch::Receiver<Report>) {
    let mut told = Report::default();
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        let (is_open, is_tick) = tokio::select! {
            changed = reports.changed() => (changed.is_ok(), false),
            _ = ticks.tick() => (true, true),
        };
        let report = reports.borrow_and_update().clone();
        if told.changes_stage(&report) || (is_tick && report != told) {
            post(&http, &report).await;
            told = report;
        }
        if !is_open {
            return;
        }
    }
}

async fn post(http: &Http, report: &Report) {
    let json = serde_json::to_vec(report).expect("strings and numbers always serialise");
    if let Err(error) = http.post("/report", json).await {
        tracing::debug!(%error, "report not delivered");
    }
}
