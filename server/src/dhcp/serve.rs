//! Shell: receives requests, answers them, keeps the leases, sends.
//!
//! Requests that are waiting already are answered together, and their leases are synced to disk
//! together before any of their ACKs leaves: while the disk works, the kernel collects the next.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Answer, Kind, Network, Reply, ReplyKind, Request, Silence, respond};
use crate::arch::LoopGuard;
use crate::bind::{self, BindError};
use crate::lease::{LeaseBook, Range, Record};
use crate::lease_log::{LeaseLog, LogError};
use crate::status::{SharedStatus, StatusEvent};

/// Requests that share one sync of the disk.
const BATCH: usize = 64;
/// Longer than any DHCP message in one Ethernet frame.
const MAX_PACKET: usize = 2048;
/// After an error of the socket (the interface is down, say).
const RECEIVE_PAUSE: Duration = Duration::from_millis(500);
/// The same warning is told at most this often.
const WARN_INTERVAL: Duration = Duration::from_mins(1);

/// What DHCP needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The interface to serve, and no other.
    pub interface: String,
    /// Our address on it.
    pub server: Ipv4Addr,
    /// Its network's mask.
    pub netmask: Ipv4Addr,
    /// First and last address to give.
    pub range: (Ipv4Addr, Ipv4Addr),
    /// How long a lease lasts.
    pub lease: Duration,
    /// The way out of the network, if there is one.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name.
    pub domain: Option<String>,
    /// Port of our HTTP server.
    pub http_port: u16,
    /// The lease log.
    pub leases: PathBuf,
}

/// Why DHCP cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    /// The socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The lease log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The range of server.toml.
    #[error("the DHCP range {0}-{1} is empty: its last address comes before its first")]
    EmptyRange(Ipv4Addr, Ipv4Addr),
}

/// The DHCP role, ready to run.
#[derive(Debug)]
pub struct Dhcp {
    socket: UdpSocket,
    server: Server,
}

/// Everything but the socket.
#[derive(Debug)]
struct Server {
    book: LeaseBook,
    network: Network,
    loops: LoopGuard,
    status: SharedStatus,
    clock: Clock,
    full_told: Option<SystemTime>,
    /// `None` while a blocking thread has it.
    log: Option<LeaseLog>,
}

impl Dhcp {
    /// Opens the socket and reads the leases.
    ///
    /// # Errors
    /// When the port, the interface or the lease log cannot be used; the error says why.
    pub fn bind(settings: Settings, status: SharedStatus) -> Result<Self, DhcpError> {
        let (first, last) = settings.range;
        let range = Range::new(first, last).ok_or(DhcpError::EmptyRange(first, last))?;
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 67));
        let socket = bind::broadcast_udp("DHCP", &settings.interface, any)?;
        let (log, found) = LeaseLog::open(&settings.leases)?;
        let reserved = [Some(settings.server), settings.router].into_iter().flatten().collect();
        let mut book = LeaseBook::new(range, reserved, settings.lease);
        let count = found.records.len();
        found.records.into_iter().for_each(|record| book.restore(record));
        info!(interface = settings.interface, records = count, "DHCP is ready");
        let network = Network {
            server: settings.server,
            netmask: settings.netmask,
            router: settings.router,
            dns: settings.dns,
            domain: settings.domain,
            http_port: settings.http_port,
        };
        let mut server = Server {
            book,
            network,
            loops: LoopGuard::default(),
            status,
            clock: Clock::start(),
            full_told: None,
            log: Some(log),
        };
        if found.damaged > 0 {
            server.warn(format!(
                "{} damaged lines in {} were left out: nodes with those leases may get a new address",
                found.damaged,
                settings.leases.display()
            ));
        }
        Ok(Self { socket, server })
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When the socket cannot be handed to the runtime; not for anything that a packet does.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        let Self { socket, mut server } = self;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            let received = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                received = socket.recv_from(&mut buffer) => received,
            };
            match received {
                Ok((length, _)) => {
                    let mut batch = Batch::default();
                    batch.add(server.answer(&buffer[..length]));
                    while batch.len < BATCH {
                        let Ok((length, _)) = socket.try_recv_from(&mut buffer) else { break };
                        batch.add(server.answer(&buffer[..length]));
                    }
                    let replies = server.keep(batch).await;
                    for (request, reply) in replies {
                        let to = SocketAddr::V4(reply.to.socket_address());
                        match socket.send_to(&reply.bytes, to).await {
                            Ok(_) => server.sent(&request, &reply),
                            Err(error) => {
                                warn!(mac = %request.mac, %to, %error, "DHCP reply not sent");
                            }
                        }
                    }
                }
                Err(error) => {
                    warn!(%error, "DHCP cannot receive");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                }
            }
        }
    }
}

/// Answers that wait for one sync.
#[derive(Default)]
struct Batch {
    /// Packets taken in, answered or not.
    len: usize,
    replies: Vec<(Request, Reply)>,
    records: Vec<Record>,
}

impl Batch {
    fn add(&mut self, answer: Option<(Request, Answer)>) {
        self.len += 1;
        match answer {
            Some((request, Answer::Send(reply))) => {
                self.records.extend(reply.grant.map(|grant| Record::Leased(grant.lease)));
                self.replies.push((request, reply));
            }
            Some((_, Answer::Keep(record))) => self.records.push(record),
            Some((_, Answer::Silent(_))) | None => {}
        }
    }
}

impl Server {
    /// What to do about one packet; the lease book has changed already.
    fn answer(&mut self, packet: &[u8]) -> Option<(Request, Answer)> {
        let request = match Request::parse(packet, self.network.server) {
            Ok(request) => request,
            Err(reason) => {
                debug!(%reason, bytes = packet.len(), "DHCP packet ignored");
                return None;
            }
        };
        let answer = respond(&request, &mut self.book, &self.network, self.clock.now());
        if let Answer::Silent(reason) = &answer {
            debug!(mac = %request.mac, kind = ?request.kind, %reason, "no DHCP reply");
            if *reason == Silence::Full {
                self.tell_full();
            }
        }
        Some((request, answer))
    }

    /// Puts the batch's records on disk; returns the replies that may be sent.
    async fn keep(&mut self, batch: Batch) -> Vec<(Request, Reply)> {
        let Batch { mut replies, records, .. } = batch;
        if records.is_empty() {
            return replies;
        }
        let mut log = self.log.take().expect("only this function takes the log, and puts it back");
        let work = tokio::task::spawn_blocking(move || {
            let appended = log.append(&records);
            (log, appended)
        });
        let (log, appended) = work.await.expect("appending to the log does not panic");
        self.log = Some(log);
        match appended {
            Ok(()) => self.compact_when_wasteful(),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                self.warn(format!(
                    "{error} ({}); new nodes get no address until then",
                    cause.unwrap_or_default()
                ));
                // A renewal changes no owner: the disk knows it already. The rest is taken back.
                replies.retain(|(_, reply)| match reply.grant {
                    Some(grant) if !grant.is_renewal() => {
                        self.book.undo(grant.lease, grant.before);
                        false
                    }
                    Some(_) | None => true,
                });
            }
        }
        replies
    }

    fn compact_when_wasteful(&mut self) {
        let Some(log) = &mut self.log else { return };
        if log.is_wasteful(self.book.len())
            && let Err(error) = log.compact(&self.book.records())
        {
            self.warn(error.to_string());
        }
    }

    /// Tells log and supervisor of a reply that left.
    fn sent(&mut self, request: &Request, reply: &Reply) {
        let boot = reply.boot.as_ref().map_or("", |boot| boot.name());
        match reply.kind {
            ReplyKind::Ack => {
                info!(mac = %request.mac, ip = %reply.ip, boot, "DHCP lease");
                let event = StatusEvent::Leased {
                    mac: request.mac.0,
                    ip: reply.ip,
                    arch: request.arch_code,
                    host: request.host.clone(),
                };
                self.status.lock().apply(event, SystemTime::now());
                self.look_for_trouble(request, reply);
            }
            ReplyKind::Offer | ReplyKind::Informed => {
                debug!(mac = %request.mac, ip = %reply.ip, boot, kind = ?reply.kind, "DHCP reply");
            }
            ReplyKind::Nak => info!(mac = %request.mac, ip = %reply.ip, "DHCP address refused"),
        }
    }

    fn look_for_trouble(&mut self, request: &Request, reply: &Reply) {
        let now = self.clock.now();
        let is_first_hop = reply.boot.as_ref().is_some_and(|boot| boot.is_first_hop());
        if is_first_hop && self.loops.is_looping(request.mac, now) {
            self.warn(format!(
                "{} ({}) loads its first loader again and again and never gets further; \
                 check cable and firmware, or whether Secure Boot refuses iPXE",
                request.mac, reply.ip
            ));
        }
        if let (Some(_), None, Kind::Request { .. }) = (request.boot, &reply.boot, request.kind) {
            warn!(
                mac = %request.mac,
                arch = request.arch_code,
                "this node's architecture cannot be booted: it gets an address only"
            );
        }
    }

    fn tell_full(&mut self) {
        let now = self.clock.now();
        let is_due = self.full_told.is_none_or(|told| {
            now.duration_since(told).is_ok_and(|elapsed| elapsed >= WARN_INTERVAL)
        });
        if is_due {
            self.full_told = Some(now);
            self.warn(
                "every address of the DHCP range is in use, so further nodes get none; \
                 widen `range` or shorten `lease` in server.toml"
                    .to_owned(),
            );
        }
    }

    fn warn(&mut self, text: String) {
        warn!("{text}");
        self.status.lock().apply(StatusEvent::Warning { text }, SystemTime::now());
    }
}

/// The time of day at the start, moved on by a clock that nobody sets: leases neither end nor last
/// for ever when the machine's clock is corrected.
#[derive(Debug)]
struct Clock {
    wall: SystemTime,
    started: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this shell's clock; the core gets its result")]
    fn start() -> Self {
        Self { wall: SystemTime::now(), started: Instant::now() }
    }

    fn now(&self) -> SystemTime {
        self.wall + self.started.elapsed()
    }
}
