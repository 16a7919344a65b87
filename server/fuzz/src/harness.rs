//! Core: one function per kind of input from the network, for the fuzzer: bytes in, nothing out, and
//! a panic where something is wrong.
//!
//! Each goes as far as a stranger's bytes go: through the parser and through what answers. The
//! state that a server would have (leases, peers, nodes) is kept from one input to the next.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::Uri;

use bt_catalog::Mac;
use bt_server::boot::names::RequestedFile;
use bt_server::boot::scripts::Scripts;
use bt_server::lab::config::Config;
use bt_server::os::card::Card;
use bt_server::roles::dhcp::client::{Client, Firmware};
use bt_server::roles::dhcp::lease::{LeaseBook, Range};
use bt_server::roles::dhcp::relay_agent::Agent;
use bt_server::roles::dhcp::{
    Answer, ListenPort, Network, ProxySettings, Request, respond, respond_proxy,
};
use bt_server::roles::http::slashes::single_slashes;
use bt_server::roles::http::tracker::{Announce, Tracker};
use bt_server::roles::tftp::packet::{Packet, options_ack};
use bt_server::status::report::NodeReport;
use bt_server::status::{StatusBook, StatusEvent};

/// IP and UDP headers, which count for the longest message (RFC 2132 §9.10).
const HEADERS: usize = 28;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);
/// The virtual PC that looks for other servers; its replies must find it, so its numbers are fixed.
const CLIENT: Client = Client { firmware: Firmware::Uefi, mac: Mac([2, 0, 0, 0, 0, 1]), xid: 1 };
const CONFIG: &str = "interface = \"eth0\"\n[dhcp]\nmode = \"full\"\nrange = \"10.77.0.50-10.77.0.150\"\n\
    router = \"10.77.0.1\"\ndns = [\"10.77.0.1\"]\ndomain = \"lab.example\"\n\
    [[host]]\nmac = \"52:54:00:bb:00:01\"\nname = \"secure\"\nuefi_loader = \"shim-grub\"\ncmdline = \"a=b\"\n";

/// What the network can send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A packet to port 67 or 4011.
    Dhcp,
    /// A packet to port 69 or to a transfer's port.
    Tftp,
    /// The query of `/announce`.
    Announce,
    /// The body of `POST /report`.
    Report,
    /// The target of an HTTP request, the query of `/boot.ipxe`, and the name of GRUB's menu.
    Script,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Dhcp, Self::Tftp, Self::Announce, Self::Report, Self::Script];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::Tftp => "tftp",
            Self::Announce => "announce",
            Self::Report => "report",
            Self::Script => "script",
        }
    }
}

/// A server's memory, and the count of inputs that it has taken.
#[derive(Debug)]
pub struct Victim {
    book: LeaseBook,
    network: Network,
    proxy: ProxySettings,
    agent: Agent,
    tracker: Tracker,
    status: StatusBook,
    scripts: Scripts,
    now: SystemTime,
}

impl Default for Victim {
    fn default() -> Self {
        let config = Config::parse(CONFIG).expect("the text above is valid");
        let mask = Ipv4Addr::new(255, 255, 255, 0);
        let card = Card { name: "eth0".to_owned(), ip: SERVER, netmask: mask };
        let networks = Network::all(&config, &[card]);
        let (network, pool) = networks.into_iter().next().expect("full mode has a network");
        let range = Range::new(pool.range.0, pool.range.1).expect("a range that is not empty");
        let nodes = Arc::clone(&config.nodes);
        Self {
            book: LeaseBook::new(range, vec![SERVER], Duration::from_hours(1)),
            network,
            proxy: ProxySettings {
                server: SERVER,
                http_port: config.http_port,
                nodes: Arc::clone(&nodes),
            },
            agent: Agent::default(),
            tracker: Tracker::default(),
            status: StatusBook::new("fuzz", 1, SystemTime::UNIX_EPOCH),
            scripts: Scripts::new("fuzz", nodes),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        }
    }
}

impl Victim {
    /// Takes one input. Returns whether it was understood.
    ///
    /// # Panics
    /// Where the server has a fault: that is what the fuzzer looks for.
    pub fn take(&mut self, target: Target, input: &[u8]) -> bool {
        self.now += Duration::from_millis(7);
        match target {
            Target::Dhcp => self.dhcp(input),
            Target::Tftp => tftp(input),
            Target::Announce => self.announce(&String::from_utf8_lossy(input)),
            Target::Report => self.report(input),
            Target::Script => self.script(&String::from_utf8_lossy(input)),
        }
    }

    fn dhcp(&mut self, packet: &[u8]) -> bool {
        if packet.first() == Some(&2) {
            return self.reply_of_another_server(packet);
        }
        let Ok(request) = Request::parse(packet, SERVER) else { return false };
        if let Answer::Send(reply) = respond(&request, &mut self.book, &self.network, self.now) {
            // What a relay put in, it takes out before the node sees it (RFC 3046 §2.1).
            let relays = request.relay_info.as_ref().map_or(0, |info| info.len() + 2);
            let most = usize::from(request.max_message) - HEADERS + relays;
            assert!((300..=most).contains(&reply.bytes.len()), "{} bytes", reply.bytes.len());
            assert_eq!(reply.bytes[0], 2, "BOOTREPLY");
            assert_eq!(reply.bytes[4..8], request.xid.to_be_bytes());
        }
        for port in [ListenPort::Dhcp, ListenPort::Pxe(SocketAddrV4::new(NODE, 68))] {
            if let Some(reply) = respond_proxy(&request, &self.proxy, port) {
                assert_eq!(reply.bytes[16..20], [0; 4], "a proxy gives no address");
            }
        }
        if let Some(forwarded) = self.agent.forward(packet, &request, &self.proxy, self.now) {
            assert_eq!(forwarded.bytes[24..28], SERVER.octets(), "giaddr");
        }
        true
    }

    fn reply_of_another_server(&mut self, packet: &[u8]) -> bool {
        let is_ours = CLIENT.read(packet).is_some();
        let back = self.agent.back(packet, &self.proxy);
        if let Some((_, reply)) = &back {
            assert_eq!(reply.bytes[24..28], [0; 4], "the PC is no relay");
        }
        is_ours || back.is_some()
    }

    fn announce(&mut self, query: &str) -> bool {
        let Ok(announce) = Announce::parse(query) else { return false };
        let seed = SocketAddrV4::new(SERVER, 6881);
        let answer = self.tracker.announce(&announce, NODE, seed, self.now);
        assert!(answer.starts_with(b"d") && answer.ends_with(b"e"));
        true
    }

    fn report(&mut self, body: &[u8]) -> bool {
        let Ok(report) = NodeReport::parse(body) else { return false };
        assert!(report.done <= report.total);
        self.status.apply(StatusEvent::Report { ip: IpAddr::V4(NODE), report }, self.now);
        self.status.snapshot(self.now).nodes.len() < bt_server::status::MAX_NODES + 1
    }

    fn script(&self, query: &str) -> bool {
        if let Some(tidy) = query.parse::<Uri>().ok().and_then(|uri| single_slashes(&uri)) {
            assert!(!tidy.path().contains("//"), "{tidy}");
        }
        let http = SocketAddr::from((SERVER, 6969));
        let script = self.scripts.ipxe(http, Some(query), NODE);
        assert!(script.starts_with("#!ipxe\n"), "{script}");
        let menu = self.scripts.grub(http, query, NODE);
        menu.is_none_or(|menu| !menu.is_empty())
    }
}

fn tftp(packet: &[u8]) -> bool {
    match Packet::parse(packet) {
        Ok(Packet::Read(request)) => {
            let _: RequestedFile = RequestedFile::read(&request.name);
            let reply = options_ack(&request.options, u64::MAX);
            assert!(reply.len() <= 512, "{} bytes", reply.len());
            true
        }
        Ok(_) => true,
        Err(_) => false,
    }
}
