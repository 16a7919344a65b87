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
//! cut off and a damaged line is left out: the log is written anew, to a second file that replaces
//! the first in one step; where there is no space for that, the tail is cut in place. A lock file
//! beside it keeps a second server out. Who may hear what when the disk refuses is decided in
//! [`Ledger`].

mod disk;
mod ledger;

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bt_catalog::version::{self, Program, Readable, VersionError};
use sha2::{Digest, Sha256};

use crate::roles::dhcp::lease::{Lease, Record};
use crate::status::unix;

pub use disk::{Disk, RealDisk, Which};
pub use ledger::{Change, Kept, Ledger, Work};

/// What the first line begins with; the version of the format follows (see `bt_catalog::version`). A
/// record that must not be passed over by an older server raises it.
const MAGIC: &str = "boottorrent-leases ";
const HEADER: &str = "boottorrent-leases 1\n";
const READABLE: Readable =
    Readable { oldest: 1, newest: 1, reader: Program::Server, writer: Program::Server };

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
    /// Not a lease log.
    #[error("{0} is not a lease log of bt-server; move it away to start without leases")]
    Foreign(PathBuf),
    /// Written by a bt-server that this one is too old or too new for. Nothing is changed: leases that
    /// PCs hold must not be lost.
    #[error("{0}")]
    Version(VersionError),
}

/// What was found at open.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In the order they were written.
    pub records: Vec<Record>,
    /// Lines that were damaged, and are lost. A torn last line is none: nobody was told of it.
    pub damaged: usize,
    /// Sound lines of a kind that only a newer server knows. They are passed over, and are not in the
    /// log any more once it is rewritten.
    pub unknown: usize,
    /// Length of the log without its torn tail.
    length: usize,
}

/// The open log.
#[derive(Debug)]
pub struct LeaseLog<D = RealDisk> {
    path: PathBuf,
    disk: D,
    lines: usize,
    /// Length of the file up to which everything is whole and durable.
    good: u64,
    state: State,
}

/// What the disk has to be told before the next append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing.
    Ready,
    /// An append failed half way: its bytes have to be cut off.
    Torn,
    /// The new log has the name, but a power cut may give it back to the old one.
    Renamed,
}

impl LeaseLog {
    /// Opens the log on the machine's disk, or begins one.
    ///
    /// # Errors
    /// As [`LeaseLog::open_on`].
    pub fn open(path: &Path) -> Result<(Self, Found), LogError> {
        Self::open_on(RealDisk::new(path), path)
    }
}

impl<D: Disk> LeaseLog<D> {
    /// Opens the log on `disk`, or begins one; `path` is for messages.
    ///
    /// # Errors
    /// When the file cannot be read, written or locked, or is something else.
    pub fn open_on(mut disk: D, path: &Path) -> Result<(Self, Found), LogError> {
        let io_error = |source| LogError::Io { path: path.to_owned(), source };
        if !disk.lock().map_err(io_error)? {
            return Err(LogError::InUse(path.to_owned()));
        }
        let bytes = disk.read().map_err(io_error)?;
        let bytes = bytes.unwrap_or_default();
        let found = parse(&bytes)
            .ok_or_else(|| LogError::Foreign(path.to_owned()))?
            .map_err(LogError::Version)?;
        let (lines, good, state) = (found.records.len(), found.length as u64, State::Torn);
        let mut log = Self { path: path.to_owned(), disk, lines, good, state };
        if let Err(error) = log.compact(&found.records) {
            // A full disk, perhaps, and renewals are possible all the same.
            let Some(whole) = bytes.get(..found.length).filter(|it| !it.is_empty()) else {
                return Err(error);
            };
            log.keep_in_place(whole).map_err(io_error)?;
        }
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
        let mut text = String::with_capacity(records.len() * LINE);
        records.iter().for_each(|record| push_line(&mut text, record));
        let appended = self.settle().and_then(|()| self.try_append(text.as_bytes()));
        appended.map_err(|source| self.io_error(source))?;
        self.lines += records.len();
        Ok(())
    }

    /// How many records the log has, outdated ones too.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Replaces the log by one that holds `records` only.
    ///
    /// # Errors
    /// When the new file cannot be written, and the old one is still the log; or when the new one
    /// is the log, but may lose its name in a power cut: appends wait for that.
    pub fn compact(&mut self, records: &[Record]) -> Result<(), LogError> {
        let mut text = String::with_capacity(HEADER.len() + records.len() * LINE);
        text.push_str(HEADER);
        records.iter().for_each(|record| push_line(&mut text, record));
        if let Err(source) = self.replace(text.as_bytes()) {
            // What is left of it would take the space that the log itself needs.
            let _is_gone = self.disk.remove_new().is_ok();
            return Err(self.io_error(source));
        }
        self.lines = records.len();
        self.good = text.len() as u64;
        self.state = State::Renamed;
        self.settle().map_err(|source| self.io_error(source))
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.create(Which::New)?;
        self.disk.append(Which::New, bytes)?;
        self.disk.sync(Which::New)?;
        self.disk.rename()
    }

    /// Makes what was found durable where it is, for want of space elsewhere.
    fn keep_in_place(&mut self, whole: &[u8]) -> io::Result<()> {
        if self.state == State::Renamed {
            return self.settle(); // Only the last step of the compaction had failed.
        }
        self.disk.write_again(whole)?;
        self.settle()?;
        self.disk.sync_folder()
    }

    /// Brings the disk to where an append can begin.
    fn settle(&mut self) -> io::Result<()> {
        match self.state {
            State::Ready => return Ok(()),
            State::Torn => {
                self.disk.cut(Which::Log, self.good)?;
                self.disk.sync(Which::Log)?;
            }
            State::Renamed => self.disk.sync_folder()?,
        }
        self.state = State::Ready;
        Ok(())
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.state = State::Torn;
        self.disk.append(Which::Log, bytes)?;
        self.disk.sync(Which::Log)?;
        self.state = State::Ready;
        self.good += bytes.len() as u64;
        Ok(())
    }

    fn io_error(&self, source: io::Error) -> LogError {
        LogError::Io { path: self.path.clone(), source }
    }
}

impl Work {
    /// Appends the records, and waits until they are durable. Returns the lines that the log has once
    /// all is done, for [`Ledger::settle`].
    ///
    /// # Errors
    /// When they are not durable for certain; none of them counts then.
    pub fn append_to<D: Disk>(&self, log: &mut LeaseLog<D>) -> Result<usize, LogError> {
        log.append(&self.records)?;
        Ok(self.compacted.as_ref().map_or(log.lines(), Vec::len))
    }

    /// Writes the log anew if it got too long; after [`Self::append_to`] had success, and no nodes
    /// have to wait for it.
    ///
    /// # Errors
    /// When that was not possible; nothing is lost then.
    pub fn compact<D: Disk>(&self, log: &mut LeaseLog<D>) -> Result<(), LogError> {
        self.compacted.as_ref().map_or(Ok(()), |records| log.compact(records))
    }
}

/// Reads a log; `None` when it does not begin as one.
fn parse(bytes: &[u8]) -> Option<Result<Found, VersionError>> {
    if HEADER.as_bytes().starts_with(bytes) {
        return Some(Ok(Found::default())); // New, or cut off while it was begun.
    }
    let after = bytes.strip_prefix(MAGIC.as_bytes())?;
    let end = after.iter().position(|&byte| byte == b'\n')?;
    let version = version::number(std::str::from_utf8(&after[..end]).ok()?)?;
    if let Err(error) = READABLE.check("the lease log", version) {
        return Some(Err(error));
    }
    let lines = &after[end + 1..];
    let mut found = Found { length: bytes.len() - lines.len(), ..Found::default() };
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        let Some(text) = line.strip_suffix(b"\n") else { break }; // The torn tail.
        match parse_line(text) {
            Some(Line::Record(record)) => found.records.push(record),
            Some(Line::Unknown) => found.unknown += 1,
            None => found.damaged += 1,
        }
        found.length += line.len();
    }
    Some(Ok(found))
}

/// One line whose checksum is right.
enum Line {
    Record(Record),
    /// A kind of record that only a newer server knows, and that this one may pass over.
    Unknown,
}

/// Room for one line, so that a batch is one allocation.
const LINE: usize = 64;

fn push_line(text: &mut String, record: &Record) {
    use std::fmt::Write as _;

    // The checksum goes in front of what it is computed from.
    let start = text.len();
    text.push_str("0123456789abcdef ");
    let body = text.len();
    let written = match record {
        Record::Leased(Lease { mac, ip, until }) => {
            write!(text, "lease {mac} {ip} {}", whole_secs(*until))
        }
        Record::Declined { ip, until } => write!(text, "declined {ip} {}", whole_secs(*until)),
    };
    written.expect("a string takes everything");
    let sum = checksum(&text.as_bytes()[body..]);
    text.replace_range(start..body - 1, &sum);
    text.push('\n');
}

/// Rounded up: the disk must not let a lease end before its node does.
fn whole_secs(until: SystemTime) -> u64 {
    unix(until.checked_add(Duration::from_nanos(999_999_999)).unwrap_or(until))
}

fn parse_line(line: &[u8]) -> Option<Line> {
    let line = std::str::from_utf8(line).ok()?;
    let (sum, body) = line.split_once(' ')?;
    if sum != checksum(body.as_bytes()) {
        return None;
    }
    let words: Vec<&str> = body.split(' ').collect();
    // A newer server may say more at the end of a line.
    Some(match words[..] {
        ["lease", mac, ip, until, ..] => Line::Record(Record::Leased(Lease {
            mac: mac.parse().ok()?,
            ip: ip.parse().ok()?,
            until: parse_time(until)?,
        })),
        ["declined", ip, until, ..] => Line::Record(Record::Declined {
            ip: ip.parse::<Ipv4Addr>().ok()?,
            until: parse_time(until)?,
        }),
        ["lease" | "declined", ..] => return None,
        _ => Line::Unknown,
    })
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
    use bt_catalog::Mac;

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

    fn line(record: &Record) -> String {
        let mut text = String::new();
        push_line(&mut text, record);
        text
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
        let found = reopen(&path);
        assert_eq!((found.records, found.damaged), (records.to_vec(), 0));
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
            assert_eq!((&*found.records, found.damaged), (&records[..2], 0), "cut at {cut}");
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
    fn a_log_of_a_newer_server_is_refused_and_left_as_it_is() {
        let (_dir, path) = log_with(&[lease(1, 5)]);
        let newer = std::fs::read_to_string(&path).expect("text").replacen(" 1\n", " 2\n", 1);
        std::fs::write(&path, &newer).expect("writes");
        let error = LeaseLog::open(&path).expect_err("too new").to_string();
        assert!(error.contains("version 2") && error.contains("update bt-server"), "{error}");
        let beyond = newer.replacen(" 2\n", " 99999999999\n", 1);
        std::fs::write(&path, beyond).expect("writes");
        assert!(matches!(LeaseLog::open(&path), Err(LogError::Version(_))), "not moved away");
        std::fs::write(&path, &newer).expect("writes");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), newer);
    }

    #[test]
    fn what_a_newer_server_adds_to_the_same_version_is_passed_over() {
        let (_dir, path) = log_with(&[lease(1, 5)]);
        let signed = |body: &str| format!("{} {body}\n", checksum(body.as_bytes()));
        let mut text = std::fs::read_to_string(&path).expect("text");
        text += &signed("seat 52:54:00:12:34:56 3,4");
        text += &signed("lease 02:00:00:00:00:02 10.77.0.2 9 option=7");
        std::fs::write(&path, text).expect("writes");
        let found = reopen(&path);
        assert_eq!(found.records, [lease(1, 5), lease(2, 9)]);
        assert_eq!((found.unknown, found.damaged), (1, 0));
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
        assert_eq!(log.lines(), 1010);
        log.compact(&[lease(1, 1009)]).expect("compacts");
        assert_eq!(log.lines(), 1);
        log.append(&[lease(2, 3)]).expect("appends after compaction");
        drop(log);
        assert_eq!(reopen(&path).records, [lease(1, 1009), lease(2, 3)]);
    }
}
