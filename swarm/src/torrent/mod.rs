//! Shell: making and reading `.torrent` files (BEP 3, BEP 27) and magnet links (BEP 9).
//!
//! Reading is pure. [`create`] reads the payload once from disk; both hashes, SHA-1 of the pieces
//! for BitTorrent and SHA-256 of each file for the signed catalog, are taken in that one pass.
//! Left out: version 2 torrents (BEP 52), nested folders, padding files, symbolic links.

mod create;
mod metainfo;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Key of a `.torrent` beside `info`: the SHA-256 of every piece, one after the other.
const SHA256_PIECES: &str = "sha256 pieces";

pub use create::{CreateError, Created, FileDigest, create};
pub use metainfo::{Metainfo, MetainfoError};

/// SHA-1 of a torrent's info dictionary: the name of a swarm.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Infohash(pub [u8; 20]);

impl fmt::Display for Infohash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Infohash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Infohash({self})")
    }
}

/// The text is not 40 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an infohash is 40 hexadecimal digits")]
pub struct NotAnInfohash;

impl FromStr for Infohash {
    type Err = NotAnInfohash;

    fn from_str(text: &str) -> Result<Self, NotAnInfohash> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAnInfohash)?;
        Ok(Self(bytes))
    }
}

/// A file on disk and the name it has in the torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// One plain path component.
    pub name: String,
    /// Where its bytes are.
    pub path: PathBuf,
}

/// The magnet link with which any BitTorrent client can fetch a payload.
pub fn magnet(infohash: Infohash, name: &str, announce: &str, total: u64) -> String {
    format!(
        "magnet:?xt=urn:btih:{infohash}&dn={}&xl={total}&tr={}",
        percent_encode(name.as_bytes()),
        percent_encode(announce.as_bytes())
    )
}

/// RFC 3986 §2.1; every byte but the unreserved ones is written as `%XX`.
pub(crate) fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(*byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// Whether a name can stand for a file in one folder and nowhere else.
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
    fn a_magnet_link_is_percent_encoded() {
        let link = magnet(Infohash([0xab; 20]), "a b", "http://10.0.0.1:6969/announce", 5);
        assert_eq!(
            link,
            format!(
                "magnet:?xt=urn:btih:{}&dn=a%20b&xl=5&tr=http%3A%2F%2F10.0.0.1%3A6969%2Fannounce",
                "ab".repeat(20)
            )
        );
    }

    #[test]
    fn an_infohash_is_read_back_from_its_text() {
        let infohash = Infohash([7; 20]);
        assert_eq!(infohash.to_string().parse(), Ok(infohash));
        assert_eq!("07".parse::<Infohash>(), Err(NotAnInfohash));
    }

    #[test]
    fn names_that_lead_elsewhere_are_not_plain() {
        assert!(is_plain_component("initrd.img"));
        for name in ["", ".", "..", "a/b", "a\\b", "a\0", "a\n"] {
            assert!(!is_plain_component(name), "{name:?}");
        }
    }
}
