//! Core: which addresses to dial, and when to try again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How many addresses are remembered at most; a malicious tracker cannot make the list longer.
const MAX_KNOWN: usize = 512;

/// How many dials are under way at most; each is a socket and a task.
const MAX_DIALS: usize = 32;

/// First and longest wait before the next attempt; each failure doubles it. Short, compared with
/// the minute of clients for the internet (libtorrent's `min_reconnect_time`): in one room an
/// attempt costs a packet or two, and a server that comes back should be found at once.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Wait before the next attempt if the peer is already connected: by then that connection may be
/// lost.
const WAIT_CONNECTED: Duration = Duration::from_secs(30);

/// A connection that lasted this long was not a failure. One that the peer closes at once is, or a
/// peer that refuses every connection would be dialled twice a second.
const STEADY: Duration = Duration::from_secs(5);

/// The addresses of a swarm, and the result of dialling each.
#[derive(Debug, Default)]
pub struct DialBook {
    known: BTreeMap<SocketAddr, Dial>,
}

#[derive(Debug)]
enum Dial {
    Waiting { until: Option<Instant>, failures: u32 },
    Trying { failures: u32 },
    Connected { since: Instant, failures: u32 },
    Never,
}

/// How a dial or the connection that it made ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// No answer, or the connection ended.
    Over,
    /// There is another connection to that peer.
    Duplicate,
    /// It is this node itself, or a peer that is banned.
    Hopeless,
}

impl DialBook {
    /// Adds an address; a known one changes nothing.
    pub fn learn(&mut self, address: SocketAddr) {
        if self.known.len() < MAX_KNOWN {
            self.known.entry(address).or_insert(Dial::Waiting { until: None, failures: 0 });
        }
    }

    /// The addresses to dial now; each counts as under way until [`DialBook::ended`].
    pub fn due(&mut self, now: Instant) -> Vec<SocketAddr> {
        let trying = self.known.values().filter(|dial| matches!(dial, Dial::Trying { .. })).count();
        let waiting = self.known.iter().filter_map(|(address, dial)| match dial {
            Dial::Waiting { until, failures } if until.is_none_or(|until| until <= now) => {
                Some((*failures, *until, *address))
            }
            _ => None,
        });
        // Fewest failures first, then the longest wait: a room of switched-off PCs in the tracker's
        // list must not keep a living peer from its turn.
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort_unstable();
        waiting.truncate(MAX_DIALS.saturating_sub(trying));
        let mut due = Vec::new();
        for (failures, _, address) in waiting {
            self.known.insert(address, Dial::Trying { failures });
            due.push(address);
        }
        due
    }

    /// A dial became a connection.
    pub fn connected(&mut self, address: SocketAddr, now: Instant) {
        if let Some(dial) = self.known.get_mut(&address)
            && let Dial::Trying { failures } = *dial
        {
            *dial = Dial::Connected { since: now, failures };
        }
    }

    /// A dial or its connection ended.
    pub fn ended(&mut self, address: SocketAddr, ending: Ending, now: Instant) {
        let Some(dial) = self.known.get_mut(&address) else { return };
        let failures = match *dial {
            // A server that was restarted is dialled soon, however often it failed before.
            Dial::Connected { since, .. } if now.saturating_duration_since(since) >= STEADY => 0,
            Dial::Connected { failures, .. }
            | Dial::Trying { failures }
            | Dial::Waiting { failures, .. } => failures,
            Dial::Never => return,
        };
        *dial = match ending {
            // Remembered, not forgotten: the tracker's next answer lists the address again.
            Ending::Hopeless => Dial::Never,
            Ending::Duplicate => Dial::Waiting { until: Some(now + WAIT_CONNECTED), failures: 0 },
            Ending::Over => {
                // The longest wait is reached long before the shift could overflow.
                let wait = WAITS.0.saturating_mul(1 << failures.min(8)).min(WAITS.1);
                Dial::Waiting { until: Some(now + wait), failures: failures.saturating_add(1) }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the start")]
    fn book() -> (DialBook, Instant) {
        let mut book = DialBook::default();
        book.learn(address(1));
        (book, Instant::now())
    }

    #[test]
    fn addresses_that_never_answer_keep_no_other_from_its_turn() {
        let (mut book, mut now) = book();
        (1..200).for_each(|port| book.learn(address(port + 1)));
        let mut dialled = std::collections::BTreeSet::new();
        for _ in 0..7 {
            let due = book.due(now);
            now += Duration::from_secs(5);
            due.iter().for_each(|address| book.ended(*address, Ending::Over, now));
            dialled.extend(due);
            now += Duration::from_secs(5);
        }
        assert_eq!(dialled.len(), 200);
    }

    #[test]
    fn a_new_address_is_dialled_once() {
        let (mut book, now) = book();
        assert_eq!(book.due(now), [address(1)]);
        book.learn(address(1));
        assert!(book.due(now + Duration::from_secs(99)).is_empty());
    }

    #[test]
    fn waits_grow_to_five_seconds() {
        let (mut book, mut now) = book();
        book.due(now);
        for wait in [500, 1000, 2000, 4000, 5000, 5000].map(Duration::from_millis) {
            book.ended(address(1), Ending::Over, now);
            assert!(book.due(now + wait - Duration::from_millis(1)).is_empty());
            now += wait;
            assert_eq!(book.due(now), [address(1)]);
        }
    }

    #[test]
    fn a_steady_connection_that_is_lost_is_dialled_again_soon() {
        let (mut book, now) = book();
        book.due(now);
        book.connected(address(1), now);
        book.ended(address(1), Ending::Over, now + STEADY);
        assert_eq!(book.due(now + STEADY + WAITS.0), [address(1)]);
    }

    #[test]
    fn a_peer_that_hangs_up_at_once_is_dialled_less_and_less_often() {
        let (mut book, now) = book();
        for _ in 0..2 {
            book.due(now + Duration::from_secs(60));
            book.connected(address(1), now);
            book.ended(address(1), Ending::Over, now);
        }
        assert!(book.due(now + WAITS.0).is_empty());
        assert_eq!(book.due(now + 2 * WAITS.0), [address(1)]);
    }

    #[test]
    fn oneself_is_never_dialled_again() {
        let (mut book, now) = book();
        book.due(now);
        book.ended(address(1), Ending::Hopeless, now);
        assert!(book.due(now + Duration::from_secs(9999)).is_empty());
    }

    #[test]
    fn the_list_is_bounded() {
        let (mut book, now) = book();
        (0..2000).for_each(|port| book.learn(address(port)));
        assert_eq!(book.known.len(), MAX_KNOWN);
        assert_eq!(book.due(now).len(), MAX_DIALS);
    }
}
