//! Shell: what is on offer now, as HTTP and the seed need it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bt_swarm::Infohash;
use bytes::Bytes;

use crate::humanize;
use crate::lab::files::SourceFile;

/// What is published now; replaced in one step, so that a reader never sees half an edit.
pub type PublishedCatalog = Arc<parking_lot::RwLock<Arc<Published>>>;

/// One file that HTTP serves from memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The exact bytes: signatures are over them.
    pub bytes: Bytes,
    /// For the `Content-Type` header.
    pub content_type: &'static str,
}

/// One system on offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedSystem {
    /// The stem of its catalog file.
    pub id: String,
    /// The name students see.
    pub name: String,
    /// Its torrent.
    pub infohash: Infohash,
    /// All its bytes.
    pub total: u64,
}

/// Everything that one version of the catalog consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// The catalog's growing number.
    pub version: u64,
    /// By URL path with its leading slash: `/catalog.toml`, `/torrents/x.torrent`, `/icons/<hex>`.
    pub documents: BTreeMap<String, Document>,
    /// In the menu's order.
    pub systems: Vec<PublishedSystem>,
}

/// What the seed needs of one system.
#[derive(Debug, Clone)]
pub struct SeedSource {
    /// Which system.
    pub id: String,
    /// Its torrent.
    pub torrent: Vec<u8>,
    /// Its swarm.
    pub infohash: Infohash,
    /// Its files.
    pub files: Vec<SourceFile>,
}

/// A stock BitTorrent client that announced itself and lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invitation {
    /// What it wants.
    pub infohash: Infohash,
    /// Where it listens.
    pub address: SocketAddr,
}

/// `catalog version 17: 3 systems, 4.2 GiB`.
pub fn summary(published: &Published) -> String {
    let total = published.systems.iter().map(|system| system.total).sum();
    match published.systems.len() {
        0 => format!("catalog version {}: no system yet", published.version),
        1 => format!("catalog version {}: 1 system, {}", published.version, humanize::size(total)),
        count => format!(
            "catalog version {}: {count} systems, {}",
            published.version,
            humanize::size(total)
        ),
    }
}
