//! Shell: `cargo lab`: a complete computer lab on one machine, for new users, tests and measurements.
//!
//! A private network of namespaces ([`room::net`]), PCs that really boot from it ([`room::qemu`]), the server
//! as it ships ([`room::server`]), and a scripted student who presses keys and looks at the screen
//! ([`room::student`]).

mod commands;
mod host;
mod room;
mod scenario;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sys::resource::{UsageWho, getrusage};

use commands::{
    boot, build, demo, dhcp_load, fuzz, handover, image, simulate, swarm, test, tftp_load,
};
use host::clock;
use host::outcome::Outcome;

/// The virtual computer lab of BootTorrent.
///
/// Everything runs on this machine, in a private network: nothing reaches your own network, and
/// nothing is left running. New here? Start with `cargo lab demo`.
#[derive(Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
    /// Write the result to this file as JSON: {"ok": true or false, the figures, load, CPU seconds}
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Action {
    Demo(demo::Options),
    Build(build::Options),
    Test(test::Options),
    #[command(hide = true)]
    Scenario(test::one::Options),
    Boot(boot::Options),
    Image(image::Options),
    Handover(handover::Options),
    Fuzz(fuzz::Options),
    Swarm(swarm::Options),
    Simulate(simulate::Options),
    DhcpLoad(dhcp_load::Options),
    TftpLoad(tftp_load::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let finished = clock::catch_interrupts().and_then(|()| match &arguments.command {
        Action::Demo(options) => demo::run(options),
        Action::Build(options) => build::run(options),
        Action::Test(options) => test::run(options),
        Action::Scenario(options) => test::one::run(options),
        Action::Boot(options) => boot::run(options),
        Action::Image(options) => image::run_command(options),
        Action::Handover(options) => handover::run(options),
        Action::Fuzz(options) => fuzz::run(options),
        Action::Swarm(options) => swarm::run(options),
        Action::Simulate(options) => simulate::run(options),
        Action::DhcpLoad(options) => dhcp_load::run(options),
        Action::TftpLoad(options) => tftp_load::run(options),
    });
    let outcome = finished.unwrap_or_else(|error| {
        // Whoever pressed Ctrl-C needs no reason and no logs.
        if clock::check_interrupted().is_err() {
            return Outcome::new(
                false,
                "interrupted; everything that was started has been stopped",
            );
        }
        eprintln!("cargo lab: {error:#}");
        Outcome::new(false, "failed; see the error above")
    });
    let written = arguments.json.map_or(Ok(()), |file| write_json(&outcome, &file));
    if let Err(error) = &written {
        eprintln!("cargo lab: {error:#}");
    }
    println!("{}", outcome.line);
    if outcome.ok && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn write_json(outcome: &Outcome, file: &Path) -> Result<()> {
    let load = std::fs::read_to_string("/proc/loadavg").context("cannot read the load")?;
    let load = load.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default();
    let used = getrusage(UsageWho::RUSAGE_SELF)?;
    let by_children = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let times =
        [used.user_time(), used.system_time(), by_children.user_time(), by_children.system_time()];
    let cpu: f64 =
        times.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum();
    let text =
        serde_json::to_string_pretty(&outcome.to_json(load, cpu)).context("cannot write JSON")?;
    std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}
