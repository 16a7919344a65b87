//! Shell: sends millions of broken inputs through one entry of the server, and stops at a panic.
//!
//! `fuzz TARGET EXECUTIONS SEED`, run by `cargo lab fuzz`. Prints one line of JSON. A panic ends it
//! with the input in hex, so that it can be put into the corpus.

mod corpus;

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use bt_server::fuzz::{Target, Victim};

/// Slower inputs would let a stranger keep the server busy.
const SLOW_SECS: f64 = 0.1;

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn now() -> Instant {
    Instant::now()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |index: usize| arguments.get(index).and_then(|text| text.parse::<u64>().ok());
    let target =
        Target::ALL.into_iter().find(|it| arguments.get(1).is_some_and(|t| t == it.name()));
    let (Some(target), Some(executions), Some(seed)) = (target, number(2), number(3)) else {
        eprintln!("usage: fuzz dhcp|tftp|announce|report|script EXECUTIONS SEED");
        return ExitCode::from(2);
    };
    let started = now();
    let seeds = corpus::seeds(target);
    let mut mutator = corpus::Mutator::new(seed, seeds);
    let mut victim = Victim::default();
    let (mut understood, mut slowest) = (0_u64, 0.0_f64);
    for execution in 0..executions {
        let input = mutator.next();
        let before = now();
        match catch_unwind(AssertUnwindSafe(|| victim.take(target, input))) {
            Ok(is_understood) => understood += u64::from(is_understood),
            Err(_) => {
                eprintln!("execution {execution} of seed {seed} panicked with this input:");
                eprintln!("{}", hex::encode(input));
                return ExitCode::FAILURE;
            }
        }
        slowest = slowest.max(before.elapsed().as_secs_f64());
    }
    let secs = started.elapsed().as_secs_f64();
    let json = serde_json::json!({
        "target": target.name(), "executions": executions, "understood": understood,
        "seed": seed, "seconds": secs, "slowest_seconds": slowest,
    });
    let is_quick = slowest < SLOW_SECS;
    match writeln!(io::stdout(), "{json}") {
        Ok(()) if is_quick => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
