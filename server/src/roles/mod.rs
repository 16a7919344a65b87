//! Shell: binds the roles' sockets and runs them.

pub mod dhcp;
pub mod http;
pub mod seed;
pub mod tftp;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::boot::loaders::{self, Loaders, LoadersError};
use crate::boot::scripts::{Scripts, base_url};
use crate::error::RunError;
use crate::humanize;
use crate::lab::config::{Config, DhcpMode};
use crate::lab::instance::Instance;
use crate::os::capability::Capability;
use crate::os::card::Card;
use crate::publication::published::{Invitation, PublishedCatalog};
use crate::role::ServerRole;
use crate::roles::dhcp::rogue::OwnMode;
use crate::roles::dhcp::{Dhcp, Network, Proxy, ProxySettings, rogue_watch};
use crate::roles::http::Http;
use crate::roles::tftp::Tftp;
use crate::status::{SharedStatus, StatusEvent};

/// RFC 1350: where TFTP servers listen.
const TFTP_PORT: u16 = 69;

/// One lab on this machine's network: what every role needs to know.
#[derive(Debug, Clone)]
pub struct Site {
    /// The folder, and the roles that this process plays.
    pub instance: Instance,
    /// Its settings.
    pub config: Config,
    /// The network cards that PCs are reached through; at least one.
    pub cards: Vec<Card>,
    /// The first card's address.
    pub ip: Ipv4Addr,
    /// The table.
    pub status: SharedStatus,
}

/// Roles that have their sockets.
#[derive(Debug)]
pub struct Bound {
    dhcp: Option<Dhcp>,
    /// One for each card; so are the next two.
    proxy: Vec<Proxy>,
    /// Where answers to the probes for rogue DHCP servers arrive.
    probes: Vec<(Card, UdpSocket)>,
    tftp: Vec<Tftp>,
    http: Option<Http>,
}

impl Site {
    /// Where HTTP listens: on the lab's interface only.
    pub fn http_address(&self) -> SocketAddr {
        SocketAddr::from((self.ip, self.config.http_port))
    }

    /// Where the seed listens: its engine has one listener, which several cards share.
    pub fn seed_ip(&self) -> Ipv4Addr {
        if self.cards.len() == 1 { self.ip } else { Ipv4Addr::UNSPECIFIED }
    }

    /// The tracker's URL.
    pub fn announce_url(&self) -> String {
        format!("{}/announce", base_url(self.http_address()))
    }

    /// Whether this process plays `role`.
    pub fn plays(&self, role: ServerRole) -> bool {
        self.instance.roles.contains(role)
    }

    /// Opens the sockets that need rights; the seed opens its own.
    ///
    /// # Errors
    /// The first that cannot be had, in words.
    pub fn bind(
        &self,
        current: &PublishedCatalog,
        invitations: mpsc::Sender<Invitation>,
    ) -> Result<Bound, RunError> {
        let loaders = if self.plays(ServerRole::Tftp) || self.plays(ServerRole::Http) {
            self.loaders()?
        } else {
            Loaders::default()
        };
        let http = if self.plays(ServerRole::Http) {
            let settings = self.http_settings(loaders.clone(), invitations);
            let mut http = Http::bind(settings, Arc::clone(current), Arc::clone(&self.status))?;
            for card in &self.cards[1..] {
                http.listen_also(SocketAddr::from((card.ip, self.config.http_port)))?;
            }
            Some(http)
        } else {
            None
        };
        let (mut tftp, mut proxy, mut probes) = (Vec::new(), Vec::new(), Vec::new());
        for card in &self.cards {
            if self.plays(ServerRole::Tftp) {
                let settings = self.tftp_settings(card, loaders.clone());
                tftp.push(Tftp::bind(settings, Arc::clone(&self.status))?);
            }
            if self.plays(ServerRole::Dhcp) && self.config.dhcp == DhcpMode::Proxy {
                let settings = ProxySettings {
                    server: card.ip,
                    http_port: self.config.http_port,
                    nodes: Arc::clone(&self.config.nodes),
                };
                proxy.push(Proxy::bind(&card.name, settings, Arc::clone(&self.status))?);
            }
        }
        let dhcp = match self.dhcp_settings().filter(|_| self.plays(ServerRole::Dhcp)) {
            Some(settings) => Some(Dhcp::bind(settings, Arc::clone(&self.status))?),
            None => None,
        };
        if dhcp.is_some() || !proxy.is_empty() {
            for card in &self.cards {
                match rogue_watch::client_socket(&card.name) {
                    Ok(socket) => probes.push((card.clone(), socket)),
                    Err(error) => warn!(
                        interface = card.name,
                        %error,
                        "cannot detect other DHCP servers: UDP port 68 is unavailable"
                    ),
                }
            }
        }
        Ok(Bound { dhcp, proxy, probes, tftp, http })
    }

    /// What must be kept after the sockets are open: a seed on a low port opens its own a moment
    /// later. All others are open by then, those that look for other DHCP servers too.
    pub fn rights_to_keep(&self) -> Vec<Capability> {
        if self.plays(ServerRole::Seed) && self.config.seed_port < 1024 {
            vec![Capability::NetBindService]
        } else {
            Vec::new()
        }
    }

    /// Sets the roles to work; `follow` keeps the catalog live and shares the systems.
    pub fn start(
        &self,
        bound: Bound,
        follow: Option<impl Future<Output = ()> + Send + 'static>,
        shutdown: &CancellationToken,
    ) -> Roles {
        let mut roles = Roles { set: JoinSet::new(), status: Arc::clone(&self.status) };
        let names: Vec<&str> = self.cards.iter().map(|card| card.name.as_str()).collect();
        let names = humanize::list(&names);
        let (gives, tells) =
            if self.cards.len() == 1 { ("gives", "names") } else { ("give", "name") };
        let at_each_card = |show: &dyn Fn(&Card) -> String| -> String {
            self.cards.iter().map(show).collect::<Vec<_>>().join(", ")
        };
        if let (Some(dhcp), DhcpMode::Full(pool)) = (bound.dhcp, &self.config.dhcp) {
            let (first, last) = pool.range;
            let more = match self.config.subnets.len() {
                0 => String::new(),
                count => format!(", and {}", humanize::count(count, "more range")),
            };
            let detail = format!("{names} {gives} {first} - {last}{more}");
            roles.start("dhcp", detail, dhcp.run(shutdown.clone()));
        }
        for proxy in bound.proxy {
            let detail = format!("{names} {tells} boot files, {gives} no addresses");
            roles.start("dhcp", detail, proxy.run(shutdown.clone()));
        }
        for (card, socket) in bound.probes {
            let mode =
                if self.config.dhcp == DhcpMode::Proxy { OwnMode::Proxy } else { OwnMode::Full };
            roles.watch(card, socket, mode, shutdown);
        }
        for tftp in bound.tftp {
            let detail = at_each_card(&|card| format!("{}:{TFTP_PORT}/udp", card.ip));
            roles.start("tftp", detail, tftp.run(shutdown.clone()));
        }
        if let Some(http) = bound.http {
            let port = self.config.http_port;
            let url = |card: &Card| base_url(SocketAddr::from((card.ip, port))) + "/";
            let detail = at_each_card(&url);
            roles.start("http", detail, http.run(shutdown.clone()));
        }
        if let Some(follow) = follow {
            let (name, detail) = if self.plays(ServerRole::Seed) {
                let port = self.config.seed_port;
                ("seed", at_each_card(&|card| format!("{}:{port}/tcp", card.ip)))
            } else {
                ("publish", "the seed is a process of its own".to_owned())
            };
            roles.start(name, detail, async {
                follow.await;
                Ok(())
            });
        }
        roles
    }

    /// Puts an event into the table.
    pub fn tell(&self, event: StatusEvent) {
        self.status.lock().apply(event, SystemTime::now());
    }

    fn http_settings(
        &self,
        loaders: Loaders,
        invitations: mpsc::Sender<Invitation>,
    ) -> http::Settings {
        http::Settings {
            listen: self.http_address(),
            boot_dir: self.instance.lab.boot(),
            scripts: self.scripts(),
            seed_port: self.config.seed_port,
            loaders,
            invitations,
        }
    }

    fn tftp_settings(&self, card: &Card, loaders: Loaders) -> tftp::Settings {
        let behind_relays = self.config.nodes.networks.iter().copied();
        tftp::Settings {
            listen: SocketAddr::from((card.ip, TFTP_PORT)),
            networks: std::iter::once((card.ip, card.netmask)).chain(behind_relays).collect(),
            loaders,
            boot_dir: self.instance.lab.boot(),
            scripts: self.scripts(),
            http: SocketAddr::from((card.ip, self.config.http_port)),
        }
    }

    fn scripts(&self) -> Scripts {
        Scripts::new(&self.config.name, Arc::clone(&self.config.nodes))
    }

    /// Without loaders nothing boots from our own DHCP; where another one names other files, it can.
    fn loaders(&self) -> Result<Loaders, LoadersError> {
        let folders = loaders::loader_folders(&self.instance.lab);
        match Loaders::read(&folders.each_ref().map(PathBuf::as_path)) {
            Err(LoadersError::None(_)) if self.config.dhcp == DhcpMode::Off => {
                Ok(Loaders::default())
            }
            read => read,
        }
    }

    fn dhcp_settings(&self) -> Option<dhcp::Settings> {
        let networks = Network::all(&self.config, &self.cards);
        let leases = self.instance.lab.leases();
        let cards = self.cards.clone();
        (!networks.is_empty()).then_some(dhcp::Settings { cards, networks, leases })
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

    /// Looks for rogue DHCP servers.
    fn watch(
        &mut self,
        card: Card,
        socket: UdpSocket,
        mode: OwnMode,
        shutdown: &CancellationToken,
    ) {
        let status = Arc::clone(&self.status);
        let watch = rogue_watch::watch(socket, card.name, card.ip, mode, status, shutdown.clone());
        self.set.spawn(async move { ("the search for other DHCP servers", watch.await) });
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
                "{name} has stopped working: {why}; `bt-server stop` and `bt-server start` restart it"
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
