//! Shell: scenarios side by side, each in a process and a network of its own.
//!
//! The lab starts itself again for each (`one.rs`), from inside its private network, so that no
//! scenario sees another's: not even their addresses can collide. What a scenario prints is kept and
//! shown in one block when it ends.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};

use super::queue::Queue;
use crate::host::cargo;
use crate::host::clock;
use crate::host::process::{Running, command};
use crate::room::testbed::Testbed;
use crate::scenario::{Need, Scenario};

/// How often to look whether one has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After Ctrl-C, for a scenario to put away what it has started: some processes, each of which is
/// given five seconds.
const PUTTING_AWAY: Duration = Duration::from_secs(30);

/// A scenario that runs.
struct Job {
    name: &'static str,
    process: Running,
    /// Its lab folders and what it printed; needed no longer than it runs.
    folder: PathBuf,
}

/// Runs them, `jobs` side by side; `ended` is called for each, with whether it passed.
///
/// # Errors
/// Only an interruption, or when none can be started at all; then all have ended as well.
pub fn run(
    testbed: &Testbed,
    scenarios: &[Scenario],
    jobs: usize,
    mut ended: impl FnMut(&'static str, bool),
) -> Result<()> {
    let (alone, others) = scenarios.iter().copied().partition(|scenario| scenario.is_alone);
    let mut queue = Queue::new(alone, others, jobs);
    let mut running = Vec::new();
    let outcome = work(testbed, &mut queue, &mut running, &mut ended);
    if outcome.is_err() {
        put_away(&mut running);
    }
    outcome
}

fn work(
    testbed: &Testbed,
    queue: &mut Queue<Scenario>,
    running: &mut Vec<Job>,
    ended: &mut impl FnMut(&'static str, bool),
) -> Result<()> {
    while !queue.is_over() {
        while let Some(scenario) = queue.begin() {
            println!("\nscenario {}: {} ...", scenario.name, scenario.what);
            running.push(Job::start(testbed, &scenario)?);
        }
        clock::pause(LOOK_EVERY)?;
        for mut job in std::mem::take(running) {
            let Some(is_good) = job.process.end()? else {
                running.push(job);
                continue;
            };
            // Whoever interrupts the lab interrupts the scenarios too: that is no failure.
            clock::check_interrupted()?;
            println!("\n{}", job.process.printed().trim_end());
            // The disk of a small machine is full of old labs else; the last one out tidies up again.
            std::fs::remove_dir_all(&job.folder).ok();
            ended(job.name, is_good);
            queue.end();
        }
    }
    Ok(())
}

impl Job {
    fn start(testbed: &Testbed, scenario: &Scenario) -> Result<Self> {
        let peer = match scenario.need {
            Some(Need::LibrqbitPeer) => cargo::librqbit_peer().ok(),
            _ => None,
        };
        let name = scenario.name;
        let folder = testbed.scratch(name)?;
        let invitation = testbed.invite(&folder, peer)?;
        let file = folder.join("invitation.json");
        let text = serde_json::to_vec(&invitation).context("cannot write JSON")?;
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        // This very program, even when cargo has put a newer one in its place meanwhile.
        let mut lab = command("/proc/self/exe");
        lab.arg("scenario").arg(name).arg("--invitation").arg(&file);
        let process = Running::start(name, lab, &folder.join("printed"))?;
        Ok(Self { name, process, folder })
    }
}

/// Asks all to end at once, and gives them the time for it.
fn put_away(running: &mut Vec<Job>) {
    for job in running.iter() {
        // It may have ended already.
        kill(job.process.pid(), Signal::SIGTERM).ok();
    }
    let limit = clock::now() + PUTTING_AWAY;
    while clock::now() < limit {
        running.retain_mut(|job| matches!(job.process.has_ended(), Ok(false)));
        if running.is_empty() {
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    running.clear();
}
