//! Shell: one server per lab, or one per role, started in the background and stopped.
//!
//! Who runs is told by a lock (flock(2)) on `state/pid`, never by the number in it: the kernel drops
//! the lock with the process, however that ended, so a stale file means nothing. The number is for
//! people, and for the rare server that does not answer on its socket.
//!
//! `start` runs the program again as its child. The child keeps the terminal until everything works;
//! then it says so through a pipe and lets go of the terminal. So every reason not to start is
//! printed where somebody reads it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::lab::Lab;
use crate::lab::files::private_folder;
use crate::lab::instance::Instance;
use crate::process::control;
use crate::role::RoleSet;

/// A log that is larger at the start of the server is put aside as `log.1`.
const LOG_LIMIT: u64 = 10 << 20;
/// A clean end takes less than a second; a slow disk may add some.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// How often, and how far apart, the lock is tried at the start.
const CLAIM_ATTEMPTS: u32 = 10;
const CLAIM_POLL: Duration = Duration::from_millis(20);
const STOP_POLL: Duration = Duration::from_millis(50);
/// The child's last line on its pipe.
const READY: &str = "ready";

/// Why a server could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// `state/` cannot be used.
    #[error("cannot use {}; check the owner of the lab folder, or run as root", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is one already.
    #[error("bt-server is already running (process {0})")]
    Running(u32),
    /// The program could not be run again.
    #[error("cannot run bt-server in the background")]
    Spawn(#[source] io::Error),
    /// The child has printed its reason.
    #[error("bt-server did not start ({0})")]
    NotStarted(ExitStatus),
    /// It still runs.
    #[error(
        "bt-server (process {pid}) has not stopped after {} s; see state/log, or end it with \
         `kill -9 {pid}`, which loses no data", STOP_PATIENCE.as_secs()
    )]
    StillRunning {
        /// Its process id.
        pid: u32,
    },
}

/// The right to play an instance's roles in its lab, held as long as this value lives.
#[derive(Debug)]
pub struct Claim {
    file: File,
    /// One lock for each role: another process may have other roles, but never one of these.
    _roles: Vec<File>,
}

impl Claim {
    /// Takes it, and records this process.
    ///
    /// # Errors
    /// [`DaemonError::Running`] where another process has it, or plays one of the roles.
    pub fn take(instance: &Instance) -> Result<Self, DaemonError> {
        private_folder(&instance.lab.run())
            .map_err(|source| DaemonError::State { path: instance.lab.run(), source })?;
        let file = lock(&instance.pid_file())?;
        let roles = instance.role_locks().map(|path| lock(&path)).collect::<Result<Vec<_>, _>>()?;
        for (role, path) in roles.iter().zip(instance.role_locks()) {
            write_pid(role).map_err(|source| DaemonError::State { path, source })?;
        }
        write_pid(&file)
            .map_err(|source| DaemonError::State { path: instance.pid_file(), source })?;
        Ok(Self { file, _roles: roles })
    }
}

/// Locks a file that may have to be made first.
fn lock(path: &Path) -> Result<File, DaemonError> {
    let error = |source| DaemonError::State { path: path.to_owned(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(error)?;
    let mut patience = CLAIM_ATTEMPTS;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A `status` that looks at the lock holds it itself for that moment.
            Err(TryLockError::WouldBlock) if patience > 0 => thread::sleep(CLAIM_POLL),
            Err(TryLockError::WouldBlock) => return Err(DaemonError::Running(read_pid(&mut file))),
            Err(TryLockError::Error(source)) => return Err(error(source)),
        }
        patience -= 1;
    }
}

fn write_pid(mut file: &File) -> io::Result<()> {
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()))
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes lock two files of the same name.
        if let Err(error) = self.file.set_len(0) {
            tracing::warn!(%error, "state/pid could not be emptied");
        }
    }
}

/// Every instance of a lab that runs now, with its process id.
///
/// # Errors
/// Where a pid file cannot be opened.
pub fn all_running(lab: &Lab) -> Result<Vec<(Instance, u32)>, DaemonError> {
    let mut found = Vec::new();
    for instance in Instance::every(lab) {
        if let Some(pid) = running(&instance)? {
            found.push((instance, pid));
        }
    }
    Ok(found)
}

/// The processes of a lab that ended without saying so: killed, or by a power cut. Each with those
/// of its roles that nobody has played since, and its process id.
///
/// # Errors
/// Where a pid file cannot be opened.
pub fn all_gone(lab: &Lab) -> Result<Vec<(Instance, RoleSet, u32)>, DaemonError> {
    let mut found = Vec::new();
    for instance in Instance::every(lab) {
        if running(&instance)?.is_some() {
            continue;
        }
        // A clean end empties its own file, and leaves those of its roles.
        let number = |path: &Path| File::open(path).map_or(0, |mut file| read_pid(&mut file));
        let pid = number(&instance.pid_file());
        let is_last = |path: &PathBuf| number(path) == pid;
        let locks = instance.role_locks().zip(instance.roles.iter());
        let roles: Vec<_> = locks.filter(|(path, _)| is_last(path)).map(|it| it.1).collect();
        if let Some(roles) = RoleSet::of(&roles).filter(|_| pid != 0) {
            found.push((instance, roles, pid));
        }
    }
    Ok(found)
}

/// The process id of an instance, if it runs.
///
/// # Errors
/// Where `state/pid` cannot be opened.
pub fn running(instance: &Instance) -> Result<Option<u32>, DaemonError> {
    let error = |source| DaemonError::State { path: instance.pid_file(), source };
    let mut file = match OpenOptions::new().read(true).open(instance.pid_file()) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(error(e)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read_pid(&mut file))),
        Err(TryLockError::Error(source)) => Err(error(source)),
    }
}

/// Starts the server in the background and returns when it is ready, with what it says.
///
/// # Errors
/// [`DaemonError::Running`], or [`DaemonError::NotStarted`] when the child has printed why.
pub fn start(instance: &Instance) -> Result<String, DaemonError> {
    if let Some(pid) = running(instance)? {
        return Err(DaemonError::Running(pid));
    }
    let program = std::env::current_exe().map_err(DaemonError::Spawn)?;
    let mut child = Command::new(program)
        .arg("--lab")
        .arg(instance.lab.root())
        .args(["start", "--detach", "--roles", &instance.roles.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(DaemonError::Spawn)?;
    let stdout = child.stdout.take().expect("it is piped");
    let mut words = Vec::new();
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if line == READY {
            return Ok(words.join("\n"));
        }
        words.push(line);
    }
    Err(DaemonError::NotStarted(child.wait().map_err(DaemonError::Spawn)?))
}

/// In the child: says that all works, and lets go of the terminal. Its output goes to the log.
///
/// # Errors
/// Where the log cannot be opened.
pub fn detach(instance: &Instance, words: &str) -> io::Result<()> {
    let log = open_log(instance)?;
    let mut stdout = io::stdout();
    // Whoever started us may be gone by now; the server runs all the same.
    if let Err(error) = writeln!(stdout, "{words}\n{READY}").and_then(|()| stdout.flush()) {
        tracing::warn!(%error, "nobody waits for the start any more");
    }
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    dup2_stdin(null.as_fd())?;
    dup2_stdout(log.as_fd())?;
    dup2_stderr(log.as_fd())?;
    std::env::set_current_dir(instance.lab.root())?;
    setsid()?;
    Ok(())
}

/// How a `stop` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// There was nothing to stop.
    WasNotRunning,
    /// It ended cleanly.
    Ended {
        /// Its process id.
        pid: u32,
    },
}

/// Asks the server to end, and waits until it has.
///
/// # Errors
/// Where it does not end in time.
pub fn stop(instance: &Instance) -> Result<Stopped, DaemonError> {
    let Some(pid) = running(instance)? else { return Ok(Stopped::WasNotRunning) };
    if let Err(error) = control::stop(instance) {
        tracing::debug!(%error, "no answer on the control socket");
        terminate(pid);
    }
    #[expect(clippy::disallowed_methods, reason = "a shell that waits")]
    let started = Instant::now();
    while started.elapsed() < STOP_PATIENCE {
        if running(instance)?.is_none() {
            return Ok(Stopped::Ended { pid });
        }
        thread::sleep(STOP_POLL);
    }
    Err(DaemonError::StillRunning { pid })
}

/// SIGTERM to the process that holds the lock: the number was read while the lock was held.
fn terminate(pid: u32) {
    let Ok(pid) = i32::try_from(pid) else { return };
    if pid > 0
        && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
    {
        tracing::debug!(%error, pid, "cannot be signalled");
    }
}

/// The log, for appending; a large one is put aside first, once per start.
///
/// # Errors
/// Where it cannot be opened.
pub fn open_log(instance: &Instance) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(instance.log())
}

/// Puts a large log aside as `log.1`.
///
/// # Errors
/// Where it cannot be renamed.
pub fn rotate_log(instance: &Instance) -> io::Result<()> {
    match fs::metadata(instance.log()) {
        Ok(metadata) if metadata.len() > LOG_LIMIT => {
            fs::rename(instance.log(), instance.log().with_added_extension("1"))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn read_pid(file: &mut File) -> u32 {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut text));
    read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> (tempfile::TempDir, Instance) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("server.toml"), "").expect("written");
        let lab = Lab::open(folder.path()).expect("a lab");
        (folder, Instance::new(&lab, RoleSet::ALL))
    }

    #[test]
    fn one_claim_at_a_time() {
        let (_folder, instance) = lab();
        assert_eq!(running(&instance).expect("works"), None);
        let claim = Claim::take(&instance).expect("the first");
        let me = std::process::id();
        assert_eq!(running(&instance).expect("works"), Some(me));
        assert!(matches!(Claim::take(&instance), Err(DaemonError::Running(pid)) if pid == me));
        drop(claim);
        assert_eq!(running(&instance).expect("works"), None);
        Claim::take(&instance).expect("free again");
    }

    #[test]
    fn nobody_plays_a_role_that_another_process_has() {
        let (_folder, whole) = lab();
        let of = |roles: &str| Instance::new(&whole.lab, roles.parse().expect("roles"));
        let _tftp = Claim::take(&of("tftp")).expect("the first");
        let _others = Claim::take(&of("dhcp,http")).expect("other roles");
        for taken in ["tftp", "tftp,seed", "http,seed", "dhcp,tftp,http,seed"] {
            assert!(matches!(Claim::take(&of(taken)), Err(DaemonError::Running(_))), "{taken}");
        }
        let running = all_running(&whole.lab).expect("works");
        let running: Vec<String> = running.iter().map(|(it, _)| it.roles.to_string()).collect();
        assert_eq!(running, ["dhcp,http", "tftp"]);
    }

    #[test]
    fn who_ended_without_a_word_is_told_until_somebody_plays_its_roles() {
        let (_folder, whole) = lab();
        let of = |roles: &str| Instance::new(&whole.lab, roles.parse().expect("roles"));
        let gone = || -> Vec<String> {
            let gone = all_gone(&whole.lab).expect("works");
            gone.iter().map(|(_, roles, pid)| format!("{roles} {pid}")).collect()
        };
        drop(Claim::take(&of("dhcp,tftp")).expect("free"));
        assert_eq!(gone(), [""; 0], "a clean end");
        // As a killed process leaves them.
        let killed = of("dhcp,tftp");
        let files = killed.role_locks().chain([killed.pid_file()]);
        files.for_each(|file| fs::write(file, "123\n").expect("written"));
        assert_eq!(gone(), ["dhcp,tftp 123"]);
        let tftp = Claim::take(&of("tftp")).expect("free");
        assert_eq!(gone(), ["dhcp 123"]);
        drop(tftp);
        assert_eq!(gone(), ["dhcp 123"], "tftp was stopped");
        drop(Claim::take(&whole).expect("free"));
        assert_eq!(gone(), [""; 0]);
    }

    #[test]
    fn a_stale_pid_file_means_nothing() {
        let (_folder, instance) = lab();
        fs::create_dir(instance.lab.state()).expect("made");
        fs::write(instance.pid_file(), "1\n").expect("written");
        assert_eq!(running(&instance).expect("works"), None);
        assert_eq!(stop(&instance).expect("works"), Stopped::WasNotRunning);
        Claim::take(&instance).expect("free");
    }

    #[test]
    fn only_a_large_log_is_put_aside() {
        let (_folder, instance) = lab();
        fs::create_dir(instance.lab.state()).expect("made");
        rotate_log(&instance).expect("nothing to do");
        let log = open_log(&instance).expect("opens");
        rotate_log(&instance).expect("small");
        assert!(instance.log().exists());
        log.set_len(LOG_LIMIT + 1).expect("grows");
        rotate_log(&instance).expect("put aside");
        assert!(!instance.log().exists() && instance.log().with_added_extension("1").exists());
    }
}
