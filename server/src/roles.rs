//! Shell: binds the roles' sockets and runs them.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::RunError;
use crate::check;
use crate::config::{Config, DhcpMode};
use crate::dhcp::{self, Dhcp};
use crate::http::{self, Http, Invitation};
use crate::lab::Lab;
use crate::publish::Current;
use crate::status::{SharedStatus, StatusEvent};
use crate::tftp::{self, Loaders, LoadersError, Tftp};

/// RFC 1350: where TFTP servers listen.
const TFTP_PORT: u16 = 69;

/// One lab on this machine's network: what every role needs to know.
#[derive(Debug, Clone)]
pub struct Site<'a> {
    /// The folder.
    pub lab: &'a Lab,
    /// Its settings.
    pub config: &'a Config,
    /// The interface's address.
    pub ip: Ipv4Addr,
    /// The interface's netmask.
    pub netmask: Ipv4Addr,
    /// The table.
    pub status: SharedStatus,
}

/// Roles that have their sockets.
#[derive(Debug)]
pub struct Bound {
    dhcp: Option<Dhcp>,
    tftp: Tftp,
    http: Http,
}

impl Site<'_> {
    /// Where HTTP listens: on the lab's interface only.
    pub fn http_address(&self) -> SocketAddr {
        SocketAddr::from((self.ip, self.config.http_port))
    }

    /// Opens every socket.
    ///
    /// # Errors
    /// The first that cannot be had, in words.
    pub fn bind(
        &self,
        current: &Current,
        invitations: mpsc::Sender<Invitation>,
    ) -> Result<Bound, RunError> {
        let Self { lab, config, status, .. } = self;
        let loaders = self.loaders()?;
        let http_address = self.http_address();
        let settings = http::Settings {
            listen: http_address,
            boot_dir: lab.boot(),
            lab: config.name.clone(),
            kernel_args: config.node_cmdline.clone(),
            seed_port: config.seed_port,
            loaders: loaders.clone(),
            invitations,
        };
        let http = Http::bind(settings, Arc::clone(current), Arc::clone(status))?;
        let script = http::render_script(http_address, &config.name, &config.node_cmdline);
        let settings = tftp::Settings { listen: self.tftp_address(), loaders, script };
        let tftp = Tftp::bind(settings, Arc::clone(status))?;
        let dhcp = match self.dhcp_settings() {
            Some(settings) => Some(Dhcp::bind(settings, Arc::clone(status))?),
            None => None,
        };
        Ok(Bound { dhcp, tftp, http })
    }

    /// Sets the roles to work; `follow` keeps the catalog live and shares the systems.
    pub fn start(
        &self,
        bound: Bound,
        follow: impl Future<Output = ()> + Send + 'static,
        shutdown: &CancellationToken,
    ) -> Roles {
        let mut roles = Roles { set: JoinSet::new(), status: Arc::clone(&self.status) };
        if let (Some(dhcp), DhcpMode::Full(pool)) = (bound.dhcp, &self.config.dhcp) {
            let (first, last) = pool.range;
            let detail = format!("{} gives {first} - {last}", self.config.interface);
            roles.start("dhcp", detail, dhcp.run(shutdown.clone()));
        }
        let detail = format!("{}/udp", self.tftp_address());
        roles.start("tftp", detail, bound.tftp.run(shutdown.clone()));
        let detail = format!("{}/", http::base_url(self.http_address()));
        roles.start("http", detail, bound.http.run(shutdown.clone()));
        let detail = format!("{}:{}/tcp", self.ip, self.config.seed_port);
        roles.start("seed", detail, async {
            follow.await;
            Ok(())
        });
        roles
    }

    /// Puts an event into the table.
    pub fn tell(&self, event: StatusEvent) {
        self.status.lock().apply(event, SystemTime::now());
    }

    fn tftp_address(&self) -> SocketAddr {
        SocketAddr::from((self.ip, TFTP_PORT))
    }

    /// Without loaders nothing boots from our own DHCP; where another one names other files, it can.
    fn loaders(&self) -> Result<Loaders, LoadersError> {
        let folders = check::loader_folders(self.lab);
        match Loaders::read(&folders.each_ref().map(PathBuf::as_path)) {
            Err(LoadersError::None(_)) if self.config.dhcp == DhcpMode::Off => {
                Ok(Loaders::default())
            }
            read => read,
        }
    }

    fn dhcp_settings(&self) -> Option<dhcp::Settings> {
        let DhcpMode::Full(pool) = &self.config.dhcp else { return None };
        Some(dhcp::Settings {
            interface: self.config.interface.clone(),
            server: self.ip,
            netmask: self.netmask,
            range: pool.range,
            lease: pool.lease,
            router: pool.router,
            dns: pool.dns.clone(),
            domain: pool.domain.clone(),
            http_port: self.config.http_port,
            leases: self.lab.leases(),
        })
    }
}

/// The roles that run, and the table that says so.
#[derive(Debug)]
pub struct Roles {
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
    pub async fn join(mut self, shutdown: &CancellationToken) {
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
