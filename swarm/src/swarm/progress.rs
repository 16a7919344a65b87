//! Core: how far a download is, and who helps.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Swarm;
use super::peer::Peer;

/// A peer that sent data within this time counts as a source.
const SOURCE_SPAN: Duration = Duration::from_secs(2);

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

impl Swarm {
    /// How far the download is.
    pub fn progress(&mut self, now: Instant) -> Progress {
        let done = self.have().iter().map(|piece| u64::from(self.layout.length_of(piece))).sum();
        let is_source = |peer: &&Peer| {
            peer.last_data.is_some_and(|at| now.saturating_duration_since(at) < SOURCE_SPAN)
        };
        let mut received = self.departed.clone();
        for peer in self.peers.values().filter(|peer| peer.received > 0) {
            *received.entry(peer.address).or_default() += peer.received;
        }
        Progress {
            done,
            total: self.layout.total(),
            speed: self.downloaded.rate(now) as u64,
            uploaded: self.uploaded,
            peers: self.peers.len(),
            sources: self.peers.values().filter(is_source).count(),
            peers_sending: received.into_iter().collect(),
        }
    }
}
