//! Shell: the lease book's records on disk.
//!
//! One line per record, each with its own checksum, only ever appended:
//! ```text
//! boottorrent-leases 1
//! 5f0e8c2a4b7d9613 lease 52:54:00:12:34:56 10.77.0.50 1732288888
//! 1d3c5b7a99e1f204 declined 10.77.0.51 1732289999
//! ```
//! The last field is the end in seconds since 1970. [`LeaseLog::append`] returns when the lines are
//! on disk, so that no node hears of a lease that a power cut can undo. At open, a torn tail is
//! cut off and a damaged line is left out; either way the file is written anew: to a second file
//! that replaces the first in one step. The file stays locked, so that two servers cannot share it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::lease::{Lease, Mac, Record};
use crate::status::{parse_mac, unix};

const HEADER: &str = "boottorrent-leases 1\n";
/// The log is written anew when it has this many lines more than four times what is needed: often
/// enough to stay small, rarely enough not to matter.
const COMPACT_SLACK: usize = 1000;

/// Why the leases cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused.
    #[error("the leases in {path} cannot be kept; check that the disk has space and is writable")]
    Io {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the log.
    #[error("the leases in {0} are in use by another bt-server; stop that one first")]
    InUse(PathBuf),
    /// Not a file of ours.
    #[error(
        "{0} is not a lease log of this version of bt-server; move it away to start without leases"
    )]
    Foreign(PathBuf),
}

/// What was found at open.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In the order they were written.
    pub records: Vec<Record>,
    /// Lines that were damaged, and are lost. A torn last line is none: nobody was told of it.
    pub damaged: usize,
}

/// The open log.
#[derive(Debug)]
pub struct LeaseLog {
    path: PathBuf,
    file: File,
    lines: usize,
    /// Length of the file up to which everything is whole.
    good: u64,
}

impl LeaseLog {
    /// Opens the log, or begins one.
    ///
    /// # Errors
    /// When the file cannot be read, written or locked, or is something else.
    pub fn open(path: &Path) -> Result<(Self, Found), LogError> {
        let io_error = |source| LogError::Io { path: path.to_owned(), source };
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io_error)?;
        lock(&file, path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io_error)?;
        let found = parse(&bytes).ok_or_else(|| LogError::Foreign(path.to_owned()))?;
        let mut log = Self { path: path.to_owned(), file, lines: found.records.len(), good: 0 };
        log.compact(&found.records)?;
        Ok((log, found))
    }

    /// Appends the records and waits until they are on disk. Several at once cost one wait.
    ///
    /// # Errors
    /// When they are not on disk for certain. None of them counts then, and a later append begins
    /// by cutting off what this one left.
    pub fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        if records.is_empty() {
            return Ok(());
        }
        let text: String = records.iter().map(line).collect();
        let appended = self.try_append(text.as_bytes());
        appended.map_err(|source| LogError::Io { path: self.path.clone(), source })?;
        self.lines += records.len();
        Ok(())
    }

    /// Whether most lines are outdated, given that `needed` would do; then call [`Self::compact`].
    pub fn is_wasteful(&self, needed: usize) -> bool {
        self.lines > 4 * needed + COMPACT_SLACK
    }

    /// Replaces the log by one that holds `records` only.
    ///
    /// # Errors
    /// When the new file cannot be written; the old one is still there then.
    pub fn compact(&mut self, records: &[Record]) -> Result<(), LogError> {
        let text: String =
            std::iter::once(HEADER.to_owned()).chain(records.iter().map(line)).collect();
        let file = replace(&self.path, text.as_bytes())?;
        self.file = file;
        self.lines = records.len();
        self.good = text.len() as u64;
        Ok(())
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.metadata()?.len() > self.good {
            self.file.set_len(self.good)?;
        }
        self.file.write_all(bytes)?;
        self.file.sync_data()?;
        self.good += bytes.len() as u64;
        Ok(())
    }
}

/// Writes a new file beside `path`, makes it durable, locks it and moves it into place.
fn replace(path: &Path, bytes: &[u8]) -> Result<File, LogError> {
    let io_error = |source| LogError::Io { path: path.to_owned(), source };
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().append(true).create(true).open(&beside).map_err(io_error)?;
    lock(&file, path)?;
    file.set_len(0).map_err(io_error)?;
    file.write_all(bytes).map_err(io_error)?;
    file.sync_all().map_err(io_error)?;
    std::fs::rename(&beside, path).map_err(io_error)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(io_error)?;
    folder.sync_all().map_err(io_error)?;
    Ok(file)
}

fn lock(file: &File, path: &Path) -> Result<(), LogError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => LogError::InUse(path.to_owned()),
        TryLockError::Error(source) => LogError::Io { path: path.to_owned(), source },
    })
}

/// Reads a whole log; `None` when it does not begin as one.
fn parse(bytes: &[u8]) -> Option<Found> {
    if HEADER.as_bytes().starts_with(bytes) {
        return Some(Found::default()); // New, or cut off while it was begun.
    }
    let lines = bytes.strip_prefix(HEADER.as_bytes())?;
    let mut found = Found::default();
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { break }; // The torn tail.
        match parse_line(line) {
            Some(record) => found.records.push(record),
            None => found.damaged += 1,
        }
    }
    Some(found)
}

fn line(record: &Record) -> String {
    let body = match record {
        Record::Leased(Lease { mac, ip, until }) => format!("lease {mac} {ip} {}", unix(*until)),
        Record::Declined { ip, until } => format!("declined {ip} {}", unix(*until)),
    };
    format!("{} {body}\n", checksum(body.as_bytes()))
}

fn parse_line(line: &[u8]) -> Option<Record> {
    let line = std::str::from_utf8(line).ok()?;
    let (sum, body) = line.split_once(' ')?;
    if sum != checksum(body.as_bytes()) {
        return None;
    }
    let words: Vec<&str> = body.split(' ').collect();
    match words[..] {
        ["lease", mac, ip, until] => Some(Record::Leased(Lease {
            mac: Mac(parse_mac(mac)?),
            ip: ip.parse().ok()?,
            until: parse_time(until)?,
        })),
        ["declined", ip, until] => {
            Some(Record::Declined { ip: ip.parse::<Ipv4Addr>().ok()?, until: parse_time(until)? })
        }
        _ => None,
    }
}

fn parse_time(text: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(text.parse().ok()?))
}

/// 64 bits of SHA-256: enough to tell damage, and no further dependency.
fn checksum(body: &[u8]) -> String {
    hex::encode(&Sha256::digest(body)[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(last: u8, secs: u64) -> Record {
        Record::Leased(Lease {
            mac: Mac([2, 0, 0, 0, 0, last]),
            ip: Ipv4Addr::new(10, 77, 0, last),
            until: UNIX_EPOCH + Duration::from_secs(secs),
        })
    }

    fn declined(last: u8) -> Record {
        let ip = Ipv4Addr::new(10, 77, 0, last);
        Record::Declined { ip, until: UNIX_EPOCH + Duration::from_secs(99) }
    }

    fn log_with(records: &[Record]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("leases");
        let (mut log, found) = LeaseLog::open(&path).expect("opens");
        assert_eq!(found, Found::default());
        log.append(records).expect("appends");
        (dir, path)
    }

    fn reopen(path: &Path) -> Found {
        LeaseLog::open(path).expect("opens").1
    }

    #[test]
    fn what_was_appended_is_found_again() {
        let records = [lease(1, 5), declined(2), lease(1, 9)];
        let (_dir, path) = log_with(&records);
        assert_eq!(reopen(&path), Found { records: records.to_vec(), damaged: 0 });
        assert_eq!(reopen(&path).records, records);
    }

    #[test]
    fn a_log_cut_at_every_byte_of_its_last_record_keeps_all_before() {
        let records = [lease(1, 5), lease(2, 6), lease(3, 7)];
        let (_dir, path) = log_with(&records);
        let whole = std::fs::read(&path).expect("reads");
        let last = whole.len() - line(&records[2]).len();
        for cut in last..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("writes");
            let (mut log, found) = LeaseLog::open(&path).expect("opens");
            assert_eq!(found, Found { records: records[..2].to_vec(), damaged: 0 }, "cut at {cut}");
            log.append(&[lease(4, 8)]).expect("appends");
            drop(log);
            assert_eq!(reopen(&path).records, [records[0], records[1], lease(4, 8)]);
        }
    }

    #[test]
    fn a_flipped_byte_loses_one_record_and_no_other() {
        let records = [lease(1, 5), lease(2, 6), lease(3, 7)];
        let (_dir, path) = log_with(&records);
        let whole = std::fs::read(&path).expect("reads");
        let start = HEADER.len() + line(&records[0]).len();
        for at in start..start + line(&records[1]).len() - 1 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).expect("writes");
            let found = reopen(&path);
            assert_eq!(found.records, [records[0], records[2]], "flipped at {at}");
        }
    }

    #[test]
    fn a_log_cut_while_it_was_begun_is_a_new_one() {
        let (_dir, path) = log_with(&[]);
        for cut in 0..HEADER.len() {
            std::fs::write(&path, &HEADER[..cut]).expect("writes");
            assert_eq!(reopen(&path), Found::default());
        }
    }

    #[test]
    fn something_else_is_not_overwritten() {
        let (_dir, path) = log_with(&[]);
        std::fs::write(&path, "precious\n").expect("writes");
        assert!(matches!(LeaseLog::open(&path), Err(LogError::Foreign(_))));
        assert_eq!(std::fs::read(&path).expect("reads"), b"precious\n");
    }

    #[test]
    fn two_servers_cannot_share_a_log() {
        let (_dir, path) = log_with(&[]);
        let (mut first, _) = LeaseLog::open(&path).expect("opens");
        assert!(matches!(LeaseLog::open(&path), Err(LogError::InUse(_))));
        first.compact(&[lease(1, 2)]).expect("compacts");
        assert!(matches!(LeaseLog::open(&path), Err(LogError::InUse(_))));
        drop(first);
        assert_eq!(reopen(&path).records, [lease(1, 2)]);
    }

    #[test]
    fn a_long_log_is_written_anew() {
        let (_dir, path) = log_with(&[]);
        let (mut log, _) = LeaseLog::open(&path).expect("opens");
        let many: Vec<_> = (0..1010).map(|secs| lease(1, secs)).collect();
        log.append(&many).expect("appends");
        assert!(log.is_wasteful(1));
        log.compact(&[lease(1, 1009)]).expect("compacts");
        assert!(!log.is_wasteful(1));
        log.append(&[lease(2, 3)]).expect("appends after compaction");
        drop(log);
        assert_eq!(reopen(&path).records, [lease(1, 1009), lease(2, 3)]);
    }
}
