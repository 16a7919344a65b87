//! Core: one simulated machine.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bt_swarm::protocol::layout::Block;
use bt_swarm::swarm::Swarm;
use bt_swarm::swarm::dial::DialBook;

use crate::links::Link;
use crate::scenario::{Finish, Host};

const PORT: u16 = 6881;

/// Each simulated network is 10.N.0.0/16.
pub(crate) const NETWORK_PREFIX: u8 = 16;

/// A host with everything that changes while it runs.
pub(crate) struct Machine {
    pub(crate) plan: Host,
    pub(crate) address: SocketAddr,
    /// `None` before it is switched on, while its process is stopped, and after it left.
    pub(crate) swarm: Option<Swarm>,
    /// The stream of each connection, by key.
    pub(crate) streams: Vec<u32>,
    pub(crate) dials: DialBook,
    /// Streams that have something to send, in turn.
    pub(crate) ready: VecDeque<u32>,
    pub(crate) up: Link,
    /// Wrong blocks in its storage, with their contributors.
    pub(crate) wrong: BTreeMap<Block, u8>,
    pub(crate) finished: Option<u64>,
    pub(crate) received: u64,
    pub(crate) uploaded: u64,
    pub(crate) has_left: bool,
}

impl Machine {
    /// A machine that is switched off. Ports hold `buffer` seconds' worth of bytes.
    pub(crate) fn new(number: u32, plan: &Host, buffer: f64) -> Self {
        let [_, _, high, low] = number.to_be_bytes();
        let network = u8::try_from(plan.network).unwrap_or(u8::MAX);
        let address = SocketAddr::from((Ipv4Addr::new(10, network, high, low), PORT));
        Self {
            plan: plan.clone(),
            address,
            swarm: None,
            streams: Vec::new(),
            dials: DialBook::default(),
            ready: VecDeque::new(),
            up: Link::new(plan.up, buffer),
            wrong: BTreeMap::new(),
            finished: None,
            received: 0,
            uploaded: 0,
            has_left: false,
        }
    }

    /// The result of a node.
    pub(crate) fn finish(&self, host: usize) -> Finish {
        Finish {
            host,
            started: self.plan.starts,
            finished: self.finished.map(Duration::from_nanos),
            received: self.received,
            uploaded: self.uploaded,
            peers: self.swarm.as_ref().map_or(0, Swarm::peer_count),
        }
    }
}
