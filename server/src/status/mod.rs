//! Core: what happens in the lab, as one table.
//!
//! The roles tell events (an address given, a file fetched, a node's report); [`StatusBook`] turns
//! them into one row per node, keyed by hardware address, and keeps the last problems. Its
//! [`Snapshot`] is what `bt-server status`, `/status.json` and the supervisor's page show. The
//! book never forgets a limit: anybody on the network can cause events.

pub mod log_rate_limit;
pub mod report;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bt_catalog::version::{Program, Readable};
use bt_catalog::{Mac, paths};
use serde::{Deserialize, Serialize};

use self::report::{NodeReport, Stage, printable};
use crate::mac::is_doctor;
use crate::role::ServerRole;

/// Nodes remembered: far more than a lab has, little enough to list. The longest silent goes first.
pub const MAX_NODES: usize = 1024;
/// Problems remembered: the newest; the log has them all.
pub const MAX_PROBLEMS: usize = 20;

/// The versions of [`Snapshot`] that are read; the newest is written. A key that is added does not
/// raise it: who does not know it passes over it, and who misses it takes the default.
pub const SNAPSHOT: Readable =
    Readable { oldest: 0, newest: 1, reader: Program::Server, writer: Program::Server };

/// The one book, shared by all roles; it is locked only for the length of one event.
pub type SharedStatus = Arc<parking_lot::Mutex<StatusBook>>;

/// Something that happened. Roles send these through [`StatusBook::apply`].
#[derive(Debug, Clone)]
pub enum StatusEvent {
    /// DHCP gave or renewed an address.
    Leased {
        /// Who got it.
        mac: Mac,
        /// What it got.
        ip: Ipv4Addr,
        /// Client architecture (RFC 4578 §2.1), when it is firmware that asked.
        arch: Option<u16>,
        /// The name it said it has (option 12).
        host: Option<String>,
    },
    /// A boot file went out over TFTP.
    Tftp {
        /// Who fetched it.
        ip: IpAddr,
        /// Its name.
        name: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A file went out over HTTP.
    Http {
        /// Who fetched it.
        ip: IpAddr,
        /// The path of the URL.
        path: String,
        /// Bytes of the answer's body.
        bytes: u64,
    },
    /// A node reported where it is.
    Report {
        /// Where the report came from.
        ip: IpAddr,
        /// What it says.
        report: NodeReport,
    },
    /// A role started, or its state changed.
    Role {
        /// `dhcp`, `tftp`, `http` or `seed`.
        name: &'static str,
        /// Where it listens or what it does, in a few words.
        detail: String,
        /// False when it had to stop; the reason is among the problems.
        is_up: bool,
    },
    /// A new catalog is live.
    Published(CatalogStatus),
    /// How much of each system the seed has sent, and to how many peers.
    Seeding(Vec<SystemStatus>),
    /// An edit of the lab could not be used: the old catalog stays. `None`: the lab is good again.
    EditRefused(Option<String>),
    /// Something the supervisor should know.
    Warning {
        /// What, why, and what to do.
        text: String,
    },
}

/// The catalog that is live now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CatalogStatus {
    /// Its growing number; 0 before the first one.
    pub version: u64,
    /// When it was signed, in seconds since 1970.
    pub issued: u64,
    /// When nodes stop to accept it, in seconds since 1970.
    pub expires: u64,
}

/// One system that is offered now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SystemStatus {
    /// The stem of its catalog file.
    pub id: String,
    /// The name students see.
    pub name: String,
    /// All its bytes.
    pub total: u64,
    /// SHA-1 of the torrent's info part, in hex.
    pub infohash: String,
    /// Peers connected to the seed now.
    pub peers: usize,
    /// Bytes that the seed has sent since the server started.
    pub uploaded: u64,
}

/// One of the server's roles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleStatus {
    /// `dhcp`, `tftp`, `http` or `seed`.
    pub name: String,
    /// Where it listens or what it does.
    pub detail: String,
    /// Whether it works now.
    pub is_up: bool,
}

/// One node, as far as the server has seen it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// `52:54:00:12:34:56`, or the IP address of a node that never said its hardware address.
    pub mac: String,
    /// Its address now.
    pub ip: Option<IpAddr>,
    /// Its name, from the lab or from its own DHCP request.
    pub name: Option<String>,
    /// `bios`, `uefi`, or the number of a rarer architecture.
    pub firmware: Option<String>,
    /// The last step it was seen at.
    pub stage: Stage,
    /// The system it chose.
    pub system: Option<String>,
    /// Bytes it has.
    pub done: u64,
    /// Bytes of the whole system, 0 before it chose one.
    pub total: u64,
    /// Bytes per second that come in.
    pub speed: u64,
    /// Peers that it is connected to.
    pub peers: u32,
    /// What its screen says went wrong.
    pub problem: Option<String>,
    /// Bytes of boot files it fetched from this server (TFTP and HTTP), since its last power-on.
    pub fetched: u64,
    /// When it was last heard of, in seconds since 1970.
    pub seen: u64,
}

/// Something that went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProblemStatus {
    /// When, in seconds since 1970.
    pub at: u64,
    /// What, why, and what to do.
    pub text: String,
    /// How often in a row.
    pub count: u32,
}

/// Everything at one moment, ready to print or to send.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The version of this format that a reader needs; see [`SNAPSHOT`].
    #[serde(default)]
    pub format: u32,
    /// The lab's name, as in `server.toml`.
    #[serde(default)]
    pub lab: String,
    /// Version of bt-server.
    #[serde(default)]
    pub server: String,
    /// Process id of the server.
    pub pid: u32,
    /// When the server started, in seconds since 1970.
    #[serde(default)]
    pub started: u64,
    /// When this snapshot was taken, in seconds since 1970.
    #[serde(default)]
    pub now: u64,
    /// The server's roles.
    #[serde(default)]
    pub roles: Vec<RoleStatus>,
    /// The live catalog.
    #[serde(default)]
    pub catalog: CatalogStatus,
    /// Why the newest edit of the lab is not live, if it is not.
    #[serde(default)]
    pub edit_refused: Option<String>,
    /// Systems on offer, in the menu's order.
    #[serde(default)]
    pub systems: Vec<SystemStatus>,
    /// Nodes by hardware address.
    #[serde(default)]
    pub nodes: Vec<NodeStatus>,
    /// The last problems, newest first.
    #[serde(default)]
    pub problems: Vec<ProblemStatus>,
}

/// See the module.
#[derive(Debug)]
pub struct StatusBook {
    lab: String,
    pid: u32,
    started: SystemTime,
    /// The server's own addresses: what is fetched from there is for the doctor, not for a PC.
    own: Vec<IpAddr>,
    roles: Vec<RoleStatus>,
    catalog: CatalogStatus,
    edit_refused: Option<String>,
    systems: Vec<SystemStatus>,
    nodes: BTreeMap<String, NodeStatus>,
    problems: VecDeque<ProblemStatus>,
    /// The programs that have been said to need an update; each at most once.
    mismatches: Vec<Program>,
}

impl StatusBook {
    /// An empty book of the lab called `lab`, served by process `pid` since `started`.
    pub fn new(lab: &str, pid: u32, started: SystemTime) -> Self {
        Self {
            lab: lab.to_owned(),
            pid,
            started,
            own: Vec::new(),
            roles: Vec::new(),
            catalog: CatalogStatus::default(),
            edit_refused: None,
            systems: Vec::new(),
            nodes: BTreeMap::new(),
            problems: VecDeque::new(),
            mismatches: Vec::new(),
        }
    }

    /// The same book for a server with the addresses `own`. The machine's inner ones do not count.
    #[must_use]
    pub fn of_server(mut self, own: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        self.own = own.into_iter().filter(|ip| !ip.is_loopback()).map(IpAddr::V4).collect();
        self
    }

    /// Takes one event that happened at `now`.
    pub fn apply(&mut self, event: StatusEvent, now: SystemTime) {
        match event {
            StatusEvent::Leased { mac, .. } if is_doctor(mac) => {}
            StatusEvent::Leased { mac, ip, arch, host } => self.leased(mac, ip, arch, host, now),
            StatusEvent::Tftp { ip, bytes, .. } => self.fetched(ip, Stage::Loader, bytes, now),
            StatusEvent::Http { ip, path, bytes } => {
                if let Some(stage) = stage_of_path(&path) {
                    self.fetched(ip, stage, bytes, now);
                }
            }
            StatusEvent::Report { ip, report } => self.reported(ip, report, now),
            StatusEvent::Role { name, detail, is_up } => self.role(name, detail, is_up),
            StatusEvent::Published(catalog) => self.catalog = catalog,
            StatusEvent::Seeding(systems) => self.systems = systems,
            StatusEvent::EditRefused(reason) => self.edit_refused = reason,
            StatusEvent::Warning { text } => self.warn(text, now),
        }
    }

    /// Everything as it is at `now`.
    pub fn snapshot(&self, now: SystemTime) -> Snapshot {
        Snapshot {
            format: SNAPSHOT.newest,
            lab: self.lab.clone(),
            server: env!("CARGO_PKG_VERSION").to_owned(),
            pid: self.pid,
            started: unix(self.started),
            now: unix(now),
            roles: self.roles_in_order(),
            catalog: self.catalog.clone(),
            edit_refused: self.edit_refused.clone(),
            systems: self.systems.clone(),
            nodes: self.nodes.values().cloned().collect(),
            problems: self.problems.iter().rev().cloned().collect(),
        }
    }

    fn leased(
        &mut self,
        mac: Mac,
        ip: Ipv4Addr,
        arch: Option<u16>,
        host: Option<String>,
        now: SystemTime,
    ) {
        // A request with an architecture comes from firmware or iPXE: the node was just switched on.
        let node = self.node(&mac.to_string(), IpAddr::V4(ip), now);
        if let Some(arch) = arch {
            node.firmware = Some(firmware(arch));
            if node.stage > Stage::Loader {
                *node = NodeStatus { name: node.name.take(), ..fresh(node) };
            }
        }
        if let Some(host) = host.map(|h| printable(&h)).filter(|h| !h.is_empty()) {
            node.name.get_or_insert(host);
        }
    }

    fn fetched(&mut self, ip: IpAddr, stage: Stage, bytes: u64, now: SystemTime) {
        if self.own.contains(&ip) {
            return;
        }
        let key = self.key_of(ip);
        let node = self.node(&key, ip, now);
        node.fetched = node.fetched.saturating_add(bytes);
        // A node in the menu reads the catalog again from time to time: that is no step back.
        if stage > node.stage || stage < Stage::Catalog {
            node.stage = stage;
        }
    }

    fn reported(&mut self, ip: IpAddr, report: NodeReport, now: SystemTime) {
        let mac = report.mac.to_string();
        // Until now it may have been known by its IP address only.
        if let Some(stranger) = self.nodes.remove(&ip.to_string()) {
            self.nodes.entry(mac.clone()).or_insert(NodeStatus { mac: mac.clone(), ..stranger });
        }
        let node = self.node(&mac, ip, now);
        if report.name.is_some() {
            node.name.clone_from(&report.name);
        }
        let is_new_problem = report.problem.is_some() && node.problem != report.problem;
        // A stage that only newer boot files know leaves the last one standing.
        node.stage = report.stage.map_or(node.stage, Stage::from);
        node.system.clone_from(&report.system);
        node.done = report.done;
        node.total = report.total;
        node.speed = report.speed;
        node.peers = report.peers;
        node.problem.clone_from(&report.problem);
        let who = node.name.clone().unwrap_or(mac);
        if is_new_problem {
            let what = node.problem.clone().unwrap_or_default();
            self.warn(format!("PC {who} ({ip}): {what}"), now);
        }
        // Each is said once: a room boots the same files, and each PC reports every two seconds. What
        // a PC says of its version does not count, or one could push all other problems out.
        if let Some((update, mismatch)) = report.mismatch()
            && !self.mismatches.contains(&update)
        {
            self.warn(format!("PC {who} ({ip}): {mismatch}"), now);
            self.mismatches.push(update);
        }
    }

    fn role(&mut self, name: &str, detail: String, is_up: bool) {
        match self.roles.iter_mut().find(|role| role.name == name) {
            Some(role) => {
                role.detail = detail;
                role.is_up = is_up;
            }
            None => self.roles.push(RoleStatus { name: name.to_owned(), detail, is_up }),
        }
    }

    /// In the order of a boot, whatever started first; what else there is comes last.
    fn roles_in_order(&self) -> Vec<RoleStatus> {
        let mut roles = self.roles.clone();
        roles.sort_by_key(|role| {
            let at = ServerRole::ALL.iter().position(|it| it.name() == role.name);
            at.unwrap_or(ServerRole::ALL.len())
        });
        roles
    }

    fn warn(&mut self, text: String, now: SystemTime) {
        let at = unix(now);
        match self.problems.back_mut() {
            Some(last) if last.text == text => {
                last.at = at;
                last.count = last.count.saturating_add(1);
            }
            _ => self.problems.push_back(ProblemStatus { at, text, count: 1 }),
        }
        if self.problems.len() > MAX_PROBLEMS {
            self.problems.pop_front();
        }
    }

    /// The row's key for whoever has this address: its hardware address where that is known.
    fn key_of(&self, ip: IpAddr) -> String {
        let newest = self.nodes.values().filter(|n| n.ip == Some(ip)).max_by_key(|n| n.seen);
        newest.map_or_else(|| ip.to_string(), |node| node.mac.clone())
    }

    /// Forgets those that were not seen for longest: some at once, since to look for each alone would
    /// double what its lease costs.
    fn forget_silent(&mut self) {
        let mut by_seen: Vec<_> =
            self.nodes.values().map(|node| (node.seen, node.mac.clone())).collect();
        by_seen.sort_unstable();
        by_seen.iter().take(MAX_NODES / 16).for_each(|(_, key)| drop(self.nodes.remove(key)));
    }

    /// The row of `key`, made if it is new, marked as seen at `now` with address `ip`.
    fn node(&mut self, key: &str, ip: IpAddr, now: SystemTime) -> &mut NodeStatus {
        if !self.nodes.contains_key(key) && self.nodes.len() >= MAX_NODES {
            self.forget_silent();
        }
        let node = self.nodes.entry(key.to_owned()).or_insert_with(|| NodeStatus {
            mac: key.to_owned(),
            ip: None,
            name: None,
            firmware: None,
            stage: Stage::Address,
            system: None,
            done: 0,
            total: 0,
            speed: 0,
            peers: 0,
            problem: None,
            fetched: 0,
            seen: 0,
        });
        node.ip = Some(ip);
        node.seen = unix(now);
        node
    }
}

/// The same node just after its power-on: all that its last boot left is gone.
fn fresh(node: &NodeStatus) -> NodeStatus {
    NodeStatus {
        mac: node.mac.clone(),
        ip: node.ip,
        name: None,
        firmware: node.firmware.clone(),
        stage: Stage::Address,
        system: None,
        done: 0,
        total: 0,
        speed: 0,
        peers: 0,
        problem: None,
        fetched: 0,
        seen: node.seen,
    }
}

/// Which step of a boot a fetched URL path shows; `None` for paths that any browser fetches.
fn stage_of_path(path: &str) -> Option<Stage> {
    match path {
        paths::SCRIPT | "/autoexec.ipxe" => Some(Stage::Loader),
        paths::CATALOG => Some(Stage::Catalog),
        path if path.starts_with(paths::BOOT_FOLDER) => Some(Stage::Kernel),
        _ => None,
    }
}

/// Name of a client architecture (RFC 4578 §2.1 and the IANA registry that continues it).
fn firmware(arch: u16) -> String {
    match arch {
        0 => "bios".to_owned(),
        6 | 7 | 9 | 15 | 16 => "uefi".to_owned(),
        other => format!("arch {other}"),
    }
}

/// Seconds since 1970; 0 for a clock before that.
pub fn unix(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn book_after(events: Vec<StatusEvent>) -> Snapshot {
        let mut book = StatusBook::new("A1", 7, at(1));
        for (index, event) in (1_u64..).zip(events) {
            book.apply(event, at(index));
        }
        book.snapshot(at(100))
    }

    fn leased(arch: Option<u16>) -> StatusEvent {
        StatusEvent::Leased { mac: MAC, ip: IP, arch, host: None }
    }

    fn http(path: &str) -> StatusEvent {
        StatusEvent::Http { ip: IP.into(), path: path.to_owned(), bytes: 10 }
    }

    fn report(json: &str) -> StatusEvent {
        let report = NodeReport::parse(json.as_bytes()).expect("a good report");
        StatusEvent::Report { ip: IP.into(), report }
    }

    const DOWNLOADING: &str = r#"{"protocol":1,"mac":"52:54:00:12:34:56","stage":"downloading",
        "system":"debian","done":5,"total":9,"peers":3,"speed":100}"#;

    #[test]
    fn a_boot_is_one_row_that_moves_on() {
        let tftp =
            StatusEvent::Tftp { ip: IP.into(), name: "undionly.kpxe".to_owned(), bytes: 70_000 };
        let snapshot = book_after(vec![leased(Some(0)), tftp, http("/boot/vmlinuz")]);
        assert_eq!(snapshot.nodes.len(), 1);
        let node = &snapshot.nodes[0];
        assert_eq!((node.mac.as_str(), node.stage), ("52:54:00:12:34:56", Stage::Kernel));
        assert_eq!((node.firmware.as_deref(), node.fetched), (Some("bios"), 70_010));
        assert_eq!(node.seen, 3);
    }

    #[test]
    fn a_report_tells_system_and_progress() {
        let snapshot = book_after(vec![leased(Some(7)), report(DOWNLOADING)]);
        let node = &snapshot.nodes[0];
        assert_eq!((node.stage, node.done, node.total), (Stage::Downloading, 5, 9));
        assert_eq!(node.system.as_deref(), Some("debian"));
    }

    #[test]
    fn a_power_cycle_forgets_the_last_boot() {
        let snapshot = book_after(vec![leased(Some(7)), report(DOWNLOADING), leased(Some(7))]);
        let node = &snapshot.nodes[0];
        assert_eq!((node.stage, node.system.as_deref(), node.done), (Stage::Address, None, 0));
    }

    #[test]
    fn a_renewal_from_the_running_node_keeps_its_stage() {
        let snapshot = book_after(vec![leased(Some(7)), report(DOWNLOADING), leased(None)]);
        assert_eq!(snapshot.nodes[0].stage, Stage::Downloading);
    }

    #[test]
    fn a_node_known_by_address_only_becomes_known_by_its_report() {
        let snapshot = book_after(vec![http("/catalog.toml"), report(DOWNLOADING)]);
        assert_eq!(snapshot.nodes.len(), 1);
        assert_eq!(snapshot.nodes[0].mac, "52:54:00:12:34:56");
        assert_eq!(snapshot.nodes[0].fetched, 10);
    }

    #[test]
    fn the_doctor_is_no_node() {
        let mut book = StatusBook::new("A1", 7, at(1)).of_server([IP, Ipv4Addr::LOCALHOST]);
        let mac = crate::roles::dhcp::client::Client::doctor(
            crate::roles::dhcp::client::Firmware::Bios,
            1,
        )
        .mac
        .0;
        let ip = Ipv4Addr::new(10, 77, 0, 60);
        book.apply(StatusEvent::Leased { mac: Mac(mac), ip, arch: Some(0), host: None }, at(2));
        book.apply(http("/boot/vmlinuz"), at(3));
        let tftp = |ip| StatusEvent::Tftp { ip, name: "undionly.kpxe".to_owned(), bytes: 9 };
        book.apply(tftp(IP.into()), at(4));
        assert_eq!(book.snapshot(at(9)).nodes, []);
        book.apply(tftp(ip.into()), at(5));
        assert_eq!(book.snapshot(at(9)).nodes.len(), 1, "somebody else");
    }

    #[test]
    fn roles_are_shown_in_the_order_of_a_boot() {
        let role = |name| StatusEvent::Role { name, detail: String::new(), is_up: true };
        let snapshot = book_after(["seed", "publish", "http", "dhcp"].map(role).to_vec());
        let names: Vec<_> = snapshot.roles.iter().map(|role| role.name.as_str()).collect();
        assert_eq!(names, ["dhcp", "http", "seed", "publish"]);
    }

    #[test]
    fn a_browser_is_no_node() {
        assert!(book_after(vec![http("/"), http("/status.json")]).nodes.is_empty());
    }

    #[test]
    fn a_problem_of_a_node_is_listed_once_however_often_it_is_reported() {
        let json =
            r#"{"protocol":1,"mac":"52:54:00:12:34:56","stage":"problem","problem":"no memory"}"#;
        let snapshot = book_after(vec![report(json), report(json), report(json)]);
        assert_eq!(snapshot.problems.len(), 1);
        assert_eq!(snapshot.problems[0].text, "PC 52:54:00:12:34:56 (10.77.0.50): no memory");
    }

    #[test]
    fn the_book_has_limits() {
        let mut book = StatusBook::new("A1", 7, at(1));
        for index in 0..2 * MAX_NODES as u32 {
            let [a, b, c, d] = index.to_be_bytes();
            let ip = Ipv4Addr::new(10, b, c, d);
            let mac = [2, 0, a, b, c, d];
            book.apply(
                StatusEvent::Leased { mac: Mac(mac), ip, arch: None, host: None },
                at(u64::from(index)),
            );
            book.apply(StatusEvent::Warning { text: format!("{index}") }, at(1));
        }
        let snapshot = book.snapshot(at(9));
        assert_eq!((snapshot.nodes.len(), snapshot.problems.len()), (MAX_NODES, MAX_PROBLEMS));
        assert_eq!(snapshot.problems[0].text, format!("{}", 2 * MAX_NODES - 1));
    }

    #[test]
    fn a_stage_that_only_newer_boot_files_know_leaves_the_last_one_standing() {
        let newer = DOWNLOADING.replace("\"downloading\"", "\"prefetching\"");
        let snapshot = book_after(vec![report(DOWNLOADING), report(&newer)]);
        assert_eq!(snapshot.nodes[0].stage, Stage::Downloading);
    }

    #[test]
    fn older_boot_files_are_a_problem_that_is_said_once() {
        // The first boot files sent no protocol.
        let older = DOWNLOADING.replace("\"protocol\":1,", "");
        let snapshot = book_after(vec![report(&older), report(&older)]);
        let said = snapshot.problems.iter().filter(|problem| problem.text.contains("older"));
        let said: Vec<_> = said.collect();
        assert_eq!((said.len(), said[0].count), (1, 1), "{:?}", snapshot.problems);
        assert!(said[0].text.contains("bt-initramfs build --lab DIR"), "{}", said[0].text);
    }

    #[test]
    fn versions_that_a_pc_invents_push_no_other_problem_out() {
        let full = StatusEvent::Warning { text: "the disk is full".into() };
        let invented = (0..100).map(|n| {
            let protocol = if n % 2 == 0 { 0 } else { 9 };
            let head = format!("\"protocol\":{protocol},\"version\":\"0.{n}\",");
            report(&DOWNLOADING.replace("\"protocol\":1,", &head))
        });
        let snapshot = book_after(std::iter::once(full).chain(invented).collect());
        assert_eq!(snapshot.problems.len(), 3, "{:?}", snapshot.problems);
        assert!(snapshot.problems.iter().any(|problem| problem.text == "the disk is full"));
    }
}
