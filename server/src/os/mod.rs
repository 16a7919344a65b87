//! Shell: what the operating system gives: sockets, network interfaces, open files.

pub mod capability;
pub mod card;
pub mod interfaces;
pub mod open_files;
pub mod sockets;
