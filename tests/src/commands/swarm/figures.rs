//! Core: from moments and counters to the figures that are compared.
//!
//! *Wire time* is the image's bits over the rate of the slower of a node's and the server's link,
//! without any framing: 1.0 can never be reached. Ethernet, IPv4 and TCP headers alone make it
//! 1514/1448 = 1.046.

use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::engine::Engine;
use super::flow::Flow;

/// One node of one run; times in seconds since the room started.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSeen {
    /// Its address.
    pub address: Ipv4Addr,
    /// When it was started.
    pub start: f64,
    /// When it had the complete image.
    pub finish: f64,
    /// CPU seconds.
    pub cpu: f64,
    /// Peak memory without the image, bytes.
    pub memory: u64,
}

impl NodeSeen {
    /// From its own start.
    pub fn secs(&self) -> f64 {
        self.finish - self.start
    }
}

/// One run of one engine.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which.
    pub engine: Engine,
    /// Its number, from 1.
    pub run: u32,
    /// The image, bytes.
    pub bytes: u64,
    /// Seconds; see the module.
    pub wire_secs: f64,
    /// Those that fetch honestly.
    pub nodes: Vec<NodeSeen>,
    /// Payload bytes that left the server's link until the last node was done.
    pub server_bytes: u64,
    /// CPU seconds of the server, from the first node's start to the last one's end.
    pub seed_cpu: f64,
    /// Load of the machine's last minute, when the run began.
    pub load: f64,
    /// Share of all cores that was busy during the run, by whomever.
    pub busy: f64,
    /// Packets that were made to get lost.
    pub lost: u64,
    /// Who fed whom, when it was counted.
    pub flows: Vec<Flow>,
}

impl Seen {
    /// How many images left the server.
    pub fn copies(&self) -> f64 {
        self.server_bytes as f64 / self.bytes as f64
    }

    /// Last, median and first node, over the wire time, each from its own start.
    pub fn over_wire(&self) -> [f64; 3] {
        let mut all: Vec<f64> = self.nodes.iter().map(|it| it.secs() / self.wire_secs).collect();
        all.sort_by(f64::total_cmp);
        [all[all.len() - 1], middle(&all), all[0]]
    }

    /// CPU seconds for each GB (10^9 bytes) that the server sent.
    pub fn seed_cpu_per_gb(&self) -> f64 {
        self.seed_cpu / (self.server_bytes.max(1) as f64 / 1e9)
    }

    /// CPU seconds of a node for each GB that it fetched; what it sent to others is included.
    pub fn node_cpu_per_gb(&self) -> f64 {
        let cpu: f64 = self.nodes.iter().map(|node| node.cpu).sum();
        cpu / (self.nodes.len() as f64 * self.bytes as f64 / 1e9)
    }

    /// Peak memory of any node without the image, MiB.
    pub fn memory_mib(&self) -> f64 {
        let most = self.nodes.iter().map(|node| node.memory).max().unwrap_or(0);
        most as f64 / f64::from(1 << 20)
    }

    /// The figures, for `--json`.
    pub fn to_json(&self) -> Value {
        let [last, median, first] = self.over_wire();
        let nodes: Vec<Value> = self.nodes.iter().map(|node| {
            json!({"address": node.address.to_string(), "start": node.start, "finish": node.finish,
                   "cpu_s": node.cpu, "memory_mib": node.memory as f64 / f64::from(1 << 20)})
        }).collect();
        let flows: Vec<Value> = self.flows.iter().map(|flow| {
            json!({"from": flow.from.to_string(), "to": flow.to.to_string(), "bytes": flow.bytes})
        }).collect();
        json!({
            "engine": self.engine.name(),
            "run": self.run,
            "nodes": self.nodes.len(),
            "bytes": self.bytes,
            "wire_secs": self.wire_secs,
            "last_over_wire": last,
            "median_over_wire": median,
            "first_over_wire": first,
            "server_copies": self.copies(),
            "seed_cpu_s_per_gb": self.seed_cpu_per_gb(),
            "node_cpu_s_per_gb": self.node_cpu_per_gb(),
            "node_memory_mib": self.memory_mib(),
            "load": self.load,
            "cpu_busy": self.busy,
            "packets_lost": self.lost,
            "each": nodes,
            "flows": flows,
        })
    }

    /// One line of the table.
    pub fn row(&self) -> String {
        let [last, median, first] = self.over_wire();
        format!(
            "{:13} {:>3} {last:>6.2} {median:>6.2} {first:>6.2} {:>7.2} {:>9.2} {:>9.2} {:>8.1} {:>5.1} {:>4.0}%",
            self.engine.name(),
            self.run,
            self.copies(),
            self.seed_cpu_per_gb(),
            self.node_cpu_per_gb(),
            self.memory_mib(),
            self.load,
            self.busy * 100.0,
        )
    }
}

/// The heads of [`Seen::row`]'s columns.
pub fn heads() -> String {
    format!(
        "{:13} {:>3} {:>6} {:>6} {:>6} {:>7} {:>9} {:>9} {:>8} {:>5} {:>5}",
        "engine",
        "run",
        "last",
        "median",
        "first",
        "copies",
        "CPU/GB",
        "CPU/GB",
        "memory",
        "load",
        "CPU"
    ) + &format!(
        "\n{:13} {:>3} {:>20} {:>7} {:>9} {:>9} {:>8}",
        "", "", "in wire times", "server", "server", "a PC", "MiB"
    )
}

/// The medians of one engine's runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Which.
    pub engine: Engine,
    /// Of `last_over_wire`: the median, the lowest, the highest.
    pub last: [f64; 3],
    /// Of the copies: the same.
    pub copies: [f64; 3],
}

impl Summary {
    /// Of all runs of `engine`; `None` when there are none.
    pub fn of(engine: Engine, runs: &[Seen]) -> Option<Self> {
        let spread = |figure: fn(&Seen) -> f64| {
            let mine = runs.iter().filter(|run| run.engine == engine);
            let mut all: Vec<f64> = mine.map(figure).collect();
            all.sort_by(f64::total_cmp);
            (!all.is_empty()).then(|| [middle(&all), all[0], all[all.len() - 1]])
        };
        let (last, copies) = (spread(|run| run.over_wire()[0])?, spread(Seen::copies)?);
        Some(Self { engine, last, copies })
    }

    /// For `--json`.
    pub fn to_json(self) -> Value {
        let spread = |[median, lowest, highest]: [f64; 3]| {
            Map::from_iter([
                ("median".to_owned(), json!(median)),
                ("lowest".to_owned(), json!(lowest)),
                ("highest".to_owned(), json!(highest)),
            ])
        };
        json!({"engine": self.engine.name(), "last_over_wire": spread(self.last),
               "server_copies": spread(self.copies)})
    }
}

/// The middle of sorted figures; of an even number the mean of the two.
fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::commands::swarm::room::node_address;

    /// A run of two nodes; the second starts late.
    pub fn seen(engine: Engine, finish: f64) -> Seen {
        let node = |number: usize, start, finish| NodeSeen {
            address: node_address(number),
            start,
            finish,
            cpu: 0.5,
            memory: 3 << 20,
        };
        Seen {
            engine,
            run: 1,
            bytes: 500_000_000,
            wire_secs: 10.0,
            nodes: vec![node(0, 0.0, 11.0), node(1, 5.0, 5.0 + finish)],
            server_bytes: 550_000_000,
            seed_cpu: 1.1,
            load: 2.0,
            busy: 0.5,
            lost: 0,
            flows: vec![Flow {
                from: crate::room::addresses::SERVER,
                to: node_address(0),
                bytes: 550_000_000,
            }],
        }
    }

    #[test]
    fn each_node_is_timed_from_its_own_start() {
        let [last, median, first] = seen(Engine::Ours, 12.0).over_wire();
        assert!((last - 1.2).abs() < 1e-9, "{last}");
        assert!((median - 1.15).abs() < 1e-9, "{median}");
        assert!((first - 1.1).abs() < 1e-9, "{first}");
    }

    #[test]
    fn cpu_is_over_what_was_moved() {
        let seen = seen(Engine::Ours, 12.0);
        assert!((seen.copies() - 1.1).abs() < 1e-9);
        assert!((seen.seed_cpu_per_gb() - 2.0).abs() < 1e-9);
        assert!((seen.node_cpu_per_gb() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_json_has_the_names_that_were_agreed() {
        let json = seen(Engine::Ours, 12.0).to_json();
        let names = "engine nodes last_over_wire median_over_wire first_over_wire server_copies \
                     seed_cpu_s_per_gb node_cpu_s_per_gb load";
        for name in names.split_whitespace() {
            assert!(json.get(name).is_some(), "{name} is missing");
        }
    }

    #[test]
    fn a_summary_is_of_its_engine_alone() {
        let runs = [13.0, 12.0, 14.0].map(|secs| seen(Engine::Ours, secs));
        let summary = Summary::of(Engine::Ours, &runs).expect("three runs");
        let expected = [1.3, 1.2, 1.4];
        assert!(summary.last.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9));
        assert_eq!(Summary::of(Engine::Http, &runs), None);
    }
}
