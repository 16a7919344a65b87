//! BootTorrent's node: `/init` of the small Linux that a lab PC boots from the network.
//!
//! It brings up the PC and its network, shows the lab's systems, fetches the chosen one from the server and from
//! its neighbours, checks every byte against the signed catalog and starts it by kexec. [`journey`] is the whole
//! story as one state machine; [`app`] performs what it asks for.

pub mod app;
pub mod cli;
pub mod download;
pub mod handover;
pub mod init;
pub mod journey;
pub mod screen;
pub mod server;
