//! Shell: the first hop's loaders over TFTP.
//!
//! Only what is in memory can be fetched: the iPXE loaders, read once at start, and the boot script
//! under the name that newer iPXE builds look for. There is no path to a disk here, so no name can
//! lead anywhere. The protocol (RFC 1350, 2347-2349, 7440) is async-tftp's; what it does not limit
//! is limited here: sizes by its options, transfers by counting open readers.
//!
//! async-tftp drops requests whose name is not UTF-8, such as one with a trailing 0xFF; the
//! firmware that does so takes the `file` field of DHCP, where there is none.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use async_tftp::packet::Error as Refusal;
use async_tftp::server::{Handler, TftpServerBuilder};
use bytes::{Buf, Bytes};
use futures_lite::{AsyncRead, io::Sink};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::arch::LOADERS;
use crate::bind::{self, BindError};
use crate::status::{SharedStatus, StatusEvent};

/// Where the Debian package `ipxe` puts the loaders.
pub const DEBIAN_IPXE: &str = "/usr/lib/ipxe";
/// The name under which newer iPXE builds look for a script beside themselves.
pub const AUTOEXEC: &str = "autoexec.ipxe";

/// A loader is at most this long: anything longer is a mistake in the operator's folder.
const MAX_LOADER: u64 = 16 << 20;
/// Before a block is sent again. Clients that ask for another timeout get theirs.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A client that went away costs this many resends of one window, and no more.
const MAX_RESENDS: u32 = 5;
/// What fits in one Ethernet frame; more would be fragmented, which firmware cannot join.
const MAX_BLOCK: u16 = 1468;
/// Blocks in flight; also bounds what a forged request makes us send to a stranger.
const MAX_WINDOW: u16 = 16;
/// Transfers at once. UEFI has two per boot: a size probe it abandons, and the real one.
const MAX_TRANSFERS: usize = 128;
/// Transfers at once to one address.
const MAX_TRANSFERS_PER_CLIENT: usize = 4;
/// Before a server that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// What the TFTP role needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The boot interface's own address (not 0.0.0.0: strict ROMs check who answers), port 69.
    pub listen: SocketAddr,
    /// The loaders that may be fetched.
    pub loaders: Loaders,
    /// The boot script, for [`AUTOEXEC`].
    pub script: String,
}

/// iPXE's loaders, in memory, by name. Cheap to clone: TFTP and HTTP serve the same bytes.
#[derive(Debug, Clone, Default)]
pub struct Loaders {
    files: BTreeMap<&'static str, Bytes>,
}

/// Why the loaders cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadersError {
    /// The disk refused.
    #[error("the boot loader {path} cannot be read")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too long to be one.
    #[error("{path} is no boot loader: it has {size} bytes, and {MAX_LOADER} is the limit")]
    TooLong {
        /// Which one.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Without any, nothing boots.
    #[error("no iPXE boot loader in {}; install the Debian package: apt install ipxe", .0.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or "))]
    None(Vec<PathBuf>),
}

impl Loaders {
    /// Reads each loader from the first of `folders` that has it: an operator's own folder comes
    /// before [`DEBIAN_IPXE`].
    ///
    /// # Errors
    /// When one cannot be read, or none is found at all.
    pub fn read(folders: &[&Path]) -> Result<Self, LoadersError> {
        let mut files = BTreeMap::new();
        for name in LOADERS {
            for folder in folders {
                let path = folder.join(name);
                if let Some(bytes) = read_loader(&path)? {
                    info!(path = %path.display(), bytes = bytes.len(), "boot loader");
                    files.insert(name, bytes);
                    break;
                }
            }
        }
        if files.is_empty() {
            let folders = folders.iter().map(|folder| folder.to_path_buf()).collect();
            return Err(LoadersError::None(folders));
        }
        Ok(Self { files })
    }

    /// The loader of that exact name.
    pub fn find(&self, name: &str) -> Option<(&'static str, &Bytes)> {
        self.files.get_key_value(name).map(|(name, bytes)| (*name, bytes))
    }
}

fn read_loader(path: &Path) -> Result<Option<Bytes>, LoadersError> {
    let io_error = |source| LoadersError::Io { path: path.to_owned(), source };
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(error)),
    };
    if size > MAX_LOADER {
        return Err(LoadersError::TooLong { path: path.to_owned(), size });
    }
    Ok(Some(std::fs::read(path).map_err(io_error)?.into()))
}

/// The TFTP role, ready to run.
#[derive(Debug)]
pub struct Tftp {
    socket: UdpSocket,
    shelf: Shelf,
}

impl Tftp {
    /// Opens the port.
    ///
    /// # Errors
    /// When it cannot be opened; the error says why.
    pub fn bind(settings: Settings, status: SharedStatus) -> Result<Self, BindError> {
        let socket = bind::udp("TFTP", settings.listen)?;
        let shelf = Shelf {
            loaders: settings.loaders,
            script: settings.script.into(),
            status,
            open: Arc::default(),
        };
        Ok(Self { socket, shelf })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `shutdown`. A server that ends (any error of the socket ends it) is started
    /// again on the same socket.
    ///
    /// # Errors
    /// When the socket cannot be shared; not for anything that a client does.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        loop {
            let socket = self.socket.try_clone()?;
            let ended = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ended = serve(socket, self.shelf.clone()) => ended,
            };
            if let Err(error) = ended {
                warn!(%error, "TFTP ended and is started again");
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }
}

async fn serve(socket: UdpSocket, shelf: Shelf) -> Result<(), async_tftp::Error> {
    let builder = TftpServerBuilder::with_handler(shelf)
        .std_socket(socket)?
        .timeout(TIMEOUT)
        .max_send_retries(MAX_RESENDS)
        .block_size_limit(MAX_BLOCK)
        .window_size_limit(MAX_WINDOW);
    builder.build().await?.serve().await
}

/// What can be fetched, and who is fetching.
#[derive(Debug, Clone)]
struct Shelf {
    loaders: Loaders,
    script: Bytes,
    status: SharedStatus,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Shelf {
    fn open(&self, client: SocketAddr, path: &str) -> Result<Transfer, Refusal> {
        let asked = normalise(path);
        let found = match asked.as_str() {
            AUTOEXEC => Some((AUTOEXEC, self.script.clone())),
            name => self.loaders.find(name).map(|(name, bytes)| (name, bytes.clone())),
        };
        let Some((name, bytes)) = found else {
            // Firmware asks for optional files all the time: no warning.
            debug!(ip = %client.ip(), path, "TFTP file not found");
            return Err(Refusal::FileNotFound);
        };
        let Some(seat) = Seat::take(&self.open, client.ip()) else {
            debug!(ip = %client.ip(), path, "too many TFTP transfers at once");
            return Err(Refusal::Msg("too many transfers at once, try again".to_owned()));
        };
        Ok(Transfer { name, total: bytes.len(), left: bytes, status: self.status.clone(), seat })
    }
}

impl Handler for Shelf {
    type Reader = Transfer;
    type Writer = Sink;

    async fn read_req_open(
        &mut self,
        client: &SocketAddr,
        path: &Path,
    ) -> Result<(Transfer, Option<u64>), Refusal> {
        let transfer = self.open(*client, path.to_str().unwrap_or_default())?;
        let size = transfer.total as u64;
        Ok((transfer, Some(size)))
    }

    async fn write_req_open(
        &mut self,
        client: &SocketAddr,
        path: &Path,
        _size: Option<u64>,
    ) -> Result<Sink, Refusal> {
        debug!(ip = %client.ip(), path = %path.display(), "TFTP write refused");
        Err(Refusal::PermissionDenied)
    }
}

/// A file name as the allow-list spells it. Firmware writes `/name`, `//name`, `\name` and, with a
/// DHCP option that it took for a C string, rubbish behind the name.
fn normalise(path: &str) -> String {
    let path = path.replace('\\', "/");
    let path = path.trim_start_matches("./").trim_start_matches('/');
    path.trim_end_matches(|c: char| !c.is_ascii_graphic()).to_owned()
}

/// One of a bounded number of places for transfers, given back on drop.
#[derive(Debug)]
struct Seat {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    ip: IpAddr,
}

impl Seat {
    fn take(open: &Arc<Mutex<HashMap<IpAddr, usize>>>, ip: IpAddr) -> Option<Self> {
        let mut taken = open.lock();
        let of_client = taken.get(&ip).copied().unwrap_or(0);
        if of_client >= MAX_TRANSFERS_PER_CLIENT || taken.values().sum::<usize>() >= MAX_TRANSFERS {
            return None;
        }
        taken.insert(ip, of_client + 1);
        Some(Self { open: open.clone(), ip })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.open.lock();
        if let Some(of_client) = taken.get_mut(&self.ip) {
            *of_client -= 1;
            if *of_client == 0 {
                taken.remove(&self.ip);
            }
        }
    }
}

/// One file on its way. Dropping it is the only sign that async-tftp gives of the end.
#[derive(Debug)]
struct Transfer {
    name: &'static str,
    total: usize,
    left: Bytes,
    status: SharedStatus,
    seat: Seat,
}

impl AsyncRead for Transfer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let length = buffer.len().min(self.left.len());
        self.left.copy_to_slice(&mut buffer[..length]);
        Poll::Ready(Ok(length))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let ip = self.seat.ip;
        let bytes = self.total - self.left.len();
        if !self.left.is_empty() {
            debug!(%ip, path = self.name, bytes, "TFTP transfer ended early");
            return;
        }
        info!(%ip, path = self.name, bytes, "TFTP");
        let event = StatusEvent::Tftp { ip, name: self.name.to_owned(), bytes: bytes as u64 };
        self.status.lock().apply(event, SystemTime::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StatusBook;

    fn shelf() -> Shelf {
        let loaders =
            Loaders { files: BTreeMap::from([("snponly.efi", Bytes::from_static(b"EFI"))]) };
        let status = Arc::new(Mutex::new(StatusBook::new("A1", 1, SystemTime::UNIX_EPOCH)));
        Shelf { loaders, script: Bytes::from_static(b"#!ipxe"), status, open: Arc::default() }
    }

    fn client(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 77, 0, last], port))
    }

    fn check(name: &str, is_served: bool) {
        let opened = shelf().open(client(50, 1), name);
        assert_eq!(opened.is_ok(), is_served, "{name:?}");
    }

    #[test]
    fn names_are_taken_as_firmware_writes_them() {
        for name in [
            "snponly.efi",
            "/snponly.efi",
            "//snponly.efi",
            "\\snponly.efi",
            "./snponly.efi",
            "snponly.efi\u{ff}",
            "snponly.efi\u{fffd}\u{fffd}",
            "/autoexec.ipxe",
        ] {
            check(name, true);
        }
    }

    #[test]
    fn nothing_but_the_allow_list_is_served() {
        for name in [
            "",
            "/",
            "..",
            "../snponly.efi",
            "a/../snponly.efi",
            "SNPONLY.EFI",
            "snponly.efi/..",
            "ipxe.efi",
            "/etc/passwd",
            "keys/root.key",
            "%2e%2e/snponly.efi",
            "/usr/lib/ipxe/snponly.efi",
            "snponly.efi/",
            "snponly.efi\0/../../etc/shadow",
            "CON",
            "~",
        ] {
            check(name, false);
        }
    }

    #[test]
    fn transfers_are_limited_per_client_and_in_all() {
        let shelf = shelf();
        let mut open: Vec<_> = (0..4)
            .map(|port| shelf.open(client(1, port), "snponly.efi").expect("has room"))
            .collect();
        assert!(shelf.open(client(1, 9), "snponly.efi").is_err());
        open.pop();
        open.push(shelf.open(client(1, 9), "snponly.efi").expect("one ended"));
        for last in 2..33 {
            open.extend(
                (0..4).filter_map(|port| shelf.open(client(last, port), "snponly.efi").ok()),
            );
        }
        assert_eq!(open.len(), MAX_TRANSFERS);
        assert!(shelf.open(client(99, 1), "snponly.efi").is_err());
        drop(open);
        assert!(shelf.open.lock().is_empty());
    }

    #[test]
    fn an_operators_loader_comes_before_the_packages() {
        let own = tempfile::tempdir().expect("a temporary folder");
        let package = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(own.path().join("snponly.efi"), "own").expect("writes");
        std::fs::write(package.path().join("snponly.efi"), "package").expect("writes");
        std::fs::write(package.path().join("undionly.kpxe"), "package").expect("writes");
        std::fs::write(package.path().join("other.efi"), "package").expect("writes");
        let loaders = Loaders::read(&[own.path(), package.path()]).expect("reads");
        assert_eq!(loaders.find("snponly.efi").expect("is there").1, "own");
        assert_eq!(loaders.find("undionly.kpxe").expect("is there").1, "package");
        assert!(loaders.find("other.efi").is_none() && loaders.find("ipxe.pxe").is_none());
        let none = Loaders::read(&[Path::new("/nowhere")]).expect_err("none").to_string();
        assert!(none.contains("/nowhere") && none.contains("apt install ipxe"), "{none}");
    }
}
