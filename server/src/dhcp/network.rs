//! Core: the networks that this server knows, and which of them a request comes from.
//!
//! The interface's own network, and in full mode those behind relays (`[[dhcp.subnet]]`). A relay
//! tells where the PC is by its own address there (RFC 2131 §4.1), or by the link selection of
//! option 82 (RFC 3527) where it has another; a PC that renews by itself tells by its address.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::Request;
use super::options::ExtraOption;
use crate::arch::http_address;
use crate::config::{Config, DhcpMode, Identity, NodeSettings, Nodes, Pool, Uuid};
use crate::lease::Mac;

/// Sub-option of option 82 that names the PC's network (RFC 3527 §3).
const LINK_SELECTION: u8 = 5;

/// What every reply says of one network.
#[derive(Debug, Clone)]
pub struct Network {
    /// Our address: server id, TFTP and HTTP server. Outside the network where a relay is between.
    pub server: Ipv4Addr,
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
    /// Every network of `config` that addresses are given on, each with its pool: that of the
    /// interface with `server`'s address comes first. None where another server gives them.
    pub fn all(config: &Config, server: Ipv4Addr, netmask: Ipv4Addr) -> Vec<(Self, Pool)> {
        let DhcpMode::Full(pool) = &config.dhcp else { return Vec::new() };
        let behind = config.subnets.iter().map(|net| (net.network, net.netmask, &net.pool));
        let networks = std::iter::once((server, netmask, pool)).chain(behind);
        let network = |(address, netmask, pool): (_, _, &Pool)| Self {
            server,
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
        networks.map(|parts| (network(parts), parts.2.clone())).collect()
    }

    /// The index of the network that a request comes from; `None`: none that is known here.
    pub fn of(networks: &[Self], request: &Request) -> Option<usize> {
        let find = |ip| networks.iter().position(|network| network.contains(ip));
        match link_of(request) {
            Some(link) => find(link),
            // It is on our own network, or uses an address and came through a router. One that
            // belongs nowhere is refused by the first network.
            None => find(request.ciaddr).or((!networks.is_empty()).then_some(0)),
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

    fn networks() -> Vec<Network> {
        let config = Config::parse(LAB).expect("valid");
        let all = Network::all(&config, [10, 77, 0, 1].into(), [255, 255, 255, 0].into());
        all.into_iter().map(|(network, _)| network).collect()
    }

    fn check(giaddr: [u8; 4], ciaddr: [u8; 4], relay_info: Option<&[u8]>, expected: Option<usize>) {
        let request = Request {
            giaddr: giaddr.into(),
            ciaddr: ciaddr.into(),
            relay_info: relay_info.map(<[u8]>::to_vec),
            ..Request::of(Mac([2, 0, 0, 0, 0, 1]), Kind::Discover { wanted: None })
        };
        assert_eq!(Network::of(&networks(), &request), expected, "{giaddr:?} {ciaddr:?}");
    }

    #[test]
    fn a_request_belongs_to_the_network_of_its_relay_or_of_its_address() {
        let none = [0; 4];
        check(none, none, None, Some(0));
        check(none, [10, 78, 3, 4], None, Some(1));
        check(none, [192, 168, 0, 1], None, Some(0));
        check([10, 78, 0, 1], none, None, Some(1));
        check([10, 79, 0, 1], none, None, None);
        check([10, 79, 0, 1], none, Some(&[1, 1, 9, 5, 4, 10, 78, 0, 0]), Some(1));
        check([10, 78, 0, 1], none, Some(&[5, 9, 10]), Some(1));
    }

    #[test]
    fn a_fixed_address_belongs_to_its_network_only() {
        let fixed: Vec<usize> = networks().iter().map(|network| network.fixed().count()).collect();
        assert_eq!(fixed, [0, 1]);
    }
}
