//! Shell: a room is switched on: forty nodes at once, and how long each waits for its lease.
//!
//! Each asks three times, as one boot does (firmware, iPXE, the netboot image), and again after a
//! second without an answer, as firmware does.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::perfdhcp::{RELAY, SERVER};
use crate::host::clock;
use crate::room::namespace::Namespace;
use crate::room::relay::{self, ACK, DISCOVER, OFFER, REQUEST, Reply, address_option, message};

/// A large room.
pub const NODES: u8 = 40;
/// Leases of one boot.
const LEASES: u8 = 3;
/// When a node asks again.
const PATIENCE: Duration = Duration::from_secs(1);
/// When this measurement has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// From a DISCOVER to its ACK, over all nodes and leases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waited {
    half_ms: f64,
    p99_ms: f64,
    slowest_ms: f64,
    again: u32,
}

struct Node {
    leases: u8,
    /// When it began to ask for this lease.
    since: Instant,
    said: Vec<u8>,
    said_at: Instant,
}

/// Switches all on, and waits until each has its last lease.
pub fn run(namespace: &Namespace) -> Result<Waited> {
    let relay: Ipv4Addr = RELAY.split('/').next().unwrap_or_default().parse()?;
    let socket = relay::socket(namespace, relay, SERVER)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let start = clock::now();
    // A packet that cannot leave is a lost packet.
    let say = |packet: &[u8]| {
        socket.send(packet).ok();
    };
    let discover = |node| message(node, DISCOVER, relay, &[]);
    let mut nodes: Vec<Node> = (0..NODES)
        .map(|node| Node { leases: 0, since: start, said: discover(node), said_at: start })
        .collect();
    nodes.iter().for_each(|node| say(&node.said));
    let (mut waits, mut again) = (Vec::new(), 0);
    while nodes.iter().any(|node| node.leases < LEASES) {
        clock::check_interrupted()?;
        let mut packet = [0; 1500];
        let received = socket.recv(&mut packet).ok();
        let now = clock::now();
        if now > start + LIMIT {
            bail!("{} of {} leases after {LIMIT:?}", waits.len(), NODES * LEASES);
        }
        if let Some(reply) = received.and_then(|length| Reply::read(&packet[..length])) {
            let Some(node) = nodes.get_mut(usize::from(reply.node)) else { continue };
            match reply.kind {
                OFFER if node.said == discover(reply.node) && node.leases < LEASES => {
                    let server = address_option(54, SERVER);
                    let wanted = [server, address_option(50, reply.ip)].concat();
                    node.said = message(reply.node, REQUEST, relay, &wanted);
                }
                ACK if node.said != discover(reply.node) && node.leases < LEASES => {
                    waits.push((now - node.since).as_secs_f64() * 1000.0);
                    node.leases += 1;
                    node.since = now;
                    node.said = discover(reply.node);
                }
                // Of a question that it asked twice.
                _ => continue,
            }
            if node.leases < LEASES {
                node.said_at = now;
                say(&node.said);
            }
        }
        let late = |node: &&mut Node| node.leases < LEASES && now > node.said_at + PATIENCE;
        for node in nodes.iter_mut().filter(late) {
            again += 1;
            node.said_at = now;
            say(&node.said);
        }
    }
    Ok(Waited::of(waits, again))
}

impl Waited {
    fn of(mut waits: Vec<f64>, again: u32) -> Self {
        waits.sort_by(f64::total_cmp);
        let at = |percent: usize| waits[(waits.len() * percent).div_ceil(100).max(1) - 1];
        Self { half_ms: at(50), p99_ms: at(99), slowest_ms: at(100), again }
    }

    /// For programs.
    pub fn to_json(self) -> Value {
        let Self { half_ms, p99_ms, slowest_ms, again } = self;
        json!({"half_ms": half_ms, "p99_ms": p99_ms, "slowest_ms": slowest_ms, "again": again})
    }
}

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { half_ms, p99_ms, slowest_ms, again } = self;
        write!(f, "{half_ms:.1} ms | {p99_ms:.1} ms | {slowest_ms:.1} ms | {again}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_of_a_hundred_is_reported() {
        let waited = Waited::of((1..=100).rev().map(f64::from).collect(), 2);
        let expected = Waited { half_ms: 50.0, p99_ms: 99.0, slowest_ms: 100.0, again: 2 };
        assert_eq!(waited, expected);
        assert_eq!(Waited::of(vec![7.0], 0).p99_ms, 7.0);
    }
}
