//! Shell: the steps that cargo does: formatting, lints, documentation, licences, unit tests.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::choice::Step;
use super::count::Count;
use super::licences::{Policy, packages};
use crate::host::cargo::{cargo, workspace};
use crate::host::clock;
use crate::host::process::{output, run_visibly, shown};

const FORMAT: &[&str] = &["fmt", "--all", "--check"];
const CLIPPY: &[&str] = &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
const DOC: &[&str] = &["doc", "--workspace", "--no-deps", "--document-private-items"];

/// Runs one step.
pub fn run(step: Step) -> Result<Count> {
    let mut count = Count::default();
    match step {
        Step::Format => count.add(cargo_check(FORMAT, "")?),
        Step::Lints => {
            count.add(cargo_check(CLIPPY, "")?);
            // A link to nothing is a warning of rustdoc.
            count.add(cargo_check(DOC, "-D warnings")?);
            count.add(licences()?);
        }
        Step::Unit => count.add(unit_tests()?),
    }
    Ok(count)
}

/// A cargo command that counts as one test.
fn cargo_check(words: &[&str], rustdoc_flags: &str) -> Result<Count> {
    println!("\ncargo {} ...", words.join(" "));
    let mut cargo = cargo();
    cargo.args(words);
    if !rustdoc_flags.is_empty() {
        cargo.env("RUSTDOCFLAGS", rustdoc_flags);
    }
    let outcome = run_visibly(cargo);
    clock::check_interrupted()?;
    if let Err(error) = &outcome {
        println!("{error:#}");
    }
    Ok(Count::one(outcome.is_ok()))
}

/// Whether every dependency's licence is allowed.
fn licences() -> Result<Count> {
    println!("\nlicences of all dependencies, checked against deny.toml ...");
    let outcome = check_licences();
    clock::check_interrupted()?;
    match &outcome {
        Ok(packages) => println!("{packages} packages, all under licences that deny.toml allows"),
        Err(error) => println!("{error:#}"),
    }
    Ok(Count::one(outcome.is_ok()))
}

/// Returns how many packages were looked at.
fn check_licences() -> Result<usize> {
    let file = workspace().join("deny.toml");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let policy = Policy::parse(&text)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("cannot use {}", file.display()))?;
    // With all features, so that it is the complete lock file except what other systems need.
    let mut metadata = cargo();
    metadata.args(["metadata", "--format-version", "1", "--locked", "--all-features"]);
    for target in &policy.targets {
        metadata.args(["--filter-platform", target]);
    }
    let printed = output(&mut metadata)?;
    let words = String::from_utf8_lossy(&printed.stderr);
    ensure!(printed.status.success(), "{} failed: {words}", shown(&metadata));
    let packages = packages(&printed.stdout)
        .map_err(anyhow::Error::msg)
        .context("cannot read what cargo metadata prints")?;
    let violations = policy.violations(&packages);
    ensure!(
        violations.is_empty(),
        "deny.toml does not allow these licences; review a licence before you add it there, or drop \
         the package (`cargo tree --invert NAME` shows what depends on it):\n{}",
        violations.join("\n")
    );
    Ok(packages.len())
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
