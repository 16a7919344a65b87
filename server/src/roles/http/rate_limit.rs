//! Core: how many reports one address may send.
//!
//! A token bucket per address. A node reports every 2 s and at each step; a test has a dozen nodes
//! on one address. What is beyond that is refused before its body is read.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::SystemTime;

/// Reports at once.
const BURST: f64 = 40.0;
/// Reports per second in the long run.
const RATE: f64 = 10.0;
/// Addresses watched; when there are more, those with a full bucket are forgotten.
const MAX_ADDRESSES: usize = 2048;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: SystemTime,
}

impl Bucket {
    fn tokens_at(&self, now: SystemTime) -> f64 {
        let elapsed = now.duration_since(self.filled).unwrap_or_default();
        (self.tokens + elapsed.as_secs_f64() * RATE).min(BURST)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    buckets: HashMap<IpAddr, Bucket>,
}

impl RateLimit {
    /// Whether a report from `ip` at `now` is taken.
    pub(super) fn takes(&mut self, ip: IpAddr, now: SystemTime) -> bool {
        if self.buckets.len() >= MAX_ADDRESSES && !self.buckets.contains_key(&ip) {
            self.buckets.retain(|_, bucket| bucket.tokens_at(now) < BURST);
            if self.buckets.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        let bucket = self.buckets.entry(ip).or_insert(Bucket { tokens: BURST, filled: now });
        let tokens = bucket.tokens_at(now);
        let is_taken = tokens >= 1.0;
        *bucket = Bucket { tokens: if is_taken { tokens - 1.0 } else { tokens }, filled: now };
        is_taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn a_flood_is_cut_to_the_rate_and_others_do_not_notice() {
        let mut limit = RateLimit::default();
        let flooder = IpAddr::from([10, 77, 0, 66]);
        let taken = (0..10_000).filter(|n| limit.takes(flooder, at(*n))).count();
        assert!((135..=141).contains(&taken), "{taken} of a flood of 10 s");
        assert!(limit.takes(IpAddr::from([10, 77, 0, 50]), at(10_000)));
    }

    #[test]
    fn a_node_that_reports_every_two_seconds_is_never_refused() {
        let mut limit = RateLimit::default();
        let node = IpAddr::from([10, 77, 0, 50]);
        assert!((0..5000).all(|n| limit.takes(node, at(n * 2000))));
    }

    #[test]
    fn quiet_addresses_make_room() {
        let mut limit = RateLimit::default();
        let ip = |n: usize| IpAddr::from((n as u32).to_be_bytes());
        assert!((0..MAX_ADDRESSES).all(|n| limit.takes(ip(n), at(0))));
        assert!(!limit.takes(ip(MAX_ADDRESSES), at(0)));
        assert!(limit.takes(ip(MAX_ADDRESSES), at(1000)));
    }
}
