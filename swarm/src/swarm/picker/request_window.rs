//! Core: the request window of one peer: how many requests to keep open, from how it answers.

use std::time::{Duration, Instant};

/// Requests kept open at one peer: what it delivers in this time, within these bounds (measured).
/// More would only reserve blocks that another peer could send sooner.
const WINDOW: Duration = Duration::from_millis(100);
pub(super) const WINDOW_BLOCKS: (usize, usize) = (8, 256);

/// A peer that is silent for this long between two blocks sends in bursts: it answers at a fixed
/// interval (Transmission every 500 ms) or is far away.
const PAUSE: Duration = Duration::from_millis(50);

/// The window of a peer that sends in bursts never grows beyond what it delivers in this time.
const LONGEST_WINDOW: Duration = Duration::from_secs(2);

/// How many requests a peer gets, from its rate and its bursts.
///
/// A window computed from the rate alone starves a peer that answers in bursts: it sends all of the
/// window, waits, sends the next, and its rate never justifies more. So, as in TCP's slow start,
/// the window doubles with each burst that brought everything requested in less time than the pause
/// before it, and shrinks when bursts bring less or the pauses become short.
#[derive(Debug)]
pub(super) struct RequestWindow {
    /// Requests to keep open at least, unless the rate is too low for that.
    grown: usize,
    minimum: usize,
    last_block: Instant,
    burst: Burst,
    /// When the current round of requests began, and how many of its blocks are still missing.
    round_start: Instant,
    round_left: usize,
}

/// Blocks without a pause between them.
#[derive(Debug)]
struct Burst {
    /// The silence before it.
    pause: Duration,
    began: Instant,
    blocks: usize,
    /// The requests that were open when it began.
    due: usize,
}

impl RequestWindow {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            grown: WINDOW_BLOCKS.0,
            minimum: WINDOW_BLOCKS.0,
            last_block: now,
            burst: Burst { pause: Duration::ZERO, began: now, blocks: 0, due: 0 },
            round_start: now,
            round_left: 0,
        }
    }

    /// A first request is sent: until now there was nothing to answer.
    pub(super) fn starts(&mut self, now: Instant) {
        self.last_block = now;
        self.round_start = now;
        self.round_left = 0;
    }

    /// A block arrived; `open` requests remain.
    pub(super) fn block_received(&mut self, open: usize, now: Instant) {
        let pause = now.saturating_duration_since(self.last_block);
        if pause >= PAUSE {
            self.shrink(pause);
            self.burst = Burst { pause, began: now, blocks: 0, due: open + 1 };
        }
        self.last_block = now;
        self.burst.blocks += 1;
        let is_quick = now.saturating_duration_since(self.burst.began) < self.burst.pause;
        if self.burst.blocks == self.burst.due && is_quick {
            self.grown = self.grown.max(2 * self.burst.due).min(WINDOW_BLOCKS.1);
            self.minimum = self.grown.min(WINDOW_BLOCKS.0);
        }
        self.round_left = self.round_left.saturating_sub(1);
        if self.round_left == 0 {
            self.round_start = now;
            self.round_left = open;
        }
    }

    /// Before a new burst: adjusts the window to what the last one brought.
    fn shrink(&mut self, pause: Duration) {
        let lasted = self.last_block.saturating_duration_since(self.burst.began);
        let enough = if lasted >= pause { 0 } else { 2 * self.burst.blocks };
        self.grown = enough.max(self.grown / 2).clamp(self.minimum, self.grown.max(self.minimum));
    }

    /// How long ago the oldest open request was made, at most.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.round_start)
    }

    /// The peer's requests were reassigned: from now on it gets one, and more only as it answers
    /// them.
    pub(super) fn restart_with_one(&mut self) {
        self.grown = 1;
        self.minimum = 1;
        self.burst.due = 0;
    }

    /// Requests to keep open, for a peer that delivers so many blocks per second.
    pub(super) fn size(&self, rate: f64) -> usize {
        let steady = (rate * WINDOW.as_secs_f64()) as usize;
        let longest = (rate * LONGEST_WINDOW.as_secs_f64()) as usize;
        steady.max(self.grown.min(longest.max(self.minimum))).clamp(1, WINDOW_BLOCKS.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn window() -> (RequestWindow, Instant) {
        let now = Instant::now();
        (RequestWindow::new(now), now)
    }

    /// A peer that every `beat` sends what was requested, but at most `most`: the blocks of each
    /// beat.
    fn beats(
        window: &mut RequestWindow,
        mut now: Instant,
        beat: Duration,
        most: usize,
    ) -> Vec<usize> {
        let mut delivered = Vec::new();
        let mut open = window.size(0.0);
        for _ in 0..10 {
            now += beat;
            let blocks = open.min(most);
            let rate = blocks as f64 / beat.as_secs_f64();
            for _ in 0..blocks {
                // For each block that arrives another is requested at once.
                window.block_received(open - 1, now);
                open = window.size(rate);
            }
            delivered.push(blocks);
        }
        delivered
    }

    #[test]
    fn the_window_of_a_peer_that_answers_twice_a_second_doubles_up_to_the_bound() {
        let (mut window, now) = window();
        let delivered = beats(&mut window, now, Duration::from_millis(500), 1000);
        assert_eq!(delivered, [8, 16, 32, 64, 128, 256, 256, 256, 256, 256]);
    }

    #[test]
    fn a_peer_whose_bursts_are_short_keeps_a_small_window() {
        let (mut window, now) = window();
        assert_eq!(beats(&mut window, now, Duration::from_millis(200), 4), [4; 10]);
        assert_eq!(window.size(20.0), 8);
    }

    #[test]
    fn a_grown_window_shrinks_with_the_bursts_and_with_the_rate() {
        let (mut window, now) = window();
        beats(&mut window, now, Duration::from_millis(500), 1000);
        assert_eq!(window.size(512.0), 256);
        assert_eq!(window.size(10.0), 20);
        beats(&mut window, now + Duration::from_secs(10), Duration::from_millis(500), 4);
        assert_eq!(window.size(512.0), 51);
        assert_eq!(window.size(8.0), 8);
    }

    #[test]
    fn a_peer_that_was_too_slow_starts_again_with_one() {
        let (mut window, now) = window();
        window.restart_with_one();
        assert_eq!(window.size(0.0), 1);
        let delivered = beats(&mut window, now, Duration::from_millis(500), 1000);
        assert!(delivered[0] == 1 && delivered[9] > 64, "{delivered:?}");
    }
}
