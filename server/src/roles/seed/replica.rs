//! Shell: the seed in a process of its own: shares what the role `http` has published.
//!
//! It needs no key. `state/published/` says what is published, `catalog/*.toml` where the files are.
//! A system whose files are not those of its torrent is not shared: the process that publishes is
//! about to notice, and this one looks again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use bt_catalog::version::Program;
use bt_catalog::{Catalog, CatalogError, System};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::lab::Lab;
use crate::lab::files::Stamp;
use crate::publication::published::{Published, PublishedSystem, SeedSource};
use crate::publication::torrents::Torrents;
use crate::roles::seed::LabSeed;
use crate::status::{CatalogStatus, SharedStatus, StatusEvent};

/// How often the published catalog is checked: one stat(2).
const LOOK: Duration = Duration::from_secs(1);
/// Looks until a system that could not be shared is tried again.
const RETRY_LOOKS: u32 = 5;

/// See the module.
pub struct Replica {
    lab: Lab,
    announce: String,
    seed: LabSeed,
    status: SharedStatus,
    /// The catalog file that was read last.
    seen: Option<Stamp>,
    published: Published,
    sources: BTreeMap<String, SeedSource>,
    /// Why systems could not be shared.
    problems: Vec<String>,
}

/// What one look found.
struct Found {
    catalog: Catalog,
    ready: Vec<SeedSource>,
    problems: Vec<String>,
}

impl Replica {
    /// Shares nothing yet; `announce` is the tracker's URL.
    pub fn new(lab: &Lab, announce: String, seed: LabSeed, status: SharedStatus) -> Self {
        Self {
            lab: lab.clone(),
            announce,
            seed,
            status,
            seen: None,
            published: Published::default(),
            sources: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// The first look: what is published so far.
    pub async fn begin(&mut self) -> &Published {
        self.look().await;
        &self.published
    }

    /// Follows what is published until `shutdown`, then stops the seed.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut since_problem = 0;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = looks.tick() => {}
            }
            since_problem = if self.problems.is_empty() { 0 } else { since_problem + 1 };
            if self.newest() != self.seen || since_problem >= RETRY_LOOKS {
                since_problem = 0;
                self.look().await;
            }
            self.seed.prune(SystemTime::now());
            self.apply(StatusEvent::Seeding(self.seed.status(&self.published)));
        }
        self.seed.stop().await;
    }

    fn newest(&self) -> Option<Stamp> {
        Stamp::of(&self.lab.published().join("catalog.toml")).ok()
    }

    async fn look(&mut self) {
        self.seen = self.newest();
        let (lab, announce) = (self.lab.clone(), self.announce.clone());
        let reading = tokio::task::spawn_blocking(move || read(&lab, &announce));
        match reading.await.expect("reading does not panic") {
            Ok(Some(found)) => self.take(found),
            Ok(None) => {
                self.report(vec!["nothing is published yet; start the role http".to_owned()]);
            }
            Err(error) => self.report(vec![format!("cannot read the published catalog: {error}")]),
        }
    }

    fn take(&mut self, found: Found) {
        let Found { catalog, ready, mut problems } = found;
        let is_offered = |id: &str| catalog.systems.iter().any(|system| system.id.as_str() == id);
        // What is offered and cannot be renewed now stays shared as it was.
        self.sources.retain(|id, _| is_offered(id));
        self.sources.extend(ready.into_iter().map(|source| (source.id.clone(), source)));
        let sources: Vec<SeedSource> = self.sources.values().cloned().collect();
        problems.extend(self.seed.apply(&sources, SystemTime::now()));
        info!(
            version = catalog.version,
            systems = sources.len(),
            "following the published catalog"
        );
        self.published = Published {
            version: catalog.version,
            documents: BTreeMap::new(),
            systems: catalog.systems.iter().map(published_system).collect(),
        };
        let seconds = |time: jiff::Timestamp| u64::try_from(time.as_second()).unwrap_or(0);
        self.apply(StatusEvent::Published(CatalogStatus {
            version: catalog.version,
            issued: seconds(catalog.issued),
            expires: seconds(catalog.expires),
        }));
        self.apply(StatusEvent::Seeding(self.seed.status(&self.published)));
        self.report(problems);
    }

    /// Warns about new problems only.
    fn report(&mut self, problems: Vec<String>) {
        for text in problems.iter().filter(|text| !self.problems.contains(text)) {
            warn!("{text}");
            self.apply(StatusEvent::Warning { text: text.clone() });
        }
        self.problems = problems;
    }

    fn apply(&self, event: StatusEvent) {
        self.status.lock().apply(event, SystemTime::now());
    }
}

/// Reads the published catalog and finds its systems' files; `None` where nothing is published yet.
fn read(lab: &Lab, announce: &str) -> io::Result<Option<Found>> {
    let bytes = match fs::read(lab.published().join("catalog.toml")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let catalog = Catalog::parse(&bytes).map_err(|error| match error {
        CatalogError::Version(error) => io::Error::other(error.read_by(Program::Server)),
        error => io::Error::other(error),
    })?;
    let torrents = Torrents::open(lab, announce)?;
    let (mut ready, mut problems) = (Vec::new(), Vec::new());
    for system in &catalog.too_new {
        problems.push(system.why.clone().read_by(Program::Server).to_string());
    }
    for system in &catalog.systems {
        match source_of(lab, &torrents, system) {
            Ok(source) => ready.push(source),
            Err(why) => problems.push(format!("{} is not shared yet: {why}", system.id)),
        }
    }
    Ok(Some(Found { catalog, ready, problems }))
}

fn source_of(lab: &Lab, torrents: &Torrents, system: &System) -> Result<SeedSource, String> {
    let offered = lab.system(&system.id).map_err(|findings| {
        findings.first().map_or_else(|| "its entry is not valid".to_owned(), ToString::to_string)
    })?;
    let torrent = torrents
        .find(&system.id, &offered.files)
        .filter(|torrent| torrent.infohash.0 == system.infohash.0);
    let torrent = torrent.ok_or("its files differ from the published ones")?;
    Ok(SeedSource {
        id: system.id.to_string(),
        torrent: torrent.bytes,
        infohash: torrent.infohash,
        files: offered.files,
    })
}

fn published_system(system: &System) -> PublishedSystem {
    PublishedSystem {
        id: system.id.to_string(),
        name: system.name.clone(),
        infohash: bt_swarm::Infohash(system.infohash.0),
        total: system.files.iter().map(|file| file.length).sum(),
    }
}
