//! Core: what is to be simulated, and what came of it.

use std::time::Duration;

use bt_swarm::protocol::layout::Layout;

/// How finely [`Outcome::curve`] is drawn.
pub const CURVE_STEP: Duration = Duration::from_millis(20);

/// Steps of the curve that are kept: an hour is enough.
const MAX_STEPS: usize = 180_000;

/// A room, or several, and what happens in it.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How the payload is cut.
    pub layout: Layout,
    /// All chance comes from this number: the same scenario always ends the same way.
    pub chance: u64,
    /// One way over one link.
    pub latency: Duration,
    /// What a switch's port or a router holds before senders slow down, as time at its rate.
    pub buffer: Duration,
    /// How unevenly TCP shares a link: each connection's weight is `1 ± unevenness`.
    pub unevenness: f64,
    /// Most peers that the tracker names in one answer.
    pub named: usize,
    /// How often a node asks the tracker.
    pub announce_every: Duration,
    /// Whether nodes know their network and prefer peers of it.
    pub prefers_own_network: bool,
    /// The networks behind the router; a host belongs to one of them.
    pub networks: Vec<Network>,
    /// Everybody who takes part.
    pub hosts: Vec<Host>,
    /// The simulation ends here at the latest.
    pub limit: Duration,
}

/// One network: a switch, and its line to the router that joins all networks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    /// Bytes per second to the router and from it; `None` means without limit.
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
    /// When it vanishes without a word.
    pub vanishes: Option<Duration>,
    /// Times without network, or of a seed without its process.
    pub outages: Vec<Outage>,
}

/// What a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Holds everything and super-seeds.
    Seed,
    /// Downloads.
    Node,
    /// Claims to hold everything and wants to do harm.
    Evil(Harm),
}

/// What an evil peer does. It dials again as soon as it is let go of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Of so many blocks one is wrong: 1 for all.
    Corrupt(u32),
    /// Answers no request.
    Stall,
}

/// What a node does when it has everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenDone {
    /// Stays and gives.
    Stay,
    /// Ends its connections after this time.
    Leave(Duration),
    /// Is gone after this time, without a word.
    Vanish(Duration),
}

/// A time in which a host cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// Since the start of the simulation.
    pub from: Duration,
    /// How long.
    pub lasts: Duration,
    /// Whether its process ends: it comes back without memory. Otherwise only its cable is out.
    pub is_restart: bool,
}

/// What came of one node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finish {
    /// Index of the host.
    pub host: usize,
    /// When it was switched on.
    pub started: Duration,
    /// When the last piece was checked; `None` if that did not happen.
    pub finished: Option<Duration>,
    /// Payload bytes that arrived.
    pub received: u64,
    /// Payload bytes that it gave.
    pub uploaded: u64,
    /// Peers at its end.
    pub peers: usize,
}

/// What came of it all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// One for each node, in the order of the hosts.
    pub nodes: Vec<Finish>,
    /// Payload bytes that each seed sent, in the order of the hosts.
    pub sent_by_seeds: Vec<u64>,
    /// Messages other than data that arrived.
    pub messages: u64,
    /// Bytes of these messages, without what TCP and below add.
    pub message_bytes: u64,
    /// Bytes that came into each network over its uplink.
    pub into_network: Vec<u64>,
    /// Pieces that arrived with a wrong hash.
    pub wrong_pieces: u64,
    /// Good nodes that some good node has banned.
    pub wrongly_banned: u64,
    /// Payload bytes that reached the nodes in each [`CURVE_STEP`] since the start.
    pub curve: Vec<u64>,
    /// Events that were simulated.
    pub events: u64,
}

impl Host {
    /// A host on a link that carries so many bytes per second each way.
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
    /// Bytes reached a node.
    pub(crate) fn draw(&mut self, at: Duration, bytes: u32) {
        let step = usize::try_from(at.as_nanos() / CURVE_STEP.as_nanos()).unwrap_or(usize::MAX);
        if step < MAX_STEPS {
            self.curve.resize(self.curve.len().max(step + 1), 0);
            self.curve[step] += u64::from(bytes);
        }
    }
}

impl Scenario {
    /// A room with one switch: a seed and so many nodes, all links of the same rate in bytes per
    /// second.
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
