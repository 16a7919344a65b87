//! BootTorrent's server: everything a lab of PCs needs to boot from the network, in one process.

pub mod arch;
pub mod config;
pub mod lab;
pub mod lease;
pub mod lease_log;
pub mod ports;
pub mod publish;
pub mod status;
