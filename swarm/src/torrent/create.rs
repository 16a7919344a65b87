//! Shell: creates a torrent from files, reading each byte once.
//!
//! One thread reads, one computes the SHA-256 of the files in order, the others compute SHA-1 and
//! SHA-256 of the pieces. The same files always give the same torrent: files are sorted by name,
//! and there is no `creation date`. So publishing again changes no infohash, and no swarm is
//! interrupted.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use librqbit_sha1_wrapper::{ISha1, Sha1};
use sha2::{Digest, Sha256};

use super::{FileSpec, SHA256_PIECES, is_plain_component};
use crate::protocol::bencode;
use crate::protocol::infohash::Infohash;
use crate::protocol::layout::Layout;

/// Smallest and largest piece. Below, the HAVEs of a room cost more than they gain: each piece is
/// one message to each peer. Above, it takes too long until a node can upload a piece.
const PIECE_LENGTHS: (u64, u64) = (64 << 10, 4 << 20);

/// How many pieces to aim for. A node can upload only complete pieces, so the last of N nodes
/// finishes after about 1 + 2N/P of the wire time. 1024 pieces took 64 nodes 3 % longer; 8192 would
/// not help a room of 32, and each PC loads their hashes first (simulated, see
/// docs/performance.md).
const TARGET_PIECES: u64 = 4096;

/// Pieces that are read ahead of the slowest hash; so memory is bounded to a few pieces.
const READ_AHEAD: usize = 4;

/// Name, length and hash of one file of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// As in the torrent.
    pub name: String,
    /// In bytes.
    pub length: u64,
    /// SHA-256 of the complete file.
    pub sha256: [u8; 32],
}

/// A finished torrent, and what was computed about its files in the same pass.
#[derive(Debug, Clone)]
pub struct Created {
    /// The `.torrent` file.
    pub torrent: Vec<u8>,
    /// The name of the swarm.
    pub infohash: Infohash,
    /// In the torrent's order: sorted by name.
    pub files: Vec<FileDigest>,
    /// Bytes of all files.
    pub total: u64,
}

/// Why no torrent was created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Nothing to share.
    #[error("nothing to share in {0}: it has no files, or only empty ones")]
    Empty(String),
    /// A name that is not one plain path component, or that is used twice.
    #[error("the name {0:?} is not allowed in a torrent; use plain file names, each only once")]
    BadName(String),
    /// More than 2^20 pieces of 4 MiB.
    #[error("{name} has {total} bytes; the maximum for a torrent is 4398046511104 (4 TiB)")]
    TooLarge {
        /// The payload's name.
        name: String,
        /// Its bytes.
        total: u64,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file grew or shrank while it was read.
    #[error("{path} changed while it was read; wait until it is complete, then try again")]
    Changed {
        /// Which file.
        path: PathBuf,
    },
}

/// Creates the torrent of `files`, sorted by name. It is private (BEP 27): clients get peers from
/// the lab's tracker alone, and the image is not announced in the DHT.
///
/// Blocks until everything is read and hashed. `threads` (at least 1) hash the pieces, one more
/// hashes the files. `progress` is called with the bytes read so far.
///
/// # Errors
/// [`CreateError`], which names the file.
pub fn create(
    name: &str,
    files: &[FileSpec],
    announce: &str,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Created, CreateError> {
    let sources = open_sorted(name, files)?;
    let total = sources.iter().fold(0_u64, |sum, source| sum.saturating_add(source.length));
    if total == 0 {
        return Err(CreateError::Empty(name.to_owned()));
    }
    let layout = Layout::new(total, piece_length_for(total))
        .ok_or_else(|| CreateError::TooLarge { name: name.to_owned(), total })?;
    let (pieces, digests) = hash_all(&sources, layout, threads.max(1), progress)?;
    let info = info_dictionary(name, &sources, layout, &pieces);
    let mut sha1 = Sha1::new();
    sha1.update(&info);
    let files = sources
        .into_iter()
        .zip(digests)
        .map(|(source, sha256)| FileDigest { name: source.name, length: source.length, sha256 })
        .collect();
    Ok(Created {
        torrent: torrent_file(announce, &info, &pieces),
        infohash: Infohash(sha1.finish()),
        files,
        total,
    })
}

fn piece_length_for(total: u64) -> u32 {
    // A power of two, as all clients use: `Layout` relies on it, and blocks of 16 KiB always fit.
    let target = total.div_ceil(TARGET_PIECES).clamp(PIECE_LENGTHS.0, PIECE_LENGTHS.1);
    u32::try_from(target.next_power_of_two()).expect("clamped to 4 MiB")
}

struct SourceFile {
    name: String,
    path: PathBuf,
    file: File,
    length: u64,
}

fn open_sorted(name: &str, files: &[FileSpec]) -> Result<Vec<SourceFile>, CreateError> {
    if !is_plain_component(name) {
        return Err(CreateError::BadName(name.to_owned()));
    }
    // The caller's order must not change the infohash.
    let mut sorted: Vec<&FileSpec> = files.iter().collect();
    sorted.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(CreateError::BadName(pair[0].name.clone()));
    }
    sorted.into_iter().map(open).collect()
}

fn open(spec: &FileSpec) -> Result<SourceFile, CreateError> {
    if !is_plain_component(&spec.name) {
        return Err(CreateError::BadName(spec.name.clone()));
    }
    let opened = File::open(&spec.path).and_then(|file| {
        let length = file.metadata()?.len();
        Ok((file, length))
    });
    let (file, length) =
        opened.map_err(|source| CreateError::Unreadable { path: spec.path.clone(), source })?;
    Ok(SourceFile { name: spec.name.clone(), path: spec.path.clone(), file, length })
}

/// The bytes of one piece, shared by both hashes.
struct PieceData {
    number: usize,
    bytes: Vec<u8>,
}

/// SHA-1 and SHA-256 of each piece.
#[derive(Default)]
struct PieceHashes {
    sha1: Vec<[u8; 20]>,
    sha256: Vec<[u8; 32]>,
}

type FileHashes = Vec<[u8; 32]>;

fn hash_all(
    sources: &[SourceFile],
    layout: Layout,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(PieceHashes, FileHashes), CreateError> {
    let pieces = layout.pieces() as usize;
    let hashes = PieceHashes { sha1: vec![[0; 20]; pieces], sha256: vec![[0; 32]; pieces] };
    let hashes = Mutex::new(hashes);
    thread::scope(|scope| {
        // Two bounded channels: the reader waits for the slower hash. SHA-256 of a file cannot be
        // split among threads, those of the pieces can.
        let (to_pieces, pieces) = sync_channel::<Arc<PieceData>>(READ_AHEAD);
        let (to_files, in_order) = sync_channel::<Arc<PieceData>>(READ_AHEAD);
        let pieces = Arc::new(Mutex::new(pieces));
        let lengths: Vec<u64> = sources.iter().map(|source| source.length).collect();
        let digests = scope.spawn(move || sha256_of_files(&in_order, &lengths));
        for _ in 0..threads {
            let (pieces, hashes) = (Arc::clone(&pieces), &hashes);
            scope.spawn(move || hash_pieces(&pieces, hashes));
        }
        drop(pieces);
        let read = read_pieces(sources, layout, [&to_pieces, &to_files], progress);
        drop((to_pieces, to_files));
        let digests = digests.join().expect("hashing does not panic");
        read.map(|()| digests)
    })
    .map(|digests| (hashes.into_inner().expect("hashing does not panic"), digests))
}

/// Receives the next piece while holding the lock, and hashes it after releasing it.
fn hash_pieces(pieces: &Mutex<Receiver<Arc<PieceData>>>, hashes: &Mutex<PieceHashes>) {
    loop {
        let next = pieces.lock().expect("receiving does not panic").recv();
        let Ok(piece) = next else { return };
        let mut sha1 = Sha1::new();
        sha1.update(&piece.bytes);
        let (sha1, sha256) = (sha1.finish(), Sha256::digest(&piece.bytes).into());
        let mut hashes = hashes.lock().expect("storing does not panic");
        hashes.sha1[piece.number] = sha1;
        hashes.sha256[piece.number] = sha256;
    }
}

/// Cuts the stream of pieces into files again, and hashes each.
fn sha256_of_files(pieces: &Receiver<Arc<PieceData>>, lengths: &[u64]) -> FileHashes {
    let mut current = pieces.recv().ok();
    let mut used = 0;
    lengths
        .iter()
        .map(|length| {
            let (mut sha256, mut left) = (Sha256::new(), *length);
            while left > 0
                && let Some(piece) = &current
            {
                let rest = &piece.bytes[used..];
                let take = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                sha256.update(&rest[..take]);
                left -= take as u64;
                used += take;
                if used == piece.bytes.len() {
                    (current, used) = (pieces.recv().ok(), 0);
                }
            }
            sha256.finalize().into()
        })
        .collect()
}

fn read_pieces(
    sources: &[SourceFile],
    layout: Layout,
    hashers: [&SyncSender<Arc<PieceData>>; 2],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), CreateError> {
    let mut done = 0;
    let mut number = 0;
    let mut bytes = Vec::with_capacity(layout.piece_length() as usize);
    let mut finish_piece = |bytes: Vec<u8>| {
        done += bytes.len() as u64;
        let piece = Arc::new(PieceData { number, bytes });
        number += 1;
        for hasher in hashers {
            hasher.send(Arc::clone(&piece)).expect("hashers live until the channel closes");
        }
        progress(done);
    };
    for source in sources {
        let mut left = source.length;
        while left > 0 {
            let room = u64::from(layout.piece_length()) - bytes.len() as u64;
            let want = room.min(left);
            let got = (&source.file).take(want).read_to_end(&mut bytes);
            let got = got.map_err(|error| CreateError::Unreadable {
                path: source.path.clone(),
                source: error,
            })?;
            if got as u64 != want {
                return Err(CreateError::Changed { path: source.path.clone() });
            }
            left -= want;
            if bytes.len() == layout.piece_length() as usize {
                let next = Vec::with_capacity(layout.piece_length() as usize);
                finish_piece(std::mem::replace(&mut bytes, next));
            }
        }
        // A file that is still being copied has grown meanwhile: its hash would be that of a part.
        check_unchanged(source)?;
    }
    if !bytes.is_empty() {
        finish_piece(bytes);
    }
    Ok(())
}

fn check_unchanged(source: &SourceFile) -> Result<(), CreateError> {
    match source.file.metadata() {
        Ok(now) if now.len() == source.length => Ok(()),
        Ok(_) => Err(CreateError::Changed { path: source.path.clone() }),
        Err(error) => Err(CreateError::Unreadable { path: source.path.clone(), source: error }),
    }
}

fn info_dictionary(
    name: &str,
    sources: &[SourceFile],
    layout: Layout,
    pieces: &PieceHashes,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(pieces.sha1.len() * 20 + 1024);
    out.push(b'd');
    // Keys in sorted order (BEP 3). `files` even for a single one: `name` is then the folder, named
    // after the system.
    bencode::put_bytes(&mut out, b"files");
    out.push(b'l');
    for source in sources {
        out.push(b'd');
        bencode::put_pair(&mut out, "length", source.length);
        bencode::put_bytes(&mut out, b"path");
        out.push(b'l');
        bencode::put_bytes(&mut out, source.name.as_bytes());
        out.extend_from_slice(b"ee");
    }
    out.push(b'e');
    bencode::put_bytes(&mut out, b"name");
    bencode::put_bytes(&mut out, name.as_bytes());
    bencode::put_pair(&mut out, "piece length", u64::from(layout.piece_length()));
    bencode::put_bytes(&mut out, b"pieces");
    bencode::put_bytes(&mut out, pieces.sha1.as_flattened());
    bencode::put_pair(&mut out, "private", 1);
    out.push(b'e');
    out
}

fn torrent_file(announce: &str, info: &[u8], pieces: &PieceHashes) -> Vec<u8> {
    let sha256 = pieces.sha256.as_flattened();
    let mut out = Vec::with_capacity(info.len() + sha256.len() + announce.len() + 64);
    out.push(b'd');
    bencode::put_bytes(&mut out, b"announce");
    bencode::put_bytes(&mut out, announce.as_bytes());
    bencode::put_bytes(&mut out, b"info");
    out.extend_from_slice(info);
    // Not in the info dictionary: the infohash is that of a plain v1 torrent, and a client with a
    // magnet link does not load hashes that it cannot use.
    bencode::put_bytes(&mut out, SHA256_PIECES.as_bytes());
    bencode::put_bytes(&mut out, sha256);
    out.push(b'e');
    out
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::torrent::Metainfo;

    const PIECE: usize = 64 << 10;

    fn content(length: usize, salt: u8) -> Vec<u8> {
        (0..length).map(|at| (at * 31 / 7) as u8 ^ salt).collect()
    }

    /// Creates from files of these lengths, parses the result and checks every hash.
    fn check(lengths: &[usize], threads: usize) -> Created {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let contents: Vec<Vec<u8>> =
            lengths.iter().zip(0_u8..).map(|(length, salt)| content(*length, salt)).collect();
        let mut specs = Vec::new();
        for (number, content) in contents.iter().enumerate() {
            let path = folder.path().join(format!("file{number}"));
            std::fs::write(&path, content).expect("the folder is writable");
            specs.insert(0, FileSpec { name: format!("f{number}"), path });
        }
        let seen = AtomicU64::new(0);
        let created = create("sys", &specs, "http://a/announce", threads, &|done| {
            seen.fetch_max(done, Ordering::Relaxed);
        })
        .expect("the files can be read");
        let meta = Metainfo::parse(&created.torrent).expect("own torrents are well-formed");
        let payload = contents.concat();
        assert_eq!(meta.infohash(), created.infohash);
        assert_eq!(meta.total(), payload.len() as u64);
        assert_eq!(seen.into_inner(), payload.len() as u64);
        for (piece, bytes) in (0..).zip(payload.chunks(meta.piece_length() as usize)) {
            let mut sha1 = Sha1::new();
            sha1.update(bytes);
            assert_eq!(meta.hash_of(piece), sha1.finish());
            assert_eq!(meta.sha256_of(piece), Some(Sha256::digest(bytes).into()));
        }
        for (digest, content) in created.files.iter().zip(&contents) {
            assert_eq!(digest.sha256, <[u8; 32]>::from(Sha256::digest(content)));
        }
        created
    }

    #[test]
    fn an_exact_multiple_of_the_piece_length_is_right() {
        check(&[4 * PIECE], 2);
    }

    #[test]
    fn one_byte_more_is_right() {
        check(&[4 * PIECE + 1], 1);
    }

    #[test]
    fn files_that_share_a_piece_are_right() {
        check(&[10, 0, PIECE, 2 * PIECE - 10, 0], 3);
    }

    #[test]
    fn the_same_files_give_the_same_torrent() {
        assert_eq!(check(&[PIECE * 3, 77], 1).torrent, check(&[PIECE * 3, 77], 4).torrent);
    }

    #[test]
    fn nothing_to_share_is_an_error() {
        let error = create("sys", &[], "", 1, &|_| ()).expect_err("there is no file");
        assert!(matches!(error, CreateError::Empty(_)));
    }

    #[test]
    fn a_missing_file_is_named() {
        let spec = FileSpec { name: "kernel".to_owned(), path: "does-not-exist".into() };
        let error = create("sys", &[spec], "", 1, &|_| ()).expect_err("there is no such file");
        assert_eq!(error.to_string(), "cannot read does-not-exist");
    }

    #[test]
    fn piece_length_follows_the_size() {
        for (total, expected) in [
            (1, 64 << 10),
            (256 << 20, 64 << 10),
            ((256 << 20) + 1, 128 << 10),
            (4 << 30, 1 << 20),
            (16 << 30, 4 << 20),
            (1 << 40, 4 << 20),
        ] {
            assert_eq!(piece_length_for(total), expected, "{total}");
        }
    }
}
