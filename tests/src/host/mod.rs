//! Shell: what the lab needs of the machine that it runs on.

pub mod cargo;
pub mod clock;
pub mod http;
pub mod outcome;
pub mod packages;
pub mod process;
