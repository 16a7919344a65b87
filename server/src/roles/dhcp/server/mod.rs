//! Shell: receives requests, answers them, keeps the leases, sends.
//!
//! ```text
//! one thread for each card: receive --packets--> answering --OFFER, NAK--> sent at once
//!                                                | work     ^ outcome --ACK--> sent
//!                                                v          |
//!                                                committer: append, sync
//! ```
//! Only ACKs wait for the disk. While it works on some leases, requests go on to be answered; what
//! they changed is then synced together. `lease_log/ledger.rs` says what may be told when.

mod committer;
mod event;
mod mmsg;

use std::collections::VecDeque;
use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::event::Event;
use self::mmsg::Inbox;
use super::network::link_of;
use super::{Answer, Kind, Network, Reply, ReplyKind, Request, Silence, respond};
use crate::boot::arch::{self, LoopGuard};
use crate::lab::config::Pool;
use crate::mac::is_doctor;
use crate::os::card::Card;
use crate::os::sockets::{self, BindError};
use crate::roles::dhcp::lease::{Blocked, LeaseBook, Range};
use crate::roles::dhcp::lease_log::{Change, Kept, LeaseLog, Ledger, LogError, Work};
use crate::status::log_rate_limit::LogRateLimit;
use crate::status::{SharedStatus, StatusEvent};
use bt_catalog::Mac;

/// How often the thread looks whether it should end.
const LOOK_UP: Duration = Duration::from_millis(250);
/// Packets that are answered before any of the answers is sent: with one call instead of many, and
/// soon enough for the first.
const MAX_BATCH: usize = 64;
/// Packets that wait for their answer: two seconds of a large building's power-on.
const MAX_WAITING: usize = 8192;
/// After an error of the socket (the interface is down, say).
const RECEIVE_PAUSE: Duration = Duration::from_millis(500);
/// The same warning is told at most this often.
const WARN_INTERVAL: Duration = Duration::from_mins(1);
/// A PC that cannot be booted, or a relay that is not known, is told of at most this often: they ask
/// again and again.
const UNSUPPORTED_INTERVAL: Duration = Duration::from_mins(10);

/// What DHCP needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The network cards to serve, and no others.
    pub cards: Vec<Card>,
    /// Every network that addresses are given on; see [`Network::all`].
    pub networks: Vec<(Network, Pool)>,
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
    /// One for each card.
    sockets: Vec<UdpSocket>,
    server: Server,
    log: LeaseLog,
}

/// Everything but the sockets.
#[derive(Debug)]
struct Server {
    ledger: Ledger,
    /// For each change that waits for the disk, oldest first, the reply that announces it.
    announced: VecDeque<Option<Outgoing>>,
    /// For each card, every network as it is seen from there, in the order of the ledger's books.
    views: Vec<View>,
    loops: LoopGuard,
    status: SharedStatus,
    clock: Clock,
    warning_limit: LogRateLimit<Topic>,
    unsupported_limit: LogRateLimit<Mac>,
    /// Relays of networks that have no addresses.
    relay_limit: LogRateLimit<Ipv4Addr>,
}

#[derive(Debug)]
struct View {
    own: Ipv4Addr,
    networks: Vec<Network>,
}

/// What a warning is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Topic {
    Full(usize),
    Blocked(Mac),
    Disk,
}

impl Dhcp {
    /// Opens the sockets and reads the leases.
    ///
    /// # Errors
    /// When the port, an interface or the lease log cannot be used; the error says why.
    pub fn bind(settings: Settings, status: SharedStatus) -> Result<Self, DhcpError> {
        let Settings { cards, networks, leases } = settings;
        let books = networks.iter().map(|(network, pool)| book(network, pool, &cards));
        let books = books.collect::<Result<Vec<_>, _>>()?;
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 67));
        let sockets = cards.iter().map(|card| sockets::broadcast_udp("DHCP", &card.name, any));
        let sockets = sockets.collect::<Result<Vec<_>, _>>()?;
        let (log, found) = LeaseLog::open(&leases)?;
        let clock = Clock::start();
        let ledger = Ledger::new(books, &found.records, clock.now());
        info!(networks = networks.len(), records = found.records.len(), "DHCP is ready");
        let view = |card: &Card| View {
            own: card.ip,
            networks: networks.iter().map(|(network, _)| network.seen_from(card.ip)).collect(),
        };
        let mut server = Server {
            ledger,
            announced: VecDeque::new(),
            views: cards.iter().map(view).collect(),
            loops: LoopGuard::default(),
            status,
            clock,
            warning_limit: LogRateLimit::new(WARN_INTERVAL),
            unsupported_limit: LogRateLimit::new(UNSUPPORTED_INTERVAL),
            relay_limit: LogRateLimit::new(UNSUPPORTED_INTERVAL),
        };
        if found.unknown > 0 {
            server.warn(format!(
                "{} lines in {} are of a newer bt-server and were passed over; update this one",
                found.unknown,
                leases.display()
            ));
        }
        if found.damaged > 0 {
            server.warn(format!(
                "{} damaged lines in {} were left out: PCs with those leases may get a new address",
                found.damaged,
                leases.display()
            ));
        }
        Ok(Self { sockets, server, log })
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When a socket cannot be made to wait, or a thread has ended of itself, which takes the others
    /// along; not for anything that a packet does.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        let Self { sockets, mut server, mut log } = self;
        let (sender, events) = mpsc::sync_channel(MAX_WAITING);
        // Cancelled by the shutdown, or when one thread has ended: none works without the others.
        let stop = shutdown.child_token();
        let mut threads = JoinSet::new();
        for (card, socket) in sockets.iter().enumerate() {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(LOOK_UP))?;
            let (socket, sender, stop) = (socket.try_clone()?, sender.clone(), stop.clone());
            threads.spawn_blocking(move || receive(card, &socket, &sender, &stop));
        }
        // One piece of work at a time: the next waits in the ledger.
        let (orders, work) = mpsc::sync_channel(1);
        let outcomes = sender.clone();
        threads.spawn_blocking(move || committer::run(&mut log, &work, &outcomes));
        threads.spawn_blocking(move || server.serve(&events, &orders, &sockets));
        attend(threads, sender, &stop, &shutdown).await
    }
}

/// Waits for the shutdown, or for a thread that ends before; then ends all of them.
async fn attend(
    mut threads: JoinSet<()>,
    sender: SyncSender<Event>,
    stop: &CancellationToken,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let early = tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        ended = threads.join_next() => ended,
    };
    stop.cancel();
    // The answering thread ends by this, if it still can, and the committer by the end of its orders.
    threads.spawn_blocking(move || drop(sender.send(Event::End)));
    let mut outcome = match early {
        None => Ok(()),
        Some(Ok(())) => Err(io::Error::other("one of its threads ended by itself")),
        Some(Err(panic)) => Err(io::Error::other(panic)),
    };
    while let Some(ended) = threads.join_next().await {
        outcome = outcome.and(ended.map_err(io::Error::other));
    }
    outcome
}

/// The empty book of one network.
fn book(network: &Network, pool: &Pool, cards: &[Card]) -> Result<LeaseBook, DhcpError> {
    let (first, last) = pool.range;
    let range = Range::new(first, last).ok_or(DhcpError::EmptyRange(first, last))?;
    let own = cards.iter().map(|card| card.ip);
    let mut book = LeaseBook::new(range, own.chain(network.router).collect(), pool.lease);
    network.reservations().for_each(|(mac, ip)| book.add_reservation(mac, ip));
    network.nodes.hosts.iter().filter_map(|host| host.mac).for_each(|mac| book.add_known(mac));
    Ok(book)
}

/// Takes packets from the socket as they come: the kernel keeps only some hundred, fewer than a
/// slow disk would let pile up. Ends by `shutdown`, or when nobody answers any more.
fn receive(
    card: usize,
    socket: &UdpSocket,
    events: &SyncSender<Event>,
    shutdown: &CancellationToken,
) {
    let mut inbox = Inbox::new();
    while !shutdown.is_cancelled() {
        match inbox.receive(socket) {
            Ok(()) => {
                for (packet, _) in inbox.packets() {
                    match events.try_send(Event::Packet(card, packet.to_vec())) {
                        Ok(()) => {}
                        // As the kernel would: the nodes ask again.
                        Err(TrySendError::Full(_)) => {
                            debug!("DHCP packet dropped: too many are waiting");
                        }
                        Err(TrySendError::Disconnected(_)) => return,
                    }
                }
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => {
                warn!(%error, "DHCP cannot receive");
                std::thread::sleep(RECEIVE_PAUSE);
            }
        }
    }
}

/// A reply, what it answers, and the index of the card that it leaves by.
#[derive(Debug)]
struct Outgoing {
    card: usize,
    request: Request,
    reply: Reply,
}

impl Server {
    /// Answers what `events` brings, until the end.
    fn serve(
        &mut self,
        events: &Receiver<Event>,
        orders: &SyncSender<Work>,
        sockets: &[UdpSocket],
    ) {
        while let Ok(first) = events.recv() {
            let now = self.clock.now();
            let mut replies = Vec::new();
            for event in std::iter::once(first).chain(events.try_iter().take(MAX_BATCH - 1)) {
                match event {
                    Event::Packet(card, packet) => {
                        replies.extend(self.take(card, &packet, now));
                    }
                    Event::Kept(outcome) => replies.extend(self.settle(&outcome, now)),
                    Event::NotCompacted(error) => self.tell_disk(&error, now),
                    Event::End => return,
                }
            }
            self.ledger.time_of_day(now, Clock::time_of_day());
            // First, so that the disk is not idle meanwhile. The committer takes one at a time, and
            // is done with that: this never waits.
            if let Some(work) = self.ledger.begin()
                && orders.send(work).is_err()
            {
                return;
            }
            self.send(sockets, replies);
        }
    }

    /// Answers a packet. A reply that waits for the disk is put aside.
    fn take(&mut self, card: usize, packet: &[u8], now: SystemTime) -> Option<Outgoing> {
        if self.ledger.is_full() {
            debug!("DHCP packet dropped: too much waits for the disk");
            return None;
        }
        let (request, answer) = self.answer(card, packet, now)?;
        match answer {
            Answer::Send(reply) => {
                let grant = reply.grant;
                let outgoing = Outgoing { card, request, reply };
                let Some(grant) = grant else { return Some(outgoing) };
                let (lease, before) = (grant.lease, grant.before);
                self.ledger.change(Change::Granted { lease, before });
                self.announced.push_back(Some(outgoing));
            }
            Answer::Keep(record) => {
                self.ledger.change(Change::Noted(record));
                self.announced.push_back(None);
            }
            Answer::Silent(_) => {}
        }
        None
    }

    /// Takes the disk's answer; returns the replies that may be sent.
    fn settle(&mut self, outcome: &Result<usize, LogError>, now: SystemTime) -> Vec<Outgoing> {
        if let Err(error) = outcome {
            self.tell_disk(error, now);
        }
        let kept = self.ledger.settle(outcome, now);
        let announced = self.announced.drain(..kept.len());
        let announce = |(kept, outgoing): (Kept, Option<Outgoing>)| {
            let mut outgoing = outgoing?;
            match kept {
                Kept::Durable => {}
                Kept::Until(until) => {
                    let left = until.duration_since(now).unwrap_or_default();
                    shorten(&mut outgoing.reply.bytes, left);
                }
                Kept::Lost => return None,
            }
            Some(outgoing)
        };
        kept.into_iter().zip(announced).filter_map(announce).collect()
    }

    fn send(&mut self, sockets: &[UdpSocket], mut replies: Vec<Outgoing>) {
        for (card, socket) in sockets.iter().enumerate() {
            let of_card: Vec<Outgoing> = replies.extract_if(.., |it| it.card == card).collect();
            self.send_by(socket, of_card);
        }
    }

    fn send_by(&mut self, socket: &UdpSocket, mut replies: Vec<Outgoing>) {
        let packets: Vec<_> = replies
            .iter()
            .map(|it| (it.reply.bytes.as_slice(), it.reply.to.socket_address()))
            .collect();
        let mut unsent = Vec::new();
        mmsg::send(socket, &packets, |index, error| {
            let Outgoing { request, reply, .. } = &replies[index];
            let to = reply.to.socket_address();
            warn!(mac = %request.mac, %to, %error, "DHCP reply not sent");
            unsent.push(index);
        });
        // Downwards, so that the indices still to come stay right.
        unsent.into_iter().rev().for_each(|index| drop(replies.remove(index)));
        self.tell(&replies);
    }

    /// What to do about one packet; the lease book has changed already.
    fn answer(&mut self, card: usize, packet: &[u8], now: SystemTime) -> Option<(Request, Answer)> {
        let View { own, networks } = &self.views[card];
        let request = match Request::parse(packet, *own) {
            Ok(request) => request,
            Err(reason) => {
                debug!(%reason, bytes = packet.len(), "DHCP packet ignored");
                return None;
            }
        };
        let Some(index) = Network::of(networks, *own, &request) else {
            debug!(mac = %request.mac, relay = %request.giaddr, reason = %Silence::OtherNetwork, "no DHCP reply");
            self.tell_unknown_network(&request, now);
            return None;
        };
        let is_discover = matches!(request.kind, Kind::Discover { .. });
        if is_discover && !self.ledger.may_offer(index, request.mac, now) {
            debug!(mac = %request.mac, "no DHCP reply: its lease could not be kept");
            return None;
        }
        let answer = respond(&request, self.ledger.book(index), &networks[index], now);
        if let Answer::Silent(reason) = &answer {
            debug!(mac = %request.mac, kind = ?request.kind, %reason, "no DHCP reply");
            match *reason {
                Silence::Full => self.tell_full(index, now),
                Silence::Blocked(blocked) => self.tell_blocked(request.mac, blocked, now),
                _ => {}
            }
        }
        Some((request, answer))
    }

    /// Tells log and supervisor of the replies that left; the table is locked once for all.
    fn tell(&mut self, replies: &[Outgoing]) {
        let mut events = Vec::new();
        for Outgoing { request, reply, .. } in replies {
            let boot = reply.boot.as_ref().map_or("", |boot| boot.name());
            let (mac, ip) = (request.mac, reply.ip);
            match reply.kind {
                ReplyKind::Ack => {
                    // A node that boots is a step of a journey; a thousand renewals are not.
                    if reply.boot.is_some() {
                        info!(%mac, %ip, boot, "DHCP lease");
                    } else {
                        debug!(%mac, %ip, "DHCP lease");
                    }
                    events.push(StatusEvent::Leased {
                        mac,
                        ip,
                        arch: request.arch_code,
                        host: request.host.clone(),
                    });
                    self.look_for_trouble(request, reply);
                }
                ReplyKind::Offer
                | ReplyKind::Informed
                | ReplyKind::ProxyOffer
                | ReplyKind::ProxyAck => {
                    debug!(%mac, %ip, boot, kind = ?reply.kind, "DHCP reply");
                }
                ReplyKind::Nak => info!(%mac, %ip, "DHCP address refused"),
            }
        }
        if !events.is_empty() {
            let now = SystemTime::now();
            let mut status = self.status.lock();
            events.into_iter().for_each(|event| status.apply(event, now));
        }
    }

    fn look_for_trouble(&mut self, request: &Request, reply: &Reply) {
        let now = self.clock.now();
        let is_first_hop = reply.boot.as_ref().is_some_and(|boot| boot.is_first_hop());
        // The doctor looks as often as somebody starts it.
        if is_first_hop
            && !is_doctor(request.mac)
            && self.loops.is_looping(request.mac, request.xid, now)
        {
            self.warn(format!(
                "{} ({}) keeps requesting its boot loader and never gets further; \
                 check cable and firmware, or whether Secure Boot refuses iPXE",
                request.mac, reply.ip
            ));
        }
        if let (Some(_), None, Kind::Request { .. }) = (request.boot, &reply.boot, request.kind)
            && self.unsupported_limit.is_due(request.mac, now)
        {
            let code = request.arch_code.unwrap_or_default();
            warn!(
                mac = %request.mac,
                arch = code,
                "{} cannot be booted: this PC gets an address and no boot file",
                arch::describe(code)
            );
        }
    }

    fn tell_full(&mut self, network: usize, now: SystemTime) {
        if self.warning_limit.is_due(Topic::Full(network), now) {
            let at = self.views[0].networks[network].first_address();
            self.warn(format!(
                "every address of the DHCP range in {at} is in use or kept for known PCs, so further \
                 PCs get none; widen `range` or shorten `lease` in server.toml"
            ));
        }
    }

    fn tell_unknown_network(&mut self, request: &Request, now: SystemTime) {
        let Some(link) = link_of(request) else { return };
        if self.relay_limit.is_due(request.giaddr, now) {
            let known = self.views[0].networks.iter().map(|it| it.first_address().to_string());
            self.warn(format!(
                "the relay {} forwards requests from the network of {link}, which has no addresses to \
                 give, so its PCs get none (there are some in {}); write a [[dhcp.subnet]] with that \
                 `network`, its `range` and `router` in server.toml, or take this server out of the \
                 relay's list",
                request.giaddr,
                known.collect::<Vec<_>>().join(", ")
            ));
        }
    }

    fn tell_blocked(&mut self, mac: Mac, blocked: Blocked, now: SystemTime) {
        if !self.warning_limit.is_due(Topic::Blocked(mac), now) {
            return;
        }
        let Blocked { ip, by, until } = blocked;
        let minutes = until.duration_since(now).unwrap_or_default().as_secs().div_ceil(60);
        self.warn(match by {
            Some(by) => format!(
                "{mac} waits for its fixed address {ip}, which {by} has for {minutes} min more; \
                 switch that PC off and on to have it earlier"
            ),
            None => format!(
                "{mac} found its fixed address {ip} in use by another device and waits {minutes} min; \
                 find that device, or choose another `address` for the PC in server.toml"
            ),
        });
    }

    fn tell_disk(&mut self, error: &LogError, now: SystemTime) {
        if self.warning_limit.is_due(Topic::Disk, now) {
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            self.warn(format!(
                "{error} ({cause}); until then PCs keep their addresses, but new ones get none"
            ));
        }
    }

    fn warn(&mut self, text: String) {
        warn!("{text}");
        self.status.lock().apply(StatusEvent::Warning { text }, SystemTime::now());
    }
}

/// Nothing came in time, or a signal came instead.
fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Fixed part of a message and the magic cookie (RFC 2131 §2).
const OPTIONS_AT: usize = 240;

/// Makes the lease in a finished ACK end after `left`: the disk refused when all else was ready.
fn shorten(ack: &mut [u8], left: Duration) {
    let secs = u32::try_from(left.as_secs()).unwrap_or(u32::MAX);
    let mut at = OPTIONS_AT;
    while let Some(&code) = ack.get(at) {
        let length = match code {
            0 => {
                at += 1;
                continue;
            }
            255 => break,
            _ => ack.get(at + 1).copied().map_or(0, usize::from),
        };
        let value = match code {
            51 => Some(secs),
            58 => Some(secs / 2),
            59 => Some(secs - secs / 8),
            _ => None,
        };
        if let (Some(value), Some(place)) = (value, ack.get_mut(at + 2..at + 2 + length))
            && length == 4
        {
            place.copy_from_slice(&value.to_be_bytes());
        }
        at += 2 + length;
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
        Self { wall: Self::time_of_day(), started: Instant::now() }
    }

    fn time_of_day() -> SystemTime {
        SystemTime::now()
    }

    fn now(&self) -> SystemTime {
        self.wall + self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::lab::config::Config;
    use crate::roles::dhcp::client::{Client, Firmware};
    use crate::status::StatusBook;

    /// One card, 10.77.0.1, and the range of `[dhcp]` alone.
    fn server() -> Server {
        let text =
            "interface = \"eth0\"\n[dhcp]\nmode = \"full\"\nrange = \"10.77.0.50-10.77.0.99\"\n";
        let config = Config::parse(text).expect("valid");
        let (ip, netmask) = ([10, 77, 0, 1].into(), [255, 255, 255, 0].into());
        let cards = [Card { name: "eth0".to_owned(), ip, netmask }];
        let networks = Network::all(&config, &cards);
        let books = networks.iter().map(|(network, pool)| book(network, pool, &cards));
        let books: Vec<_> = books.map(|book| book.expect("a range")).collect();
        let clock = Clock::start();
        let networks = networks.into_iter().map(|(network, _)| network).collect();
        let status = StatusBook::new("A1", 1, SystemTime::UNIX_EPOCH);
        Server {
            ledger: Ledger::new(books, &[], clock.now()),
            announced: VecDeque::new(),
            views: vec![View { own: ip, networks }],
            loops: LoopGuard::default(),
            status: Arc::new(Mutex::new(status)),
            clock,
            warning_limit: LogRateLimit::new(WARN_INTERVAL),
            unsupported_limit: LogRateLimit::new(UNSUPPORTED_INTERVAL),
            relay_limit: LogRateLimit::new(UNSUPPORTED_INTERVAL),
        }
    }

    #[test]
    fn a_relay_of_a_network_without_addresses_is_told_of_once_with_the_cure() {
        let mut server = server();
        let now = server.clock.now();
        let ask = |relay: [u8; 4], server: &mut Server, now| {
            let mut packet = Client::doctor(Firmware::Uefi, 7).discover(None);
            packet[24..28].copy_from_slice(&relay);
            server.take(0, &packet, now).is_some()
        };
        assert!(ask([0; 4], &mut server, now), "a PC of the card's own network");
        assert!(ask([10, 77, 0, 2], &mut server, now), "a relay of the same");
        let problems = |server: &Server| server.status.lock().snapshot(now).problems;
        assert_eq!(problems(&server).len(), 0);
        for _ in 0..3 {
            assert!(!ask([10, 90, 0, 1], &mut server, now));
        }
        assert!(!ask([10, 91, 0, 1], &mut server, now));
        let told = problems(&server);
        assert_eq!(told.iter().map(|it| it.count).collect::<Vec<_>>(), [1, 1], "{told:?}");
        let words = &told[1].text;
        assert!(words.contains("10.90.0.1") && words.contains("[[dhcp.subnet]]"), "{words}");
        ask([10, 90, 0, 1], &mut server, now + UNSUPPORTED_INTERVAL);
        assert_eq!(problems(&server).len(), 3, "it still asks");
    }

    #[test]
    fn a_shortened_ack_says_so_in_all_three_times() {
        let mut ack = vec![0; OPTIONS_AT];
        ack.extend([53, 1, 5, 0, 51, 4, 0, 0, 14, 16, 58, 4, 0, 0, 7, 8, 59, 4, 0, 0, 12, 78]);
        ack.extend([1, 4, 255, 255, 255, 0, 255, 51, 4, 9, 9, 9, 9]);
        shorten(&mut ack, Duration::from_secs(120));
        let expected = [
            53, 1, 5, 0, 51, 4, 0, 0, 0, 120, 58, 4, 0, 0, 0, 60, 59, 4, 0, 0, 0, 105, 1, 4, 255,
            255, 255, 0, 255, 51, 4, 9, 9, 9, 9,
        ];
        assert_eq!(ack[OPTIONS_AT..], expected);
    }

    #[test]
    fn who_receives_ends_when_nobody_answers_any_more() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        socket.set_read_timeout(Some(LOOK_UP)).expect("sets");
        let to = socket.local_addr().expect("bound");
        let (sender, events) = mpsc::sync_channel(1);
        drop(events);
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || {
            receive(0, &socket, &sender, &CancellationToken::new());
            ended.send(()).expect("the test waits");
        });
        let client = UdpSocket::bind("127.0.0.1:0").expect("binds");
        client.send_to(&[0; 300], to).expect("sent");
        end.recv_timeout(Duration::from_secs(20)).expect("it ends");
    }

    #[tokio::test]
    async fn a_thread_that_ends_early_takes_the_others_along_and_is_told() {
        async fn check(fails: fn(), expected: Option<&str>) {
            let (sender, events) = mpsc::sync_channel(1);
            let shutdown = CancellationToken::new();
            let stop = shutdown.child_token();
            let mut threads = JoinSet::new();
            threads.spawn_blocking(move || {
                assert!(matches!(events.recv(), Ok(Event::End)), "the answering thread is told");
            });
            if expected.is_some() {
                threads.spawn_blocking(fails);
            } else {
                shutdown.cancel();
            }
            let outcome = attend(threads, sender, &stop, &shutdown).await;
            let words = outcome.err().map(|error| error.to_string());
            assert!(stop.is_cancelled());
            assert_eq!(words.is_some(), expected.is_some(), "{words:?}");
            assert!(words.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
        check(|| panic!("the committer's disk is odd"), Some("the committer's disk is odd")).await;
        check(|| {}, Some("ended by itself")).await;
        check(|| {}, None).await;
    }

    #[test]
    fn a_cut_ack_is_left_alone() {
        for length in OPTIONS_AT..OPTIONS_AT + 6 {
            let mut ack = vec![51; length];
            shorten(&mut ack, Duration::ZERO);
            assert_eq!(ack, vec![51; length]);
        }
    }
}
