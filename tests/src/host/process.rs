//! Shell: child processes that never outlive the lab.
//!
//! Each child is killed by the kernel when the lab dies (`PR_SET_PDEATHSIG`), and by [`Running`]'s
//! drop when its scenario ends. Commands are only started from the main thread, since the death
//! signal follows the thread that started the child (prctl(2)).

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::clock;

/// How long a process may take to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A command that is killed when the lab dies, with the system folders on its search path
/// (an ordinary user's `PATH` lacks `/usr/sbin`, where `ip` and `depmod` live).
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path());
    // SAFETY: prctl(2) is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        });
    }
    command
}

/// `PATH` with the system folders added.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

/// Whether `program` can be found.
pub fn is_installed(program: &str) -> bool {
    search_path().split(':').any(|folder| Path::new(folder).join(program).is_file())
}

/// Runs a short command to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or fails; the message has the complete command and its output.
pub fn run(mut command: Command) -> Result<String> {
    let output = output(&mut command)?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}{}",
            shown(&command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim(),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a short command to its end, whatever its exit code says.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot run {}", shown(command)))?;
    clock::check_interrupted()?;
    Ok(output)
}

/// Runs a command whose progress the person at the screen should see.
pub fn run_visibly(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", shown(&command)))?;
    clock::check_interrupted()?;
    if !status.success() {
        bail!("{} failed ({status})", shown(&command));
    }
    Ok(())
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A process that runs alongside the lab and ends with its owner.
pub struct Running {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Running {
    /// Starts `command` with both its outputs in the file `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let again = file.try_clone().context("cannot share the log file")?;
        command.stdin(Stdio::null()).stdout(file).stderr(again);
        Self::spawn(name, command, log)
    }

    /// Starts `command`, whose inputs and outputs are set; somebody writes what it prints to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot run {}", shown(&command)))?;
        Ok(Self { child, name: name.into(), log: log.into() })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Fails, with its last words, when it has ended although it should still run.
    pub fn check_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} exited ({status}); its last output:\n{}",
                self.name,
                tail(&self.printed(), 15)
            );
        }
        Ok(())
    }

    /// Waits until it ends by itself, and says whether it was content.
    pub fn wait(&mut self, limit: Duration) -> Result<bool> {
        let name = self.name.clone();
        let status =
            clock::wait_for(&format!("{name} to exit"), limit, || Ok(self.child.try_wait()?))?;
        Ok(status.success())
    }

    /// Whether it was content, once it has ended.
    pub fn end(&mut self) -> Result<Option<bool>> {
        Ok(self.child.try_wait()?.map(|status| status.success()))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Running {
    /// Asks it to end, waits a little, then insists. Failures have nobody left to read them.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        kill(self.pid(), Signal::SIGTERM).ok();
        let end = clock::now() + GRACE;
        while clock::now() < end {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What the kernel has charged to a process and all its threads (proc_pid_stat(5), 14 and 15), in
/// steps of 10 ms.
pub fn cpu(process: Pid) -> Result<Duration> {
    clock::check_interrupted()?;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))
        .context("the server has exited; see its log for the cause")?;
    // The name in brackets may hold spaces; the fields after it begin with the third.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat has an unknown format")?;
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().context("/proc/PID/stat has an unknown format"))
        .sum::<Result<u64>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// The machine's load average of the last minute; NaN where it cannot be read.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

/// The last `count` lines of a text.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }

    #[test]
    fn a_failed_command_is_quoted_with_its_output() {
        let mut failing = command("sh");
        failing.args(["-c", "echo no luck >&2; exit 3"]);
        let text = run(failing).expect_err("it exits with 3").to_string();
        assert!(text.contains("no luck"), "{text}");
        assert!(text.contains("exit status: 3"), "{text}");
    }

    #[test]
    fn a_dropped_process_has_ended() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut sleeper = command("sleep");
        sleeper.arg("60");
        let running = Running::start("sleep", sleeper, &folder.path().join("log")).expect("starts");
        let pid = running.pid();
        drop(running);
        assert!(kill(pid, None).is_err(), "the process still exists");
    }
}
