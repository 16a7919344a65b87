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
//! `request.rs` reads packets and `respond.rs` answers them, both without IO; `server/` is the
//! socket. `proxy.rs` answers the same [`Request`]s beside another server, without leases;
//! `relay_agent.rs` is its way round a loader that heeds no such answer;
//! `network.rs` says where a request comes from, `lease/` who holds
//! which address, and `lease_log/` keeps that on disk. `rogue.rs` and its shell `rogue_watch.rs` look
//! for other servers; `client.rs` speaks as a PC.

pub mod client;
pub mod lease;
pub mod lease_log;
mod network;
mod proxy;
mod proxy_server;
pub mod relay_agent;
mod request;
mod respond;
pub mod rogue;
pub mod rogue_watch;
mod server;

pub use network::{Network, identity};
pub use proxy::{ListenPort, ProxySettings, respond_proxy};
pub use proxy_server::Proxy;
pub use request::{Kind, NotForUs, Request};
pub use respond::{Answer, Destination, Reply, ReplyKind, Silence, respond};
pub use server::{Dhcp, DhcpError, Settings};
