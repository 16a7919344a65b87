//! Core: BitTorrent messages (BEP 3), extended messages (BEP 10) and metadata for magnet links (BEP
//! 9).
//!
//! A message that [`read`] returns is within bounds: piece numbers exist, ranges are within their
//! piece, a block is a complete one, a bitfield has the right length. So the cores need no checks.
//! Messages of other extensions are `Unknown`.

use librqbit_buffers::ByteBuf;
use librqbit_peer_protocol::extended::ExtendedMessage;
use librqbit_peer_protocol::extended::ut_metadata::UtMetadata;
use librqbit_peer_protocol::{MY_EXTENDED_UT_METADATA, Message, Piece, Request};

use super::bencode;
use super::bitfield::Bitfield;
use super::layout::{BLOCK, Block, ByteRange, Layout};

/// The longest range that one request may ask for. Clients request 16 KiB (BEP 3), old ones up to
/// 128 KiB.
pub const MAX_REQUEST: u32 = 128 * 1024;

/// Requests that a peer may keep open. Half of it is announced as `reqq` (BEP 10): a client that
/// counts a little differently is not disconnected for it.
pub const MAX_QUEUE: usize = 1024;

/// The longest extended message that is accepted. A handshake has a few hundred bytes, a part of
/// the metadata 16 KiB.
const MAX_EXTENDED: usize = 32 * 1024;

/// Length prefix and message id.
const PREAMBLE: usize = 5;
/// BEP 10: the message id of all extended messages. A second id follows, 0 for the handshake.
const EXTENDED: u8 = 20;
const EXTENDED_HANDSHAKE: u8 = 0;

/// BEP 9: metadata is sent in parts of 16 KiB.
const METADATA_PART: usize = 16 * 1024;

/// A message from a peer, checked against the layout.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// The peer stops answering requests.
    Choke,
    /// The peer answers requests.
    Unchoke,
    /// The peer wants a piece that this member has.
    Interested,
    /// The peer has a piece.
    Have(u32),
    /// The pieces that the peer has at the start.
    Bitfield(Bitfield),
    /// The peer requests a range.
    Request(ByteRange),
    /// The peer cancels a request.
    Cancel(ByteRange),
    /// The peer sends a block.
    Data(Block, &'a [u8]),
    /// The peer's extended handshake (BEP 10).
    Handshake {
        /// The id under which it accepts `ut_metadata` messages, if it does.
        metadata: Option<u8>,
    },
    /// The peer requests a part of the metadata (BEP 9).
    MetadataRequest(u32),
    /// A message without effect: keep-alive, NOT INTERESTED, unknown extensions.
    Unknown,
}

/// A message to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// No message for a while (BEP 3).
    KeepAlive,
    /// This member answers requests.
    Unchoke,
    /// The peer has a piece that this member wants.
    Interested,
    /// The peer has no such piece, or no longer.
    NotInterested,
    /// This member has a piece.
    Have(u32),
    /// The pieces that this member has at the start.
    Bitfield(Bitfield),
    /// Requests a range.
    Request(ByteRange),
    /// Cancels a request.
    Cancel(ByteRange),
    /// The extended handshake (BEP 10): metadata of this many bytes is available.
    Handshake {
        /// Length of the info dictionary.
        metadata_size: usize,
    },
    /// A part of the metadata (BEP 9).
    Metadata {
        /// The peer's id for `ut_metadata` messages: in BEP 10 each side chooses the ids of what it
        /// receives.
        id: u8,
        /// Which part.
        part: u32,
    },
}

/// What no honest client sends. The connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Longer than any valid message.
    #[error("a message of {0} bytes, which is longer than any valid one")]
    TooLong(usize),
    /// The length does not fit the message id, or a bitfield has spare bits.
    #[error("a malformed message with id {0}")]
    Malformed(u8),
    /// A piece, block or range that the payload does not have.
    #[error("a message with id {0} that refers to data outside the payload")]
    OutOfBounds(u8),
    /// More requests than [`MAX_QUEUE`].
    #[error("too many open requests")]
    Flood,
    /// Many HAVEs for the same piece, or a second bitfield.
    #[error("too many duplicate HAVE messages, or a second bitfield")]
    Repeated,
    /// Many blocks that were not requested, or chokes that void requests.
    #[error("too many blocks that were not requested, or chokes that void requests")]
    Unrequested,
}

/// The length of the longest valid message for this layout.
pub fn longest(layout: &Layout) -> usize {
    let bitfield = layout.pieces().div_ceil(8) as usize;
    let block = BLOCK as usize + 8;
    PREAMBLE + bitfield.max(block).max(MAX_EXTENDED)
}

/// Reads one message from the front of `bytes`, and its length.
///
/// `None` as long as the message is not complete.
///
/// # Errors
/// [`Violation`], as soon as it can be seen: a length that is too long before the message arrives,
/// so that a peer cannot make this side buffer it.
pub fn read<'a>(
    bytes: &'a [u8],
    layout: &Layout,
) -> Result<Option<(Incoming<'a>, usize)>, Violation> {
    let Some(prefix) = bytes.first_chunk() else { return Ok(None) };
    let length = (u32::from_be_bytes(*prefix) as usize).saturating_add(4);
    if length > longest(layout) {
        return Err(Violation::TooLong(length));
    }
    let Some(message) = bytes.get(..length) else { return Ok(None) };
    Ok(Some((interpret(message, layout)?, length)))
}

/// How many bytes are missing until the message at the front of `bytes` is complete, or until its
/// length is known; at least one.
pub fn missing(bytes: &[u8]) -> usize {
    let Some(prefix) = bytes.first_chunk() else { return 4 - bytes.len() };
    let length = (u32::from_be_bytes(*prefix) as usize).saturating_add(4);
    length.saturating_sub(bytes.len()).max(1)
}

/// Parses one complete message.
fn interpret<'a>(message: &'a [u8], layout: &Layout) -> Result<Incoming<'a>, Violation> {
    // A keep-alive has no id (BEP 3).
    let Some(kind) = message.get(4).copied() else { return Ok(Incoming::Unknown) };
    match kind {
        EXTENDED => return Ok(extended(message)),
        0..=8 => {}
        // DHT (BEP 5) and the fast extension (BEP 6) are not offered in the handshake. A client
        // that uses them all the same does no harm.
        _ => return Ok(Incoming::Unknown),
    }
    let (parsed, _) = Message::deserialize(message, &[]).map_err(|_| Violation::Malformed(kind))?;
    let range = |request: Request| {
        let Request { index, begin, length } = request;
        let range = ByteRange { piece: index, begin, length };
        // Not only complete blocks: a client may request any range of a piece (BEP 3).
        let fits = layout.contains(range) && length <= MAX_REQUEST;
        if fits { Ok(range) } else { Err(Violation::OutOfBounds(kind)) }
    };
    Ok(match parsed {
        Message::Choke => Incoming::Choke,
        Message::Unchoke => Incoming::Unchoke,
        Message::Interested => Incoming::Interested,
        Message::Have(piece) if piece < layout.pieces() => Incoming::Have(piece),
        Message::Have(_) => return Err(Violation::OutOfBounds(kind)),
        Message::Bitfield(bits) => {
            let bits = Bitfield::from_wire(bits.as_ref(), layout.pieces());
            Incoming::Bitfield(bits.ok_or(Violation::Malformed(kind))?)
        }
        Message::Request(request) => Incoming::Request(range(request)?),
        Message::Cancel(request) => Incoming::Cancel(range(request)?),
        Message::Piece(piece) => data(&piece, layout).ok_or(Violation::OutOfBounds(kind))?,
        _ => Incoming::Unknown,
    })
}

fn data<'a>(piece: &Piece<ByteBuf<'a>>, layout: &Layout) -> Option<Incoming<'a>> {
    // The message is in one buffer, so its data are too: the second half is empty.
    let (data, _) = piece.data();
    // Only complete blocks are requested here, so no other range is an answer.
    let block = layout.block_at(piece.index, piece.begin, data.len())?;
    Some(Incoming::Data(block, data))
}

/// Clients differ much in their extended messages. One that cannot be parsed is ignored; closing
/// the connection would cost more than the extension is worth.
fn extended(message: &[u8]) -> Incoming<'_> {
    let known = [EXTENDED_HANDSHAKE, MY_EXTENDED_UT_METADATA];
    if !message.get(5).is_some_and(|kind| known.contains(kind)) {
        return Incoming::Unknown;
    }
    match Message::deserialize(message, &[]) {
        Ok((Message::Extended(ExtendedMessage::Handshake(handshake)), _)) => {
            // BEP 10: the id 0 means that the extension is switched off.
            Incoming::Handshake { metadata: handshake.m.ut_metadata.filter(|id| *id != 0) }
        }
        Ok((Message::Extended(ExtendedMessage::UtMetadata(UtMetadata::Request(part))), _)) => {
            Incoming::MetadataRequest(part)
        }
        _ => Incoming::Unknown,
    }
}

/// Appends a message. `info` is the info dictionary from which metadata messages are cut.
pub fn write(out: &mut Vec<u8>, message: &Outgoing, info: &[u8]) {
    let request = |range: &ByteRange| Request::new(range.piece, range.begin, range.length);
    match message {
        Outgoing::KeepAlive => write_plain(out, &Message::KeepAlive),
        Outgoing::Unchoke => write_plain(out, &Message::Unchoke),
        Outgoing::Interested => write_plain(out, &Message::Interested),
        Outgoing::NotInterested => write_plain(out, &Message::NotInterested),
        Outgoing::Have(piece) => write_plain(out, &Message::Have(*piece)),
        Outgoing::Bitfield(bits) => write_plain(out, &Message::Bitfield(ByteBuf(bits.wire()))),
        Outgoing::Request(range) => write_plain(out, &Message::Request(request(range))),
        Outgoing::Cancel(range) => write_plain(out, &Message::Cancel(request(range))),
        Outgoing::Handshake { metadata_size } => {
            write_extended(out, EXTENDED_HANDSHAKE, &extended_handshake(*metadata_size));
        }
        Outgoing::Metadata { id, part } => write_extended(out, *id, &metadata_part(*part, info)),
    }
}

/// Appends the head of a PIECE message (BEP 3); exactly `range.length` bytes must follow. The data
/// are read from the storage straight behind it, without a copy.
pub fn write_data_head(out: &mut Vec<u8>, range: ByteRange) {
    out.extend_from_slice(&(range.length + 9).to_be_bytes());
    out.push(7);
    out.extend_from_slice(&range.piece.to_be_bytes());
    out.extend_from_slice(&range.begin.to_be_bytes());
}

fn write_plain(out: &mut Vec<u8>, message: &Message<'_>) {
    let longest = match message {
        Message::Bitfield(bits) => PREAMBLE + bits.as_ref().len(),
        _ => PREAMBLE + 12,
    };
    let start = out.len();
    out.resize(start + longest, 0);
    let written = message
        .serialize(&mut out[start..], &Default::default)
        .expect("the buffer has room for the longest of these messages");
    out.truncate(start + written);
}

fn write_extended(out: &mut Vec<u8>, id: u8, body: &[u8]) {
    let length = u32::try_from(body.len() + 2).expect("bodies are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[EXTENDED, id]);
    out.extend_from_slice(body);
}

fn extended_handshake(metadata_size: usize) -> Vec<u8> {
    // Keys in sorted order (BEP 3): m, metadata_size, reqq, v. Other clients show `v` in their list
    // of peers.
    let mut body = b"d1:md".to_vec();
    bencode::put_pair(&mut body, "ut_metadata", u64::from(MY_EXTENDED_UT_METADATA));
    body.push(b'e');
    bencode::put_pair(&mut body, "metadata_size", metadata_size as u64);
    bencode::put_pair(&mut body, "reqq", MAX_QUEUE as u64 / 2);
    bencode::put_bytes(&mut body, b"v");
    bencode::put_bytes(&mut body, concat!("BootTorrent ", env!("CARGO_PKG_VERSION")).as_bytes());
    body.push(b'e');
    body
}

/// BEP 9: the part (`msg_type` 1), or a reject (2) if there is no such part.
fn metadata_part(part: u32, info: &[u8]) -> Vec<u8> {
    let mut body = b"d".to_vec();
    match info.chunks(METADATA_PART).nth(part as usize) {
        Some(bytes) => {
            bencode::put_pair(&mut body, "msg_type", 1);
            bencode::put_pair(&mut body, "piece", u64::from(part));
            bencode::put_pair(&mut body, "total_size", info.len() as u64);
            // BEP 9: the data follow the dictionary and are not part of it.
            body.push(b'e');
            body.extend_from_slice(bytes);
        }
        None => {
            bencode::put_pair(&mut body, "msg_type", 2);
            bencode::put_pair(&mut body, "piece", u64::from(part));
            body.push(b'e');
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout() -> Layout {
        Layout::new(3 * 32768 + 5, 32768).expect("within the limits")
    }

    /// Frames a message of a kind.
    fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 1).expect("short");
        [&length.to_be_bytes()[..], &[kind], body].concat()
    }

    fn numbers(numbers: [u32; 3]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    #[track_caller]
    fn check(message: &[u8], expected: Result<Incoming<'_>, Violation>) {
        let expected = expected.map(|incoming| Some((incoming, message.len())));
        assert_eq!(read(message, &layout()), expected);
    }

    #[test]
    fn plain_messages_are_read() {
        check(&[0; 4], Ok(Incoming::Unknown));
        check(&framed(0, &[]), Ok(Incoming::Choke));
        check(&framed(4, &3_u32.to_be_bytes()), Ok(Incoming::Have(3)));
        let range = ByteRange { piece: 3, begin: 1, length: 4 };
        check(&framed(6, &numbers([3, 1, 4])), Ok(Incoming::Request(range)));
        check(&framed(14, &[]), Ok(Incoming::Unknown));
    }

    #[test]
    fn an_incomplete_message_waits() {
        let message = framed(4, &3_u32.to_be_bytes());
        for length in 0..message.len() {
            assert_eq!(read(&message[..length], &layout()), Ok(None));
        }
    }

    #[test]
    fn the_missing_bytes_of_a_message_are_known() {
        let message = framed(4, &3_u32.to_be_bytes());
        assert_eq!([0, 1, 3].map(|length| missing(&message[..length])), [4, 3, 1]);
        assert_eq!([4, 8].map(|length| missing(&message[..length])), [5, 1]);
    }

    #[test]
    fn a_block_must_be_exactly_one() {
        let head = |begin: u32| [3_u32.to_be_bytes(), begin.to_be_bytes()].concat();
        let message = framed(7, &[head(0), b"hello".to_vec()].concat());
        check(&message, Ok(Incoming::Data(Block { piece: 3, index: 0 }, b"hello")));
        check(&framed(7, &[head(0), b"hell".to_vec()].concat()), Err(Violation::OutOfBounds(7)));
        check(&framed(7, &[head(1), b"hell".to_vec()].concat()), Err(Violation::OutOfBounds(7)));
        check(&framed(7, &head(0)), Err(Violation::Malformed(7)));
    }

    #[test]
    fn numbers_outside_of_the_payload_are_violations() {
        check(&framed(4, &4_u32.to_be_bytes()), Err(Violation::OutOfBounds(4)));
        for request in [[4, 0, 1], [3, 0, 6], [0, u32::MAX, 1], [0, 1, u32::MAX], [0, 0, 0]] {
            check(&framed(6, &numbers(request)), Err(Violation::OutOfBounds(6)));
        }
        check(&framed(5, &[0xff]), Err(Violation::Malformed(5)));
        check(&framed(5, &[0, 0]), Err(Violation::Malformed(5)));
    }

    #[test]
    fn a_long_message_is_refused_by_its_prefix_alone() {
        let prefix = u32::MAX.to_be_bytes();
        assert!(matches!(read(&prefix, &layout()), Err(Violation::TooLong(_))));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let range = ByteRange { piece: 1, begin: 16384, length: 16384 };
        for (outgoing, incoming) in [
            (Outgoing::Unchoke, Incoming::Unchoke),
            (Outgoing::Have(2), Incoming::Have(2)),
            (Outgoing::Bitfield(Bitfield::full(4)), Incoming::Bitfield(Bitfield::full(4))),
            (Outgoing::Request(range), Incoming::Request(range)),
            (Outgoing::Cancel(range), Incoming::Cancel(range)),
            (Outgoing::Interested, Incoming::Interested),
            (Outgoing::NotInterested, Incoming::Unknown),
            (Outgoing::Handshake { metadata_size: 9 }, Incoming::Handshake { metadata: Some(3) }),
        ] {
            let mut bytes = Vec::new();
            write(&mut bytes, &outgoing, &[]);
            check(&bytes, Ok(incoming));
        }
    }

    #[test]
    fn metadata_is_served_in_parts_and_past_the_end_refused() {
        let info = vec![b'x'; METADATA_PART + 10];
        assert!(metadata_part(1, &info).ends_with(b"10:total_sizei16394eexxxxxxxxxx"));
        assert_eq!(metadata_part(2, &info), b"d8:msg_typei2e5:piecei2ee");
        check(&framed(20, b"\x03d8:msg_typei0e5:piecei1ee"), Ok(Incoming::MetadataRequest(1)));
    }

    #[test]
    fn a_nesting_bomb_is_ignored() {
        let bomb = [&b"\0d1:m"[..], &vec![b'l'; 30_000]].concat();
        check(&framed(20, &bomb), Ok(Incoming::Unknown));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            kind in 0_u8..25,
            body in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let message = framed(kind, &body);
            let _refused_or_read = read(&message, &layout());
            let _refused_or_read = read(&body, &layout());
        }
    }
}
