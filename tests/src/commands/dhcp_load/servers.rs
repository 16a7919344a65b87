//! Shell: the three DHCP servers, each with an empty lease file on the same disk.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use crate::host::cargo::Programs;
use crate::host::clock;
use crate::host::process::{Running, command, run};
use crate::room::addresses::BRIDGE;

/// The addresses that all of them assign.
const RANGE: (&str, &str) = ("10.123.16.0", "10.123.255.250");
/// Until they listen on port 67.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// dnsmasq: one fsync for each lease, of the complete file.
    Dnsmasq,
    /// BootTorrent's.
    BtServer,
    /// Kea with memfile: no fsync.
    Kea,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dnsmasq => "dnsmasq",
            Self::BtServer => "bt-server",
            Self::Kea => "kea",
        })
    }
}

/// A running server; it ends with this value.
pub struct Rival {
    process: Running,
    log: PathBuf,
    // Its files; removed with it.
    folder: tempfile::TempDir,
}

impl Rival {
    /// Starts it and waits until it listens. Its lease file lies where the log lies, since `/tmp`
    /// may be no disk.
    pub fn start(kind: Kind, programs: &Programs, kea: &Path, log: &Path) -> Result<Self> {
        let parent = log.parent().context("a log lies in a folder")?;
        let folder = tempfile::Builder::new().prefix("leases-").tempdir_in(parent)?;
        let command = match kind {
            Kind::Dnsmasq => dnsmasq(folder.path()),
            Kind::BtServer => bt_server(programs, folder.path())?,
            Kind::Kea => kea_dhcp4(kea, folder.path())?,
        };
        let mut process = Running::start(&kind.to_string(), command, log)?;
        clock::wait_for(&format!("{kind} to listen"), READY_LIMIT, || {
            process.check_running()?;
            Ok(listens()?.then_some(()))
        })?;
        Ok(Self { process, log: log.to_owned(), folder })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Lines in bt-server's lease log.
    pub fn lease_lines(&self) -> Result<usize> {
        let log = self.folder.path().join("lab/state/leases");
        let text =
            std::fs::read_to_string(&log).context("cannot read the lease log of bt-server")?;
        Ok(text.lines().count())
    }

    /// Where its log is.
    pub fn log(&self) -> String {
        self.log.display().to_string()
    }
}

/// Whether somebody has UDP port 67 of this network (0x43).
fn listens() -> Result<bool> {
    let sockets = std::fs::read_to_string("/proc/net/udp").context("cannot read /proc/net/udp")?;
    Ok(sockets
        .lines()
        .any(|line| line.split_whitespace().nth(1).is_some_and(|it| it.ends_with(":0043"))))
}

fn dnsmasq(folder: &Path) -> Command {
    let mut dnsmasq = command("dnsmasq");
    let (first, last) = RANGE;
    // No DNS, no ping before each offer: what it is slow at is the disk.
    dnsmasq.args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--bind-interfaces"]);
    dnsmasq.args(["--user=root", "--no-ping", "--quiet-dhcp", "--dhcp-authoritative"]);
    dnsmasq.args(["--dhcp-lease-max=61000", &format!("--interface={BRIDGE}")]);
    dnsmasq.arg(format!("--dhcp-range={first},{last},255.255.0.0,12h"));
    dnsmasq.arg(format!("--dhcp-leasefile={}", folder.join("leases").display()));
    dnsmasq.arg(format!("--pid-file={}", folder.join("pid").display()));
    dnsmasq
}

fn bt_server(programs: &Programs, folder: &Path) -> Result<Command> {
    let lab = folder.join("lab");
    let mut init = command(&programs.server);
    init.arg("init").arg(&lab).args(["--interface", BRIDGE]);
    run(init)?;
    let (first, last) = RANGE;
    let settings = format!(
        "name = \"Load\"\n\
         interface = \"{BRIDGE}\"\n\
         [dhcp]\n\
         mode = \"full\"\n\
         range = \"{first}-{last}\"\n\
         lease = \"12h\"\n"
    );
    std::fs::write(lab.join("server.toml"), settings).context("cannot write server.toml")?;
    let mut start = command(&programs.server);
    start.arg("--lab").arg(&lab).args(["start", "--foreground"]);
    Ok(start)
}

fn kea_dhcp4(root: &Path, folder: &Path) -> Result<Command> {
    let (first, last) = RANGE;
    let shown = folder.display();
    let settings = serde_json::json!({ "Dhcp4": {
        "interfaces-config": { "interfaces": [BRIDGE], "dhcp-socket-type": "udp" },
        "lease-database": {
            "type": "memfile", "persist": true, "name": format!("{shown}/leases4.csv"),
            "lfc-interval": 3600
        },
        "multi-threading": {
            "enable-multi-threading": true, "thread-pool-size": 2, "packet-queue-size": 16
        },
        "valid-lifetime": 43200,
        "subnet4": [{
            "subnet": "10.123.0.0/16", "pools": [{ "pool": format!("{first}-{last}") }]
        }],
        "loggers": [{
            "name": "kea-dhcp4", "severity": "WARN",
            "output_options": [{ "output": "stdout" }]
        }]
    }});
    let file = folder.join("kea.json");
    std::fs::write(&file, settings.to_string()).context("cannot write Kea's settings")?;
    let mut kea = command(root.join("usr/sbin/kea-dhcp4"));
    for name in ["KEA_PIDFILE_DIR", "KEA_LOCKFILE_DIR", "KEA_DHCP_DATA_DIR"] {
        kea.env(name, folder);
    }
    // Part of kea-common, like the libraries; it must exist, and has nothing to do here.
    kea.env("KEA_LFC_EXECUTABLE", "/usr/sbin/kea-lfc");
    kea.arg("-c").arg(file);
    Ok(kea)
}
