//! BootTorrent's server: everything a lab of PCs needs to boot from the network, in one process.

pub mod publish;
pub mod status;
