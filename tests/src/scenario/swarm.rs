//! Shell: two nodes: the second gets pieces from the first.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bench::{Bench, direct};
use crate::boot::{MENU_LIMIT, START_LIMIT};
use crate::clock;
use crate::net::Place;
use crate::process::{Running, command_in};
use crate::qemu::Machine;
use crate::sample::SampleLab;
use crate::scenario::clients::check_same_files;
use crate::server::HTTP;
use crate::student::Student;

const SYSTEM: &str = "sample";
/// The sample system is a few seconds' download.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(120);

pub fn second_node(bench: &mut Bench) -> Result<String> {
    let lab = bench.sample_lab("swarm")?;
    let server = bench.serve(&lab, "swarm")?;
    let first_place = bench.lan.place()?;
    let folder = bench.scratch("swarm-first")?;
    let mut first = fetch(bench, &lab, &first_place, &folder, "swarm-first", false)?;
    let outcome = (|| {
        clock::wait_for("the first node to have everything", DOWNLOAD_LIMIT, || {
            first.check_running()?;
            Ok(check_same_files(&lab, &folder).ok())
        })?;
        let second = second_fetch(bench, &lab, &first_place)?;
        let third = third_boots(bench, &lab)?;
        first.check_running()?;
        Ok(format!("a second node got {second}; a PC that boots then {third}"))
    })();
    server.explain(outcome)
}

/// A second node without a screen: its own figures say from whom it got what.
fn second_fetch(bench: &mut Bench, lab: &SampleLab, first: &Place) -> Result<String> {
    let place = bench.lan.place()?;
    let folder = bench.scratch("swarm-second")?;
    let mut second = fetch(bench, lab, &place, &folder, "swarm-second", true)?;
    ensure!(second.wait(DOWNLOAD_LIMIT)?, "the second node failed:\n{}", second.printed());
    check_same_files(lab, &folder)?;
    let printed = second.printed();
    let figures = printed.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let figures = figures.with_context(|| format!("no JSON from the second node:\n{printed}"))?;
    let from = |address: &str| bytes_from(&figures, address);
    let (node, seed) = (from(&first.address().to_string()), from(&HTTP.ip().to_string()));
    ensure!(node > 0, "nothing came from the first node: {figures}");
    ensure!(seed > 0, "nothing came from the server: {figures}");
    Ok(format!("{:.1} MB from the first and {:.1} MB from the server", mb(node), mb(seed)))
}

/// A PC that boots while the others share: it says how many helped.
fn third_boots(bench: &mut Bench, lab: &SampleLab) -> Result<String> {
    let machine = Machine::new(direct(lab, &format!("bt.preset={SYSTEM}")), 9);
    let mut student = Student::switch_on("swarm-pc", &machine, &mut bench.lan, &bench.out)?;
    let verify = student.wait_step("verify", MENU_LIMIT)?;
    student.wait_started(START_LIMIT)?;
    let told: Vec<String> =
        verify.fields.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Ok(format!("starts too ({})", told.join(" ")))
}

fn fetch(
    bench: &Bench,
    lab: &SampleLab,
    place: &Place,
    folder: &Path,
    name: &str,
    once: bool,
) -> Result<Running> {
    let mut fetch = command_in(place, &bench.programs.node);
    fetch.args(["fetch", "--server", &format!("http://{HTTP}"), "--system", SYSTEM, "--json"]);
    fetch.arg("--key").arg(lab.folder().join("keys/root.pub")).arg("--out").arg(folder);
    if once {
        fetch.arg("--once");
    }
    Running::start(name, fetch, &bench.out.join(format!("{name}.log")))
}

/// Bytes that came from `address`, out of `"from": {"ADDRESS:PORT": bytes, …}`.
fn bytes_from(figures: &Value, address: &str) -> u64 {
    let Some(from) = figures["from"].as_object() else { return 0 };
    let of_it = from.iter().filter(|(peer, _)| peer.split(':').next() == Some(address));
    of_it.filter_map(|(_, bytes)| bytes.as_u64()).sum()
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_added_up_over_the_ports_of_one_address() {
        let figures =
            serde_json::json!({"from": {"10.77.0.1:6881": 5, "10.77.0.1:9": 2, "10.77.0.2:1": 1}});
        assert_eq!(bytes_from(&figures, "10.77.0.1"), 7);
        assert_eq!(bytes_from(&figures, "10.77.0.3"), 0);
    }
}
