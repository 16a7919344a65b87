//! Shell: the two roles, [`Seed`] and [`Node`], with their listeners, dials and clock ticks.
//!
//! Announcing is the caller's: it asks the tracker (see [`crate::protocol::announce`]) and feeds
//! the answer to [`Node::add_peers`].

mod connection;
mod connection_limit;
mod member;
mod worker;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use connection::Ended;
use connection_limit::ConnectionLimit;
use member::{Member, now};
use worker::Worker;

use crate::error::SwarmError;
use crate::protocol::infohash::Infohash;
use crate::protocol::peer_id::PeerId;
use crate::protocol::utp;
use crate::storage::Storage;
use crate::swarm::dial::{DialBook, Ending};

use crate::swarm::{Locality, Progress, Refusal, Swarm, TICK_OF_NODE, TICK_OF_SEED};
use crate::torrent::Metainfo;

/// Wait after an error of the listener.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Connections of one listener, shaking hands or established; more are closed at once.
const MAX_CONNECTIONS_OF_SEED: usize = 2048;

/// The same for a node, whose system allows 1024 open files.
const MAX_CONNECTIONS_OF_NODE: usize = 512;

/// Stock clients that a seed dials at once; more are left to their own efforts.
const MAX_INVITATIONS: usize = 32;

/// Most clients dial soon after their announce; only the others need an invitation. Not sooner:
/// libtorrent dials by TCP one second after uTP was refused, and of two connections that cross at
/// that moment it may close both, and then stays away for a minute.
const INVITATION_DELAY: Duration = Duration::from_millis(2500);

/// How a seed runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedOptions {
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
}

impl Default for SeedOptions {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([0, 0, 0, 0], 6881)) }
    }
}

/// How a node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The server's address. It is never banned; wrong data from it is told as
    /// [`SwarmError::WrongSource`] instead.
    pub server: Option<IpAddr>,
    /// The node's own address and the length of its network's prefix: peers of this network are
    /// preferred. `None`: all are alike.
    pub network: Option<(IpAddr, u8)>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([0, 0, 0, 0], 0)), server: None, network: None }
    }
}

/// What a seed gave in one swarm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeedStats {
    /// Payload bytes sent.
    pub uploaded: u64,
    /// Connected peers.
    pub peers: usize,
}

/// Gives any number of torrents on one port, super-seeding each.
pub struct Seed {
    id: PeerId,
    port: u16,
    members: Members,
    invitations: Arc<Semaphore>,
    stop: CancellationToken,
    worker: Worker,
}

type Members = Arc<RwLock<HashMap<Infohash, Arc<Member>>>>;

impl Seed {
    /// Listens; torrents are added afterwards.
    ///
    /// # Errors
    /// If the port cannot be had.
    pub async fn start(options: SeedOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let stop = CancellationToken::new();
        let worker = Worker::start(&stop)?;
        let seed = Self {
            id: PeerId::boottorrent(rand::random()),
            port: listener.local_addr()?.port(),
            members: Members::default(),
            invitations: Arc::new(Semaphore::new(MAX_INVITATIONS)),
            stop,
            worker,
        };
        let members = Arc::clone(&seed.members);
        let lookup = move |infohash| members.read().get(&infohash).cloned();
        let limit = ConnectionLimit::new(MAX_CONNECTIONS_OF_SEED);
        listen(listener, limit, seed.id, lookup, &seed.stop, &seed.worker)?;
        refuse_utp(SocketAddr::new(options.listen.ip(), seed.port), &seed.stop, &seed.worker);
        let members = Arc::clone(&seed.members);
        tick(TICK_OF_SEED, &seed.stop, &seed.worker, move || {
            let members: Vec<Arc<Member>> = members.read().values().cloned().collect();
            members.iter().for_each(|member| member.tick());
        });
        Ok(seed)
    }

    /// Gives one more torrent. One of the same infohash is replaced.
    pub fn add(&self, metainfo: Metainfo, storage: Arc<dyn Storage>) {
        let (infohash, metadata) = (metainfo.infohash(), metainfo.info_bytes().len());
        let swarm = Swarm::seed(metainfo.layout(), self.id, metadata, now());
        let stop = self.stop.child_token();
        let member = Member::new(metainfo, storage, swarm, stop, self.worker.clone());
        if let Some(old) = self.members.write().insert(infohash, member) {
            old.close();
        }
    }

    /// Gives a torrent no more and ends its connections.
    pub fn remove(&self, infohash: Infohash) {
        if let Some(member) = self.members.write().remove(&infohash) {
            member.close();
        }
    }

    /// Dials a client that has announced itself, once, unless it gets through first.
    ///
    /// Our own nodes dial the seed and need none of this. Of stock clients some never get through:
    /// Transmission 3.00 tries uTP first and then stumbles over its own fallback to TCP. So the
    /// tracker passes on each announce of a stock client that is not complete.
    pub fn invite(&self, infohash: Infohash, address: SocketAddr) {
        let Some(member) = self.members.read().get(&infohash).cloned() else { return };
        let Ok(permit) = Arc::clone(&self.invitations).try_acquire_owned() else { return };
        let (id, stop) = (self.id, member.stop.clone());
        self.worker.spawn(stop.run_until_cancelled_owned(async move {
            tokio::time::sleep(INVITATION_DELAY).await;
            if member.with(|swarm, _| swarm.has_peer_at(address.ip())) {
                return;
            }
            // Only the dialling is limited, not the connection that comes of it.
            let ended = connection::dial(&member, id, address, || drop(permit)).await;
            debug!(peer = %address, %ended, "invitation ended");
        }));
    }

    /// What was given of a torrent; `None` if it is not one of this seed's.
    pub fn stats(&self, infohash: Infohash) -> Option<SeedStats> {
        let member = self.members.read().get(&infohash).cloned()?;
        Some(
            member.with(|swarm, _| SeedStats {
                uploaded: swarm.uploaded(),
                peers: swarm.peer_count(),
            }),
        )
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection and waits until all is let go.
    pub async fn stop(self) {
        self.stop.cancel();
        self.worker.ended().await;
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Downloads one torrent and gives it on while it runs.
pub struct Node {
    id: PeerId,
    port: u16,
    member: Arc<Member>,
    dials: Arc<Mutex<DialBook>>,
}

impl Node {
    /// Listens and waits for peers; nothing of the payload is taken as being in `storage`.
    ///
    /// # Errors
    /// If the port cannot be had.
    pub async fn start(
        metainfo: Metainfo,
        storage: Arc<dyn Storage>,
        options: NodeOptions,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let port = listener.local_addr()?.port();
        let id = PeerId::boottorrent(rand::random());
        let (layout, metadata) = (metainfo.layout(), metainfo.info_bytes().len());
        let locality = Locality { server: options.server, network: options.network };
        let swarm = Swarm::node(layout, id, metadata, locality, rand::random(), now());
        let stop = CancellationToken::new();
        let worker = Worker::start(&stop)?;
        let member = Member::new(metainfo, storage, swarm, stop.clone(), worker.clone());
        let own = Arc::clone(&member);
        let lookup = move |infohash| (own.meta.infohash() == infohash).then(|| Arc::clone(&own));
        let limit = ConnectionLimit::new(MAX_CONNECTIONS_OF_NODE);
        let dials = Arc::new(Mutex::new(DialBook::default()));
        let node = Self { id, port, member: Arc::clone(&member), dials: Arc::clone(&dials) };
        // If this fails, dropping the node ends the worker.
        listen(listener, limit, id, lookup, &stop, &worker)?;
        refuse_utp(SocketAddr::new(options.listen.ip(), port), &stop, &worker);
        tick(TICK_OF_NODE, &stop, &worker, move || {
            member.tick();
            dial_due(&member, id, &dials);
        });
        Ok(node)
    }

    /// Learns where peers are. Known ones may come again: each is dialled until it is connected.
    pub fn add_peers(&self, peers: &[SocketAddr]) {
        {
            let mut dials = self.dials.lock();
            peers.iter().for_each(|peer| dials.learn(*peer));
        }
        dial_due(&self.member, self.id, &self.dials);
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.member.with(|swarm, now| swarm.progress(now))
    }

    /// Waits until every piece is here and checked. The node goes on giving until it is stopped.
    ///
    /// # Errors
    /// [`SwarmError`] if that cannot happen any more.
    pub async fn finished(&self) -> Result<(), SwarmError> {
        let mut outcome = self.member.outcome();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(SwarmError::Stopped)),
            Err(_) => Err(SwarmError::Stopped),
        }
    }

    /// The port it listens on, for the announce.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How it calls itself, for the announce.
    pub fn peer_id(&self) -> PeerId {
        self.id
    }

    /// Ends every connection and waits until the storage is let go.
    pub async fn stop(self) {
        self.member.close();
        self.member.worker.ended().await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.member.close();
    }
}

fn listen(
    listener: TcpListener,
    limit: Arc<ConnectionLimit>,
    id: PeerId,
    lookup: impl Fn(Infohash) -> Option<Arc<Member>> + Clone + Send + Sync + 'static,
    stop: &CancellationToken,
    worker: &Worker,
) -> io::Result<()> {
    let listener = listener.into_std()?;
    let entered = worker.enter();
    let listener = TcpListener::from_std(listener)?;
    drop(entered);
    let (connections, connection_stop) = (worker.clone(), stop.clone());
    let accepting = async move {
        loop {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: others will end.
                    warn!(%error, "cannot accept a peer's connection; trying again");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let Some(permit) = limit.take(address.ip()) else { continue };
            let lookup = lookup.clone();
            connections.spawn(connection_stop.clone().run_until_cancelled_owned(async move {
                let ended = connection::accept(stream, address, id, lookup).await;
                debug!(peer = %address, %ended, "connection ended");
                drop(permit);
            }));
        }
    };
    worker.spawn(stop.clone().run_until_cancelled_owned(accepting));
    Ok(())
}

/// Sends clients that try UDP first to TCP. If the port is taken they find out by themselves.
fn refuse_utp(address: SocketAddr, stop: &CancellationToken, worker: &Worker) {
    let refusing = async move {
        let socket = match UdpSocket::bind(address).await {
            Ok(socket) => socket,
            Err(error) => return debug!(%address, %error, "cannot listen for uTP to refuse it"),
        };
        let mut packet = [0; utp::HEADER];
        loop {
            // A longer packet is cut to its header; an error is a peer's ICMP and tells nothing.
            let Ok((length, from)) = socket.recv_from(&mut packet).await else { continue };
            if let Some(reset) = utp::refuse(&packet[..length])
                && let Err(error) = socket.send_to(&reset, from).await
            {
                debug!(peer = %from, %error, "cannot refuse a uTP connection");
            }
        }
    };
    worker.spawn(stop.clone().run_until_cancelled_owned(refusing));
}

fn tick(
    every: Duration,
    stop: &CancellationToken,
    worker: &Worker,
    act: impl Fn() + Send + 'static,
) {
    let ticking = async move {
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            act();
        }
    };
    worker.spawn(stop.clone().run_until_cancelled_owned(ticking));
}

/// Dials what is due. A complete node waits to be dialled.
fn dial_due(member: &Arc<Member>, id: PeerId, dials: &Arc<Mutex<DialBook>>) {
    if member.stop.is_cancelled() || member.with(|swarm, _| swarm.is_complete()) {
        return;
    }
    for address in dials.lock().due(now()) {
        let (member, dials) = (Arc::clone(member), Arc::clone(dials));
        let stop = member.stop.clone();
        member.worker.clone().spawn(stop.run_until_cancelled_owned(async move {
            let connected = || dials.lock().connected(address, now());
            let ended = connection::dial(&member, id, address, connected).await;
            debug!(peer = %address, %ended, "dial ended");
            dials.lock().ended(address, ending(&ended), now());
        }));
    }
}

fn ending(ended: &Ended) -> Ending {
    match ended {
        Ended::Refused(Refusal::Myself | Refusal::Banned) => Ending::Hopeless,
        Ended::Refused(Refusal::Duplicate) => Ending::Duplicate,
        _ => Ending::Over,
    }
}
