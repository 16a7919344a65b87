//! BootTorrent's server: everything a lab of PCs needs to boot from the network, in one process or
//! in one for each role.
//!
//! [`prepare`] opens the sockets, which may need root's rights; [`run`] needs none any more: it
//! starts the roles, says when all of them work, and ends them:
//! ```text
//! dhcp    addresses, and for each firmware its boot file       port 67/udp
//! tftp    iPXE for that firmware                               port 69/udp
//! http    boot files, catalog, tracker, reports, page          port 6969/tcp
//! seed    every system's files, as BitTorrent                  port 6881/tcp
//! ```
//! Nothing on the network can change the lab: only its files and the control socket can.

pub mod boot;
pub mod commands;
pub mod fuzz;
pub mod humanize;
pub mod lab;
pub mod os;
pub mod process;
pub mod publication;
pub mod roles;
pub mod status;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::boot::loaders::LoadersError;
use crate::boot::scripts::base_url;
use crate::commands::check;
use crate::lab::Finding;
use crate::lab::config::DhcpMode;
use crate::lab::instance::{Instance, RoleSet, ServerRole};
use crate::lab::watcher::Watch;
use crate::os::interfaces::{self, InterfaceError};
use crate::os::sockets::BindError;
use crate::process::control::Control;
use crate::publication::publisher::{self, Current, PublishError, Publisher};
use crate::publication::torrents::Progress;
use crate::roles::dhcp::DhcpError;
use crate::roles::http::Invitation;
use crate::roles::seed::follow::Follower;
use crate::roles::seed::publish::{BeginError, Live};
use crate::roles::seed::{LabSeed, SeedError};
use crate::roles::{Bound, Site};
use crate::status::{SharedStatus, StatusBook, StatusEvent};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Mistakes in the lab's files, each with its place.
    #[error("the lab is not ready to start:{}", Listed(.0))]
    Mistakes(Vec<Finding>),
    /// The network interface.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// DHCP.
    #[error(transparent)]
    Dhcp(DhcpError),
    /// A port.
    #[error("{}{}", humanize::chain(.0), remedy(.0))]
    Bind(BindError),
    /// iPXE.
    #[error(transparent)]
    Loaders(#[from] LoadersError),
    /// The seed.
    #[error(transparent)]
    Seed(SeedError),
    /// The catalog.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The control socket.
    #[error("cannot make the control socket in state/")]
    Control(#[source] io::Error),
    /// The role has nothing to do.
    #[error(
        "server.toml says `mode = \"off\"` below [dhcp], so there is nothing for the role dhcp to \
         do; leave it out, or choose another mode"
    )]
    NoDhcp,
}

impl From<BindError> for RunError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

impl From<DhcpError> for RunError {
    fn from(error: DhcpError) -> Self {
        match error {
            DhcpError::Bind(error) => Self::Bind(error),
            other => Self::Dhcp(other),
        }
    }
}

impl From<SeedError> for RunError {
    fn from(error: SeedError) -> Self {
        match error {
            SeedError::Bind(error) => Self::Bind(error),
            other => Self::Seed(other),
        }
    }
}

/// How to give the rights that are missing, on this machine.
fn remedy(error: &BindError) -> String {
    match (error, std::env::current_exe()) {
        (BindError::Forbidden { .. }, Ok(program)) => format!(
            ": `setcap cap_net_bind_service,cap_net_raw+ep {}`, once, as root",
            program.display()
        ),
        _ => String::new(),
    }
}

/// Findings, one to a line.
struct Listed<'a>(&'a [Finding]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

/// A server that has its sockets and serves nothing yet.
#[derive(Debug)]
pub struct Prepared {
    /// What every role needs to know.
    pub site: Site,
    bound: Bound,
    current: Current,
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
    let mistakes = check::network(&config);
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
    let current = Current::default();
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
        error!(%error, "the control socket ended badly");
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
        notes.extend(check::boot_files(&site.instance.lab).iter().map(Finding::to_string));
        notes.extend(no_watch.map(|error| {
            format!("changes of the lab are noticed within 10 s, not at once: {error}")
        }));
        let (status, running) = (Arc::clone(&site.status), site.config.clone());
        let mut live =
            Live::new(publisher, seed, invitations, Arc::clone(&current), status, running);
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            begun = live.begin(progress) => begun.map_err(|error| match error {
                BeginError::Mistakes(found) => RunError::Mistakes(found),
                BeginError::Publish(error) => RunError::Publish(error),
            })?,
        }
        let catalog = publisher::summary(&current.read());
        let follow = live.run(watch, shutdown.clone());
        (site.start(bound, Some(follow), shutdown), Some(catalog))
    } else if let Some(seed) = seed {
        let status = Arc::clone(&site.status);
        let mut follower = Follower::new(&site.instance.lab, site.announce_url(), seed, status);
        let catalog = publisher::summary(follower.begin().await);
        let follow = follower.run(shutdown.clone());
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
