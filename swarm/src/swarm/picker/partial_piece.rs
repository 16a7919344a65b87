//! Core: a piece that is being fetched.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::swarm::peer::PeerKey;

/// A piece that one peer alone shall give must come at this rate at least, or another peer gets the
/// task.
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
    /// Asked for, this many times.
    Requested(u8),
    /// Here, and on its way into the storage.
    Received(IpAddr),
    Stored(IpAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Senders {
    Anyone,
    /// The piece failed before: this peer alone may give it, and was first asked then.
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

    /// Whether there is a block to ask this peer for.
    pub(super) fn is_open_to(&self, key: PeerKey) -> bool {
        self.free > 0 && (self.senders == Senders::Anyone || self.is_only(key))
    }

    fn is_only(&self, key: PeerKey) -> bool {
        matches!(self.senders, Senders::Only(only, _) if only == key)
    }

    /// Whether this peer alone is to give the piece and takes too long for it.
    pub(super) fn is_late(&self, key: PeerKey, now: Instant) -> bool {
        let Senders::Only(only, since) = self.senders else { return false };
        let (blocks, time) = RATE_ALONE;
        // Pieces of 64 KiB and of 4 MiB must come at the same rate.
        let turns = u32::try_from(1 + self.blocks.len() / blocks).unwrap_or(u32::MAX);
        only == key && now.saturating_duration_since(since) >= time.saturating_mul(turns)
    }

    pub(super) fn allows_duplicates(&self) -> bool {
        self.senders == Senders::Anyone
    }

    /// Nothing is here and nothing is asked for.
    pub(super) fn is_untouched(&self) -> bool {
        self.free == self.blocks.len()
    }

    /// A block is asked for; with `only`, the whole piece is to come from that peer from that
    /// moment on.
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

    /// A block came. How often it was asked for until now, or `None` if it is here already or may
    /// not come from this peer.
    pub(super) fn receive(
        &mut self,
        index: u32,
        key: PeerKey,
        ip: IpAddr,
        was_open: bool,
    ) -> Option<u8> {
        // A late block may be of the attempt that failed: it would spoil the proof.
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

    /// A peer gives up. If the piece was to come from it alone, it starts again from nothing,
    /// unless it is complete and only its check is missing.
    pub(super) fn give_up(&mut self, key: PeerKey) {
        let is_here =
            |state: &BlockState| matches!(state, BlockState::Received(_) | BlockState::Stored(_));
        if self.is_only(key) && !self.blocks.iter().all(is_here) {
            *self = Self::new(u32::try_from(self.blocks.len()).unwrap_or(u32::MAX));
        }
    }

    /// Blocks that are asked for, fewer than `limit` times.
    pub(super) fn requested(&self, limit: u8) -> impl Iterator<Item = (u32, u8)> + '_ {
        (0..).zip(&self.blocks).filter_map(move |(index, state)| match state {
            BlockState::Requested(times) if *times < limit => Some((index, *times)),
            _ => None,
        })
    }

    /// Compares the counts with the blocks, and each block with the peers that are asked for it
    /// now.
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

    /// Who gave each block.
    pub(super) fn contributors(&self) -> Vec<IpAddr> {
        let got = self.blocks.iter().filter_map(|state| match state {
            BlockState::Received(ip) | BlockState::Stored(ip) => Some(*ip),
            BlockState::Free | BlockState::Requested(_) => None,
        });
        got.collect()
    }
}
