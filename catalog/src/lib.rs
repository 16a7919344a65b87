//! The format that BootTorrent's server and nodes share, on one page.
//!
//! A supervisor writes *entries*, one TOML file per system ([`Entry`]). The server turns all entries
//! of a lab into one *catalog* ([`Catalog`]), a TOML document whose exact bytes it signs in minisign
//! format. A node gets two signed documents:
//!
//! ```text
//! root key (pinned in the initramfs) --signs--> keys.toml      which signing keys count, until when
//! signing key (on the server)        --signs--> catalog.toml   systems, command lines, SHA-256 of every file
//! ```
//!
//! [`Trust::open`] is the only way from bytes to a [`Catalog`] on a node: it verifies first, parses
//! after, and then checks lab, version and expiry. Nothing half-valid gets out of this crate.
//!
//! Left out: files and sockets (the callers'), the torrent's own format (`bt-swarm`), and freshness
//! by nonce.

mod catalog;
mod entry;
mod error;
mod families;
mod kernel;
mod keys;

pub use catalog::{Catalog, Icon, MAX_BYTES, MAX_SYSTEMS, System, SystemFile};
pub use entry::{
    ByteSize, Digest, Entry, EntryIcon, Firmware, Infohash, LabId, Role, SystemId, line_of_text,
    position,
};
pub use error::{CatalogError, EntryError};
pub use families::{Family, HANDOVER_IMAGE, HANDOVER_INIT, MAX_RANGES, Medium, Way, command_line};
pub use kernel::{KERNEL_HEADER_BYTES, KernelHeader};
#[cfg(feature = "sign")]
pub use keys::SecretKey;
pub use keys::{KeyList, PublicKey, Signed, Trust, ValidKey};
