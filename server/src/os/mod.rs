//! What the operating system gives: sockets, network interfaces, open files.

pub mod interfaces;
pub mod open_files;
pub mod sockets;
