//! Shell: a plain tracker (BEP 3, BEP 23) for the engines that BootTorrent is compared with.
//!
//! It names everybody to everybody, without delay, so no engine waits for it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::host::clock;
use crate::room::namespace::Namespace;

/// Where it answers.
pub const ANNOUNCE: &str = "http://10.77.0.1:7070/announce";
const PORT: u16 = 7070;
/// Seconds until a client asks again.
const INTERVAL: u32 = 5;
/// A client that does not speak for so long is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);
const SEED_LIMIT: Duration = Duration::from_secs(60);

/// A running tracker; it ends with this value.
pub struct Tracker {
    peers: Arc<Mutex<Peers>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tracker {
    /// Starts it in the server's network.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let network: OwnedFd = namespace.network().try_clone_to_owned()?;
        let peers = Arc::<Mutex<Peers>>::default();
        let is_over = Arc::new(AtomicBool::new(false));
        let (for_thread, until) = (Arc::clone(&peers), Arc::clone(&is_over));
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let bound =
                setns(&network, CloneFlags::CLONE_NEWNET).map_err(Into::into).and_then(|()| {
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))
                        .context("no port for the tracker")
                });
            match bound {
                Ok(listener) => {
                    tell.send(Ok(())).ok();
                    serve(&listener, &for_thread, &until);
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        });
        told.recv().context("the tracker's thread has stopped")??;
        Ok(Self { peers, is_over, thread: Some(thread) })
    }

    /// Waits until somebody has announced that it has everything.
    pub fn wait_for_seed(&self, mut check: impl FnMut() -> Result<()>) -> Result<()> {
        clock::wait_for("the seed to announce itself", SEED_LIMIT, || {
            check()?;
            let peers = self.peers.lock().expect("no holder panics");
            Ok(peers.0.iter().any(|peer| peer.left == 0).then_some(()))
        })
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn serve(listener: &TcpListener, peers: &Mutex<Peers>, is_over: &AtomicBool) {
    // Without blocking, so that the end is noticed.
    listener.set_nonblocking(true).ok();
    while !is_over.load(Ordering::Relaxed) {
        match listener.accept() {
            // A client that breaks off asks again.
            Ok((stream, from)) => drop(answer(stream, from, peers)),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn answer(mut stream: TcpStream, from: SocketAddr, peers: &Mutex<Peers>) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut part = [0; 2048];
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let bytes = stream.read(&mut part)?;
        if bytes == 0 || request.len() > 16 << 10 {
            return Ok(());
        }
        request.extend(&part[..bytes]);
    }
    let SocketAddr::V4(from) = from else { return Ok(()) };
    let body = peers.lock().expect("no holder panics").announce(&request, *from.ip());
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat())?;
    Ok(())
}

struct Peer {
    address: SocketAddrV4,
    left: u64,
}

/// Who is there; one torrent only.
#[derive(Default)]
struct Peers(Vec<Peer>);

impl Peers {
    /// Takes the request and makes the bencoded answer.
    fn announce(&mut self, request: &[u8], from: Ipv4Addr) -> Vec<u8> {
        let text = String::from_utf8_lossy(request);
        let query = text.split(' ').nth(1).and_then(|path| path.split_once('?'));
        let query = query.map_or("", |(_, query)| query);
        let value = |key: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next()
        };
        let Some(port) = value("port").and_then(|port| port.parse().ok()) else {
            return b"d14:failure reason15:no port is givene".to_vec();
        };
        let address = SocketAddrV4::new(from, port);
        self.0.retain(|peer| peer.address != address);
        let others: Vec<u8> = self.0.iter().flat_map(|peer| compact(peer.address)).collect();
        if value("event") != Some("stopped") {
            let left = value("left").and_then(|left| left.parse().ok()).unwrap_or(u64::MAX);
            self.0.push(Peer { address, left });
        }
        let head =
            format!("d8:intervali{INTERVAL}e12:min intervali{INTERVAL}e5:peers{}:", others.len());
        [head.as_bytes(), &others, b"e"].concat()
    }
}

/// BEP 23: address and port, 6 bytes.
fn compact(address: SocketAddrV4) -> [u8; 6] {
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    [a, b, c, d, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(peers: &mut Peers, query: &str, last: u8) -> Vec<u8> {
        let request = format!("GET /announce?info_hash=%00&{query} HTTP/1.1\r\n\r\n");
        peers.announce(request.as_bytes(), Ipv4Addr::new(10, 77, 1, last))
    }

    #[test]
    fn everybody_is_named_to_everybody_but_to_himself() {
        let mut peers = Peers::default();
        let alone = b"d8:intervali5e12:min intervali5e5:peers0:e";
        assert_eq!(ask(&mut peers, "port=6881&left=0", 1), alone);
        assert_eq!(ask(&mut peers, "port=6881&left=0", 1), alone);
        let both = b"d8:intervali5e12:min intervali5e5:peers6:\x0a\x4d\x01\x01\x1a\xe1e";
        assert_eq!(ask(&mut peers, "port=6881&left=9", 2), both);
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let mut peers = Peers::default();
        ask(&mut peers, "port=6881&left=0", 1);
        ask(&mut peers, "port=6881&left=0&event=stopped", 1);
        assert!(peers.0.is_empty());
        assert!(ask(&mut peers, "left=0", 1).starts_with(b"d14:failure reason15:"));
    }
}
