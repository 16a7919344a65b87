//! Shell: what node and server exchange over HTTP, apart from the swarm.

pub mod catalog;
pub mod http;
pub mod report;
pub mod reporter;
