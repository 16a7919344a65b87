//! Core: how far a download is, and who helps.

use std::net::SocketAddr;

/// What a node has reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes here and checked.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// Bytes per second coming in, smoothed.
    pub speed: u64,
    /// Payload bytes given to others.
    pub uploaded: u64,
    /// Connected peers.
    pub peers: usize,
    /// Peers that sent data in the last two seconds.
    pub sources: usize,
    /// Payload bytes received in all from each address, also from peers that left.
    pub peers_sending: Vec<(SocketAddr, u64)>,
}
