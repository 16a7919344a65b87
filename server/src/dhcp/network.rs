//! Core: the networks that this server knows, and which of them a request comes from.
//!
//! Those of the network cards, and in full mode those behind relays (`[[dhcp.subnet]]`). A relay
//! tells where the PC is by its own address there (RFC 2131 §4.1), or by the link selection of
//! option 82 (RFC 3527) where it has another; a PC that renews by itself tells by its address.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::Request;
use super::options::ExtraOption;
use crate::arch::http_address;
use crate::config::{Config, DhcpMode, Identity, NodeSettings, Nodes, Pool, Uuid};
use crate::interfaces::Card;
use crate::lease::Mac;

/// Sub-option of option 82 that names the PC's network (RFC 3527 §3).
const LINK_SELECTION: u8 = 5;

/// What every reply says of one network.
#[derive(Debug, Clone)]
pub struct Network {
    /// Our address: server id, TFTP and HTTP server. Outside the network where a relay is between.
    pub server: Ipv4Addr,
    /// Whether its PCs reach us through a relay and a router only.
    pub is_remote: bool,
    /// Any address of the network.
    pub address: Ipv4Addr,
    /// The network's mask.
    pub netmask: Ipv4Addr,
    /// The way out, if there is one.
    pub router: Option<Ipv4Addr>,
    /// Name servers, best first.
    pub dns: Vec<Ipv4Addr>,
    /// The network's domain name.
    pub domain: Option<String>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// What the supervisor added.
    pub options: Vec<ExtraOption>,
    /// Port of our HTTP server.
    pub http_port: u16,
    /// Rooms and single PCs.
    pub nodes: Arc<Nodes>,
}

impl Network {
    /// Every network of `config` that addresses are given on, each with its pool. First those of
    /// `cards`, as far as there are addresses for them, in their order: `[dhcp]` is for the first
    /// card, a `[[dhcp.subnet]]` for each of the others. None where another server gives them.
    pub fn all(config: &Config, cards: &[Card]) -> Vec<(Self, Pool)> {
        let (DhcpMode::Full(pool), Some(first)) = (&config.dhcp, cards.first()) else {
            return Vec::new();
        };
        let network = |server, is_remote, address, netmask, pool: &Pool| {
            let network = Self {
                server,
                is_remote,
                address,
                netmask,
                router: pool.router,
                dns: pool.dns.clone(),
                domain: pool.domain.clone(),
                ntp: pool.ntp.clone(),
                options: pool.options.clone(),
                http_port: config.http_port,
                nodes: Arc::clone(&config.nodes),
            };
            (network, pool.clone())
        };
        let mut all = vec![network(first.ip, false, first.ip, first.netmask, pool)];
        for card in &cards[1..] {
            let subnet = config.subnets.iter().find(|subnet| subnet.contains(card.ip));
            all.extend(subnet.map(|s| network(card.ip, false, card.ip, card.netmask, &s.pool)));
        }
        let is_remote = |ip| cards.iter().all(|card| !card.contains(ip));
        let remote = config.subnets.iter().filter(|subnet| is_remote(subnet.network));
        all.extend(remote.map(|s| network(first.ip, true, s.network, s.netmask, &s.pool)));
        all
    }

    /// The same network for a request that came in by the card with the address `server`.
    #[must_use]
    pub fn seen_from(&self, server: Ipv4Addr) -> Self {
        Self { server, ..self.clone() }
    }

    /// The index of the network that a request comes from, by the card with the address `own`;
    /// `None`: none that is known here.
    pub fn of(networks: &[Self], own: Ipv4Addr, request: &Request) -> Option<usize> {
        let find = |ip| networks.iter().position(|network| network.contains(ip));
        match link_of(request) {
            Some(link) => find(link),
            // It uses an address and came through a router, or it is on the card's own network. An
            // address that belongs nowhere, or to another card, is refused there.
            None => find(request.ciaddr).filter(|&index| networks[index].is_remote).or(find(own)),
        }
    }

    /// Whether this network is the one that the request comes from, as far as it tells.
    pub fn serves(&self, request: &Request) -> bool {
        link_of(request).is_none_or(|link| self.contains(link))
    }

    /// Whether `ip` belongs to it.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        (ip.to_bits() ^ self.address.to_bits()) & self.netmask.to_bits() == 0
    }

    /// The address that names it.
    pub fn first_address(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.netmask.to_bits())
    }

    /// The address that reaches all of it.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.netmask.to_bits())
    }

    /// Our HTTP server.
    pub fn http(&self) -> SocketAddrV4 {
        http_address(self.server, self.http_port)
    }

    /// The addresses that only one PC may have, and whose they are.
    pub fn fixed(&self) -> impl Iterator<Item = (Mac, Ipv4Addr)> {
        let hosts = self.nodes.hosts.iter().filter_map(|host| host.mac.zip(host.address));
        hosts.filter(|(_, ip)| self.contains(*ip))
    }

    /// What `server.toml` says of the PC that asks; `ip` is the address it has or gets.
    pub fn settings(&self, request: &Request, ip: Option<Ipv4Addr>) -> NodeSettings {
        self.nodes.settings(&identity(request, ip))
    }
}

/// What a request tells of the PC that sent it.
pub fn identity(request: &Request, ip: Option<Ipv4Addr>) -> Identity {
    let is_set = |ip: &Ipv4Addr| !ip.is_unspecified();
    Identity {
        mac: Some(request.mac),
        ip: ip.or(Some(request.ciaddr)).filter(is_set),
        uuid: request.machine_id.as_deref().and_then(Uuid::of_option),
        relay: Some(request.giaddr).filter(is_set),
    }
}

/// An address of the network that the PC is on, where a relay says so.
fn link_of(request: &Request) -> Option<Ipv4Addr> {
    if request.giaddr.is_unspecified() {
        return None;
    }
    let selected = request.relay_info.as_deref().and_then(link_selection);
    Some(selected.unwrap_or(request.giaddr))
}

fn link_selection(mut info: &[u8]) -> Option<Ipv4Addr> {
    while let [code, length, rest @ ..] = info {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *code == LINK_SELECTION {
            return <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
        }
        info = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::Kind;

    const LAB: &str = "interface = \"eth0\"\n[dhcp]\nmode = \"full\"\n\
        range = \"10.77.0.50-10.77.0.150\"\n[[dhcp.subnet]]\nnetwork = \"10.78.0.0/16\"\n\
        range = \"10.78.0.50-10.78.0.150\"\nrouter = \"10.78.0.1\"\n\
        [[host]]\nmac = \"52:54:00:00:00:01\"\naddress = \"10.78.0.9\"\n";

    fn networks(interfaces: &str, ips: &[[u8; 4]]) -> Vec<Network> {
        let text = LAB.replacen("\"eth0\"", interfaces, 1);
        let config = Config::parse(&text).expect("valid");
        let card = |ip: &[u8; 4]| Card {
            name: "eth0".into(),
            ip: (*ip).into(),
            netmask: [255, 255, 255, 0].into(),
        };
        let cards: Vec<Card> = ips.iter().map(card).collect();
        Network::all(&config, &cards).into_iter().map(|(network, _)| network).collect()
    }

    fn request(giaddr: [u8; 4], ciaddr: [u8; 4], relay_info: Option<&[u8]>) -> Request {
        Request {
            giaddr: giaddr.into(),
            ciaddr: ciaddr.into(),
            relay_info: relay_info.map(<[u8]>::to_vec),
            ..Request::of(Mac([2, 0, 0, 0, 0, 1]), Kind::Discover { wanted: None })
        }
    }

    const NONE: [u8; 4] = [0; 4];
    const OWN: [u8; 4] = [10, 77, 0, 1];

    #[test]
    fn a_request_belongs_to_the_network_of_its_relay_or_of_its_address() {
        let networks = networks("\"eth0\"", &[OWN]);
        let check = |giaddr, ciaddr, info: Option<&[u8]>, expected| {
            let found = Network::of(&networks, OWN.into(), &request(giaddr, ciaddr, info));
            assert_eq!(found, expected, "{giaddr:?} {ciaddr:?}");
        };
        check(NONE, NONE, None, Some(0));
        check(NONE, [10, 78, 3, 4], None, Some(1));
        check(NONE, [192, 168, 0, 1], None, Some(0));
        check([10, 78, 0, 1], NONE, None, Some(1));
        check([10, 79, 0, 1], NONE, None, None);
        check([10, 79, 0, 1], NONE, Some(&[1, 1, 9, 5, 4, 10, 78, 0, 0]), Some(1));
        check([10, 78, 0, 1], NONE, Some(&[5, 9, 10]), Some(1));
    }

    #[test]
    fn each_card_has_its_own_network() {
        let second = [10, 78, 0, 2];
        let networks = networks("[\"eth0\", \"eth1\"]", &[OWN, second]);
        let seen: Vec<_> = networks.iter().map(|n| (n.server, n.is_remote)).collect();
        assert_eq!(seen, [(OWN.into(), false), (second.into(), false)]);
        let check = |own: [u8; 4], ciaddr, expected| {
            let found = Network::of(&networks, own.into(), &request(NONE, ciaddr, None));
            assert_eq!(found, Some(expected), "{own:?} {ciaddr:?}");
        };
        check(OWN, NONE, 0);
        check(second, NONE, 1);
        // A PC that was plugged in elsewhere is refused there, not served from its old network.
        check(OWN, [10, 78, 0, 60], 0);
        check(second, OWN, 1);
    }

    #[test]
    fn a_fixed_address_belongs_to_its_network_only() {
        let networks = networks("\"eth0\"", &[OWN]);
        let fixed: Vec<usize> = networks.iter().map(|network| network.fixed().count()).collect();
        assert_eq!(fixed, [0, 1]);
    }
}
