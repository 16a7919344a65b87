//! Core: what creating and reading `.torrent` files (BEP 3, BEP 27) have in common.
//!
//! Reading does no IO. [`create()`] reads the payload once from disk; both hashes, SHA-1 of the
//! pieces for BitTorrent and SHA-256 of each file for the signed catalog, are computed in that one
//! pass. Not supported: version 2 torrents (BEP 52), nested folders, padding files, symbolic links.

mod create;
mod metainfo;

use std::path::PathBuf;

/// Key of a `.torrent` next to `info`: the SHA-256 of every piece, one after the other.
const SHA256_PIECES: &str = "sha256 pieces";

pub use create::{CreateError, Created, FileDigest, create};
pub use metainfo::{Metainfo, MetainfoError};

/// A file on disk and the name it has in the torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// One plain path component.
    pub name: String,
    /// The file on disk.
    pub path: PathBuf,
}

/// Whether a name can only be a file in one folder, and never leads out of it.
fn is_plain_component(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.chars().any(|letter| matches!(letter, '/' | '\\') || letter.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_not_plain() {
        assert!(is_plain_component("initrd.img"));
        for name in ["", ".", "..", "a/b", "a\\b", "a\0", "a\n"] {
            assert!(!is_plain_component(name), "{name:?}");
        }
    }
}
