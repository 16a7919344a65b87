//! Shell: a peer that says it has everything and sends noise (BEP 3, with bt-server's tracker).

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bt_swarm::Metainfo;
use nix::sched::{CloneFlags, setns};

use super::engine::{Stage, ours};
use crate::host::clock;
use crate::room::addresses::SERVER;

const PORT: u16 = 6881;
const TRACKER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(SERVER), 6969);
/// The id of an unknown client: our nodes treat it as any stock client.
const PEER_ID: &[u8; 20] = b"-EV0001-noisenoise12";
/// Between two announces.
const INTERVAL: Duration = Duration::from_secs(2);
/// How often a thread looks whether the run is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Nobody asks for more at once.
const MAX_BLOCK: usize = 128 << 10;

/// What all threads of one evil peer know.
struct Knowledge {
    infohash: [u8; 20],
    pieces: usize,
    blocks: AtomicU64,
    is_over: AtomicBool,
}

/// A running evil peer; it ends with this value.
pub struct Evil {
    knowledge: Arc<Knowledge>,
    thread: Option<JoinHandle<()>>,
}

impl Evil {
    /// Starts it in the network of node `node`, and waits until it listens.
    pub fn start(stage: &Stage, node: usize) -> Result<Self> {
        let metainfo = Metainfo::parse(&ours::torrent(stage)?)
            .context("cannot read the torrent of bt-server")?;
        let knowledge = Arc::new(Knowledge {
            infohash: metainfo.infohash().0,
            pieces: metainfo.pieces() as usize,
            blocks: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let network: OwnedFd = stage.room.nodes[node].network().try_clone_to_owned()?;
        let (tell, told) = std::sync::mpsc::channel();
        let for_thread = Arc::clone(&knowledge);
        let thread = std::thread::spawn(move || {
            let bound = setns(&network, CloneFlags::CLONE_NEWNET)
                .map_err(anyhow::Error::from)
                .and_then(|()| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?))
                .and_then(|listener| announce(&for_thread).map(|peers| (listener, peers)));
            match bound {
                Ok((listener, peers)) => {
                    tell.send(Ok(())).ok();
                    live(&for_thread, &listener, peers);
                }
                Err(error) => drop(tell.send(Err(error.context("an evil peer cannot start")))),
            }
        });
        told.recv().context("the evil peer's thread has stopped")??;
        Ok(Self { knowledge, thread: Some(thread) })
    }

    /// How many bad blocks it has sent.
    pub fn blocks(&self) -> u64 {
        self.knowledge.blocks.load(Ordering::Relaxed)
    }
}

impl Drop for Evil {
    fn drop(&mut self) {
        self.knowledge.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Takes every connection, and makes one to everybody that the tracker names.
fn live(knowledge: &Arc<Knowledge>, listener: &TcpListener, mut named: Vec<SocketAddrV4>) {
    listener.set_nonblocking(true).ok();
    let mut dialled = Vec::new();
    let mut announced = clock::now();
    while !knowledge.is_over.load(Ordering::Relaxed) {
        while let Ok((stream, _)) = listener.accept() {
            serve_in_background(knowledge, stream);
        }
        for peer in named.drain(..).filter(|peer| *peer.ip() != SERVER) {
            if !dialled.contains(&peer) {
                dialled.push(peer);
                let stream = TcpStream::connect_timeout(&peer.into(), INTERVAL);
                stream.into_iter().for_each(|stream| serve_in_background(knowledge, stream));
            }
        }
        std::thread::sleep(LOOK_EVERY);
        if clock::now() - announced >= INTERVAL {
            announced = clock::now();
            named = announce(knowledge).unwrap_or_default();
        }
    }
}

/// Announces to the tracker as a seed; returns the peers that it names.
fn announce(knowledge: &Knowledge) -> Result<Vec<SocketAddrV4>> {
    let escaped: String = knowledge.infohash.iter().map(|byte| format!("%{byte:02x}")).collect();
    let id = String::from_utf8_lossy(PEER_ID);
    let mut stream = TcpStream::connect_timeout(&TRACKER, INTERVAL)?;
    stream.set_read_timeout(Some(INTERVAL))?;
    let request = format!(
        "GET /announce?info_hash={escaped}&peer_id={id}&port={PORT}&left=0&compact=1 HTTP/1.1\r\n\
         Host: {TRACKER}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    peers_of(&answer).context("the tracker's answer has no peers")
}

/// The compact list of peers (BEP 23) in a tracker's answer.
fn peers_of(answer: &[u8]) -> Option<Vec<SocketAddrV4>> {
    const KEY: &[u8] = b"5:peers";
    let at = answer.windows(KEY.len()).position(|bytes| bytes == KEY)? + KEY.len();
    let colon = at + answer[at..].iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(&answer[at..colon]).ok()?.parse().ok()?;
    let peers = answer.get(colon + 1..)?.get(..length)?;
    let of = |peer: &[u8]| {
        let ip = Ipv4Addr::new(peer[0], peer[1], peer[2], peer[3]);
        SocketAddrV4::new(ip, u16::from_be_bytes([peer[4], peer[5]]))
    };
    Some(peers.chunks_exact(6).map(of).collect())
}

fn serve_in_background(knowledge: &Arc<Knowledge>, stream: TcpStream) {
    let knowledge = Arc::clone(knowledge);
    // Being banned is what should happen to it; it ends with its connection or its run.
    std::thread::spawn(move || serve(&knowledge, stream).ok());
}

/// Handshake, a full bitfield, unchoke, and noise for each request.
fn serve(knowledge: &Knowledge, mut stream: TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK_EVERY))?;
    stream.set_write_timeout(Some(INTERVAL))?;
    let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    hello.extend(knowledge.infohash);
    hello.extend(PEER_ID);
    hello.extend(have_everything(knowledge.pieces));
    hello.extend([0, 0, 0, 1, 1]);
    stream.write_all(&hello)?;
    let mut reader = Reader { stream: stream.try_clone()?, knowledge };
    reader.exactly(68)?;
    loop {
        let head: [u8; 4] = reader.exactly(4)?.try_into().expect("four bytes");
        let length = u32::from_be_bytes(head) as usize;
        ensure!(length <= MAX_BLOCK + 9, "a message too long");
        let message = reader.exactly(length)?;
        // Request: 6, piece, begin, length.
        if let [6, namespace @ .., _, _, _, _] = message.as_slice()
            && let Some(wanted) = message.last_chunk::<4>()
        {
            let wanted = (u32::from_be_bytes(*wanted) as usize).min(MAX_BLOCK);
            let mut answer = u32::try_from(wanted + 9)?.to_be_bytes().to_vec();
            answer.push(7);
            answer.extend(namespace);
            answer.resize(answer.len() + wanted, 0xe5);
            stream.write_all(&answer)?;
            knowledge.blocks.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// BITFIELD with all pieces; the spare bits at the end are zero (BEP 3).
fn have_everything(pieces: usize) -> Vec<u8> {
    let mut bits = vec![0xff; pieces.div_ceil(8)];
    let spare = bits.len() * 8 - pieces;
    if let Some(last) = bits.last_mut() {
        *last <<= spare;
    }
    let length = u32::try_from(bits.len() + 1).expect("a torrent has fewer pieces");
    [&length.to_be_bytes()[..], &[5], &bits].concat()
}

/// Reads complete messages, and stops when the run is over.
struct Reader<'a> {
    stream: TcpStream,
    knowledge: &'a Knowledge,
}

impl Reader<'_> {
    fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            ensure!(!self.knowledge.is_over.load(Ordering::Relaxed), "the run is over");
            match self.stream.read(&mut bytes[done..]) {
                Ok(0) => anyhow::bail!("banned"),
                Ok(more) => done += more,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_claims_every_piece_and_no_more() {
        assert_eq!(have_everything(11), [0, 0, 0, 3, 5, 0xff, 0b1110_0000]);
        assert_eq!(have_everything(8), [0, 0, 0, 2, 5, 0xff]);
    }

    #[test]
    fn the_tracker_s_peers_are_read() {
        let answer = b"HTTP/1.1 200 OK\r\n\r\nd8:intervali5e5:peers6:\x0a\x4d\x01\x02\x1a\xe1e";
        let peer = SocketAddrV4::new(Ipv4Addr::new(10, 77, 1, 2), 6881);
        assert_eq!(peers_of(answer), Some(vec![peer]));
        assert_eq!(peers_of(b"d5:peers6:\x0a"), None);
    }
}
