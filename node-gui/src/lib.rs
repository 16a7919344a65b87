//! BootTorrent's node: `/init` of the netboot image.
//!
//! It brings up the machine and its network, shows the lab's systems, downloads the chosen one from the server and from
//! the other nodes, verifies every byte against the signed catalog and boots it with kexec. [`journey`] describes all of
//! this as one state machine; [`app`] performs what it asks for.

pub mod app;
pub mod cli;
pub mod download;
pub mod handover;
pub mod init;
pub mod journey;
pub mod screen;
pub mod server;
