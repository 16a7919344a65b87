//! Core: a smoothed transfer rate.

use std::time::{Duration, Instant};

/// Bytes are counted over spans of at least this length: over a shorter one, a single burst would
/// look like a fast peer.
const SPAN: Duration = Duration::from_millis(200);

/// A rate that follows the last second or so.
#[derive(Debug, Clone)]
pub struct Meter {
    since: Instant,
    bytes: u64,
    rate: f64,
}

impl Meter {
    /// A meter that has seen nothing.
    pub fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, rate: 0.0 }
    }

    /// Counts bytes that have just arrived.
    pub fn add(&mut self, bytes: u64, now: Instant) {
        self.bytes += bytes;
        self.settle(now);
    }

    /// Bytes per second.
    pub fn rate(&mut self, now: Instant) -> f64 {
        self.settle(now);
        self.rate
    }

    /// Ends a span: the new rate is half of the old one and half of what was measured, for each
    /// span that has passed, also for silent ones.
    fn settle(&mut self, now: Instant) {
        let span = now.saturating_duration_since(self.since);
        if span < SPAN {
            return;
        }
        let new = self.bytes as f64 / span.as_secs_f64();
        let old_weight = 0.5_f64.powf(span.as_secs_f64() / SPAN.as_secs_f64()).max(1e-3);
        self.rate =
            if self.rate == 0.0 { new } else { old_weight * self.rate + (1.0 - old_weight) * new };
        self.bytes = 0;
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn a_steady_stream_is_measured_and_silence_ends_it() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        for tenth in 1..=50 {
            meter.add(1000, start + Duration::from_millis(tenth * 100));
        }
        let rate = meter.rate(start + Duration::from_secs(5));
        assert!((9_000.0..11_000.0).contains(&rate), "{rate}");
        assert!(meter.rate(start + Duration::from_secs(8)) < 100.0);
    }
}
