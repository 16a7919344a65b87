//! Each role as a process of its own, with the rights of the lab's owner, and the doctor as the PC
//! that goes through all of them.
//!
//! Everything happens in a network of its own (`unshare -n`) with a card that is plugged in: one end
//! of a virtual cable. As anybody but root, user namespaces must be allowed.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{ENTRY, Lab, text};

const SERVER: &str = "name = \"A1\"\ninterface = \"bt0\"\n[dhcp]\nmode = \"full\"\nrange = \"10.77.0.50-10.77.0.99\"\n";
/// Debian's `nobody`.
const NOBODY: u32 = 65_534;

/// A lab whose server has a card that is plugged in.
struct Bench(Lab);

impl Deref for Bench {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Bench {
    /// A lab with one system, and boot files that trust it.
    fn new() -> Self {
        let bench = Self(Lab::new(SERVER));
        fs::create_dir_all(bench.path("state/boot")).expect("made");
        bench.write("state/boot/vmlinuz", "the small Linux");
        let key = fs::read(bench.path("keys/root.pub")).expect("made by init");
        bench.write("state/boot/initrd.img", zstd::encode_all(&key[..], 1).expect("in memory"));
        bench
    }

    fn in_own_network(&self, script: &str) -> Output {
        let network = "ip link set lo up && ip link add bt0 type veth peer name bt1 && \
            ip addr add 10.77.0.1/24 dev bt0 && ip link set bt0 up && ip link set bt1 up";
        self.in_network("-ec", &format!("{network}\n{script}"))
    }

    /// Gives everything to `uid`, as a supervisor who is not root has it.
    fn give_to(&self, uid: u32) {
        fn give(path: &Path, uid: u32) {
            chown(path, Some(uid), Some(uid)).expect("root may");
            if path.is_dir() {
                for entry in fs::read_dir(path).expect("readable") {
                    give(&entry.expect("readable").path(), uid);
                }
            }
        }
        give(self.folder(), uid);
    }
}

/// The observations about `part`, with their verdicts.
fn of_part(diagnosis: &Value, part: &str) -> Vec<(String, String)> {
    let word = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    let all = diagnosis["observations"].as_array().expect("a list");
    let of_part = all.iter().filter(|it| it["part"] == part);
    of_part.map(|it| (word(it, "verdict"), word(it, "what"))).collect()
}

const FOUR: &str =
    "for role in seed http tftp dhcp; do $BT start --roles $role >&2; done\n$BT doctor --json\n";

#[test]
fn a_pc_gets_through_four_processes() {
    let bench = Bench::new();
    let output = bench.in_own_network(FOUR);
    let words = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}\n{}", text(&output.stdout));
    assert!(words.contains("A1 (tftp) is ready on bt0 (10.77.0.1)"), "{words}");
    let diagnosis: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for part in ["dhcp", "BIOS", "UEFI", "HTTP Boot", "iPXE", "catalog", "system"] {
        let seen = of_part(&diagnosis, part);
        assert_eq!(seen.len(), 1, "{part}: {diagnosis}");
        assert_eq!(seen[0].0, "ok", "{part}: {seen:?}");
    }
    let way = &of_part(&diagnosis, "UEFI")[0].1;
    for file in ["10.77.0.5", "snponly.efi", "by TFTP, boot.ipxe, vmlinuz", "initrd.img"] {
        assert!(way.contains(file), "{way}");
    }
    let running = bench.run(&["status", "--json"]);
    let running: Value = serde_json::from_slice(&running.stdout).expect("JSON");
    assert_eq!(running.as_array().map(Vec::len), Some(4), "{running}");
    let taken = bench.run(&["start", "--roles", "tftp,seed"]);
    assert!(text(&taken.stderr).contains("already running"), "{taken:?}");

    let one = bench.run(&["stop", "--roles", "tftp"]);
    assert!(text(&one.stdout).starts_with("stopped tftp (process"), "{one:?}");
    assert_eq!(text(&bench.run(&["stop", "--roles", "tftp"]).stdout), "not running");
    let others = text(&bench.run(&["stop"]).stdout);
    assert_eq!(others.lines().count(), 3, "{others}");
    assert_eq!(bench.run(&["status"]).status.code(), Some(3));
}

#[test]
fn a_seed_of_its_own_follows_what_is_published() {
    let bench = Bench::new();
    let script = "$BT start --roles seed >&2; $BT start --roles http >&2
        sleep 2; $BT status --roles seed --json";
    let output = bench.in_own_network(script);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let snapshot: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(snapshot["systems"][0]["id"], "a", "{snapshot}");
    bench.write("catalog/b.toml", ENTRY.replace("System A", "System B").as_bytes());
    for _ in 0..100 {
        let output = bench.run(&["status", "--roles", "seed", "--json"]);
        let snapshot: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        if snapshot["systems"].as_array().map(Vec::len) == Some(2) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the seed has not heard of the second system");
}

#[test]
fn what_root_starts_becomes_the_labs_owner_and_keeps_no_right() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can give a lab to somebody else");
        return;
    }
    let bench = Bench::new();
    bench.give_to(NOBODY);
    let script = format!(
        "cd {}\nfor role in http tftp seed dhcp; do $BT start --roles $role >&2\n\
         cat /proc/$(cat run/$role.pid)/task/*/status; echo ---; done; $BT doctor >&2",
        bench.path("state").display()
    );
    let output = bench.in_own_network(&script);
    let (status, words) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{words}");
    let shown: Vec<&str> = status.split_terminator("---").collect();
    assert_eq!(shown.len(), 4, "{status}");
    for status in shown {
        let of = |key: &str| -> Vec<&str> {
            status.lines().filter_map(|line| line.strip_prefix(key)).map(str::trim).collect()
        };
        for set in ["CapPrm:", "CapEff:"] {
            assert!(of(set).len() > 2, "{status}");
            assert!(of(set).iter().all(|bits| *bits == "0000000000000000"), "{status}");
        }
        assert!(of("NoNewPrivs:").iter().all(|is| *is == "1"), "{status}");
        let four = [NOBODY; 4].map(|uid| uid.to_string()).join("\t");
        assert!(of("Uid:").iter().all(|ids| *ids == four), "{status}");
    }
    for name in [
        "state/run/dhcp.pid",
        "state/run/dhcp.log",
        "state/leases",
        "state/run/dhcp.sock",
        "state/run",
    ] {
        let owner = fs::symlink_metadata(bench.path(name)).expect("is there").uid();
        assert_eq!(owner, NOBODY, "{name}");
    }
}

/// Another DHCP server at the other end of the cable.
const STRANGER: &str = "unshare --net sleep 60 & stranger=$!; sleep 0.5
    ip link set bt1 netns $stranger
    nsenter --target $stranger --net sh -c 'ip addr add 10.77.0.2/24 dev bt1; ip link set bt1 up
        exec dnsmasq --conf-file=/dev/null --port=0 --interface=bt1 --bind-interfaces --no-ping \
        --dhcp-range=10.77.0.200,10.77.0.220 --dhcp-leasefile=/dev/null --user=root \
        --no-daemon >/dev/null 2>&1' & dhcp=$!";

#[test]
fn a_foreign_server_that_comes_later_is_told_of_without_any_right() {
    let bench = Bench::new();
    if nix::unistd::geteuid().is_root() {
        bench.give_to(NOBODY);
    }
    // The first round of 8 s sees nobody; a round after it does.
    let script = format!(
        "$BT start --roles dhcp >&2; sleep 9; $BT status --json; echo ---\n{STRANGER}\n\
         set +e; for i in $(seq 50); do $BT status --json | grep -q 'another DHCP server' && break
         sleep 1; done; grep CapEff /proc/$(cat $PID)/status; $BT status --json\n\
         kill $dhcp $stranger; exit 0"
    );
    let script = format!("export PID={}\n{script}", bench.path("state/run/dhcp.pid").display());
    let output = bench.in_own_network(&script);
    let (shown, words) = (text(&output.stdout), text(&output.stderr));
    let (before, after) = shown.split_once("---").expect(&words);
    let told = "another DHCP server, 10.77.0.2, assigns addresses here";
    assert!(!before.contains("another DHCP server"), "{before}");
    assert!(after.contains(told), "{after} {words}");
    assert!(after.contains("CapEff:\t0000000000000000"), "{after}");
}

#[test]
fn a_lab_that_its_owner_cannot_read_is_told_with_the_cure() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can give a lab to somebody else");
        return;
    }
    let bench = Bench::new();
    bench.give_to(NOBODY);
    chown(bench.path("keys/signing.key"), Some(0), Some(0)).expect("root may");
    let output = bench.in_own_network("$BT start");
    let words = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("signing.key") && words.contains("chown -R"), "{words}");
}

#[test]
fn a_service_manager_hears_of_the_start_and_of_the_end() {
    let bench = Bench::new();
    let path = bench.path("notify");
    let manager = UnixDatagram::bind(&path).expect("binds");
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
    let script = format!(
        "export NOTIFY_SOCKET={} WATCHDOG_USEC=200000\n$BT start --foreground &\nserver=$!\n\
         until $BT status >/dev/null; do sleep 0.1; done; sleep 1; kill $server; wait $server",
        path.display()
    );
    let hearing = std::thread::spawn(move || {
        let mut heard: Vec<String> = Vec::new();
        let mut bytes = [0; 400];
        while heard.last().is_none_or(|last| last != "STOPPING=1") {
            let length = manager.recv(&mut bytes).expect("the next message");
            heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        heard
    });
    let output = bench.in_own_network(&script);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let heard = hearing.join().expect("everything was heard");
    assert!(
        heard.iter().any(|it| it.starts_with("READY=1\nSTATUS=A1 is ready on bt0")),
        "{heard:?}"
    );
    assert!(heard.iter().filter(|it| *it == "WATCHDOG=1").count() >= 3, "{heard:?}");
}

#[test]
fn connections_without_end_take_nothing_from_dhcp_and_tftp() {
    let bench = Bench::new();
    let host = "[[host]]\nmac = \"52:54:00:00:00:99\"\nname = \"s\"\nuefi_loader = \"shim-grub\"\n";
    bench.write("server.toml", format!("{SERVER}{host}").as_bytes());
    // More than its limit of open files; none of them says a word.
    let script = "prlimit --nofile=96 $BT start >&2; ulimit -n 4096
        exec bash -c 'for i in $(seq 2000); do exec {fd}<>/dev/tcp/10.77.0.1/6969; done
            set +e; $BT doctor --json; code=$?; ls /proc/$(cat $PID)/fd | wc -l >&2
            exit $code'";
    let script = format!("export PID={}\n{script}", bench.path("state/pid").display());
    let output = bench.in_own_network(&script);
    let words = text(&output.stderr);
    let diagnosis: Value = serde_json::from_slice(&output.stdout).expect(&words);
    assert_eq!(output.status.code(), Some(1), "HTTP is full: {diagnosis} {words}");
    // It needs DHCP and TFTP, up to the last byte of the initramfs.
    let way = of_part(&diagnosis, "Secure Boot");
    assert_eq!(way[0].0, "ok", "{way:?} {words}");
    // Half of the 96 for HTTP, the rest not used up: or accept(2) fails again and again.
    let open: usize = words.lines().last().and_then(|it| it.parse().ok()).expect(&words);
    assert!((48..90).contains(&open), "{words}");
    let log = fs::read_to_string(bench.path("state/log")).expect("it ran in the background");
    assert!(log.contains("ready") && !log.contains("cannot accept"), "{log}");
}

#[test]
fn the_doctor_names_what_is_wrong_and_what_helps() {
    let bench = Bench::new();
    let output = bench.in_own_network("$BT doctor --json");
    let diagnosis: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(0), "{diagnosis}");
    assert_eq!(of_part(&diagnosis, "server")[0].0, "warn", "no server runs");
    assert_eq!(of_part(&diagnosis, "ports")[0].0, "ok");

    let rules = "add table inet f; add chain inet f input { type filter hook input priority 0; }; \
        add rule inet f input udp dport 69 drop";
    let script = format!("nft '{rules}'\nip link set bt1 down\n$BT doctor");
    let output = bench.in_own_network(&script);
    let words = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{words}{}", text(&output.stderr));
    for part in ["nothing is plugged in", "TFTP on udp port 69 seems to be closed", "-> let it in"]
    {
        assert!(words.contains(part), "{part} is missing:\n{words}");
    }

    let script = format!(
        "{STRANGER}\nsleep 1; set +e; $BT doctor; code=$?; kill $dhcp $stranger; exit $code"
    );
    let output = bench.in_own_network(&script);
    let words = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{words}{}", text(&output.stderr));
    assert!(words.contains("another DHCP server assigns addresses here: 10.77.0.2"), "{words}");
}

/// One more card, and a firewall that lets in what PCs ask for, and nothing else.
const FIREWALL: &str = "ip link add bt2 type veth peer name bt3; ip addr add 10.78.0.1/24 dev bt2
    ip link set bt2 up; ip link set bt3 up
    nft 'add table inet f; add chain inet f input { type filter hook input priority 0; policy drop; }
        add rule inet f input iifname lo accept; add rule inet f input udp dport { 67, 69 } accept
        add rule inet f input iifname bt0 tcp dport 1-65535 accept'";

#[test]
fn the_doctor_goes_by_every_card_and_hears_behind_the_machines_own_firewall() {
    let bench = Bench::new();
    let subnet = "[[dhcp.subnet]]\nnetwork = \"10.78.0.0/24\"\nrange = \"10.78.0.50-10.78.0.99\"\n";
    let two = SERVER.replace("\"bt0\"", "[\"bt0\", \"bt2\"]") + subnet;
    bench.write("server.toml", two.as_bytes());
    let script = format!("{FIREWALL}\n$BT start >&2; set +e; $BT doctor >&2; $BT doctor --json");
    let output = bench.in_own_network(&script);
    let words = text(&output.stderr);
    let diagnosis: Value = serde_json::from_slice(&output.stdout).expect(&words);
    let starts = |part: &str, expected: &[(&str, &str)]| {
        let seen = of_part(&diagnosis, part);
        assert_eq!(seen.len(), expected.len(), "{part}: {seen:?}");
        for ((verdict, what), (wanted, start)) in seen.iter().zip(expected) {
            assert!(verdict == wanted && what.starts_with(start), "{part}: {seen:?}");
        }
    };
    starts("link", &[("ok", "bt0 has "), ("ok", "bt2 has ")]);
    starts("dhcp", &[("ok", "bt0: no other"), ("ok", "bt2: no other")]);
    starts("UEFI", &[("ok", "bt0: 10.77.0."), ("ok", "bt2: 10.78.0.")]);
    starts("port 68", &[("warn", "bt0: DHCP answers arrive"), ("warn", "bt2: DHCP answers")]);
    let closed = [("ok", "bt0: no rule"), ("fail", "bt2: HTTP on "), ("fail", "bt2: seed on ")];
    starts("firewall", &closed);
    // Twice four PCs on each of two networks: no more leases than one look needs, and no row.
    let leases = fs::read(bench.path("state/leases")).expect("there");
    let leases = String::from_utf8_lossy(&leases);
    let mut ips: Vec<_> = leases.lines().filter_map(|line| line.split(' ').nth(3)).collect();
    ips.sort_unstable();
    ips.dedup();
    assert_eq!(ips.len(), 8, "{leases}");
    let status = text(&bench.run(&["status"]).stdout);
    assert!(status.contains("dhcp  up  bt0 and bt2 give 10.77.0.50"), "{status}");
    assert!(status.contains("No PC seen yet"), "{status}");
}

#[test]
fn a_role_that_was_killed_is_told_until_it_is_started_anew() {
    let bench = Bench::new();
    let script = format!(
        "for role in seed dhcp; do $BT start --roles $role >&2; done; kill -9 $(cat {0})
         for i in $(seq 50); do $BT status | grep -q 'not running' && break; sleep 0.1; done
         $BT status; echo ---
         $BT start --roles dhcp >&2; $BT status",
        bench.path("state/run/dhcp.pid").display()
    );
    let output = bench.in_own_network(&script);
    let (shown, words) = (text(&output.stdout), text(&output.stderr));
    let (killed, again) = shown.split_once("---").expect(&words);
    assert!(killed.starts_with("dhcp  not running (process "), "{killed}");
    assert!(killed.contains("`bt-server start --roles dhcp`"), "{killed}");
    assert!(!again.contains("not running"), "{again}");
    let (dhcp, seed) = (again.find("  dhcp  up"), again.find("  seed  up"));
    assert!(dhcp.is_some() && dhcp < seed, "in the order of a boot: {again}");
    assert_eq!(again.matches("no catalog yet").count(), 1, "the seed waits for one: {again}");
}
