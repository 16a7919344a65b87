//! Shell: the commands of `bt-server`, as a supervisor types them.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::daemon::{self, Claim, DaemonError, Stopped};
use crate::init;
use crate::lab::Lab;
use crate::torrents::Progress;
use crate::{check, control, report, run, words};

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
    /// Make a lab folder: settings, keys, and a place for systems
    Init(InitArgs),
    /// Start the server; returns when it is ready
    Start(StartArgs),
    /// Stop the server; returns when it has ended
    Stop,
    /// Show roles, catalog, systems, PCs and the last problems
    Status {
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Look for everything that would hinder a start or a boot
    Check,
}

#[derive(Debug, Args)]
struct InitArgs {
    /// The folder to make (default: the lab folder)
    dir: Option<PathBuf>,
    /// Add a small system made from this machine's kernel and BusyBox
    #[arg(long)]
    sample: bool,
    /// Where the Debian kernel is: a folder with boot/ and lib/modules/, or a linux-image package
    #[arg(long, default_value = "/", value_name = "DIR")]
    kernel: PathBuf,
    /// The network card that the PCs are reached through
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// The program bt-node, for the PCs' boot files
    #[arg(long, value_name = "FILE")]
    node: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct StartArgs {
    /// Stay in the foreground and log to the terminal
    #[arg(long)]
    foreground: bool,
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
        match self.command {
            Command::Init(args) => initialise(&self.lab, args),
            Command::Start(StartArgs { detach: true, .. }) => serve(&Lab::open(&self.lab)?, true),
            Command::Start(StartArgs { foreground: true, .. }) => {
                serve(&Lab::open(&self.lab)?, false)
            }
            Command::Start(_) => start(&Lab::open(&self.lab)?),
            Command::Stop => stop(&Lab::open(&self.lab)?),
            Command::Status { json } => status(&Lab::open(&self.lab)?, json),
            Command::Check => check_lab(&Lab::open(&self.lab)?),
        }
    }
}

fn initialise(lab: &Path, args: InitArgs) -> Result<ExitCode> {
    let options = init::Options {
        folder: args.dir.unwrap_or_else(|| lab.to_owned()),
        has_sample: args.sample,
        kernel: args.kernel,
        interface: args.interface,
        node: args.node,
    };
    for line in init::init(&options)? {
        say(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn start(lab: &Lab) -> Result<ExitCode> {
    match daemon::start(lab) {
        Ok(words) => say(words)?,
        Err(DaemonError::Running(pid)) => say(DaemonError::Running(pid))?,
        // The child has printed its reason on this terminal.
        Err(DaemonError::NotStarted(_)) => return Ok(ExitCode::FAILURE),
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the server in this process, until a signal or `stop` ends it.
fn serve(lab: &Lab, detaches: bool) -> Result<ExitCode> {
    let _claim = match Claim::take(lab) {
        Err(DaemonError::Running(pid)) => {
            eprintln!("{}", DaemonError::Running(pid));
            return Ok(if detaches { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        claim => claim?,
    };
    log_to(lab, detaches)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the worker threads")?;
    let mut is_ready = false;
    let served = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        end_on_signals(&shutdown)?;
        let ready = |words: String| {
            is_ready = true;
            info!("{}", words.lines().map(str::trim).collect::<Vec<_>>().join("; "));
            if !detaches {
                eprintln!("{words}");
            } else if let Err(error) = daemon::detach(lab, &words) {
                tracing::warn!(%error, "cannot leave the terminal");
            }
        };
        run(lab, Progress::Shown, ready, shutdown).await.map_err(anyhow::Error::from)
    });
    match &served {
        Ok(()) if !is_ready => eprintln!("bt-server was stopped before it was ready"),
        Err(error) if detaches => tracing::error!("not started: {error:#}"),
        _ => {}
    }
    runtime.shutdown_timeout(LAST_THREADS);
    served.map(|()| ExitCode::SUCCESS)
}

/// The log goes to `state/log` in the background, to the terminal in the foreground. `RUST_LOG`
/// chooses what is told.
fn log_to(lab: &Lab, detaches: bool) -> Result<()> {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,async_tftp=warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    if detaches {
        daemon::rotate_log(lab).context("cannot put the old log aside")?;
        let file = daemon::open_log(lab)
            .with_context(|| format!("cannot open {}", lab.log().display()))?;
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
            info!(signal = kind.as_raw_value(), "asked to end");
            shutdown.cancel();
        });
    }
    Ok(())
}

fn stop(lab: &Lab) -> Result<ExitCode> {
    match daemon::stop(lab)? {
        Stopped::WasNotRunning => say("not running")?,
        Stopped::Ended { pid } => say(format_args!("stopped (process {pid})"))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn status(lab: &Lab, json: bool) -> Result<ExitCode> {
    let Some(pid) = daemon::running(lab)? else {
        say(if json { r#"{"running":false}"# } else { "not running" })?;
        return Ok(ExitCode::from(NOT_RUNNING));
    };
    let snapshot = control::status(lab).with_context(|| {
        format!("bt-server (process {pid}) does not answer; if it is still starting, wait, else see state/log")
    })?;
    if json {
        say(serde_json::to_string_pretty(&snapshot)?)?;
    } else {
        say(report::text(&snapshot))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check_lab(lab: &Lab) -> Result<ExitCode> {
    let findings = check::findings(lab, Timestamp::now());
    for finding in &findings {
        let weight = if finding.is_blocking { "ERROR" } else { "note " };
        say(format_args!("{weight} {finding}"))?;
    }
    let blocking = findings.iter().filter(|finding| finding.is_blocking).count();
    if blocking > 0 {
        say(format_args!("the server cannot start: {}", words::count(blocking, "error")))?;
        return Ok(ExitCode::FAILURE);
    }
    let result = if findings.is_empty() { "all good" } else { "no errors" };
    say(format_args!("{result}: the server can start"))?;
    Ok(ExitCode::SUCCESS)
}

/// One line for the supervisor. Unlike `println!`, it does not panic when the reader has gone.
fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
