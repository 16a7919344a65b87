//! Core: what to simulate, and the result.

use std::time::Duration;

use bt_swarm::protocol::layout::Layout;

/// The resolution of [`Outcome::curve`].
pub const CURVE_STEP: Duration = Duration::from_millis(20);

/// The maximum of steps of the curve: one hour.
const MAX_STEPS: usize = 180_000;

/// A room, or several, and what happens in it.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How the payload is cut.
    pub layout: Layout,
    /// The seed of all random numbers: the same scenario always has the same outcome.
    pub chance: u64,
    /// The delay of one link in one direction.
    pub latency: Duration,
    /// How much a switch's port or a router buffers before senders slow down, as time at its rate.
    pub buffer: Duration,
    /// How unevenly TCP shares a link: each connection's weight is `1 ± unevenness`.
    pub unevenness: f64,
    /// The maximum of peers in one answer of the tracker.
    pub named: usize,
    /// How often a node announces.
    pub announce_every: Duration,
    /// Whether nodes know their network and prefer peers in it.
    pub prefers_own_network: bool,
    /// The networks behind the router; a host belongs to one of them.
    pub networks: Vec<Network>,
    /// All hosts of all networks.
    pub hosts: Vec<Host>,
    /// The simulation ends here at the latest.
    pub limit: Duration,
}

/// One network: a switch, and its uplink to the router that connects all networks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    /// Bytes per second in each direction; `None` means no limit.
    pub uplink: Option<f64>,
}

/// One machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// What it does.
    pub role: Role,
    /// Index of its network.
    pub network: usize,
    /// Bytes per second that it can send.
    pub up: f64,
    /// Bytes per second that it can receive.
    pub down: f64,
    /// When it is switched on.
    pub starts: Duration,
    /// What it does when it has everything.
    pub when_done: WhenDone,
    /// When it disappears without closing its connections.
    pub vanishes: Option<Duration>,
    /// Times without network, or of a seed without its process.
    pub outages: Vec<Outage>,
}

/// What a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Has everything and super-seeds.
    Seed,
    /// Downloads.
    Node,
    /// Claims to have everything and wants to do harm.
    Evil(Harm),
}

/// What an evil peer does. It dials again as soon as it is disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// One of so many blocks is wrong; 1 means all.
    Corrupt(u32),
    /// Answers no request.
    Stall,
}

/// What a node does when it has everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenDone {
    /// Stays and uploads.
    Stay,
    /// Closes its connections after this time.
    Leave(Duration),
    /// Disappears after this time, without closing its connections.
    Vanish(Duration),
}

/// A time in which a host cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// Since the start of the simulation.
    pub from: Duration,
    /// How long.
    pub lasts: Duration,
    /// Whether its process ends: it starts again without memory. Otherwise only its cable is
    /// unplugged.
    pub is_restart: bool,
}

/// The result of one node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finish {
    /// Index of the host.
    pub host: usize,
    /// When it was switched on.
    pub started: Duration,
    /// When its last piece was verified; `None` if it did not finish.
    pub finished: Option<Duration>,
    /// Payload bytes that arrived.
    pub received: u64,
    /// Payload bytes that it uploaded.
    pub uploaded: u64,
    /// Its peers at the end.
    pub peers: usize,
}

/// The result of a simulation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// One for each node, in the order of the hosts.
    pub nodes: Vec<Finish>,
    /// Payload bytes that each seed sent, in the order of the hosts.
    pub sent_by_seeds: Vec<u64>,
    /// Messages other than data that arrived.
    pub messages: u64,
    /// Bytes of these messages, without the headers of TCP and below.
    pub message_bytes: u64,
    /// Bytes that entered each network over its uplink.
    pub into_network: Vec<u64>,
    /// Pieces that arrived with a wrong hash.
    pub wrong_pieces: u64,
    /// How often an honest node refused another one as banned.
    pub wrongly_banned: u64,
    /// Payload bytes that reached the nodes in each [`CURVE_STEP`] since the start.
    pub curve: Vec<u64>,
    /// Events that were simulated.
    pub events: u64,
}

impl Host {
    /// A host on a link with so many bytes per second in each direction.
    pub fn new(role: Role, network: usize, rate: f64) -> Self {
        Self {
            role,
            network,
            up: rate,
            down: rate,
            starts: Duration::ZERO,
            when_done: WhenDone::Stay,
            vanishes: None,
            outages: Vec::new(),
        }
    }
}

impl Outcome {
    /// Bytes arrived at a node.
    pub(crate) fn draw(&mut self, at: Duration, bytes: u32) {
        let step = usize::try_from(at.as_nanos() / CURVE_STEP.as_nanos()).unwrap_or(usize::MAX);
        if step < MAX_STEPS {
            self.curve.resize(self.curve.len().max(step + 1), 0);
            self.curve[step] += u64::from(bytes);
        }
    }
}

impl Scenario {
    /// A room with one switch: a seed and `nodes` nodes, all links with `rate` bytes per second.
    pub fn room(layout: Layout, nodes: usize, rate: f64, chance: u64) -> Self {
        let seed = std::iter::once(Host::new(Role::Seed, 0, rate));
        let nodes = std::iter::repeat_n(Host::new(Role::Node, 0, rate), nodes);
        Self {
            layout,
            chance,
            latency: Duration::from_micros(100),
            buffer: Duration::from_millis(4),
            unevenness: 0.0,
            named: 200,
            announce_every: Duration::from_secs(3),
            prefers_own_network: true,
            networks: vec![Network { uplink: None }],
            hosts: seed.chain(nodes).collect(),
            limit: Duration::from_secs(3600),
        }
    }
}
