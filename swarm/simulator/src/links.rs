//! Core: simulated links: each carries one packet at a time, in order, at its rate.

use std::collections::VecDeque;

use crate::scenario::Scenario;

/// One direction of one cable.
#[derive(Debug)]
pub(crate) struct Link {
    nanos_per_byte: f64,
    buffer: u64,
    queue: VecDeque<u32>,
    queued: u64,
    is_busy: bool,
    /// The cable is unplugged: nothing moves.
    pub(crate) is_out: bool,
    /// Bytes that it has carried.
    pub(crate) carried: u64,
}

impl Link {
    /// A link of so many bytes per second that holds `buffer` seconds' worth of them.
    pub(crate) fn new(rate: f64, buffer: f64) -> Self {
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

    pub(crate) fn nanos(&self, bytes: u32) -> u64 {
        (f64::from(bytes) * self.nanos_per_byte) as u64
    }

    /// Whether senders should slow down.
    pub(crate) fn is_crowded(&self) -> bool {
        self.queued > self.buffer
    }

    pub(crate) fn push(&mut self, packet: u32, bytes: u32) {
        self.queue.push_back(packet);
        self.queued += u64::from(bytes);
    }

    /// The packet to carry next, unless one is under way.
    pub(crate) fn begin(&mut self) -> Option<u32> {
        if self.is_busy || self.is_out {
            return None;
        }
        let packet = self.queue.front().copied();
        self.is_busy = packet.is_some();
        packet
    }

    /// The packet that was under way has passed the link.
    pub(crate) fn end(&mut self, bytes: u32) -> Option<u32> {
        self.is_busy = false;
        self.queued -= u64::from(bytes);
        self.carried += u64::from(bytes);
        self.queue.pop_front()
    }

    pub(crate) fn first(&self) -> Option<u32> {
        self.queue.front().copied()
    }
}

/// The links towards each host, then two for each network: to the router and from it.
pub(crate) fn of(scenario: &Scenario) -> Vec<Link> {
    let buffer = scenario.buffer.as_secs_f64();
    let mut links: Vec<Link> =
        scenario.hosts.iter().map(|host| Link::new(host.down, buffer)).collect();
    for network in &scenario.networks {
        let rate = network.uplink.unwrap_or(1e15);
        links.extend([Link::new(rate, buffer), Link::new(rate, buffer)]);
    }
    links
}

/// The links from a host to another one, after the sender's own link, and how many.
pub(crate) fn path(
    hosts: usize,
    from_network: usize,
    to: u32,
    to_network: usize,
) -> ([u32; 3], usize) {
    if from_network == to_network {
        return ([to, 0, 0], 1);
    }
    let link = |network: usize, direction: usize| {
        u32::try_from(hosts + 2 * network + direction).expect("far fewer than 2^32")
    };
    ([link(from_network, 0), link(to_network, 1), to], 3)
}
