//! Core: which piece a seed shows to whom, and when it takes one back.
//!
//! A seed that names all its pieces at once gives the same ones to everybody. This one names two or
//! three to each node, the least spread first, so that each piece leaves the server about once
//! and the nodes pass it on (BEP 16 in spirit; there is no wire message for it).
//!
//! What was shown stays shown: the wire knows no "have not". To *take back* means only to stop
//! waiting: a node that got the piece elsewhere never says so to the one who showed it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{bitfield::Bitfield, layout::Layout, peer::PeerKey};

/// Pieces shown to a node and not yet sent to it (measured: 2 or 3).
const SHOWN_AT_ONCE: usize = 3;

/// A shown piece that nobody asks for holds up the next one for this long (measured).
const TAKE_BACK: Duration = Duration::from_millis(300);

/// What a super-seeding server knows of one swarm.
#[derive(Debug)]
pub struct SuperSeed {
    layout: Layout,
    /// Connected nodes that hold the piece, and those that were shown it and do not hold it yet.
    spread: Vec<u16>,
    /// Where the search for a fresh piece goes on.
    cursor: u32,
    peers: BTreeMap<PeerKey, Viewer>,
}

#[derive(Debug)]
struct Viewer {
    holds: Bitfield,
    shown: Bitfield,
    /// Pieces shown and the blocks of each that are still to be sent.
    pending: BTreeMap<u32, u32>,
    last_sent: Instant,
}

impl SuperSeed {
    /// A seed of which nobody holds anything yet.
    pub fn new(layout: Layout) -> Self {
        let spread = vec![0; layout.pieces() as usize];
        Self { layout, spread, cursor: 0, peers: BTreeMap::new() }
    }

    /// A node came that is to be shown pieces.
    pub fn join(&mut self, key: PeerKey, now: Instant) {
        let none = Bitfield::empty(self.layout.pieces());
        let viewer =
            Viewer { holds: none.clone(), shown: none, pending: BTreeMap::new(), last_sent: now };
        self.peers.insert(key, viewer);
    }

    /// A node went, and what it held with it.
    pub fn leave(&mut self, key: PeerKey) {
        let Some(viewer) = self.peers.remove(&key) else { return };
        for piece in 0..self.layout.pieces() {
            if viewer.holds.contains(piece) || viewer.shown.contains(piece) {
                self.spread[piece as usize] -= 1;
            }
        }
    }

    /// A node holds one more piece.
    pub fn holds(&mut self, key: PeerKey, piece: u32) {
        let Some(viewer) = self.peers.get_mut(&key) else { return };
        viewer.pending.remove(&piece);
        if viewer.holds.insert(piece) && !viewer.shown.contains(piece) {
            self.spread[piece as usize] += 1;
        }
    }

    /// A block of a piece went out to a node.
    ///
    /// After the last block the node counts as holding the piece: most clients do not tell the one
    /// they have it from.
    pub fn sent(&mut self, key: PeerKey, piece: u32, now: Instant) {
        let Some(viewer) = self.peers.get_mut(&key) else { return };
        viewer.last_sent = now;
        let Some(left) = viewer.pending.get_mut(&piece) else { return };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.holds(key, piece);
        }
    }

    /// The pieces to show to a node now.
    pub fn show(&mut self, key: PeerKey) -> Vec<u32> {
        let mut pieces = Vec::new();
        let Some(viewer) = self.peers.get_mut(&key) else { return pieces };
        while viewer.pending.len() < SHOWN_AT_ONCE {
            let Some(piece) = least_spread(&self.spread, self.cursor, viewer) else { break };
            if self.spread[piece as usize] == 0 {
                self.cursor = piece + 1;
            }
            viewer.shown.insert(piece);
            self.spread[piece as usize] += 1;
            viewer.pending.insert(piece, self.layout.blocks_of(piece));
            pieces.push(piece);
        }
        pieces
    }

    /// Stops waiting for nodes that ask for nothing of what they were shown; returns these nodes.
    /// `is_idle` says whether nothing is queued for a node.
    pub fn take_back(&mut self, now: Instant, is_idle: impl Fn(PeerKey) -> bool) -> Vec<PeerKey> {
        let mut forgiven = Vec::new();
        for (key, viewer) in &mut self.peers {
            let silent = now.saturating_duration_since(viewer.last_sent) >= TAKE_BACK;
            if silent && !viewer.pending.is_empty() && is_idle(*key) {
                viewer.pending.clear();
                viewer.last_sent = now;
                forgiven.push(*key);
            }
        }
        forgiven
    }
}

/// The least spread piece that a node neither holds nor was shown, from the cursor on.
fn least_spread(spread: &[u16], cursor: u32, viewer: &Viewer) -> Option<u32> {
    let pieces = u32::try_from(spread.len()).unwrap_or(u32::MAX);
    let mut best: Option<(u16, u32)> = None;
    for step in 0..pieces {
        let piece = (cursor + step) % pieces;
        if viewer.holds.contains(piece) || viewer.shown.contains(piece) {
            continue;
        }
        let count = spread[piece as usize];
        if best.is_none_or(|(least, _)| count < least) {
            best = Some((count, piece));
            if count == 0 {
                break;
            }
        }
    }
    best.map(|(_, piece)| piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn seed(pieces: u32, nodes: u64) -> (SuperSeed, Instant) {
        let now = Instant::now();
        let layout = Layout::new(u64::from(pieces) * 32768, 32768).expect("within the limits");
        let mut seed = SuperSeed::new(layout);
        (0..nodes).for_each(|key| seed.join(PeerKey(key), now));
        (seed, now)
    }

    #[test]
    fn each_node_is_shown_other_pieces() {
        let (mut seed, _) = seed(9, 3);
        let shown: Vec<Vec<u32>> = (0..3).map(|key| seed.show(PeerKey(key))).collect();
        assert_eq!(shown, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]);
        assert!(seed.show(PeerKey(0)).is_empty());
    }

    #[test]
    fn a_piece_that_was_sent_makes_room_for_the_next() {
        let (mut seed, now) = seed(9, 1);
        seed.show(PeerKey(0));
        seed.sent(PeerKey(0), 1, now);
        assert!(seed.show(PeerKey(0)).is_empty());
        seed.sent(PeerKey(0), 1, now);
        assert_eq!(seed.show(PeerKey(0)), [3]);
    }

    #[test]
    fn what_is_not_asked_for_is_taken_back_after_300_ms() {
        let (mut seed, now) = seed(9, 1);
        seed.show(PeerKey(0));
        assert!(seed.take_back(now + Duration::from_millis(299), |_| true).is_empty());
        let later = now + Duration::from_millis(300);
        assert!(seed.take_back(later, |_| false).is_empty());
        assert_eq!(seed.take_back(later, |_| true), [PeerKey(0)]);
        assert_eq!(seed.show(PeerKey(0)), [3, 4, 5]);
    }

    #[test]
    fn every_node_is_shown_everything_in_the_end() {
        let (mut seed, mut now) = seed(10, 2);
        let mut shown = [Vec::new(), Vec::new()];
        for _ in 0..10 {
            for (key, pieces) in (0..).zip(&mut shown) {
                pieces.extend(seed.show(PeerKey(key)));
            }
            now += TAKE_BACK;
            seed.take_back(now, |_| true);
        }
        for mut pieces in shown {
            pieces.sort_unstable();
            assert_eq!(pieces, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn pieces_of_a_node_that_left_count_as_not_spread() {
        let (mut seed, _) = seed(6, 2);
        assert_eq!(seed.show(PeerKey(0)), [0, 1, 2]);
        seed.leave(PeerKey(0));
        assert_eq!(seed.show(PeerKey(1)), [3, 4, 5]);
        seed.holds(PeerKey(1), 3);
        assert_eq!(seed.show(PeerKey(1)), [0]);
        assert_eq!(seed.spread, [1, 0, 0, 1, 1, 1]);
    }
}
