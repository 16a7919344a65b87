//! Core: TFTP packets, bytes <-> meaning (RFC 1350 §5, options by RFC 2347-2349 and 7440).
//!
//! Only what a read-only server needs: requests, ACK and ERROR are read; OACK, DATA and ERROR are
//! written. Options that are not known are passed over, as RFC 2347 asks, and so are values that
//! make no sense: the client then finds them missing in the OACK.

/// Longest DATA payload: one Ethernet frame. More would be fragmented, which firmware cannot join.
pub const MAX_BLOCK: u16 = 1468;
/// Most blocks in flight; also bounds what a forged request makes us send to a stranger.
pub const MAX_WINDOW: u16 = 16;
/// RFC 1350 §5: without the option `blksize`.
pub const DEFAULT_BLOCK: u16 = 512;
/// RFC 2348: the smallest that may be asked for.
const MIN_BLOCK: u16 = 8;
/// A file name or option longer than this is none; RFC 2347 limits a request to 512 bytes.
const MAX_REQUEST: usize = 1024;

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OPTIONS: u16 = 6;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// RRQ.
    Read(ReadRequest),
    /// WRQ, which is always refused.
    Write,
    /// ACK of a block, by its number on the wire.
    Ack(u16),
    /// ERROR: the client wants no more.
    Error {
        /// RFC 1350's number; 8 is RFC 2347's "options refused".
        code: u16,
        /// Its words, made printable.
        text: String,
    },
}

/// A read request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// The name as it came; see [`normalise`](crate::boot::names::normalise).
    pub name: Vec<u8>,
    /// Whether the bytes are wanted as they are (`octet`).
    pub is_octet: bool,
    /// What else it asks for.
    pub options: Options,
}

/// The options of a request that are understood, within this server's limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// `blksize` (RFC 2348).
    pub block_size: Option<u16>,
    /// Whether `tsize` (RFC 2349) was asked for.
    pub wants_size: bool,
    /// `timeout` in seconds (RFC 2349).
    pub timeout_secs: Option<u8>,
    /// `windowsize` (RFC 7440).
    pub window: Option<u16>,
}

impl Options {
    /// Whether nothing was asked for: then there is no OACK.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a packet cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than its kind, or longer than any.
    #[error("its length fits no packet")]
    Length,
    /// A text without its closing zero.
    #[error("a text in it does not end")]
    Unterminated,
    /// A kind that clients do not send.
    #[error("a packet of kind {0}")]
    Kind(u16),
}

/// ERROR codes of RFC 1350 and 2347.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// See the message.
    Undefined = 0,
    /// File not found.
    NotFound = 1,
    /// Access violation.
    Forbidden = 2,
    /// Illegal operation.
    Illegal = 4,
}

impl Packet {
    /// Reads what a client sent.
    ///
    /// # Errors
    /// Why it is no packet; there is nothing to answer then.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (kind, rest) = take_number(bytes)?;
        match kind {
            READ if bytes.len() <= MAX_REQUEST => ReadRequest::parse(rest).map(Self::Read),
            READ => Err(Malformed::Length),
            WRITE => Ok(Self::Write),
            ACK => Ok(Self::Ack(take_number(rest)?.0)),
            ERROR => {
                let (code, text) = take_number(rest)?;
                let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
                Ok(Self::Error { code, text: printable(text) })
            }
            other => Err(Malformed::Kind(other)),
        }
    }
}

impl ReadRequest {
    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (name, rest) = take_text(bytes)?;
        let (mode, mut rest) = take_text(rest)?;
        let mut options = Options::default();
        // Some ROMs pad the request behind its options: what is no pair of texts ends it.
        while let Ok((key, after)) = take_text(rest)
            && let Ok((value, after)) = take_text(after)
        {
            options.take(key, value);
            rest = after;
        }
        Ok(Self { name: name.to_vec(), is_octet: mode.eq_ignore_ascii_case(b"octet"), options })
    }
}

impl Options {
    fn take(&mut self, key: &[u8], value: &[u8]) {
        let Some(number) = std::str::from_utf8(value).ok().and_then(|v| v.parse::<u64>().ok())
        else {
            return;
        };
        match key.to_ascii_lowercase().as_slice() {
            b"blksize" if number >= u64::from(MIN_BLOCK) => {
                self.block_size = Some(capped(number, MAX_BLOCK));
            }
            b"tsize" => self.wants_size = true,
            b"timeout" => self.timeout_secs = u8::try_from(number).ok().filter(|&secs| secs > 0),
            b"windowsize" if number >= 1 => self.window = Some(capped(number, MAX_WINDOW)),
            _ => {}
        }
    }
}

fn capped(number: u64, most: u16) -> u16 {
    u16::try_from(number).map_or(most, |number| number.min(most))
}

fn take_number(bytes: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (number, rest) = bytes.split_first_chunk::<2>().ok_or(Malformed::Length)?;
    Ok((u16::from_be_bytes(*number), rest))
}

fn take_text(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let end = bytes.iter().position(|&byte| byte == 0).ok_or(Malformed::Unterminated)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

/// A client's text, fit for a log.
pub fn printable(text: &[u8]) -> String {
    text.escape_ascii().to_string()
}

/// OACK: the options that were asked for, with what is granted; `size` is the file's.
pub fn options_ack(options: &Options, size: u64) -> Vec<u8> {
    let mut packet = OPTIONS.to_be_bytes().to_vec();
    let granted = [
        ("blksize", options.block_size.map(u64::from)),
        ("tsize", options.wants_size.then_some(size)),
        ("timeout", options.timeout_secs.map(u64::from)),
        ("windowsize", options.window.map(u64::from)),
    ];
    for (key, value) in granted {
        if let Some(value) = value {
            packet.extend_from_slice(format!("{key}\0{value}\0").as_bytes());
        }
    }
    packet
}

/// DATA.
pub fn data(number: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(4 + payload.len());
    packet.extend_from_slice(&DATA.to_be_bytes());
    packet.extend_from_slice(&number.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// ERROR.
pub fn error(code: ErrorCode, text: &str) -> Vec<u8> {
    let mut packet = ERROR.to_be_bytes().to_vec();
    packet.extend_from_slice(&(code as u16).to_be_bytes());
    packet.extend_from_slice(text.as_bytes());
    packet.push(0);
    packet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(request: &[u8], name: &[u8], options: Options) {
        let expected = ReadRequest { name: name.to_vec(), is_octet: true, options };
        assert_eq!(Packet::parse(request), Ok(Packet::Read(expected)), "{}", printable(request));
    }

    #[test]
    fn requests_are_read_as_firmware_writes_them() {
        check(b"\0\x01undionly.kpxe\0octet\0", b"undionly.kpxe", Options::default());
        check(
            b"\0\x01a\0OCTET\0tsize\x000\0blksize\x001468\0windowsize\x004\0",
            b"a",
            Options {
                block_size: Some(1468),
                wants_size: true,
                window: Some(4),
                ..Options::default()
            },
        );
        check(b"\0\x01snponly.efi\xff\0octet\0", b"snponly.efi\xff", Options::default());
        let padded = b"\0\x01a\0octet\0BLKSIZE\x00512\0\0\0\0\0";
        check(padded, b"a", Options { block_size: Some(512), ..Options::default() });
    }

    #[test]
    fn what_is_asked_for_is_capped_and_nonsense_is_passed_over() {
        let huge =
            b"\0\x01a\0octet\0blksize\x0065464\0windowsize\x0099999999999999\0timeout\x00255\0";
        check(
            huge,
            b"a",
            Options {
                block_size: Some(MAX_BLOCK),
                window: Some(MAX_WINDOW),
                timeout_secs: Some(255),
                wants_size: false,
            },
        );
        let odd = b"\0\x01a\0octet\0blksize\x007\0windowsize\x000\0timeout\x00256\0\
            utimeout\x001\0tsize\0x\0blksize\0-1\0multicast\0\0half";
        check(odd, b"a", Options::default());
    }

    #[test]
    fn other_packets_are_read_or_refused() {
        assert_eq!(Packet::parse(b"\0\x02x\0octet\0"), Ok(Packet::Write));
        assert_eq!(Packet::parse(b"\0\x04\xff\xfe"), Ok(Packet::Ack(0xfffe)));
        let aborted = Packet::Error { code: 8, text: "no\\n".to_owned() };
        assert_eq!(Packet::parse(b"\0\x05\0\x08no\n\0"), Ok(aborted));
        assert_eq!(Packet::parse(b"\0\x04\xff"), Err(Malformed::Length));
        assert_eq!(Packet::parse(b""), Err(Malformed::Length));
        assert_eq!(Packet::parse(b"\0\x03\0\x01"), Err(Malformed::Kind(3)));
        assert_eq!(Packet::parse(b"\0\x01name without end"), Err(Malformed::Unterminated));
        let long = [b"\0\x01", &[b'a'; 65_000][..], b"\0octet\0"].concat();
        assert_eq!(Packet::parse(&long), Err(Malformed::Length));
    }

    #[test]
    fn only_what_was_asked_for_is_acknowledged() {
        let options = Options { wants_size: true, window: Some(4), ..Options::default() };
        assert_eq!(options_ack(&options, 70_000), b"\0\x06tsize\x0070000\0windowsize\x004\0");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let parsed = Packet::parse(&bytes);
            if let Ok(Packet::Read(request)) = parsed {
                prop_assert!(request.options.block_size.is_none_or(|b| (8..=MAX_BLOCK).contains(&b)));
                prop_assert!(request.options.window.is_none_or(|w| (1..=MAX_WINDOW).contains(&w)));
            }
        }
    }
}
