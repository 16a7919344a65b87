//! Shell: everything that is fetched over HTTP: boot files, catalog, tracker, reports, page.
//!
//! Fixed routes only: what is served is a published document in memory, one of two files of the
//! small Linux, or a loader from TFTP's allow-list. No part of a URL ever becomes a path on disk,
//! and what is absent looks the same as what is forbidden. Nothing here changes the lab: a report
//! and an announce change tables in memory, which have limits.

mod connections;
mod page;
mod range;
mod rate_limit;
pub mod slashes;
pub mod tracker;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bt_catalog::{MAX_REPORT, paths};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

pub use self::connections::Connection;
use self::connections::Seats;
use self::rate_limit::RateLimit;
use self::tracker::{Announce, Refused, Tracker};
use crate::boot::files::BootFiles;
use crate::boot::loaders::Loaders;
use crate::boot::names::AUTOEXEC;
use crate::boot::scripts::Scripts;
use crate::os::open_files;
use crate::os::sockets::{self, BindError};
use crate::publication::published::{Invitation, PublishedCatalog};
use crate::status::report::NodeReport;
use crate::status::{SharedStatus, StatusEvent};

/// A report's body must be here by then, else the connection is only kept busy.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
const TEXT: &str = "text/plain; charset=utf-8";
const EFI: &str = "application/efi";
const BINARY: &str = "application/octet-stream";

/// What the HTTP role needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen; 0.0.0.0 for every address.
    pub listen: SocketAddr,
    /// The folder that holds `vmlinuz` and `initrd.img`.
    pub boot_dir: PathBuf,
    /// What loaders run.
    pub scripts: Scripts,
    /// Port of the seed, which the tracker names to everybody.
    pub seed_port: u16,
    /// The loaders, for HTTP Boot.
    pub loaders: Loaders,
    /// Where the seed hears of stock clients that it should call back.
    pub invitations: mpsc::Sender<Invitation>,
}

/// The HTTP role, ready to run.
#[derive(Debug)]
pub struct Http {
    listener: std::net::TcpListener,
    /// Those of further network cards.
    others: Vec<std::net::TcpListener>,
    lab: Arc<Lab>,
}

/// What the routes share.
#[derive(Debug)]
struct Lab {
    settings: Settings,
    boot_files: BootFiles,
    current: PublishedCatalog,
    status: SharedStatus,
    tracker: Mutex<Tracker>,
    reports: Mutex<RateLimit>,
}

impl Http {
    /// Opens the port.
    ///
    /// # Errors
    /// When it cannot be opened; the error says why.
    pub fn bind(
        settings: Settings,
        current: PublishedCatalog,
        status: SharedStatus,
    ) -> Result<Self, BindError> {
        let listener = sockets::tcp("HTTP", settings.listen)?;
        let boot_files = BootFiles::new(settings.boot_dir.clone());
        let (tracker, reports) = (Mutex::default(), Mutex::default());
        let lab = Lab { settings, boot_files, current, status, tracker, reports };
        Ok(Self { listener, others: Vec::new(), lab: Arc::new(lab) })
    }

    /// Listens on a further address: that of another network card.
    ///
    /// # Errors
    /// When it cannot be opened; the error says why.
    pub fn listen_also(&mut self, address: SocketAddr) -> Result<(), BindError> {
        self.others.push(sockets::tcp("HTTP", address)?);
        Ok(())
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When the listener cannot be handed to the runtime; not for anything that a client does.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        let router = router(self.lab);
        let mut servers = tokio::task::JoinSet::new();
        // One count for all cards: they share the process's open files.
        let seats = Seats::for_open_files(open_files::allowed());
        for listener in std::iter::once(self.listener).chain(self.others) {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (router, seats, shutdown) = (router.clone(), seats.clone(), shutdown.clone());
            servers.spawn(connections::serve(listener, router, seats, shutdown));
        }
        servers.join_all().await;
        Ok(())
    }
}

fn router(lab: Arc<Lab>) -> Router {
    Router::new()
        .route("/", get(show_page))
        .route("/status.json", get(show_status))
        .route(paths::ANNOUNCE, get(announce))
        .route(paths::REPORT, post(take_report))
        .fallback(file)
        .with_state(lab)
}

async fn show_page() -> Response {
    page::response(rand::random())
}

async fn show_status(State(lab): State<Arc<Lab>>) -> Response {
    let snapshot = lab.status.lock().snapshot(SystemTime::now());
    ([(header::CACHE_CONTROL, "no-store")], Json(snapshot)).into_response()
}

async fn announce(
    State(lab): State<Arc<Lab>>,
    Extension(connection): Extension<Connection>,
    request: Request,
) -> Response {
    let answer = lab.announce(request.uri().query().unwrap_or_default(), connection);
    let answer = answer.unwrap_or_else(|refused| {
        debug!(ip = %connection.peer.ip(), %refused, "announce refused");
        refused.answer()
    });
    ([(header::CONTENT_TYPE, TEXT)], answer).into_response()
}

async fn take_report(
    State(lab): State<Arc<Lab>>,
    Extension(connection): Extension<Connection>,
    body: Body,
) -> Response {
    let ip = connection.peer.ip();
    if !lab.reports.lock().takes(ip, SystemTime::now()) {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    }
    let body = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_REPORT)).await;
    let Ok(Ok(body)) = body else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    match NodeReport::parse(&body) {
        Ok(report) => {
            lab.status.lock().apply(StatusEvent::Report { ip, report }, SystemTime::now());
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

/// Everything that is a file, and everything that is not there.
async fn file(
    State(lab): State<Arc<Lab>>,
    Extension(connection): Extension<Connection>,
    method: Method,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let is_read = method == Method::GET || method == Method::HEAD;
    let path = request.uri().path();
    let query = request.uri().query();
    let found = if is_read { lab.find(path, query, connection).await } else { None };
    let ip = connection.peer.ip();
    let Some((bytes, content_type)) = found else {
        debug!(%ip, path, "not found");
        return (StatusCode::NOT_FOUND, "not found\n").into_response();
    };
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (response, length) = range::response(bytes, content_type, range);
    if method == Method::GET {
        info!(%ip, path, bytes = length, "HTTP");
        let event = StatusEvent::Http { ip, path: path.to_owned(), bytes: length };
        lab.status.lock().apply(event, SystemTime::now());
    }
    response
}

impl Lab {
    async fn find(
        &self,
        path: &str,
        query: Option<&str>,
        connection: Connection,
    ) -> Option<(Bytes, &'static str)> {
        let name = path.strip_prefix('/')?;
        if name == AUTOEXEC {
            return Some((self.settings.scripts.autoexec(connection.local).into(), TEXT));
        }
        if path == paths::SCRIPT {
            let ip = ipv4(connection.peer.ip())?;
            let script = self.settings.scripts.ipxe(connection.local, query, ip);
            return Some((script.into(), TEXT));
        }
        if let Some(name) = name.strip_prefix("boot/") {
            return self.boot_files.find(name).await.map(|bytes| (bytes, BINARY));
        }
        if let Some((name, bytes)) = self.settings.loaders.find(name) {
            let content_type = if name.ends_with(".efi") { EFI } else { BINARY };
            return Some((bytes.clone(), content_type));
        }
        let current = self.current.read().clone();
        let document = current.documents.get(path)?;
        Some((document.bytes.clone(), document.content_type))
    }

    fn announce(&self, query: &str, connection: Connection) -> Result<Vec<u8>, Refused> {
        let announce = Announce::parse(query)?;
        let current = self.current.read().clone();
        let is_offered = |infohash| current.systems.iter().any(|s| s.infohash == infohash);
        let mut tracker = self.tracker.lock();
        if !is_offered(announce.infohash) {
            tracker.keep_only(is_offered);
            return Err(Refused::Unknown);
        }
        let source = ipv4(connection.peer.ip()).ok_or(Refused::Bad("address"))?;
        let local = ipv4(connection.local.ip()).ok_or(Refused::Bad("address"))?;
        let seed = SocketAddrV4::new(local, self.settings.seed_port);
        if announce.needs_invitation() {
            let address = SocketAddr::from((source, announce.port));
            let invitation = Invitation { infohash: announce.infohash, address };
            if self.settings.invitations.try_send(invitation).is_err() {
                debug!(ip = %source, "the seed is too busy for an invitation");
            }
        }
        Ok(tracker.announce(&announce, source, seed, SystemTime::now()))
    }
}

fn ipv4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}
