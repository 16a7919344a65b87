//! Core: simulated links: each carries one packet at a time, in order, at its rate.

use std::collections::VecDeque;

/// One direction of one cable.
#[derive(Debug)]
pub(super) struct Link {
    nanos_per_byte: f64,
    buffer: u64,
    queue: VecDeque<u32>,
    queued: u64,
    is_busy: bool,
    /// The cable is out: nothing moves.
    pub(super) is_out: bool,
    /// Bytes that it carried.
    pub(super) carried: u64,
}

impl Link {
    /// A link of so many bytes per second that holds `buffer` seconds' worth of them.
    pub(super) fn new(rate: f64, buffer: f64) -> Self {
        Self {
            nanos_per_byte: 1e9 / rate,
            buffer: (rate * buffer) as u64,
            queue: VecDeque::new(),
            queued: 0,
            is_busy: false,
            is_out: false,
            carried: 0,
        }
    }

    pub(super) fn nanos(&self, bytes: u32) -> u64 {
        (f64::from(bytes) * self.nanos_per_byte) as u64
    }

    /// Whether senders should slow down.
    pub(super) fn is_crowded(&self) -> bool {
        self.queued > self.buffer
    }

    pub(super) fn push(&mut self, packet: u32, bytes: u32) {
        self.queue.push_back(packet);
        self.queued += u64::from(bytes);
    }

    /// The packet to carry next, unless one is under way.
    pub(super) fn begin(&mut self) -> Option<u32> {
        if self.is_busy || self.is_out {
            return None;
        }
        let packet = self.queue.front().copied();
        self.is_busy = packet.is_some();
        packet
    }

    /// The packet that was under way is through.
    pub(super) fn end(&mut self, bytes: u32) -> Option<u32> {
        self.is_busy = false;
        self.queued -= u64::from(bytes);
        self.carried += u64::from(bytes);
        self.queue.pop_front()
    }

    pub(super) fn first(&self) -> Option<u32> {
        self.queue.front().copied()
    }
}
