//! Core: who may join a swarm, and which of two connections to one peer is kept.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::peer::{Peer, PeerKey};
use super::smart_ban::SmartBan;
use crate::protocol::peer_id::PeerId;

/// The maximum of peers in one swarm: a full mesh of the largest room and some to spare. A node
/// that does not see all others gets its pieces later (simulated).
pub const MAX_PEERS: usize = 256;

/// The same for the seed, which every node of a campus wants to reach.
pub const MAX_PEERS_OF_SEED: usize = 1024;

/// The maximum of peers from one address, so that no machine takes all of them. More than one,
/// because a room behind NAT shares an address.
pub const MAX_PEERS_PER_ADDRESS: usize = 32;

/// A peer that asks to join, after both handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its peer id.
    pub id: PeerId,
    /// The other end of the connection.
    pub address: SocketAddr,
    /// Whether this member dialled.
    pub was_dialled: bool,
    /// Whether it supports BEP 10.
    pub is_extended: bool,
}

/// Why a peer may not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is this member itself: a tracker may list its own address too.
    #[error("a connection to itself")]
    Myself,
    /// It sent wrong data.
    #[error("the peer's address is banned because it sent wrong data")]
    Banned,
    /// It is already connected.
    #[error("the peer is already connected")]
    Duplicate,
    /// The maximum of peers is reached.
    #[error("the maximum number of peers is reached")]
    Full,
}

/// Which of two connections to one peer to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Old,
    New,
    Both,
}

/// Checks a candidate. Returns the older connections that it replaces and that must be closed.
pub(super) fn admit(
    candidate: &Candidate,
    own: PeerId,
    smart_ban: &SmartBan,
    peers: &BTreeMap<PeerKey, Peer>,
    max_peers: usize,
) -> Result<Vec<PeerKey>, Refusal> {
    let ip = candidate.address.ip();
    if candidate.id == own {
        return Err(Refusal::Myself);
    }
    if smart_ban.is_banned(ip) {
        return Err(Refusal::Banned);
    }
    let mut replaced = Vec::new();
    for (key, old) in peers.iter().filter(|(_, peer)| peer.id == candidate.id) {
        match which_to_keep(own, old, candidate) {
            Keep::Old => return Err(Refusal::Duplicate),
            Keep::New => replaced.push(*key),
            Keep::Both => {}
        }
    }
    let staying = || peers.iter().filter(|(key, _)| !replaced.contains(key));
    let neighbours = staying().filter(|(_, peer)| peer.address.ip() == ip).count();
    if staying().count() >= max_peers || neighbours >= MAX_PEERS_PER_ADDRESS {
        return Err(Refusal::Full);
    }
    Ok(replaced)
}

/// Which of two connections to one peer is kept. BEP 3 leaves it open.
///
/// If the same end dialled again, it has given up its first connection. If both dialled, the
/// connection that the smaller id dialled is kept: two BootTorrent peers decide the same without a
/// message. A stock client has its own rule, mostly that the first handshake it saw wins. If the
/// handshakes cross, any choice here could close the connection that the client keeps; so the
/// client chooses.
///
/// Another address cannot replace a peer by using its id.
fn which_to_keep(own: PeerId, old: &Peer, candidate: &Candidate) -> Keep {
    if old.address.ip() != candidate.address.ip() {
        Keep::Old
    } else if old.was_dialled == candidate.was_dialled {
        Keep::New
    } else if !candidate.id.is_boottorrent() {
        Keep::Both
    } else if candidate.was_dialled == (own < candidate.id) {
        Keep::New
    } else {
        Keep::Old
    }
}
