//! Shell: two nodes: the second gets pieces from the first.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::host::clock;
use crate::host::http;
use crate::host::process::Running;
use crate::room::namespace::{Namespace, command_in};
use crate::room::qemu::Machine;
use crate::room::route::{MENU_LIMIT, START_LIMIT};
use crate::room::sample::SampleLab;
use crate::room::server::HTTP;
use crate::room::student::Student;
use crate::room::testbed::{Testbed, direct};
use crate::scenario::clients::check_same_files;

const SYSTEM: &str = "sample";
/// The sample system is a few seconds' download.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(120);

pub fn second_node(testbed: &mut Testbed) -> Result<String> {
    let lab = testbed.sample_lab("swarm")?;
    let server = testbed.serve(&lab, "swarm")?;
    let first_namespace = testbed.lan.namespace()?;
    let folder = testbed.scratch("swarm-first")?;
    let mut first = fetch(testbed, &lab, &first_namespace, &folder, "swarm-first", false)?;
    let outcome = (|| {
        clock::wait_for("the first node to have everything", DOWNLOAD_LIMIT, || {
            first.check_running()?;
            Ok(check_same_files(&lab, &folder).ok())
        })?;
        let second = second_fetch(testbed, &lab, &first_namespace)?;
        let pc = pc_boots(testbed, &lab)?;
        first.check_running()?;
        Ok(format!("a second node got {second}; a PC that boots then {pc}"))
    })();
    server.explain(outcome)
}

/// A second node without a screen: its own figures say from whom it got what.
fn second_fetch(testbed: &mut Testbed, lab: &SampleLab, first: &Namespace) -> Result<String> {
    let namespace = testbed.lan.namespace()?;
    let folder = testbed.scratch("swarm-second")?;
    let mut second = fetch(testbed, lab, &namespace, &folder, "swarm-second", true)?;
    ensure!(second.wait(DOWNLOAD_LIMIT)?, "the second node failed:\n{}", second.printed());
    check_same_files(lab, &folder)?;
    let figures = figures(&second.printed())?;
    let from = |address: &str| bytes_from(&figures, address);
    let (node, seed) = (from(&first.address().to_string()), from(&HTTP.ip().to_string()));
    ensure!(node > 0, "nothing came from the first node: {figures}");
    ensure!(seed > 0, "nothing came from the server: {figures}");
    Ok(format!("{:.1} MB from the first and {:.1} MB from the server", mb(node), mb(seed)))
}

/// A PC that boots while the first still shares: the server sends only a part of what it gets.
fn pc_boots(testbed: &mut Testbed, lab: &SampleLab) -> Result<String> {
    let before = uploaded()?;
    let machine = Machine::new(direct(lab, &format!("bt.preset={SYSTEM}")), 9);
    let mut student = Student::switch_on("swarm-pc", &machine, &mut testbed.lan, &testbed.out)?;
    student.wait_step("verify", MENU_LIMIT)?;
    let by_server = uploaded()? - before;
    student.wait_started(START_LIMIT)?;
    let total: u64 = ["kernel", "initrd"]
        .iter()
        .map(|name| std::fs::metadata(lab.image(name)).map(|metadata| metadata.len()))
        .sum::<std::io::Result<u64>>()?;
    ensure!(
        (1..total).contains(&by_server),
        "the server sent {by_server} of the PC's {total} bytes; expected a part of them"
    );
    Ok(format!("got {:.1} of its {:.1} MB from the server", mb(by_server), mb(total)))
}

/// Bytes of the system that the server has sent to anybody, by its own word.
fn uploaded() -> Result<u64> {
    let status: Value = serde_json::from_slice(&http::get(HTTP, "/status.json")?)?;
    let systems = status["systems"].as_array().context("the status lists no systems")?;
    let system = systems.iter().find(|system| system["id"] == SYSTEM);
    system.and_then(|it| it["uploaded"].as_u64()).context("the status shows no uploaded bytes")
}

/// Starts `bt-node fetch` in a namespace; it prints its figures as JSON.
pub fn fetch(
    testbed: &Testbed,
    lab: &SampleLab,
    namespace: &Namespace,
    folder: &Path,
    name: &str,
    once: bool,
) -> Result<Running> {
    let mut fetch = command_in(namespace, &testbed.programs.node);
    fetch.args(["fetch", "--server", &format!("http://{HTTP}"), "--system", SYSTEM, "--json"]);
    fetch.arg("--key").arg(lab.folder().join("keys/root.pub")).arg("--out").arg(folder);
    if once {
        fetch.arg("--once");
    }
    Running::start(name, fetch, &testbed.out.join(format!("{name}.log")))
}

/// The line of JSON in what a node has printed.
pub fn figures(printed: &str) -> Result<Value> {
    let figures = printed.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    figures.with_context(|| format!("bt-node printed no JSON:\n{printed}"))
}

/// Bytes that came from `address`, out of `"from": [{"peer": "ADDRESS:PORT", "bytes": 1}, …]`.
pub fn bytes_from(figures: &Value, address: &str) -> u64 {
    let is_it = |peer: &&Value| {
        let peer = peer["peer"].as_str().and_then(|peer| peer.rsplit_once(':'));
        peer.is_some_and(|(ip, _)| ip == address)
    };
    let peers = figures["from"].as_array().map_or(&[][..], Vec::as_slice);
    peers.iter().filter(is_it).filter_map(|peer| peer["bytes"].as_u64()).sum()
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_added_up_over_the_ports_of_one_address() {
        let peer = |peer: &str, bytes: u64| serde_json::json!({"peer": peer, "bytes": bytes});
        let from = [peer("10.77.0.1:6881", 5), peer("10.77.0.1:9", 2), peer("10.77.0.2:1", 1)];
        let figures = serde_json::json!({"from": from});
        assert_eq!(bytes_from(&figures, "10.77.0.1"), 7);
        assert_eq!(bytes_from(&figures, "10.77.0.3"), 0);
    }
}
