//! Core: which messages were told a moment ago, and need not be told again yet.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, SystemTime};

/// Messages remembered at once; those about hardware addresses can be invented, memory cannot.
const MOST: usize = 4096;

/// See the module; `K` says what a message is about.
#[derive(Debug)]
pub struct Told<K> {
    interval: Duration,
    last: HashMap<K, SystemTime>,
}

impl<K: Eq + Hash> Told<K> {
    /// The same is told once per `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: HashMap::new() }
    }

    /// Whether to tell of `key` now; if so, it counts as told.
    pub fn is_due(&mut self, key: K, now: SystemTime) -> bool {
        let is_recent = |last: &SystemTime| {
            now.duration_since(*last).is_ok_and(|passed| passed < self.interval)
        };
        if self.last.get(&key).is_some_and(is_recent) {
            return false;
        }
        if self.last.len() >= MOST {
            self.last.retain(|_, last| is_recent(last));
        }
        // Thousands of them at once are a flood: it was told often enough.
        let has_room = self.last.len() < MOST;
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
    fn the_same_is_told_once_per_interval() {
        let mut told = Told::new(Duration::from_mins(10));
        let due: Vec<bool> =
            [0, 1, 599, 600, 601].map(|secs| told.is_due("one", at(secs))).to_vec();
        assert_eq!(due, [true, false, false, true, false]);
        assert!(told.is_due("another", at(601)));
    }

    #[test]
    fn a_flood_is_told_of_four_thousand_times_and_forgotten() {
        let mut told = Told::new(Duration::from_mins(1));
        assert_eq!((0..10_000).filter(|n| told.is_due(*n, at(0))).count(), MOST);
        assert!(told.is_due(20_000, at(60)), "there is room again");
        assert_eq!(told.last.len(), 1);
    }
}
