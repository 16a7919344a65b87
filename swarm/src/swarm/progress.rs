//! Core: how far a download is, and which peers contributed.

use std::net::SocketAddr;

/// How far a node's download is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of verified pieces.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// Bytes received per second, smoothed.
    pub speed: u64,
    /// Payload bytes that were uploaded.
    pub uploaded: u64,
    /// Connected peers.
    pub peers: usize,
    /// Peers that sent data in the last two seconds.
    pub sources: usize,
    /// Payload bytes received from each address in total, also from peers that left.
    pub peers_sending: Vec<(SocketAddr, u64)>,
}
