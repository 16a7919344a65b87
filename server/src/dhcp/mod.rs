//! Shell: DHCP in full mode: addresses, and for each firmware its boot file.
//!
//! ```text
//!  node (firmware, then iPXE, then the small Linux)          bt-server
//!      |-- DISCOVER ---- broadcast, 68 -> 67 ----------------->|  propose: held 10 s, in memory
//!      |<- OFFER ------- broadcast to 255.255.255.255:68 ------|
//!      |-- REQUEST ----- broadcast, names our server id ------>|  claim, append to the log, fsync
//!      |<- ACK --------- yiaddr, siaddr, file, options --------|
//!      |        ... half the lease later ...                   |
//!      |-- REQUEST ----- unicast, ciaddr ---------------------->|  renew, append, fsync
//!      |<- ACK --------- unicast to ciaddr:68 -----------------|
//! ```
//! Through a relay the same goes between `giaddr:67` and us. Every reply to a node without an
//! address is broadcast, whatever its flag says: all known firmware accepts it, and no ARP entry
//! needs to be forged. Follows RFC 2131, 2132, 3046 and 4578; the facts about firmware that are
//! not in any RFC have their captures in `tests/golden`.
//!
//! `request.rs` reads packets and `respond.rs` answers them, both without IO; `serve.rs` is the
//! socket. Proxy mode answers the same [`Request`]s without leases, so it fits beside `respond`.

mod request;
mod respond;
mod serve;

pub use request::{Kind, NotForUs, Request};
pub use respond::{Answer, Destination, Network, Reply, ReplyKind, Silence, respond};
pub use serve::{Dhcp, DhcpError, Settings};
