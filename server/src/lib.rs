//! BootTorrent's server: everything a lab of PCs needs to boot from the network, in one process.

pub mod arch;
pub mod bind;
pub mod config;
pub mod dhcp;
pub mod interfaces;
pub mod keyring;
pub mod lab;
pub mod lease;
pub mod lease_log;
pub mod publish;
pub mod status;
pub mod torrents;
pub mod words;
