//! Core: when a node announces itself to the tracker next.

use std::time::Duration;

/// A room starts together, so new PCs are looked for often at first.
const EARLY: Duration = Duration::from_secs(3);
/// How many announces count as the first ones.
const EARLY_TIMES: u32 = 10;
/// The shortest time between two announces, whatever the tracker says.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest, so that a wrong interval of the tracker does not isolate a node.
const LONGEST: Duration = Duration::from_secs(120);
/// The longest wait after failures; a server that returns is found within it.
const LONGEST_RETRY: Duration = Duration::from_secs(8);

/// When to announce next.
#[derive(Debug, Default)]
pub struct Rhythm {
    answered: u32,
    failed: u32,
}

impl Rhythm {
    /// The wait after an answer with this interval.
    pub fn after_answer(&mut self, interval: Duration) -> Duration {
        self.failed = 0;
        self.answered = self.answered.saturating_add(1);
        let interval = interval.clamp(SHORTEST, LONGEST);
        if self.answered <= EARLY_TIMES { interval.min(EARLY) } else { interval }
    }

    /// The wait after a failure: 1, 2, 4 and then always 8 seconds.
    pub fn after_failure(&mut self) -> Duration {
        let wait = SHORTEST.saturating_mul(1 << self.failed.min(8));
        self.failed = self.failed.saturating_add(1);
        wait.min(LONGEST_RETRY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_first_announces_are_quick_and_then_the_tracker_decides() {
        let mut rhythm = Rhythm::default();
        for _ in 0..EARLY_TIMES {
            assert_eq!(rhythm.after_answer(secs(30)), EARLY);
        }
        assert_eq!(rhythm.after_answer(secs(30)), secs(30));
        assert_eq!(rhythm.after_answer(secs(0)), SHORTEST);
        assert_eq!(rhythm.after_answer(secs(999_999)), LONGEST);
    }

    #[test]
    fn a_silent_tracker_is_asked_less_and_less_but_never_forgotten() {
        let mut rhythm = Rhythm::default();
        let waits: Vec<u64> = (0..12).map(|_| rhythm.after_failure().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 8, 8, 8, 8, 8, 8, 8, 8]);
        rhythm.after_answer(secs(5));
        assert_eq!(rhythm.after_failure(), secs(1));
    }
}
