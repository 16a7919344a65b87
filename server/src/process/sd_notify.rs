//! Shell: tells a service manager how the server is, by the protocol of sd_notify(3).
//!
//! One datagram for each change: ready, stopping, and a sign of life in the interval that the
//! manager asks for. Without `NOTIFY_SOCKET` nobody wants to know, and nothing is sent.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Half of the manager's patience, as sd_watchdog_enabled(3) advises.
const SIGNS_PER_PATIENCE: u32 = 2;

/// The service manager, if there is one that listens.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    patience: Option<Duration>,
}

impl Manager {
    /// The manager that the environment names; one that cannot be reached is not told anything.
    pub fn from_environment() -> Self {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let text = |name| std::env::var(name).ok();
        let patience = patience(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id());
        Self::at(&address, patience).unwrap_or_else(|error| {
            warn!(%error, ?address, "the service manager cannot be reached");
            Self::default()
        })
    }

    fn at(address: &OsStr, patience: Option<Duration>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold up the lab.
        socket.set_nonblocking(true)?;
        match address.as_bytes().split_first() {
            Some((b'@', name)) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            _ => socket.connect(address)?,
        }
        Ok(Self { socket: Some(socket), patience })
    }

    /// All roles work; `words` are shown by `systemctl status`.
    pub fn ready(&self, words: &str) {
        let line = words.lines().next().unwrap_or_default();
        self.tell(&format!("READY=1\nSTATUS={line}"));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Gives signs of life until `shutdown`. They come from the runtime that HTTP, the seed and
    /// proxyDHCP run on, and end when it or the whole process hangs. DHCP and TFTP have threads of
    /// their own: one of those that ends is told as a role that stopped, one that hangs is not noticed.
    pub async fn live(&self, shutdown: CancellationToken) {
        let Some(patience) = self.patience else { return };
        let mut pause = tokio::time::interval(patience / SIGNS_PER_PATIENCE);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = pause.tick() => self.tell("WATCHDOG=1"),
            }
        }
    }

    fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            warn!(%error, message, "the service manager was not notified");
        }
    }
}

/// How long the manager waits for a sign of life, where it means this process.
fn patience(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let is_other = pid.is_some_and(|pid| pid.parse() != Ok(own));
    let usec = usec?.parse().ok().filter(|usec| *usec > 0 && !is_other)?;
    Some(Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        let length = socket.recv(&mut bytes).expect("a message waits");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_manager_is_told_on_a_path_and_on_an_abstract_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let listening = UnixDatagram::bind(&path).expect("binds");
        let manager = Manager::at(path.as_os_str(), None).expect("connects");
        manager.ready("A1 is ready\n  and more");
        assert_eq!(received(&listening), "READY=1\nSTATUS=A1 is ready");

        let name = format!("bt-server-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let listening = UnixDatagram::bind_addr(&address).expect("binds");
        let manager = Manager::at(OsStr::new(&format!("@{name}")), None).expect("connects");
        manager.stopping();
        assert_eq!(received(&listening), "STOPPING=1");
    }

    #[test]
    fn the_watchdog_is_fed_only_when_it_is_ours() {
        let check = |usec: &str, pid: Option<&str>, expected| {
            assert_eq!(patience(Some(usec.into()), pid.map(Into::into), 7), expected);
        };
        check("3000000", None, Some(Duration::from_secs(3)));
        check("3000000", Some("7"), Some(Duration::from_secs(3)));
        check("3000000", Some("8"), None);
        check("0", None, None);
        check("soon", None, None);
        assert_eq!(patience(None, None, 7), None);
    }

    #[tokio::test]
    async fn signs_of_life_come_until_the_end() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let listening = UnixDatagram::bind(&path).expect("binds");
        let manager = Manager::at(path.as_os_str(), Some(Duration::from_millis(20)));
        let shutdown = CancellationToken::new();
        let living = manager.expect("connects");
        let living = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { living.live(shutdown).await }
        });
        let two = tokio::task::spawn_blocking(move || [received(&listening), received(&listening)]);
        assert_eq!(two.await.expect("no panic"), ["WATCHDOG=1", "WATCHDOG=1"]);
        shutdown.cancel();
        living.await.expect("no panic");
    }
}
