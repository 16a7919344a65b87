//! Shell: files over TFTP, for firmware and for GRUB (RFC 1350, 2347-2349, 7440). Read-only.
//!
//! ```text
//! port 69 --request--> names: which file? --> one transfer, on a socket of its own
//! ```
//! `packet.rs` reads and writes packets, `transfer/` is one transfer with the time as input,
//! `session.rs` runs a transfer and `sessions.rs` counts them; what a name means and what the loaders
//! are is said in `boot/`. Only hosts of the lab's own networks are answered, so that nobody
//! else can be flooded through this server. Why not a crate: `docs/decisions/0003-own-tftp.md`.

pub mod packet;
mod session;
mod sessions;
pub mod transfer;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::packet::{ErrorCode, Packet, ReadRequest, printable};
use self::session::Sent;
use self::sessions::{Refusal, Seat, Sessions};
use crate::boot::files::BootFiles;
use crate::boot::loaders::Loaders;
use crate::boot::names::{AUTOEXEC, RequestedFile};
use crate::boot::scripts::Scripts;
use crate::os::open_files;
use crate::os::sockets::{self, BindError};
use crate::status::{SharedStatus, StatusEvent};

/// After an error of the port itself (the interface is down): errors come one per call.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// Open files that are asked for: the transfers, four times over; each has a socket. Where the system
/// gives fewer, requests beyond it wait for the transfers before them.
const MOST_FILES: u64 = 4096;
/// Longer than any request that is read.
const MAX_PACKET: usize = 2048;

/// What the TFTP role needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The boot interface's own address (not 0.0.0.0: strict ROMs check who answers), port 69.
    pub listen: SocketAddr,
    /// The networks whose hosts are answered, each with its mask: the interface's own, and those
    /// behind relays.
    pub networks: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// The loaders that may be fetched.
    pub loaders: Loaders,
    /// The folder that holds `vmlinuz` and `initrd.img`, which GRUB fetches by TFTP.
    pub boot_dir: PathBuf,
    /// What loaders run.
    pub scripts: Scripts,
    /// Our HTTP server, for the scripts.
    pub http: SocketAddr,
}

/// The TFTP role, ready to run.
#[derive(Debug)]
pub struct Tftp {
    socket: std::net::UdpSocket,
    role: Arc<Role>,
}

/// What the transfers share.
#[derive(Debug)]
struct Role {
    settings: Settings,
    boot_files: BootFiles,
    status: SharedStatus,
    sessions: Arc<Sessions>,
}

impl Tftp {
    /// Opens the port.
    ///
    /// # Errors
    /// When it cannot be opened; the error says why.
    pub fn bind(settings: Settings, status: SharedStatus) -> Result<Self, BindError> {
        let socket = sockets::udp("TFTP", settings.listen)?;
        open_files::raise_to(MOST_FILES);
        let boot_files = BootFiles::new(settings.boot_dir.clone());
        let role = Role { settings, boot_files, status, sessions: Arc::default() };
        Ok(Self { socket, role: Arc::new(role) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `shutdown`; transfers that run then are cut short.
    ///
    /// All transfers share one thread: each is a packet of work between two waits, and to wake
    /// another thread for it costs more than the work does.
    ///
    /// # Errors
    /// When the socket cannot be handed to a runtime; not for anything that a client does.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        let serving = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(self.serve(shutdown))
        });
        serving.await.map_err(io::Error::other)?
    }

    async fn serve(self, shutdown: CancellationToken) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(self.socket)?;
        let mut buffer = [0; MAX_PACKET];
        loop {
            let received = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                received = socket.recv_from(&mut buffer) => received,
            };
            let (length, client) = match received {
                Ok(received) => received,
                Err(error) => {
                    warn!(%error, "TFTP cannot receive");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    continue;
                }
            };
            let Some(answer) = self.role.take(&buffer[..length], client, &shutdown) else {
                continue;
            };
            if let Err(error) = socket.send_to(&answer, client).await {
                debug!(%client, %error, "a TFTP answer could not be sent");
            }
        }
    }
}

impl Role {
    /// Takes a packet of port 69; returns the ERROR to answer with, if any.
    fn take(
        self: &Arc<Self>,
        bytes: &[u8],
        client: SocketAddr,
        shutdown: &CancellationToken,
    ) -> Option<Vec<u8>> {
        let ip = self.local_ip(client)?;
        let request = match Packet::parse(bytes) {
            Ok(Packet::Read(request)) => request,
            Ok(Packet::Write) => {
                debug!(%ip, "TFTP write refused");
                return Some(packet::error(ErrorCode::Forbidden, "read only"));
            }
            // An ACK or ERROR that comes too late for its transfer; rubbish.
            Ok(Packet::Ack(_) | Packet::Error { .. }) => return None,
            Err(error) => {
                debug!(%ip, %error, "not a TFTP request");
                return None;
            }
        };
        if !request.is_octet {
            let text = "only mode octet; use binary mode";
            return Some(packet::error(ErrorCode::Illegal, text));
        }
        let requested = RequestedFile::read(&request.name);
        let Some(found) = self.find(&requested, ip) else {
            // Firmware asks for optional files all the time: no warning.
            debug!(%ip, path = printable(&request.name), "TFTP file not found");
            return Some(packet::error(ErrorCode::NotFound, "file not found"));
        };
        match self.sessions.admit(client, &request) {
            Ok(seat) => {
                let role = Arc::clone(self);
                let shutdown = shutdown.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = role.serve(client, request, found, seat) => {}
                    }
                });
            }
            // A request that was sent again; its transfer knows what to do.
            Err(Refusal::Running) => {}
            // Silence: the client asks again in a moment, after an ERROR it would give up.
            Err(Refusal::Full) => debug!(%ip, "too many TFTP transfers at once"),
        }
        None
    }

    /// The client's address, when it is in one of the lab's networks.
    fn local_ip(&self, client: SocketAddr) -> Option<Ipv4Addr> {
        let IpAddr::V4(ip) = client.ip() else { return None };
        let is_in = |(network, mask): &(Ipv4Addr, Ipv4Addr)| {
            (ip.to_bits() ^ network.to_bits()) & mask.to_bits() == 0
        };
        let is_local = self.settings.networks.iter().any(is_in) && client.port() != 0;
        if !is_local {
            debug!(%client, "TFTP request from outside the lab's networks");
        }
        is_local.then_some(ip)
    }

    /// What `requested` is, without reading from disk.
    fn find(&self, requested: &RequestedFile, ip: Ipv4Addr) -> Option<Found> {
        let Settings { loaders, scripts, http, .. } = &self.settings;
        match requested {
            RequestedFile::Script => Some(Found::here(AUTOEXEC, scripts.autoexec(*http))),
            RequestedFile::GrubMenu(name) => {
                Some(Found::here("grub/grub.cfg", scripts.grub(*http, name, ip)?))
            }
            RequestedFile::BootFile(name) => Some(Found::OnDisk(name)),
            RequestedFile::Loader(name) => {
                loaders.find(name).map(|(name, bytes)| Found::here(name, bytes.clone()))
            }
        }
    }

    async fn serve(&self, client: SocketAddr, request: ReadRequest, found: Found, seat: Seat) {
        let (name, file) = match found {
            Found::Here { name, file } => (name, file),
            Found::OnDisk(name) => match self.boot_files.find(name).await {
                Some(file) => (name.to_owned(), file),
                None => return self.refuse(client).await,
            },
        };
        let local = self.settings.listen.ip();
        let ip = client.ip();
        let bytes = file.len() as u64;
        let outcome = session::run(local, client, &request, file, &seat).await;
        match outcome {
            Ok(sent) => {
                match sent {
                    Sent::Acknowledged => info!(%ip, path = name, bytes, "TFTP"),
                    Sent::Probably => {
                        info!(%ip, path = name, bytes, "TFTP; the last ACK did not arrive");
                    }
                }
                let event = StatusEvent::Tftp { ip, name, bytes };
                self.status.lock().apply(event, SystemTime::now());
            }
            Err(error) => debug!(%ip, path = name, %error, "TFTP transfer ended early"),
        }
    }

    /// A boot file that is missing on disk; that was found out too late for port 69 to answer.
    async fn refuse(&self, client: SocketAddr) {
        let answer = packet::error(ErrorCode::NotFound, "file not found");
        let sent = async {
            let socket = UdpSocket::bind((self.settings.listen.ip(), 0)).await?;
            socket.send_to(&answer, client).await
        };
        if let Err(error) = sent.await {
            debug!(%client, %error, "a TFTP answer could not be sent");
        }
    }
}

/// A file that can be had.
#[derive(Debug)]
enum Found {
    /// In memory.
    Here {
        /// For the log and the status page.
        name: String,
        /// All of it.
        file: Bytes,
    },
    /// Read when it is asked for.
    OnDisk(&'static str),
}

impl Found {
    fn here(name: &str, file: impl Into<Bytes>) -> Self {
        Self::Here { name: name.to_owned(), file: file.into() }
    }
}
