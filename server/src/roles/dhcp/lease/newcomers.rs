//! Core: how many PCs that nobody knows may take addresses while these are scarce.
//!
//! Hardware addresses can be invented by the thousand. While more than half of a range is in use,
//! those never seen before may take a quarter of it at once and as much again per
//! [`FIRST_LEASE`], which is also how long they keep it at first. So invented ones hold half of
//! the range at most; the rest stays for PCs that are known, and all of it is back soon after.

use std::time::{Duration, SystemTime};

/// How long a newcomer keeps its address while addresses are scarce; it renews after half of it
/// and then counts as any other PC. Longer than one loader takes to start the next.
pub const FIRST_LEASE: Duration = Duration::from_secs(30);
/// The part of a range that newcomers may take at once.
const SHARE: u32 = 4;

/// A token bucket, as the generic cell rate algorithm keeps one (ITU-T I.371 annex A).
#[derive(Debug)]
pub(super) struct Newcomers {
    /// Time for one more token.
    interval: Duration,
    /// Tokens that can be saved up, as the time that they take to come.
    most: Duration,
    /// When the bucket would be full again.
    full_at: SystemTime,
}

impl Newcomers {
    /// For a range of so many addresses.
    pub(super) fn new(size: u32) -> Self {
        let burst = (size / SHARE).max(1);
        let interval = FIRST_LEASE / burst;
        Self { interval, most: interval * (burst - 1), full_at: SystemTime::UNIX_EPOCH }
    }

    /// Takes a token; `false` when there is none.
    pub(super) fn admit(&mut self, now: SystemTime) -> bool {
        let full_at = self.full_at.max(now);
        let is_there = full_at <= now + self.most;
        if is_there {
            self.full_at = full_at + self.interval;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_comes_at_once_and_as_many_again_in_each_first_lease() {
        let mut newcomers = Newcomers::new(40);
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let mut admitted_in = |secs: std::ops::Range<u64>| {
            secs.map(|second| {
                let now = start + Duration::from_secs(second);
                (0..100).filter(|_| newcomers.admit(now)).count()
            })
            .sum::<usize>()
        };
        assert_eq!(admitted_in(0..1), 10);
        assert_eq!(admitted_in(1..31), 10);
        assert_eq!(admitted_in(31..61), 10);
        assert_eq!(admitted_in(200..201), 10, "no more are saved up");
    }

    #[test]
    fn even_one_address_lets_somebody_in() {
        let mut newcomers = Newcomers::new(1);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!((newcomers.admit(now), newcomers.admit(now)), (true, false));
        assert!(newcomers.admit(now + FIRST_LEASE));
    }
}
