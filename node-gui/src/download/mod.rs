//! Shell: fetches the payload of one system through the swarm, and goes on sharing it.
//!
//! The .torrent comes by HTTP and must have the SHA-256 and the infohash of the signed catalog, and name the same files.
//! Where that .torrent states the SHA-256 of every piece, what has arrived is proven ([`Proven`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bt_catalog::{Digest, System, SystemId, paths};
use bt_swarm::{Metainfo, Node, NodeOptions, SwarmError};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use sha2::{Digest as _, Sha256};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use self::announce::Tracker;
use self::stall::{GIVE_UP, Pace, Sample};
use self::verified::Proven;
use crate::handover::payload::Payload;
use crate::journey::DownloadProgress;
use crate::journey::problem::{Problem, ProblemKind};
use crate::server::http::Http;

pub mod announce;
pub mod rhythm;
pub mod stall;
pub mod verified;
pub mod verify;

/// The largest .torrent: 4096 pieces or a few more take about 90 KiB; a .torrent made elsewhere may need more.
const TORRENT: usize = 8 << 20;
/// How often progress is read: often enough to look alive, seldom enough to cost nothing.
const LOOK: Duration = Duration::from_millis(300);
/// How long a farewell may take: the next kernel waits for it.
const FAREWELL: Duration = Duration::from_secs(1);

/// The state of a download.
#[derive(Debug, Clone, Default)]
struct State {
    sample: Sample,
    /// `Some` once the engine has finished: with the payload, or with the reason.
    end: Option<Result<(), Problem>>,
}

/// A running download, later a running share of it. Ends with [`Download::stop`].
#[derive(Debug)]
pub struct Download {
    system: System,
    payload: Arc<Payload>,
    /// Whether each piece counts only with its SHA-256.
    is_proving: bool,
    pace: Pace,
    state: watch::Receiver<State>,
    needy: watch::Receiver<Option<u32>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Download {
    /// Starts to fetch this system's files into the room that `room` makes for them.
    ///
    /// # Errors
    /// When the .torrent is missing or not the signed one, or there is no room.
    pub async fn start(
        http: &Http,
        system: &System,
        room: impl FnOnce() -> Result<Payload, Problem>,
    ) -> Result<Self, Problem> {
        let metainfo = torrent(http, system).await?;
        let payload = Arc::new(room()?);
        let is_proving = metainfo.has_sha256();
        let storage: Arc<Payload> = Arc::clone(&payload);
        let infohash = metainfo.infohash();
        let server = server_address(http.server());
        // Any free port will do, which is the default: the tracker passes it on to the other PCs.
        let network = server.and_then(own_network);
        let options = NodeOptions { server, network, ..NodeOptions::default() };
        let node = Node::start(metainfo, storage, options).await.map_err(|error| {
            Problem::internal(format!("cannot start the swarm of {}: {error}", system.id))
        })?;
        let tracker = Tracker::new(http.clone(), infohash, &node);
        let needy = tracker.needy();
        let (report, state) = watch::channel(State::default());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(drive(system.id.clone(), node, tracker, report, stopped));
        let pace = Pace::new(server, now());
        Ok(Self { system: system.clone(), payload, is_proving, pace, state, needy, stop, task })
    }

    /// Which system it is for.
    #[must_use]
    pub fn id(&self) -> &SystemId {
        &self.system.id
    }

    /// What is fetched, as the catalog described it when this began.
    #[must_use]
    pub fn system(&self) -> &System {
        &self.system
    }

    /// Where it goes.
    #[must_use]
    pub fn payload(&self) -> &Arc<Payload> {
        &self.payload
    }

    /// The proof that all of it is here; `None` while pieces are missing, or where the .torrent has no SHA-256 of them.
    #[must_use]
    pub fn proven(&self) -> Option<Proven> {
        let is_complete = matches!(self.state.borrow().end, Some(Ok(())));
        (is_complete && self.is_proving)
            .then(|| Proven::new(self.system.clone(), Arc::clone(&self.payload)))
    }

    /// How many bytes came from whom.
    #[must_use]
    pub fn sources(&self) -> Vec<(SocketAddr, u64)> {
        self.state.borrow().sample.from.clone()
    }

    /// Waits until every piece is here; may be called again after a stall.
    ///
    /// # Errors
    /// When nothing came for two minutes, or the engine failed. The download then still runs, or can be stopped.
    pub async fn complete(&mut self, mut say: impl FnMut(DownloadProgress)) -> Result<(), Problem> {
        self.pace.hope_again(now());
        loop {
            let State { sample, end } = self.state.borrow_and_update().clone();
            let progress = self.pace.look(&sample, now());
            if sample.total > 0 {
                say(progress);
            }
            match end {
                Some(Ok(())) => return Ok(()),
                Some(Err(problem)) => return Err(problem),
                None if self.pace.is_hopeless(now()) => {
                    return Err(stalled(&self.system.id, progress));
                }
                None => {}
            }
            if self.state.changed().await.is_err() {
                return Err(Problem::internal("the download ended unexpectedly"));
            }
        }
    }

    /// Waits until the tracker reports that no other PC downloads this system any more, but not longer than `most`.
    pub async fn unneeded(&mut self, most: Duration) {
        let unneeded = self.needy.wait_for(|needy| *needy == Some(0));
        if tokio::time::timeout(most, unneeded).await.is_err() {
            tracing::debug!("other PCs still download, but the time to share is over");
        }
    }

    /// Leaves the swarm and releases the files.
    pub async fn stop(self) {
        // The task may have ended already; then the message has no receiver.
        self.stop.send(()).ok();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the swarm task failed");
        }
    }
}

/// Owns the node of the engine from start to stop.
async fn drive(
    id: SystemId,
    node: Node,
    tracker: Tracker,
    report: watch::Sender<State>,
    stopped: oneshot::Receiver<()>,
) {
    let look = async {
        loop {
            let sample = sample(&node);
            report.send_modify(|state| state.sample = sample);
            tokio::time::sleep(LOOK).await;
        }
    };
    let finish = async {
        let end = node.finished().await.map_err(|error| failed(&id, &error));
        let sample = sample(&node);
        report.send_replace(State { sample, end: Some(end) });
    };
    tokio::select! {
        _ = async { tokio::join!(tracker.announce_forever(&node), look, finish) } => {}
        _ = stopped => {}
    }
    if tokio::time::timeout(FAREWELL, tracker.farewell(&node)).await.is_err() {
        tracing::debug!("timed out while leaving the tracker");
    }
    node.stop().await;
}

fn sample(node: &Node) -> Sample {
    let progress = node.progress();
    Sample {
        done: progress.done,
        total: progress.total,
        speed: progress.speed,
        from: progress.peers_sending,
    }
}

/// The .torrent of this system, checked against the catalog.
async fn torrent(http: &Http, system: &System) -> Result<Metainfo, Problem> {
    let path = paths::torrent(&system.id);
    let bytes = http.get(&path, TORRENT).await.map_err(|error| error.problem())?;
    check_torrent(system, &bytes).map_err(|why| wrong_torrent(system, why))
}

/// A .torrent that is bit for bit the signed one, and names the signed files.
fn check_torrent(system: &System, bytes: &[u8]) -> Result<Metainfo, String> {
    let found = Digest(Sha256::digest(bytes).into());
    if found != system.torrent_sha256 {
        return Err(format!("sha256 {found}, the catalog says {}", system.torrent_sha256));
    }
    let metainfo = Metainfo::parse(bytes).map_err(|error| error.to_string())?;
    if metainfo.infohash().0 != system.infohash.0 {
        let found = metainfo.infohash();
        return Err(format!("infohash {found}, the catalog says {}", system.infohash));
    }
    let signed = system.files.iter().map(|file| (file.role.name(), file.length));
    let named = metainfo.files().iter().map(|(name, length)| (name.as_str(), *length));
    if signed.eq(named) { Ok(metainfo) } else { Err("it lists other files".to_owned()) }
}

/// The server's address, to distinguish it from the other PCs; `None` when the URL has a host name.
fn server_address(url: &str) -> Option<IpAddr> {
    let authority = url.strip_prefix("http://")?.split('/').next()?;
    match authority.parse::<SocketAddr>() {
        Ok(address) => Some(address.ip()),
        Err(_) => authority.parse().ok(),
    }
}

/// This PC's address on the route to the server and the length of its network's prefix: PCs of the same network
/// are preferred. `None` when it cannot be determined; then all PCs are alike.
fn own_network(server: IpAddr) -> Option<(IpAddr, u8)> {
    let any: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // To connect a UDP socket only looks up the route: no packet leaves. Any port will do.
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((server, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    let mut parts = getifaddrs().ok()?;
    parts.find_map(|part| {
        let is_own = ip_of(part.address.as_ref()?)? == own;
        is_own.then_some((own, prefix(ip_of(part.netmask.as_ref()?)?)))
    })
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|it| it.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|it| it.ip().into()))
}

fn prefix(mask: IpAddr) -> u8 {
    let bits = match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    u8::try_from(bits).unwrap_or(0)
}

#[expect(clippy::disallowed_methods, reason = "a shell that waits for the network")]
fn now() -> Instant {
    Instant::now()
}

fn stalled(id: &SystemId, progress: DownloadProgress) -> Problem {
    Problem::new(
        ProblemKind::Stalled,
        "The download got stuck",
        format!("No data arrived for {} minutes.", GIVE_UP.as_secs() / 60),
        "Check the network cable and try again. What is already downloaded is kept.",
        format!("{id}: no data after {} of {} bytes", progress.done, progress.total),
    )
}

/// The engine's failure as a plain-language problem.
fn failed(id: &SystemId, error: &SwarmError) -> Problem {
    match error {
        SwarmError::WrongSource { .. } => Problem::new(
            ProblemKind::HashWrong,
            "The server's files are not the signed ones",
            "A file of this system was changed on the server after it was signed.",
            "Choose another system, and tell your supervisor.",
            format!("{id}: {error}"),
        ),
        SwarmError::Storage(source) => Problem::new(
            ProblemKind::NoMemory,
            "The download could not be stored",
            "This PC's memory could not hold all of the files.",
            "Choose another system, or use a PC with more memory.",
            format!("{id}: {error}: {source}"),
        ),
        SwarmError::Stopped => Problem::internal(format!("{id}: {error}")),
    }
}

/// The problem of a payload that could not be set up.
#[must_use]
pub fn no_room(system: &System, error: &std::io::Error) -> Problem {
    Problem::new(
        ProblemKind::NoMemory,
        format!("There is no room for {}", system.name),
        "Its files do not fit into this PC's memory.",
        "Choose another system, or use a PC with more memory.",
        error.to_string(),
    )
}

fn wrong_torrent(system: &System, why: String) -> Problem {
    Problem::new(
        ProblemKind::BadSignature,
        format!("The torrent file for {} does not match the catalog", system.name),
        "It is not the one that your lab signed.",
        "Try again. If this keeps happening, tell your supervisor.",
        format!("{}.torrent: {why}", system.id),
    )
}

#[cfg(test)]
mod tests {
    use bt_swarm::{FileSpec, ReadOnlyFiles, Seed, SeedOptions, create};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::verified::accept;
    use super::verify::tests::sample;
    use super::verify::verify;
    use super::*;

    /// A system with a real torrent of its files.
    struct Lab {
        system: System,
        folder: TempDir,
        torrent: Vec<u8>,
    }

    fn lab() -> Lab {
        let (mut system, folder) = sample("a");
        let made = create("a", &specs(&folder), "http://127.0.0.1:1/announce", 1, &|_| {});
        let made = made.expect("a torrent");
        system.torrent_sha256 = Digest(Sha256::digest(&made.torrent).into());
        system.infohash = bt_catalog::Infohash(made.infohash.0);
        Lab { system, folder, torrent: made.torrent }
    }

    fn specs(folder: &TempDir) -> [FileSpec; 2] {
        let spec = |name: &str| FileSpec { name: name.into(), path: folder.path().join(name) };
        [spec("initrd"), spec("kernel")]
    }

    /// Starts a download into this folder.
    async fn start(http: &Http, system: &System, folder: &TempDir) -> Result<Download, Problem> {
        let room = || Payload::in_folder(system, folder.path());
        Download::start(http, system, || room().map_err(|error| no_room(system, &error))).await
    }

    /// A server on this machine: the .torrent, and a tracker that knows one seed. It answers for ever.
    async fn serve(torrent: Vec<u8>, seed_port: u16) -> Http {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream, &torrent, seed_port).await;
            }
        });
        Http::new(&format!("http://{address}")).expect("a client")
    }

    async fn answer(mut stream: TcpStream, torrent: &[u8], seed_port: u16) {
        let mut request = vec![0; 4096];
        let read = stream.read(&mut request).await.expect("a request");
        let body = if request[..read].starts_with(b"GET /torrents/a.torrent ") {
            torrent.to_vec()
        } else {
            assert!(request.starts_with(b"GET /announce?info_hash="), "an announce");
            let [high, low] = seed_port.to_be_bytes();
            [&b"d8:intervali5e5:peers6:\x7f\x00\x00\x01"[..], &[high, low], b"e"].concat()
        };
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ";
        let head = format!("{head}{}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat()).await.expect("an answer");
    }

    fn refused(system: &System, torrent: &[u8], part: &str) {
        let why = check_torrent(system, torrent).expect_err("must be refused");
        assert!(why.contains(part), "{why}");
    }

    #[test]
    fn the_own_network_is_that_of_the_route_to_the_server() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(own_network(loopback), Some((loopback, 8)));
        assert_eq!(prefix(Ipv4Addr::new(255, 255, 252, 0).into()), 22);
    }

    #[test]
    fn the_signed_torrent_is_taken() {
        let lab = lab();
        let metainfo = check_torrent(&lab.system, &lab.torrent).expect("is the one");
        assert_eq!(metainfo.total(), lab.system.total());
    }

    #[test]
    fn every_other_torrent_is_refused() {
        let Lab { mut system, mut torrent, .. } = lab();
        system.files[0].length += 1;
        refused(&system, &torrent, "other files");
        system.infohash = bt_catalog::Infohash([0; 20]);
        refused(&system, &torrent, "infohash");
        torrent.push(b'e');
        refused(&system, &torrent, "sha256");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_payload_arrives_from_the_seed_and_is_what_was_signed() {
        let lab = lab();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let seed = Seed::start(SeedOptions { listen }).await.expect("a free port");
        let metainfo = Metainfo::parse(&lab.torrent).expect("our own torrent");
        let files = ReadOnlyFiles::open(&metainfo, &specs(&lab.folder)).expect("both files");
        seed.add(metainfo, Arc::new(files));
        let http = serve(lab.torrent.clone(), seed.port()).await;
        let here = tempfile::tempdir().expect("a temporary folder");

        let started = start(&http, &lab.system, &here).await;
        let mut download = started.expect("the torrent is the signed one");
        let mut last = DownloadProgress::default();
        download.complete(|progress| last = progress).await.expect("the seed has everything");
        assert_eq!(last.done, lab.system.total());
        assert_eq!(download.sources().iter().map(|(_, bytes)| bytes).sum::<u64>(), last.done);
        verify(&lab.system, download.payload(), &mut |_| true).expect("bit for bit");
        let proven = download.proven().expect("our torrents state SHA-256");
        assert_eq!(accept(proven).id(), &lab.system.id);
        download.stop().await;
        seed.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_changed_after_signing_is_a_problem() {
        let lab = lab();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let seed = Seed::start(SeedOptions { listen }).await.expect("a free port");
        let metainfo = Metainfo::parse(&lab.torrent).expect("our own torrent");
        let files = ReadOnlyFiles::open(&metainfo, &specs(&lab.folder)).expect("both files");
        seed.add(metainfo, Arc::new(files));
        std::fs::write(lab.folder.path().join("initrd"), b"an inidrd").expect("a file");
        let http = serve(lab.torrent.clone(), seed.port()).await;
        let here = tempfile::tempdir().expect("a temporary folder");

        let started = start(&http, &lab.system, &here).await;
        let mut download = started.expect("the torrent is the signed one");
        let problem = download.complete(|_| {}).await.expect_err("wrong for ever");
        assert_eq!(problem.kind, ProblemKind::HashWrong, "{problem}");
        assert!(download.proven().is_none());
        download.stop().await;
        seed.stop().await;
    }

    #[tokio::test]
    async fn another_torrent_is_a_problem() {
        let lab = lab();
        let http = serve(b"d4:infodee".to_vec(), 1).await;
        let here = tempfile::tempdir().expect("a temporary folder");
        let problem = start(&http, &lab.system, &here).await;
        let problem = problem.expect_err("must be refused");
        assert_eq!(problem.kind, ProblemKind::BadSignature);
        assert!(std::fs::read_dir(here.path()).expect("readable").next().is_none());
    }

    #[test]
    fn the_servers_address_is_read_from_its_url() {
        let ip: IpAddr = [10, 77, 0, 1].into();
        assert_eq!(server_address("http://10.77.0.1:6969"), Some(ip));
        assert_eq!(server_address("http://10.77.0.1/x"), Some(ip));
        assert_eq!(server_address("http://server:6969"), None);
    }
}
