//! Core: one swarm as one member sees it: all peers, the picker or the super-seeder, who is banned.
//!
//! Connections, storage and hashing belong to the caller: it reports what arrived and what was
//! done, asks [`Swarm::next`] what to send, and wakes the connections of [`Swarm::take_wakes`].

mod admission;
pub mod dial;
mod have_batch;
mod meter;
pub mod peer;
mod picker;
mod progress;
mod smart_ban;
mod superseed;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use admission::admit;
pub use admission::{Candidate, MAX_PEERS, MAX_PEERS_OF_SEED, MAX_PEERS_PER_ADDRESS, Refusal};
use have_batch::{HAVE_EVERY, HaveBatch, Urgency};
use meter::Meter;
use peer::{Next, Peer, PeerKey};
pub use picker::Locality;
use picker::{Contributors, Picker, Received};
pub use progress::Progress;
use smart_ban::{SmartBan, Verdict};
use superseed::SuperSeed;

use crate::protocol::bitfield::Bitfield;
use crate::protocol::layout::{Block, ByteRange, Layout};
use crate::protocol::peer_id::PeerId;
use crate::protocol::wire::{Incoming, Outgoing, Violation};

/// How often [`Swarm::tick`] must be called: in a node HAVEs wait for it, a seed only checks
/// time-outs.
pub const TICK_OF_NODE: Duration = HAVE_EVERY;
/// See [`TICK_OF_NODE`].
pub const TICK_OF_SEED: Duration = Duration::from_millis(50);

/// How often time-outs are checked: the shortest is 300 ms.
const TIMEOUT_CHECK_EVERY: Duration = Duration::from_millis(100);

/// Addresses whose received bytes are remembered after their peers left.
const MAX_REMEMBERED: usize = 512;

/// The state of one swarm.
#[derive(Debug)]
pub struct Swarm {
    layout: Layout,
    id: PeerId,
    metadata_size: usize,
    role: Role,
    peers: BTreeMap<PeerKey, Peer>,
    next_key: u64,
    smart_ban: SmartBan,
    checking: BTreeMap<u32, Contributors>,
    wakes: BTreeSet<PeerKey>,
    haves_to_nodes: HaveBatch,
    haves_to_seeds: HaveBatch,
    last_timeout_check: Instant,
    uploaded: u64,
    downloaded: Meter,
    /// Payload bytes received from peers that left.
    departed: BTreeMap<SocketAddr, u64>,
    wrong_source: Option<u32>,
}

#[derive(Debug)]
enum Role {
    Seed { have: Bitfield, superseed: SuperSeed },
    Node(Box<Picker>),
}

/// A complete piece that the caller must hash and then report with [`Swarm::checked`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Which piece.
    pub piece: u32,
}

/// What the hash of a piece showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Which piece.
    pub piece: u32,
    /// Whether the hash is the one of the torrent.
    pub is_correct: bool,
    /// SHA-1 of each block; may be empty for a correct piece that [`Swarm::is_suspect`] does not
    /// name.
    pub blocks: Vec<[u8; 20]>,
}

impl Swarm {
    /// The member that has everything and super-seeds.
    pub fn seed(layout: Layout, id: PeerId, metadata_size: usize, now: Instant) -> Self {
        let have = Bitfield::full(layout.pieces());
        let superseed = SuperSeed::new(layout, id.salt());
        let role = Role::Seed { have, superseed };
        Self::new(layout, id, metadata_size, role, None, now)
    }

    /// A member that starts with nothing. `locality` is its place in the network, `rng_state` any
    /// number.
    pub fn node(
        layout: Layout,
        id: PeerId,
        metadata_size: usize,
        locality: Locality,
        rng_state: u64,
        now: Instant,
    ) -> Self {
        let role = Role::Node(Box::new(Picker::new(layout, id.salt(), locality, rng_state, now)));
        Self::new(layout, id, metadata_size, role, locality.server, now)
    }

    fn new(
        layout: Layout,
        id: PeerId,
        metadata_size: usize,
        role: Role,
        trusted: Option<IpAddr>,
        now: Instant,
    ) -> Self {
        Self {
            layout,
            id,
            metadata_size,
            role,
            peers: BTreeMap::new(),
            next_key: 0,
            smart_ban: SmartBan::new(trusted),
            checking: BTreeMap::new(),
            wakes: BTreeSet::new(),
            haves_to_nodes: HaveBatch::to_nodes(now),
            haves_to_seeds: HaveBatch::to_seeds(now),
            last_timeout_check: now,
            uploaded: 0,
            downloaded: Meter::new(now),
            departed: BTreeMap::new(),
            wrong_source: None,
        }
    }

    /// This member's peer id.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Whether every piece is stored and has the right hash.
    pub fn is_complete(&self) -> bool {
        self.have().is_full()
    }

    /// A piece that the trusted server alone sent wrong several times: its copy must be damaged.
    pub fn wrong_source(&self) -> Option<u32> {
        self.wrong_source
    }

    /// Payload bytes that were uploaded.
    pub fn uploaded(&self) -> u64 {
        self.uploaded
    }

    /// How far the download is.
    pub fn progress(&mut self, now: Instant) -> Progress {
        let done = self.have().iter().map(|piece| u64::from(self.layout.length_of(piece))).sum();
        let mut received = self.departed.clone();
        for peer in self.peers.values().filter(|peer| peer.received > 0) {
            *received.entry(peer.address).or_default() += peer.received;
        }
        Progress {
            done,
            total: self.layout.total(),
            speed: self.downloaded.rate(now) as u64,
            uploaded: self.uploaded,
            peers: self.peers.len(),
            sources: self.peers.values().filter(|peer| peer.is_source(now)).count(),
            peers_sending: received.into_iter().collect(),
        }
    }

    /// Connected peers.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// Whether a peer with this address is connected.
    pub fn has_peer_at(&self, ip: IpAddr) -> bool {
        self.peers.values().any(|peer| peer.address.ip() == ip)
    }

    /// Connections for which something was queued since the last call.
    pub fn take_wakes(&mut self) -> BTreeSet<PeerKey> {
        std::mem::take(&mut self.wakes)
    }

    /// A peer has completed its handshake.
    ///
    /// # Errors
    /// [`Refusal`] if it may not join; the caller then closes the connection.
    pub fn join(&mut self, candidate: Candidate, now: Instant) -> Result<PeerKey, Refusal> {
        let Candidate { id, address, was_dialled, is_extended } = candidate;
        let max_peers = if self.is_seed() { MAX_PEERS_OF_SEED } else { MAX_PEERS };
        for replaced in admit(&candidate, self.id, &self.smart_ban, &self.peers, max_peers)? {
            self.leave(replaced, now);
        }
        let key = PeerKey(self.next_key);
        self.next_key += 1;
        let mut peer = Peer::new(id, address, was_dialled, now);
        let shown = match &mut self.role {
            // BEP 16 shows every client a seed without pieces; some disconnect from such a seed. So
            // stock clients see all pieces, and only nodes are super-seeded.
            Role::Seed { superseed, .. } if id.is_boottorrent() => {
                superseed.join(key, now);
                Bitfield::empty(self.layout.pieces())
            }
            Role::Seed { have, .. } => have.clone(),
            Role::Node(picker) => {
                picker.join(key, address.ip(), id.salt(), now);
                picker.have().clone()
            }
        };
        // BEP 3 allows a peer without pieces to send no bitfield. It is sent all the same: librqbit
        // 9.1 waits for one before it requests anything.
        peer.queue_message(Outgoing::Bitfield(shown));
        if is_extended {
            peer.queue_message(Outgoing::Handshake { metadata_size: self.metadata_size });
        }
        // And never choked again: upload slots make a room slower (simulated, 16 nodes: with four
        // slots at the server 1.36 of the wire time, at the nodes 1.66).
        peer.queue_message(Outgoing::Unchoke);
        self.peers.insert(key, peer);
        self.wakes.insert(key);
        self.show(key);
        Ok(key)
    }

    /// A connection ended. Its open requests go to other peers.
    pub fn leave(&mut self, key: PeerKey, now: Instant) {
        let Some(peer) = self.peers.remove(&key) else { return };
        self.wakes.insert(key);
        let is_known = self.departed.contains_key(&peer.address);
        if peer.received > 0 && (is_known || self.departed.len() < MAX_REMEMBERED) {
            *self.departed.entry(peer.address).or_default() += peer.received;
        }
        match &mut self.role {
            Role::Seed { superseed, .. } => superseed.leave(key),
            Role::Node(picker) => picker.leave(key),
        }
        self.fill_all(now);
        self.show(key);
    }

    /// A message arrived. A block that is returned must be stored, then reported to
    /// [`Swarm::stored`].
    ///
    /// # Errors
    /// [`Violation`] if the connection must be closed because of it.
    pub fn receive(
        &mut self,
        key: PeerKey,
        message: &Incoming<'_>,
        now: Instant,
    ) -> Result<Option<Block>, Violation> {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(None) };
        peer.received_message(now);
        match message {
            Incoming::Unknown => {}
            Incoming::Interested => {
                peer.was_interested = true;
                self.wakes.insert(key);
            }
            Incoming::Choke => {
                if let Role::Node(picker) = &mut self.role {
                    peer.received_choke(picker.choked(key, true))?;
                    self.fill_all(now);
                }
            }
            Incoming::Unchoke => {
                if let Role::Node(picker) = &mut self.role {
                    picker.choked(key, false);
                }
                self.fill(key, now);
            }
            Incoming::Have(piece) => {
                peer.received_have(self.layout.pieces())?;
                self.peer_holds(key, std::iter::once(*piece), now);
            }
            Incoming::Bitfield(bits) => {
                peer.received_bitfield()?;
                self.peer_holds(key, bits.iter(), now);
            }
            Incoming::Request(range) => {
                // Only BEP 6 has a message to reject a request; without it, one for a missing piece
                // is dropped.
                if have(&self.role).contains(range.piece) {
                    peer.queue_upload(*range)?;
                    self.wakes.insert(key);
                }
            }
            Incoming::Cancel(range) => peer.cancel_upload(*range),
            Incoming::Handshake { metadata } => peer.takes_metadata_as(*metadata),
            Incoming::MetadataRequest(part) => {
                peer.queue_metadata(*part);
                self.wakes.insert(key);
            }
            Incoming::Data(block, _) => return self.receive_block(key, *block, now),
        }
        Ok(None)
    }

    fn receive_block(
        &mut self,
        key: PeerKey,
        block: Block,
        now: Instant,
    ) -> Result<Option<Block>, Violation> {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(None) };
        let Role::Node(picker) = &mut self.role else {
            return peer.received_unrequested().map(|()| None);
        };
        let range = self.layout.range(block);
        let outcome = picker.received(key, block, now);
        if outcome == Received::Unrequested {
            return peer.received_unrequested().map(|()| None);
        }
        peer.received_block(u64::from(range.length), now);
        let is_new = match outcome {
            Received::New { cancel } => {
                self.downloaded.add(u64::from(range.length), now);
                for other in cancel {
                    self.queue_message(other, Outgoing::Cancel(range));
                }
                true
            }
            Received::Duplicate | Received::Unrequested => false,
        };
        self.fill(key, now);
        Ok(is_new.then_some(block))
    }

    /// A block is in the storage. The piece that is returned is complete and must be hashed.
    pub fn stored(&mut self, block: Block) -> Option<Check> {
        let Role::Node(picker) = &mut self.role else { return None };
        let contributors = picker.stored(block)?;
        self.checking.insert(block.piece, contributors);
        Some(Check { piece: block.piece })
    }

    /// Whether a piece failed before with blocks from several peers: the digests of its blocks are
    /// then needed even if it is correct.
    pub fn is_suspect(&self, piece: u32) -> bool {
        self.smart_ban.is_suspect(piece)
    }

    /// A piece was hashed.
    pub fn checked(&mut self, checked: &Checked, now: Instant) {
        let Some(contributors) = self.checking.remove(&checked.piece) else { return };
        let Role::Node(picker) = &mut self.role else { return };
        let verdict = if checked.is_correct {
            picker.passed(checked.piece);
            self.smart_ban.passed(checked.piece, &checked.blocks)
        } else {
            picker.failed(checked.piece);
            self.smart_ban.failed(checked.piece, &contributors, &checked.blocks)
        };
        match verdict {
            Verdict::Nobody => {}
            Verdict::Trusted => self.wrong_source = Some(checked.piece),
            Verdict::Banned(culprits) => {
                self.close_all(|peer| culprits.contains(&peer.address.ip()), now)
            }
        }
        if checked.is_correct {
            self.queue_have(checked.piece, now);
        } else {
            self.fill_all(now);
        }
    }

    /// What to send to a peer next.
    pub fn next(&mut self, key: PeerKey, now: Instant) -> Next {
        self.peers.get_mut(&key).map_or(Next::Closed, |peer| peer.next(now))
    }

    /// A range was sent to a peer.
    pub fn sent(&mut self, key: PeerKey, range: ByteRange, now: Instant) {
        self.uploaded += u64::from(range.length);
        if let Role::Seed { superseed, .. } = &mut self.role {
            // Nodes request complete blocks; parts of one must not count as several.
            if self.layout.block_at(range.piece, range.begin, range.length as usize).is_some() {
                superseed.sent(key, range.piece, now);
                self.show(key);
            }
        }
    }

    /// How often [`Swarm::tick`] must be called.
    pub fn tick_every(&self) -> Duration {
        if self.is_seed() { TICK_OF_SEED } else { TICK_OF_NODE }
    }

    /// Sends HAVEs and keep-alives and checks time-outs; must be called every
    /// [`Swarm::tick_every`].
    pub fn tick(&mut self, now: Instant) {
        self.send_haves(now);
        if now.saturating_duration_since(self.last_timeout_check) < TIMEOUT_CHECK_EVERY {
            return;
        }
        self.last_timeout_check = now;
        self.close_all(|peer| peer.is_silent(now), now);
        let quiet =
            self.peers.iter_mut().filter_map(|(key, peer)| peer.keep_alive(now).then_some(*key));
        self.wakes.extend(quiet);
        match &mut self.role {
            Role::Seed { superseed, .. } => {
                let peers = &self.peers;
                let idle = |key| peers.get(&key).is_some_and(Peer::is_idle);
                for key in superseed.expire(now, idle) {
                    self.show(key);
                }
            }
            Role::Node(picker) => {
                let overdue = picker.expire(now);
                let must_fill = !overdue.is_empty() || picker.is_starved(now);
                for (key, blocks) in overdue {
                    for block in blocks {
                        self.queue_message(key, Outgoing::Cancel(self.layout.range(block)));
                    }
                }
                if must_fill {
                    self.fill_all(now);
                }
            }
        }
    }

    /// Closes every connection.
    pub fn close(&mut self, now: Instant) {
        self.close_all(|_| true, now);
    }

    fn is_seed(&self) -> bool {
        matches!(self.role, Role::Seed { .. })
    }

    fn have(&self) -> &Bitfield {
        have(&self.role)
    }

    fn queue_message(&mut self, key: PeerKey, message: Outgoing) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.queue_message(message);
            self.wakes.insert(key);
        }
    }

    fn peer_holds(&mut self, key: PeerKey, pieces: impl Iterator<Item = u32>, now: Instant) {
        match &mut self.role {
            Role::Seed { superseed, .. } => {
                let is_new =
                    pieces.fold(false, |is_new, piece| superseed.holds(key, piece) | is_new);
                if is_new {
                    self.show(key);
                }
            }
            Role::Node(picker) => {
                let is_useful =
                    pieces.fold(false, |useful, piece| picker.holds(key, piece) | useful);
                if let Some(peer) = self.peers.get_mut(&key)
                    && !peer.is_interesting
                    && picker.wants_from(key)
                {
                    peer.is_interesting = true;
                    self.queue_message(key, Outgoing::Interested);
                }
                if is_useful {
                    self.fill(key, now);
                }
            }
        }
    }

    /// Fills a peer's request window.
    fn fill(&mut self, key: PeerKey, now: Instant) {
        let Role::Node(picker) = &mut self.role else { return };
        if self.peers.get(&key).is_none_or(Peer::is_backlogged) {
            return;
        }
        let layout = self.layout;
        for block in picker.fill(key, now) {
            self.queue_message(key, Outgoing::Request(layout.range(block)));
        }
    }

    fn fill_all(&mut self, now: Instant) {
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        for key in keys {
            self.fill(key, now);
        }
    }

    /// Super-seeding: shows a node the next pieces.
    fn show(&mut self, key: PeerKey) {
        let Role::Seed { superseed, .. } = &mut self.role else { return };
        for (viewer, piece) in superseed.show(key) {
            self.queue_message(viewer, Outgoing::Have(piece));
        }
    }

    /// Queues a HAVE for each peer that may need it. A leecher that has the piece does not; a peer
    /// that was never interested may be a super-seeder, which needs them (BEP 16).
    fn queue_have(&mut self, piece: u32, now: Instant) {
        let Role::Node(picker) = &self.role else { return };
        let is_complete = picker.have().is_full();
        for (key, peer) in &mut self.peers {
            if !(peer.was_interested && picker.peer_holds(*key, piece)) {
                peer.queue_message(Outgoing::Have(piece));
            }
            if is_complete && std::mem::take(&mut peer.is_interesting) {
                peer.queue_message(Outgoing::NotInterested);
            }
        }
        self.haves_to_nodes.add();
        self.haves_to_seeds.add();
        self.send_haves(now);
    }

    /// Wakes the peers whose HAVEs are due.
    fn send_haves(&mut self, now: Instant) {
        let urgency = Urgency::of(self.have().count(), self.layout.pieces());
        if self.haves_to_nodes.take_due(urgency, now) {
            self.wake_all(|peer| peer.was_interested && !peer.is_idle());
        }
        if self.haves_to_seeds.take_due(urgency, now) {
            self.wake_all(|peer| !peer.was_interested && !peer.is_idle());
        }
    }

    fn wake_all(&mut self, which: impl Fn(&Peer) -> bool) {
        let chosen = self.peers.iter().filter(|(_, peer)| which(peer));
        self.wakes.extend(chosen.map(|(key, _)| *key));
    }

    fn close_all(&mut self, which: impl Fn(&Peer) -> bool, now: Instant) {
        let chosen = self.peers.iter().filter(|(_, peer)| which(peer)).map(|(key, _)| *key);
        let chosen: Vec<PeerKey> = chosen.collect();
        for key in chosen {
            self.leave(key, now);
        }
    }
}

fn have(role: &Role) -> &Bitfield {
    match role {
        Role::Seed { have, .. } => have,
        Role::Node(picker) => picker.have(),
    }
}

#[cfg(test)]
mod tests;
