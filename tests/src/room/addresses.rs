//! Core: the names and addresses of the virtual LAN.

use std::net::Ipv4Addr;

/// The bridge, which is also the server's interface.
pub const BRIDGE: &str = "bt0";
/// The server's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
