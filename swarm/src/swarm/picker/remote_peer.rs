//! Core: what is known about one connected peer, and what is requested from it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use super::request_window::RequestWindow;
use crate::protocol::bitfield::Bitfield;
use crate::protocol::layout::{BLOCK, Block};
use crate::swarm::meter::Meter;

/// A connected peer, as the picker sees it.
#[derive(Debug)]
pub(super) struct RemotePeer {
    pub(super) ip: IpAddr,
    pub(super) is_near: bool,
    pub(super) salt: u64,
    pub(super) holds: Bitfield,
    /// How many of the pieces that it has are missing here and not started.
    pub(super) fresh: u32,
    pub(super) is_choking: bool,
    /// Requests that are open, oldest first.
    pub(super) requested: VecDeque<Block>,
    /// Requests that timed out or were voided by a choke; a late answer is still used.
    pub(super) late: VecDeque<Block>,
    pub(super) current: Option<u32>,
    pub(super) meter: Meter,
    pub(super) last_progress: Instant,
    pub(super) is_snubbed: bool,
    pub(super) window: RequestWindow,
    /// Whether it ever sent a block. Until then, no block is requested from it that is also
    /// requested from another peer.
    pub(super) has_sent: bool,
}

impl RemotePeer {
    /// A peer of which nothing is known: it has no pieces and chokes (BEP 3).
    pub(super) fn new(ip: IpAddr, is_near: bool, salt: u64, pieces: u32, now: Instant) -> Self {
        Self {
            ip,
            is_near,
            salt,
            holds: Bitfield::empty(pieces),
            fresh: 0,
            is_choking: true,
            requested: VecDeque::new(),
            late: VecDeque::new(),
            current: None,
            meter: Meter::new(now),
            last_progress: now,
            is_snubbed: false,
            window: RequestWindow::new(now),
            has_sent: false,
        }
    }

    /// How many requests to keep open at this peer.
    pub(super) fn window_size(&mut self, now: Instant) -> usize {
        if self.is_snubbed {
            return 1;
        }
        self.window.size(self.meter.rate(now) / f64::from(BLOCK))
    }
}

/// Removes a block from a queue; returns whether it was there.
pub(super) fn remove(blocks: &mut VecDeque<Block>, block: Block) -> bool {
    let found = blocks.iter().position(|other| *other == block);
    found.and_then(|at| blocks.remove(at)).is_some()
}
