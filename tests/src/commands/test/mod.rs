//! Shell: `cargo lab test`: formatting, lints, unit tests, then boots from power-on in the virtual lab.

mod checks;
mod choice;
mod count;
mod jobs;
mod licences;
pub mod one;
mod queue;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;

use crate::host::cargo::{self, Build};
use crate::host::clock;
use crate::host::outcome::Outcome;
use crate::host::packages::{self, Extra};
use crate::room::testbed::Testbed;
use crate::scenario::{self, Scenario};
use choice::{Choice, Step};
use count::Count;
use queue::{available_mib, usual_jobs};

/// Fast enough for a test, slow enough for a download to be seen and shared.
const MBIT: u32 = 200;

/// Run all tests: formatting, lints, unit tests, and boots of virtual PCs from power-on
///
/// Installs the Debian packages it needs (it asks first) and builds everything. Takes half an hour,
/// the first time longer. The last line is `N passed, N failed`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo lab test --only unit
  cargo lab test --only lints,boot-uefi --jobs 1
  cargo lab test dhcp-clients")]
pub struct Options {
    /// The same as --only
    #[arg(value_name = "NAME", value_delimiter = ',')]
    names: Vec<String>,
    /// Run only these: `format`, `lints`, `unit`, or scenarios whose names contain NAME
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Number of scenarios in parallel, each in a network of its own [default: one per core and per
    /// 4 GiB of free memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: Option<u8>,
    /// Spend more time on the tests that attack the server (a minute instead of ten seconds)
    #[arg(long)]
    long: bool,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// Replace the reference pictures in tests/screens with the screens of this run
    #[arg(long)]
    accept_screens: bool,
    /// Test the release build of the programs, not the quick one
    #[arg(long)]
    release: bool,
    /// List the steps and the scenarios, and run nothing
    #[arg(long)]
    list: bool,
    /// Save pictures and logs to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Options {
    fn build(&self) -> Build {
        if self.release { Build::Release } else { Build::Quick }
    }
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    let names: Vec<&str> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
    let words = [&options.names[..], &options.only].concat();
    let choice = Choice::of(&words, &names).map_err(|text| anyhow!(text))?;
    let chosen = scenario::ALL.iter().filter(|it| choice.scenarios.contains(&it.name));
    let scenarios: Vec<Scenario> = chosen.copied().collect();
    if options.list {
        return Ok(list(&choice.steps, &scenarios));
    }
    packages::ensure_packages(Extra::Testing, options.yes)?;
    let mut count = Count::default();
    for step in choice.steps {
        count.add(checks::run(step)?);
    }
    let mut failures = Vec::new();
    if !scenarios.is_empty() {
        run_scenarios(options, &scenarios, |name, is_good| {
            count.add(Count::one(is_good));
            if !is_good {
                failures.push(name);
            }
        })?;
    }
    if !failures.is_empty() {
        println!("Failed: {}", failures.join(", "));
    }
    let Count { passed, failed } = count;
    // What has shown nothing is no success.
    let is_good = failed == 0 && passed > 0;
    Ok(Outcome::new(is_good, format!("{passed} passed, {failed} failed"))
        .with("passed", passed)
        .with("failed", failed)
        .with("failures", json!(failures)))
}

fn run_scenarios(
    options: &Options,
    scenarios: &[Scenario],
    ended: impl FnMut(&'static str, bool),
) -> Result<()> {
    // Later there is no network to download from, and several may need the same.
    let needs: BTreeSet<_> = scenarios.iter().filter_map(|scenario| scenario.need).collect();
    for need in needs {
        if let Err(error) = need.provide() {
            clock::check_interrupted()?;
            // Those that need it will fail; the others say something all the same.
            eprintln!("cargo lab: {error:#}");
        }
    }
    let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("test"));
    let mut testbed =
        Testbed::prepare(Extra::Testing, options.build(), options.yes, &out, Some(MBIT))?;
    testbed.long = options.long;
    testbed.accept_screens = options.accept_screens;
    println!("Making the lab that every scenario copies ...");
    testbed.template()?;
    jobs::run(&testbed, scenarios, jobs(options), ended)?;
    println!("\nPictures and logs: {}", out.display());
    Ok(())
}

/// How many scenarios run side by side.
fn jobs(options: &Options) -> usize {
    if options.accept_screens {
        // Several boots write the same picture.
        return 1;
    }
    let usual = || {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        usual_jobs(cores, available_mib(&meminfo).unwrap_or_default())
    };
    options.jobs.map_or_else(usual, usize::from)
}

fn list(steps: &[Step], scenarios: &[Scenario]) -> Outcome {
    println!("Steps:");
    for step in steps {
        println!("  {:22} {}", step.name(), step.what());
    }
    println!("Scenarios (* runs alone, the others in parallel):");
    for Scenario { name, what, is_alone, .. } in scenarios {
        println!("{} {name:22} {what}", if *is_alone { "*" } else { " " });
    }
    Outcome::new(true, format!("{} steps, {} scenarios", steps.len(), scenarios.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let mut names: Vec<&str> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
        names.extend(Step::ALL.map(Step::name));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
