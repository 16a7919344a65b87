//! Core: when the HAVEs of new pieces are sent.
//!
//! HAVE messages are batched until other traffic goes to the peer: a packet for each piece and peer
//! would cost more CPU than the data.

use std::time::{Duration, Instant};

/// HAVEs are sent at most this often, even if each counts.
pub(super) const HAVE_EVERY: Duration = Duration::from_millis(10);

/// To leechers: so many pieces in one batch, but none waits longer than this.
const TO_NODES: (u32, Duration) = (4, Duration::from_millis(100));

/// To seeds: a super-seeder plans by HAVEs, but waits for none. A number of pieces and not only a
/// time: without it, on a fast network the seed sent 2.8 copies to three nodes instead of 1.6
/// (measured).
const TO_SEEDS: (u32, Duration) = (16, Duration::from_millis(250));

/// While a node has so few pieces, or lacks so few, each HAVE counts: at the start and at the end
/// of a download other nodes wait for it.
const EACH_COUNTS: u32 = 16;

/// How soon a HAVE must be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// The batch may fill up.
    Usual,
    /// Other nodes wait for each piece.
    EachCounts,
    /// There will be no other HAVE.
    Complete,
}

impl Urgency {
    /// For a node that has `here` of its pieces.
    pub(super) fn of(here: u32, pieces: u32) -> Self {
        match pieces - here {
            0 => Self::Complete,
            missing if missing.min(here) <= EACH_COUNTS => Self::EachCounts,
            _ => Self::Usual,
        }
    }
}

/// The HAVEs that are waiting, for one kind of peers.
#[derive(Debug)]
pub(super) struct HaveBatch {
    full: u32,
    at_latest: Duration,
    /// When the last batch was sent, and how many pieces arrived since.
    last: Instant,
    pieces: u32,
}

impl HaveBatch {
    pub(super) fn to_nodes(now: Instant) -> Self {
        Self { full: TO_NODES.0, at_latest: TO_NODES.1, last: now, pieces: 0 }
    }

    pub(super) fn to_seeds(now: Instant) -> Self {
        Self { full: TO_SEEDS.0, at_latest: TO_SEEDS.1, last: now, pieces: 0 }
    }

    /// One more piece arrived.
    pub(super) fn add(&mut self) {
        self.pieces += 1;
    }

    /// Whether the batch must be sent now; if so, the next one begins.
    pub(super) fn take_due(&mut self, urgency: Urgency, now: Instant) -> bool {
        let wait = match urgency {
            Urgency::Complete => Duration::ZERO,
            Urgency::EachCounts => HAVE_EVERY,
            Urgency::Usual if self.pieces >= self.full => HAVE_EVERY,
            Urgency::Usual => self.at_latest,
        };
        let is_due = self.pieces > 0 && now.saturating_duration_since(self.last) >= wait;
        if is_due {
            (self.last, self.pieces) = (now, 0);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn start() -> Instant {
        Instant::now()
    }

    /// After how many milliseconds a batch of so many pieces to nodes and to seeds goes out.
    fn goes_out_after(pieces: u32, urgency: Urgency) -> [Option<u64>; 2] {
        let now = start();
        [HaveBatch::to_nodes(now), HaveBatch::to_seeds(now)].map(|mut batch| {
            (0..pieces).for_each(|_| batch.add());
            (0..1000).find(|ms| batch.take_due(urgency, now + Duration::from_millis(*ms)))
        })
    }

    #[test]
    fn a_few_pieces_wait_for_more_but_not_forever() {
        assert_eq!(goes_out_after(3, Urgency::Usual), [Some(100), Some(250)]);
        assert_eq!(goes_out_after(4, Urgency::Usual), [Some(10), Some(250)]);
        assert_eq!(goes_out_after(16, Urgency::Usual), [Some(10), Some(10)]);
    }

    #[test]
    fn at_the_start_and_at_the_end_each_piece_counts() {
        let urgencies = [0, 16, 17, 83, 84, 99, 100].map(|here| Urgency::of(here, 100));
        let each = Urgency::EachCounts;
        let expected = [each, each, Urgency::Usual, Urgency::Usual, each, each, Urgency::Complete];
        assert_eq!(urgencies, expected);
        assert_eq!(goes_out_after(1, each), [Some(10), Some(10)]);
        assert_eq!(goes_out_after(1, Urgency::Complete), [Some(0), Some(0)]);
    }

    #[test]
    fn without_a_new_piece_nothing_goes_out() {
        assert_eq!(goes_out_after(0, Urgency::Complete), [None, None]);
    }
}
