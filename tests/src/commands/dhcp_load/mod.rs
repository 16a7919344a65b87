//! Shell: `cargo lab dhcp-load`: how many leases a second, and what each costs.
//!
//! ISC's `perfdhcp` plays a relay with thousands of new nodes, against one server after the other on
//! the same cable: dnsmasq, bt-server, Kea. ISC's rule says when a rate is too high: more than 2.5 %
//! of the requests get no answer within a second. bt-server and dnsmasq have a lease on disk before
//! they confirm it; Kea (memfile) leaves that to the kernel. CPU is what the kernel charged to the
//! server, so it hardly depends on what else the machine does.
//!
//! Then what perfdhcp does not ask: whether a lease gets dearer the more there are, whether writing
//! the lease log again delays answers, and how long the last of 40 nodes waits.

mod perfdhcp;
mod power_on;
mod servers;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::host::cargo::{self, Build};
use crate::host::outcome::{Outcome, median, odd_runs};
use crate::host::packages::{self, Extra};
use crate::host::process::load;
use crate::room::net::{self, Lan};
use perfdhcp::{Load, SERVER_NETWORK, Seen};
use power_on::{NODES, Waited};
use servers::{Kind, Rival};

/// Rates that dnsmasq is tried at, in leases per second.
const RAMP: [u32; 10] = [25, 50, 75, 100, 150, 200, 300, 400, 600, 800];
/// How many times dnsmasq's best rate bt-server has to carry.
const FACTOR: u32 = 10;
/// ISC's stop rule.
pub const MAX_DROPS: f64 = 0.025;
/// For what is not about the rate: leases a second that every machine can offer.
const EASY_RATE: u32 = 1000;
/// Leases of each part of the ten thousand.
const PART: u32 = 2000;
/// Nodes that come back again and again, so that most of the lease log is soon outdated.
const REGULARS: u32 = 500;

/// Measure DHCP performance, compared with dnsmasq and Kea
///
/// Finds the maximum rate of dnsmasq, then loads bt-server and Kea with ten times as much, all with
/// ISC's perfdhcp in one private network. Every run has to pass. Takes about four minutes.
#[derive(Args)]
pub struct Options {
    /// Number of measurements; CPU is reported as the median, so it must be odd
    #[arg(long, default_value_t = 3, value_parser = odd_runs)]
    runs: u32,
    /// Seconds for each rate
    #[arg(long, default_value_t = 5)]
    secs: u32,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// Save the logs of the servers to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One run of all three.
struct Run {
    dnsmasq: Seen,
    ours: Seen,
    kea: Seen,
}

/// Everything that was measured.
struct Figures {
    runs: Vec<Run>,
    /// bt-server from no lease to ten thousand, part by part.
    filling: Vec<Seen>,
    /// bt-server while it rewrites its log, and the lines that were left in it.
    regulars: (Seen, usize),
    /// Forty nodes at once.
    power_on: Vec<(Kind, Waited)>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    packages::ensure_packages(Extra::DhcpLoad, options.yes)?;
    let kea = packages::ensure_kea()?;
    let programs = cargo::build(Build::Release)?;
    let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("dhcp-load"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    net::enter_private_network()?;
    let mut lan = Lan::create(None)?;
    let perfdhcp = Load::new(lan.namespace()?)?;
    let start = |kind, name: &str| {
        let log = out.join(format!("{kind}-{name}.log"));
        Rival::start(kind, &programs, &kea, &log)
    };
    println!("| part | server | offered | leases/s | no answer | delay | CPU each | load |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut runs = Vec::new();
    for number in 1..=options.runs {
        let name = format!("run {number}");
        let measure = |rate, kind| -> Result<Seen> {
            // Each starts with no lease.
            let server = start(kind, &number.to_string())?;
            show(&name, kind, perfdhcp.run(rate, options.secs, rate * options.secs * 2, &server)?)
        };
        let dnsmasq = ramp(|rate| measure(rate, Kind::Dnsmasq))?;
        let rate = dnsmasq.offered * FACTOR;
        let ours = measure(rate, Kind::BtServer)?;
        runs.push(Run { dnsmasq, ours, kea: measure(rate, Kind::Kea)? });
    }
    let server = start(Kind::BtServer, "filling")?;
    let filling = (0..5)
        .map(|part| {
            let name = format!("leases {} to {}", part * PART, (part + 1) * PART);
            let seen = perfdhcp.run_more(part, EASY_RATE, PART / EASY_RATE, PART, &server)?;
            show(&name, Kind::BtServer, seen)
        })
        .collect::<Result<Vec<_>>>()?;
    drop(server);
    let server = start(Kind::BtServer, "regulars")?;
    let seen = perfdhcp.run(EASY_RATE, 10, REGULARS, &server)?;
    let lines = server.lease_lines()?;
    let regulars = (show(&format!("{REGULARS} regulars"), Kind::BtServer, seen)?, lines);
    drop(server);
    let mut power_on = Vec::new();
    for kind in [Kind::Dnsmasq, Kind::BtServer, Kind::Kea] {
        let _server = start(kind, "power-on")?;
        power_on.push((kind, power_on::run(perfdhcp.namespace())?));
    }
    Ok(report(&Figures { runs, filling, regulars, power_on }))
}

/// The highest rate that a server carries.
fn ramp(measure: impl Fn(u32) -> Result<Seen>) -> Result<Seen> {
    let mut best = None;
    for rate in RAMP {
        let seen = measure(rate)?;
        if seen.drops() > MAX_DROPS {
            break;
        }
        best = Some(seen);
    }
    best.with_context(|| {
        format!("the machine is too busy: it does not reach {} leases a second", RAMP[0])
    })
}

/// Prints one row of the table.
fn show(part: &str, kind: Kind, seen: Seen) -> Result<Seen> {
    println!(
        "| {part} | {kind} | {}/s | {:.0} | {:.2} % | {:.1} ms, at most {:.0} ms | {:.3} ms | {:.1} |",
        seen.offered,
        seen.leases_per_sec,
        seen.drops() * 100.0,
        seen.delay_ms,
        seen.max_delay_ms,
        seen.cpu_ms,
        load()
    );
    Ok(seen)
}

fn report(figures: &Figures) -> Outcome {
    let Figures { runs, filling, regulars: (regulars, lines), power_on } = figures;
    println!("\n| {NODES} PCs at once, 3 leases each | median | 99 % | slowest | retries |");
    println!("|---|---|---|---|---|");
    for (kind, waited) in power_on {
        println!("| {kind} | {waited} |");
    }
    println!();
    let cpu = |pick: fn(&Run) -> f64| median(runs.iter().map(pick).collect());
    let (ours, kea) = (cpu(|run| run.ours.cpu_ms), cpu(|run| run.kea.cpu_ms));
    let drops = runs.iter().map(|run| run.ours.drops()).fold(0.0, f64::max);
    // Half as much again is more than the clock ticks of so short a part account for.
    let is_flat = filling[filling.len() - 1].cpu_ms <= filling[0].cpu_ms * 1.5;
    let was_rewritten = *lines < regulars.leases() as usize;
    let carries = drops <= MAX_DROPS && regulars.drops() <= MAX_DROPS;
    let line = format!(
        "at 10 times dnsmasq's best rate ({} leases/s) bt-server left at most {:.2} % unanswered \
         and used {ours:.3} ms of CPU for each lease, Kea {kea:.3} ms (medians of {}); the first \
         lease costs {:.3} ms, the ten thousandth {:.3} ms; {REGULARS} regulars: {:.2} %, log of \
         {lines} lines after {} leases",
        runs.iter().map(|run| run.ours.offered.to_string()).collect::<Vec<_>>().join(", "),
        drops * 100.0,
        runs.len(),
        filling[0].cpu_ms,
        filling[filling.len() - 1].cpu_ms,
        regulars.drops() * 100.0,
        regulars.leases(),
    );
    let of_runs =
        |pick: fn(&Run) -> &Seen| -> Value { runs.iter().map(|run| pick(run).to_json()).collect() };
    let waited: serde_json::Map<String, Value> =
        power_on.iter().map(|(kind, waited)| (kind.to_string(), waited.to_json())).collect();
    Outcome::new(carries && ours < kea && is_flat && was_rewritten, line)
        .with("network", SERVER_NETWORK)
        .with("worst_drops", json!(drops))
        .with(
            "cpu_ms_per_lease",
            json!({ "bt-server": ours, "kea": kea, "dnsmasq": cpu(|run| run.dnsmasq.cpu_ms) }),
        )
        .with("dnsmasq", of_runs(|run| &run.dnsmasq))
        .with("bt-server", of_runs(|run| &run.ours))
        .with("kea", of_runs(|run| &run.kea))
        .with("filling", filling.iter().map(Seen::to_json).collect::<Vec<_>>())
        .with("regulars", json!({"seen": regulars.to_json(), "log_lines": lines}))
        .with("power_on", waited)
}
