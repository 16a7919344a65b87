//! Core: who may join a swarm, and which of two connections to one peer stays.

use std::{net::SocketAddr, time::Instant};

use super::Swarm;
use crate::peer::{Peer, PeerId};

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
        let old = self.peers.iter().find(|(_, peer)| peer.id == newcomer.id);
        if let Some((key, old)) = old {
            if !self.replaces(old, newcomer) {
                return Err(Refusal::Duplicate);
            }
            self.leave(*key, now);
        }
        let neighbours = self.peers.values().filter(|peer| peer.address.ip() == ip).count();
        let most = if self.is_seed() { MAX_PEERS_OF_SEED } else { MAX_PEERS };
        if self.peers.len() >= most || neighbours >= MAX_PEERS_PER_ADDRESS {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    /// Which of two connections to one peer stays; both ends come to the same answer.
    ///
    /// If both dialled, the one dialled by the smaller id stays. If one of them dialled again, it
    /// has given up its first connection. Another address cannot push a peer out by using its id.
    fn replaces(&self, old: &Peer, newcomer: &Newcomer) -> bool {
        if old.address.ip() != newcomer.address.ip() {
            return false;
        }
        old.was_dialled == newcomer.was_dialled || newcomer.was_dialled == (self.id < newcomer.id)
    }
}
