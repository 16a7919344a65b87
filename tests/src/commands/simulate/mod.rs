//! Shell: `cargo lab simulate`: rooms of any size, on the engine's own cores with simulated links and time.

mod plot;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bt_swarm::layout::Layout;
use bt_swarm_simulator::{Harm, Host, Network, Outage, Outcome, Role, Scenario, WhenDone};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::host::clock;
use crate::host::outcome;

/// Simulated time ends at so many times the wire time, plus the outages.
const LIMIT: f64 = 60.0;

/// Simulate a room, or a campus, in seconds: the real piece picker and super-seeder on simulated links
///
/// No network, no root, no waiting: every PC makes the decisions of the shipped engine, and only links,
/// switches and the clock are simulated. Rates are of the payload; the headers of TCP and Ethernet
/// (about 5 %) are left out. Figures are the time from a PC's start to its end, divided by the wire
/// time: the time that the image needs on the slowest link that all of it must cross.
#[derive(Args)]
pub struct Options {
    /// PCs that download
    #[arg(long, default_value_t = 32)]
    nodes: usize,
    /// Rate of a PC's link in Mbit/s, per direction
    #[arg(long, default_value_t = 1000.0)]
    mbit: f64,
    /// Size of the image in MiB
    #[arg(long, default_value_t = 256)]
    mib: u64,
    /// Size of a piece in KiB, a power of two
    #[arg(long, default_value_t = 256)]
    piece_kib: u32,
    /// Rate of the server's link in Mbit/s [default: that of a PC]
    #[arg(long)]
    server_mbit: Option<f64>,
    /// Servers that have the complete image
    #[arg(long, default_value_t = 1)]
    seeds: usize,
    /// Labs behind one router, each with its own switch; the servers have a network of their own
    #[arg(long, default_value_t = 1)]
    labs: usize,
    /// Rate of each lab's link to the router in Mbit/s
    #[arg(long)]
    uplink_mbit: Option<f64>,
    /// Do not prefer PCs of the same lab, for comparison
    #[arg(long)]
    ignore_networks: bool,
    /// All PCs are powered on within this many seconds
    #[arg(long, default_value_t = 0.1)]
    stagger: f64,
    /// Number of PCs that are powered on when the others are half done
    #[arg(long, default_value_t = 0)]
    late: usize,
    /// Every PC leaves one second after it finishes
    #[arg(long)]
    leave: bool,
    /// Number of PCs that disconnect halfway without notice
    #[arg(long, default_value_t = 0)]
    vanish: usize,
    /// Number of PCs with a link of 10 Mbit/s
    #[arg(long, default_value_t = 0)]
    slow: usize,
    /// One PC loses its network halfway for this many seconds
    #[arg(long)]
    cable_out: Option<f64>,
    /// The server is killed halfway and restarted after this many seconds
    #[arg(long)]
    server_out: Option<f64>,
    /// Number of additional malicious peers
    #[arg(long, default_value_t = 0)]
    evil: usize,
    /// What the malicious peers do
    #[arg(long, value_enum, default_value = "corrupt")]
    harm: HarmKind,
    /// How unevenly TCP shares a link: weights of 1 ± this number
    #[arg(long, default_value_t = 0.5)]
    uneven: f64,
    /// Maximum number of peers in a tracker response
    #[arg(long, default_value_t = 200)]
    named: usize,
    /// Number of runs, each with another random seed
    #[arg(long, default_value_t = 3)]
    runs: u64,
    /// Random seed of the first run; the same seed repeats the run
    #[arg(long, default_value_t = 1)]
    chance: u64,
    /// Fail if the last PC of a run needs more than this many wire times
    #[arg(long)]
    at_most: Option<f64>,
    /// Plot when each PC of the first run finished, and the room's rate over time (SVG)
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum HarmKind {
    /// Send only wrong data
    Corrupt,
    /// Send wrong data in one of twenty blocks
    Few,
    /// Accept requests and send nothing
    Stall,
}

/// Figures of one run; times over the wire time.
#[derive(Debug, Clone, Copy)]
struct Seen {
    last: f64,
    median: f64,
    first: f64,
    copies: f64,
    unfinished: usize,
    wall_secs: f64,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<outcome::Outcome> {
    ensure!(options.nodes > 0 && options.runs > 0, "--nodes and --runs must be at least 1");
    ensure!(options.mbit > 0.0 && options.mib > 0, "--mbit and --mib must be greater than 0");
    ensure!(options.labs > 0 && options.labs < 200, "--labs must be from 1 to 199");
    let mut figures = Vec::new();
    let mut all = Vec::new();
    for chance in options.chance..options.chance + options.runs {
        clock::check_interrupted()?;
        let scenario = scenario(options, chance)?;
        let (outcome, seen) = one(options, &scenario);
        println!(
            "seed {chance}: last {:.3}, median {:.3}, first {:.3} wire times; {:.3} copies, \
             {:.1} MB of messages; simulated in {:.1} s",
            seen.last,
            seen.median,
            seen.first,
            seen.copies,
            outcome.message_bytes as f64 / 1e6,
            seen.wall_secs
        );
        if let Some(file) = options.plot.as_ref().filter(|_| figures.is_empty()) {
            std::fs::write(file, plot::draw(&outcome, wire_secs(options)))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        figures.push(json(options, chance, &seen, &outcome));
        all.push(seen);
    }
    Ok(report(options, &all).with("runs", figures))
}

fn report(options: &Options, all: &[Seen]) -> outcome::Outcome {
    let worst = |of: fn(&Seen) -> f64| all.iter().map(of).fold(0.0, f64::max);
    let (last, copies) = (worst(|seen| seen.last), worst(|seen| seen.copies));
    let unfinished: usize = all.iter().map(|seen| seen.unfinished).sum();
    let is_fast = options.at_most.is_none_or(|most| last <= most);
    let line = format!(
        "{} PCs, {} runs: in the worst run the last PC finished after {last:.3} wire times; the \
         servers sent at most {copies:.2} copies; {unfinished} PCs did not finish",
        options.nodes,
        all.len(),
    );
    outcome::Outcome::new(is_fast && unfinished == 0, line)
}

fn one(options: &Options, scenario: &Scenario) -> (Outcome, Seen) {
    let began = now();
    let outcome = bt_swarm_simulator::run(scenario, began);
    let wall_secs = began.elapsed().as_secs_f64();
    let wire = wire_secs(options);
    let may_fail = |host: usize| scenario.hosts[host].vanishes.is_some();
    let finished = outcome.nodes.iter().filter_map(|node| {
        node.finished.map(|at| at.saturating_sub(node.started).as_secs_f64() / wire)
    });
    let mut times: Vec<f64> = finished.collect();
    times.sort_by(f64::total_cmp);
    let unfinished = outcome.nodes.iter().filter(|node| node.finished.is_none());
    let sent: u64 = outcome.sent_by_seeds.iter().sum();
    let seen = Seen {
        last: times.last().copied().unwrap_or_default(),
        median: times.get(times.len() / 2).copied().unwrap_or_default(),
        first: times.first().copied().unwrap_or_default(),
        copies: sent as f64 / scenario.layout.total() as f64,
        unfinished: unfinished.filter(|node| !may_fail(node.host)).count(),
        wall_secs,
    };
    (outcome, seen)
}

fn json(options: &Options, chance: u64, seen: &Seen, outcome: &Outcome) -> Value {
    let image = (options.mib << 20) as f64;
    let into: Vec<f64> = outcome.into_network.iter().map(|bytes| *bytes as f64 / image).collect();
    let finish = outcome.nodes.iter().map(|node| node.finished.map(|at| at.as_secs_f64()));
    json!({
        "engine": "simulated",
        "nodes": options.nodes,
        "chance": chance,
        "last_over_wire": seen.last,
        "median_over_wire": seen.median,
        "first_over_wire": seen.first,
        "server_copies": seen.copies,
        "unfinished": seen.unfinished,
        "messages": outcome.messages,
        "message_bytes": outcome.message_bytes,
        "copies_into_networks": into,
        "wrong_pieces": outcome.wrong_pieces,
        "wrongly_banned": outcome.wrongly_banned,
        "wire_secs": wire_secs(options),
        "finish_secs": finish.collect::<Vec<_>>(),
        "wall_secs": seen.wall_secs,
    })
}

fn bytes_per_sec(mbit: f64) -> f64 {
    mbit * 1e6 / 8.0
}

/// Seconds that the image needs over the slowest link that all of it must pass.
fn wire_secs(options: &Options) -> f64 {
    let servers = options.server_mbit.unwrap_or(options.mbit) * options.seeds.max(1) as f64;
    let uplink = options.uplink_mbit.filter(|_| options.labs > 1).unwrap_or(f64::INFINITY);
    (options.mib << 20) as f64 / bytes_per_sec(options.mbit.min(servers).min(uplink))
}

fn scenario(options: &Options, chance: u64) -> Result<Scenario> {
    let layout = options.piece_kib.checked_mul(1024);
    let layout = layout.and_then(|piece| Layout::new(options.mib << 20, piece));
    let layout = layout.context(
        "invalid piece size: --piece-kib must be a power of two from 16 to 65536, and the image at \
         most 2^20 pieces",
    )?;
    let rate = bytes_per_sec(options.mbit);
    let server = bytes_per_sec(options.server_mbit.unwrap_or(options.mbit));
    let mut scenario = Scenario::room(layout, 0, rate, chance);
    scenario.unevenness = options.uneven.clamp(0.0, 0.95);
    scenario.named = options.named;
    scenario.prefers_own_network = !options.ignore_networks;
    if options.labs > 1 {
        let line = Network { uplink: options.uplink_mbit.map(bytes_per_sec) };
        scenario.networks.extend(std::iter::repeat_n(line, options.labs));
    }
    let wire = Duration::from_secs_f64(wire_secs(options));
    let mut seed = Host::new(Role::Seed, 0, server);
    seed.outages.extend(options.server_out.map(|secs| outage(wire, secs, true)));
    scenario.hosts = vec![seed; options.seeds.max(1)];
    scenario.hosts.extend((0..options.nodes).map(|number| node(options, number, wire)));
    let harm = match options.harm {
        HarmKind::Corrupt => Harm::Corrupt(1),
        HarmKind::Few => Harm::Corrupt(20),
        HarmKind::Stall => Harm::Stall,
    };
    let network = usize::from(options.labs > 1);
    let evil = Host::new(Role::Evil(harm), network, rate);
    scenario.hosts.extend(std::iter::repeat_n(evil, options.evil));
    let outages = options.cable_out.unwrap_or(0.0) + options.server_out.unwrap_or(0.0);
    let slowest = if options.slow > 0 { options.mbit / SLOW_MBIT } else { 1.0 };
    scenario.limit = wire.mul_f64(LIMIT * slowest.max(1.0)) + Duration::from_secs_f64(outages);
    Ok(scenario)
}

/// A link that somebody forgot in an old switch.
const SLOW_MBIT: f64 = 10.0;

/// The nodes that something happens to are the first ones: late, then vanishing, slow, cut off.
fn node(options: &Options, number: usize, wire: Duration) -> Host {
    let network = if options.labs > 1 { 1 + number % options.labs } else { 0 };
    let mut host = Host::new(Role::Node, network, bytes_per_sec(options.mbit));
    let share = number as f64 / options.nodes as f64;
    host.starts = Duration::from_secs_f64(options.stagger.max(0.0) * share);
    if options.leave {
        host.when_done = WhenDone::Leave(Duration::from_secs(1));
    }
    let mut from = options.late;
    if number < from {
        host.starts += wire.mul_f64(0.5);
        return host;
    }
    from += options.vanish;
    if number < from {
        host.vanishes = Some(wire.mul_f64(0.5));
        return host;
    }
    from += options.slow;
    if number < from {
        (host.up, host.down) = (bytes_per_sec(SLOW_MBIT), bytes_per_sec(SLOW_MBIT));
        return host;
    }
    if number == from {
        host.outages.extend(options.cable_out.map(|secs| outage(wire, secs, false)));
    }
    host
}

fn outage(wire: Duration, secs: f64, is_restart: bool) -> Outage {
    let lasts = Duration::from_secs_f64(secs.max(0.0));
    Outage { from: wire.mul_f64(0.5), lasts, is_restart }
}

#[expect(clippy::disallowed_methods, reason = "how long the simulation took is a figure")]
fn now() -> Instant {
    Instant::now()
}
