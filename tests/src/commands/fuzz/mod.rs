//! Shell: `cargo lab fuzz`: libFuzzer on everything that the server reads from the network.

mod grown;

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
/// Builds libFuzzer's targets and starts each from the corpus in server/fuzz/corpus; inputs that
/// reach new code are kept for the next run. A panic, or one input that takes 5 seconds or 512 MiB,
/// stops a target, and the input is saved to a file. 10 million inputs take some minutes for each
/// target.
#[derive(Args)]
pub struct Options {
    /// Fuzz only this target: dhcp, tftp, announce, report or script
    #[arg(long)]
    target: Option<String>,
    /// Inputs for each target
    #[arg(long, default_value_t = 1_000_000)]
    executions: u64,
    /// Seed of the random numbers: the same one tries the same inputs, unless an earlier run kept some
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Add the inputs that reach new code to server/fuzz/corpus, the smallest for each
    #[arg(long)]
    keep: bool,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    let wanted = |target: &&str| options.target.as_ref().is_none_or(|only| only == target);
    let targets: Vec<&str> = TARGETS.into_iter().filter(|target| wanted(target)).collect();
    if targets.is_empty() {
        bail!("unknown target; expected one of {}", TARGETS.join(", "));
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
        "{survived} of {} targets survived {} inputs each",
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
    let corpus = working_corpus(target, out)?;
    fuzz.args([&grown, &corpus]).stderr(Stdio::piped());
    let mut child = fuzz.spawn().with_context(|| format!("cannot run {}", shown(&fuzz)))?;
    let log_lines = child.stderr.take().expect("it is a pipe");
    let mut file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut figures = json!({ "target": target });
    for line in BufReader::new(log_lines).lines() {
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
        println!("the input is in {}, the log in {}", out.display(), log.display());
    } else if options.keep {
        keep(program, target, &grown, &corpus)?;
    }
    Ok(figures)
}

/// Copies a target's corpus into a folder that libFuzzer can read: its files, and the inputs of its
/// packed file as files of their own.
fn working_corpus(target: &str, out: &Path) -> Result<PathBuf> {
    let (named, working) = (folder().join("corpus").join(target), out.join("corpus").join(target));
    if working.exists() {
        fs::remove_dir_all(&working)
            .with_context(|| format!("cannot remove {}", working.display()))?;
    }
    fs::create_dir_all(&working).with_context(|| format!("cannot make {}", working.display()))?;
    for entry in fs::read_dir(&named)? {
        let entry = entry?;
        fs::copy(entry.path(), working.join(entry.file_name()))?;
    }
    let packed = grown_file(target);
    let inputs = fs::read(&packed).with_context(|| format!("cannot read {}", packed.display()))?;
    let inputs = grown::unpack(&inputs).with_context(|| packed.display().to_string())?;
    for (number, input) in inputs.into_iter().enumerate() {
        fs::write(working.join(format!("grown-{number:04}")), input)?;
    }
    Ok(working)
}

/// The packed inputs of a target.
fn grown_file(target: &str) -> PathBuf {
    folder().join("corpus").join(target).with_extension("grown")
}

/// Lets libFuzzer add to the working corpus what reaches new code, and packs all that has no file
/// of its own in the repository.
fn keep(program: &Path, target: &str, grown: &Path, working: &Path) -> Result<()> {
    let mut merge = command(program);
    merge.args(LIMITS).args(["-merge=1", "-use_counters=0"]).args([working, grown]);
    run_visibly(merge)?;
    let (named, mut inputs) = (folder().join("corpus").join(target), Vec::new());
    for entry in fs::read_dir(working)? {
        let entry = entry?;
        if !named.join(entry.file_name()).exists() {
            inputs.push(fs::read(entry.path())?);
        }
    }
    let (count, packed) = (inputs.len(), grown_file(target));
    fs::write(&packed, grown::pack(inputs)?)
        .with_context(|| format!("cannot write {}", packed.display()))?;
    println!("{target}: {count} inputs are packed in {}", packed.display());
    Ok(())
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
    fn grown_inputs_are_packed_as_this_program_packs_them() {
        for target in TARGETS {
            let packed = fs::read(grown_file(target)).expect("readable");
            let inputs = grown::unpack(&packed).expect("complete");
            assert!(inputs.len() > 50, "{target}: {}", inputs.len());
            assert_eq!(grown::pack(inputs).expect("short inputs"), packed, "{target}");
        }
    }

    #[test]
    fn the_working_corpus_holds_the_named_and_the_grown_inputs() {
        let out = tempfile::tempdir().expect("a folder");
        for target in TARGETS {
            let working = working_corpus(target, out.path()).expect("a corpus");
            let named = fs::read_dir(folder().join("corpus").join(target)).expect("readable");
            let packed = fs::read(grown_file(target)).expect("readable");
            let grown = grown::unpack(&packed).expect("complete").len();
            let copied = fs::read_dir(working).expect("readable").count();
            assert_eq!(copied, named.count() + grown, "{target}");
        }
    }

    #[test]
    fn figures_are_read_from_the_fuzzers_output() {
        let line = "stat::number_of_executed_units: 10000000";
        assert_eq!(read_figure(line), Some(("number_of_executed_units", 10_000_000)));
        assert_eq!(read_figure("#8388608\tpulse  cov: 1229 ft: 3212 exec/s: 21807"), None);
    }
}
