//! Core: who sends data now, and how long nothing has arrived.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::journey::DownloadProgress;

/// A peer counts as sending when it sent data within this time.
const HELPS: Duration = Duration::from_secs(2);
/// Without data for this long a download is shown as waiting.
const SHOW_STALL: Duration = Duration::from_secs(20);
/// Without data for this long a download has failed.
pub const GIVE_UP: Duration = Duration::from_secs(120);

/// What the engine reports about a download at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Bytes here.
    pub done: u64,
    /// Bytes in total.
    pub total: u64,
    /// Bytes per second.
    pub speed: u64,
    /// Bytes received from each peer in total.
    pub from: Vec<(SocketAddr, u64)>,
}

/// Watches the samples of one download.
#[derive(Debug)]
pub struct Pace {
    server: Option<IpAddr>,
    done: u64,
    grew: Instant,
    peers: BTreeMap<SocketAddr, (u64, Instant)>,
}

impl Pace {
    /// Begins to watch; `server` is counted apart from the other PCs.
    #[must_use]
    pub fn new(server: Option<IpAddr>, now: Instant) -> Self {
        Self { server, done: 0, grew: now, peers: BTreeMap::new() }
    }

    /// What the screen shows for this sample.
    pub fn look(&mut self, sample: &Sample, now: Instant) -> DownloadProgress {
        if sample.done > self.done {
            self.done = sample.done;
            self.grew = now;
        }
        for (peer, bytes) in &sample.from {
            let known = self.peers.entry(*peer).or_insert((0, now));
            if *bytes > known.0 {
                *known = (*bytes, now);
                self.grew = now;
            }
        }
        let helps = |at: Instant| now.duration_since(at) <= HELPS;
        let helping = self.peers.iter().filter(|(_, (bytes, at))| *bytes > 0 && helps(*at));
        let helping: Vec<bool> = helping.map(|(peer, _)| Some(peer.ip()) == self.server).collect();
        let waited = now.duration_since(self.grew);
        DownloadProgress {
            done: sample.done,
            total: sample.total,
            speed: sample.speed,
            peers: helping.iter().filter(|is_server| !**is_server).count(),
            from_server: helping.contains(&true),
            stalled_for: (waited >= SHOW_STALL).then_some(waited),
        }
    }

    /// Whether nothing has arrived for so long that a person must decide.
    #[must_use]
    pub fn is_hopeless(&self, now: Instant) -> bool {
        now.duration_since(self.grew) >= GIVE_UP
    }

    /// Restarts the wait: somebody wants to continue.
    pub fn hope_again(&mut self, now: Instant) {
        self.grew = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[expect(clippy::disallowed_methods, reason = "a start for made-up times")]
    fn start() -> (Pace, Instant) {
        let now = Instant::now();
        (Pace::new(Some(SERVER), now), now)
    }

    fn sample(done: u64, from: &[(&str, u64)]) -> Sample {
        let from = from.iter().map(|(peer, n)| (peer.parse().expect("an address"), *n)).collect();
        Sample { done, total: 100, speed: 1, from }
    }

    fn after(now: Instant, secs: u64) -> Instant {
        now + Duration::from_secs(secs)
    }

    #[test]
    fn the_server_is_counted_apart_from_the_pcs() {
        let (mut pace, now) = start();
        let from = [("10.0.0.1:6881", 9), ("10.0.0.7:4000", 9), ("10.0.0.8:4000", 0)];
        let progress = pace.look(&sample(1, &from), now);
        assert_eq!((progress.peers, progress.from_server), (1, true));
    }

    #[test]
    fn a_peer_that_sent_nothing_for_two_seconds_is_not_counted() {
        let (mut pace, now) = start();
        pace.look(&sample(1, &[("10.0.0.7:4000", 9)]), now);
        assert_eq!(pace.look(&sample(1, &[("10.0.0.7:4000", 9)]), after(now, 3)).peers, 0);
        assert_eq!(pace.look(&sample(1, &[("10.0.0.7:4000", 10)]), after(now, 4)).peers, 1);
    }

    #[test]
    fn a_stall_is_shown_then_given_up_and_ends_with_the_first_byte() {
        let (mut pace, now) = start();
        assert_eq!(pace.look(&sample(0, &[]), after(now, 19)).stalled_for, None);
        let stalled = pace.look(&sample(0, &[]), after(now, 21)).stalled_for;
        assert_eq!(stalled, Some(Duration::from_secs(21)));
        assert!(!pace.is_hopeless(after(now, 119)) && pace.is_hopeless(after(now, 120)));
        let came = [("10.0.0.1:6881", 1)];
        assert_eq!(pace.look(&sample(0, &came), after(now, 130)).stalled_for, None);
        assert!(!pace.is_hopeless(after(now, 131)));
    }

    #[test]
    fn trying_again_restarts_the_wait() {
        let (mut pace, now) = start();
        pace.hope_again(after(now, 125));
        assert!(!pace.is_hopeless(after(now, 130)));
    }
}
