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
//! [`Trust::open`] is the only path from bytes to a [`Catalog`] on a node: it verifies first, parses
//! after, and then checks lab, version and expiry. Nothing half-valid gets out of this crate.
//!
//! What else a node and its server say to each other is here too, defined once: the words of the
//! kernel command line ([`Cmdline`]), the node's report ([`Report`]), the names under which things
//! are offered ([`paths`]), and the rule by which older and newer programs understand each other
//! ([`version`]).
//!
//! Left out: files and sockets (the callers'), the torrent's own format (`bt-swarm`), and freshness
//! by nonce.

mod catalog;
mod cmdline;
mod entry;
mod error;
mod families;
mod kernel;
mod keys;
mod mac;
pub mod paths;
mod report;
mod uuid;
mod values;
pub mod version;

pub use catalog::{Catalog, Icon, MAX_BYTES, MAX_SYSTEMS, System, SystemFile, TooNew};
pub use cmdline::{BOOTIF_ETHERNET, Cmdline, NodeWords, word};
pub use entry::{Entry, EntryIcon, line_of_text, position};
pub use error::{CatalogError, EntryError};
pub use families::{
    BootMethod, Family, HANDOVER_IMAGE, HANDOVER_INIT, MAX_RANGES, Medium, command_line,
};
pub use kernel::{KERNEL_HEADER_BYTES, KernelHeader};
#[cfg(feature = "sign")]
pub use keys::SecretKey;
pub use mac::{Mac, NotAMac};
pub use report::{MAX_PROBLEM, MAX_REPORT, NodeStage, Report, ReportError};
pub use uuid::{NotAUuid, Uuid};
pub use values::{ByteSize, Digest, Firmware, Infohash, LabId, Role, SystemId};

pub use keys::{KeyList, PublicKey, Signed, Trust, ValidKey};
