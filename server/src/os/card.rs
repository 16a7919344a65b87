//! Core: a network card of the server, as the PCs reach it.

use std::net::Ipv4Addr;

/// A network card of `server.toml`, as the PCs reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Such as `eth0`.
    pub name: String,
    /// Its IPv4 address.
    pub ip: Ipv4Addr,
    /// Its netmask.
    pub netmask: Ipv4Addr,
}

impl Card {
    /// Whether `ip` belongs to its network.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        (ip.to_bits() ^ self.ip.to_bits()) & self.netmask.to_bits() == 0
    }
}
