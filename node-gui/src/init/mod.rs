//! Shell: the part of the node that is `/init`: file systems, drivers, network, serial records.
//!
//! ```text
//! mounts -> drivers by modalias -> interface of BOOTIF -> link -> address -> server URL
//! ```
//! BusyBox does what it does well: modprobe, `ip`, udhcpc.

pub mod console;
pub mod lease;
pub mod modalias;
pub mod modules;
pub mod mounts;
pub mod network;
pub mod panic;
pub mod reaper;
pub mod serial;
