//! Shell: `cargo lab test`: formatting, lints, unit tests, then whole boots in the virtual lab.

mod checks;
mod choice;
mod count;

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;

use crate::host::cargo;
use crate::host::clock;
use crate::host::outcome::Outcome;
use crate::host::packages::{self, Extra};
use crate::room::net::Lan;
use crate::room::testbed::Testbed;
use crate::scenario::{self, Scenario};
use choice::{Choice, Step};
use count::Count;

/// Fast enough for a test, slow enough for a download to be seen and shared.
const MBIT: u32 = 200;

/// Run all tests: formatting, lints, unit tests, and whole boots in virtual PCs
///
/// Installs the Debian packages it needs (it asks first), builds everything, and works for a while:
/// count on half an hour, the first time more. The last line is `N passed, N failed`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo lab test --only unit
  cargo lab test --only lints,boot-uefi
  cargo lab test dhcp-clients")]
pub struct Options {
    /// The same as --only
    #[arg(value_name = "NAME", value_delimiter = ',')]
    names: Vec<String>,
    /// Only these: `format`, `lints`, `unit`, or scenarios with this in their names
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Spend more time on the tests that attack the server (a minute instead of ten seconds)
    #[arg(long)]
    long: bool,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// Take the screens as they are now for the reference pictures in tests/screens
    #[arg(long)]
    accept_screens: bool,
    /// Only show the names of the steps and the scenarios
    #[arg(long)]
    list: bool,
    /// Leave pictures and logs in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    let names: Vec<&str> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
    let words = [&options.names[..], &options.only].concat();
    let choice = Choice::of(&words, &names).map_err(|text| anyhow!(text))?;
    let chosen = scenario::ALL.iter().filter(|it| choice.scenarios.contains(&it.name));
    let scenarios: Vec<&Scenario> = chosen.collect();
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
    scenarios: &[&Scenario],
    mut ended: impl FnMut(&'static str, bool),
) -> Result<()> {
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
        ended(scenario.name, one_scenario(scenario, &mut testbed)?);
    }
    println!("\nPictures and logs: {}", out.display());
    Ok(())
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

fn list(steps: &[Step], scenarios: &[&Scenario]) -> Outcome {
    println!("Steps:");
    for step in steps {
        println!("  {:22} {}", step.name(), step.what());
    }
    println!("Scenarios:");
    for Scenario { name, what, .. } in scenarios {
        println!("  {name:22} {what}");
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
