//! BootTorrent's BitTorrent engine, shared by server and node.
//!
//! A room of PCs that start together should get their system in the time that one alone would
//! need. Two roles make that happen:
//!
//! - [`Seed`], the server: uploads many torrents on one port and *super-seeds* each. It shows each
//!   node only a few pieces at a time, each piece to one node first, so that it sends little more
//!   than one copy in all.
//! - [`Node`]: downloads one torrent from every peer, rarest piece first, and uploads to every
//!   peer. There is no choking and there are no upload slots: in one room everyone may have
//!   everything.
//!
//! Both speak plain BitTorrent v1 (BEP 3, 9, 10), so stock clients can join. Deliberately absent:
//! DHT, peer exchange, local discovery, uTP, encryption. The lab's tracker knows every peer.
//!
//! All decisions are in cores that know neither sockets nor clocks. [`protocol`] is what goes over
//! the wire, [`swarm`] the state of one swarm and which block is requested from whom; `engine`
//! moves the bytes between them, `storage` and the network. Servers and nodes need only the names
//! on this page. The public modules are for another shell around the same cores, such as the
//! simulator.

mod engine;
mod error;
pub mod protocol;
mod storage;
pub mod swarm;
mod torrent;

pub use engine::{Node, NodeOptions, Seed, SeedOptions, SeedStats};
pub use error::SwarmError;
pub use protocol::infohash::{Infohash, NotAnInfohash};
pub use protocol::peer_id::PeerId;
pub use protocol::url::magnet;
pub use protocol::{announce, layout};
pub use storage::{Files, ReadOnlyFiles, Storage, read_cached};
pub use swarm::Progress;
pub use torrent::{CreateError, Created, FileDigest, FileSpec, Metainfo, MetainfoError, create};
