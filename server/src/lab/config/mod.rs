//! Core: the text of `server.toml` -> [`Config`].
//!
//! Every key is documented in `docs/supervisor/server.md`. Unknown keys are refused with their line:
//! a misspelt key must be found when it is written, not when a room of PCs waits. `dhcp.rs` has the
//! addresses, `nodes.rs` rooms and single PCs, `values.rs` how a value is written.

mod dhcp;
pub mod dhcp_options;
mod nodes;
mod values;

use std::sync::Arc;
use std::time::Duration;

use bt_catalog::{line_of_text, position};
use serde::Deserialize;
use toml::Spanned;

use dhcp::RawDhcp;
pub use dhcp::{DhcpMode, NetworkOf, Pool, Subnet};
pub use nodes::{Host, Identity, Loader, NodeSettings, Nodes, Overrides, Preset, Room};
use nodes::{RawHost, RawNode, RawRoom};
use values::{At, LONGEST_TIMEOUT, RawPort, SHORTEST_TIMEOUT, duration, port};
pub use values::{NamedSystem, Place};

/// The default port of HTTP: boot files, catalog, tracker.
pub const HTTP_PORT: u16 = 6969;
/// The default port of the seed.
pub const SEED_PORT: u16 = 6881;
/// IFNAMSIZ without its NUL (netdevice(7)).
const LONGEST_CARD: usize = 15;
/// More cards than a server has.
const MOST_CARDS: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(30);

/// A checked `server.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The lab's name, as the picker shows it.
    pub name: String,
    /// The network interface that the PCs are connected to; the first, where there are several.
    pub interface: String,
    /// The other network cards.
    pub more_interfaces: Vec<String>,
    /// Who gives the addresses.
    pub dhcp: DhcpMode,
    /// Networks behind relays and of further cards; none overlaps another.
    pub subnets: Vec<Subnet>,
    /// Port of boot files, catalog and tracker.
    pub http_port: u16,
    /// Port of the seed.
    pub seed_port: u16,
    /// What starts by itself.
    pub menu: MenuConfig,
    /// More words for the kernel of every node; [`Config::node`] has all that one node gets.
    pub node_cmdline: String,
    /// Rooms, single PCs, and what holds for all others; shared by the roles.
    pub nodes: Arc<Nodes>,
}

/// The countdown of the picker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MenuConfig {
    /// The system that starts by itself.
    pub default: Option<NamedSystem>,
    /// The countdown to it.
    pub timeout: Duration,
}

impl NamedSystem {
    fn read(raw: &Spanned<String>, text: &str) -> At<Self> {
        let at = raw.span().start;
        let id = raw.as_ref().parse().map_err(|cause| (at, cause))?;
        let (line, column) = position(text, at);
        Ok(Self { id, place: Place { line, column } })
    }
}

/// Why `server.toml` was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {cause}", place.line, place.column)]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// What is wrong and what would be right.
    pub cause: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    name: Option<Spanned<String>>,
    interface: Option<Spanned<toml::Value>>,
    dhcp: Option<Spanned<RawDhcp>>,
    http: Option<RawPort>,
    seed: Option<RawPort>,
    menu: Option<RawMenu>,
    node: Option<RawNode>,
    #[serde(default)]
    room: Vec<Spanned<RawRoom>>,
    #[serde(default)]
    host: Vec<Spanned<RawHost>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMenu {
    default: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
}

impl Config {
    /// Reads `server.toml`.
    ///
    /// # Errors
    /// The first mistake, with its line and column.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let error = |(at, cause): (usize, String)| {
            let (line, column) = position(text, at);
            ConfigError { place: Place { line, column }, cause }
        };
        let raw: RawConfig = toml::from_str(text).map_err(|e| {
            error((e.span().map_or(0, |s| s.start), e.message().trim().replace('\n', "; ")))
        })?;
        raw.check(text).map_err(error)
    }

    /// Every network card that PCs are reached through, the first one first.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.interface).chain(&self.more_interfaces).map(String::as_str)
    }

    /// What this PC is told: its host entry before its room before the defaults.
    pub fn node(&self, who: &Identity) -> NodeSettings {
        self.nodes.settings(who)
    }

    /// Every system that is named somewhere, to be looked up in the catalog.
    pub fn systems(&self) -> impl Iterator<Item = &NamedSystem> {
        self.menu.default.iter().chain(self.nodes.systems())
    }

    /// The keys that need a restart and differ between the two, for the supervisor.
    pub fn needs_restart(&self, running: &Self) -> Vec<&'static str> {
        let is_other_dhcp = self.dhcp != running.dhcp
            || self.subnets != running.subnets
            || self.nodes.networks != running.nodes.networks;
        let keys = [
            ("interface", !self.interfaces().eq(running.interfaces())),
            ("[dhcp]", is_other_dhcp),
            ("[http] port", self.http_port != running.http_port),
            ("[seed] port", self.seed_port != running.seed_port),
            ("[node]", self.nodes.defaults != running.nodes.defaults),
            ("[[room]]", self.nodes.rooms != running.nodes.rooms),
            ("[[host]]", self.nodes.hosts != running.nodes.hosts),
        ];
        keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

impl RawConfig {
    fn check(self, text: &str) -> At<Config> {
        let name = match &self.name {
            Some(name) => line_of_text(name, "name", 60)?,
            None => "Computer lab".to_owned(),
        };
        let Some(raw) = &self.interface else { return Err((0, NO_INTERFACE.to_owned())) };
        let mut interfaces = interfaces(raw)?;
        let more_interfaces = interfaces.split_off(1);
        let interface = interfaces.pop().expect("one is left");
        let dhcp = dhcp::dhcp(self.dhcp, !more_interfaces.is_empty())?;
        let nodes = nodes::nodes(self.node, self.room, self.host, dhcp.networks, text)?;
        let http_port = port(&self.http, HTTP_PORT)?;
        let seed_port = port(&self.seed, SEED_PORT)?;
        if http_port == seed_port {
            // One of the two is written: the defaults differ.
            let written = [&self.seed, &self.http].into_iter().flatten().find_map(|raw| raw.at());
            let cause = format!(
                "port {seed_port} is set for both [http] and [seed]; they need different ports"
            );
            return Err((written.unwrap_or(0), cause));
        }
        Ok(Config {
            name,
            interface,
            more_interfaces,
            dhcp: dhcp.mode,
            subnets: dhcp.subnets,
            http_port,
            seed_port,
            menu: menu(self.menu, text)?,
            node_cmdline: nodes.defaults.cmdline.clone(),
            nodes: Arc::new(nodes),
        })
    }
}

const NO_INTERFACE: &str = "the network interface that the PCs are connected to is missing: write \
                            `interface = \"eno1\"`; `ip -brief address` lists the interfaces";

/// `"eno1"`, or `["eno1", "eno2"]`; at least one.
fn interfaces(raw: &Spanned<toml::Value>) -> At<Vec<String>> {
    let wrong = |cause: String| Err((raw.span().start, cause));
    let names: Option<Vec<&str>> = match raw.as_ref() {
        toml::Value::Array(names) => names.iter().map(toml::Value::as_str).collect(),
        name => name.as_str().map(|name| vec![name]),
    };
    let Some(names) = names else {
        return wrong(
            "write the network interface's name, \"eno1\", or several: [\"eno1\", \"eno2\"]".into(),
        );
    };
    let mut found: Vec<String> = Vec::new();
    for name in names.into_iter().map(str::trim) {
        let is_fit = |c: char| c.is_ascii_graphic() && c != '/';
        if !(1..=LONGEST_CARD).contains(&name.len()) || !name.chars().all(is_fit) {
            return wrong(format!(
                "`interface`: {name:?} is not a network interface; `ip -brief address` lists them"
            ));
        }
        if found.iter().any(|known| known == name) {
            return wrong(format!("`interface` has {name} twice"));
        }
        found.push(name.to_owned());
    }
    if found.is_empty() || found.len() > MOST_CARDS {
        let count = found.len();
        return wrong(format!(
            "`interface` has {count} interfaces; 1 to {MOST_CARDS} are possible"
        ));
    }
    Ok(found)
}

fn menu(raw: Option<RawMenu>, text: &str) -> At<MenuConfig> {
    let Some(raw) = raw else { return Ok(MenuConfig { default: None, timeout: TIMEOUT }) };
    let timeout = match &raw.timeout {
        Some(text) => duration(text, "timeout", SHORTEST_TIMEOUT, LONGEST_TIMEOUT)?,
        None => TIMEOUT,
    };
    let default = raw.default.as_ref().map(|raw| NamedSystem::read(raw, text)).transpose()?;
    Ok(MenuConfig { default, timeout })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const SMALL: &str =
        "interface = \"eth0\"\n[dhcp]\nmode = \"full\"\nrange = \"10.77.0.50-10.77.0.150\"\n";

    fn refused(text: &str, line: usize, part: &str) {
        let error = Config::parse(text).expect_err("must be refused");
        assert_eq!(error.place.line, line, "{error}");
        assert!(error.cause.contains(part), "{error}");
    }

    #[test]
    fn a_small_file_has_sensible_defaults() {
        let config = Config::parse("interface = \"eth0\"\n").expect("valid");
        assert_eq!((config.http_port, config.seed_port), (HTTP_PORT, SEED_PORT));
        assert_eq!(config.name, "Computer lab");
        assert_eq!(config.dhcp, DhcpMode::Proxy, "it disturbs no other DHCP server");
        let config = Config::parse(SMALL).expect("valid");
        let DhcpMode::Full(pool) = config.dhcp else { panic!("full mode was asked for") };
        assert_eq!(pool.range.0, Ipv4Addr::new(10, 77, 0, 50));
        assert_eq!(pool.lease, Duration::from_hours(1));
    }

    #[test]
    fn every_key_is_read() {
        let text = "name = \"Lab A1\"\ninterface = \"br0\"\n[dhcp]\nmode = \"full\"\n\
            range = \"10.0.0.5 - 10.0.0.9\"\nlease = \"12h\"\nrouter = \"10.0.0.1\"\n\
            dns = [\"10.0.0.1\", \"9.9.9.9\"]\ndomain = \"lab.example\"\n[http]\nport = 80\n\
            [seed]\nport = 7000\n[menu]\ndefault = \"debian\"\ntimeout = \"2m\"\n\
            [node]\ncmdline = \" console=ttyS0  bt.shell \"\n[dhcp.options]\n\
            interface-mtu = 1400\n224 = \"x\"\n";
        let config = Config::parse(text).expect("valid");
        let DhcpMode::Full(pool) = &config.dhcp else { panic!("full mode") };
        assert_eq!((pool.dns.len(), pool.lease), (2, Duration::from_hours(12)));
        assert_eq!(pool.options.iter().map(|o| o.code).collect::<Vec<_>>(), [26, 224]);
        assert_eq!((config.http_port, config.seed_port), (80, 7000));
        assert_eq!(config.menu.timeout, Duration::from_secs(120));
        let default = config.menu.default.clone().expect("set");
        assert_eq!(default.place, Place { line: 15, column: 11 });
        assert_eq!(config.node(&Identity::default()).words(), "console=ttyS0 bt.shell");
    }

    #[test]
    fn mistakes_are_found_where_they_stand() {
        refused("", 1, "write `interface = ");
        refused(&format!("{SMALL}[seed]\nport = 6969\n"), 6, "need different ports");
        refused(&format!("{SMALL}[http]\nport = 6881\n"), 6, "need different ports");
        refused("interface = \"eth0\"\n[dhcp]\nmode = \"full\"\n", 2, "DHCP range is missing");
        refused("interface = \"eth0\"\n[dhcp]\nmode = \"of\"\n", 3, "write \"proxy\"");
        let no_mode = "interface = \"eth0\"\n[dhcp]\nrange = \"10.0.0.5-10.0.0.9\"\n";
        refused(no_mode, 3, "mode = \"full\"");
        refused(&format!("nam = \"x\"\n{SMALL}"), 1, "unknown field `nam`");
        for (line, part) in [
            ("lease = \"soon\"", "not a duration"),
            ("lease = \"99999999999999999999d\"", "not a duration"),
            ("lease = \"1s\"", "60 to"),
            ("router = \"10.0.0\"", "not an IPv4 address"),
            ("dns = [\"10.0.0\"]", "not an IPv4 address"),
            ("options.53 = 5", "cannot be set here"),
            ("options.interface-mtu = \"x\"", "without quotes"),
        ] {
            refused(&format!("{SMALL}{line}\n"), 5, part);
        }
        refused(&format!("{SMALL}[http]\nport = 70000\n"), 6, "not a port");
        refused(&format!("{SMALL}[menu]\ndefault = \"Big OS\"\n"), 6, "not a valid system id");
        let words = "[node]\ncmdline = \"a ${b}\"\n";
        refused(&format!("{SMALL}{words}"), 6, "does not pass through iPXE");
        refused(
            "interface = \"eth0\"\n[dhcp]\nrange = \"10.0.0.9-10.0.0.1\"\n",
            3,
            "after its end",
        );
        refused("interface = \"eth0\"\n[dhcp]\nrange = \"10.0.0.9\"\n", 3, "not a range");
        refused("interface = \"eth0\n", 1, "");
    }

    #[test]
    fn several_cards_stand_in_a_list() {
        let all = |value: &str| {
            let config = Config::parse(&format!("interface = {value}\n"))?;
            Ok::<_, ConfigError>(config.interfaces().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(all("\" eno1 \"").expect("valid"), "eno1");
        assert_eq!(all("[\"eno1\", \"eno2\"]").expect("valid"), "eno1 eno2");
        refused("interface = []\n", 1, "0 interfaces");
        refused("interface = [\"eno1\", \"eno1\"]\n", 1, "twice");
        refused("interface = [\"eno1\", 2]\n", 1, "several");
        refused("interface = \"\"\n", 1, "not a network interface");
        refused("interface = \"a/b\"\n", 1, "not a network interface");
    }

    #[test]
    fn what_needs_a_restart_is_told_apart() {
        let running = Config::parse(SMALL).expect("valid");
        let renamed = Config::parse(&format!("name = \"B2\"\n{SMALL}")).expect("valid");
        assert!(renamed.needs_restart(&running).is_empty());
        let moved = Config::parse(&format!("{SMALL}[http]\nport = 80\n")).expect("valid");
        assert_eq!(moved.needs_restart(&running), ["[http] port"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,300}") {
            let _refused_or_not = Config::parse(&text);
        }
    }
}
