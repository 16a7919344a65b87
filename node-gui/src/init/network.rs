//! Shell: the network of `/init`: the interface that the firmware booted from, link, address, and the server's URL.
//!
//! By sysfs, `ip` and udhcpc, which stays for as long as the node lives and renews its lease
//! (`/usr/share/udhcpc/default.script` writes `LEASE`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bt_catalog::{Cmdline, Mac};

use super::lease::{Lease, server_url};
use super::reaper::{Running, busybox, run};
use crate::journey::problem::{Problem, ProblemKind};

/// What udhcpc's script writes once there is an address.
const LEASE: &str = "/run/lease.env";
/// Where that script is in the initramfs.
const SCRIPT: &str = "/usr/share/udhcpc/default.script";
/// How long the interface may take to appear: USB adapters need a second or two.
const WAIT_INTERFACE: Duration = Duration::from_secs(15);
/// How long the link may take: spanning tree without portfast holds it back for 30 seconds.
const WAIT_LINK: Duration = Duration::from_secs(32);
/// How long the address may take, on top of udhcpc's own tries.
const WAIT_ADDRESS: Duration = Duration::from_secs(40);
/// How often sysfs and the lease file are checked.
const LOOK: Duration = Duration::from_millis(25);

/// A working network: this PC's address and where the server is.
#[derive(Debug)]
pub struct Network {
    /// The interface, for example `eth0`.
    pub interface: String,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// What DHCP said.
    pub lease: Lease,
    /// The server's base URL, without a slash at the end.
    pub server: String,
    /// Every interface that was brought up to look for a link, including the one that is used.
    raised: Vec<String>,
    dhcp: Running,
}

impl Network {
    /// Brings up the interface named by `BOOTIF=`, or the first one with a link, and gets its address.
    ///
    /// Takes up to a minute and reports what it waits for; for a thread that may block.
    ///
    /// # Errors
    /// Says which of interface, link, address or server is missing.
    pub fn up(line: &Cmdline, patience: &Patience<'_>) -> Result<Self, Problem> {
        ip(&["link", "set", "lo", "up"]);
        let (interface, raised) = interface_with_link(line.bootif, patience)?;
        (patience.say)("Requesting a network address.".to_owned());
        let (lease, dhcp) = address(&interface, patience)?;
        let server = server_url(line.server.as_deref(), &lease).ok_or_else(no_server_known)?;
        let mac = read_mac(&interface);
        Ok(Self { interface, mac, lease, server, raised, dhcp })
    }

    /// Takes all interfaces down, as the next kernel expects them: one that is up keeps writing received packets into
    /// memory that is the next kernel's. The lease is kept: the next system has the same interface.
    pub fn down(self) {
        drop(self.dhcp);
        for name in &self.raised {
            ip(&["link", "set", name, "down"]);
        }
    }
}

/// How the waits of [`Network::up`] are reported and cancelled.
pub struct Patience<'a> {
    /// Receives what is waited for.
    pub say: &'a dyn Fn(String),
    /// Set when the network is no longer wanted.
    pub stop: &'a AtomicBool,
}

impl Patience<'_> {
    /// Polls until there is an answer, the time is over, or the wait is cancelled.
    fn wait<T>(&self, limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let began = now();
        loop {
            if let Some(answer) = look() {
                return Some(answer);
            }
            if self.stop.load(Ordering::Relaxed) || now().duration_since(began) >= limit {
                return None;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Waits for an interface and then for its link; returns the one that has it, and all that were brought up.
fn interface_with_link(
    wanted: Option<Mac>,
    patience: &Patience<'_>,
) -> Result<(String, Vec<String>), Problem> {
    let candidates = patience.wait(WAIT_INTERFACE, || {
        let found = interfaces(wanted);
        (!found.is_empty()).then_some(found)
    });
    let Some(candidates) = candidates else { return Err(no_interface(wanted)) };
    for name in &candidates {
        ip(&["link", "set", name, "up"]);
    }
    let began = now();
    let mut reported = 0;
    let linked = patience.wait(WAIT_LINK, || {
        let waited = now().duration_since(began).as_secs();
        if waited > reported {
            reported = waited;
            (patience.say)(format!(
                "Waiting for the network cable at {} ({waited} s).",
                candidates.join(", ")
            ));
        }
        // With no interface named, one that appears late counts too.
        let now = if wanted.is_some() { candidates.clone() } else { interfaces(None) };
        now.into_iter().find(|name| has_link(name))
    });
    let Some(interface) = linked else { return Err(no_link(&candidates)) };
    let mut raised = candidates;
    if !raised.contains(&interface) {
        raised.push(interface.clone());
    }
    Ok((interface, raised))
}

/// Starts udhcpc and waits for its lease.
fn address(interface: &str, patience: &Patience<'_>) -> Result<(Lease, Running), Problem> {
    fs::remove_file(LEASE).ok();
    let mut command = busybox("udhcpc");
    // -n: give up when the first round of -t tries brings nothing; -O 224: the server's URL.
    command.args(["-f", "-n", "-i", interface, "-s", SCRIPT, "-t", "10", "-T", "2", "-O", "224"]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut dhcp = Running::start(&mut command).map_err(|error| {
        Problem::internal(format!("cannot start udhcpc: {error}; is BusyBox in the initramfs?"))
    })?;
    let lease = patience.wait(WAIT_ADDRESS, || {
        if let Ok(text) = fs::read_to_string(LEASE) {
            return Some(Some(Lease::parse(&text)));
        }
        dhcp.has_ended().then_some(None)
    });
    match lease.flatten() {
        Some(lease) => Ok((lease, dhcp)),
        None => Err(no_address(interface)),
    }
}

/// The interfaces to use: the one with this MAC address, or all of them.
fn interfaces(wanted: Option<Mac>) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| match wanted {
            Some(mac) => read_mac(name) == Some(mac),
            // Type 1 is Ethernet (`ARPHRD_ETHER`); a bridge or a tunnel has no device behind it.
            None => net_file(name, "device").exists() && read(name, "type").as_deref() == Some("1"),
        })
        .collect();
    names.sort();
    names
}

fn net_file(interface: &str, file: &str) -> PathBuf {
    Path::new("/sys/class/net").join(interface).join(file)
}

fn read(interface: &str, file: &str) -> Option<String> {
    Some(fs::read_to_string(net_file(interface, file)).ok()?.trim().to_owned())
}

fn read_mac(interface: &str) -> Option<Mac> {
    read(interface, "address")?.parse().ok()
}

fn has_link(interface: &str) -> bool {
    read(interface, "carrier").as_deref() == Some("1")
}

fn ip(arguments: &[&str]) {
    match run(busybox("ip").args(arguments)) {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            tracing::warn!(?arguments, error = %said.trim(), "ip failed");
        }
        Err(error) => tracing::warn!(%error, "cannot run ip"),
    }
}

#[expect(clippy::disallowed_methods, reason = "a shell that waits for hardware")]
fn now() -> Instant {
    Instant::now()
}

fn no_interface(wanted: Option<Mac>) -> Problem {
    let (why, detail) = match wanted {
        Some(mac) => (
            "There is no driver for the network interface that this PC booted from.",
            format!("no network interface has the MAC address {mac} of BOOTIF="),
        ),
        None => (
            "No network interface with a driver was found.",
            "no Ethernet interface in /sys/class/net".to_owned(),
        ),
    };
    Problem::new(
        ProblemKind::NoNetwork,
        "No network interface",
        why,
        "Restart the PC. If this keeps happening, tell your supervisor which PC it is.",
        detail,
    )
}

fn no_link(interfaces: &[String]) -> Problem {
    Problem::new(
        ProblemKind::NoNetwork,
        "The network cable is not connected",
        "This PC sees no signal on its network cable.",
        "Check the cable at the PC and at the wall, then try again.",
        format!("no link on {} after {} s", interfaces.join(", "), WAIT_LINK.as_secs()),
    )
}

fn no_address(interface: &str) -> Problem {
    Problem::new(
        ProblemKind::NoNetwork,
        "No network address",
        "The cable works, but no DHCP server assigned this PC an address.",
        "Try again. If this keeps happening, tell your supervisor.",
        format!("udhcpc got no lease on {interface}"),
    )
}

fn no_server_known() -> Problem {
    Problem::new(
        ProblemKind::NoServer,
        "This PC does not know its server",
        "Neither the boot loader nor DHCP named the lab's server.",
        "Tell your supervisor.",
        "no bt.server= on the command line, no DHCP option 224, no boot server address",
    )
}
