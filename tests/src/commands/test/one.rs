//! Shell: `cargo lab scenario`, hidden: one scenario in a process and a network of its own.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::host::clock;
use crate::host::outcome::Outcome;
use crate::room::net::Lan;
use crate::room::testbed::{Invitation, Testbed};
use crate::scenario;

/// Run one scenario; started by `cargo lab test`, for which it stays hidden
#[derive(Args)]
pub struct Options {
    /// Its name
    name: String,
    /// What `cargo lab test` wrote down about its testbed, as JSON
    #[arg(long, value_name = "FILE")]
    invitation: PathBuf,
}

/// Runs the command. The outcome's line says what was seen, or what went wrong.
pub fn run(options: &Options) -> Result<Outcome> {
    let scenario = scenario::ALL.iter().find(|scenario| scenario.name == options.name);
    let scenario = scenario.with_context(|| format!("unknown scenario {}", options.name))?;
    let text = std::fs::read(&options.invitation).context("cannot read the invitation")?;
    let invitation: Invitation =
        serde_json::from_slice(&text).context("cannot parse the invitation")?;
    let start = clock::now();
    let outcome = Testbed::join(invitation).and_then(|mut testbed| {
        Lan::advertise_router()?;
        (scenario.run)(&mut testbed)
    });
    clock::check_interrupted()?;
    let secs = (clock::now() - start).as_secs_f64();
    let name = scenario.name;
    Ok(match outcome {
        Ok(seen) => Outcome::new(true, format!("scenario {name} ... ok, {secs:.0} s: {seen}")),
        Err(error) => {
            Outcome::new(false, format!("scenario {name} ... FAILED, {secs:.0} s: {error:#}"))
        }
    })
}
