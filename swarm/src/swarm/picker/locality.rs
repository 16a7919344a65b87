//! Core: which peers are near: in the same network.

use std::net::IpAddr;

/// Where a node is, so that it downloads from peers at its own switch first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Locality {
    /// The server: it counts as near wherever it is, because it shows each piece to one node only.
    pub server: Option<IpAddr>,
    /// An address of the node's own network, and the length of its prefix in bits. From peers of
    /// other networks only pieces are requested that no near peer has. `None`: all peers are near.
    pub network: Option<(IpAddr, u8)>,
}

impl Locality {
    pub(super) fn is_near(&self, ip: IpAddr) -> bool {
        let Some((own, prefix)) = self.network else { return true };
        let differs = match (own, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => (own.to_bits() ^ ip.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(ip)) => (own.to_bits() ^ ip.to_bits()).leading_zeros(),
            _ => return false,
        };
        self.server == Some(ip) || differs >= u32::from(prefix)
    }
}
