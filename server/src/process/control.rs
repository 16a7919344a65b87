//! Shell: `state/control.sock`, the only way to talk to a running server. A process that plays only
//! some of the roles has one of its own: [`Instance::control_socket`].
//!
//! One line of JSON in, one line of JSON out: `{"command":"status"}` gives a [`Snapshot`],
//! `{"command":"stop"}` ends the server. Only the lab's owner may connect (the socket has mode 0600
//! in a folder of mode 0700).

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::lab::instance::Instance;
use crate::status::{SNAPSHOT, SharedStatus, Snapshot};

/// A command is a few words.
const MAX_COMMAND: u64 = 1024;
const PATIENCE: Duration = Duration::from_secs(5);
/// After a failed accept (no free descriptor, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
enum Command {
    Status,
    Stop,
}

/// The listening socket.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Opens the socket. The caller holds the lab's claim, so one that lies there is stale.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn bind(instance: &Instance) -> io::Result<Self> {
        let path = instance.control_socket();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (_folder, short) = short_path(instance)?;
        let listener = UnixListener::bind(short)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers until `shutdown`, which a `stop` command cancels.
    pub async fn run(self, status: SharedStatus, shutdown: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (status, shutdown) = (status.clone(), shutdown.clone());
                    tokio::spawn(async move {
                        let answer = answer(stream, &status, &shutdown);
                        if !matches!(tokio::time::timeout(PATIENCE, answer).await, Ok(Ok(()))) {
                            debug!("a control connection ended without an answer");
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "the control socket cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Err(error) = fs::remove_file(&self.path) {
            debug!(%error, "the control socket could not be removed");
        }
    }
}

async fn answer(
    mut stream: UnixStream,
    status: &SharedStatus,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader.take(MAX_COMMAND)).read_line(&mut line).await?;
    let mut reply = match serde_json::from_str(&line) {
        Ok(Command::Status) => {
            let snapshot = status.lock().snapshot(SystemTime::now());
            serde_json::to_string(&snapshot)?
        }
        Ok(Command::Stop) => {
            shutdown.cancel();
            r#"{"stopping":true}"#.to_owned()
        }
        Err(error) => serde_json::json!({ "error": error.to_string() }).to_string(),
    };
    reply.push('\n');
    writer.write_all(reply.as_bytes()).await
}

/// Asks a running server for its table.
///
/// # Errors
/// Where none answers.
pub fn status(instance: &Instance) -> io::Result<Snapshot> {
    let line = ask(instance, &Command::Status)?;
    read_status(&line)
}

/// What every version of the answer has.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    format: u32,
    #[serde(default)]
    error: Option<String>,
}

/// Reads a server's table, of whatever version it is.
fn read_status(line: &str) -> io::Result<Snapshot> {
    // First the version alone: what else there is may have changed its type since.
    let head: Head = serde_json::from_str(line).map_err(io::Error::other)?;
    if let Some(error) = head.error {
        return Err(io::Error::other(error));
    }
    SNAPSHOT.check("the running server's status", head.format).map_err(io::Error::other)?;
    serde_json::from_str(line).map_err(io::Error::other)
}

/// Asks a running server to end; it ends after this returns.
///
/// # Errors
/// Where none answers.
pub fn stop(instance: &Instance) -> io::Result<()> {
    ask(instance, &Command::Stop).map(drop)
}

fn ask(instance: &Instance, command: &Command) -> io::Result<String> {
    let (_folder, path) = short_path(instance)?;
    let mut stream = BlockingStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", serde_json::to_string(command)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

/// A path that fits into the 108 bytes of a socket address (unix(7)), wherever the lab is. It is
/// good as long as the folder is held open.
fn short_path(instance: &Instance) -> io::Result<(File, PathBuf)> {
    let path = instance.control_socket();
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("a socket has a folder and a name"));
    };
    let folder = File::open(folder)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((folder, short))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lab::Lab;
    use crate::role::RoleSet;
    use crate::status::StatusBook;
    use crate::status::report::Stage;

    #[test]
    fn a_server_of_another_version_is_asked_as_well() {
        let older = r#"{"lab":"A1","pid":7,"nodes":[{"mac":"52:54:00:12:34:56","stage":"menu"}]}"#;
        let snapshot = read_status(older).expect("an older server's");
        assert_eq!((snapshot.format, snapshot.nodes.len()), (0, 1));
        let newer = r#"{"format":1,"pid":7,"lab":"A1","rooms":{"B":3},"nodes":[{"mac":"x","stage":"prefetch","seat":[1,2]}]}"#;
        let snapshot = read_status(newer).expect("a newer server's that says more");
        assert_eq!(snapshot.nodes[0].stage, Stage::Unknown);
        let refused = |line: &str| read_status(line).expect_err("refused").to_string();
        let other = refused(r#"{"format":2,"lab":{"name":"A1"}}"#);
        assert!(other.contains("update bt-server"), "{other}");
        assert_eq!(refused(r#"{"error":"unknown command"}"#), "unknown command");
        assert!(refused("{}").contains("`pid`"), "no table without a process");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn status_and_stop_go_through_the_socket() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Longer than a socket address.
        let root = folder.path().join("x".repeat(120));
        fs::create_dir_all(root.join("state")).expect("made");
        fs::write(root.join("server.toml"), "").expect("written");
        let lab = Lab::open(&root).expect("a lab");
        let instance = Instance::new(&lab, RoleSet::ALL);
        let control = Control::bind(&instance).expect("binds");
        let book = StatusBook::new("A1", 7, SystemTime::now());
        let shutdown = CancellationToken::new();
        let run = control.run(Arc::new(parking_lot::Mutex::new(book)), shutdown.clone());
        let run = tokio::spawn(run);
        let client = tokio::task::spawn_blocking(move || {
            let snapshot = status(&instance).expect("answers");
            stop(&instance).expect("answers");
            (snapshot, lab)
        });
        let (snapshot, lab) = client.await.expect("no panic");
        assert_eq!((snapshot.lab.as_str(), snapshot.pid), ("A1", 7));
        run.await.expect("no panic");
        assert!(shutdown.is_cancelled());
        assert!(!lab.state().join("control.sock").exists());
    }
}
