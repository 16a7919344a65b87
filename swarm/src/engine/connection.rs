//! Shell: one TCP connection, from the handshake to its end.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use librqbit_core::hash_id::Id20;
use librqbit_peer_protocol::Handshake;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::debug;

use super::member::Member;
use crate::protocol::infohash::Infohash;
use crate::protocol::layout::ByteRange;
use crate::protocol::peer_id::PeerId;
use crate::protocol::wire::{self, Violation};
use crate::swarm::peer::{Next, PeerKey};
use crate::swarm::{Candidate, Refusal};

/// BEP 3: the protocol's name with its length, 8 reserved bytes, infohash and peer id.
const HANDSHAKE: usize = 68;

/// An accepted connection counts against the limit of its listener from its first moment; one that
/// says nothing must free its permit soon.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A PC that was switched off answers no SYN. Each such dial takes one of a few that may be under
/// way.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Unsent bytes that the kernel may hold for one connection: few, so that the latest decision is
/// sent soon. A CANCEL or HAVE behind a full socket buffer arrives too late (measured).
const NOTSENT_LOWAT: u32 = 64 * 1024;

/// A peer that acknowledges no data for this long has lost its power or cable. Without this limit
/// the kernel sends them again for about a quarter of an hour (`tcp_retries2`, tcp(7)), and their
/// blocks stay requested.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes that one read may return: several blocks. Memory that is never touched costs nothing.
const READ_BUFFER: usize = 128 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the peer closed the connection")]
    ByPeer,
    #[error("closed at this end")]
    Locally,
    #[error("the peer did not answer in time")]
    TimedOut,
    #[error("not a BitTorrent handshake for this swarm")]
    BadHandshake,
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    #[error("the peer violated the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Dials a peer and runs the connection until it ends. `connected` is called when the peer has
/// joined.
pub(crate) async fn dial(
    member: &Arc<Member>,
    own_id: PeerId,
    address: SocketAddr,
    connected: impl FnOnce(),
) -> Ended {
    match handshake_as_dialler(member, own_id, address).await {
        Ok((stream, theirs)) => run(member, stream, address, true, &theirs, connected).await,
        Err(ended) => ended,
    }
}

async fn handshake_as_dialler(
    member: &Member,
    own_id: PeerId,
    address: SocketAddr,
) -> Result<(TcpStream, Handshake), Ended> {
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
    let mut stream = connecting.await.map_err(|_| Ended::TimedOut)??;
    tune(&stream)?;
    stream.write_all(&handshake(member.meta.infohash(), own_id)).await?;
    let theirs = read_handshake(&mut stream).await?;
    // BEP 3 also compares the peer id with the tracker's, but compact answers (BEP 23) have none.
    if theirs.info_hash.0 != member.meta.infohash().0 {
        return Err(Ended::BadHandshake);
    }
    Ok((stream, theirs))
}

/// Answers a peer that dialled. `lookup` finds the swarm of its infohash.
///
/// The handshake is sent only after the peer's: one port serves many torrents, and which of them is
/// wanted is in the peer's handshake (BEP 3).
pub(crate) async fn accept(
    mut stream: TcpStream,
    address: SocketAddr,
    own_id: PeerId,
    lookup: impl Fn(Infohash) -> Option<Arc<Member>>,
) -> Ended {
    let handshaking = async {
        tune(&stream)?;
        let theirs = read_handshake(&mut stream).await?;
        let member = lookup(Infohash(theirs.info_hash.0)).ok_or(Ended::BadHandshake)?;
        stream.write_all(&handshake(member.meta.infohash(), own_id)).await?;
        Ok((member, theirs))
    };
    match handshaking.await {
        Ok((member, theirs)) => run(&member, stream, address, false, &theirs, || ()).await,
        Err(ended) => ended,
    }
}

/// Without Nagle's delay, since a HAVE is useful only while it is new; little is queued in the
/// kernel.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

fn handshake(infohash: Infohash, own_id: PeerId) -> [u8; HANDSHAKE] {
    let mut bytes = [0; HANDSHAKE];
    // Of the reserved bits only that of BEP 10 is set: no DHT (BEP 5), no fast extension (BEP 6).
    let handshake = Handshake::new(Id20::new(infohash.0), Id20::new(own_id.0));
    let written = handshake.serialize_unchecked_len(&mut bytes);
    assert_eq!(written, HANDSHAKE, "a handshake has a fixed length");
    bytes
}

async fn read_handshake(stream: &mut TcpStream) -> Result<Handshake, Ended> {
    let mut bytes = [0; HANDSHAKE];
    let reading = timeout(HANDSHAKE_TIMEOUT, stream.read_exact(&mut bytes));
    reading.await.map_err(|_| Ended::TimedOut)??;
    Handshake::deserialize(&bytes).map(|(theirs, _)| theirs).map_err(|_| Ended::BadHandshake)
}

async fn run(
    member: &Arc<Member>,
    stream: TcpStream,
    address: SocketAddr,
    was_dialled: bool,
    theirs: &Handshake,
    connected: impl FnOnce(),
) -> Ended {
    let candidate = Candidate {
        id: PeerId(theirs.peer_id.0),
        address,
        was_dialled,
        is_extended: theirs.supports_extended(),
    };
    let (key, waker) = match member.join(candidate) {
        Ok(joined) => joined,
        Err(refusal) => return Ended::Refused(refusal),
    };
    // The peer leaves the swarm also when this future is dropped in the middle.
    let _membership = Membership { member, key };
    connected();
    debug!(peer = %address, id = ?candidate.id, was_dialled, "peer joined");
    let (reader, writer) = stream.into_split();
    // Both halves in one task: when one ends, the other is dropped with it.
    let ended = tokio::select! {
        ended = read(member, key, reader) => ended,
        ended = write(member, key, writer, &waker) => ended,
        () = member.stop.cancelled() => Ok(Ended::Locally),
    };
    let ended = ended.unwrap_or_else(|ended| ended);
    debug!(peer = %address, %ended, "peer left");
    ended
}

struct Membership<'a> {
    member: &'a Member,
    key: PeerKey,
}

impl Drop for Membership<'_> {
    fn drop(&mut self) {
        self.member.leave(self.key);
    }
}

async fn read(
    member: &Arc<Member>,
    key: PeerKey,
    mut reader: OwnedReadHalf,
) -> Result<Ended, Ended> {
    let layout = member.meta.layout();
    // The longest message and the beginning of the next one must fit: the bitfield of a large
    // torrent may be longer than the usual buffer.
    let mut buffer = vec![0; READ_BUFFER.max(2 * wire::longest(&layout))];
    let (mut filled, mut lowat) = (0, 1);
    loop {
        let count = reader.read(&mut buffer[filled..]).await?;
        if count == 0 {
            return Ok(Ended::ByPeer);
        }
        filled += count;
        let mut used = 0;
        while let Some((message, length)) = wire::read(&buffer[used..filled], &layout)? {
            member.receive(key, &message)?;
            used += length;
        }
        // Blocks are stored from where they were received; only the start of the next message
        // moves.
        buffer.copy_within(used..filled, 0);
        filled -= used;
        // One system call for a block, not for each of its packets: the option changes only between
        // messages of different length.
        let missing = wire::missing(&buffer[..filled]);
        if missing != lowat {
            set_receive_lowat(&reader, missing)?;
            lowat = missing;
        }
    }
}

/// The kernel reports the socket as readable only when so many bytes have arrived (`SO_RCVLOWAT`,
/// socket(7)): a block comes in a dozen packets, and nothing can be done before its last one. Woken
/// at each packet, both ends spent most of their CPU on wake-ups (docs/decisions/0007).
fn set_receive_lowat(reader: &OwnedReadHalf, bytes: usize) -> io::Result<()> {
    let socket: &TcpStream = reader.as_ref();
    let bytes = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    let length = size_of_val(&bytes) as libc::socklen_t;
    // SAFETY: the descriptor is open during the call, and `bytes` has the length that is passed.
    let outcome = unsafe {
        let value = (&raw const bytes).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

async fn write(
    member: &Arc<Member>,
    key: PeerKey,
    mut writer: OwnedWriteHalf,
    waker: &Notify,
) -> Result<Ended, Ended> {
    let mut buffer = Vec::new();
    loop {
        match member.next(key) {
            Next::Closed => return Ok(Ended::Locally),
            // A wake-up between `next` and here is not lost: `Notify` keeps one.
            Next::Wait => waker.notified().await,
            Next::Send { messages, data } => {
                buffer.clear();
                for message in &messages {
                    wire::write(&mut buffer, message, member.meta.info_bytes());
                }
                if !data.is_empty() {
                    buffer = append_data(member, buffer, &data).await?;
                }
                // One write for messages and data: HAVEs and requests need no packet of their own.
                writer.write_all(&buffer).await?;
                // Only now: what a super-seeder has sent decides what it shows next.
                member.sent(key, &data);
            }
        }
    }
}

/// Appends ranges as PIECE messages. What is not in memory is read on another thread: on this one
/// all other connections would wait for the disk.
async fn append_data(
    member: &Arc<Member>,
    mut buffer: Vec<u8>,
    ranges: &[ByteRange],
) -> io::Result<Vec<u8>> {
    for (at, range) in ranges.iter().enumerate() {
        let before = buffer.len();
        if !member.read_at_once(*range, room_for(&mut buffer, *range)) {
            buffer.truncate(before);
            return append_from_disk(member, buffer, ranges[at..].to_vec()).await;
        }
    }
    Ok(buffer)
}

async fn append_from_disk(
    member: &Arc<Member>,
    mut buffer: Vec<u8>,
    ranges: Vec<ByteRange>,
) -> io::Result<Vec<u8>> {
    let member = Arc::clone(member);
    let reading = tokio::task::spawn_blocking(move || {
        for range in ranges {
            member.read(range, room_for(&mut buffer, range))?;
        }
        Ok(buffer)
    });
    reading.await.map_err(io::Error::other)?
}

/// Appends the head of a PIECE message, and returns the place for its data.
fn room_for(buffer: &mut Vec<u8>, range: ByteRange) -> &mut [u8] {
    wire::write_data_head(buffer, range);
    let start = buffer.len();
    buffer.resize(start + range.length as usize, 0);
    &mut buffer[start..]
}
