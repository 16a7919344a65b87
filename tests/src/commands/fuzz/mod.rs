//! Shell: `cargo lab fuzz`: libFuzzer on everything that the server reads from the network.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::host::cargo::{self, cargo};
use crate::host::clock;
use crate::host::outcome::Outcome;
use crate::host::packages::{self, Extra};
use crate::host::process::{command, run_visibly, shown};

const TARGETS: [&str; 5] = ["dhcp", "tftp", "announce", "report", "script"];
const PLATFORM: &str = "x86_64-unknown-linux-gnu";
/// As `cargo fuzz` has it, without its sanitizer: that needs a nightly compiler.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";
/// Longer inputs come in no packet, slower and larger ones would stop the server: libFuzzer's words.
const LIMITS: [&str; 3] = ["-max_len=1500", "-timeout=5", "-rss_limit_mb=512"];

/// Look for inputs that break the server: millions of packets and requests, guided by coverage
///
/// Builds libFuzzer's targets and starts each from the corpus in server/fuzz/corpus; what it finds
/// on the way is kept for the next run. A panic, 5 seconds or 512 MiB for one input stop a target,
/// and the input is left in a file. 10 million inputs take some minutes for each target.
#[derive(Args)]
pub struct Options {
    /// Only this one: dhcp, tftp, announce, report or script
    #[arg(long)]
    target: Option<String>,
    /// Inputs for each target
    #[arg(long, default_value_t = 1_000_000)]
    executions: u64,
    /// The same seed tries the same inputs, when nothing is kept from an earlier run
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    let wanted = |target: &&str| options.target.as_ref().is_none_or(|only| only == target);
    let targets: Vec<&str> = TARGETS.into_iter().filter(|target| wanted(target)).collect();
    if targets.is_empty() {
        bail!("there is no such target; there are {}", TARGETS.join(", "));
    }
    packages::ensure_packages(Extra::Fuzzing, options.yes)?;
    let out = std::path::absolute(cargo::results_folder().join("fuzz"))?;
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let programs = build(&out)?;
    let mut figures = Vec::new();
    for target in &targets {
        println!("{target}: {} inputs ...", options.executions);
        figures.push(one(&programs.join(target), target, &out, options)?);
    }
    let survived = figures.iter().filter(|it| it["survived"] == true).count();
    let line = format!(
        "{survived} of {} targets took {} inputs each and did not break",
        targets.len(),
        options.executions
    );
    Ok(Outcome::new(survived == targets.len(), line).with("targets", json!(figures)))
}

/// Builds all targets; returns the folder that they are in.
fn build(out: &Path) -> Result<PathBuf> {
    println!("Building the server with coverage (this takes some minutes once) ...");
    let (folder, target) = (folder(), out.join("target"));
    let mut build = cargo();
    build.current_dir(folder).env("RUSTFLAGS", COVERAGE);
    build.args(["build", "--release", "--locked", "--target", PLATFORM, "--target-dir"]);
    build.arg(&target);
    run_visibly(build)?;
    Ok(target.join(PLATFORM).join("release"))
}

/// Where the targets and their corpus are.
fn folder() -> PathBuf {
    cargo::workspace().join("server/fuzz")
}

/// Runs one target; returns its figures.
fn one(program: &Path, target: &str, out: &Path, options: &Options) -> Result<Value> {
    let (grown, log) = (out.join("grown").join(target), out.join(format!("{target}.log")));
    fs::create_dir_all(&grown).with_context(|| format!("cannot make {}", grown.display()))?;
    let mut fuzz = command(program);
    fuzz.args(LIMITS).arg("-print_final_stats=1");
    fuzz.arg(format!("-runs={}", options.executions)).arg(format!("-seed={}", options.seed));
    fuzz.arg(format!("-artifact_prefix={}/{target}-", out.display()));
    fuzz.arg(grown).arg(folder().join("corpus").join(target)).stderr(Stdio::piped());
    let mut child = fuzz.spawn().with_context(|| format!("cannot run {}", shown(&fuzz)))?;
    let words = child.stderr.take().expect("it is a pipe");
    let mut file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut figures = json!({ "target": target });
    for line in BufReader::new(words).lines() {
        let line = line?;
        writeln!(file, "{line}")?;
        if line.contains(" pulse ") {
            println!("  {line}");
        }
        if let Some((name, value)) = read_figure(&line) {
            figures[name] = value.into();
        }
    }
    figures["survived"] = child.wait()?.success().into();
    clock::check_interrupted()?;
    println!("{figures}");
    if figures["survived"] == false {
        println!("the input, and what happened, are in {} and {}", out.display(), log.display());
    }
    Ok(figures)
}

/// Reads libFuzzer's `stat::number_of_executed_units: 1000000`.
fn read_figure(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.strip_prefix("stat::")?.split_once(':')?;
    Some((name, value.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_has_a_program_and_a_corpus() {
        for target in TARGETS {
            let (folder, source) = (folder(), format!("fuzz_targets/{target}.rs"));
            assert!(folder.join(&source).is_file(), "{source}");
            assert!(folder.join("corpus").join(target).is_dir(), "{target}");
        }
    }

    #[test]
    fn figures_are_read_from_the_fuzzers_words() {
        let line = "stat::number_of_executed_units: 10000000";
        assert_eq!(read_figure(line), Some(("number_of_executed_units", 10_000_000)));
        assert_eq!(read_figure("#8388608\tpulse  cov: 1229 ft: 3212 exec/s: 21807"), None);
    }
}
