//! Core: a `.torrent` file, read and checked.

use librqbit_core::torrent_metainfo::torrent_from_bytes;

use super::{SHA256_PIECES, is_plain_component};
use crate::protocol::bencode::Value;
use crate::protocol::infohash::Infohash;
use crate::protocol::layout::Layout;

/// The longest `.torrent` that is accepted: 2^20 piece hashes, and room for many names.
const MAX_TORRENT: usize = 24 << 20;

/// A torrent whose every field was checked: sizes add up, each piece has a hash, names are plain.
#[derive(Debug, Clone)]
pub struct Metainfo {
    name: String,
    infohash: Infohash,
    layout: Layout,
    hashes: Vec<[u8; 20]>,
    /// One for each piece, or none at all.
    sha256: Vec<[u8; 32]>,
    files: Vec<(String, u64)>,
    announce: Option<String>,
    info: Vec<u8>,
}

/// Why a `.torrent` was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetainfoError {
    /// Not bencoded, or a field is missing or of the wrong type.
    #[error("not a BitTorrent v1 torrent: {0}")]
    Unreadable(String),
    /// A name that is not one plain path component.
    #[error("the name {0:?} in the torrent is not a plain file name")]
    BadName(String),
    /// Two files of one name.
    #[error("the torrent lists the file {0:?} twice")]
    Twice(String),
    /// Impossible sizes.
    #[error(
        "the torrent's sizes are not valid: {total} bytes in pieces of {piece_length}; expected at \
         most 1048576 pieces, of a power of two from 16384 to 67108864 bytes"
    )]
    BadSize {
        /// Sum of the files; `u64::MAX` if the sum overflows.
        total: u64,
        /// As stated.
        piece_length: u32,
    },
    /// The piece hashes do not fit the size.
    #[error("the torrent has {found} bytes of piece hashes; its size requires {expected}")]
    BadPieces {
        /// Bytes found.
        found: usize,
        /// 20 bytes for each piece; 32 where they are SHA-256.
        expected: usize,
    },
}

impl Metainfo {
    /// Reads and checks a `.torrent` file.
    ///
    /// # Errors
    /// [`MetainfoError`] with the first thing that is wrong.
    pub fn parse(torrent: &[u8]) -> Result<Self, MetainfoError> {
        if torrent.len() > MAX_TORRENT {
            let text = format!("{} bytes; the maximum is {MAX_TORRENT}", torrent.len());
            return Err(MetainfoError::Unreadable(text));
        }
        let meta = torrent_from_bytes(torrent)
            .map_err(|error| MetainfoError::Unreadable(error.to_string()))?;
        let info = &meta.info.data;
        let name = plain(info.name.as_ref().map_or(&[][..], |name| name.as_ref()))?;
        let files = match (&info.files, info.length) {
            (Some(files), None) => files
                .iter()
                .map(|file| match &file.path[..] {
                    [name] => Ok((plain(name.as_ref())?, file.length)),
                    path => Err(MetainfoError::BadName(format!("{path:?}"))),
                })
                .collect::<Result<Vec<_>, _>>()?,
            (None, Some(length)) => vec![(name.clone(), length)],
            _ => {
                let text = "expected either one `length` or a list of `files`".to_owned();
                return Err(MetainfoError::Unreadable(text));
            }
        };
        let layout = checked_layout(&files, info.piece_length)?;
        let hashes = info.pieces.as_ref();
        let expected = layout.pieces() as usize * 20;
        if hashes.len() != expected {
            return Err(MetainfoError::BadPieces { found: hashes.len(), expected });
        }
        Ok(Self {
            name,
            infohash: Infohash(meta.info_hash.0),
            layout,
            hashes: hashes.as_chunks().0.to_vec(),
            sha256: sha256_of_pieces(torrent, layout)?,
            files,
            announce: meta.announce.and_then(|url| text(url.as_ref())),
            info: meta.info.raw_bytes.as_ref().to_vec(),
        })
    }

    /// The name of the payload: a system's id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the swarm.
    pub fn infohash(&self) -> Infohash {
        self.infohash
    }

    /// Bytes of every piece but the last.
    pub fn piece_length(&self) -> u32 {
        self.layout.piece_length()
    }

    /// Number of pieces.
    pub fn pieces(&self) -> u32 {
        self.layout.pieces()
    }

    /// Bytes of all files.
    pub fn total(&self) -> u64 {
        self.layout.total()
    }

    /// Names and lengths in the order in which the files follow each other in the payload.
    pub fn files(&self) -> &[(String, u64)] {
        &self.files
    }

    /// The URL of the tracker, if there is one.
    pub fn announce(&self) -> Option<&str> {
        self.announce.as_deref()
    }

    /// The info dictionary exactly as it is in the file, with keys that are unknown here: its SHA-1
    /// is the infohash, and BEP 9 sends these very bytes.
    pub fn info_bytes(&self) -> &[u8] {
        &self.info
    }

    /// How the payload is cut.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// SHA-1 of one piece.
    ///
    /// # Panics
    /// If there is no such piece.
    pub fn hash_of(&self, piece: u32) -> [u8; 20] {
        self.hashes[piece as usize]
    }

    /// SHA-256 of one piece, if the torrent has it.
    ///
    /// A trusted torrent then proves its payload piece by piece, in any order.
    pub fn sha256_of(&self, piece: u32) -> Option<[u8; 32]> {
        self.sha256.get(piece as usize).copied()
    }

    /// Whether [`Metainfo::sha256_of`] has a digest for every piece.
    pub fn has_sha256(&self) -> bool {
        !self.sha256.is_empty()
    }
}

/// A key of BootTorrent's own; torrents of other programs do not have it.
fn sha256_of_pieces(torrent: &[u8], layout: Layout) -> Result<Vec<[u8; 32]>, MetainfoError> {
    let outer = Value::read(torrent);
    let Some(hashes) = outer.as_ref().and_then(|outer| outer.at(SHA256_PIECES)?.bytes()) else {
        return Ok(Vec::new());
    };
    let expected = layout.pieces() as usize * 32;
    if hashes.len() != expected {
        return Err(MetainfoError::BadPieces { found: hashes.len(), expected });
    }
    Ok(hashes.as_chunks().0.to_vec())
}

fn checked_layout(files: &[(String, u64)], piece_length: u32) -> Result<Layout, MetainfoError> {
    let mut names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(MetainfoError::Twice(pair[0].to_owned()));
    }
    let total = files.iter().try_fold(0_u64, |sum, (_, length)| sum.checked_add(*length));
    total
        .and_then(|total| Layout::new(total, piece_length))
        .ok_or(MetainfoError::BadSize { total: total.unwrap_or(u64::MAX), piece_length })
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn plain(bytes: &[u8]) -> Result<String, MetainfoError> {
    text(bytes)
        .filter(|name| is_plain_component(name))
        .ok_or_else(|| MetainfoError::BadName(String::from_utf8_lossy(bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A torrent with this list of files, piece length and number of piece hashes.
    fn parse(files: &str, piece_length: u64, hashes: usize) -> Result<Metainfo, MetainfoError> {
        let pieces = "x".repeat(hashes * 20);
        let text = format!(
            "d8:announce4:http4:infod5:filesl{files}e4:name1:n12:piece lengthi{piece_length}e6:pieces{}:{pieces}ee",
            pieces.len()
        );
        Metainfo::parse(text.as_bytes())
    }

    #[test]
    fn a_plain_torrent_is_accepted() {
        let meta = parse("d6:lengthi16385e4:pathl1:aeed6:lengthi0e4:pathl1:bee", 16384, 2)
            .expect("well-formed");
        assert_eq!(meta.files(), [("a".to_owned(), 16385), ("b".to_owned(), 0)]);
        assert_eq!((meta.name(), meta.pieces(), meta.announce()), ("n", 2, Some("http")));
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for path in ["2:..", "3:a/b", "0:", "1:a1:b", ""] {
            let files = format!("d6:lengthi1e4:pathl{path}ee");
            assert!(matches!(parse(&files, 16384, 1), Err(MetainfoError::BadName(_))), "{path}");
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let one = "d6:lengthi1e4:pathl1:aee";
        let huge = "d6:lengthi18446744073709551615e4:pathl1:aee";
        assert!(matches!(parse(one, 1000, 1), Err(MetainfoError::BadSize { .. })));
        assert!(matches!(parse("", 16384, 0), Err(MetainfoError::BadSize { .. })));
        let both = format!("{huge}d6:lengthi1e4:pathl1:bee");
        assert!(matches!(parse(&both, 16384, 1), Err(MetainfoError::BadSize { .. })));
    }

    #[test]
    fn one_piece_hash_too_many_or_too_few_is_refused() {
        let file = "d6:lengthi16384e4:pathl1:aee";
        assert!(parse(file, 16384, 1).is_ok());
        for hashes in [0, 2] {
            assert_eq!(
                parse(file, 16384, hashes).map(|_| ()),
                Err(MetainfoError::BadPieces { found: hashes * 20, expected: 20 })
            );
        }
    }

    #[test]
    fn the_same_name_twice_is_refused() {
        let file = "d6:lengthi1e4:pathl1:aee";
        let error = parse(&[file, file].concat(), 16384, 1).map(|_| ());
        assert_eq!(error, Err(MetainfoError::Twice("a".to_owned())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _refused_or_read = Metainfo::parse(&bytes);
        }

        #[test]
        fn a_damaged_torrent_is_read_without_panic(at in 0_usize..150, byte: u8) {
            let mut text = b"d8:announce4:http4:infod5:filesld6:lengthi1e4:pathl1:aeee4:name1:n12:piece lengthi16384e6:pieces20:xxxxxxxxxxxxxxxxxxxxee".to_vec();
            let at = at % text.len();
            text[at] = byte;
            let _refused_or_read = Metainfo::parse(&text);
        }
    }
}
