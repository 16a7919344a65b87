//! Shell: the two roles, [`Seed`] and [`Node`], with their listeners, dials and clock ticks.
//!
//! The caller announces: it asks the tracker (see [`crate::protocol::announce`]) and passes the
//! answer to [`Node::add_peers`].

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

/// How long a listener waits after an error. Without it, a process without free descriptors would
/// spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Connections of one listener, in their handshake or established; more are closed at once.
const MAX_CONNECTIONS_OF_SEED: usize = 2048;

/// The same for a node, where the initramfs allows 1024 open files.
const MAX_CONNECTIONS_OF_NODE: usize = 512;

/// Stock clients that a seed dials at the same time; others have to dial the seed.
const MAX_INVITATIONS: usize = 32;

/// Most clients dial soon after their announce; only the others need an invitation. Not sooner:
/// libtorrent dials by TCP one second after uTP was refused. If two connections cross at that
/// moment it may close both, and does not try again for a minute (its `min_reconnect_time`).
const INVITATION_DELAY: Duration = Duration::from_millis(2500);

/// How a seed runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedOptions {
    /// The address to listen on; port 0 lets the system choose.
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
    /// The address to listen on; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The server's address. It is never banned; wrong data from it is reported as
    /// [`SwarmError::WrongSource`] instead.
    pub server: Option<IpAddr>,
    /// The node's own address and the length of its network's prefix: peers of this network are
    /// preferred. `None`: no peer is preferred.
    pub network: Option<(IpAddr, u8)>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([0, 0, 0, 0], 0)), server: None, network: None }
    }
}

/// What a seed has uploaded in one swarm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeedStats {
    /// Payload bytes that were sent.
    pub uploaded: u64,
    /// Connected peers.
    pub peers: usize,
}

/// Uploads any number of torrents on one port, super-seeding each.
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
    /// If the port is not available.
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

    /// Adds a torrent. One of the same infohash is replaced: its files may have moved.
    pub fn add(&self, metainfo: Metainfo, storage: Arc<dyn Storage>) {
        let (infohash, metadata) = (metainfo.infohash(), metainfo.info_bytes().len());
        let swarm = Swarm::seed(metainfo.layout(), self.id, metadata, now());
        let stop = self.stop.child_token();
        let member = Member::new(metainfo, storage, swarm, stop, self.worker.clone());
        if let Some(old) = self.members.write().insert(infohash, member) {
            old.close();
        }
    }

    /// Removes a torrent and closes its connections.
    pub fn remove(&self, infohash: Infohash) {
        if let Some(member) = self.members.write().remove(&infohash) {
            member.close();
        }
    }

    /// Dials a client that has announced itself, once, unless it connects first.
    ///
    /// Nodes dial the seed and need no invitation. Some stock clients never connect: Transmission
    /// 3.00 tries uTP first, and its fallback to TCP fails. So the tracker reports each announce of
    /// a stock client that is not complete.
    pub fn invite(&self, infohash: Infohash, address: SocketAddr) {
        let Some(member) = self.members.read().get(&infohash).cloned() else { return };
        let Ok(permit) = Arc::clone(&self.invitations).try_acquire_owned() else { return };
        let (id, stop) = (self.id, member.stop.clone());
        self.worker.spawn(stop.run_until_cancelled_owned(async move {
            tokio::time::sleep(INVITATION_DELAY).await;
            if member.with(|swarm, _| swarm.has_peer_at(address.ip())) {
                return;
            }
            // Only dials are limited, not the connections that they become.
            let ended = connection::dial(&member, id, address, || drop(permit)).await;
            debug!(peer = %address, %ended, "invitation ended");
        }));
    }

    /// What was uploaded of a torrent; `None` if this seed does not have it.
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

    /// Closes every connection and waits until all files and sockets are closed.
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

/// Downloads one torrent, and uploads it as long as it runs.
pub struct Node {
    id: PeerId,
    port: u16,
    member: Arc<Member>,
    dials: Arc<Mutex<DialBook>>,
}

impl Node {
    /// Listens and waits for peers. What `storage` contains already is ignored.
    ///
    /// # Errors
    /// If the port is not available.
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

    /// Adds addresses of peers; known ones change nothing. Each is dialled until it is connected.
    pub fn add_peers(&self, peers: &[SocketAddr]) {
        {
            let mut dials = self.dials.lock();
            peers.iter().for_each(|peer| dials.learn(*peer));
        }
        dial_due(&self.member, self.id, &self.dials);
    }

    /// How far the download is.
    pub fn progress(&self) -> Progress {
        self.member.with(|swarm, now| swarm.progress(now))
    }

    /// Waits until every piece is stored and has the right hash. The node keeps uploading until it
    /// is stopped.
    ///
    /// # Errors
    /// [`SwarmError`] if the download has failed.
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

    /// Its peer id, for the announce.
    pub fn peer_id(&self) -> PeerId {
        self.id
    }

    /// Closes every connection and waits until the storage is released.
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
    // From the caller's runtime to the worker's, where all of its connections are to be polled.
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
                    // Most likely there is no free descriptor: other connections will end.
                    warn!(%error, "cannot accept a peer's connection; trying again");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            // Accepted and closed: left in the backlog, it would block the connections behind it.
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

/// Makes clients that try uTP first use TCP at once. If the UDP port is in use, they time out
/// instead.
fn refuse_utp(address: SocketAddr, stop: &CancellationToken, worker: &Worker) {
    let refusing = async move {
        let socket = match UdpSocket::bind(address).await {
            Ok(socket) => socket,
            Err(error) => return debug!(%address, %error, "cannot listen for uTP to refuse it"),
        };
        let mut packet = [0; utp::HEADER];
        loop {
            // A longer packet is cut to its header. An error is the ICMP of an earlier reset: a
            // client that has exited needs no answer.
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
        // After a pause one tick is enough: a burst of late ones would only repeat the same check.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            act();
        }
    };
    worker.spawn(stop.clone().run_until_cancelled_owned(ticking));
}

/// Dials the peers that are due. A complete node dials nobody: who needs a piece from it will dial.
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
        // Everything else may change, also that this member is full.
        _ => Ending::Over,
    }
}
