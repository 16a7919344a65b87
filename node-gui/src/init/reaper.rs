//! Shell: child processes of PID 1, its own and the orphans that the kernel hands to it.
//!
//! `waitpid(-1)` would steal the exit status of our own children from `std::process`, so the reaper peeks first
//! (`waitid(2)` with `WNOWAIT`) and skips the processes that were started here.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;

/// How often orphans are collected. A zombie costs one process table entry until then.
const REAP_EVERY: Duration = Duration::from_secs(2);

/// The processes that we started and will wait for.
static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// BusyBox with this applet, at its path in the initramfs.
#[must_use]
pub fn busybox(applet: &str) -> Command {
    let mut command = Command::new("/bin/busybox");
    command.arg(applet).stdin(Stdio::null());
    command
}

/// Runs the command to completion and returns its output.
///
/// # Errors
/// When it cannot be started or waited for.
pub fn run(command: &mut Command) -> io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = Running::start(command)?;
    child.output()
}

/// A child process; killed and waited for when dropped.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    pid: i32,
}

impl Running {
    /// Starts the command.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let mut own = OWN.lock();
        let child = command.spawn()?;
        let pid = child.id().cast_signed();
        own.insert(pid);
        Ok(Self { child: Some(child), pid })
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    fn output(mut self) -> io::Result<Output> {
        let child = self.child.take().expect("only taken here and in drop");
        child.wait_with_output()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take()
            && child.kill().is_ok()
        {
            child.wait().ok();
        }
        OWN.lock().remove(&self.pid);
    }
}

/// Collects orphans for as long as the process lives. Only for PID 1.
pub fn reap_forever() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(REAP_EVERY);
            reap();
        }
    });
}

/// Collects the orphans that have ended by now.
fn reap() {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // Bounded: each round collects one orphan or ends.
    for _ in 0..1024 {
        let own = OWN.lock();
        let pid = match waitid(Id::All, peek) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => pid,
            _ => return,
        };
        if pid == Pid::from_raw(0) || own.contains(&pid.as_raw()) {
            return;
        }
        if waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_returns_its_output_and_exit_status() {
        let said = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]));
        let said = said.expect("sh is on every machine");
        assert_eq!(said.stdout, b"out\n");
        assert_eq!(said.stderr, b"err\n");
        assert_eq!(said.status.code(), Some(3));
    }

    #[test]
    fn a_dropped_child_is_killed_and_reaped() {
        let mut child = Running::start(Command::new("sleep").arg("60")).expect("sleep starts");
        assert!(!child.has_ended());
        let pid = child.pid;
        drop(child);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        assert!(!OWN.lock().contains(&pid));
    }
}
