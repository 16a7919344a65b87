//! Shell: one running server: its start and end, its control socket, its privileges, its service manager.

pub mod control;
pub mod daemon;
pub mod privileges;
pub mod sd_notify;
