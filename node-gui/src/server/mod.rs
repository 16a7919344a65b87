//! Shell: what the node and its server say to each other by HTTP, without the swarm.

pub mod catalog;
pub mod http;
pub mod report;
pub mod reporter;
