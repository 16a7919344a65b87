//! Shell: a TFTP client with windows (RFC 7440), as UEFI firmware has one and curl has not.
//!
//! Each client is a thread with a socket in the clients' network. It does what RFC 7440 asks: one
//! ACK for each window, and one at once when a block is missing.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::host::clock;
use crate::room::namespace::Namespace;

/// What firmware waits before it asks again.
const PATIENCE: Duration = Duration::from_secs(1);
/// RFC 1350: without the option.
const DEFAULT_BLOCK: usize = 512;

const DATA: u16 = 3;
const ERROR: u16 = 5;
const OPTIONS: u16 = 6;

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Whom.
    pub server: Ipv4Addr,
    /// Which file.
    pub file: &'a str,
    /// Bytes of each block.
    pub block: u16,
    /// Blocks for each ACK.
    pub window: u16,
    /// When it gives up.
    pub limit: Duration,
}

/// Fetches the file once for each of `addresses`, all at the same time, in the network of `namespace`.
/// A client that did not get it returns an error.
pub fn fetch_all(
    namespace: &Namespace,
    addresses: &[Ipv4Addr],
    wish: Wish<'_>,
) -> Vec<Result<Vec<u8>>> {
    let network = namespace.network();
    let fetch = |address: Ipv4Addr| {
        // A thread of its own: setns(2) moves the thread.
        setns(network, CloneFlags::CLONE_NEWNET)?;
        let socket = UdpSocket::bind((address, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Client { socket, wish, peer: None, last: Vec::new() }.fetch()
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            addresses.iter().map(|&address| scope.spawn(move || fetch(address))).collect();
        let join = |client: std::thread::ScopedJoinHandle<'_, Result<Vec<u8>>>| {
            client.join().unwrap_or_else(|_| bail!("the client panicked"))
        };
        clients.into_iter().map(join).collect()
    })
}

struct Client<'a> {
    socket: UdpSocket,
    wish: Wish<'a>,
    /// The server's address and its port for this transfer, once known.
    peer: Option<SocketAddr>,
    /// What was sent last, and is sent again when nothing comes.
    last: Vec<u8>,
}

impl Client<'_> {
    fn fetch(mut self) -> Result<Vec<u8>> {
        let Wish { file, block, window, limit, .. } = self.wish;
        let end = clock::now() + limit;
        self.say(request(file, block, window))?;
        let mut got = Vec::new();
        let (mut block, mut window) = (DEFAULT_BLOCK, 1_u16);
        // Blocks that are here, and those of them that the server does not know of.
        let (mut blocks, mut unsaid) = (0_u16, 0_u16);
        let mut is_gap_told = false;
        while clock::now() < end {
            let Some(packet) = self.hear()? else {
                self.say(self.last.clone())?;
                continue;
            };
            let (kind, rest) = number(&packet).context("a short packet")?;
            match kind {
                OPTIONS if blocks == 0 => {
                    let granted = options(rest);
                    let value = |name: &str| granted.get(name).and_then(|it| it.parse().ok());
                    block = value("blksize").map_or(DEFAULT_BLOCK, usize::from);
                    window = value("windowsize").unwrap_or(1);
                    self.say(ack(0))?;
                }
                DATA => {
                    let (at, bytes) = number(rest).context("a short DATA")?;
                    if at != blocks.wrapping_add(1) {
                        // One word for each gap: more would be answered with more of the same.
                        if !std::mem::replace(&mut is_gap_told, true) {
                            unsaid = 0;
                            self.say(ack(blocks))?;
                        }
                        continue;
                    }
                    is_gap_told = false;
                    (blocks, unsaid) = (at, unsaid + 1);
                    got.extend_from_slice(bytes);
                    let is_last = bytes.len() < block;
                    if is_last || unsaid == window {
                        unsaid = 0;
                        self.say(ack(blocks))?;
                    }
                    if is_last {
                        return Ok(got);
                    }
                }
                ERROR => bail!("the server refused: {}", rest.escape_ascii()),
                _ => {}
            }
        }
        bail!("{} bytes after {} s", got.len(), limit.as_secs())
    }

    fn say(&mut self, packet: Vec<u8>) -> Result<()> {
        let port_69 = SocketAddr::from((self.wish.server, 69));
        // A packet that cannot leave is a lost packet.
        self.socket.send_to(&packet, self.peer.unwrap_or(port_69)).ok();
        self.last = packet;
        clock::check_interrupted()
    }

    /// The next packet of the server; `None` when nothing came in time.
    fn hear(&mut self) -> Result<Option<Vec<u8>>> {
        let mut packet = [0; 2048];
        let Ok((length, from)) = self.socket.recv_from(&mut packet) else {
            clock::check_interrupted()?;
            return Ok(None);
        };
        Ok((*self.peer.get_or_insert(from) == from).then(|| packet[..length].to_vec()))
    }
}

fn request(file: &str, block: u16, window: u16) -> Vec<u8> {
    let text = format!("{file}\0octet\0blksize\0{block}\0windowsize\0{window}\0");
    [&[0, 1], text.as_bytes()].concat()
}

fn ack(block: u16) -> Vec<u8> {
    let [high, low] = block.to_be_bytes();
    vec![0, 4, high, low]
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// The pairs of an OACK; names in lower case.
fn options(bytes: &[u8]) -> HashMap<String, String> {
    let texts: Vec<String> =
        bytes.split(|&byte| byte == 0).map(|it| String::from_utf8_lossy(it).into_owned()).collect();
    texts.chunks_exact(2).map(|pair| (pair[0].to_lowercase(), pair[1].clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_that_a_server_granted_are_read() {
        let granted = options(b"blksize\x001468\0WindowSize\x004\0");
        assert_eq!(granted.get("blksize").map(String::as_str), Some("1468"));
        assert_eq!(granted.get("windowsize").map(String::as_str), Some("4"));
        assert!(options(b"").is_empty());
    }

    #[test]
    fn a_request_names_its_options() {
        let expected = b"\x00\x01a\0octet\0blksize\x001468\0windowsize\x004\0";
        assert_eq!(request("a", 1468, 4), expected);
    }
}
