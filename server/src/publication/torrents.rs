//! Shell: the torrents of the systems, made once for each state of their files.
//!
//! Hashing tens of gigabytes takes minutes, so nothing is hashed again while size, time and inode
//! of every file are the same: the finished torrent lies in `state/published/torrents/`, and
//! `hashes.json` beside it says of which files, in which state, it was made. A torrent that does
//! not have the SHA-256 written there is made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;

use bt_catalog::{Digest, Role, SystemId};
use bt_swarm::{CreateError, FileSpec, Infohash, Metainfo, create};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::lab::Lab;
use crate::lab::files::{SourceFile, Stamp, sha256, write_durably};
use crate::terminal::{Progress, bar};

/// One system's torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torrent {
    /// The `.torrent` file.
    pub bytes: Vec<u8>,
    /// Its SHA-256.
    pub sha256: Digest,
    /// The swarm's name.
    pub infohash: Infohash,
    /// Bytes of all files.
    pub total: u64,
    /// Length and SHA-256 of each file, in the torrent's order.
    pub files: Vec<(Role, u64, Digest)>,
}

/// Why a torrent could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TorrentError {
    /// A file could not be read or used.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// A file changed while it was hashed: it is not complete yet.
    #[error("{} changed while it was hashed", .0.display())]
    Changed(PathBuf),
    /// The result could not be kept.
    #[error("cannot write to state/published; check that the disk has space and is writable")]
    Keep(#[from] io::Error),
}

/// The version of `hashes.json`; see `bt_catalog::version`. One that is newer costs one hashing of
/// everything, and nothing else.
const FORMAT: u32 = 1;

/// `hashes.json`.
#[derive(Serialize, Deserialize)]
struct Record<K> {
    format: u32,
    systems: K,
}

/// What an earlier server hashed; nothing where that is not known for certain.
fn read_record(json: &[u8]) -> BTreeMap<String, Known> {
    if let Ok(record) = serde_json::from_slice::<Record<BTreeMap<String, Known>>>(json) {
        return if record.format <= FORMAT { record.systems } else { BTreeMap::new() };
    }
    // The first release wrote the systems alone.
    serde_json::from_slice(json).unwrap_or_default()
}

/// What was hashed, on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    torrent_sha256: String,
    files: Vec<KnownFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownFile {
    name: String,
    #[serde(flatten)]
    stamp: Stamp,
    sha256: String,
}

/// All torrents of a lab.
#[derive(Debug)]
pub struct Torrents {
    folder: PathBuf,
    record: PathBuf,
    announce: String,
    known: BTreeMap<String, Known>,
    /// Bytes hashed since the start.
    hashed: u64,
}

impl Torrents {
    /// The torrents that are there already; `announce` is the tracker that they shall name.
    ///
    /// # Errors
    /// Where their folder cannot be made.
    pub fn open(lab: &Lab, announce: &str) -> io::Result<Self> {
        let folder = lab.published().join("torrents");
        fs::create_dir_all(&folder)?;
        let record = lab.published().join("hashes.json");
        // Damaged or absent, it costs one hashing of everything, and nothing else.
        let known = fs::read(&record).map(|json| read_record(&json)).unwrap_or_default();
        Ok(Self { folder, record, announce: announce.to_owned(), known, hashed: 0 })
    }

    /// Bytes that had to be hashed since [`Self::open`].
    pub fn hashed(&self) -> u64 {
        self.hashed
    }

    /// The torrent of files that are unchanged since it was made; `None` where it must be made.
    pub fn find(&self, id: &SystemId, files: &[SourceFile]) -> Option<Torrent> {
        let known = self.known.get(id.as_str())?;
        let is_same = known.files.len() == files.len()
            && files
                .iter()
                .zip(&known.files)
                .all(|(file, known)| known.name == file.role.name() && known.stamp == file.stamp);
        if !is_same {
            return None;
        }
        let bytes = fs::read(self.file_of(id)).ok()?;
        if sha256(&bytes).to_string() != known.torrent_sha256 {
            return None;
        }
        // Nodes check piece by piece what they fetch; a torrent from before that is made anew.
        let metainfo = Metainfo::parse(&bytes).ok().filter(Metainfo::has_sha256)?;
        let digests = files
            .iter()
            .zip(&known.files)
            .map(|(file, known)| Some((file.role, file.stamp.size, known.sha256.parse().ok()?)));
        let bytes = if metainfo.announce() == Some(self.announce.as_str()) {
            bytes
        } else {
            with_announce(&metainfo, &self.announce)
        };
        Some(Torrent {
            sha256: sha256(&bytes),
            bytes,
            infohash: metainfo.infohash(),
            total: metainfo.total(),
            files: digests.collect::<Option<_>>()?,
        })
    }

    /// Hashes the files and keeps the result.
    ///
    /// # Errors
    /// Where a file cannot be read or changes meanwhile, or the result cannot be written.
    pub fn make(
        &mut self,
        id: &SystemId,
        files: &[SourceFile],
        progress: Progress,
    ) -> Result<Torrent, TorrentError> {
        let total = files.iter().map(|file| file.stamp.size).sum();
        let bar = bar(id, total, progress);
        let threads = thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1));
        let made = create(id.as_str(), &specs(files), &self.announce, threads.max(1), &|done| {
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let made = made.map_err(|error| match error {
            CreateError::Changed { path } => TorrentError::Changed(path),
            other => TorrentError::Create(other),
        })?;
        self.hashed += made.total;
        for file in files {
            if Stamp::of(&file.path).ok() != Some(file.stamp) {
                return Err(TorrentError::Changed(file.path.clone()));
            }
        }
        let torrent = Torrent {
            sha256: sha256(&made.torrent),
            bytes: made.torrent,
            infohash: made.infohash,
            total: made.total,
            files: files
                .iter()
                .zip(&made.files)
                .map(|(file, made)| (file.role, made.length, Digest(made.sha256)))
                .collect(),
        };
        self.keep(id, files, &torrent)?;
        Ok(torrent)
    }

    /// Writes what was learned. The torrent goes first: a record always has its torrent.
    fn keep(&mut self, id: &SystemId, files: &[SourceFile], torrent: &Torrent) -> io::Result<()> {
        write_durably(&self.file_of(id), &torrent.bytes, 0o644)?;
        let known = Known {
            torrent_sha256: torrent.sha256.to_string(),
            files: files
                .iter()
                .zip(&torrent.files)
                .map(|(file, (role, _, digest))| KnownFile {
                    name: role.name().to_owned(),
                    stamp: file.stamp,
                    sha256: digest.to_string(),
                })
                .collect(),
        };
        self.known.insert(id.to_string(), known);
        self.write_record()
    }

    /// Makes the published folder the same as what is offered: these torrents and no other.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn publish(&mut self, offered: &BTreeMap<&SystemId, &Torrent>) -> io::Result<()> {
        for (id, torrent) in offered {
            let file = self.file_of(id);
            if fs::read(&file).ok().as_deref() == Some(&torrent.bytes[..]) {
                continue;
            }
            // Only the tracker's address is new; what is known of the files stays true.
            write_durably(&file, &torrent.bytes, 0o644)?;
            if let Some(known) = self.known.get_mut(id.as_str()) {
                known.torrent_sha256 = torrent.sha256.to_string();
                self.write_record()?;
            }
        }
        let keep: BTreeSet<&str> = offered.keys().map(|id| id.as_str()).collect();
        let count = self.known.len();
        self.known.retain(|id, _| keep.contains(id.as_str()));
        if self.known.len() != count {
            self.write_record()?;
        }
        for item in fs::read_dir(&self.folder)?.flatten() {
            let path = item.path();
            let is_offered =
                path.file_stem().and_then(|s| s.to_str()).is_some_and(|stem| keep.contains(stem));
            if !is_offered && let Err(error) = fs::remove_file(&path) {
                warn!(path = %path.display(), %error, "an old torrent could not be removed");
            }
        }
        Ok(())
    }

    fn write_record(&self) -> io::Result<()> {
        let record = Record { format: FORMAT, systems: &self.known };
        let json = serde_json::to_vec_pretty(&record).map_err(io::Error::other)?;
        write_durably(&self.record, &json, 0o644)
    }

    fn file_of(&self, id: &SystemId) -> PathBuf {
        self.folder.join(format!("{id}.torrent"))
    }
}

/// A system's files under the names that they have in its torrent.
pub fn specs(files: &[SourceFile]) -> Vec<FileSpec> {
    let spec =
        |file: &SourceFile| FileSpec { name: file.role.name().to_owned(), path: file.path.clone() };
    files.iter().map(spec).collect()
}

/// The same torrent with another tracker (BEP 3): its infohash stays.
fn with_announce(metainfo: &Metainfo, announce: &str) -> Vec<u8> {
    let mut bytes = format!("d8:announce{}:{announce}4:info", announce.len()).into_bytes();
    bytes.extend_from_slice(metainfo.info_bytes());
    let hashes: Vec<u8> =
        (0..metainfo.pieces()).filter_map(|n| metainfo.sha256_of(n)).flatten().collect();
    bytes.extend_from_slice(format!("13:sha256 pieces{}:", hashes.len()).as_bytes());
    bytes.extend_from_slice(&hashes);
    bytes.push(b'e');
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const ANNOUNCE: &str = "http://10.77.0.1:6969/announce";

    struct Bench {
        folder: tempfile::TempDir,
        lab: Lab,
        id: SystemId,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            fs::write(folder.path().join("server.toml"), "").expect("written");
            fs::write(folder.path().join("kernel"), "the kernel").expect("written");
            fs::write(folder.path().join("initrd"), vec![7; 700_000]).expect("written");
            let lab = Lab::open(folder.path()).expect("a lab");
            Self { folder, lab, id: "a".parse().expect("an id") }
        }

        fn files(&self) -> Vec<SourceFile> {
            [Role::Initrd, Role::Kernel].map(|role| self.file(role)).into()
        }

        fn file(&self, role: Role) -> SourceFile {
            let path = self.folder.path().join(role.name());
            let stamp = Stamp::of(&path).expect("is there");
            SourceFile { role, path, stamp }
        }

        fn open(&self, announce: &str) -> Torrents {
            Torrents::open(&self.lab, announce).expect("opens")
        }
    }

    #[test]
    fn unchanged_files_are_never_hashed_again() {
        let bench = Bench::new();
        let mut torrents = bench.open(ANNOUNCE);
        assert_eq!(torrents.find(&bench.id, &bench.files()), None);
        let made = torrents.make(&bench.id, &bench.files(), Progress::Logged).expect("made");
        assert_eq!(torrents.hashed(), 700_010);
        let again = bench.open(ANNOUNCE);
        assert_eq!(again.find(&bench.id, &bench.files()), Some(made));
    }

    #[test]
    fn a_change_of_time_size_or_inode_is_seen() {
        let bench = Bench::new();
        let mut torrents = bench.open(ANNOUNCE);
        torrents.make(&bench.id, &bench.files(), Progress::Logged).expect("made");
        let mut files = bench.files();
        files[1].stamp.inode += 1;
        assert_eq!(torrents.find(&bench.id, &files), None);
        let kernel = fs::File::options().write(true).open(bench.folder.path().join("kernel"));
        let later = SystemTime::now() + Duration::from_secs(5);
        kernel.and_then(|file| file.set_modified(later)).expect("touched");
        assert_eq!(torrents.find(&bench.id, &bench.files()), None);
    }

    #[test]
    fn another_tracker_needs_no_hashing_and_keeps_the_infohash() {
        let bench = Bench::new();
        let made = bench.open(ANNOUNCE).make(&bench.id, &bench.files(), Progress::Logged);
        let made = made.expect("made");
        let elsewhere = "http://10.0.0.1:80/announce";
        let moved = bench.open(elsewhere).find(&bench.id, &bench.files()).expect("found");
        assert_eq!(moved.infohash, made.infohash);
        let fresh = create("a", &specs(&bench.files()), elsewhere, 1, &|_| ()).expect("made");
        assert_eq!(moved.bytes, fresh.torrent);
    }

    #[test]
    fn the_record_of_another_version_is_read_or_costs_one_hashing() {
        let known = Known { torrent_sha256: "00".into(), files: Vec::new() };
        let systems = BTreeMap::from([("a".to_owned(), known.clone())]);
        let first_release = serde_json::to_vec(&systems).expect("plain values");
        assert_eq!(read_record(&first_release), systems);
        let with = |format| serde_json::json!({"format": format, "systems": systems, "more": 1});
        assert_eq!(read_record(with(1).to_string().as_bytes()), systems);
        assert_eq!(read_record(with(2).to_string().as_bytes()), BTreeMap::new());
        assert_eq!(read_record(b"garbage"), BTreeMap::new());
    }

    #[test]
    fn a_damaged_torrent_or_record_is_made_anew() {
        let bench = Bench::new();
        bench.open(ANNOUNCE).make(&bench.id, &bench.files(), Progress::Logged).expect("made");
        let torrent = bench.lab.published().join("torrents/a.torrent");
        fs::write(&torrent, "d8:announce0:e").expect("damaged");
        assert_eq!(bench.open(ANNOUNCE).find(&bench.id, &bench.files()), None);
        fs::write(bench.lab.published().join("hashes.json"), "{").expect("damaged");
        assert_eq!(bench.open(ANNOUNCE).find(&bench.id, &bench.files()), None);
    }

    #[test]
    fn files_that_change_meanwhile_are_not_kept() {
        let bench = Bench::new();
        let mut torrents = bench.open(ANNOUNCE);
        let mut files = bench.files();
        files[0].stamp.mtime_ns -= 1;
        let error = torrents.make(&bench.id, &files, Progress::Logged).expect_err("has changed");
        assert!(matches!(error, TorrentError::Changed(_)), "{error}");
        assert_eq!(torrents.find(&bench.id, &files), None);
    }
}
