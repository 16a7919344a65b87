//! Shell: the server's life in the background, as a supervisor handles it.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::clock;
use crate::host::http;
use crate::host::process::output;
use crate::room::addresses::SERVER;
use crate::room::sample::SampleLab;
use crate::room::server::{HTTP, server_command};
use crate::room::testbed::Testbed;

/// `status` says so when the server does not run.
const NOT_RUNNING: i32 = 3;

pub fn run(testbed: &mut Testbed) -> Result<String> {
    let lab = testbed.sample_lab("daemon")?;
    let cli = Cli { program: &testbed.programs.server, lab: &lab };
    let _stopper = Stopper(&cli);
    cli.expect("status", NOT_RUNNING, &[])?;
    cli.expect("stop", 0, &[])?;
    cli.expect("check", 0, &[])?;

    let taken = TcpListener::bind((SERVER, HTTP.port())).context("cannot take the port")?;
    let own_pid = std::process::id().to_string();
    cli.expect("start", 1, &["6969", &own_pid])?;
    drop(taken);

    cli.expect("start", 0, &[])?;
    http::get(HTTP, "/catalog.toml").context("start returned, but the server does not answer")?;
    cli.expect("status", 0, &[])?;
    let first = cli.pid()?;
    let (_, again) = cli.call("start")?;
    ensure!(cli.pid()? == first, "a second start changed the server: {again}");

    kill(first, Signal::SIGKILL).context("cannot kill the server")?;
    clock::wait_for("the killed server to exit", Duration::from_secs(5), || {
        Ok(http::get(HTTP, "/catalog.toml").is_err().then_some(()))
    })?;
    cli.expect("status", NOT_RUNNING, &[])?;
    cli.expect("start", 0, &[])?;
    let second = cli.pid()?;
    ensure!(second != first, "status still shows the killed server's process id");

    cli.expect("stop", 0, &[])?;
    cli.expect("status", NOT_RUNNING, &[])?;
    cli.expect("stop", 0, &[])?;

    // A process id left behind by a machine that went down belongs to somebody else now.
    std::fs::write(lab.folder().join("state/pid"), format!("{own_pid}\n"))?;
    cli.expect("status", NOT_RUNNING, &[])?;
    cli.expect("start", 0, &[])?;
    cli.expect("stop", 0, &[])?;
    Ok("the process that holds a taken port is named; starting and stopping twice, a killed server \
        and a stale pid file are all handled"
        .into())
}

/// The server's command line, used on one lab.
struct Cli<'a> {
    program: &'a std::path::Path,
    lab: &'a SampleLab,
}

impl Cli<'_> {
    /// Runs one command; returns its exit code and all it said.
    fn call(&self, action: &str) -> Result<(i32, String)> {
        let mut command = server_command(self.program, self.lab);
        command.args(action.split(' '));
        let output = output(&mut command)?;
        let said = [output.stdout, output.stderr].concat();
        let code = output.status.code().context("it was killed")?;
        Ok((code, String::from_utf8_lossy(&said).trim().to_owned()))
    }

    /// Runs one command that must end with `code` and say all of `words`.
    fn expect(&self, action: &str, code: i32, words: &[&str]) -> Result<()> {
        let (got, said) = self.call(action)?;
        ensure!(
            got == code,
            "`bt-server {action}` exited with {got} instead of {code}; its output: {said}"
        );
        for word in words {
            ensure!(said.contains(word), "the output of `bt-server {action}` lacks {word}: {said}");
        }
        ensure!(!said.is_empty(), "`bt-server {action}` prints nothing");
        Ok(())
    }

    /// The running server's process id, by its own word.
    fn pid(&self) -> Result<Pid> {
        let (code, said) = self.call("status --json")?;
        ensure!(code == 0, "the server is not running: {said}");
        let status: serde_json::Value = serde_json::from_str(&said).context("status --json")?;
        let pid = status["pid"].as_i64().context("status shows no process id")?;
        Ok(Pid::from_raw(i32::try_from(pid)?))
    }
}

/// Stops the server in the background, however the scenario ends.
struct Stopper<'a>(&'a Cli<'a>);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.call("stop").ok();
    }
}
