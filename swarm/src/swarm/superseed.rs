//! Core: super-seeding (BEP 16): which piece a seed shows to whom, and how long it waits for a
//! request.
//!
//! A seed that announces all its pieces at once sends the same ones to everybody. This one shows a
//! few to each node, the least spread first, so that each piece leaves the server about once and
//! the nodes upload it to each other. BEP 16 shows the next piece only when another peer announces
//! the last one; here it follows as soon as that was sent, so that the link never waits for a HAVE.
//!
//! BitTorrent has no message to withdraw a HAVE. When a shown piece *expires*, the seed only stops
//! waiting for its request: a node that got the piece from another node announces it to leechers,
//! but many clients do not announce it to the peer that showed it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::peer::PeerKey;
use crate::protocol::bitfield::Bitfield;
use crate::protocol::layout::Layout;

/// Bytes shown to all nodes together and not yet sent: enough to keep the link busy until the
/// requests arrive. More only delays each piece at its first node, because they share the link
/// (simulated).
const SHOWN_BYTES: u64 = 1 << 20;

/// The maximum of pieces shown to one node and not yet sent to it. The minimum is one, and for a
/// few nodes two: one on the link, and the next already requested.
const SHOWN_AT_ONCE: u64 = 8;

/// How many nodes without any piece are shown their first one at the same time. If few share the
/// link, their first pieces are complete early, and these nodes upload to the others.
const LANES: usize = 8;

/// How long a shown piece that is not requested delays the next one. Without a limit three nodes
/// that joined late hung: they got what they were shown from other nodes (measured).
const SHOWN_TIMEOUT: Duration = Duration::from_millis(300);

/// A node that receives nothing of what is queued for it loses its lane after this long.
const LANE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a super-seeding server knows about one swarm.
#[derive(Debug)]
pub struct SuperSeed {
    layout: Layout,
    /// For each piece, the connected nodes that have it or were shown it.
    spread: Vec<u16>,
    /// How many pieces have each value of `spread`. The lowest one ends a search; without it each
    /// piece to show would cost a walk over all pieces, up to 2^20.
    levels: BTreeMap<u16, u32>,
    /// Where the search for the next piece continues.
    cursor: u32,
    peers: BTreeMap<PeerKey, Viewer>,
    /// Nodes without any piece that are shown their first one.
    lanes: BTreeSet<PeerKey>,
    /// Nodes without any piece that wait for a lane, in turn.
    waiting: VecDeque<PeerKey>,
}

#[derive(Debug)]
struct Viewer {
    holds: Bitfield,
    /// The pieces that it has or was shown.
    known: Bitfield,
    /// Shown pieces that were not sent yet, with the number of blocks still to send.
    pending: BTreeMap<u32, u32>,
    last_sent: Instant,
}

impl SuperSeed {
    /// A seed from which nobody has anything yet. `salt` chooses the first piece: several seeds of
    /// one torrent should not begin with the same one.
    pub fn new(layout: Layout, salt: u64) -> Self {
        let cursor = u32::try_from(salt % u64::from(layout.pieces())).unwrap_or(0);
        Self {
            layout,
            spread: vec![0; layout.pieces() as usize],
            levels: BTreeMap::from([(0, layout.pieces())]),
            cursor,
            peers: BTreeMap::new(),
            lanes: BTreeSet::new(),
            waiting: VecDeque::new(),
        }
    }

    /// A node joined that will be shown pieces.
    pub fn join(&mut self, key: PeerKey, now: Instant) {
        let none = Bitfield::empty(self.layout.pieces());
        let viewer =
            Viewer { holds: none.clone(), known: none, pending: BTreeMap::new(), last_sent: now };
        self.peers.insert(key, viewer);
    }

    /// A node left, and its pieces with it.
    pub fn leave(&mut self, key: PeerKey) {
        let Some(viewer) = self.peers.remove(&key) else { return };
        self.lanes.remove(&key);
        self.waiting.retain(|other| *other != key);
        // Its copies may have been the only ones.
        for piece in viewer.known.iter() {
            self.set_spread(piece, self.spread[piece as usize] - 1);
        }
    }

    /// A node has one more piece. Returns whether that is new, or was waited for.
    pub fn holds(&mut self, key: PeerKey, piece: u32) -> bool {
        let Some(viewer) = self.peers.get_mut(&key) else { return false };
        let was_awaited = viewer.pending.remove(&piece).is_some();
        // It can upload to others from now on: its lane is for the next node.
        self.lanes.remove(&key);
        let is_new = viewer.holds.insert(piece);
        if viewer.known.insert(piece) {
            self.set_spread(piece, self.spread[piece as usize] + 1);
        }
        is_new || was_awaited
    }

    /// Sets how many nodes have the piece or were shown it; the only place that writes both
    /// indices.
    fn set_spread(&mut self, piece: u32, count: u16) {
        let old = std::mem::replace(&mut self.spread[piece as usize], count);
        if let Some(pieces) = self.levels.get_mut(&old) {
            *pieces -= 1;
            if *pieces == 0 {
                self.levels.remove(&old);
            }
        }
        *self.levels.entry(count).or_default() += 1;
    }

    /// A block of a piece was sent to a node.
    ///
    /// After the last block the node counts as having the piece: most clients send no HAVE to the
    /// peer from which they got it.
    pub fn sent(&mut self, key: PeerKey, piece: u32, now: Instant) {
        let Some(viewer) = self.peers.get_mut(&key) else { return };
        viewer.last_sent = now;
        let Some(left) = viewer.pending.get_mut(&piece) else { return };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.holds(key, piece);
        }
    }

    /// What to show now, after something happened to this node: to it, and to nodes that wait for a
    /// lane.
    pub fn show(&mut self, key: PeerKey) -> Vec<(PeerKey, u32)> {
        let mut shown = Vec::new();
        if !self.holds_nothing(key) || self.lanes.contains(&key) {
            self.show_one(key, &mut shown);
        } else if !self.waiting.contains(&key) {
            self.waiting.push_back(key);
        }
        while self.lanes.len() < LANES
            && let Some(next) = self.waiting.pop_front()
        {
            if self.holds_nothing(next) {
                self.lanes.insert(next);
            }
            self.show_one(next, &mut shown);
        }
        shown
    }

    /// Whether a connected node has no piece yet.
    fn holds_nothing(&self, key: PeerKey) -> bool {
        self.peers.get(&key).is_some_and(|viewer| viewer.holds.count() == 0)
    }

    fn show_one(&mut self, key: PeerKey, shown: &mut Vec<(PeerKey, u32)>) {
        let viewers = self.peers.len();
        let Some(viewer) = self.peers.get(&key) else { return };
        let max_pending = match viewer.holds.count() {
            // The first piece alone: the sooner it is complete, the sooner the node can upload.
            0 => 1,
            _ => at_once(self.layout, viewers),
        };
        for _ in viewer.pending.len()..max_pending {
            let Some(piece) = self.least_spread(key) else { break };
            let count = self.spread[piece as usize];
            if count == 0 {
                // Pieces that nobody has are shown in order; later rounds begin where this one
                // ended.
                self.cursor = piece + 1;
            }
            self.set_spread(piece, count + 1);
            if let Some(viewer) = self.peers.get_mut(&key) {
                viewer.known.insert(piece);
                viewer.pending.insert(piece, self.layout.blocks_of(piece));
            }
            shown.push((key, piece));
        }
    }

    /// The least spread piece that a node neither has nor was shown, from the cursor on.
    fn least_spread(&self, key: PeerKey) -> Option<u32> {
        let viewer = self.peers.get(&key).filter(|viewer| !viewer.known.is_full())?;
        let (&least, _) = self.levels.first_key_value()?;
        let pieces = self.layout.pieces();
        let mut best: Option<(u16, u32)> = None;
        for piece in (self.cursor..pieces).chain(0..self.cursor.min(pieces)) {
            let count = self.spread[piece as usize];
            if best.is_none_or(|(so_far, _)| count < so_far) && !viewer.known.contains(piece) {
                best = Some((count, piece));
                // No piece has a lower count.
                if count == least {
                    break;
                }
            }
        }
        best.map(|(_, piece)| piece)
    }

    /// Stops waiting for nodes that request nothing of what they were shown; returns these nodes.
    /// `is_idle` returns whether nothing is queued for a node.
    pub fn expire(&mut self, now: Instant, is_idle: impl Fn(PeerKey) -> bool) -> Vec<PeerKey> {
        let mut expired = Vec::new();
        for (key, viewer) in &mut self.peers {
            let silent = now.saturating_duration_since(viewer.last_sent) >= SHOWN_TIMEOUT;
            let is_lost = now.saturating_duration_since(viewer.last_sent) >= LANE_TIMEOUT;
            // If blocks are queued for it, it has requested them and its link is slow: it may take
            // its time, but not keep a lane.
            let is_over = is_idle(*key) || (is_lost && self.lanes.contains(key));
            if silent && !viewer.pending.is_empty() && is_over {
                viewer.pending.clear();
                // The time-out of the next piece starts now.
                viewer.last_sent = now;
                self.lanes.remove(key);
                expired.push(*key);
            }
        }
        expired
    }
}

/// How many pieces a node that has some is shown at the same time, if there are so many nodes.
fn at_once(layout: Layout, viewers: usize) -> usize {
    let share = SHOWN_BYTES / u64::from(layout.piece_length()) / viewers.max(1) as u64;
    let least = if viewers <= LANES { 2 } else { 1 };
    share.clamp(least, SHOWN_AT_ONCE) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl SuperSeed {
        /// Counts both indices again from the pieces that each node has or was shown, and compares.
        ///
        /// # Panics
        /// If one of them, or the state of a node, is wrong.
        fn check_invariants(&self) {
            let pieces = self.layout.pieces();
            let knowing = |piece| self.peers.values().filter(|it| it.known.contains(piece)).count();
            let spread: Vec<u16> =
                (0..pieces).map(|piece| knowing(piece).try_into().expect("few nodes")).collect();
            let mut levels = BTreeMap::new();
            spread.iter().for_each(|count| *levels.entry(*count).or_default() += 1);
            assert_eq!((&self.spread, &self.levels), (&spread, &levels), "kept and counted");
            for (key, viewer) in &self.peers {
                assert_eq!(viewer.holds.without(&viewer.known).next(), None, "{key:?}");
                assert!(viewer.pending.len() as u64 <= SHOWN_AT_ONCE, "{viewer:?}");
                for (piece, left) in &viewer.pending {
                    let is_shown = viewer.known.contains(*piece) && !viewer.holds.contains(*piece);
                    assert!(is_shown, "{key:?} is to get {piece}, which it has or was not shown");
                    assert!((1..=self.layout.blocks_of(*piece)).contains(left), "{viewer:?}");
                }
            }
            assert!(self.lanes.len() <= LANES && self.cursor <= pieces);
            assert!(self.lanes.iter().all(|key| self.holds_nothing(*key)), "a lane is not needed");
            let waiting: BTreeSet<PeerKey> = self.waiting.iter().copied().collect();
            assert_eq!(waiting.len(), self.waiting.len(), "a node waits twice");
            assert!(waiting.iter().all(|key| self.peers.contains_key(key)), "one that left waits");
            assert!(waiting.is_disjoint(&self.lanes), "a node with a lane waits for one");
        }

        /// The lowest `spread` among the pieces that a node neither has nor was shown, by a walk
        /// over all pieces.
        fn lowest_spread(&self, key: PeerKey) -> Option<u16> {
            let viewer = self.peers.get(&key)?;
            let unknown =
                (0..).zip(&self.spread).filter(|(piece, _)| !viewer.known.contains(*piece));
            unknown.map(|(_, count)| *count).min()
        }
    }

    /// Pieces of 512 KiB, so that two nodes are shown two each.
    const PIECE: u32 = 512 << 10;

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn seed(pieces: u32, nodes: u64) -> (SuperSeed, Instant) {
        let now = Instant::now();
        let total = u64::from(pieces) * u64::from(PIECE);
        let layout = Layout::new(total, PIECE).expect("within the limits");
        let mut seed = SuperSeed::new(layout, 0);
        (0..nodes).for_each(|key| seed.join(PeerKey(key), now));
        (seed, now)
    }

    fn pieces(shown: Vec<(PeerKey, u32)>) -> Vec<u32> {
        shown.into_iter().map(|(_, piece)| piece).collect()
    }

    /// Sends a complete piece.
    fn send(seed: &mut SuperSeed, key: u64, piece: u32, now: Instant) {
        (0..32).for_each(|_| seed.sent(PeerKey(key), piece, now));
    }

    #[test]
    fn each_node_is_shown_other_pieces_the_first_one_alone() {
        let (mut seed, now) = seed(9, 2);
        assert_eq!(pieces(seed.show(PeerKey(0))), [0]);
        assert_eq!(pieces(seed.show(PeerKey(1))), [1]);
        assert!(seed.show(PeerKey(0)).is_empty());
        send(&mut seed, 0, 0, now);
        assert_eq!(pieces(seed.show(PeerKey(0))), [2, 3]);
    }

    #[test]
    fn a_few_nodes_are_shown_more_at_once_than_many() {
        let layout = Layout::new(64 << 20, 64 << 10).expect("within the limits");
        assert_eq!([1, 4, 8, 16, 200].map(|viewers| at_once(layout, viewers)), [8, 4, 2, 1, 1]);
        let layout = Layout::new(64 << 30, 4 << 20).expect("within the limits");
        assert_eq!([1, 8, 9].map(|viewers| at_once(layout, viewers)), [2, 2, 1]);
    }

    #[test]
    fn first_pieces_go_to_few_at_a_time() {
        let (mut seed, now) = seed(30, 10);
        let shown: Vec<u32> = (0..10).flat_map(|key| pieces(seed.show(PeerKey(key)))).collect();
        assert_eq!(shown, [0, 1, 2, 3, 4, 5, 6, 7]);
        send(&mut seed, 3, 3, now);
        assert_eq!(seed.show(PeerKey(3)), [(PeerKey(3), 8), (PeerKey(8), 9)]);
        seed.leave(PeerKey(0));
        assert_eq!(seed.show(PeerKey(0)), [(PeerKey(9), 10)]);
    }

    #[test]
    fn a_piece_that_was_sent_makes_room_for_the_next() {
        let (mut seed, now) = seed(9, 2);
        seed.show(PeerKey(0));
        send(&mut seed, 0, 0, now);
        assert_eq!(pieces(seed.show(PeerKey(0))), [1, 2]);
        (0..31).for_each(|_| seed.sent(PeerKey(0), 1, now));
        assert!(seed.show(PeerKey(0)).is_empty());
        seed.sent(PeerKey(0), 1, now);
        assert_eq!(pieces(seed.show(PeerKey(0))), [3]);
    }

    #[test]
    fn the_seed_stops_waiting_for_unrequested_pieces_after_300_ms() {
        let (mut seed, now) = seed(9, 1);
        seed.show(PeerKey(0));
        assert!(seed.expire(now + Duration::from_millis(299), |_| true).is_empty());
        let later = now + Duration::from_millis(300);
        assert!(seed.expire(later, |_| false).is_empty());
        assert_eq!(seed.expire(later, |_| true), [PeerKey(0)]);
        assert_eq!(pieces(seed.show(PeerKey(0))), [1]);
    }

    #[test]
    fn a_node_that_receives_nothing_loses_its_lane_to_one_that_waits() {
        let (mut seed, now) = seed(30, 9);
        (0..9).for_each(|key| {
            seed.show(PeerKey(key));
        });
        assert!(seed.expire(now + SHOWN_TIMEOUT, |_| false).is_empty());
        let later = now + LANE_TIMEOUT;
        assert_eq!(seed.expire(later, |_| false).len(), 8);
        let shown = seed.show(PeerKey(0));
        assert_eq!(shown.first().map(|(key, _)| *key), Some(PeerKey(8)));
    }

    #[test]
    fn every_node_is_shown_everything_in_the_end() {
        let (mut seed, mut now) = seed(10, 2);
        let mut shown = [Vec::new(), Vec::new()];
        for _ in 0..12 {
            for (key, seen) in (0..).zip(&mut shown) {
                seen.extend(pieces(seed.show(PeerKey(key))));
            }
            now += SHOWN_TIMEOUT;
            seed.expire(now, |_| true);
        }
        for mut pieces in shown {
            pieces.sort_unstable();
            assert_eq!(pieces, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn pieces_of_a_node_that_left_count_as_not_spread() {
        let (mut seed, _) = seed(4, 2);
        assert_eq!(pieces(seed.show(PeerKey(0))), [0]);
        seed.leave(PeerKey(0));
        assert_eq!(pieces(seed.show(PeerKey(1))), [1]);
        seed.holds(PeerKey(1), 1);
        assert_eq!(pieces(seed.show(PeerKey(1))), [2, 3]);
        seed.holds(PeerKey(1), 2);
        assert_eq!(pieces(seed.show(PeerKey(1))), [0]);
        assert_eq!(seed.spread, [1, 1, 1, 1]);
    }

    /// Something that happens to a seed.
    #[derive(Debug, Clone)]
    enum Step {
        Join(u64),
        Leave(u64),
        Holds(u64, u32),
        Show(u64),
        /// A block of the nth piece that the node waits for was sent.
        Sent(u64, usize),
        /// A block of any piece was sent: a client may request what it was not shown.
        SentUnshown(u64, u32),
        /// Time passes; whether nothing is queued for any node.
        Expire(u64, bool),
    }

    /// More nodes than lanes, and so few pieces that each is shown several times.
    const NODES: u64 = 12;
    const PIECES: u32 = 10;

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0..NODES).prop_map(Step::Join),
            1 => (0..NODES).prop_map(Step::Leave),
            1 => (0..NODES, 0..PIECES + 1).prop_map(|(node, piece)| Step::Holds(node, piece)),
            3 => (0..NODES).prop_map(Step::Show),
            3 => (0..NODES, 0..3_usize).prop_map(|(node, nth)| Step::Sent(node, nth)),
            1 => (0..NODES, 0..PIECES).prop_map(|(node, piece)| Step::SentUnshown(node, piece)),
            1 => (0..3000_u64, any::<bool>()).prop_map(|(ms, is_idle)| Step::Expire(ms, is_idle)),
        ]
    }

    proptest! {
        #[test]
        fn no_order_of_events_breaks_the_indices(
            first in 0..=NODES,
            steps in proptest::collection::vec(step(), 0..200),
            salt: u64,
        ) {
            let (_, mut now) = seed(1, 0);
            // The last piece is shorter: one block instead of two.
            let total = u64::from(PIECES) * 32768 - 20000;
            let layout = Layout::new(total, 32768).expect("within the limits");
            let mut seed = SuperSeed::new(layout, salt);
            // A room that starts together: some nodes have a lane, others wait.
            for node in 0..first {
                seed.join(PeerKey(node), now);
                seed.show(PeerKey(node));
            }
            for step in steps {
                match step {
                    Step::Join(node) if !seed.peers.contains_key(&PeerKey(node)) => {
                        seed.join(PeerKey(node), now);
                    }
                    // A key is never used twice at the same time.
                    Step::Join(_) => {}
                    Step::Leave(node) => seed.leave(PeerKey(node)),
                    Step::Holds(node, piece) => {
                        seed.holds(PeerKey(node), piece);
                    }
                    Step::Show(node) => {
                        let known: BTreeMap<PeerKey, Bitfield> =
                            seed.peers.iter().map(|(key, it)| (*key, it.known.clone())).collect();
                        for (viewer, piece) in seed.show(PeerKey(node)) {
                            prop_assert!(!known[&viewer].contains(piece), "shown twice");
                        }
                    }
                    Step::Sent(node, nth) => {
                        let viewer = seed.peers.get(&PeerKey(node));
                        let piece = viewer.and_then(|it| it.pending.keys().nth(nth)).copied();
                        piece.into_iter().for_each(|piece| seed.sent(PeerKey(node), piece, now));
                    }
                    Step::SentUnshown(node, piece) => seed.sent(PeerKey(node), piece, now),
                    Step::Expire(ms, is_idle) => {
                        now += Duration::from_millis(ms);
                        for key in seed.expire(now, |_| is_idle) {
                            prop_assert!(seed.peers[&key].pending.is_empty());
                        }
                    }
                }
                seed.check_invariants();
                for key in seed.peers.keys() {
                    let found = seed.least_spread(*key);
                    let count = found.map(|piece| seed.spread[piece as usize]);
                    prop_assert_eq!(count, seed.lowest_spread(*key), "the search ended too early");
                }
            }
        }
    }
}
