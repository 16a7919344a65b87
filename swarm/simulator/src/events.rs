//! Core: the events to come, in the order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Something that happens at one moment. Numbers are indices of hosts, streams, links or packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A host is switched on.
    Start(u32),
    /// A host checks its time-outs.
    Tick(u32),
    /// A node asks the tracker.
    Announce(u32),
    /// A dial succeeds or fails.
    Dialled { from: u32, to: u32 },
    /// A packet has left a host.
    Sent { host: u32, packet: u32 },
    /// A packet arrives at its next link.
    Arrived(u32),
    /// A link has carried its first packet.
    Carried(u32),
    /// A piece was hashed.
    Hashed { host: u32, piece: u32 },
    /// The end that owns this stream learns that the other end is closed.
    Closed(u32),
    /// A host closes its connections and leaves.
    Leave(u32),
    /// A host disappears without closing anything.
    Vanish(u32),
    /// An outage of a host begins.
    Fail { host: u32, outage: u32 },
    /// It ends.
    Recover { host: u32, outage: u32 },
    /// Packets that were lost in an outage of a cable are sent again.
    Resume(u32),
}

/// Events to come. Of two at the same time the one that was planned first happens first: the order
/// must be the same in every run.
#[derive(Debug, Default)]
pub(crate) struct Events {
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
}

impl Events {
    /// `at` is in nanoseconds since the start.
    pub(crate) fn plan(&mut self, at: u64, event: Event) {
        self.planned += 1;
        self.heap.push(Reverse((at, self.planned, event)));
    }

    pub(crate) fn next(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }

    pub(crate) fn planned(&self) -> u64 {
        self.planned
    }
}

/// A time as events count it.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
