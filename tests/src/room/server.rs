//! Shell: `bt-server` as it ships, started for one scenario.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use crate::host::clock;
use crate::host::http;
use crate::host::process::{Running, command, tail};
use crate::room::addresses::SERVER;
use crate::room::sample::SampleLab;

/// Where catalog, boot files and tracker are served.
pub const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(SERVER), 6969);
/// Until all sockets are bound and the catalog is signed; the first start hashes the images.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A running server; it ends with this value.
pub struct Server {
    process: Running,
    log: PathBuf,
}

impl Server {
    /// Starts `bt-server start --foreground` in the lab folder and waits until it serves.
    pub fn start(program: &Path, lab: &SampleLab, log: &Path) -> Result<Self> {
        let mut start = server_command(program, lab);
        start.args(["start", "--foreground"]);
        let process = Running::start("bt-server", start, log)?;
        let mut server = Self { process, log: log.to_owned() };
        clock::wait_for("bt-server to serve", READY_LIMIT, || {
            server.process.check_running()?;
            Ok(http::get(HTTP, "/catalog.toml").ok())
        })?;
        Ok(server)
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Fails when it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.check_running()
    }

    /// Everything it has logged.
    pub fn logged(&self) -> String {
        self.process.printed()
    }

    /// Adds the last lines of the server's log to a failure.
    pub fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| {
            let lines = tail(&self.logged(), 25);
            format!("the server's log ({}), last lines:\n{lines}\n", self.log.display())
        })
    }
}

/// A `bt-server` command about the lab.
pub fn server_command(program: &Path, lab: &SampleLab) -> Command {
    let mut server = command(program);
    server.arg("--lab").arg(lab.folder());
    server
}
