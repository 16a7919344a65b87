//! Core: announces to an HTTP tracker and its answers (BEP 3, BEP 23). The caller does the HTTP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::bencode::Value;
use super::infohash::Infohash;
use super::peer_id::PeerId;
use super::url::percent_encode;

/// Peers that are used of one answer at most.
const MAX_PEERS: usize = 512;

/// One announce: a peer, its address and how much it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    /// The swarm.
    pub infohash: Infohash,
    /// The peer that announces.
    pub peer_id: PeerId,
    /// The TCP port on which it listens.
    pub port: u16,
    /// Payload bytes uploaded in this session.
    pub uploaded: u64,
    /// Payload bytes downloaded in this session.
    pub downloaded: u64,
    /// Bytes still missing.
    pub left: u64,
    /// What happened, if anything.
    pub event: Option<Event>,
}

/// The `event` of an announce (BEP 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The first announce.
    Started,
    /// The download has just become complete.
    Completed,
    /// The peer leaves.
    Stopped,
}

/// A tracker's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// When to announce again.
    pub interval: Duration,
    /// Addresses of other peers.
    pub peers: Vec<SocketAddr>,
    /// Leechers in the swarm, if the tracker counts them; the peer that announces may be among
    /// them.
    pub incomplete: u32,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// The tracker refused, for this reason.
    #[error("the tracker refused the announce: {0}")]
    Refused(String),
    /// Not the answer of a tracker.
    #[error("the tracker's answer is not valid; expected a bencoded list of peers and an interval")]
    Unreadable,
}

/// Peers that a node asks for: all of the largest room, for a full mesh. Trackers send 50 unless
/// asked for more.
const NUMWANT: u32 = 200;

/// The query part of the announce URL, without the question mark.
pub fn query(announce: &Announce) -> String {
    let event = match announce.event {
        None => "",
        Some(Event::Started) => "&event=started",
        Some(Event::Completed) => "&event=completed",
        Some(Event::Stopped) => "&event=stopped",
    };
    format!(
        "info_hash={}&peer_id={}&port={}&uploaded={}&downloaded={}&left={}&numwant={NUMWANT}&compact=1{event}",
        percent_encode(&announce.infohash.0),
        percent_encode(&announce.peer_id.0),
        announce.port,
        announce.uploaded,
        announce.downloaded,
        announce.left,
    )
}

/// Reads a tracker's answer, with compact peers (BEP 23) or a list of dictionaries (BEP 3).
///
/// Peers without a usable IPv4 address and port are left out.
///
/// # Errors
/// [`AnnounceError`], with the tracker's own text if it refused.
pub fn parse_response(body: &[u8]) -> Result<Answer, AnnounceError> {
    let answer = Value::read(body).ok_or(AnnounceError::Unreadable)?;
    if let Some(reason) = answer.at("failure reason") {
        let reason = reason.bytes().ok_or(AnnounceError::Unreadable)?;
        return Err(AnnounceError::Refused(String::from_utf8_lossy(reason).into_owned()));
    }
    let seconds = answer.at("interval").and_then(Value::integer);
    let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok());
    let peers = match answer.at("peers").ok_or(AnnounceError::Unreadable)? {
        Value::Bytes(compact) => compact.as_chunks().0.iter().map(compact_peer).collect(),
        Value::List(peers) => peers.iter().filter_map(listed_peer).collect::<Vec<_>>(),
        _ => return Err(AnnounceError::Unreadable),
    };
    let incomplete = answer.at("incomplete").and_then(Value::integer);
    Ok(Answer {
        incomplete: incomplete.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        interval: Duration::from_secs(u64::from(seconds.ok_or(AnnounceError::Unreadable)?)),
        peers: peers.into_iter().filter(is_usable).take(MAX_PEERS).collect(),
    })
}

fn compact_peer(bytes: &[u8; 6]) -> SocketAddr {
    let [a, b, c, d, high, low] = *bytes;
    SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
}

fn listed_peer(peer: &Value<'_>) -> Option<SocketAddr> {
    let ip: IpAddr = peer.at("ip")?.text()?.parse().ok()?;
    let port = u16::try_from(peer.at("port")?.integer()?).ok()?;
    Some(SocketAddr::new(ip, port))
}

fn is_usable(peer: &SocketAddr) -> bool {
    peer.port() != 0 && !peer.ip().is_unspecified() && !peer.ip().is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peers(body: &[u8]) -> Vec<String> {
        let answer = parse_response(body).expect("a good answer");
        answer.peers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_query_is_percent_encoded() {
        let announce = Announce {
            infohash: Infohash([0xff; 20]),
            peer_id: PeerId(*b"-BT0100-abcdefghijkl"),
            port: 6881,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            event: Some(Event::Started),
        };
        assert_eq!(
            query(&announce),
            format!(
                "info_hash={}&peer_id=-BT0100-abcdefghijkl&port=6881&uploaded=1&downloaded=2&left=3&numwant=200&compact=1&event=started",
                "%FF".repeat(20)
            )
        );
    }

    #[test]
    fn compact_peers_are_read() {
        let body = b"d8:intervali5e5:peers13:\x0a\x00\x00\x01\x1a\xe1\x0a\x00\x00\x02\x00\x00xe";
        assert_eq!(peers(body), ["10.0.0.1:6881"]);
    }

    #[test]
    fn listed_peers_are_read() {
        let body = b"d8:intervali5e5:peersld2:ip8:10.0.0.14:porti6881eed2:ip1:x4:porti1eeee";
        assert_eq!(peers(body), ["10.0.0.1:6881"]);
    }

    #[test]
    fn the_number_of_leechers_is_read_if_the_tracker_sends_it() {
        let incomplete = |body: &[u8]| parse_response(body).expect("an answer").incomplete;
        assert_eq!(incomplete(b"d10:incompletei3e8:intervali5e5:peers0:e"), 3);
        assert_eq!(incomplete(b"d8:intervali5e5:peers0:e"), 0);
        assert_eq!(incomplete(b"d10:incompletei-3e8:intervali5e5:peers0:e"), 0);
    }

    #[test]
    fn a_refusal_keeps_its_reason() {
        let error = parse_response(b"d14:failure reason7:unknowne").expect_err("refused");
        assert_eq!(error, AnnounceError::Refused("unknown".to_owned()));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _refused_or_read = parse_response(&body);
        }
    }
}
