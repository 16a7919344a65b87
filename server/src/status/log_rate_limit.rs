//! Core: rate limit for repeated log messages and warnings.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, SystemTime};

/// Messages remembered at once: anybody can invent MAC addresses to warn about.
const MAX_KEYS: usize = 4096;

/// See the module; `K` says what a message is about.
#[derive(Debug)]
pub struct LogRateLimit<K> {
    interval: Duration,
    last: HashMap<K, SystemTime>,
}

impl<K: Eq + Hash> LogRateLimit<K> {
    /// The same message is due once per `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: HashMap::new() }
    }

    /// Whether to log `key` now; if so, it counts as logged.
    pub fn is_due(&mut self, key: K, now: SystemTime) -> bool {
        let is_recent = |last: &SystemTime| {
            now.duration_since(*last).is_ok_and(|passed| passed < self.interval)
        };
        if self.last.get(&key).is_some_and(is_recent) {
            return false;
        }
        if self.last.len() >= MAX_KEYS {
            self.last.retain(|_, last| is_recent(last));
        }
        // Thousands of them at once are a flood, which the log shows by now.
        let has_room = self.last.len() < MAX_KEYS;
        if has_room {
            self.last.insert(key, now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn the_same_is_due_once_per_interval() {
        let mut limit = LogRateLimit::new(Duration::from_mins(10));
        let due: Vec<bool> =
            [0, 1, 599, 600, 601].map(|secs| limit.is_due("one", at(secs))).to_vec();
        assert_eq!(due, [true, false, false, true, false]);
        assert!(limit.is_due("another", at(601)));
    }

    #[test]
    fn a_flood_is_logged_four_thousand_times_and_forgotten() {
        let mut limit = LogRateLimit::new(Duration::from_mins(1));
        assert_eq!((0..10_000).filter(|n| limit.is_due(*n, at(0))).count(), MAX_KEYS);
        assert!(limit.is_due(20_000, at(60)), "there is room again");
        assert_eq!(limit.last.len(), 1);
    }
}
