//! Shell: what a person types after `cargo lab`, one file or folder for each command.

pub mod boot;
pub mod build;
pub mod demo;
pub mod dhcp_load;
pub mod fuzz;
pub mod handover;
pub mod image;
pub mod simulate;
pub mod swarm;
pub mod test;
pub mod tftp_load;
