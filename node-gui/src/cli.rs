//! Shell: `bt-node fetch`: a node's download and verification without a screen.
//!
//! Files get their names only once they are verified, so every named file in the folder is valid.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bt_catalog::{ByteSize, System, SystemId};
use tokio::signal::unix::{SignalKind, signal};

use crate::download::verify::{Refused, verify};
use crate::download::{Download, no_room};
use crate::handover::payload::Payload;
use crate::journey::DownloadProgress;
use crate::journey::problem::Problem;
use crate::server::catalog;
use crate::server::http::Http;

const USAGE: &str = "\
usage: bt-node fetch --server URL --system ID --out DIR [--once [--linger SECONDS]] [--json]
                     [--key FILE]

Downloads one system as a PC does, verifies it against the signed catalog, and shares it.

  --server URL   the lab's server, for example http://10.77.0.1:6969
  --system ID    the system to download, by its id in the catalog
  --out DIR      the folder for its files: kernel, initrd, image
  --once         exit when the files are complete; otherwise share them until Ctrl-C
  --linger SECONDS
                 with --once: share the files for at most this long while other PCs still
                 download
  --json         print one line of JSON to standard output at the end
  --key FILE     the lab's root key (minisign public key); default /etc/boottorrent/root.pub

Exit status: 0 success, 1 failure, 2 wrong usage.
When started as /init (process 1), bt-node runs the picker instead.";

/// Time between two lines of progress.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The options of `bt-node fetch`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    server: String,
    system: SystemId,
    out: PathBuf,
    once: bool,
    linger: Duration,
    json: bool,
    key: PathBuf,
}

/// Runs the command line; exit status: 0 success, 1 failure, 2 wrong usage.
#[must_use]
pub fn run(arguments: &[String]) -> ExitCode {
    let options = match parse(arguments) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("bt-node: {why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bt-node: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(fetch(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bt-node: {}\n  {}\n  {}", problem.what, problem.why, problem.detail);
            if options.json {
                let text = problem.to_string();
                let kind = problem.kind.word();
                println!("{}", serde_json::json!({"ok": false, "kind": kind, "problem": text}));
            }
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<Option<Options>, String> {
    let mut words = arguments.iter();
    match words.next().map(String::as_str) {
        Some("fetch") => {}
        Some("help" | "--help" | "-h") => return Ok(None),
        Some(other) => return Err(format!("unknown command `{other}`")),
        None => return Err("a command is missing".into()),
    }
    let (mut server, mut system, mut out) = (None, None, None);
    let (mut once, mut json, mut key) = (false, false, PathBuf::from(catalog::ROOT_KEY));
    let mut linger = Duration::ZERO;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--server" => server = Some(value()?.clone()),
            "--system" => system = Some(value()?.parse::<SystemId>()?),
            "--out" => out = Some(PathBuf::from(value()?)),
            "--key" => key = PathBuf::from(value()?),
            "--once" => once = true,
            "--linger" => {
                let seconds = value()?;
                let number = seconds.parse::<u32>();
                let number = number.map_err(|_| {
                    format!("--linger `{seconds}`: expected a whole number of seconds")
                })?;
                linger = Duration::from_secs(number.into());
            }
            "--json" => json = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown option `{other}`")),
        }
    }
    if !linger.is_zero() && !once {
        return Err(
            "--linger requires --once; without --once the files are shared until Ctrl-C".into()
        );
    }
    let missing = |name: &str| format!("{name} is missing");
    let server = server.ok_or_else(|| missing("--server URL"))?;
    if !server.starts_with("http://") {
        return Err(format!("`{server}` is not an http:// URL"));
    }
    let system = system.ok_or_else(|| missing("--system ID"))?;
    let out = out.ok_or_else(|| missing("--out DIR"))?;
    Ok(Some(Options { server, system, out, once, linger, json, key }))
}

async fn fetch(options: &Options) -> Result<(), Problem> {
    let trust = catalog::trust(&options.key, Path::new(catalog::LAB))?;
    let http = Http::new(&options.server)?;
    let catalog = catalog::fetch(&http, &trust).await?;
    let system = catalog.system(&options.system).ok_or_else(|| unknown(&options.system))?;
    fs::create_dir_all(&options.out).map_err(|error| disk(&options.out, &error))?;
    let partial = options.out.join(format!(".{}.part{}", system.id, std::process::id()));
    let outcome = tokio::select! {
        outcome = fetch_into(options, &http, system, &partial) => outcome,
        () = interrupted() => Err(Problem::internal("interrupted before the files were complete")),
    };
    // Empty after success, and worthless after failure.
    fs::remove_dir_all(&partial).ok();
    let mut download = outcome?;
    if !options.once {
        eprintln!("bt-node: sharing; press Ctrl-C to stop");
        interrupted().await;
    } else if !options.linger.is_zero() {
        eprintln!("bt-node: sharing while other PCs download; press Ctrl-C to stop");
        tokio::select! {
            () = download.unneeded(options.linger) => {}
            () = interrupted() => {}
        }
    }
    download.stop().await;
    Ok(())
}

/// Downloads into `partial`, verifies, and only then moves the files to their names.
async fn fetch_into(
    options: &Options,
    http: &Http,
    system: &System,
    partial: &Path,
) -> Result<Download, Problem> {
    let began = now();
    let room = || Payload::in_folder(system, partial).map_err(|error| no_room(system, &error));
    let mut download = Download::start(http, system, room).await?;
    let mut reported = began;
    download
        .complete(|progress| {
            if now().duration_since(reported) >= REPORT_EVERY {
                reported = now();
                eprintln!("{}", line(system, progress));
            }
        })
        .await?;
    let fetched = now().duration_since(began);
    check(&download).await?;
    for file in &system.files {
        let name = file.role.name();
        let to = options.out.join(name);
        fs::rename(partial.join(name), &to).map_err(|error| disk(&to, &error))?;
    }
    let verified = now().duration_since(began);
    eprintln!(
        "bt-node: {} is complete and verified: {} in {:.1} s",
        system.id,
        ByteSize(system.total()),
        verified.as_secs_f64()
    );
    if options.json {
        let from: Vec<_> = download
            .sources()
            .into_iter()
            .map(|(peer, bytes)| serde_json::json!({"peer": peer.to_string(), "bytes": bytes}))
            .collect();
        println!(
            "{}",
            serde_json::json!({"ok": true, "system": system.id.as_str(), "seconds": fetched.as_secs_f64(),
                "verify_seconds": (verified - fetched).as_secs_f64(), "bytes": system.total(), "from": from})
        );
    }
    Ok(download)
}

async fn check(download: &Download) -> Result<(), Problem> {
    if download.proven().is_some() {
        return Ok(());
    }
    let (system, payload) = (download.system().clone(), Arc::clone(download.payload()));
    let verified = tokio::task::spawn_blocking(move || verify(&system, &payload, &mut |_| true));
    match verified.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(Refused::Problem(problem))) => Err(problem),
        Ok(Err(Refused::Cancelled)) => Err(Problem::internal("verification was cancelled")),
        Err(error) => Err(Problem::internal(format!("verification failed: {error}"))),
    }
}

/// One line of progress.
fn line(system: &System, progress: DownloadProgress) -> String {
    let percent = progress.done.saturating_mul(100) / progress.total.max(1);
    let sources = match progress.stalled_for {
        Some(waited) => format!("no data for {} s", waited.as_secs()),
        None if progress.from_server => format!("from {} PCs and the server", progress.peers),
        None => format!("from {} PCs", progress.peers),
    };
    format!(
        "{}: {percent:3} % of {}, {}/s, {sources}",
        system.id,
        ByteSize(progress.total),
        ByteSize(progress.speed)
    )
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = wait(SignalKind::interrupt()) => {}
        _ = wait(SignalKind::terminate()) => {}
    }
}

#[expect(clippy::disallowed_methods, reason = "a shell that measures a download")]
fn now() -> Instant {
    Instant::now()
}

fn unknown(id: &SystemId) -> Problem {
    Problem::new(
        crate::journey::problem::ProblemKind::BadCatalog,
        format!("there is no system `{id}`"),
        "The lab's catalog does not list it.",
        "Check the id.",
        "not in catalog.toml",
    )
}

fn disk(path: &Path, error: &std::io::Error) -> Problem {
    Problem::internal(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<Options>, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_option_is_parsed() {
        let line = "fetch --server http://10.0.0.1:6969 --system sample --out /tmp/x --once --json --key k";
        let options = parsed(line).expect("right").expect("not help");
        assert_eq!(options.server, "http://10.0.0.1:6969");
        assert!(options.once && options.json);
        assert_eq!(options.key, Path::new("k"));
        assert!(options.linger.is_zero());
        let line = "fetch --server http://x --system s --out o --once --linger 9";
        assert_eq!(parsed(line).expect("right").expect("not help").linger, Duration::from_secs(9));
        let short = parsed("fetch --out o --system s --server http://x").expect("right");
        assert_eq!(short.expect("not help").key, Path::new(catalog::ROOT_KEY));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let wrong = |line: &str, part: &str| {
            let why = parsed(line).expect_err("must fail");
            assert!(why.contains(part), "{why}");
        };
        wrong("", "missing");
        wrong("boot", "boot");
        wrong("fetch --server", "--server needs a value");
        wrong("fetch --server http://x --out o", "--system ID");
        wrong("fetch --server https://x --out o --system s", "is not an http:// URL");
        wrong("fetch --server http://x --out o --system S", "not a valid system id");
        wrong("fetch --fast", "--fast");
        wrong("fetch --once --linger soon", "expected a whole number of seconds");
        wrong("fetch --server http://x --out o --system s --linger 9", "requires --once");
    }

    #[test]
    fn a_line_of_progress_says_who_sends() {
        let (system, _folder) = crate::download::verify::tests::sample("a");
        let progress = DownloadProgress {
            done: 50,
            total: 200,
            speed: 10,
            peers: 2,
            from_server: true,
            ..DownloadProgress::default()
        };
        assert_eq!(line(&system, progress), "a:  25 % of 200 B, 10 B/s, from 2 PCs and the server");
    }
}
