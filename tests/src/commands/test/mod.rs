//! Shell: `cargo lab test`: formatting, lints, unit tests, then whole boots in the virtual lab.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::host::cargo::{self, cargo};
use crate::host::clock;
use crate::host::outcome::Outcome;
use crate::host::packages::{self, Extra};
use crate::host::process::{run_visibly, shown};
use crate::room::net::Lan;
use crate::room::testbed::Testbed;
use crate::scenario::{self, Scenario};

/// Fast enough for a test, slow enough for a download to be seen and shared.
const MBIT: u32 = 200;

/// Run all tests: formatting, lints, unit tests, and whole boots in virtual PCs
///
/// Installs the Debian packages it needs (it asks first), builds everything, and works for a while:
/// count on half an hour, the first time more. The last line is `N passed, N failed`.
#[derive(Args)]
pub struct Options {
    /// Only what has this in its name: `format`, `lints`, `unit`, or a part of a scenario's name
    filter: Option<String>,
    /// Spend more time on the tests that attack the server (a minute instead of ten seconds)
    #[arg(long)]
    long: bool,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// Take the screens as they are now for the reference pictures in tests/screens
    #[arg(long)]
    accept_screens: bool,
    /// Only show the names of the scenarios
    #[arg(long)]
    list: bool,
    /// Leave pictures and logs in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Counts of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u32,
    failed: u32,
}

impl Count {
    fn one(is_good: bool) -> Self {
        Self { passed: u32::from(is_good), failed: u32::from(!is_good) }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Reads cargo's `test result: ok. 12 passed; 0 failed; …`.
    fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let mut numbers = counts.split(';').map(|part| part.trim().split(' ').next());
        let mut next = || numbers.next()??.parse().ok();
        Some(Self { passed: next()?, failed: next()? })
    }
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    if options.list {
        return Ok(list());
    }
    let wanted = |name: &str| options.filter.as_ref().is_none_or(|filter| name.contains(filter));
    packages::ensure_packages(Extra::Testing, options.yes)?;
    let mut count = Count::default();
    if wanted("format") {
        count.add(cargo_check(&["fmt", "--all", "--check"])?);
    }
    if wanted("lints") {
        count.add(cargo_check(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])?);
    }
    if wanted("unit") {
        count.add(unit_tests()?);
    }
    let scenarios: Vec<&Scenario> = scenario::ALL.iter().filter(|it| wanted(it.name)).collect();
    let mut failures = Vec::new();
    if !scenarios.is_empty() {
        if scenarios.iter().any(|it| it.name == scenario::TRANSMISSION) {
            // Later there is no way to the world.
            packages::ensure_transmission()?;
        }
        if scenarios.iter().any(|it| it.name == scenario::LIBRQBIT) {
            cargo::librqbit_peer()?;
        }
        let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("test"));
        let mut testbed = Testbed::prepare(Extra::Testing, options.yes, &out, Some(MBIT))?;
        testbed.long = options.long;
        testbed.accept_screens = options.accept_screens;
        Lan::advertise_router()?;
        for scenario in scenarios {
            let is_good = one_scenario(scenario, &mut testbed)?;
            count.add(Count::one(is_good));
            if !is_good {
                failures.push(scenario.name);
            }
        }
        println!("\nPictures and logs: {}", out.display());
    }
    if !failures.is_empty() {
        println!("Failed: {}", failures.join(", "));
    }
    let Count { passed, failed } = count;
    // A filter that fits nothing has shown nothing.
    let is_good = failed == 0 && passed > 0;
    Ok(Outcome::new(is_good, format!("{passed} passed, {failed} failed"))
        .with("passed", passed)
        .with("failed", failed)
        .with("failures", json!(failures)))
}

fn list() -> Outcome {
    for scenario in scenario::ALL {
        println!("{:22} {}", scenario.name, scenario.what);
    }
    Outcome::new(true, format!("{} scenarios", scenario::ALL.len()))
}

/// Runs one scenario; only an interruption is an error, everything else is a failed test.
fn one_scenario(scenario: &Scenario, testbed: &mut Testbed) -> Result<bool> {
    let start = clock::now();
    println!("\nscenario {}: {} ...", scenario.name, scenario.what);
    let outcome = (scenario.run)(testbed);
    clock::check_interrupted()?;
    let secs = (clock::now() - start).as_secs_f64();
    match &outcome {
        Ok(seen) => println!("scenario {} ... ok, {secs:.0} s: {seen}", scenario.name),
        Err(error) => println!("scenario {} ... FAILED, {secs:.0} s: {error:#}", scenario.name),
    }
    Ok(outcome.is_ok())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_counts_are_read() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Count::parse(line), Some(Count { passed: 12, failed: 3 }));
        assert_eq!(Count::parse("running 3 tests"), None);
    }

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let mut names: Vec<&str> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), scenario::ALL.len());
    }
}
