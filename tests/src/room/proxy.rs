//! Shell: an attacker between node and server: forwards everything, but flips a bit of the catalog
//! until it is stopped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::http;
use crate::room::addresses::SERVER;
use crate::room::server::HTTP;

/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// A running attacker; its thread ends with the lab.
pub struct Proxy {
    address: SocketAddr,
    flips: Arc<AtomicBool>,
}

impl Proxy {
    /// Starts to listen next to the server, and to flip.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((SERVER, 0)).context("cannot listen")?;
        let proxy = Self { address: listener.local_addr()?, flips: Arc::new(true.into()) };
        let flips = Arc::clone(&proxy.flips);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let flips = Arc::clone(&flips);
                // A connection that fails is the node's to report.
                std::thread::spawn(move || pass_on(stream, &flips).ok());
            }
        });
        Ok(proxy)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it only hands on.
    pub fn become_honest(&self) {
        self.flips.store(false, Ordering::Relaxed);
    }
}

/// Serves one request, then closes: enough for a node, which opens the next connection.
fn pass_on(client: TcpStream, flips: &AtomicBool) -> Result<()> {
    client.set_read_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let mut client = client;
    if head.starts_with("GET /catalog.toml ") && flips.load(Ordering::Relaxed) {
        let mut catalog = http::get(HTTP, "/catalog.toml")?;
        let middle = catalog.len() / 2;
        catalog[middle] ^= 1;
        write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", catalog.len())?;
        write!(client, "Connection: close\r\n\r\n")?;
        return Ok(client.write_all(&catalog)?);
    }
    let mut server = TcpStream::connect(HTTP)?;
    server.set_read_timeout(Some(SILENCE))?;
    let head = head.trim_end();
    write!(server, "{head}\r\nConnection: close\r\n\r\n")?;
    let mut upward = server.try_clone()?;
    std::thread::spawn(move || std::io::copy(&mut reader, &mut upward).ok());
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    Ok(client.shutdown(Shutdown::Both)?)
}
