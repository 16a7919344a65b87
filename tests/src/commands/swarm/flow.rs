//! Core: what was counted on the cables, with and without headers.

use std::net::Ipv4Addr;

/// Ethernet, IPv4 and TCP with timestamps.
pub const TCP_HEADERS: u64 = 14 + 20 + 32;
/// Ethernet, IPv4 and UDP.
pub const UDP_HEADERS: u64 = 14 + 20 + 8;

/// What one cable's shaper let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes with all headers from Ethernet's on.
    pub bytes: u64,
    /// Packets on the wire.
    pub packets: u64,
}

impl Sent {
    /// Without the headers.
    pub fn payload(self, headers: u64) -> u64 {
        self.bytes.saturating_sub(self.packets * headers)
    }

    /// What came since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self { bytes: self.bytes - earlier.bytes, packets: self.packets - earlier.packets }
    }
}

/// Bytes that one address sent to another, without headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who sent.
    pub from: Ipv4Addr,
    /// Who received.
    pub to: Ipv4Addr,
    /// How much.
    pub bytes: u64,
}
