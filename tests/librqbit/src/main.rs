//! Shell: `bt-librqbit-peer`: one peer on stock librqbit, with the settings that suit a room best.
//!
//! It asks the torrent's own tracker and nobody else: no DHT, no local discovery, no port
//! forwarding, TCP over IPv4 only.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use librqbit::{
    AddTorrent, AddTorrentOptions, ListenerMode, ListenerOptions, ManagedTorrent, Session,
    SessionOptions,
};
use tracing_subscriber::EnvFilter;

/// What a seed prints when it has checked its files, and what the lab waits for.
const READY: &str = "READY";
/// What a download prints when all pieces are there and checked.
const FINISHED: &str = "FINISHED";
/// Everybody in the room may connect: more than the lab has PCs.
const PEERS: usize = 1000;
/// As often as the lab lets aria2 ask.
const TRACKER_INTERVAL: Duration = Duration::from_secs(2);

/// One BitTorrent peer on stock librqbit
#[derive(Parser)]
#[command(name = "bt-librqbit-peer")]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Seed a folder: check it, print READY, and upload until killed
    Seed(What),
    /// Download into a folder: print FINISHED when all is there and checked, and keep uploading
    Fetch {
        #[command(flatten)]
        what: What,
        /// A peer to connect to, in addition to those from the tracker
        #[arg(long = "peer", value_name = "ADDRESS:PORT")]
        peers: Vec<SocketAddr>,
        /// Exit when the download is complete
        #[arg(long)]
        once: bool,
    },
}

#[derive(Args)]
struct What {
    /// The .torrent file
    torrent: PathBuf,
    /// Where the files lie, in a folder of the torrent's name
    folder: PathBuf,
    /// The TCP port for other peers
    #[arg(long, default_value_t = 6881)]
    listen: u16,
}

#[tokio::main]
async fn main() -> Result<()> {
    let level = EnvFilter::try_from_env("BT_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    match Arguments::parse().role {
        Role::Seed(what) => seed(what).await,
        Role::Fetch { what, peers, once } => fetch(what, peers, once).await,
    }
}

async fn seed(what: What) -> Result<()> {
    let missing = format!("{} lacks files of the torrent", what.folder.display());
    // Only held: it serves as long as it lives.
    let (_session, torrent) = join(what, Vec::new()).await?;
    torrent.wait_until_initialized().await.context("cannot check the files")?;
    ensure!(torrent.stats().finished, "{missing}; pass the parent of the torrent's folder");
    println!("{READY}");
    std::future::pending().await
}

async fn fetch(what: What, peers: Vec<SocketAddr>, once: bool) -> Result<()> {
    let (_session, torrent) = join(what, peers).await?;
    torrent.wait_until_completed().await.context("the download failed")?;
    println!("{FINISHED}");
    if once { Ok(()) } else { std::future::pending().await }
}

/// Opens a session with this torrent only, which is at work from then on.
async fn join(what: What, peers: Vec<SocketAddr>) -> Result<(Arc<Session>, Arc<ManagedTorrent>)> {
    let path = what.torrent.display();
    let bytes = std::fs::read(&what.torrent).with_context(|| format!("cannot read {path}"))?;
    let session = Session::new_with_opts(what.folder, session_options(what.listen))
        .await
        .context("cannot start librqbit; is the port in use?")?;
    let options = AddTorrentOptions {
        // Without this it takes no files that are there already, not even to seed them.
        overwrite: true,
        force_tracker_interval: Some(TRACKER_INTERVAL),
        initial_peers: Some(peers),
        ..AddTorrentOptions::default()
    };
    let added = session.add_torrent(AddTorrent::from_bytes(bytes), Some(options)).await;
    let added = added.with_context(|| format!("librqbit refuses {path}"))?;
    let torrent = added.into_handle().context("librqbit did not start the torrent")?;
    Ok((session, torrent))
}

fn session_options(port: u16) -> SessionOptions {
    SessionOptions {
        dht: None,
        disable_local_service_discovery: true,
        ipv4_only: true,
        peer_limit: Some(PEERS),
        listen: Some(ListenerOptions {
            mode: ListenerMode::TcpOnly,
            listen_addr: (Ipv4Addr::UNSPECIFIED, port).into(),
            enable_upnp_port_forwarding: false,
            ipv4_only: true,
            ..ListenerOptions::default()
        }),
        ..SessionOptions::default()
    }
}
