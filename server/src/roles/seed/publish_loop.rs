//! Shell: keeps the published catalog up to date with the lab's files.
//!
//! Waits for a change of the lab, lets the publisher refresh, and hands a new catalog to HTTP and
//! the seed. Whatever goes wrong, the old catalog stays and the status says why.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::humanize;
use crate::lab::config::Config;
use crate::lab::files::Finding;
use crate::lab::watcher::Watch;
use crate::publication::published::{Invitation, PublishedCatalog};
use crate::publication::publisher::{
    Outcome, Publication, PublishError, Publisher, Refresh, SETTLE,
};
use crate::roles::seed::{self, LabSeed};
use crate::status::{SharedStatus, StatusEvent};
use crate::terminal::Progress;

/// How often the status gets the seed's figures.
const FIGURES: Duration = Duration::from_secs(1);
/// At the start, files that were just copied get this long to settle.
const PATIENCE_AT_START: Duration = Duration::from_secs(5);
/// Before a failed publication (a full disk, say) is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The publisher, the seed, and everything else that a new catalog is handed to.
pub struct PublishLoop {
    publisher: Option<Publisher>,
    /// `None` where the seed is a process of its own.
    seed: Option<LabSeed>,
    /// Stock clients that announced themselves to the tracker.
    invitations: mpsc::Receiver<Invitation>,
    current: PublishedCatalog,
    status: SharedStatus,
    /// The settings that the server was started with.
    running: Config,
    last_reported: LastReported,
}

/// What the supervisor was shown last, so that the same is not reported every ten seconds.
#[derive(Default)]
struct LastReported {
    refused: Option<String>,
    waiting: Vec<Finding>,
    error: Option<String>,
}

impl PublishLoop {
    /// Nothing is published yet.
    pub fn new(
        publisher: Publisher,
        seed: Option<LabSeed>,
        invitations: mpsc::Receiver<Invitation>,
        current: PublishedCatalog,
        status: SharedStatus,
        running: Config,
    ) -> Self {
        let publisher = Some(publisher);
        Self {
            publisher,
            seed,
            invitations,
            current,
            status,
            running,
            last_reported: LastReported::default(),
        }
    }

    /// The first publication: a server that cannot offer anything does not start.
    ///
    /// # Errors
    /// The mistakes in the lab's files, or why nothing could be published.
    pub async fn begin(&mut self, progress: Progress) -> Result<(), BeginError> {
        let mut waited = Duration::ZERO;
        while waited < PATIENCE_AT_START
            && self.publisher.as_ref().is_some_and(|p| p.has_young_files(Timestamp::now()))
        {
            sleep(SETTLE / 4).await;
            waited += SETTLE / 4;
        }
        let refresh = self.look(progress).await?;
        if let Outcome::Mistakes(found) = refresh.outcome {
            return Err(BeginError::Mistakes(found));
        }
        self.take(refresh);
        Ok(())
    }

    /// Follows the lab's files until `shutdown`, then stops the seed.
    pub async fn run(mut self, watch: Watch, shutdown: CancellationToken) {
        let mut figures = interval(FIGURES);
        figures.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let changed = watch.changed(self.patience());
        tokio::pin!(changed);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = figures.tick() => self.count(),
                Some(guest) = self.invitations.recv() => self.invite(guest),
                () = &mut changed => {
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = self.follow() => {}
                    }
                    changed.set(watch.changed(self.patience()));
                }
            }
        }
        if let Some(seed) = self.seed {
            seed.stop().await;
        }
    }

    fn invite(&self, guest: Invitation) {
        if let Some(seed) = &self.seed {
            seed.invite(guest);
        }
    }

    /// One look at the lab, and whatever follows from it.
    async fn follow(&mut self) {
        match self.look(Progress::Logged).await {
            Ok(refresh) => {
                self.last_reported.error = None;
                self.take(refresh);
            }
            Err(error) => {
                let text = format!("the catalog could not be renewed: {}", humanize::chain(&error));
                if self.last_reported.error.as_ref() != Some(&text) {
                    self.warn(text.clone());
                    self.last_reported.error = Some(text);
                }
            }
        }
    }

    /// How long to wait at most for the next look.
    fn patience(&self) -> Option<Duration> {
        if self.last_reported.error.is_some() {
            return Some(RETRY);
        }
        (!self.last_reported.waiting.is_empty()).then_some(SETTLE / 2)
    }

    /// Lets the publisher look, on a thread where it may hash for minutes.
    async fn look(&mut self, progress: Progress) -> Result<Refresh, PublishError> {
        let mut publisher = self.publisher.take().expect("each look gives it back");
        let look = tokio::task::spawn_blocking(move || {
            let refresh = publisher.refresh(Timestamp::now(), progress);
            (publisher, refresh)
        });
        let (publisher, refresh) = look.await.expect("publishing does not panic");
        self.publisher = Some(publisher);
        refresh
    }

    fn take(&mut self, refresh: Refresh) {
        for finding in &refresh.waiting {
            if !self.last_reported.waiting.contains(finding) {
                self.warn(finding.to_string());
            }
        }
        self.last_reported.waiting = refresh.waiting;
        let mut refused = match &refresh.outcome {
            Outcome::Mistakes(found) => {
                Some(found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            }
            Outcome::Unchanged | Outcome::New(_) => None,
        };
        if let Some(config) = &refresh.config {
            let keys = config.needs_restart(&self.running);
            if !keys.is_empty() {
                refused = Some(format!(
                    "server.toml: a change of {} needs `bt-server stop` and `bt-server start`",
                    keys.join(", ")
                ));
            }
        }
        if let Outcome::New(publication) = refresh.outcome {
            self.publish(*publication);
        }
        if refused != self.last_reported.refused {
            match &refused {
                Some(reason) => warn!(%reason, "the newest edit is not live"),
                None => info!("the newest edit is live"),
            }
            self.apply(StatusEvent::EditRefused(refused.clone()));
            self.last_reported.refused = refused;
        }
    }

    fn publish(&mut self, publication: Publication) {
        // The seed first: who reads the new catalog finds what it offers.
        let apply = |seed: &mut LabSeed| seed.apply(&publication.seeds, SystemTime::now());
        for problem in self.seed.as_mut().map(apply).unwrap_or_default() {
            self.warn(problem);
        }
        *self.current.write() = Arc::clone(&publication.published);
        self.apply(StatusEvent::Published(publication.status));
        self.count();
    }

    fn count(&mut self) {
        let published = Arc::clone(&self.current.read());
        let rows = match &mut self.seed {
            Some(seed) => {
                seed.prune(SystemTime::now());
                seed.status(&published)
            }
            None => seed::rows(&published, |_| None),
        };
        self.apply(StatusEvent::Seeding(rows));
    }

    fn warn(&self, text: String) {
        warn!("{text}");
        self.apply(StatusEvent::Warning { text });
    }

    fn apply(&self, event: StatusEvent) {
        self.status.lock().apply(event, SystemTime::now());
    }
}

/// Why nothing could be offered at the start.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Mistakes in the lab's files.
    #[error("the lab's files hold mistakes")]
    Mistakes(Vec<Finding>),
    /// Keys, disk, signing.
    #[error(transparent)]
    Publish(#[from] PublishError),
}
