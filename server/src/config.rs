//! Core: the text of `server.toml` -> [`Config`].
//!
//! Every key is documented in `docs/supervisor/server.md`. Unknown keys are refused with their line:
//! a misspelt key must be found when it is written, not when a room of PCs waits.

use std::net::Ipv4Addr;
use std::time::Duration;

use bt_catalog::{SystemId, position};
use serde::Deserialize;
use toml::Spanned;

/// The default port of HTTP: boot files, catalog, tracker.
pub const HTTP_PORT: u16 = 6969;
/// The default port of the seed.
pub const SEED_PORT: u16 = 6881;
const LEASE: Duration = Duration::from_hours(1);
const TIMEOUT: Duration = Duration::from_secs(30);
/// RFC 2132 §9.2 gives 32 bits; a lab's addresses should come back within a month.
const LONGEST_LEASE: Duration = Duration::from_hours(31 * 24);
const LONGEST_TIMEOUT: Duration = Duration::from_hours(1);
/// The kernel takes 2048 (x86's COMMAND_LINE_SIZE); boot.ipxe puts in words of its own.
const LONGEST_CMDLINE: usize = 1000;

/// A checked `server.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The lab's name, as the picker shows it.
    pub name: String,
    /// The network card that the PCs are reached through.
    pub interface: String,
    /// Who gives the addresses.
    pub dhcp: DhcpMode,
    /// Port of boot files, catalog and tracker.
    pub http_port: u16,
    /// Port of the seed.
    pub seed_port: u16,
    /// What starts by itself.
    pub menu: MenuConfig,
    /// More words for the kernel command line of the small Linux on the nodes.
    pub node_cmdline: String,
}

/// Who gives the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DhcpMode {
    /// This server.
    Full(Pool),
    /// Another server, which names our boot files.
    Off,
}

/// The addresses to give and what goes with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// First and last address, in order.
    pub range: (Ipv4Addr, Ipv4Addr),
    /// How long an address is kept.
    pub lease: Duration,
    /// The way out of the network.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name.
    pub domain: Option<String>,
}

/// The countdown of the picker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MenuConfig {
    /// The system that starts by itself.
    pub default: Option<DefaultSystem>,
    /// The countdown to it.
    pub timeout: Duration,
}

/// The system of `[menu] default`. Whether it exists is known only with the catalog in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultSystem {
    /// Its id.
    pub id: SystemId,
    /// Where it stands in `server.toml`, for the message.
    pub place: Place,
}

/// A place in a file, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
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
    interface: Spanned<String>,
    dhcp: Option<Spanned<RawDhcp>>,
    http: Option<RawPort>,
    seed: Option<RawPort>,
    menu: Option<RawMenu>,
    node: Option<RawNode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDhcp {
    mode: Option<Spanned<String>>,
    range: Option<Spanned<String>>,
    lease: Option<Spanned<String>>,
    router: Option<Spanned<String>>,
    dns: Option<Vec<Spanned<String>>>,
    domain: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPort {
    port: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMenu {
    default: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    cmdline: Option<Spanned<String>>,
}

/// A mistake at a byte offset of the text.
type At<T> = Result<T, (usize, String)>;

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

    /// The keys that need a restart and differ between the two, for the supervisor.
    pub fn needs_restart(&self, running: &Self) -> Vec<&'static str> {
        let keys = [
            ("interface", self.interface != running.interface),
            ("[dhcp]", self.dhcp != running.dhcp),
            ("[http] port", self.http_port != running.http_port),
            ("[seed] port", self.seed_port != running.seed_port),
            ("[node] cmdline", self.node_cmdline != running.node_cmdline),
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
        let interface = line_of_text(&self.interface, "interface", 15)?;
        if interface.is_empty() {
            let cause = "`interface` is empty; `ip -brief address` lists the network cards";
            return Err((self.interface.span().start, cause.into()));
        }
        Ok(Config {
            name,
            interface,
            dhcp: match self.dhcp {
                Some(dhcp) => dhcp_mode(dhcp)?,
                None => return Err((0, NO_RANGE.into())),
            },
            http_port: port(self.http, HTTP_PORT)?,
            seed_port: port(self.seed, SEED_PORT)?,
            menu: menu(self.menu, text)?,
            node_cmdline: self.node.and_then(|n| n.cmdline).map_or(Ok(String::new()), cmdline)?,
        })
    }
}

const NO_RANGE: &str = "the addresses to give are missing: write `range = \"10.77.0.50-10.77.0.150\"` \
                        below `[dhcp]`, or `mode = \"off\"` where another DHCP server gives them";

fn dhcp_mode(raw: Spanned<RawDhcp>) -> At<DhcpMode> {
    let at = raw.span().start;
    let raw = raw.into_inner();
    match raw.mode.as_ref().map(|mode| (mode.as_ref().as_str(), mode.span().start)) {
        None | Some(("full", _)) => {}
        Some(("off", _)) => return Ok(DhcpMode::Off),
        Some(("proxy", at)) => {
            let cause = "mode \"proxy\" is not in this version; write \"full\" where this server gives \
                         the addresses, or \"off\"";
            return Err((at, cause.into()));
        }
        Some((other, at)) => {
            return Err((at, format!("mode `{other}` is not known; write \"full\" or \"off\"")));
        }
    }
    let range = match &raw.range {
        Some(text) => range(text)?,
        None => return Err((at, NO_RANGE.into())),
    };
    Ok(DhcpMode::Full(Pool {
        range,
        lease: match &raw.lease {
            Some(text) => duration(text, "lease", Duration::from_mins(1), LONGEST_LEASE)?,
            None => LEASE,
        },
        router: raw.router.as_ref().map(address).transpose()?,
        dns: raw.dns.iter().flatten().map(address).collect::<At<_>>()?,
        domain: raw.domain.as_ref().map(|d| line_of_text(d, "domain", 200)).transpose()?,
    }))
}

fn range(text: &Spanned<String>) -> At<(Ipv4Addr, Ipv4Addr)> {
    let wrong = |cause: String| Err((text.span().start, cause));
    let parts: Vec<&str> = text.as_ref().split('-').map(str::trim).collect();
    let [first, last] = parts[..] else {
        let text = text.as_ref();
        return wrong(format!("`{text}` is no range; write \"10.77.0.50-10.77.0.150\""));
    };
    match (first.parse::<Ipv4Addr>(), last.parse::<Ipv4Addr>()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        (Ok(first), Ok(last)) => {
            wrong(format!("the range begins at {first}, after its end {last}"))
        }
        (Err(_), _) => wrong(format!("`{first}` is no IPv4 address")),
        (_, Err(_)) => wrong(format!("`{last}` is no IPv4 address")),
    }
}

fn address(text: &Spanned<String>) -> At<Ipv4Addr> {
    let wrong = |_| (text.span().start, format!("`{}` is no IPv4 address", text.as_ref()));
    text.as_ref().trim().parse().map_err(wrong)
}

fn port(raw: Option<RawPort>, default: u16) -> At<u16> {
    let Some(port) = raw.and_then(|raw| raw.port) else { return Ok(default) };
    match u16::try_from(*port.as_ref()) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err((port.span().start, format!("`{}` is no port: 1 to 65535", port.as_ref()))),
    }
}

fn menu(raw: Option<RawMenu>, text: &str) -> At<MenuConfig> {
    let Some(raw) = raw else { return Ok(MenuConfig { default: None, timeout: TIMEOUT }) };
    let timeout = match &raw.timeout {
        Some(text) => duration(text, "timeout", Duration::from_secs(1), LONGEST_TIMEOUT)?,
        None => TIMEOUT,
    };
    let Some(default) = raw.default else { return Ok(MenuConfig { default: None, timeout }) };
    let at = default.span().start;
    let id = default.as_ref().parse().map_err(|cause| (at, cause))?;
    let (line, column) = position(text, at);
    Ok(MenuConfig { default: Some(DefaultSystem { id, place: Place { line, column } }), timeout })
}

/// `30s`, `10m`, `12h`, `2d`, within the limits.
fn duration(text: &Spanned<String>, key: &str, least: Duration, most: Duration) -> At<Duration> {
    let wrong = |cause: String| Err((text.span().start, cause));
    let trimmed = text.as_ref().trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let secs = match unit.trim() {
        "s" => Some(1),
        "m" | "min" => Some(60),
        "h" => Some(3600),
        "d" => Some(24 * 3600),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let Some(total) = number.zip(secs).and_then(|(number, secs)| number.checked_mul(secs)) else {
        return wrong(format!(
            "`{trimmed}` is no duration; write for example \"30s\", \"10m\" or \"2h\""
        ));
    };
    let total = Duration::from_secs(total);
    if total < least || total > most {
        let (least, most) = (least.as_secs(), most.as_secs());
        return wrong(format!("`{key}` is {trimmed}; {least} to {most} seconds are possible"));
    }
    Ok(total)
}

fn line_of_text(value: &Spanned<String>, key: &str, most: usize) -> At<String> {
    let text = value.as_ref().trim();
    let cause = if text.chars().any(char::is_control) {
        format!("`{key}` holds a line break or another control character")
    } else if text.chars().count() > most {
        format!("`{key}` has {} characters, {most} are the most", text.chars().count())
    } else {
        return Ok(text.to_owned());
    };
    Err((value.span().start, cause))
}

fn cmdline(value: Spanned<String>) -> At<String> {
    let text = value.as_ref().split_whitespace().collect::<Vec<_>>().join(" ");
    // The words go into an iPXE script, where `$`, `#` and quotes mean something.
    let is_fit = |c: char| c.is_ascii_graphic() && !"$#\"'\\`&|<>;".contains(c) || c == ' ';
    let cause = match text.chars().find(|c| !is_fit(*c)) {
        Some(c) => format!("`cmdline` holds {c:?}, which does not pass through iPXE to the kernel"),
        None if text.len() > LONGEST_CMDLINE => {
            format!("`cmdline` has {} characters, {LONGEST_CMDLINE} are the most", text.len())
        }
        None => return Ok(text),
    };
    Err((value.span().start, cause))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: &str = "interface = \"eth0\"\n[dhcp]\nrange = \"10.77.0.50-10.77.0.150\"\n";

    fn refused(text: &str, line: usize, part: &str) {
        let error = Config::parse(text).expect_err("must be refused");
        assert_eq!(error.place.line, line, "{error}");
        assert!(error.cause.contains(part), "{error}");
    }

    #[test]
    fn a_small_file_has_sensible_defaults() {
        let config = Config::parse(SMALL).expect("valid");
        assert_eq!((config.http_port, config.seed_port), (HTTP_PORT, SEED_PORT));
        assert_eq!(config.name, "Computer lab");
        let DhcpMode::Full(pool) = config.dhcp else { panic!("full mode is the default") };
        assert_eq!(pool.range.0, Ipv4Addr::new(10, 77, 0, 50));
        assert_eq!(pool.lease, LEASE);
    }

    #[test]
    fn every_key_is_read() {
        let text = "name = \"Lab A1\"\ninterface = \"br0\"\n[dhcp]\nmode = \"full\"\n\
            range = \"10.0.0.5 - 10.0.0.9\"\nlease = \"12h\"\nrouter = \"10.0.0.1\"\n\
            dns = [\"10.0.0.1\", \"9.9.9.9\"]\ndomain = \"lab.example\"\n[http]\nport = 80\n\
            [seed]\nport = 7000\n[menu]\ndefault = \"debian\"\ntimeout = \"2m\"\n\
            [node]\ncmdline = \" console=ttyS0  bt.shell \"\n";
        let config = Config::parse(text).expect("valid");
        let DhcpMode::Full(pool) = &config.dhcp else { panic!("full mode") };
        assert_eq!((pool.dns.len(), pool.lease), (2, Duration::from_hours(12)));
        assert_eq!((config.http_port, config.seed_port), (80, 7000));
        assert_eq!(config.menu.timeout, Duration::from_secs(120));
        assert_eq!(config.menu.default.expect("set").place, Place { line: 15, column: 11 });
        assert_eq!(config.node_cmdline, "console=ttyS0 bt.shell");
    }

    #[test]
    fn mistakes_are_found_where_they_stand() {
        refused("", 1, "missing field `interface`");
        refused("interface = \"eth0\"\n", 1, "mode = \"off\"");
        refused("interface = \"eth0\"\n[dhcp]\n", 2, "addresses to give are missing");
        refused(&format!("nam = \"x\"\n{SMALL}"), 1, "unknown field `nam`");
        refused(&format!("{SMALL}lease = \"soon\"\n"), 4, "no duration");
        refused(&format!("{SMALL}lease = \"99999999999999999999d\"\n"), 4, "no duration");
        refused(&format!("{SMALL}lease = \"1s\"\n"), 4, "60 to");
        refused(&format!("{SMALL}mode = \"proxy\"\n"), 4, "not in this version");
        refused(&format!("{SMALL}router = \"10.0.0\"\n"), 4, "no IPv4 address");
        refused(&format!("{SMALL}[http]\nport = 70000\n"), 5, "no port");
        refused(&format!("{SMALL}[menu]\ndefault = \"Big OS\"\n"), 5, "no system id");
        refused(
            &format!("{SMALL}[node]\ncmdline = \"a ${{b}}\"\n"),
            5,
            "does not pass through iPXE",
        );
        refused(
            "interface = \"eth0\"\n[dhcp]\nrange = \"10.0.0.9-10.0.0.5\"\n",
            3,
            "after its end",
        );
        refused("interface = \"eth0\"\n[dhcp]\nrange = \"10.0.0.9\"\n", 3, "no range");
        refused("interface = \"eth0\n", 1, "");
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
