//! Shell: the commands of `bt-server`, as a supervisor types them.

pub mod add;
pub mod check;
pub mod doctor;
pub mod init;
pub mod status_table;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bt_catalog::SystemId;
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::humanize;
use crate::lab::Lab;
use crate::lab::instance::Instance;
use crate::process::daemon::{self, Claim, DaemonError, Stopped};
use crate::process::sd_notify::Manager;
use crate::process::{control, privileges};
use crate::role::RoleSet;
use crate::server::{prepare, run};
use crate::terminal::{Progress, say, tell};

/// `status` when no server runs, as init scripts expect it (LSB: program is not running).
const NOT_RUNNING: u8 = 3;
/// A stop may have to wait for a file that is being hashed; it is not waited for longer.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// Boots a computer lab from the network: addresses, boot files, systems.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "A new lab: bt-server init --sample lab && cd lab && bt-server start"
)]
pub struct Cli {
    /// The lab folder
    #[arg(long, global = true, default_value = ".", value_name = "DIR")]
    lab: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a lab folder: settings, keys, and a place for systems
    Init(InitArgs),
    /// Add a live ISO, a squashfs, or a folder as a system for the PCs; or replace its files
    Add(AddArgs),
    /// Start the server; returns once it is ready
    Start(StartArgs),
    /// Stop the server; returns once it has stopped
    Stop {
        /// Only the process that was started with these roles [default: all of the lab's]
        #[arg(long, value_name = "ROLES")]
        roles: Option<RoleSet>,
    },
    /// Show roles, catalog, systems, PCs and recent problems
    Status {
        /// As JSON, for scripts: one object, or a list if several processes run
        #[arg(long)]
        json: bool,
        /// Only the process that was started with these roles [default: all of the lab's]
        #[arg(long, value_name = "ROLES")]
        roles: Option<RoleSet>,
    },
    /// Check for everything that would prevent a start or a boot
    Check,
    /// Find out why PCs do not boot: looks at this machine, the network and the running server, and
    /// simulates a PC's boot step by step
    ///
    /// Exits with 0 if nothing was found that prevents a PC from booting, otherwise with 1.
    Doctor {
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct InitArgs {
    /// The folder to create [default: the lab folder]
    dir: Option<PathBuf>,
    /// Add a small system made from this machine's kernel and BusyBox
    #[arg(long)]
    sample: bool,
    /// Where the Debian kernel is: a folder with boot/ and lib/modules/, or a linux-image package
    #[arg(long, default_value = "/", value_name = "DIR")]
    kernel: PathBuf,
    /// The network interface that the PCs are connected to
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// DHCP mode [default: `init` checks whether another DHCP server answers]
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<init::Mode>,
    /// The program bt-node, for the PCs' boot files
    #[arg(long, value_name = "FILE")]
    node: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The ISO or squashfs file, or a folder: an unpacked medium, kernel and initrd, or a root file system
    #[arg(value_name = "ISO|FOLDER|FILE")]
    source: PathBuf,
    /// The system's id [default: from the file's name]
    #[arg(long, value_name = "ID", value_parser = SystemId::from_str)]
    id: Option<SystemId>,
    /// What students read [default: what the system calls itself]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where the modules of its kernel are, if they are not found: its package (.deb), or a folder
    #[arg(long, value_name = "PATH")]
    modules: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct StartArgs {
    /// Stay in the foreground and log to the terminal
    #[arg(long)]
    foreground: bool,
    /// Run only these roles (dhcp, tftp, http, seed), so that each can be a separate process
    #[arg(long, value_name = "ROLES", default_value_t = RoleSet::ALL)]
    roles: RoleSet,
    /// Used by `start` itself
    #[arg(long, hide = true)]
    detach: bool,
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What failed, why, and what to do.
    pub fn perform(self) -> Result<ExitCode> {
        let open = || Lab::open(&self.lab);
        match self.command {
            Command::Init(args) => initialise(&self.lab, args),
            Command::Add(args) => add_system(&open()?, args),
            Command::Start(args) => {
                let instance = Instance::new(&open()?, args.roles);
                match args {
                    StartArgs { detach: true, .. } => serve(&instance, true),
                    StartArgs { foreground: true, .. } => serve(&instance, false),
                    StartArgs { .. } => start(&instance),
                }
            }
            Command::Stop { roles } => stop(&open()?, roles),
            Command::Status { json, roles } => status(&open()?, roles, json),
            Command::Check => check_lab(&open()?),
            Command::Doctor { json } => examine(&open()?, json),
        }
    }
}

fn initialise(lab: &Path, args: InitArgs) -> Result<ExitCode> {
    let options = init::Options {
        folder: args.dir.unwrap_or_else(|| lab.to_owned()),
        has_sample: args.sample,
        kernel: args.kernel,
        interface: args.interface,
        mode: args.mode,
        node: args.node,
    };
    for line in init::init(&options)? {
        say(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn add_system(lab: &Lab, args: AddArgs) -> Result<ExitCode> {
    let AddArgs { source, id, name, modules } = args;
    for line in add::add(lab, &add::Options { source, id, name, modules })? {
        say(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn start(instance: &Instance) -> Result<ExitCode> {
    match daemon::start(instance) {
        Ok(words) => say(words)?,
        Err(DaemonError::Running(pid)) => say(DaemonError::Running(pid))?,
        // The child has printed its reason on this terminal.
        Err(DaemonError::NotStarted(_)) => return Ok(ExitCode::FAILURE),
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the server in this process, until a signal or `stop` ends it.
fn serve(instance: &Instance, detaches: bool) -> Result<ExitCode> {
    let _claim = match Claim::take(instance) {
        Err(DaemonError::Running(pid)) => {
            tell(DaemonError::Running(pid));
            return Ok(if detaches { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        claim => claim?,
    };
    log_to(instance, detaches)?;
    let served = serve_claimed(instance, detaches);
    if let (Err(error), true) = (&served, detaches) {
        tracing::error!("not started: {error:#}");
    }
    served.map(|()| ExitCode::SUCCESS)
}

fn serve_claimed(instance: &Instance, detaches: bool) -> Result<()> {
    let prepared = prepare(instance)?;
    // Before there is a second thread: each thread has rights of its own.
    let rights = privileges::reduce(instance, &prepared.site.rights_to_keep())?;
    info!("{rights}");
    let manager = Manager::from_environment();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the worker threads")?;
    let mut is_ready = false;
    let served = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        end_on_signals(&shutdown)?;
        let ready = |words: String| {
            is_ready = true;
            info!("{}", words.lines().map(str::trim).collect::<Vec<_>>().join("; "));
            manager.ready(&words);
            if !detaches {
                tell(words);
            } else if let Err(error) = daemon::detach(instance, &words) {
                tracing::warn!(%error, "cannot leave the terminal");
            }
        };
        let ended = async {
            let served = run(prepared, Progress::Shown, ready, shutdown.clone()).await;
            shutdown.cancel();
            served
        };
        let stopping = async {
            shutdown.cancelled().await;
            manager.stopping();
        };
        let (served, (), ()) = tokio::join!(ended, manager.live(shutdown.clone()), stopping);
        served.map_err(anyhow::Error::from)
    });
    if served.is_ok() && !is_ready {
        tell("bt-server was stopped before it was ready");
    }
    runtime.shutdown_timeout(LAST_THREADS);
    served
}

/// The log goes to `state/log` in the background, to the terminal in the foreground. `RUST_LOG`
/// chooses what is told.
fn log_to(instance: &Instance, detaches: bool) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Told on stderr, a line that a full disk did not take would be a panic: that is the log too.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .log_internal_errors(false);
    if detaches {
        daemon::rotate_log(instance).context("cannot rotate the log")?;
        let file = daemon::open_log(instance)
            .with_context(|| format!("cannot open {}", instance.log().display()))?;
        log.with_ansi(false).with_writer(Arc::new(file)).init();
    } else {
        log.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).init();
    }
    Ok(())
}

fn end_on_signals(shutdown: &CancellationToken) -> Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("cannot listen for signals")?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            signals.recv().await;
            info!(signal = kind.as_raw_value(), "asked to stop");
            shutdown.cancel();
        });
    }
    Ok(())
}

fn stop(lab: &Lab, roles: Option<RoleSet>) -> Result<ExitCode> {
    let running = running(lab, roles)?;
    if running.is_empty() {
        say("not running")?;
    }
    for (instance, _) in running {
        match daemon::stop(&instance)? {
            Stopped::WasNotRunning => {}
            Stopped::Ended { pid } if instance.roles == RoleSet::ALL => {
                say(format_args!("stopped (process {pid})"))?;
            }
            Stopped::Ended { pid } => {
                say(format_args!("stopped {} (process {pid})", instance.roles))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn status(lab: &Lab, roles: Option<RoleSet>, json: bool) -> Result<ExitCode> {
    let running = running(lab, roles)?;
    let mut gone = gone(lab)?;
    gone.retain(|it| roles.is_none_or(|roles| it.roles == roles));
    if running.is_empty() {
        say(if json { r#"{"running":false}"# } else { "not running" })?;
        if !json && !gone.is_empty() {
            say(status_table::texts(&[], &gone))?;
        }
        return Ok(ExitCode::from(NOT_RUNNING));
    }
    let mut snapshots = Vec::new();
    for (instance, pid) in running {
        let snapshot = control::status(&instance).with_context(|| {
            format!(
                "bt-server (process {pid}) does not answer; if it is still starting, wait, else see {}",
                lab.name_of(&instance.log())
            )
        });
        snapshots.push(snapshot?);
    }
    match &snapshots[..] {
        [one] if json => say(serde_json::to_string_pretty(one)?)?,
        several if json => say(serde_json::to_string_pretty(several)?)?,
        _ => say(status_table::texts(&snapshots, &gone))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The lab's processes that ended without saying so.
fn gone(lab: &Lab) -> Result<Vec<status_table::Gone>, DaemonError> {
    let gone = daemon::all_gone(lab)?.into_iter().map(|(instance, roles, pid)| {
        let log = lab.name_of(&instance.log());
        status_table::Gone { roles, pid, log }
    });
    Ok(gone.collect())
}

/// The lab's running processes: all, or the one with exactly these roles.
fn running(lab: &Lab, roles: Option<RoleSet>) -> Result<Vec<(Instance, u32)>, DaemonError> {
    let mut running = daemon::all_running(lab)?;
    running.retain(|(instance, _)| roles.is_none_or(|roles| instance.roles == roles));
    Ok(running)
}

fn examine(lab: &Lab, json: bool) -> Result<ExitCode> {
    let progress = |what: &str| {
        if !json && io::stderr().is_terminal() {
            tell(what);
        }
    };
    let diagnosis = doctor::examine(lab, &progress);
    let has_colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = match json {
        true => serde_json::to_string_pretty(&diagnosis)?,
        false => diagnosis.text(has_colour),
    };
    say(text)?;
    Ok(if diagnosis.boots() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_lab(lab: &Lab) -> Result<ExitCode> {
    let findings = check::findings(lab, Timestamp::now());
    for finding in &findings {
        let weight = if finding.is_blocking { "ERROR" } else { "note " };
        say(format_args!("{weight} {finding}"))?;
    }
    let blocking = findings.iter().filter(|finding| finding.is_blocking).count();
    if blocking > 0 {
        say(format_args!("the server cannot start: {}", humanize::count(blocking, "error")))?;
        return Ok(ExitCode::FAILURE);
    }
    let result = if findings.is_empty() { "all good" } else { "no errors" };
    say(format_args!("{result}: the server can start"))?;
    Ok(ExitCode::SUCCESS)
}
