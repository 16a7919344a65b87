//! Shell: the lab's files -> the signed catalog and its torrents.

use std::collections::BTreeMap;
use std::sync::Arc;

use bt_swarm::Infohash;
use bytes::Bytes;

/// What is offered now; replaced as a whole, so that a reader never sees half an edit.
pub type Current = Arc<parking_lot::RwLock<Arc<Published>>>;

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
