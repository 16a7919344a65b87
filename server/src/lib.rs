//! BootTorrent's server: everything a lab of PCs needs to boot from the network, in one process or
//! in one for each role.
//!
//! [`server::prepare`] opens the sockets, which may need root's rights; [`server::run`] needs none any
//! more: it starts the roles, says when all of them work, and ends them:
//! ```text
//! dhcp    addresses, and for each firmware its boot file       port 67/udp
//! tftp    iPXE for that firmware                               port 69/udp
//! http    boot files, catalog, tracker, reports, page          port 6969/tcp
//! seed    every system's files, as BitTorrent                  port 6881/tcp
//! ```
//! Nothing on the network can change the lab: only its files and the control socket can.

pub mod boot;
pub mod commands;
pub mod error;
pub mod humanize;
pub mod lab;
pub mod mac;
pub mod os;
pub mod process;
pub mod publication;
pub mod role;
pub mod roles;
pub mod server;
pub mod status;
pub mod terminal;
