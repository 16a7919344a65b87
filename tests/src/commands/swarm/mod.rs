//! Shell: `cargo lab swarm`: a room of PCs fetches one image, with BootTorrent and with other engines.

mod course;
pub mod engine;
mod evil;
mod figures;
mod flow;
mod payload;
mod plot;
mod room;
mod tracker;
mod worker;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use self::course::Plan;
use self::engine::{Engine, Stage, ours};
use self::figures::{Seen, Summary, heads};
use self::payload::Payload;
use self::room::{MAX_NODES, Room, Wiring};
use crate::host::cargo::{self, Build};
use crate::host::outcome::Outcome;
use crate::host::packages::{self, Extra};
use crate::room::net;

/// Measure how fast a room of PCs downloads one system, compared with other engines
///
/// Makes a server and N PCs in networks of their own, on links of a given rate, and lets all PCs
/// download the same image into memory. Results are in wire times: the minimum that one PC alone
/// needs, the image's bits divided by the link's rate. With framing, 1.05 is the best possible; N PCs
/// served one after the other by one web server would need N. Each image is checked by SHA-256.
///
/// Choose rates that this machine can carry: all PCs share its cores. The last column shows how busy
/// they were; above 70 % the result is about the machine.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo lab swarm --nodes 4 --mbit 50 --mib 64
  cargo lab swarm --nodes 16 --mbit 40 --mib 64 --engine boottorrent,aria2 --runs 3 --plot room.svg
  cargo lab swarm --nodes 12 --mbit 40 --mib 64 --late 4 --leave
  cargo lab swarm --nodes 12 --mbit 40 --mib 64 --evil 1
  cargo lab swarm --nodes 8 --mbit 40 --mib 64 --kill-server-after 1.05")]
pub struct Options {
    /// Number of PCs
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=MAX_NODES as i64))]
    nodes: u8,
    /// Rate of each PC's link per direction, in Mbit/s
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    mbit: u32,
    /// Rate of the server's link per direction, in Mbit/s [default: that of a PC]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    server_mbit: Option<u32>,
    /// Size of the image in MiB
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    mib: u64,
    /// Engines to measure, in turn on the same links
    #[arg(long = "engine", value_enum, value_delimiter = ',', default_value = "boottorrent")]
    engines: Vec<Engine>,
    /// Number of runs of each engine; medians count
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Seconds between one PC's start and the next one's
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    stagger: f64,
    /// Number of the PCs that start late, after 60 % of the wire time
    #[arg(long, default_value_t = 0, value_name = "PCS")]
    late: u8,
    /// Each PC leaves as soon as it has the image; BootTorrent's still uploads for a while
    #[arg(long)]
    leave: bool,
    /// Percentage of packets that get lost
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    loss: f64,
    /// Number of the PCs that send bad data instead (only --engine boottorrent)
    #[arg(long, default_value_t = 0, value_name = "PCS")]
    evil: u8,
    /// Kill the server once it has sent this many copies of the image (only --engine boottorrent)
    #[arg(long, value_name = "COPIES")]
    kill_server_after: Option<f64>,
    /// Start the killed server again after 5 seconds
    #[arg(long, requires = "kill_server_after")]
    restart_server: bool,
    /// Plot when each PC finished and who sent to whom, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// Save the logs of all programs to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Options {
    fn check(&self) -> Result<()> {
        ensure!(self.late < self.nodes, "--late: at least one PC must start on time");
        ensure!(self.evil < self.nodes, "--evil: at least one PC must be honest");
        ensure!(
            self.late + self.evil < self.nodes,
            "--late and --evil leave no PC that starts on time"
        );
        ensure!((0.0..=50.0).contains(&self.loss), "--loss: expected 0 to 50 percent");
        ensure!((0.0..=3600.0).contains(&self.stagger), "--stagger: expected 0 to 3600 seconds");
        let only_ours = self.engines.iter().all(|engine| *engine == Engine::Ours);
        let disturbs = self.evil > 0 || self.kill_server_after.is_some();
        ensure!(only_ours || !disturbs, "--evil and --kill-server-after need --engine boottorrent");
        let is_spread = self.late > 0 || self.stagger > 0.0;
        for engine in &self.engines {
            ensure!(
                !is_spread || engine.takes_latecomers(),
                "--stagger and --late: with {} all PCs must start together",
                engine.name()
            );
        }
        Ok(())
    }

    fn wiring(&self) -> Wiring {
        Wiring {
            nodes: self.nodes.into(),
            mbit: self.mbit,
            server_mbit: self.server_mbit.unwrap_or(self.mbit),
            loss_permille: (self.loss * 10.0).round() as u32,
            counts_flows: self.plot.is_some(),
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            stagger: self.stagger,
            late: self.late.into(),
            evil: self.evil.into(),
            kill_server_after: self.kill_server_after,
            restarts_server: self.restart_server,
        }
    }
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    options.check()?;
    packages::ensure_packages(Extra::Room, options.yes)?;
    if options.engines.contains(&Engine::Transmission) {
        // Later there is no network to download it from.
        packages::ensure_transmission()?;
    }
    if options.engines.contains(&Engine::Librqbit) {
        cargo::librqbit_peer()?;
    }
    let programs = cargo::build(Build::Release)?;
    let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("swarm"));
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let out = std::path::absolute(out)?;
    net::enter_private_network()?;
    let scratch = tempfile::Builder::new().prefix("bt-room").tempdir()?;
    let payload = Payload::create(&scratch.path().join("memory"), options.mib << 20)?;
    let room = Room::wire_up(options.wiring())?;
    let lab = payload.folder().join("lab");
    if options.engines.contains(&Engine::Ours) {
        ours::make_lab(&programs, &room, &payload, &lab)?;
    }
    println!("{}", heads());
    let (plan, mut runs) = (options.plan(), Vec::new());
    for number in 1..=options.runs {
        for &engine in &options.engines {
            let work = tempfile::Builder::new().prefix("run").tempdir_in(payload.folder())?;
            let stage = Stage {
                room: &room,
                payload: &payload,
                programs: &programs,
                lab: &lab,
                out: &out,
                work: work.path(),
                leaves: options.leave,
            };
            let seen = course::run(engine, number, &stage, &plan)
                .with_context(|| format!("{}; its logs: {}", engine.name(), out.display()))?;
            println!("{}", seen.row());
            runs.push(seen);
        }
    }
    if let Some(file) = &options.plot {
        write_plot(options, &runs, file)?;
    }
    Ok(report(options, &runs))
}

/// Of each engine the run in the middle.
fn write_plot(options: &Options, runs: &[Seen], file: &Path) -> Result<()> {
    let middle = |engine: &Engine| {
        let mut mine: Vec<&Seen> = runs.iter().filter(|run| run.engine == *engine).collect();
        mine.sort_by(|a, b| a.over_wire()[0].total_cmp(&b.over_wire()[0]));
        mine.get(mine.len() / 2).copied()
    };
    let shown: Vec<&Seen> = options.engines.iter().filter_map(middle).collect();
    std::fs::write(file, plot::draw(&shown))
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("Plot: {}", file.display());
    Ok(())
}

fn report(options: &Options, runs: &[Seen]) -> Outcome {
    let summaries: Vec<Summary> =
        options.engines.iter().filter_map(|engine| Summary::of(*engine, runs)).collect();
    let words: Vec<String> = summaries
        .iter()
        .map(|it| format!("{} {:.2} ({:.2} copies)", it.engine.name(), it.last[0], it.copies[0]))
        .collect();
    let count = if options.runs == 1 { "one run".into() } else { format!("{} runs", options.runs) };
    let line = format!(
        "{} PCs at {} Mbit/s, {} MiB, all images correct; the last PC finished after, in wire \
         times: {} ({count}, medians)",
        options.nodes - options.evil,
        options.mbit,
        options.mib,
        words.join(", ")
    );
    Outcome::new(true, line)
        .with("mbit", options.mbit)
        .with("server_mbit", options.wiring().server_mbit)
        .with("mib", options.mib)
        .with("late", options.late)
        .with("leave", options.leave)
        .with("loss_percent", options.loss)
        .with("evil", options.evil)
        .with("kill_server_after", json!(options.kill_server_after))
        .with("summary", summaries.iter().map(|it| it.to_json()).collect::<Value>())
        .with("runs", runs.iter().map(Seen::to_json).collect::<Value>())
}
