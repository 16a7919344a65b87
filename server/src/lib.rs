//! BootTorrent's server: everything a lab of PCs needs to boot from the network, in one process.
//!
//! [`run`] starts every role, says when all of them work, and ends them:
//! ```text
//! dhcp    addresses, and for each firmware its boot file       port 67/udp
//! tftp    iPXE for that firmware                               port 69/udp
//! http    boot files, catalog, tracker, reports, page          port 6969/tcp
//! seed    every system's files, as BitTorrent                  port 6881/tcp
//! ```
//! Nothing on the network can change the lab: only its files and `state/control.sock` can.

pub mod arch;
pub mod bind;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dhcp;
pub mod http;
pub mod init;
pub mod interfaces;
pub mod keyring;
pub mod lab;
pub mod lease;
pub mod lease_log;
pub mod live;
pub mod publish;
pub mod report;
pub mod seed;
pub mod status;
pub mod tftp;
pub mod torrents;
pub mod watch;
pub mod words;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::bind::BindError;
use crate::config::{Config, DhcpMode};
use crate::control::Control;
use crate::dhcp::{Dhcp, DhcpError};
use crate::http::Http;
use crate::interfaces::InterfaceError;
use crate::lab::{Finding, Lab};
use crate::live::{BeginError, Live};
use crate::publish::{Current, PublishError, Publisher};
use crate::seed::{LabSeed, SeedError};
use crate::status::{SharedStatus, StatusBook, StatusEvent};
use crate::tftp::{Loaders, LoadersError, Tftp};
use crate::torrents::Progress;
use crate::watch::Watch;

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
    Dhcp(#[from] DhcpError),
    /// A port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// iPXE.
    #[error(transparent)]
    Loaders(#[from] LoadersError),
    /// The seed.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The catalog.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The control socket.
    #[error("cannot make state/control.sock")]
    Control(#[source] io::Error),
}

/// Findings, one to a line.
struct Listed<'a>(&'a [Finding]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

/// Starts every role, calls `ready` with what to tell the supervisor when all of them work, and
/// returns after `shutdown`.
///
/// # Errors
/// The first reason not to start, in words; nothing is left running then.
pub async fn run(
    lab: &Lab,
    progress: Progress,
    ready: impl FnOnce(String),
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let config = lab.read_config().map_err(|finding| RunError::Mistakes(vec![finding]))?;
    let (ip, netmask) = interfaces::address_of(&config.interface)?;
    let mistakes = check::network(&config);
    if !mistakes.is_empty() {
        return Err(RunError::Mistakes(mistakes));
    }
    let book = StatusBook::new(&config.name, std::process::id(), SystemTime::now());
    let status: SharedStatus = Arc::new(Mutex::new(book));
    let current: Current = Arc::new(RwLock::default());

    // Every socket first: a port that is taken must be told before hours of hashing.
    let control = Control::bind(lab).map_err(RunError::Control)?;
    let loaders = loaders(lab, &config)?;
    let http_address = SocketAddr::from((ip, config.http_port));
    let http = Http::bind(
        http::Settings {
            listen: http_address,
            boot_dir: lab.boot(),
            lab: config.name.clone(),
            kernel_args: config.node_cmdline.clone(),
            seed_port: config.seed_port,
            loaders: loaders.clone(),
        },
        Arc::clone(&current),
        Arc::clone(&status),
    )?;
    let script = http::render_script(http_address, &config.name, &config.node_cmdline);
    let tftp_address = SocketAddr::from((ip, 69));
    let tftp =
        Tftp::bind(tftp::Settings { listen: tftp_address, loaders, script }, Arc::clone(&status))?;
    let dhcp = match dhcp_settings(lab, &config, ip, netmask) {
        Some(settings) => Some(Dhcp::bind(settings, Arc::clone(&status))?),
        None => None,
    };
    let seed = LabSeed::start(ip, config.seed_port).await?;

    let announce = format!("{}/announce", http::base_url(http_address));
    let publisher = Publisher::open(lab, &announce, Timestamp::now())?;
    let (watch, no_watch) = Watch::start(lab);
    let mut live =
        Live::new(publisher, seed, Arc::clone(&current), Arc::clone(&status), config.clone());
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        begun = live.begin(progress) => begun.map_err(|error| match error {
            BeginError::Mistakes(found) => RunError::Mistakes(found),
            BeginError::Publish(error) => RunError::Publish(error),
        })?,
    }

    let mut roles = Roles { set: JoinSet::new(), status: Arc::clone(&status) };
    if let Some(dhcp) = dhcp {
        roles.start("dhcp", dhcp_words(&config), dhcp.run(shutdown.clone()));
    }
    roles.start("tftp", format!("{tftp_address}/udp"), tftp.run(shutdown.clone()));
    roles.start("http", format!("http://{http_address}/"), http.run(shutdown.clone()));
    let follow = live.run(watch, shutdown.clone());
    let follow = async {
        follow.await;
        Ok(())
    };
    roles.start("seed", format!("{ip}:{}/tcp", config.seed_port), follow);
    let control = tokio::spawn(control.run(Arc::clone(&status), shutdown.clone()));

    let mut warnings: Vec<String> =
        check::boot_files(lab).iter().map(ToString::to_string).collect();
    warnings.extend(
        no_watch.map(|error| {
            format!("changes of the lab are noticed within 10 s, not at once: {error}")
        }),
    );
    for text in &warnings {
        warn!("{text}");
        status.lock().apply(StatusEvent::Warning { text: text.clone() }, SystemTime::now());
    }
    ready(welcome(&config, http_address, &publish::summary(&current.read()), &warnings));

    roles.join(&shutdown).await;
    if let Err(error) = control.await {
        error!(%error, "the control socket ended badly");
    }
    info!("stopped");
    Ok(())
}

/// Without loaders nothing boots from our own DHCP; where another one names other files, it can.
fn loaders(lab: &Lab, config: &Config) -> Result<Loaders, RunError> {
    let folders = check::loader_folders(lab);
    match Loaders::read(&folders.each_ref().map(PathBuf::as_path)) {
        Err(LoadersError::None(_)) if config.dhcp == DhcpMode::Off => Ok(Loaders::default()),
        read => Ok(read?),
    }
}

fn dhcp_settings(
    lab: &Lab,
    config: &Config,
    server: Ipv4Addr,
    netmask: Ipv4Addr,
) -> Option<dhcp::Settings> {
    let DhcpMode::Full(pool) = &config.dhcp else { return None };
    Some(dhcp::Settings {
        interface: config.interface.clone(),
        server,
        netmask,
        range: pool.range,
        lease: pool.lease,
        router: pool.router,
        dns: pool.dns.clone(),
        domain: pool.domain.clone(),
        http_port: config.http_port,
        leases: lab.leases(),
    })
}

fn dhcp_words(config: &Config) -> String {
    match &config.dhcp {
        DhcpMode::Full(pool) => {
            format!("{} gives {} - {}", config.interface, pool.range.0, pool.range.1)
        }
        DhcpMode::Off => "off".to_owned(),
    }
}

/// What `start` prints when all works.
fn welcome(config: &Config, http: SocketAddr, catalog: &str, warnings: &[String]) -> String {
    let mut lines = vec![
        format!("{} is ready on {} ({})", config.name, config.interface, http.ip()),
        format!("  {catalog}"),
        format!("  supervisor's page: http://{http}/"),
    ];
    lines.extend(warnings.iter().map(|warning| format!("  note: {warning}")));
    lines.join("\n")
}

/// The roles that run, and the table that says so.
struct Roles {
    set: JoinSet<(&'static str, io::Result<()>)>,
    status: SharedStatus,
}

impl Roles {
    fn start(
        &mut self,
        name: &'static str,
        detail: String,
        role: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        info!(role = name, detail, "started");
        self.apply(StatusEvent::Role { name, detail, is_up: true });
        self.set.spawn(async move { (name, role.await) });
    }

    /// Waits for all of them. One that ends before the shutdown is a problem; the others go on,
    /// since a seed without DHCP still serves a room that is in the middle of a download.
    async fn join(mut self, shutdown: &CancellationToken) {
        while let Some(ended) = self.set.join_next().await {
            let (name, why) = match ended {
                Ok((_, Ok(()))) if shutdown.is_cancelled() => continue,
                Ok((name, Ok(()))) => (name, "it ended by itself".to_owned()),
                Ok((name, Err(error))) => (name, error.to_string()),
                Err(error) => ("a role", error.to_string()),
            };
            let text = format!(
                "{name} has stopped working: {why}; `bt-server stop` and `bt-server start` start it anew"
            );
            error!("{text}");
            self.apply(StatusEvent::Role { name, detail: why, is_up: false });
            self.apply(StatusEvent::Warning { text });
        }
    }

    fn apply(&self, event: StatusEvent) {
        self.status.lock().apply(event, SystemTime::now());
    }
}
