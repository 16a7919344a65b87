//! Shell: one process of an engine, with the moment at which it was done, its CPU and its memory.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::host::clock;
use crate::host::process::Running;

/// What a hook prints when its client is done.
pub const FINISHED: &str = "FINISHED";
/// What a client prints when it waits for the word to start.
const READY: &str = "READY";
/// A client that needs so long to get ready will never be.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How a process shows that it has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It prints a line with this in it.
    Line(&'static str),
    /// It ends, with exit code 0.
    End,
}

#[derive(Debug, Default)]
struct Seen {
    is_ready: bool,
    finished: Option<Instant>,
    closed: Option<Instant>,
}

/// A running engine.
pub struct Worker {
    running: Running,
    mark: Mark,
    started: Instant,
    cpu_before: Duration,
    memory: u64,
    seen: Arc<Mutex<Seen>>,
    // Holds the client's standard input open: some end when it closes.
    input: PipeWriter,
}

impl Worker {
    /// Starts it; what it prints goes to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path, mark: Mark) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let (printed, output) = std::io::pipe().context("cannot make a pipe")?;
        let (reader, input) = std::io::pipe().context("cannot make a pipe")?;
        command.stdin(Stdio::from(reader)).stdout(output.try_clone()?).stderr(output);
        let started = clock::now();
        let running = Running::spawn(name, command, log)?;
        let seen = Arc::<Mutex<Seen>>::default();
        let for_reader = Arc::clone(&seen);
        std::thread::spawn(move || read(printed, file, mark, &for_reader));
        let cpu_before = Duration::ZERO;
        Ok(Self { running, mark, started, cpu_before, memory: 0, seen, input })
    }

    /// Waits until it prints READY; from [`Worker::go`] on its time and CPU count.
    pub fn wait_ready(&mut self) -> Result<()> {
        let seen = Arc::clone(&self.seen);
        clock::wait_for("a client to get ready", READY_LIMIT, || {
            self.running.check_running()?;
            Ok(seen.lock().expect("no holder panics").is_ready.then_some(()))
        })
    }

    /// Gives the word to start.
    pub fn go(&mut self) -> Result<()> {
        self.cpu_before = self.total_cpu()?;
        self.started = clock::now();
        self.input.write_all(b"go\n").context("a client does not read its input")
    }

    /// From now on its CPU counts.
    pub fn forget_cpu(&mut self) -> Result<()> {
        self.cpu_before = self.total_cpu()?;
        Ok(())
    }

    /// When it started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// When it had everything.
    pub fn finished(&self) -> Option<Instant> {
        let seen = self.seen.lock().expect("no holder panics");
        match self.mark {
            Mark::Line(_) => seen.finished,
            Mark::End => seen.closed,
        }
    }

    /// Whether all that it printed has been read.
    pub fn has_closed(&self) -> bool {
        self.seen.lock().expect("no holder panics").closed.is_some()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.running.pid()
    }

    /// All it has printed.
    pub fn printed(&self) -> String {
        self.running.printed()
    }

    /// How it ended, if it has. It stays a zombie, so its CPU can still be asked for.
    pub fn end(&self) -> Result<Option<bool>> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        Ok(match waitid(Id::Pid(self.pid()), flags)? {
            WaitStatus::StillAlive => None,
            WaitStatus::Exited(_, code) => Some(code == 0),
            _ => Some(false),
        })
    }

    /// Sends it a signal; one that has ended does not mind.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).ok();
    }

    /// CPU time of all its threads, as the kernel charged it.
    pub fn cpu(&self) -> Result<Duration> {
        Ok(self.total_cpu()?.saturating_sub(self.cpu_before))
    }

    fn total_cpu(&self) -> Result<Duration> {
        let clock = clock_getcpuclockid(self.pid()).context("the process has no CPU clock")?;
        Ok(Duration::from(clock_gettime(clock).context("cannot read its CPU clock")?))
    }

    /// Looks at its memory now; [`Worker::memory`] is the most ever seen.
    pub fn look_at_memory(&mut self) {
        // A process that has just ended has none.
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let now = status.ok().and_then(|status| own_memory(&status));
        self.memory = self.memory.max(now.unwrap_or(0));
    }

    /// Peak memory without the image, in bytes.
    pub fn memory(&self) -> u64 {
        self.memory
    }
}

fn read(printed: PipeReader, mut log: File, mark: Mark, seen: &Mutex<Seen>) {
    let mut reader = BufReader::new(printed);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        let text = String::from_utf8_lossy(&line);
        let mut seen = seen.lock().expect("no holder panics");
        seen.is_ready |= text.trim() == READY;
        if matches!(mark, Mark::Line(mark) if text.contains(mark)) {
            seen.finished.get_or_insert_with(clock::now);
        }
        drop(seen);
        // A log that cannot be written is only missed when something fails.
        log.write_all(&line).ok();
        line.clear();
    }
    seen.lock().expect("no holder panics").closed = Some(clock::now());
}

/// Resident memory without shared memory, which is where images lie, of `/proc/PID/status`; bytes.
fn own_memory(status: &str) -> Option<u64> {
    let of = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse().ok()
    };
    Some((of("VmRSS:")? - of("RssShmem:")?) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::command;

    fn start(script: &str, mark: Mark, folder: &tempfile::TempDir) -> Worker {
        let mut sh = command("sh");
        sh.args(["-c", script]);
        Worker::start("sh", sh, &folder.path().join("log"), mark).expect("starts")
    }

    fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
        clock::wait_for("the worker", Duration::from_secs(10), || Ok(look())).expect("in time")
    }

    #[test]
    fn a_process_that_has_ended_still_shows_its_cpu() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
        let worker = start(script, Mark::End, &folder);
        assert!(wait(|| worker.end().expect("it is our child")), "exit code 0");
        assert!(worker.cpu().expect("it is a zombie") > Duration::ZERO);
        assert!(wait(|| worker.finished()) > worker.started());
    }

    #[test]
    fn the_moment_of_a_marked_line_is_noted_while_it_runs() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let worker = start("echo no; echo FINISHED; read _", Mark::Line(FINISHED), &folder);
        wait(|| worker.finished());
        assert_eq!(worker.end().expect("it is our child"), None);
    }

    #[test]
    fn a_process_starts_at_the_word() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = "echo READY; read word; echo $word FINISHED; read _";
        let mut worker = start(script, Mark::Line("go FINISHED"), &folder);
        worker.wait_ready().expect("it says so");
        assert_eq!(worker.finished(), None);
        worker.go().expect("it listens");
        assert!(wait(|| worker.finished()) >= worker.started());
    }

    #[test]
    fn memory_is_what_is_not_shared() {
        let status = "Name:\tx\nVmRSS:\t   20000 kB\nRssAnon:\t 4000 kB\nRssShmem:\t   15000 kB\n";
        assert_eq!(own_memory(status), Some(5000 << 10));
        assert_eq!(own_memory("Name:\tx\nState:\tZ\n"), None);
    }
}
