//! Core: the networks that this server knows, and which of them a request comes from.
//!
//! Those of the network cards, and in full mode those behind relays (`[[dhcp.subnet]]`). A relay
//! tells where the PC is by its own address there (RFC 2131 §4.1), or by the link selection of
//! option 82 (RFC 3527) where it has another; a PC that renews by itself tells by its address.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::Request;
use crate::boot::arch::http_address;
use crate::lab::config::dhcp_options::ExtraOption;
use crate::lab::config::{Config, DhcpMode, Identity, NodeSettings, Nodes, Pool, Subnet};
use crate::os::card::Card;
use bt_catalog::Mac;
use bt_catalog::Uuid;

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
    /// card, for each of the others the `[[dhcp.subnet]]` that is exactly its network. None where
    /// another server gives them.
    ///
    /// No address is in two of them, whatever the cards are: one that fits only in part is left out,
    /// and `check.rs` tells the supervisor so.
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
        // The subnets are apart from each other: `config/dhcp.rs` refuses others.
        let is_apart = |s: &&Subnet| !s.overlaps_card(first) && !s.overlaps_range(pool.range);
        let mut remote: Vec<&Subnet> = config.subnets.iter().filter(is_apart).collect();
        for card in &cards[1..] {
            // Taken out, so that two cards on one network make one book.
            if let Some(at) = remote.iter().position(|subnet| subnet.is_of_card(card)) {
                let subnet = remote.remove(at);
                all.push(network(card.ip, false, card.ip, card.netmask, &subnet.pool));
            }
        }
        remote.retain(|subnet| cards.iter().all(|card| !subnet.overlaps_card(card)));
        let remote = remote.into_iter();
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
    pub fn reservations(&self) -> impl Iterator<Item = (Mac, Ipv4Addr)> {
        let hosts = self.nodes.hosts.iter().filter_map(|host| host.mac.zip(host.address));
        hosts.filter(|(_, ip)| self.contains(*ip))
    }

    /// What `server.toml` says of the PC that asks; `ip` is the address it has or gets.
    pub fn settings(&self, request: &Request, ip: Option<Ipv4Addr>) -> NodeSettings {
        self.nodes.settings(&identity(request, ip))
    }
}

impl Subnet {
    /// Whether it is the network of `card`, no more and no less.
    pub(crate) fn is_of_card(&self, card: &Card) -> bool {
        self.netmask == card.netmask && self.contains(card.ip)
    }

    /// Whether an address of it is on the network of `card`.
    pub(crate) fn overlaps_card(&self, card: &Card) -> bool {
        self.contains(card.ip) || card.contains(self.network)
    }

    fn overlaps_range(&self, (first, last): (Ipv4Addr, Ipv4Addr)) -> bool {
        let broadcast = Ipv4Addr::from_bits(self.network.to_bits() | !self.netmask.to_bits());
        first <= broadcast && self.network <= last
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
pub(super) fn link_of(request: &Request) -> Option<Ipv4Addr> {
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
    use crate::roles::dhcp::Kind;

    const LAB: &str = "interface = \"eth0\"\n[dhcp]\nmode = \"full\"\n\
        range = \"10.77.0.50-10.77.0.150\"\n[[dhcp.subnet]]\nnetwork = \"10.78.0.0/16\"\n\
        range = \"10.78.0.50-10.78.0.150\"\nrouter = \"10.78.0.1\"\n\
        [[host]]\nmac = \"52:54:00:00:00:01\"\naddress = \"10.78.0.9\"\n";

    fn networks(interfaces: &str, ips: &[[u8; 4]]) -> Vec<Network> {
        let text = LAB.replacen("\"eth0\"", interfaces, 1);
        let config = Config::parse(&text).expect("valid");
        // The first is on a /24, the others are on networks as large as the subnet.
        let card = |ip: &[u8; 4]| Card {
            name: "eth0".into(),
            ip: (*ip).into(),
            netmask: if *ip == OWN { [255, 255, 255, 0] } else { [255, 255, 0, 0] }.into(),
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

    /// How many books there are for cards with these addresses and prefix lengths, and those that
    /// cover the range of the subnet.
    fn books(subnets: &str, cards: &[([u8; 4], u32)]) -> (usize, usize) {
        let (head, _) = LAB.split_once("[[dhcp.subnet]]").expect("it has one");
        let text = head.replacen("\"eth0\"", "[\"eth0\", \"eth1\", \"eth2\"]", 1) + subnets;
        let config = Config::parse(&text).expect("valid");
        let card = |&(ip, prefix): &([u8; 4], u32)| Card {
            name: "eth".into(),
            ip: ip.into(),
            netmask: Ipv4Addr::from_bits(u32::MAX << (32 - prefix)),
        };
        let cards: Vec<Card> = cards.iter().map(card).collect();
        let all = Network::all(&config, &cards);
        let ranges: Vec<_> = all.iter().map(|(_, pool)| pool.range).collect();
        for (index, range) in ranges.iter().enumerate() {
            let others = &ranges[index + 1..];
            assert!(others.iter().all(|o| o.1 < range.0 || range.1 < o.0), "{ranges:?}");
        }
        let local = all.iter().filter(|(network, _)| !network.is_remote).count();
        (local, all.len() - local)
    }

    #[test]
    fn no_range_has_two_books_whatever_the_cards_are() {
        let subnet = |network: &str, third: u8| {
            format!(
                "[[dhcp.subnet]]\nnetwork = \"{network}\"\n\
                 range = \"10.78.{third}.150-10.78.{third}.160\"\nrouter = \"10.78.{third}.254\"\n"
            )
        };
        let eth0 = (OWN, 24);
        let check = |subnets: &str, cards: &[([u8; 4], u32)], expected| {
            assert_eq!(books(subnets, cards), expected, "{subnets} {cards:?}");
        };
        let (large, small) = (subnet("10.78.0.0/16", 0), subnet("10.78.0.0/24", 0));
        check(&small, &[eth0, ([10, 78, 0, 1], 24)], (2, 0));
        check(&small, &[eth0], (1, 1));
        // Two cards inside of one subnet, a card on half of it, two cards on all of it.
        check(&large, &[eth0, ([10, 78, 1, 1], 24), ([10, 78, 2, 1], 24)], (1, 0));
        check(&small, &[eth0, ([10, 78, 0, 129], 25)], (1, 0));
        check(&small, &[eth0, ([10, 78, 0, 1], 24), ([10, 78, 0, 2], 24)], (2, 0));
        // A card's network is larger than its subnet, and than another.
        check(&(small + &subnet("10.78.1.0/24", 1)), &[eth0, ([10, 78, 0, 1], 16)], (1, 0));
        // A range of [dhcp] that is not on its card: another subnet has it.
        check(&subnet("10.76.0.0/14", 0), &[([10, 90, 0, 1], 24)], (1, 0));
    }

    #[test]
    fn a_fixed_address_belongs_to_its_network_only() {
        let networks = networks("\"eth0\"", &[OWN]);
        let fixed: Vec<usize> =
            networks.iter().map(|network| network.reservations().count()).collect();
        assert_eq!(fixed, [0, 1]);
    }
}
