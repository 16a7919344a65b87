//! Shell: the virtual lab room: its network, its PCs, the programs in it, and a student.

pub mod addresses;
pub mod dnsmasq;
pub mod namespace;
pub mod net;
pub mod packets;
pub mod proxy;
pub mod qemu;
pub mod qmp;
pub mod relay;
pub mod route;
pub mod sample;
pub mod screen;
pub mod serial_log;
pub mod server;
pub mod student;
pub mod testbed;
