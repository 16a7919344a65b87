//! The program as a supervisor uses it: a lab folder, a server in the background, edits.
//!
//! Each server runs in a network of its own (`unshare -n`), where it has the loopback interface and
//! every port; as root, or as anybody where user namespaces are allowed.

use std::fs;
use std::ops::Deref;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bt_server::status::Snapshot;

use crate::bench::{ENTRY, Lab, PROGRAM, text};

const SERVER: &str = "name = \"A1\"\ninterface = \"lo\"\n[dhcp]\nmode = \"off\"\n";
/// An edit is live within seconds; a busy machine may need more.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lab whose server has the loopback interface only.
struct Bench(Lab);

impl Deref for Bench {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Bench {
    /// A lab with one system.
    fn new() -> Self {
        Self(Lab::new(SERVER))
    }

    fn in_own_network(&self, script: &str) -> Output {
        self.in_network("-c", &format!("ip link set lo up && {script}"))
    }

    fn start(&self) {
        let output = self.in_own_network("$BT start");
        assert!(output.status.success(), "{output:?}");
        let words = text(&output.stdout);
        assert!(words.starts_with("A1 is ready on lo (127.0.0.1)"), "{words}");
    }

    fn snapshot(&self) -> Snapshot {
        let output = self.run(&["status", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("a snapshot")
    }

    /// Waits until the table shows what `is_so` wants, and returns it.
    fn wait_for(&self, what: &str, is_so: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let started = now();
        loop {
            let snapshot = self.snapshot();
            if is_so(&snapshot) {
                return snapshot;
            }
            assert!(started.elapsed() < PATIENCE, "{what} did not happen: {snapshot:#?}");
            sleep(Duration::from_millis(100));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test that waits for a process")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_server_is_started_and_stopped_as_often_as_one_likes() {
    let bench = Bench::new();
    assert_eq!(text(&bench.run(&["stop"]).stdout), "not running");
    assert_eq!(bench.run(&["status"]).status.code(), Some(3));
    bench.start();
    let pid = bench.snapshot().pid;
    let again = bench.in_own_network("$BT start");
    assert_eq!(again.status.code(), Some(0));
    assert_eq!(text(&again.stdout), format!("bt-server is already running (process {pid})"));
    let status = text(&bench.run(&["status"]).stdout);
    assert!(status.contains("System A") && status.contains("http  up"), "{status}");
    assert_eq!(text(&bench.run(&["stop"]).stdout), format!("stopped (process {pid})"));
    assert_eq!(text(&bench.run(&["stop"]).stdout), "not running");
    assert_eq!(bench.run(&["stop"]).status.code(), Some(0));
    assert!(fs::read_to_string(bench.path("state/log")).expect("a log").contains("stopped"));
}

#[test]
fn a_killed_server_leaves_nothing_in_the_way() {
    let bench = Bench::new();
    bench.start();
    let first = bench.snapshot();
    let killed = Command::new("kill").args(["-9", &first.pid.to_string()]).status();
    assert!(killed.expect("kill runs").success());
    let started = now();
    while bench.run(&["status"]).status.code() != Some(3) {
        assert!(started.elapsed() < PATIENCE, "a killed server still seems to run");
    }
    bench.start();
    let second = bench.snapshot();
    assert!(second.catalog.version > first.catalog.version);
    let log = fs::read_to_string(bench.path("state/log")).expect("a log");
    assert_eq!(log.matches("hashing").count(), 1, "hashed again: {log}");
}

#[test]
fn a_foreground_server_ends_cleanly_on_a_signal() {
    let bench = Bench::new();
    let script = "$BT start --foreground & sleep 0.2; \
        until $BT status | grep -q '^Catalog'; do sleep 0.1; done >/dev/null; kill -TERM $!; wait $!";
    let output = bench.in_own_network(script);
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("A1 is ready on lo") && log.contains("stopped"), "{log}");
}

/// As on a full disk: what cannot be logged is lost, and nothing else.
#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let bench = Bench::new();
    let script = "export RUST_LOG=debug; $BT start --foreground 2>/dev/full & sleep 0.2; \
        for i in $(seq 100); do $BT status | grep -q '^Catalog' && break; sleep 0.1; done; \
        for i in $(seq 50); do \
        curl -sf -m 5 -o /dev/null http://127.0.0.1:6969/keys.toml && echo answered; done; \
        kill -TERM $!; wait $!";
    let output = bench.in_own_network(script);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout).matches("answered").count(), 50, "{output:?}");
}

#[test]
fn a_taken_port_is_told_with_its_holder() {
    let (first, second) = (Bench::new(), Bench::new());
    let script = format!("$BT start && {PROGRAM} --lab {} start", second.folder().display());
    let output = first.in_own_network(&script);
    assert_eq!(output.status.code(), Some(1));
    let (words, pid) = (text(&output.stderr), first.snapshot().pid);
    assert!(words.contains("TCP port 6969, but bt-server"), "{words}");
    assert!(words.contains(&pid.to_string()), "{words}");
}

#[test]
fn each_reason_not_to_start_is_told_in_words() {
    let bench = Bench::new();
    let refused = |part: &str| {
        let output = bench.in_own_network("$BT start");
        let words = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains(part), "{words}");
        assert_eq!(bench.run(&["check"]).status.code(), Some(1), "{words}");
    };
    bench.write("catalog/a.toml", format!("{ENTRY}min_rma = \"1 GiB\"\n"));
    refused("catalog/a.toml, line 3, column 1: unknown field `min_rma`");
    bench.write("catalog/a.toml", "name = \"A\"\nkernel = \"images/a/bzImage\"\n");
    refused("catalog/a.toml: its kernel images/a/bzImage does not exist");
    bench.write("catalog/a.toml", ENTRY);
    bench.write("server.toml", "interface = \"lo\"\n[dhcp]\nmode = \"of\"\n");
    refused("server.toml, line 3, column 8: unknown mode `of`");
    bench.write("server.toml", "interface = \"eth99\"\n[dhcp]\nmode = \"off\"\n");
    refused("no network interface `eth99`; this machine has lo");
    bench.write(
        "server.toml",
        "interface = \"lo\"\n[dhcp]\nmode = \"full\"\nrange = \"10.0.0.5-10.0.0.9\"\n",
    );
    refused("the range 10.0.0.5-10.0.0.9 is not inside the interface's network 127.0.0.0/8");
    bench.write("server.toml", SERVER);
    let chmod = Command::new("chmod").arg("644").arg(bench.path("keys/signing.key")).status();
    assert!(chmod.expect("chmod runs").success());
    refused("chmod 600");
}

#[test]
fn an_edit_is_live_within_seconds_and_a_bad_one_changes_nothing() {
    let bench = Bench::new();
    bench.start();
    bench.write("catalog/a.toml", "name = \"Better name\"\nkernel = \"images/a/vmlinuz\"\n");
    let good = bench.wait_for("the new name", |s| s.systems[0].name == "Better name");
    bench.write("catalog/b.toml", "name = \"B\"\n");
    let bad = bench.wait_for("the refusal", |s| s.edit_refused.is_some());
    let why = bad.edit_refused.expect("just seen");
    assert!(why.starts_with("catalog/b.toml, line 1, column 1: missing field `kernel`"), "{why}");
    assert_eq!(bad.catalog, good.catalog);
    bench.write("catalog/b.toml", ENTRY);
    let both = bench.wait_for("the second system", |s| s.systems.len() == 2);
    assert_eq!(both.edit_refused, None);
}

#[test]
fn a_replaced_image_is_published_when_it_is_whole() {
    let bench = Bench::new();
    bench.start();
    let old = bench.snapshot().systems[0].infohash.clone();
    fs::write(bench.path("images/a/new"), "another kernel").expect("written");
    fs::rename(bench.path("images/a/new"), bench.path("images/a/vmlinuz")).expect("swapped");
    bench.wait_for("the new image", |s| s.systems.len() == 1 && s.systems[0].infohash != old);
    let log = fs::read_to_string(bench.path("state/log")).expect("a log");
    assert!(log.contains("shared for an hour longer"), "{log}");
}

#[test]
fn check_tells_all_mistakes_at_once() {
    let bench = Bench::new();
    bench.write("catalog/b.toml", "name = 5\n");
    bench.write("catalog/c.toml", "name = \"C\"\nkernel = \"images/c/vmlinuz\"\n");
    let output = bench.run(&["check"]);
    let words = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{words}");
    for part in ["ERROR catalog/b.toml, line 1", "ERROR catalog/c.toml", "note  boot files"] {
        assert!(words.contains(part), "{part} is missing: {words}");
    }
    assert!(words.ends_with("the server cannot start: 2 errors"), "{words}");
}

#[test]
fn a_second_init_adds_only_what_is_missing() {
    let bench = Bench::new();
    let key = fs::read(bench.path("keys/root.key")).expect("made");
    fs::remove_file(bench.path("images/README")).expect("removed");
    let output = bench.run(&["init", "--kernel", "/nowhere"]);
    let words = text(&output.stdout);
    assert!(
        words.contains("kept  server.toml") && words.contains("made  images/README"),
        "{words}"
    );
    assert!(words.contains("What to do next"), "{words}");
    assert_eq!(fs::read(bench.path("keys/root.key")).expect("there"), key);
    assert_eq!(fs::read_to_string(bench.path("server.toml")).expect("there"), SERVER);
}

#[test]
fn the_stock_minisign_tool_accepts_the_catalog() {
    let bench = Bench::new();
    bench.start();
    let verified = Command::new("minisign")
        .arg("-V")
        .arg("-p")
        .arg(bench.path("keys/signing.pub"))
        .arg("-m")
        .arg(bench.path("state/published/catalog.toml"))
        .output()
        .expect("minisign runs (Debian package minisign)");
    assert!(verified.status.success(), "{verified:?}");
}
