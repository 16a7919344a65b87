//! Shell: `cargo lab dhcp-load`: how many leases a second, and what each costs.
//!
//! ISC's `perfdhcp` plays a relay with thousands of new nodes, against one server after the other on
//! the same cable: dnsmasq, bt-server, Kea. ISC's rule says when a rate is too high: more than 2.5 %
//! of the requests get no answer within a second. bt-server and dnsmasq have a lease on disk before
//! they confirm it; Kea (memfile) leaves that to the kernel. CPU is what the kernel charged to the
//! server, so it hardly depends on what else the machine does.

mod perfdhcp;
mod servers;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::cargo;
use crate::net::{self, Lan};
use crate::report::Report;
use crate::setup::{self, Extra};
use perfdhcp::{Load, SERVER_NETWORK, Seen};
use servers::{Kind, Rival};

/// Rates that dnsmasq is tried at, in leases per second.
const RAMP: [u32; 10] = [25, 50, 75, 100, 150, 200, 300, 400, 600, 800];
/// How many times dnsmasq's best rate bt-server has to carry.
const FACTOR: u32 = 10;
/// ISC's stop rule.
pub const MAX_DROPS: f64 = 0.025;

/// Measure DHCP beside dnsmasq and Kea
///
/// Finds the best rate of dnsmasq, then loads bt-server and Kea with ten times as much, all with
/// ISC's perfdhcp on one private network. Takes a minute and a half for each run.
#[derive(Args)]
pub struct Options {
    /// How often to measure; the medians count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Seconds for each rate
    #[arg(long, default_value_t = 5)]
    secs: u32,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// Leave the logs of the servers in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One run of all three.
struct Run {
    dnsmasq: Seen,
    ours: Seen,
    kea: Seen,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Report> {
    setup::ensure_packages(Extra::DhcpLoad, options.yes)?;
    let kea = setup::ensure_kea()?;
    let programs = cargo::build()?;
    let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("dhcp-load"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    net::enter_private_network()?;
    let mut lan = Lan::create(None)?;
    let load = Load::new(lan.place()?, options.secs)?;
    let rival = |kind, run: u32| {
        let log = out.join(format!("{kind}-{run}.log"));
        Rival::start(kind, &programs, &kea, &log)
    };
    println!(
        "{:>4}  {:10} {:>8} {:>8} {:>7} {:>8} {:>9}",
        "run", "server", "offered", "leases/s", "drops", "delay", "CPU/lease"
    );
    let mut runs = Vec::new();
    for number in 1..=options.runs {
        let dnsmasq = ramp(number, &load, || rival(Kind::Dnsmasq, number))?;
        let rate = dnsmasq.offered * FACTOR;
        let ours = measure(number, &load, rate, rival(Kind::BtServer, number)?)?;
        let kea = measure(number, &load, rate, rival(Kind::Kea, number)?)?;
        runs.push(Run { dnsmasq, ours, kea });
    }
    Ok(report(&runs))
}

/// The highest rate that a server carries; it starts with no leases at each.
fn ramp(number: u32, load: &Load, start: impl Fn() -> Result<Rival>) -> Result<Seen> {
    let mut best = None;
    for rate in RAMP {
        let seen = measure(number, load, rate, start()?)?;
        if seen.drops() > MAX_DROPS {
            break;
        }
        best = Some(seen);
    }
    best.with_context(|| format!("the machine is too busy: not even {} leases a second", RAMP[0]))
}

fn measure(number: u32, load: &Load, rate: u32, server: Rival) -> Result<Seen> {
    let seen = load.run(rate, &server)?;
    println!(
        "{number:>4}  {:10} {rate:>8} {:>8.0} {:>6.2}% {:>6.1}ms {:>7.3}ms",
        server.kind().to_string(),
        seen.leases_per_sec,
        seen.drops() * 100.0,
        seen.delay_ms,
        seen.cpu_ms
    );
    Ok(seen)
}

fn report(runs: &[Run]) -> Report {
    let of = |pick: fn(&Run) -> f64| median(runs.iter().map(pick).collect());
    let best = of(|run| f64::from(run.dnsmasq.offered));
    let offered = of(|run| f64::from(run.ours.offered));
    let drops = of(|run| run.ours.drops());
    let (ours, kea) = (of(|run| run.ours.cpu_ms), of(|run| run.kea.cpu_ms));
    let carries = drops <= MAX_DROPS;
    let line = format!(
        "dnsmasq carries {best:.0} leases a second; at {offered:.0} bt-server drops {:.2} % and \
         needs {ours:.3} ms of CPU for each, Kea {kea:.3} ms (medians of {})",
        drops * 100.0,
        runs.len()
    );
    let figures =
        |pick: fn(&Run) -> &Seen| -> Value { runs.iter().map(|run| pick(run).to_json()).collect() };
    Report::new(carries && ours < kea, line)
        .with("network", SERVER_NETWORK)
        .with("dnsmasq_best", best)
        .with("offered", offered)
        .with("drops", json!(drops))
        .with(
            "cpu_ms_per_lease",
            json!({ "bt-server": ours, "kea": kea, "dnsmasq": of(|run| run.dnsmasq.cpu_ms) }),
        )
        .with("dnsmasq", figures(|run| &run.dnsmasq))
        .with("bt-server", figures(|run| &run.ours))
        .with("kea", figures(|run| &run.kea))
}

/// The middle one; of an even number the lower middle.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[(figures.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_figures() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.0);
        assert_eq!(median(vec![7.0]), 7.0);
    }
}
