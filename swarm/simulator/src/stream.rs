//! Core: one direction of a simulated connection, and its packets in flight.

use std::collections::VecDeque;
use std::time::Duration;

use bt_swarm::protocol::layout::ByteRange;
use bt_swarm::protocol::wire::{Incoming, Outgoing};
use bt_swarm::swarm::peer::PeerKey;

/// TCP's first retransmission time-out; it doubles with each further one (RFC 6298).
const RETRANSMIT: Duration = Duration::from_millis(200);

/// One direction of one connection; the number of the other one differs in the last bit.
pub(crate) struct Stream {
    pub(crate) from: u32,
    pub(crate) key: PeerKey,
    pub(crate) was_dialled: bool,
    pub(crate) is_open: bool,
    pub(crate) queue: VecDeque<Item>,
    pub(crate) queued: u64,
    pub(crate) in_flight: u64,
    pub(crate) is_ready: bool,
    pub(crate) weight: f64,
    pub(crate) turn: f64,
}

/// Something that waits to be sent.
pub(crate) enum Item {
    Messages(Vec<Outgoing>),
    Data { range: ByteRange, wrong: bool },
}

/// The unit that links carry.
pub(crate) struct Packet {
    pub(crate) stream: u32,
    pub(crate) messages: Vec<Outgoing>,
    pub(crate) data: Option<(ByteRange, bool)>,
    pub(crate) bytes: u32,
    pub(crate) hop: u8,
}

impl Stream {
    pub(crate) fn new(from: u32, key: PeerKey, was_dialled: bool, weight: f64) -> Self {
        Self {
            from,
            key,
            was_dialled,
            is_open: true,
            queue: VecDeque::new(),
            queued: 0,
            in_flight: 0,
            is_ready: false,
            weight,
            turn: 0.0,
        }
    }

    /// All messages up to the first block, and that block; `number` is the number of this stream.
    pub(crate) fn next_packet(&mut self, number: u32) -> Packet {
        let mut packet =
            Packet { stream: number, messages: Vec::new(), data: None, bytes: 0, hop: 0 };
        while packet.data.is_none() {
            match self.queue.pop_front() {
                None => break,
                Some(Item::Messages(messages)) => {
                    packet.bytes += messages.iter().map(length).sum::<u32>();
                    if packet.messages.is_empty() {
                        packet.messages = messages;
                    } else {
                        packet.messages.extend(messages);
                    }
                }
                Some(Item::Data { range, wrong }) => {
                    packet.bytes += range.length + 13;
                    packet.data = Some((range, wrong));
                    self.queued -= u64::from(range.length);
                }
            }
        }
        self.in_flight += u64::from(packet.bytes);
        packet
    }
}

/// A message as its receiver reads it.
pub(crate) fn as_received(message: Outgoing) -> Incoming<'static> {
    match message {
        Outgoing::Interested => Incoming::Interested,
        Outgoing::KeepAlive | Outgoing::NotInterested => Incoming::Unknown,
        Outgoing::Unchoke => Incoming::Unchoke,
        Outgoing::Have(piece) => Incoming::Have(piece),
        Outgoing::Bitfield(bits) => Incoming::Bitfield(bits),
        Outgoing::Request(range) => Incoming::Request(range),
        Outgoing::Cancel(range) => Incoming::Cancel(range),
        Outgoing::Handshake { .. } => Incoming::Handshake { metadata: Some(1) },
        Outgoing::Metadata { .. } => Incoming::Unknown,
    }
}

/// Bytes of a message on the wire.
pub(crate) fn length(message: &Outgoing) -> u32 {
    match message {
        Outgoing::KeepAlive => 4,
        Outgoing::Unchoke | Outgoing::Interested | Outgoing::NotInterested => 5,
        Outgoing::Have(_) => 9,
        Outgoing::Request(_) | Outgoing::Cancel(_) => 17,
        Outgoing::Bitfield(bits) => 5 + bits.wire().len() as u32,
        Outgoing::Handshake { .. } => 100,
        Outgoing::Metadata { .. } => 16 * 1024,
    }
}

/// How long after the end of an outage TCP sends again.
pub(crate) fn retransmits_after(outage: Duration) -> Duration {
    let mut resumes = Duration::ZERO;
    let mut wait = RETRANSMIT;
    while resumes < outage {
        resumes += wait;
        wait *= 2;
    }
    resumes - outage
}
