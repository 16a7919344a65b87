//! Core: the state of one connection: who the peer is, what is queued for it, when it last sent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::protocol::layout::ByteRange;
use crate::protocol::peer_id::PeerId;
use crate::protocol::wire::{MAX_QUEUE, Outgoing, Violation};

/// Bytes of data that the shell gets at once: enough to keep a link busy, few enough that a CANCEL
/// or a HAVE is not held up.
const BATCH: u32 = 64 * 1024;

/// Other messages that the shell gets at once.
const BATCH_MESSAGES: usize = 512;

/// If more messages wait for a peer, nothing is requested from it: it does not read.
const MAX_MESSAGES: usize = 1024;

/// HAVEs that are allowed in addition to one for each piece.
const HAVES_GRACE: u64 = 64;

/// Metadata requests that may wait; more are dropped, because a request of a few bytes queues
/// 16 KiB. A torrent of 2^20 pieces has 1280 parts.
const MAX_METADATA_QUEUE: usize = 64;

/// Blocks that may arrive without a request, in addition to one for each block that was requested.
/// A block that crosses its CANCEL on the wire is not a violation.
const UNREQUESTED_GRACE: u64 = 256;

/// A message is sent at least this often: well within the two minutes of BEP 3, after which other
/// clients close a silent connection.
const KEEP_ALIVE: Duration = Duration::from_secs(45);

/// A connection on which nothing arrived for this long is closed: BEP 3's two minutes, and some to
/// spare.
const SILENCE: Duration = Duration::from_secs(150);

/// A peer that sent data within this time counts as a source.
const SOURCE_SPAN: Duration = Duration::from_secs(2);

/// One connection of a swarm; a key is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(pub u64);

/// What to send to a peer next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Messages first, then the data of these ranges.
    Send {
        /// In this order.
        messages: Vec<Outgoing>,
        /// After each of these [`crate::swarm::Swarm::sent`] must be called.
        data: Vec<ByteRange>,
    },
    /// Nothing for now.
    Wait,
    /// The connection must be closed.
    Closed,
}

/// One connected peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) address: SocketAddr,
    pub(crate) was_dialled: bool,
    pub(crate) is_interesting: bool,
    /// It was interested at least once: a leecher, not a seed.
    pub(crate) was_interested: bool,
    /// Payload bytes that were requested and arrived.
    pub(crate) received: u64,
    last_data: Option<Instant>,
    messages: VecDeque<Outgoing>,
    uploads: VecDeque<ByteRange>,
    metadata: Option<u8>,
    metadata_queued: usize,
    requested_blocks: u64,
    unrequested_blocks: u64,
    haves: u64,
    has_bitfield: bool,
    last_received: Instant,
    last_sent: Instant,
}

impl Peer {
    pub(crate) fn new(id: PeerId, address: SocketAddr, was_dialled: bool, now: Instant) -> Self {
        Self {
            id,
            address,
            was_dialled,
            is_interesting: false,
            was_interested: false,
            received: 0,
            last_data: None,
            messages: VecDeque::new(),
            uploads: VecDeque::new(),
            metadata: None,
            metadata_queued: 0,
            requested_blocks: 0,
            unrequested_blocks: 0,
            haves: 0,
            has_bitfield: false,
            last_received: now,
            last_sent: now,
        }
    }

    pub(crate) fn received_message(&mut self, now: Instant) {
        self.last_received = now;
    }

    pub(crate) fn queue_message(&mut self, message: Outgoing) {
        self.messages.push_back(message);
    }

    /// Whether nothing is queued for it.
    pub(crate) fn is_idle(&self) -> bool {
        self.uploads.is_empty() && self.messages.is_empty()
    }

    pub(crate) fn queue_upload(&mut self, range: ByteRange) -> Result<(), Violation> {
        // The peer knows half of this bound as `reqq` (BEP 10).
        if self.uploads.len() >= MAX_QUEUE {
            return Err(Violation::Flood);
        }
        self.uploads.push_back(range);
        Ok(())
    }

    /// Whether so much waits for it that nothing more should be requested.
    pub(crate) fn is_backlogged(&self) -> bool {
        self.messages.len() >= MAX_MESSAGES
    }

    /// It chokes: requests that were not sent yet are dropped. A choke that voids open requests
    /// counts like an unrequested block, or a peer could hold up pieces without ever sending one.
    pub(crate) fn received_choke(&mut self, voids: bool) -> Result<(), Violation> {
        self.messages.retain(|message| !matches!(message, Outgoing::Request(_)));
        if voids { self.received_unrequested() } else { Ok(()) }
    }

    /// It announced one of so many pieces. No client needs to announce a piece twice.
    pub(crate) fn received_have(&mut self, pieces: u32) -> Result<(), Violation> {
        self.haves += 1;
        if self.haves > u64::from(pieces) + HAVES_GRACE { Err(Violation::Repeated) } else { Ok(()) }
    }

    /// It announced all of its pieces, which BEP 3 allows once.
    pub(crate) fn received_bitfield(&mut self) -> Result<(), Violation> {
        if std::mem::replace(&mut self.has_bitfield, true) {
            return Err(Violation::Repeated);
        }
        Ok(())
    }

    pub(crate) fn cancel_upload(&mut self, range: ByteRange) {
        self.uploads.retain(|queued| *queued != range);
    }

    pub(crate) fn takes_metadata_as(&mut self, id: Option<u8>) {
        self.metadata = id;
    }

    pub(crate) fn queue_metadata(&mut self, part: u32) {
        if let Some(id) = self.metadata
            && self.metadata_queued < MAX_METADATA_QUEUE
        {
            self.metadata_queued += 1;
            self.queue_message(Outgoing::Metadata { id, part });
        }
    }

    /// A requested block arrived, whether it was still needed or not.
    pub(crate) fn received_block(&mut self, bytes: u64, now: Instant) {
        self.received += bytes;
        self.requested_blocks += 1;
        self.last_data = Some(now);
    }

    /// Whether it counts as a source now.
    pub(crate) fn is_source(&self, now: Instant) -> bool {
        self.last_data.is_some_and(|at| now.saturating_duration_since(at) < SOURCE_SPAN)
    }

    /// A block arrived that was not requested.
    pub(crate) fn received_unrequested(&mut self) -> Result<(), Violation> {
        self.unrequested_blocks += 1;
        let too_many = self.unrequested_blocks > UNREQUESTED_GRACE + self.requested_blocks;
        if too_many { Err(Violation::Unrequested) } else { Ok(()) }
    }

    pub(crate) fn next(&mut self, now: Instant) -> Next {
        if self.is_idle() {
            return Next::Wait;
        }
        self.last_sent = now;
        // Before data: a HAVE or CANCEL behind 64 KiB comes too late.
        let count = self.messages.len().min(BATCH_MESSAGES);
        let messages: Vec<Outgoing> = self.messages.drain(..count).collect();
        let metadata =
            messages.iter().filter(|message| matches!(message, Outgoing::Metadata { .. }));
        self.metadata_queued -= metadata.count();
        let mut data = Vec::new();
        let mut bytes = 0;
        while let Some(range) =
            // A single range may be longer: old clients request 128 KiB.
            self.uploads.pop_front_if(|range| bytes + range.length <= BATCH || bytes == 0)
        {
            bytes += range.length;
            data.push(range);
        }
        Next::Send { messages, data }
    }

    /// Queues a keep-alive if nothing was sent for long; `true` if so.
    pub(crate) fn keep_alive(&mut self, now: Instant) -> bool {
        let is_due = now.saturating_duration_since(self.last_sent) >= KEEP_ALIVE && self.is_idle();
        if is_due {
            self.queue_message(Outgoing::KeepAlive);
        }
        is_due
    }

    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_received) >= SILENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn peer() -> (Peer, Instant) {
        let now = Instant::now();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        (Peer::new(PeerId::boottorrent([1; 12]), address, false, now), now)
    }

    fn range(piece: u32, length: u32) -> ByteRange {
        ByteRange { piece, begin: 0, length }
    }

    #[test]
    fn messages_go_before_data_and_data_in_batches() {
        let (mut peer, now) = peer();
        for piece in 0..5 {
            peer.queue_upload(range(piece, 16384)).expect("there is room");
        }
        peer.queue_message(Outgoing::Have(7));
        peer.cancel_upload(range(1, 16384));
        let data = [0, 2, 3, 4].map(|piece| range(piece, 16384)).to_vec();
        assert_eq!(peer.next(now), Next::Send { messages: vec![Outgoing::Have(7)], data });
        assert_eq!(peer.next(now), Next::Wait);
    }

    #[test]
    fn a_long_range_is_sent_alone() {
        let (mut peer, now) = peer();
        for piece in 0..2 {
            peer.queue_upload(range(piece, 131_072)).expect("there is room");
        }
        let expected = Next::Send { messages: vec![], data: vec![range(0, 131_072)] };
        assert_eq!(peer.next(now), expected);
    }

    #[test]
    fn a_flood_of_requests_is_a_violation() {
        let (mut peer, _) = peer();
        for piece in 0..1024 {
            peer.queue_upload(range(piece, 1)).expect("there is room");
        }
        assert_eq!(peer.queue_upload(range(9, 1)), Err(Violation::Flood));
    }

    #[test]
    fn metadata_requests_beyond_the_queue_are_dropped() {
        let (mut peer, now) = peer();
        peer.queue_metadata(0);
        assert!(peer.is_idle());
        peer.takes_metadata_as(Some(2));
        (0..100).for_each(|part| peer.queue_metadata(part));
        let Next::Send { messages, .. } = peer.next(now) else { panic!("something is queued") };
        assert_eq!(messages.len(), 64);
        peer.queue_metadata(0);
        assert!(!peer.is_idle());
    }

    #[test]
    fn data_that_nobody_requested_ends_in_a_violation() {
        let (mut peer, now) = peer();
        peer.received_block(16384, now);
        let allowed = (0..1000).take_while(|_| peer.received_unrequested().is_ok()).count();
        assert_eq!(allowed, 257);
    }
}
