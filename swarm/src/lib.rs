//! BootTorrent's BitTorrent engine, shared by server and node.
//!
//! A room of PCs that start together should get their system in the time that one alone would
//! need. Two roles make that happen:
//!
//! - [`Seed`], the server: gives many torrents on one port and *super-seeds*. It shows each node
//!   only a few pieces at a time, each piece to one node first, so that it sends little more
//!   than one copy in all.
//! - [`Node`]: fetches one torrent from everybody, rarest piece first, and gives to everybody. There
//!   is no choking and there are no upload slots: in one room everyone may have everything.
//!
//! Both speak plain BitTorrent v1 (BEP 3, 9, 10), so stock clients can join. Deliberately absent:
//! DHT, peer exchange, local discovery, UDP transport, encryption. The tracker knows everybody.
//!
//! All decisions are in cores that know neither sockets nor clocks. [`protocol`] is what goes over the
//! wire, [`swarm`] the state of one swarm and who is asked for what; `engine` and its connections move
//! the bytes between them, `storage` and the network. Servers and nodes need the names of this page
//! only; the modules are for who puts another world around the cores, as the simulator does.

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
