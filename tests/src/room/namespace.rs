//! Shell: a network namespace with one cable to the LAN, and what runs in it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

use crate::host::process::{command, run};

/// A network of its own, with one cable to the LAN.
pub struct Namespace {
    network: File,
    address: Ipv4Addr,
}

impl Namespace {
    /// A new network that takes the interface `cable` over as its `eth0`, with this address.
    pub fn with_cable(cable: &str, address: Ipv4Addr, prefix: u8) -> Result<Self> {
        let network = new_network()?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), network.as_raw_fd());
        ip(&format!("link set {cable} netns {path}"))?;
        let namespace = Self { network, address };
        namespace.ip("link set lo up")?;
        namespace.ip(&format!("link set {cable} name eth0"))?;
        namespace.ip(&format!("addr add {address}/{prefix} brd + dev eth0"))?;
        namespace.ip("link set eth0 up")?;
        Ok(namespace)
    }

    /// The namespace's descriptor, for setns(2).
    pub fn network(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }

    /// Its address on the LAN.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Gives it one more address on the LAN.
    pub fn add_address(&self, address: Ipv4Addr) -> Result<()> {
        self.ip(&format!("addr add {address}/24 dev eth0")).map(drop)
    }

    /// Runs ip(8) in it.
    pub fn ip(&self, words: &str) -> Result<String> {
        let mut ip = command_in(self, "ip");
        ip.args(words.split(' '));
        run(ip)
    }

    /// Limits what leaves `interface`.
    pub fn shape(&self, interface: &str, mbit: u32) -> Result<String> {
        run(tbf(command_in(self, "tc"), interface, mbit))
    }
}

/// A [`command`] in the network of `namespace`.
pub fn command_in(namespace: &Namespace, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = command(program);
    let network = namespace.network().as_raw_fd();
    // SAFETY: setns(2) is async-signal-safe; the caller's `namespace` outlives the spawn, so the
    // descriptor, which the fork copied, is open.
    unsafe {
        command.pre_exec(move || {
            let network = BorrowedFd::borrow_raw(network);
            setns(network, CloneFlags::CLONE_NEWNET)?;
            Ok(())
        });
    }
    command
}

/// Makes an empty network namespace that lives as long as its descriptor.
fn new_network() -> Result<File> {
    let thread = std::thread::spawn(|| -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make another network")?;
        File::open("/proc/thread-self/ns/net").context("cannot open the new network")
    });
    thread.join().expect("the thread only makes two system calls")
}

/// Runs ip(8) in the lab's own network.
pub fn ip(words: &str) -> Result<String> {
    let mut ip = command("ip");
    ip.args(words.split(' '));
    run(ip)
}

/// Limits what leaves `interface` of the lab's own network.
pub fn shape(interface: &str, mbit: u32) -> Result<String> {
    run(tbf(command("tc"), interface, mbit))
}

/// A token bucket on what leaves `interface`: 64 KiB are one burst, 50 ms the longest queue.
fn tbf(mut tc: std::process::Command, interface: &str, mbit: u32) -> Command {
    let words =
        format!("qdisc add dev {interface} root tbf rate {mbit}mbit burst 64kb latency 50ms");
    tc.args(words.split(' '));
    tc
}
