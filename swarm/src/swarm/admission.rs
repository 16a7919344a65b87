//! Core: who may join a swarm, and which of two connections to one peer stays.

use std::net::SocketAddr;
use std::time::Instant;

use super::Swarm;
use super::peer::{Peer, PeerId};

/// Most peers of one swarm: a full mesh of the largest room and some to spare.
pub const MAX_PEERS: usize = 256;

/// Most peers of one swarm at the seed, that every node of a campus wants to reach.
pub const MAX_PEERS_OF_SEED: usize = 1024;

/// Most peers of one swarm from one address, so that no machine takes all the room.
pub const MAX_PEERS_PER_ADDRESS: usize = 32;

/// A peer at the door, after both handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newcomer {
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
    #[error("this is our own connection")]
    Myself,
    /// It gave wrong data.
    #[error("its address is shut out for wrong data")]
    ShutOut,
    /// It is connected already.
    #[error("it is connected already")]
    Duplicate,
    /// No room.
    #[error("there are too many peers")]
    Full,
}

/// Of two connections to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stays {
    Old,
    New,
    Both,
}

impl Swarm {
    /// Checks a newcomer, and lets go of an older connection that it replaces.
    pub(super) fn admit(&mut self, newcomer: &Newcomer, now: Instant) -> Result<(), Refusal> {
        let ip = newcomer.address.ip();
        if newcomer.id == self.id {
            return Err(Refusal::Myself);
        }
        if self.blame.is_shut_out(ip) {
            return Err(Refusal::ShutOut);
        }
        let same = self.peers.iter().filter(|(_, peer)| peer.id == newcomer.id);
        let same: Vec<_> = same.map(|(key, old)| (*key, self.of_two(old, newcomer))).collect();
        if same.iter().any(|(_, stays)| *stays == Stays::Old) {
            return Err(Refusal::Duplicate);
        }
        for (key, stays) in same {
            if stays == Stays::New {
                self.leave(key, now);
            }
        }
        let neighbours = self.peers.values().filter(|peer| peer.address.ip() == ip).count();
        let most = if self.is_seed() { MAX_PEERS_OF_SEED } else { MAX_PEERS };
        if self.peers.len() >= most || neighbours >= MAX_PEERS_PER_ADDRESS {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    /// Which of two connections to one peer stays.
    ///
    /// If one of the ends dialled again, it has given up its first connection. If both dialled, the
    /// one dialled by the smaller id stays: so say both ends, if the other is ours. A stock client has
    /// a rule of its own, mostly that the one whose handshake it saw first stays. Where the
    /// handshakes cross, any choice of ours could close the one that it keeps; so it is left the choice.
    /// Another address cannot push a peer out by using its id.
    fn of_two(&self, old: &Peer, newcomer: &Newcomer) -> Stays {
        if old.address.ip() != newcomer.address.ip() {
            Stays::Old
        } else if old.was_dialled == newcomer.was_dialled {
            Stays::New
        } else if !newcomer.id.is_ours() {
            Stays::Both
        } else if newcomer.was_dialled == (self.id < newcomer.id) {
            Stays::New
        } else {
            Stays::Old
        }
    }
}
