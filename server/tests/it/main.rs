//! The server as others meet it: its roles on the network, its program on the command line, its
//! files on disk.

mod bench;
mod command;
mod dhcp_networks;
mod dhcp_replay;
mod fuzz_corpus;
mod golden_files;
#[path = "../../fuzz/src/harness.rs"]
mod harness;
mod lease_crash;
mod lease_files;
mod roles;
mod roles_apart;
mod simulated_disk;
mod tftp_replay;
