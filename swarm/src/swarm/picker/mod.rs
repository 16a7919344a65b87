//! Core: which block to request from whom.
//!
//! Rarest piece first; started pieces before new ones; from a seed or complete peer only what
//! nobody else has, since others can send the rest. When everything is requested, the last blocks
//! are requested from a second and third peer, and cancelled when one arrives. A piece with a wrong
//! hash is requested again from one peer alone, so that a second failure proves who sent it.
//!
//! Time and randomness are arguments: `rng_state` is the seed of the small generator.

mod locality;
mod partial_piece;
mod remote_peer;
mod request_window;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub use locality::Locality;
use partial_piece::PartialPiece;
use remote_peer::{RemotePeer, remove};
use share::{is_share_of_another, mix, next_random};

use crate::protocol::bitfield::Bitfield;
use crate::protocol::layout::{Block, Layout};
use crate::swarm::peer::PeerKey;

/// A peer that has sent nothing for this long is snubbed: its requests are reassigned.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(6);

/// The same for a peer that has never sent anything.
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);

/// So many requests are sent together, or half of the window: a packet for each would cost both
/// ends more CPU than its block (measured).
const REQUESTS_AT_ONCE: usize = 4;

/// A slow peer needs [`REQUEST_TIMEOUT`] for one window, and its rate is below this part of the
/// others' average. If every peer is slow, the local link is the bottleneck, and nothing is
/// reassigned.
const SLOW_PEER: f64 = 0.25;

/// Without a new block for this long, a node requests from far peers too what is its neighbours'
/// share.
const STARVED: Duration = Duration::from_secs(1);

/// How often one block may be requested at the same time: two peers may be slow, hardly three.
const MAX_REQUESTS_OF_BLOCK: u8 = 3;

/// Duplicate requests kept open at one peer: each block may arrive twice, which wastes the link.
const END_GAME_WINDOW: usize = 2;

/// How many requests that timed out are remembered for a late answer: twice the largest window.
const MAX_LATE: usize = 512;

/// The state of one download.
#[derive(Debug)]
pub struct Picker {
    layout: Layout,
    have: Bitfield,
    /// How many connected peers have each piece.
    availability: Vec<u16>,
    partial_pieces: BTreeMap<u32, PartialPiece>,
    /// Pieces that are missing and not started.
    fresh: Bitfield,
    /// Started pieces with blocks that are not requested yet.
    open: BTreeSet<u32>,
    /// Pieces that had a wrong hash and must come from one peer alone (libtorrent: on parole), with
    /// the peers that failed to send them.
    on_parole: BTreeMap<u32, BTreeSet<PeerKey>>,
    peers: BTreeMap<PeerKey, RemotePeer>,
    /// How many near peers have each piece.
    near_availability: Vec<u16>,
    own_salt: u64,
    locality: Locality,
    rng_state: u64,
    last_new: Instant,
}

/// What to do with a received block.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// It is new: store it, then call [`Picker::stored`].
    New {
        /// Other peers with a request for it, which must be cancelled.
        cancel: Vec<PeerKey>,
    },
    /// It was requested, but has arrived from another peer in the meantime.
    Duplicate,
    /// It was not requested from this peer.
    Unrequested,
}

/// The contributor of each block of a complete piece, in order.
pub type Contributors = Vec<IpAddr>;

impl Picker {
    /// A download that starts with nothing. `salt` differs from node to node; `rng_state` is any
    /// number.
    pub fn new(
        layout: Layout,
        salt: u64,
        locality: Locality,
        rng_state: u64,
        now: Instant,
    ) -> Self {
        let pieces = layout.pieces();
        Self {
            layout,
            have: Bitfield::empty(pieces),
            availability: vec![0; pieces as usize],
            partial_pieces: BTreeMap::new(),
            fresh: Bitfield::full(pieces),
            open: BTreeSet::new(),
            on_parole: BTreeMap::new(),
            peers: BTreeMap::new(),
            near_availability: vec![0; pieces as usize],
            own_salt: salt,
            locality,
            rng_state,
            last_new: now,
        }
    }

    /// The verified pieces.
    pub fn have(&self) -> &Bitfield {
        &self.have
    }

    /// A peer joined. At first it has no pieces and chokes (BEP 3).
    pub fn join(&mut self, key: PeerKey, ip: IpAddr, salt: u64, now: Instant) {
        let peer = RemotePeer::new(ip, self.locality.is_near(ip), salt, self.layout.pieces(), now);
        self.peers.insert(key, peer);
    }

    /// A peer left; its open requests may go to others.
    pub fn leave(&mut self, key: PeerKey) {
        self.release(key);
        self.on_parole.values_mut().for_each(|failed| {
            failed.remove(&key);
        });
        let Some(peer) = self.peers.remove(&key) else { return };
        for piece in peer.holds.iter() {
            self.availability[piece as usize] -= 1;
            self.near_availability[piece as usize] -= u16::from(peer.is_near);
        }
    }

    /// A peer has one more piece. Returns whether that is a reason to request something from it.
    pub fn holds(&mut self, key: PeerKey, piece: u32) -> bool {
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        if !peer.holds.insert(piece) {
            return false;
        }
        let is_fresh = self.fresh.contains(piece);
        self.availability[piece as usize] += 1;
        self.near_availability[piece as usize] += u16::from(peer.is_near);
        peer.fresh += u32::from(is_fresh);
        // In the end game even blocks that are requested elsewhere may be requested.
        is_fresh || self.open.contains(&piece) || self.all_requested()
    }

    /// Whether a peer is known to have a piece.
    pub fn peer_holds(&self, key: PeerKey, piece: u32) -> bool {
        self.peers.get(&key).is_some_and(|peer| peer.holds.contains(piece))
    }

    /// Whether a peer has any piece that is missing here.
    pub fn wants_from(&self, key: PeerKey) -> bool {
        let Some(peer) = self.peers.get(&key) else { return false };
        let pairs = peer.holds.wire().iter().zip(self.have.wire());
        pairs.into_iter().any(|(theirs, ours)| theirs & !ours != 0)
    }

    /// A peer chokes or unchokes. A choke voids open requests (BEP 3); returns whether there were
    /// any.
    pub fn choked(&mut self, key: PeerKey, is_choking: bool) -> bool {
        // With BEP 6 a choking peer rejects each request that it drops; without it, it drops all
        // silently.
        let voids = is_choking && self.open_requests(key) > 0;
        if is_choking {
            self.release(key);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.is_choking = is_choking;
        }
        voids
    }

    /// The next blocks to request from a peer.
    pub fn fill(&mut self, key: PeerKey, now: Instant) -> Vec<Block> {
        let mut blocks = Vec::new();
        let Some(peer) = self.peers.get_mut(&key) else { return blocks };
        if peer.is_choking || peer.holds.count() == 0 || self.have.is_full() {
            return blocks;
        }
        // It was idle, not silent: nothing was requested from it.
        if peer.requested.is_empty() {
            peer.last_progress = now;
            peer.window.starts(now);
        }
        let window = peer.window_size(now);
        let room = window.saturating_sub(peer.requested.len());
        // A window of less than eight must not run empty before it is filled again.
        if room < REQUESTS_AT_ONCE.min(window / 2) {
            return blocks;
        }
        while self.open_requests(key) < window {
            let Some(block) = self.next_block(key, now) else { break };
            self.request(key, block, now);
            blocks.push(block);
        }
        blocks
    }

    /// A block arrived from a peer; the caller has checked that the layout has it.
    pub fn received(&mut self, key: PeerKey, block: Block, now: Instant) -> Received {
        let Some(peer) = self.peers.get_mut(&key) else { return Received::Unrequested };
        let was_open = remove(&mut peer.requested, block);
        // Refused even if it is missing: a peer must not choose the pieces to which it contributes.
        if !was_open && !remove(&mut peer.late, block) {
            return Received::Unrequested;
        }
        // Even if the block is late or a duplicate: the peer answers.
        peer.last_progress = now;
        peer.is_snubbed = false;
        peer.has_sent = true;
        peer.window.block_received(peer.requested.len(), now);
        peer.meter.add(u64::from(self.layout.range(block).length), now);
        let ip = peer.ip;
        let Some(partial) = self.partial_pieces.get_mut(&block.piece) else {
            return Received::Duplicate;
        };
        let Some(requested) = partial.receive(block.index, key, ip, was_open) else {
            return Received::Duplicate;
        };
        self.update_indices(block.piece);
        self.last_new = now;
        // No other request is open: the usual case, without a walk over all peers.
        if requested == u8::from(was_open) {
            return Received::New { cancel: Vec::new() };
        }
        let cancel = self.peers.iter_mut().filter(|(other, _)| **other != key);
        let cancel =
            cancel.filter_map(|(other, peer)| remove(&mut peer.requested, block).then_some(*other));
        Received::New { cancel: cancel.collect() }
    }

    /// A new block is in the storage. If it was the last one of its piece, returns the
    /// contributors; the piece must then be hashed and [`Picker::passed`] or [`Picker::failed`]
    /// called.
    pub fn stored(&mut self, block: Block) -> Option<Contributors> {
        let partial = self.partial_pieces.get_mut(&block.piece)?;
        partial.store(block.index).then(|| partial.contributors())
    }

    /// A complete piece has the right hash.
    pub fn passed(&mut self, piece: u32) {
        self.on_parole.remove(&piece);
        self.have.insert(piece);
        self.partial_pieces.remove(&piece);
        self.update_indices(piece);
    }

    /// A complete piece has a wrong hash: it is on parole from now on.
    pub fn failed(&mut self, piece: u32) {
        // Peers that failed to send it in an earlier attempt stay excluded.
        self.on_parole.entry(piece).or_default();
        self.partial_pieces.remove(&piece);
        self.update_indices(piece);
    }

    /// Brings the indices up to date after something happened to a piece.
    fn update_indices(&mut self, piece: u32) {
        let partial = self.partial_pieces.get(&piece);
        if partial.is_some_and(|partial| partial.free() > 0) {
            self.open.insert(piece);
        } else {
            self.open.remove(&piece);
        }
        let is_fresh = partial.is_none() && !self.have.contains(piece);
        // A walk over all peers only when a piece is started or abandoned, not at each block.
        if is_fresh == self.fresh.contains(piece) {
            return;
        }
        let holders = self.peers.values_mut().filter(|peer| peer.holds.contains(piece));
        if is_fresh {
            self.fresh.insert(piece);
            holders.for_each(|peer| peer.fresh += 1);
        } else {
            self.fresh.remove(piece);
            holders.for_each(|peer| peer.fresh -= 1);
        }
    }

    /// Frees the requests of snubbed and slow peers; returns these peers, with the requests to
    /// cancel.
    pub fn expire(&mut self, now: Instant) -> Vec<(PeerKey, Vec<Block>)> {
        // Peers without requests would pull the average down.
        let has_requests = |peer: &&mut RemotePeer| !peer.requested.is_empty();
        let rates = self.peers.values_mut().filter(has_requests).map(|peer| peer.meter.rate(now));
        let (sum, count) = rates.fold((0.0, 0.0), |(sum, count), rate| (sum + rate, count + 1.0));
        let mut overdue: Vec<(PeerKey, Vec<Block>)> = Vec::new();
        for (&key, peer) in &mut self.peers {
            if peer.requested.is_empty() {
                continue;
            }
            // Before its first block, a peer may be one that never answers and only blocks pieces.
            let patience = if peer.has_sent { REQUEST_TIMEOUT } else { FIRST_TIMEOUT };
            let is_silent = now.saturating_duration_since(peer.last_progress) >= patience;
            let rate = peer.meter.rate(now);
            // Compared with the mean of the others; a peer that is alone is never slow.
            let is_behind = rate * (count - 1.0) < SLOW_PEER * (sum - rate);
            let is_slow = is_behind && peer.window.age(now) >= REQUEST_TIMEOUT;
            // A piece is on parole with it, while others could send it.
            let mut pieces = peer.requested.iter().map(|block| block.piece);
            let is_late = pieces.any(|piece| {
                self.partial_pieces.get(&piece).is_some_and(|partial| partial.is_late(key, now))
                    && self.availability[piece as usize] > 1
            });
            if is_silent || is_slow || is_late {
                // Only silence snubs: one request, no end game. A slow peer's window can grow
                // again.
                peer.is_snubbed |= is_silent;
                // The time-out starts again, or the next tick would expire it once more.
                peer.last_progress = now;
                peer.window.restart_with_one();
                overdue.push((key, peer.requested.iter().copied().collect()));
            }
        }
        for (key, blocks) in &overdue {
            for block in blocks {
                self.note_failure(*key, block.piece);
            }
            self.release(*key);
        }
        overdue
    }

    /// Remembers that a peer failed to send a piece on parole. When all peers that have it have
    /// failed, all may try again.
    fn note_failure(&mut self, key: PeerKey, piece: u32) {
        let Some(failed) = self.on_parole.get_mut(&piece) else { return };
        failed.insert(key);
        let mut holders = self.peers.iter().filter(|(_, peer)| peer.holds.contains(piece));
        // A peer that failed before is better than none.
        if holders.all(|(holder, _)| failed.contains(holder)) {
            failed.clear();
        }
    }

    /// Whether a piece may be requested from this peer: not if it failed to send it on parole.
    fn may_start(&self, key: PeerKey, piece: u32) -> bool {
        self.on_parole.get(&piece).is_none_or(|failed| !failed.contains(&key))
    }

    /// Whether no new block has arrived for long, so that far peers get requests too.
    pub fn is_starved(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_new) >= STARVED
    }

    fn open_requests(&self, key: PeerKey) -> usize {
        self.peers.get(&key).map_or(0, |peer| peer.requested.len())
    }

    fn request(&mut self, key: PeerKey, block: Block, now: Instant) {
        let is_on_parole = self.on_parole.contains_key(&block.piece);
        let blocks = self.layout.blocks_of(block.piece);
        let partial =
            self.partial_pieces.entry(block.piece).or_insert_with(|| PartialPiece::new(blocks));
        partial.request(block.index, is_on_parole.then_some((key, now)));
        self.update_indices(block.piece);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.requested.push_back(block);
            peer.current = Some(block.piece);
        }
    }

    /// Frees all requests of a peer and remembers them as late.
    fn release(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        for block in peer.requested.drain(..) {
            if let Some(partial) = self.partial_pieces.get_mut(&block.piece) {
                partial.release(block.index);
            }
            // Its answer may be on the wire already.
            peer.late.push_back(block);
        }
        peer.late.drain(..peer.late.len().saturating_sub(MAX_LATE));
        peer.current = None;
        // On parole, blocks of two peers must not mix: the piece starts again.
        for partial in self.partial_pieces.values_mut() {
            partial.give_up(key);
        }
        let touched: Vec<u32> = self.partial_pieces.keys().copied().collect();
        // Fresh again: the next request goes to the rarest piece, not to the abandoned one.
        self.partial_pieces.retain(|_, partial| !partial.is_untouched());
        touched.into_iter().for_each(|piece| self.update_indices(piece));
    }

    fn next_block(&mut self, key: PeerKey, now: Instant) -> Option<Block> {
        let peer = self.peers.get(&key)?;
        if peer.fresh == 0 && self.open.is_empty() && !self.all_requested() {
            return None;
        }
        // The near peers may all wait for the far link, or have left: then every node uses it.
        let is_starved = self.is_starved(now);
        let piece = match (peer.is_near || is_starved, peer.holds.is_full()) {
            (true, false) => self.piece_from_leecher(key),
            (true, true) => self.piece_from_seed(key),
            // No end game there: a duplicate request costs all nodes that share the link.
            (false, _) => return self.block_from_far(key),
        };
        let Some(piece) = piece else { return self.end_game(key) };
        self.free_block(piece)
    }

    fn free_block(&self, piece: u32) -> Option<Block> {
        let index = self.partial_pieces.get(&piece).map_or(Some(0), PartialPiece::first_free)?;
        Some(Block { piece, index })
    }

    /// The piece last requested from a peer, if more of it is to be requested.
    fn current(&self, key: PeerKey) -> Option<u32> {
        let current = self.peers.get(&key)?.current?;
        self.partial_pieces
            .get(&current)
            .is_some_and(|partial| partial.is_open_to(key))
            .then_some(current)
    }

    fn piece_from_leecher(&mut self, key: PeerKey) -> Option<u32> {
        // Strict priority before rarest first: only complete pieces can be uploaded.
        self.current(key)
            .or_else(|| self.started_for(key, |_| true))
            .or_else(|| self.rarest_new(key))
    }

    /// From a seed or complete peer first what nobody else can send.
    fn piece_from_seed(&mut self, key: PeerKey) -> Option<u32> {
        // No strict priority here: finishing a piece that others have too wastes the seed's link.
        // Plain rarest first took 1.49 of the wire time for eight nodes, this order 1.20
        // (measured).
        let rare =
            self.current(key).or_else(|| self.started_for(key, |piece| !self.others_hold(piece)));
        if rare.is_some() {
            return rare;
        }
        let new = self.new_from_seed(key);
        if new.is_none_or(|piece| self.others_hold(piece)) {
            // Others have all that this peer has: then it may as well help with a started piece.
            return self.started_for(key, |_| true).or(new);
        }
        new
    }

    /// Each piece should cross a shared link once: only what no near peer has, and of that only
    /// this node's share.
    fn block_from_far(&mut self, key: PeerKey) -> Option<Block> {
        let is_missing = |piece: u32| self.near_availability[piece as usize] == 0;
        let current = self.current(key).filter(|piece| is_missing(*piece));
        let started = current.or_else(|| self.started_for(key, is_missing));
        let piece = started.or_else(|| self.own_share_from(key))?;
        self.free_block(piece)
    }

    /// The rarest piece of a far peer that no near peer has and that is this node's share.
    fn own_share_from(&mut self, key: PeerKey) -> Option<u32> {
        let peer = self.peers.get(&key)?;
        if peer.fresh == 0 {
            return None;
        }
        let start = next_random(&mut self.rng_state);
        let is_rival = |peer: &&RemotePeer| peer.is_near && !peer.holds.is_full();
        let rivals: Vec<u64> = self.peers.values().filter(is_rival).map(|peer| peer.salt).collect();
        let peer = self.peers.get(&key)?;
        let missing = peer.holds.common(&self.fresh).filter(|piece| {
            self.near_availability[*piece as usize] == 0
                && self.may_start(key, *piece)
                && !is_share_of_another(*piece, self.own_salt, &rivals)
        });
        missing.min_by_key(|piece| {
            (self.availability[*piece as usize], mix(start ^ u64::from(*piece)))
        })
    }

    /// Whether every missing block is requested.
    fn all_requested(&self) -> bool {
        self.fresh.count() == 0 && self.open.is_empty()
    }

    /// Whether more than one peer has a piece.
    fn others_hold(&self, piece: u32) -> bool {
        self.availability[piece as usize] > 1
    }

    /// The started piece that is rarest, then the one closest to completion.
    fn started_for(&self, key: PeerKey, may: impl Fn(u32) -> bool) -> Option<u32> {
        let holds = &self.peers.get(&key)?.holds;
        let open = self.open.iter().filter_map(|piece| {
            let partial = self.partial_pieces.get(piece)?;
            let fits = holds.contains(*piece) && partial.is_open_to(key) && may(*piece);
            fits.then(|| (self.availability[*piece as usize], partial.free(), *piece))
        });
        open.min().map(|(_, _, piece)| piece)
    }

    /// The rarest piece that is not started. Ties are broken at random, so that nodes that see the
    /// same counts do not all choose the same piece.
    fn rarest_new(&mut self, key: PeerKey) -> Option<u32> {
        let peer = self.peers.get(&key)?;
        if peer.fresh == 0 {
            return None;
        }
        let start = next_random(&mut self.rng_state);
        let fresh = peer.holds.common(&self.fresh).filter(|piece| self.may_start(key, *piece));
        fresh.min_by_key(|piece| {
            (self.availability[*piece as usize], mix(start ^ u64::from(*piece)))
        })
    }

    /// The piece to start from a seed or complete peer: one that only it has, and among these one
    /// that no other leecher is likely to request. All nodes rank each other by the same hash of
    /// node and piece, so the shares do not overlap although nobody arranges them.
    fn new_from_seed(&mut self, key: PeerKey) -> Option<u32> {
        let peer = self.peers.get(&key)?;
        if peer.fresh == 0 {
            return None;
        }
        let start = next_random(&mut self.rng_state);
        let unfinished = self.peers.values().filter(|peer| !peer.holds.is_full());
        let rivals: Vec<u64> = unfinished.map(|peer| peer.salt).collect();
        let peer = self.peers.get(&key)?;
        let fresh = peer.holds.common(&self.fresh).filter(|piece| self.may_start(key, *piece));
        fresh.min_by_key(|piece| {
            let common = self.others_hold(*piece);
            let availability = self.availability[*piece as usize];
            let is_share_of_another = is_share_of_another(*piece, self.own_salt, &rivals);
            // The own share before rarity: eight nodes take 1.05 of the wire time, not 1.10
            // (simulated).
            (common, is_share_of_another, availability, mix(start ^ u64::from(*piece)))
        })
    }

    /// Every missing block is requested already: requests one again, of those with the fewest
    /// requests.
    fn end_game(&mut self, key: PeerKey) -> Option<Block> {
        let peer = self.peers.get(&key)?;
        let is_reliable = peer.has_sent && !peer.is_snubbed;
        // Earlier, or from peers that do not answer, a duplicate only wastes the uploader's link:
        // in a simulated room of 32 it cost 5 %.
        if !self.all_requested() || !is_reliable || peer.requested.len() >= END_GAME_WINDOW {
            return None;
        }
        let start = next_random(&mut self.rng_state);
        let partial_pieces = self
            .partial_pieces
            .iter()
            .filter(|(piece, partial)| peer.holds.contains(**piece) && partial.allows_duplicates());
        let blocks = partial_pieces.flat_map(|(piece, partial)| {
            partial
                .requested(MAX_REQUESTS_OF_BLOCK)
                .map(|(index, requested)| (requested, Block { piece: *piece, index }))
        });
        let fresh = blocks.filter(|(_, block)| !peer.requested.contains(block));
        let best = fresh.min_by_key(|(requested, block)| {
            (*requested, mix(start ^ (u64::from(block.piece) << 32) ^ u64::from(block.index)))
        });
        best.map(|(_, block)| block)
    }
}

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod tests;
