//! Shell: the steps that cargo does: formatting, lints, unit tests.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result};

use super::choice::Step;
use super::count::Count;
use crate::host::cargo::cargo;
use crate::host::clock;
use crate::host::process::{run_visibly, shown};

const FORMAT: &[&str] = &["fmt", "--all", "--check"];
const CLIPPY: &[&str] = &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];

/// Runs one step.
pub fn run(step: Step) -> Result<Count> {
    let mut count = Count::default();
    match step {
        Step::Format => count.add(cargo_check(FORMAT)?),
        Step::Lints => count.add(cargo_check(CLIPPY)?),
        Step::Unit => count.add(unit_tests()?),
    }
    Ok(count)
}

/// A cargo command that counts as one test.
fn cargo_check(words: &[&str]) -> Result<Count> {
    println!("\ncargo {} ...", words.join(" "));
    let mut cargo = cargo();
    cargo.args(words);
    let outcome = run_visibly(cargo);
    clock::check_interrupted()?;
    if let Err(error) = &outcome {
        println!("{error:#}");
    }
    Ok(Count::one(outcome.is_ok()))
}

/// Runs `cargo test` over everything and adds up what it counts.
fn unit_tests() -> Result<Count> {
    println!("\ncargo test --workspace ...");
    let mut cargo = cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]).stdout(Stdio::piped());
    let mut child = cargo.spawn().with_context(|| format!("cannot run {}", shown(&cargo)))?;
    let printed = child.stdout.take().expect("its output is a pipe");
    let mut count = Count::default();
    for line in BufReader::new(printed).lines() {
        let line = line?;
        // A passed test is silent: hundreds of lines would hide the one that matters.
        let is_passed = line.starts_with("test ") && line.ends_with(" ... ok");
        if !is_passed && !line.is_empty() {
            println!("{line}");
        }
        count.add(Count::parse(&line).unwrap_or_default());
    }
    let is_good = child.wait()?.success();
    clock::check_interrupted()?;
    if !is_good && count.failed == 0 {
        // It did not even compile, or a test program died.
        count.failed = 1;
    }
    Ok(count)
}
