//! Core: announces -> peers (BEP 3, compact answers of BEP 23).
//!
//! The seed of this server is always named. Our own nodes (peer id `-BT0...`) are named the peers
//! that announced before them, so that each pair makes one connection; any other client is named
//! every peer. An announce counts for the address it came from and no other, so nobody can send
//! nodes to a stranger. `incomplete` tells a node that has finished whether it is still needed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, SystemTime};

use bt_swarm::Infohash;

/// Peers known at once, of all torrents: a few rooms. Everything beyond is named the seed only.
const MAX_PEERS: usize = 2000;
/// Peers of one address: a room behind one NAT, or a test with all nodes on one machine.
const MAX_PEERS_PER_ADDRESS: usize = 64;
/// Peers named in one answer: the full mesh of a large room.
const MAX_NAMED: usize = 200;
/// Peers named to a client that does not say how many it wants (BEP 3 suggests 50).
const DEFAULT_NAMED: usize = 50;
/// For our nodes while they download: they begin within seconds of each other and must find each
/// other as fast, and a node that was switched off must not be named for long. For 40 nodes this
/// is 8 small requests per second.
const NODE_INTERVAL: Duration = Duration::from_secs(5);
/// For our nodes that have everything: to learn that nobody needs them any more.
const DONE_INTERVAL: Duration = Duration::from_secs(10);
/// For other clients, many of which refuse to come back sooner.
const OTHER_INTERVAL: Duration = Duration::from_secs(30);
/// A peer that missed this many announces is gone.
const MISSED: u32 = 3;
/// The longest query we read: all real ones are below 500 bytes.
const MAX_QUERY: usize = 2000;

/// What an announce says is happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// `started`, `completed`, or one of the regular announces: the peer is there.
    Present,
    /// It leaves.
    Stopped,
}

/// One announce, read from the URL's query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// Which torrent.
    pub infohash: Infohash,
    /// Who.
    pub peer_id: [u8; 20],
    /// Where it listens.
    pub port: u16,
    /// Bytes that it still lacks.
    pub left: u64,
    /// What is happening.
    pub event: Event,
    /// How many peers it wants named.
    pub wanted: usize,
    /// Answer with BEP 23's short form: unless the client says `compact=0`.
    pub is_compact: bool,
    /// Leave the peer ids out of the long form.
    pub no_peer_id: bool,
}

/// Why an announce is refused; the client gets it as `failure reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The query is too long to be one.
    #[error("the query is too long")]
    TooLong,
    /// A key is missing or makes no sense.
    #[error("'{0}' is missing or wrong")]
    Bad(&'static str),
    /// We do not offer this torrent.
    #[error("this lab does not offer that torrent")]
    Unknown,
}

impl Refused {
    /// The whole answer (BEP 3).
    pub fn answer(self) -> Vec<u8> {
        let reason = self.to_string();
        format!("d14:failure reason{}:{reason}e", reason.len()).into_bytes()
    }
}

impl Announce {
    /// Reads the raw query, without its `?`. The 20-byte values are arbitrary bytes, so this is
    /// done before anything takes the query for UTF-8.
    ///
    /// # Errors
    /// When a required key is missing or wrong.
    pub fn parse(query: &str) -> Result<Self, Refused> {
        if query.len() > MAX_QUERY {
            return Err(Refused::TooLong);
        }
        let pairs: HashMap<&str, &str> =
            query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let twenty = |key: &'static str| {
            let bytes = pairs.get(key).and_then(|value| percent_decode(value));
            bytes.and_then(|b| <[u8; 20]>::try_from(b.as_ref()).ok()).ok_or(Refused::Bad(key))
        };
        let number = |key: &'static str| {
            pairs.get(key).map(|v| v.parse::<u64>().map_err(|_| Refused::Bad(key))).transpose()
        };
        let port = number("port")?.and_then(|port| u16::try_from(port).ok());
        Ok(Self {
            infohash: Infohash(twenty("info_hash")?),
            peer_id: twenty("peer_id")?,
            port: port.filter(|&port| port != 0).ok_or(Refused::Bad("port"))?,
            // A magnet link's client does not know yet how much it lacks: it lacks something.
            left: number("left").unwrap_or(None).unwrap_or(u64::MAX),
            event: if pairs.get("event") == Some(&"stopped") {
                Event::Stopped
            } else {
                Event::Present
            },
            wanted: match number("numwant") {
                Ok(Some(wanted)) => usize::try_from(wanted).unwrap_or(MAX_NAMED).min(MAX_NAMED),
                Ok(None) | Err(_) => DEFAULT_NAMED,
            },
            is_compact: pairs.get("compact") != Some(&"0"),
            no_peer_id: pairs.get("no_peer_id") == Some(&"1"),
        })
    }

    /// Whether one of our nodes asks; `-BT7` and later is the client that is called BitTorrent.
    fn is_our_node(&self) -> bool {
        self.peer_id.starts_with(b"-BT0")
    }

    /// Whether a stock client asks that still lacks something: the seed calls back on those, since
    /// some cannot get through to it by themselves.
    pub fn needs_invitation(&self) -> bool {
        !self.is_our_node() && self.left > 0 && self.event == Event::Present
    }

    fn interval(&self) -> Duration {
        match (self.is_our_node(), self.left) {
            (true, 0) => DONE_INTERVAL,
            (true, _) => NODE_INTERVAL,
            (false, _) => OTHER_INTERVAL,
        }
    }
}

/// `%xx` decoded to bytes; `+` stays, as BitTorrent clients mean it. `None` for a broken escape.
fn percent_decode(text: &str) -> Option<Cow<'_, [u8]>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let (high, low) = (hex_digit(*tail.first()?)?, hex_digit(*tail.get(1)?)?);
            decoded.push(high << 4 | low);
            rest = &tail[2..];
        } else {
            decoded.push(*first);
            rest = tail;
        }
    }
    Some(Cow::Owned(decoded))
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[derive(Debug, Clone, Copy)]
struct Peer {
    address: SocketAddrV4,
    id: [u8; 20],
    /// Grows with each first announce: who came before whom.
    order: u64,
    left: u64,
    gone_at: SystemTime,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tracker {
    swarms: HashMap<Infohash, Vec<Peer>>,
    next_order: u64,
}

impl Tracker {
    /// Takes an announce that came from `source` at `now`, and answers it. `seed` is this server's
    /// own peer as the client can reach it. The caller has checked that the torrent is offered.
    pub fn announce(
        &mut self,
        announce: &Announce,
        source: Ipv4Addr,
        seed: SocketAddrV4,
        now: SystemTime,
    ) -> Vec<u8> {
        self.forget_gone(now);
        let address = SocketAddrV4::new(source, announce.port);
        let order = match announce.event {
            Event::Stopped => {
                self.remove(announce.infohash, address);
                None
            }
            Event::Present => self.enter(announce, address, now),
        };
        let swarm = self.swarms.get(&announce.infohash).map_or(&[][..], Vec::as_slice);
        let before = if announce.is_our_node() { order.unwrap_or(0) } else { u64::MAX };
        let others = swarm.iter().rev().filter(|p| p.address != address && p.order < before);
        let wanted = if announce.event == Event::Stopped { 0 } else { announce.wanted };
        let named: Vec<&Peer> = others.take(wanted).collect();
        // The seed counts as one that has everything.
        let complete = 1 + swarm.iter().filter(|peer| peer.left == 0).count();
        let incomplete = swarm.len() + 1 - complete;
        answer(announce, complete, incomplete, seed, &named)
    }

    /// Drops the swarms of torrents that are no longer offered.
    pub fn keep_only(&mut self, is_offered: impl Fn(Infohash) -> bool) {
        self.swarms.retain(|&infohash, _| is_offered(infohash));
    }

    fn forget_gone(&mut self, now: SystemTime) {
        for swarm in self.swarms.values_mut() {
            swarm.retain(|peer| peer.gone_at > now);
        }
        self.swarms.retain(|_, swarm| !swarm.is_empty());
    }

    fn remove(&mut self, infohash: Infohash, address: SocketAddrV4) {
        if let Some(swarm) = self.swarms.get_mut(&infohash) {
            swarm.retain(|peer| peer.address != address);
        }
    }

    /// Enters or refreshes the peer; returns its place in the order, `None` when there is no room.
    fn enter(&mut self, of: &Announce, address: SocketAddrV4, now: SystemTime) -> Option<u64> {
        let gone_at = now + of.interval() * MISSED;
        let swarm = self.swarms.entry(of.infohash).or_default();
        if let Some(peer) = swarm.iter_mut().find(|peer| peer.address == address) {
            if peer.id != of.peer_id {
                // The machine was started again: it is a new peer, after all others.
                peer.order = self.next_order;
                self.next_order += 1;
            }
            (peer.id, peer.left, peer.gone_at) = (of.peer_id, of.left, gone_at);
            let order = peer.order;
            swarm.sort_unstable_by_key(|peer| peer.order);
            return Some(order);
        }
        let known: usize = self.swarms.values().map(Vec::len).sum();
        let all = self.swarms.values().flatten();
        let of_address = all.filter(|peer| peer.address.ip() == address.ip()).count();
        if known >= MAX_PEERS || of_address >= MAX_PEERS_PER_ADDRESS {
            return None;
        }
        let order = self.next_order;
        self.next_order += 1;
        let peer = Peer { address, id: of.peer_id, order, left: of.left, gone_at };
        self.swarms.entry(of.infohash).or_default().push(peer);
        Some(order)
    }
}

/// The bencoded answer; keys in order, as BEP 3 wants them.
fn answer(
    announce: &Announce,
    complete: usize,
    incomplete: usize,
    seed: SocketAddrV4,
    named: &[&Peer],
) -> Vec<u8> {
    let interval = announce.interval().as_secs();
    let mut out = format!(
        "d8:completei{complete}e10:incompletei{incomplete}e8:intervali{interval}e\
         12:min intervali{interval}e5:peers"
    )
    .into_bytes();
    let wants_peers = announce.event != Event::Stopped;
    if announce.is_compact {
        let addresses = wants_peers.then_some(seed).into_iter();
        let bytes: Vec<u8> =
            addresses.chain(named.iter().map(|peer| peer.address)).flat_map(compact).collect();
        out.extend(format!("{}:", bytes.len()).into_bytes());
        out.extend(bytes);
    } else {
        out.push(b'l');
        if wants_peers {
            out.extend(long_form(seed, None));
        }
        for peer in named {
            out.extend(long_form(peer.address, (!announce.no_peer_id).then_some(peer.id)));
        }
        out.push(b'e');
    }
    out.push(b'e');
    out
}

fn compact(address: SocketAddrV4) -> [u8; 6] {
    let ([a, b, c, d], [high, low]) = (address.ip().octets(), address.port().to_be_bytes());
    [a, b, c, d, high, low]
}

fn long_form(address: SocketAddrV4, id: Option<[u8; 20]>) -> Vec<u8> {
    let ip = address.ip().to_string();
    let mut out = format!("d2:ip{}:{ip}", ip.len()).into_bytes();
    if let Some(id) = id {
        out.extend(b"7:peer id20:");
        out.extend(id);
    }
    out.extend(format!("4:porti{}ee", address.port()).into_bytes());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Tracker {
        fn peers(&self, infohash: Infohash) -> usize {
            self.swarms.get(&infohash).map_or(0, Vec::len)
        }
    }

    const SEED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 6881);
    const QUERY: &str = "info_hash=%00%01%02%03%04%05%06%07%08%09%0a%0B%0c%0d%0e%0f%10%11%12%13\
        &peer_id=-BT0100-abcdefghijkl&port=6882&uploaded=0&downloaded=0&left=5&compact=1&event=started";

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, last)
    }

    fn announce(id: &str) -> Announce {
        let mut announce = Announce::parse(QUERY).expect("a good query");
        announce.peer_id[..id.len()].copy_from_slice(id.as_bytes());
        announce
    }

    /// The last bytes of the addresses that are named, in order.
    fn named(answer: &[u8]) -> Vec<u8> {
        let text = answer.windows(7).position(|w| w == b"5:peers").expect("names peers") + 7;
        let colon = text + answer[text..].iter().position(|&b| b == b':').expect("has a length");
        answer[colon + 1..answer.len() - 1].chunks(6).map(|peer| peer[3]).collect()
    }

    #[test]
    fn a_query_is_read_byte_by_byte() {
        let read = announce("");
        assert_eq!(read.infohash.0, std::array::from_fn(|n| n as u8));
        assert_eq!(&read.peer_id, b"-BT0100-abcdefghijkl");
        assert_eq!((read.port, read.left, read.is_compact), (6882, 5, true));
        let all = "%FF".repeat(20);
        let read = Announce::parse(&format!("peer_id={all}&info_hash={all}&port=1&compact=0"));
        let read = read.expect("enough");
        assert_eq!((read.peer_id, read.left, read.is_compact), ([255; 20], u64::MAX, false));
    }

    #[test]
    fn a_bad_query_is_refused_in_words() {
        for (from, to, key) in [
            ("info_hash=%00", "info_hash=%0", "info_hash"),
            ("info_hash=%00", "info_hash=%zz", "info_hash"),
            ("info_hash=%00", "info_hash=", "info_hash"),
            ("peer_id", "peer", "peer_id"),
            ("port=6882", "port=0", "port"),
            ("port=6882", "port=65536", "port"),
            ("port=6882", "port=-1", "port"),
        ] {
            assert_eq!(Announce::parse(&QUERY.replace(from, to)), Err(Refused::Bad(key)), "{to}");
        }
        assert_eq!(Announce::parse(&"a".repeat(2001)), Err(Refused::TooLong));
        let answer = Refused::Bad("port").answer();
        assert_eq!(answer, b"d14:failure reason26:'port' is missing or wronge");
    }

    #[test]
    fn the_first_peer_is_named_the_seed_alone_in_sorted_bencoding() {
        let answer = Tracker::default().announce(&announce(""), ip(50), SEED, at(0));
        let mut expected =
            b"d8:completei1e10:incompletei1e8:intervali5e12:min intervali5e5:peers6:".to_vec();
        expected.extend([10, 77, 0, 1, 0x1a, 0xe1, b'e']);
        assert_eq!(answer, expected);
    }

    #[test]
    fn our_nodes_are_named_those_before_them_and_others_everybody() {
        let mut tracker = Tracker::default();
        let mut ask =
            |id: &str, last: u8| named(&tracker.announce(&announce(id), ip(last), SEED, at(0)));
        assert_eq!(ask("-BT01", 50), [1]);
        assert_eq!(ask("-BT02", 51), [1, 50]);
        assert_eq!(ask("-qB3", 52), [1, 51, 50]);
        assert_eq!(ask("-BT04", 53), [1, 52, 51, 50]);
        assert_eq!(ask("-BT01", 50), [1], "a second announce keeps its place");
        assert_eq!(ask("-qB3", 52), [1, 53, 51, 50]);
        assert_eq!(ask("-BT05", 50), [1, 53, 52, 51], "a restarted node is a new one");
    }

    #[test]
    fn a_peer_leaves_by_word_or_by_silence() {
        let mut tracker = Tracker::default();
        tracker.announce(&announce("-BT01"), ip(50), SEED, at(0));
        tracker.announce(&announce("-BT02"), ip(51), SEED, at(0));
        let leaving = Announce { event: Event::Stopped, ..announce("-BT01") };
        assert_eq!(named(&tracker.announce(&leaving, ip(50), SEED, at(1))), [0_u8; 0]);
        assert_eq!(named(&tracker.announce(&announce("-qB"), ip(52), SEED, at(14))), [1, 51]);
        assert_eq!(named(&tracker.announce(&announce("-qB"), ip(52), SEED, at(15))), [1]);
        assert_eq!(tracker.peers(announce("").infohash), 1);
    }

    #[test]
    fn counts_tell_who_still_lacks_something() {
        let mut tracker = Tracker::default();
        tracker.announce(&announce("-BT01"), ip(50), SEED, at(0));
        let done = Announce { left: 0, ..announce("-BT02") };
        let answer = tracker.announce(&done, ip(51), SEED, at(0));
        assert!(answer.starts_with(b"d8:completei2e10:incompletei1e8:intervali10e"));
    }

    #[test]
    fn the_long_form_has_ids_unless_unwanted() {
        let mut tracker = Tracker::default();
        tracker.announce(&announce("-BT01"), ip(50), SEED, at(0));
        let asks = Announce { is_compact: false, ..announce("-qB") };
        let answer = tracker.announce(&asks, ip(51), SEED, at(0));
        let expected = b"5:peersld2:ip9:10.77.0.14:porti6881eed2:ip10:10.77.0.507:peer id20:\
            -BT0100-abcdefghijkl4:porti6882eeee";
        assert!(answer.ends_with(expected), "{}", String::from_utf8_lossy(&answer));
        let asks = Announce { no_peer_id: true, ..asks };
        let answer = tracker.announce(&asks, ip(51), SEED, at(0));
        assert!(answer.ends_with(b"d2:ip10:10.77.0.504:porti6882eeee"));
    }

    #[test]
    fn invented_peers_are_bounded_and_the_seed_is_still_named() {
        let mut tracker = Tracker::default();
        for n in 0..10_000_u16 {
            let fake = Announce { port: n + 1, ..announce("-XX") };
            tracker.announce(&fake, Ipv4Addr::new(10, 77, 1, (n % 50) as u8), SEED, at(0));
        }
        assert_eq!(tracker.peers(announce("").infohash), MAX_PEERS);
        let answer = tracker.announce(&announce("-BT01"), ip(50), SEED, at(1));
        assert_eq!(named(&answer), [1], "no room, but the seed helps");
        let many = Announce { wanted: MAX_NAMED, ..announce("-qB") };
        assert_eq!(named(&tracker.announce(&many, ip(51), SEED, at(1))).len(), 1 + MAX_NAMED);
        tracker.keep_only(|_| false);
        assert_eq!(tracker.peers(announce("").infohash), 0);
    }

    proptest! {
        #[test]
        fn no_query_is_too_odd(query in "(info_hash|peer_id|port|left|event|&|=|%|[0-9a-fA-F]|.){0,300}") {
            if let Ok(announce) = Announce::parse(&query) {
                Tracker::default().announce(&announce, ip(9), SEED, at(0));
            }
        }
    }
}
