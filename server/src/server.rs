//! Shell: one server process, from its sockets to its end.

use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::boot::loaders;
use crate::boot::scripts::base_url;
use crate::error::RunError;
use crate::lab::config::DhcpMode;
use crate::lab::files::Finding;
use crate::lab::instance::Instance;
use crate::lab::network_check;
use crate::lab::watcher::Watch;
use crate::os::interfaces;
use crate::process::control::Control;
use crate::publication::published::{self, Invitation, PublishedCatalog};
use crate::publication::publisher::Publisher;
use crate::role::{RoleSet, ServerRole};
use crate::roles::seed::LabSeed;
use crate::roles::seed::publish_loop::{BeginError, PublishLoop};
use crate::roles::seed::replica::Replica;
use crate::roles::{Bound, Site};
use crate::status::{SharedStatus, StatusBook, StatusEvent};
use crate::terminal::Progress;

/// A server that has its sockets and serves nothing yet.
#[derive(Debug)]
pub struct Prepared {
    /// What every role needs to know.
    pub site: Site,
    bound: Bound,
    current: PublishedCatalog,
    invitations: mpsc::Receiver<Invitation>,
}

/// Stock clients that wait for a call of the seed; those beyond announce again half a minute later.
const MAX_INVITATIONS: usize = 64;

/// Reads the settings and opens the sockets. Every socket first: a port that is taken must be told
/// before hours of hashing, and the rights to open it can be given up before anything is served.
///
/// # Errors
/// The first reason not to start, in words.
pub fn prepare(instance: &Instance) -> Result<Prepared, RunError> {
    let lab = &instance.lab;
    let config = lab.read_config().map_err(|finding| RunError::Mistakes(vec![finding]))?;
    let cards = interfaces::cards(config.interfaces())?;
    let ip = cards[0].ip;
    let mistakes = network_check::network(&config);
    if !mistakes.is_empty() {
        return Err(RunError::Mistakes(mistakes));
    }
    if config.dhcp == DhcpMode::Off && instance.roles.iter().eq([ServerRole::Dhcp]) {
        return Err(RunError::NoDhcp);
    }
    let book = StatusBook::new(&config.name, std::process::id(), SystemTime::now())
        .of_server(cards.iter().map(|card| card.ip));
    let status: SharedStatus = Arc::new(Mutex::new(book));
    let site = Site { instance: instance.clone(), config, cards, ip, status };
    let current = PublishedCatalog::default();
    let (invite, invitations) = mpsc::channel(MAX_INVITATIONS);
    let bound = site.bind(&current, invite)?;
    Ok(Prepared { site, bound, current, invitations })
}

/// Starts the roles, calls `ready` with what to tell the supervisor when all of them work, and
/// returns after `shutdown`.
///
/// # Errors
/// The first reason not to start, in words; nothing is left running then.
pub async fn run(
    prepared: Prepared,
    progress: Progress,
    ready: impl FnOnce(String),
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    // First of all, so that even a server that hashes for hours can be asked and stopped.
    let control = Control::bind(&prepared.site.instance).map_err(RunError::Control)?;
    let status = Arc::clone(&prepared.site.status);
    let control = tokio::spawn(control.run(status, shutdown.clone()));
    let served = serve(prepared, progress, ready, &shutdown).await;
    shutdown.cancel();
    if let Err(error) = control.await {
        error!(%error, "the control socket failed");
    }
    info!("stopped");
    served
}

async fn serve(
    prepared: Prepared,
    progress: Progress,
    ready: impl FnOnce(String),
    shutdown: &CancellationToken,
) -> Result<(), RunError> {
    let Prepared { site, bound, current, invitations } = prepared;
    let mut notes = Vec::new();
    let seed = match site.plays(ServerRole::Seed) {
        true => Some(LabSeed::start(site.seed_ip(), site.config.seed_port).await?),
        false => None,
    };
    let (roles, catalog) = if site.plays(ServerRole::Http) {
        let publisher =
            Publisher::open(&site.instance.lab, &site.announce_url(), Timestamp::now())?;
        let (watch, no_watch) = Watch::start(&site.instance.lab);
        notes.extend(loaders::boot_files(&site.instance.lab).iter().map(Finding::to_string));
        notes.extend(no_watch.map(|error| {
            format!("changes in the lab folder are noticed within 10 s instead of at once: {error}")
        }));
        let (status, running) = (Arc::clone(&site.status), site.config.clone());
        let mut publishing =
            PublishLoop::new(publisher, seed, invitations, Arc::clone(&current), status, running);
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            begun = publishing.begin(progress) => begun.map_err(|error| match error {
                BeginError::Mistakes(found) => RunError::Mistakes(found),
                BeginError::Publish(error) => RunError::Publish(error),
            })?,
        }
        let catalog = published::summary(&current.read());
        let follow = publishing.run(watch, shutdown.clone());
        (site.start(bound, Some(follow), shutdown), Some(catalog))
    } else if let Some(seed) = seed {
        let status = Arc::clone(&site.status);
        let mut replica = Replica::new(&site.instance.lab, site.announce_url(), seed, status);
        let catalog = published::summary(replica.begin().await);
        let follow = replica.run(shutdown.clone());
        (site.start(bound, Some(follow), shutdown), Some(catalog))
    } else {
        (site.start(bound, None::<std::future::Ready<()>>, shutdown), None)
    };
    for note in &notes {
        warn!("{note}");
        site.tell(StatusEvent::Warning { text: note.clone() });
    }
    ready(welcome(&site, catalog.as_deref(), &notes));
    roles.join(shutdown).await;
    Ok(())
}

/// What `start` prints when all works.
fn welcome(site: &Site, catalog: Option<&str>, notes: &[String]) -> String {
    let Site { instance, config, cards, .. } = site;
    let what = match instance.roles {
        RoleSet::ALL => config.name.clone(),
        roles => format!("{} ({roles})", config.name),
    };
    let cards: Vec<String> =
        cards.iter().map(|card| format!("{} ({})", card.name, card.ip)).collect();
    let mut lines = vec![format!("{what} is ready on {}", cards.join(", "))];
    lines.extend(catalog.map(|catalog| format!("  {catalog}")));
    if site.plays(ServerRole::Http) {
        lines.push(format!("  supervisor's page: {}/", base_url(site.http_address())));
    }
    lines.extend(notes.iter().map(|note| format!("  note: {note}")));
    lines.join("\n")
}
