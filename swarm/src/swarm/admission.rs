//! Core: who may join a swarm, and which of two connections to one peer stays.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::peer::{Peer, PeerKey};
use super::smart_ban::SmartBan;
use crate::protocol::peer_id::PeerId;

/// Most peers of one swarm: a full mesh of the largest room and some to spare.
pub const MAX_PEERS: usize = 256;

/// Most peers of one swarm at the seed, that every node of a campus wants to reach.
pub const MAX_PEERS_OF_SEED: usize = 1024;

/// Most peers of one swarm from one address, so that no machine takes all the room.
pub const MAX_PEERS_PER_ADDRESS: usize = 32;

/// A peer that asks to join, after both handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// As it calls itself.
    pub id: PeerId,
    /// Where the connection comes from or leads to.
    pub address: SocketAddr,
    /// Whether this member dialled.
    pub was_dialled: bool,
    /// Whether it understands BEP 10.
    pub is_extended: bool,
}

/// Why a peer may not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is this very member.
    #[error("a connection to itself")]
    Myself,
    /// It gave wrong data.
    #[error("the peer's address is banned because it sent wrong data")]
    Banned,
    /// It is connected already.
    #[error("the peer is already connected")]
    Duplicate,
    /// No room.
    #[error("the maximum number of peers is reached")]
    Full,
}

/// Of two connections to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Old,
    New,
    Both,
}

/// Checks a candidate. Returns the older connections that it replaces and that are to be let go of.
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

/// Which of two connections to one peer stays.
///
/// If one of the ends dialled again, it has given up its first connection. If both dialled, the one
/// dialled by the smaller id stays: so say both ends, if the other is ours. A stock client has a
/// rule of its own, mostly that the one whose handshake it saw first stays. Where the handshakes
/// cross, any choice of ours could close the one that it keeps; so it is left the choice. Another
/// address cannot push a peer out by using its id.
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
