//! Core: a piece that is being downloaded.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::swarm::peer::PeerKey;

/// A piece on parole must arrive at this rate at least, or it is requested from another peer.
const RATE_ALONE: (usize, Duration) = (16, Duration::from_secs(6));

/// The blocks of one piece between the first request and the check of its hash.
#[derive(Debug)]
pub(super) struct PartialPiece {
    blocks: Vec<BlockState>,
    free: usize,
    unstored: usize,
    senders: Senders,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlockState {
    Free,
    /// Requested from so many peers.
    Requested(u8),
    /// Received, and being stored.
    Received(IpAddr),
    Stored(IpAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Senders {
    Anyone,
    /// The piece is on parole: only this peer may send it, and got its first request at that time.
    Only(PeerKey, Instant),
}

impl PartialPiece {
    pub(super) fn new(blocks: u32) -> Self {
        let blocks = vec![BlockState::Free; blocks as usize];
        Self { free: blocks.len(), unstored: blocks.len(), blocks, senders: Senders::Anyone }
    }

    pub(super) fn free(&self) -> usize {
        self.free
    }

    pub(super) fn first_free(&self) -> Option<u32> {
        let at = self.blocks.iter().position(|state| *state == BlockState::Free)?;
        u32::try_from(at).ok()
    }

    /// Whether there is a block to request from this peer.
    pub(super) fn is_open_to(&self, key: PeerKey) -> bool {
        self.free > 0 && (self.senders == Senders::Anyone || self.is_only(key))
    }

    fn is_only(&self, key: PeerKey) -> bool {
        matches!(self.senders, Senders::Only(only, _) if only == key)
    }

    /// Whether the piece is on parole with this peer, and takes too long.
    pub(super) fn is_late(&self, key: PeerKey, now: Instant) -> bool {
        let Senders::Only(only, since) = self.senders else { return false };
        let (blocks, time) = RATE_ALONE;
        // Pieces of 64 KiB and of 4 MiB must arrive at the same rate.
        let turns = u32::try_from(1 + self.blocks.len() / blocks).unwrap_or(u32::MAX);
        only == key && now.saturating_duration_since(since) >= time.saturating_mul(turns)
    }

    pub(super) fn allows_duplicates(&self) -> bool {
        self.senders == Senders::Anyone
    }

    /// Nothing was received and nothing is requested.
    pub(super) fn is_untouched(&self) -> bool {
        self.free == self.blocks.len()
    }

    /// A block is requested; with `only`, all of the piece must come from that peer from that time
    /// on.
    pub(super) fn request(&mut self, index: u32, only: Option<(PeerKey, Instant)>) {
        if let Some((key, now)) = only
            && !self.is_only(key)
        {
            self.senders = Senders::Only(key, now);
        }
        let state = &mut self.blocks[index as usize];
        *state = match *state {
            BlockState::Free => {
                self.free -= 1;
                BlockState::Requested(1)
            }
            BlockState::Requested(times) => BlockState::Requested(times.saturating_add(1)),
            other => other,
        };
    }

    /// One request for a block is void.
    pub(super) fn release(&mut self, index: u32) {
        let state = &mut self.blocks[index as usize];
        *state = match *state {
            BlockState::Requested(1) => {
                self.free += 1;
                BlockState::Free
            }
            BlockState::Requested(times) => BlockState::Requested(times - 1),
            other => other,
        };
    }

    /// A block arrived. Returns how often it was requested, or `None` if it had arrived before or
    /// may not come from this peer.
    pub(super) fn receive(
        &mut self,
        index: u32,
        key: PeerKey,
        ip: IpAddr,
        was_open: bool,
    ) -> Option<u8> {
        // A late block may belong to the attempt that failed. With it, the piece would no longer
        // come from one peer alone, and its hash would prove nothing.
        if matches!(self.senders, Senders::Only(only, _) if only != key || !was_open) {
            return None;
        }
        let state = &mut self.blocks[index as usize];
        let requested = match *state {
            BlockState::Received(_) | BlockState::Stored(_) => return None,
            BlockState::Free => {
                self.free -= 1;
                0
            }
            BlockState::Requested(times) => times,
        };
        *state = BlockState::Received(ip);
        Some(requested)
    }

    /// A block is in the storage; `true` if it was the last.
    pub(super) fn store(&mut self, index: u32) -> bool {
        let state = &mut self.blocks[index as usize];
        let BlockState::Received(ip) = *state else { return false };
        *state = BlockState::Stored(ip);
        self.unstored -= 1;
        self.unstored == 0
    }

    /// A peer's requests are void. A piece on parole with it starts again from nothing, unless all
    /// of its blocks have arrived and only the check of its hash is missing.
    pub(super) fn give_up(&mut self, key: PeerKey) {
        let is_here =
            |state: &BlockState| matches!(state, BlockState::Received(_) | BlockState::Stored(_));
        if self.is_only(key) && !self.blocks.iter().all(is_here) {
            *self = Self::new(u32::try_from(self.blocks.len()).unwrap_or(u32::MAX));
        }
    }

    /// Blocks that are requested, fewer than `limit` times, with how often.
    pub(super) fn requested(&self, limit: u8) -> impl Iterator<Item = (u32, u8)> + '_ {
        (0..).zip(&self.blocks).filter_map(move |(index, state)| match state {
            BlockState::Requested(times) if *times < limit => Some((index, *times)),
            _ => None,
        })
    }

    /// Compares the counts with the blocks, and each block with its number of open requests.
    ///
    /// # Panics
    /// If one of them is wrong.
    #[cfg(test)]
    pub(super) fn check_invariants(&self, requesters: impl Fn(u32) -> usize) {
        let count =
            |is: fn(&BlockState) -> bool| self.blocks.iter().filter(|state| is(state)).count();
        assert_eq!(self.free, count(|state| *state == BlockState::Free), "{self:?}");
        assert_eq!(
            self.unstored,
            count(|state| !matches!(state, BlockState::Stored(_))),
            "{self:?}"
        );
        for (index, state) in (0..).zip(&self.blocks) {
            let times =
                if let BlockState::Requested(times) = state { usize::from(*times) } else { 0 };
            assert_eq!(times, requesters(index), "block {index} of {self:?}");
        }
    }

    /// The contributor of each block.
    pub(super) fn contributors(&self) -> Vec<IpAddr> {
        let got = self.blocks.iter().filter_map(|state| match state {
            BlockState::Received(ip) | BlockState::Stored(ip) => Some(*ip),
            BlockState::Free | BlockState::Requested(_) => None,
        });
        got.collect()
    }
}
