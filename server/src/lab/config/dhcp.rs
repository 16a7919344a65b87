//! Core: `[dhcp]` and `[[dhcp.subnet]]`: who gives which addresses, and what goes with them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use bt_catalog::line_of_text;
use serde::Deserialize;
use toml::Spanned;

use super::values::{At, address, duration, network, range};
use crate::lab::config::dhcp_options::{self, ExtraOption};

const LEASE: Duration = Duration::from_hours(1);
const SHORTEST_LEASE: Duration = Duration::from_mins(1);
/// RFC 2132 §9.2 gives 32 bits; a lab's addresses should come back within a month.
const LONGEST_LEASE: Duration = Duration::from_hours(31 * 24);
/// Networks behind relays: far more than one server's rooms.
const MOST_SUBNETS: usize = 64;
/// Bytes of further options: with everything else they must fit one Ethernet frame.
const MOST_OPTION_BYTES: usize = 800;

/// Who gives the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DhcpMode {
    /// This server.
    Full(Pool),
    /// Another server; this one only names the boot files.
    Proxy,
    /// Another server, which names our boot files too.
    Off,
}

/// The addresses to give on one network and what goes with them.
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
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// What `[dhcp.options]` adds, by number.
    pub options: Vec<ExtraOption>,
}

/// The address of a network and its mask.
pub type NetworkOf = (Ipv4Addr, Ipv4Addr);

/// A network behind a relay, or that of a further network card, and its addresses to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// Its address.
    pub network: Ipv4Addr,
    /// Its mask.
    pub netmask: Ipv4Addr,
    /// Its addresses.
    pub pool: Pool,
}

impl Subnet {
    /// Whether `ip` belongs to it.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        is_in((self.network, self.netmask), ip)
    }
}

/// Whether `ip` belongs to this network.
pub(super) fn is_in((network, netmask): NetworkOf, ip: Ipv4Addr) -> bool {
    (ip.to_bits() ^ network.to_bits()) & netmask.to_bits() == 0
}

/// What `[dhcp]` says.
pub(super) struct Dhcp {
    pub(super) mode: DhcpMode,
    /// Those with addresses to give: all of them in full mode.
    pub(super) subnets: Vec<Subnet>,
    /// Every `[[dhcp.subnet]]`. Beside another server its network is all that it needs.
    pub(super) networks: Vec<NetworkOf>,
}

type RawOptions = BTreeMap<Spanned<String>, Spanned<toml::Value>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDhcp {
    mode: Option<Spanned<String>>,
    range: Option<Spanned<String>>,
    lease: Option<Spanned<String>>,
    router: Option<Spanned<String>>,
    dns: Option<Vec<Spanned<String>>>,
    domain: Option<Spanned<String>>,
    ntp: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    options: RawOptions,
    #[serde(default)]
    subnet: Vec<Spanned<RawSubnet>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSubnet {
    network: Spanned<String>,
    range: Option<Spanned<String>>,
    router: Option<Spanned<String>>,
    lease: Option<Spanned<String>>,
    dns: Option<Vec<Spanned<String>>>,
    domain: Option<Spanned<String>>,
    ntp: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    options: RawOptions,
}

const NO_RANGE: &str = "the DHCP range is missing: write `range = \"10.77.0.50-10.77.0.150\"` \
                        below `[dhcp]`, or `mode = \"proxy\"` if another DHCP server assigns the addresses";

/// Checks the whole section. Everything in it is checked in every mode, so that a mistake is found
/// now and not on the day when the mode is changed.
pub(super) fn dhcp(raw: Option<Spanned<RawDhcp>>, has_more_cards: bool) -> At<Dhcp> {
    let mut found = Dhcp { mode: DhcpMode::Proxy, subnets: Vec::new(), networks: Vec::new() };
    let Some(raw) = raw else { return Ok(found) };
    let at = raw.span().start;
    let raw = raw.into_inner();
    let common = Common {
        lease: lease(&raw.lease)?.unwrap_or(LEASE),
        dns: addresses(&raw.dns)?,
        domain: domain(&raw.domain)?,
        ntp: addresses(&raw.ntp)?,
        options: extra_options(&raw.options)?,
    };
    let router = raw.router.as_ref().map(address).transpose()?;
    let pool = raw.range.as_ref().map(range).transpose()?.map(|range| common.pool(range, router));
    let is_full = raw.mode.as_ref().is_some_and(|mode| mode.as_ref() == "full");
    for subnet in raw.subnet {
        if is_full && subnet.as_ref().range.is_none() {
            return Err((subnet.span().start, NO_SUBNET_RANGE.to_owned()));
        }
        add_subnet(&mut found, subnet, &common, has_more_cards)?;
    }
    found.mode = match raw.mode.as_ref().map(|mode| (mode.as_ref().as_str(), mode.span().start)) {
        Some(("full", _)) => DhcpMode::Full(pool.ok_or((at, NO_RANGE.to_owned()))?),
        Some(("proxy", _)) => DhcpMode::Proxy,
        Some(("off", _)) => DhcpMode::Off,
        Some((other, at)) => {
            let cause = format!(
                "unknown mode `{other}`; write \"proxy\" if another DHCP server assigns the addresses, \
                 \"full\" if this one does, or \"off\""
            );
            return Err((at, cause));
        }
        None => match raw.range.as_ref().map(|range| range.span().start) {
            None => DhcpMode::Proxy,
            Some(at) => return Err((at, NO_MODE.to_owned())),
        },
    };
    Ok(found)
}

const NO_SUBNET_RANGE: &str = "the DHCP range is missing: write \
                               `range = \"10.78.0.50-10.78.0.150\"`; only in mode \"full\" does a \
                               network need one";

/// Giving addresses on somebody else's network takes all its PCs away: it must be asked for.
const NO_MODE: &str = "`range` is set, but `mode` is not: write `mode = \"full\"` if this server is \
                       the only DHCP server, or remove `range` if there is another";

/// What networks share unless they say something else.
struct Common {
    lease: Duration,
    dns: Vec<Ipv4Addr>,
    domain: Option<String>,
    ntp: Vec<Ipv4Addr>,
    options: Vec<ExtraOption>,
}

impl Common {
    fn pool(&self, range: (Ipv4Addr, Ipv4Addr), router: Option<Ipv4Addr>) -> Pool {
        Pool {
            range,
            lease: self.lease,
            router,
            dns: self.dns.clone(),
            domain: self.domain.clone(),
            ntp: self.ntp.clone(),
            options: self.options.clone(),
        }
    }

    /// The same with what a network says of itself.
    fn changed_by(&self, raw: &RawSubnet) -> At<Self> {
        let mut options = self.options.clone();
        for option in extra_options(&raw.options)? {
            options.retain(|other| other.code != option.code);
            options.push(option);
        }
        options.sort_by_key(|option| option.code);
        Ok(Self {
            lease: lease(&raw.lease)?.unwrap_or(self.lease),
            dns: if raw.dns.is_some() { addresses(&raw.dns)? } else { self.dns.clone() },
            domain: domain(&raw.domain)?.or_else(|| self.domain.clone()),
            ntp: if raw.ntp.is_some() { addresses(&raw.ntp)? } else { self.ntp.clone() },
            options,
        })
    }
}

fn add_subnet(
    found: &mut Dhcp,
    raw: Spanned<RawSubnet>,
    common: &Common,
    has_more_cards: bool,
) -> At<()> {
    let at = raw.span().start;
    let raw = raw.into_inner();
    if found.networks.len() >= MOST_SUBNETS {
        return Err((at, format!("the maximum is {MOST_SUBNETS} subnets")));
    }
    let (address_of, netmask) = network(&raw.network)?;
    // It may be the network of the second card, which needs none; which it is, only the cards tell.
    if raw.range.is_some() && raw.router.is_none() && !has_more_cards {
        let cause = "the router is missing: PCs behind a relay reach this server only through one; \
                     write its address in their network, such as `router = \"10.78.0.1\"`";
        return Err((at, cause.into()));
    }
    let router = raw.router.as_ref().map(address).transpose()?;
    let own = common.changed_by(&raw)?;
    let range = raw.range.as_ref().map(|text| Ok((range(text)?, text.span().start))).transpose()?;
    let broadcast = Ipv4Addr::from_bits(address_of.to_bits() | !netmask.to_bits());
    let is_inside = |ip: Ipv4Addr| ip > address_of && ip < broadcast;
    if let Some(((first, last), at)) = range
        && !(is_inside(first) && is_inside(last))
    {
        let cause = format!("the range {first}-{last} is not inside {}", raw.network.as_ref());
        return Err((at, cause));
    }
    if let (Some(ip), Some(text)) = (router, &raw.router)
        && !is_inside(ip)
    {
        let cause = format!("the router {ip} is not inside {}", raw.network.as_ref());
        return Err((text.span().start, cause));
    }
    let this = (address_of, netmask);
    let overlaps = |other: &&NetworkOf| is_in(**other, address_of) || is_in(this, other.0);
    if let Some((other, _)) = found.networks.iter().find(overlaps) {
        let cause = format!("the networks {other} and {address_of} overlap");
        return Err((raw.network.span().start, cause));
    }
    found.networks.push(this);
    let pool = range.map(|(range, _)| own.pool(range, router));
    found.subnets.extend(pool.map(|pool| Subnet { network: address_of, netmask, pool }));
    Ok(())
}

fn lease(raw: &Option<Spanned<String>>) -> At<Option<Duration>> {
    raw.as_ref().map(|text| duration(text, "lease", SHORTEST_LEASE, LONGEST_LEASE)).transpose()
}

fn domain(raw: &Option<Spanned<String>>) -> At<Option<String>> {
    raw.as_ref().map(|text| line_of_text(text, "domain", 200)).transpose()
}

fn addresses(raw: &Option<Vec<Spanned<String>>>) -> At<Vec<Ipv4Addr>> {
    raw.iter().flatten().map(address).collect()
}

fn extra_options(raw: &RawOptions) -> At<Vec<ExtraOption>> {
    let mut found: Vec<ExtraOption> = Vec::new();
    let mut bytes = 0;
    for (key, value) in raw {
        let code =
            dhcp_options::code_of(key.as_ref()).map_err(|cause| (key.span().start, cause))?;
        let option = dhcp_options::encode(code, value.as_ref())
            .map_err(|cause| (value.span().start, format!("option `{}`: {cause}", key.as_ref())))?;
        if found.iter().any(|other| other.code == code) {
            let cause = format!("option {code} is set twice, by its name and by its number");
            return Err((key.span().start, cause));
        }
        bytes += option.data.len() + 2;
        if bytes > MOST_OPTION_BYTES {
            let cause = format!("the options have more than {MOST_OPTION_BYTES} bytes in total");
            return Err((key.span().start, cause));
        }
        found.push(option);
    }
    found.sort_by_key(|option| option.code);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::config::Config;

    const FULL: &str = "interface = \"eth0\"\n[dhcp]\nmode = \"full\"\n\
        range = \"10.77.0.50-10.77.0.150\"\nntp = [\"10.77.0.2\"]\n\
        [dhcp.options]\ninterface-mtu = 1400\n";
    const SUBNET: &str = "[[dhcp.subnet]]\nnetwork = \"10.78.0.0/24\"\n\
        range = \"10.78.0.50-10.78.0.150\"\nrouter = \"10.78.0.1\"\n";

    fn refused(text: &str, line: usize, part: &str) {
        let error = Config::parse(&format!("{FULL}{text}")).expect_err(text);
        assert!(error.cause.contains(part), "{error}");
        assert_eq!(error.place.line, line, "{error}");
    }

    #[test]
    fn a_subnet_takes_over_what_it_does_not_say_itself() {
        let own = "lease = \"2h\"\n[dhcp.subnet.options]\n26 = 1300\n209 = \"x\"\n";
        let config = Config::parse(&format!("{FULL}{SUBNET}{own}")).expect("valid");
        let pool = &config.subnets[0].pool;
        assert_eq!(pool.lease, Duration::from_hours(2));
        assert_eq!(pool.ntp, [Ipv4Addr::new(10, 77, 0, 2)]);
        assert_eq!(pool.options.len(), 2);
        assert_eq!(pool.options[0], ExtraOption { code: 26, data: vec![5, 20] });
    }

    #[test]
    fn beside_another_server_a_network_alone_is_enough() {
        let network = "[[dhcp.subnet]]\nnetwork = \"10.78.0.0/24\"\n";
        for mode in ["", "[dhcp]\nmode = \"proxy\"\n", "[dhcp]\nmode = \"off\"\n"] {
            let text = format!("interface = \"eth0\"\n{mode}{network}");
            let config = Config::parse(&text).expect("valid");
            let network = ([10, 78, 0, 0].into(), [255, 255, 255, 0].into());
            assert_eq!((&config.nodes.networks, config.subnets.len()), (&vec![network], 0));
        }
        refused(network, 8, "`range = ");
    }

    #[test]
    fn mistakes_about_subnets_say_what_would_be_right() {
        let change = |from: &str, to: &str| SUBNET.replace(from, to);
        refused(&change("router = \"10.78.0.1\"\n", ""), 8, "router is missing");
        refused(&change("\"10.78.0.1\"", "\"10.79.0.1\""), 11, "not inside");
        refused(&change("10.78.0.150", "10.78.0.255"), 10, "not inside");
        refused(&change("10.78.0.0/24", "10.78.0.1/24"), 9, "10.78.0.0/24");
        refused(&format!("{SUBNET}{}", SUBNET), 13, "overlap");
        refused(&format!("{SUBNET}options.66 = \"x\"\n"), 12, "cannot be set");
        refused("26 = 1500\n", 7, "twice");
    }
}
