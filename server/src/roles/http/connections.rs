//! Shell: accepts connections and bounds what each may cost.
//!
//! A client that sends its request byte by byte, never reads its answer, or opens connections
//! without end loses them; everybody else does not notice. hyper does the protocol.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::slashes::single_slashes;

/// A request's head must be here by then; also how long an idle connection is kept. UEFI asks
/// HEAD and then GET on one connection, within a second.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes nothing for this long is gone. iPXE pauses for 5 s and more while it makes
/// room for a large file.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// All connections together, where the limit of open files allows twice as many.
const MAX_CONNECTIONS: usize = 512;
/// Connections of one address.
const MAX_PER_ADDRESS: usize = 64;
/// hyper's smallest; real requests have a head below 2 KiB.
const MAX_HEAD: usize = 8192;
/// When `accept` fails for want of descriptors, trying on at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long answers that are under way may take to end at shutdown.
const GOODBYE: Duration = Duration::from_secs(2);

/// Both ends of the connection that a request came by.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    /// The client.
    pub peer: SocketAddr,
    /// Our address as the client reached it: the one that it can reach again.
    pub local: SocketAddr,
}

/// Serves until `shutdown`, then lets answers under way end for a moment.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    seats: Seats,
    shutdown: CancellationToken,
) {
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => match seats.take(peer.ip()) {
                Some(seat) => {
                    let (router, shutdown) = (router.clone(), shutdown.clone());
                    open.spawn(async move {
                        if let Err(error) = converse(stream, peer, router, shutdown).await {
                            debug!(ip = %peer.ip(), %error, "HTTP connection ended");
                        }
                        drop(seat);
                    });
                }
                None => debug!(ip = %peer.ip(), "too many HTTP connections, one refused"),
            },
            Err(error) => {
                warn!(%error, "HTTP cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all_ended = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(GOODBYE, all_ended).await.is_err() {
        debug!("HTTP answers were cut off by the shutdown");
    }
}

async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let connection = Connection { peer: canonical(peer), local: canonical(stream.local_addr()?) };
    prepare(&stream)?;
    let service = service_fn(move |request: Request<Incoming>| {
        answer(router.clone(), request.map(Body::new), connection)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => return Ok(ended?),
        () = shutdown.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    Ok(serving.await?)
}

async fn answer(
    router: Router,
    mut request: Request<Body>,
    connection: Connection,
) -> Result<Response<Body>, Infallible> {
    if let Some(uri) = single_slashes(request.uri()) {
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(connection);
    router.oneshot(request).await
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Also ends a connection whose peer keeps its window at zero (tcp(7)).
    SockRef::from(stream).set_tcp_user_timeout(Some(STALL_TIMEOUT))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Counts open connections, per address and in all.
#[derive(Debug, Clone)]
pub(super) struct Seats {
    most: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One open connection, counted until it is dropped.
#[derive(Debug)]
struct Seat {
    seats: Seats,
    ip: IpAddr,
}

impl Seats {
    /// At most half of the `allowed` open files: the other roles of the process need theirs too.
    pub(super) fn for_open_files(allowed: u64) -> Self {
        let half = usize::try_from(allowed / 2).unwrap_or(MAX_CONNECTIONS);
        Self { most: half.min(MAX_CONNECTIONS), taken: Arc::default() }
    }

    fn take(&self, ip: IpAddr) -> Option<Seat> {
        let mut taken = self.taken.lock();
        let of_address = taken.get(&ip).copied().unwrap_or(0);
        if of_address >= MAX_PER_ADDRESS || taken.values().sum::<usize>() >= self.most {
            return None;
        }
        taken.insert(ip, of_address + 1);
        Some(Seat { seats: self.clone(), ip })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        if let Some(of_address) = taken.get_mut(&self.ip) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_limited_per_address_and_in_all() {
        let seats = Seats::for_open_files(1024);
        let ip = |last: u8| IpAddr::from([10, 77, 0, last]);
        let mut open: Vec<_> = (0..99).filter_map(|_| seats.take(ip(1))).collect();
        assert_eq!(open.len(), MAX_PER_ADDRESS);
        open.extend((0..900_u16).filter_map(|n| seats.take(ip((2 + n % 100) as u8))));
        assert_eq!(open.len(), MAX_CONNECTIONS);
        drop(open);
        assert!(seats.taken.lock().is_empty());
    }

    #[test]
    fn few_open_files_mean_few_connections() {
        for (allowed, most) in [(96, 48), (1023, 511), (1 << 20, 512), (u64::MAX, 512), (0, 0)] {
            assert_eq!(Seats::for_open_files(allowed).most, most, "{allowed}");
        }
    }
}
