//! Shell: `cargo lab fuzz`: broken inputs for everything that the server reads from the network.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::cargo::cargo;
use crate::process::shown;
use crate::report::Report;

const TARGETS: [&str; 5] = ["dhcp", "tftp", "announce", "report", "script"];

/// Send millions of broken packets and requests through the server's parsers and answers
///
/// Builds the fuzzer in release mode and feeds each target from captures of real PCs, mutated in a
/// way that the seed decides. A panic stops it and shows the input. 10 million take minutes.
#[derive(Args)]
pub struct Options {
    /// Only this one: dhcp, tftp, announce, report or script
    #[arg(long)]
    target: Option<String>,
    /// Inputs for each target
    #[arg(long, default_value_t = 1_000_000)]
    executions: u64,
    /// Another seed tries other inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Report> {
    let wanted = |target: &&str| options.target.as_ref().is_none_or(|only| only == target);
    let targets: Vec<&str> = TARGETS.into_iter().filter(|target| wanted(target)).collect();
    if targets.is_empty() {
        bail!("there is no such target; there are {}", TARGETS.join(", "));
    }
    let mut figures = Vec::new();
    for target in &targets {
        println!("{target}: {} inputs ...", options.executions);
        figures.push(one(target, options)?);
    }
    let survived = figures.iter().flatten().count();
    let line = format!(
        "{survived} of {} targets took {} broken inputs each without a panic",
        targets.len(),
        options.executions
    );
    Ok(Report::new(survived == targets.len(), line).with("targets", json!(figures)))
}

/// One target's figures; `None` where an input broke it, which the fuzzer has shown.
fn one(target: &str, options: &Options) -> Result<Option<Value>> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "-p", "bt-server", "--example", "fuzz", "--"]);
    command.args([target, &options.executions.to_string(), &options.seed.to_string()]);
    command.stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot run {}", shown(&command)))?;
    if !output.status.success() {
        return Ok(None);
    }
    let figures: Value = serde_json::from_slice(&output.stdout).context("no figures")?;
    println!("{figures}");
    Ok(Some(figures))
}
