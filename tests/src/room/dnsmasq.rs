//! Shell: a dnsmasq in a network of its own on the LAN: somebody else's server, as labs have them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::host::process::Running;
use crate::room::namespace::{Namespace, command_in};

/// A running dnsmasq; it ends with this value.
pub struct Dnsmasq {
    process: Running,
    namespace: Namespace,
}

impl Dnsmasq {
    /// Gives addresses, and not a word about booting.
    pub fn give_addresses(namespace: Namespace, folder: &Path) -> Result<Self> {
        let mut dnsmasq = quiet(&namespace);
        dnsmasq.args(["--dhcp-range=10.77.0.50,10.77.0.150,255.255.255.0,1h", "--no-ping"]);
        dnsmasq.args(["--dhcp-authoritative", "--log-dhcp"]);
        dnsmasq.arg(format!("--dhcp-leasefile={}", folder.join("dnsmasq-leases").display()));
        Self::start(namespace, dnsmasq, &folder.join("dnsmasq.log"))
    }

    /// Serves the files of `root` by TFTP.
    pub fn serve_tftp(namespace: Namespace, root: &Path, folder: &Path) -> Result<Self> {
        let mut dnsmasq = quiet(&namespace);
        dnsmasq.arg("--enable-tftp").arg(format!("--tftp-root={}", root.display()));
        Self::start(namespace, dnsmasq, &folder.join("dnsmasq-tftp.log"))
    }

    fn start(namespace: Namespace, dnsmasq: Command, log: &Path) -> Result<Self> {
        Ok(Self { process: Running::start("dnsmasq", dnsmasq, log)?, namespace })
    }

    /// Its process id.
    pub fn pid(&self) -> nix::unistd::Pid {
        self.process.pid()
    }

    /// Its network.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where it answers.
    pub fn address(&self) -> Ipv4Addr {
        self.namespace.address()
    }

    /// Fails, with its last words, when it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.check_running()
    }
}

/// No DNS, nothing of the machine's own configuration, in the foreground.
fn quiet(namespace: &Namespace) -> Command {
    let mut dnsmasq = command_in(namespace, "dnsmasq");
    dnsmasq.args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--pid-file="]);
    dnsmasq.args(["--user=root", "--interface=eth0", "--bind-interfaces", "--log-facility=-"]);
    dnsmasq
}
