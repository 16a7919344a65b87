//! Core: the lease books together with their log: nothing is promised that the disk does not hold.
//!
//! [`Ledger::commit`] takes what a batch of requests changed in the book, puts it on disk with one
//! sync, and says of each change what its node may be told. When the disk refuses (full, broken):
//! ```text
//! a new lease   is taken back: the node hears nothing, and asks again
//! a renewal     goes on, but only for as long as the disk knows of it, or SHORT_LEASE if that is more
//! ```
//! A restart forgets those short leases; so for [`SHORT_LEASE`] after a start, nobody gets an
//! address that ended while the server was away. Thus no power cut makes a second owner.

use std::time::{Duration, SystemTime};

use super::{Disk, LeaseLog, LogError, RealDisk};
use crate::lease::{Lease, LeaseBook, Mac, Record};

/// How long a renewal lasts while the disk refuses: long enough not to flood the server with
/// renewals at half of it.
pub const SHORT_LEASE: Duration = Duration::from_mins(2);
/// While the disk refuses, new nodes are tried this often.
const RETRY: Duration = Duration::from_secs(1);

/// One thing that a request changed in the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A lease was given or renewed.
    Granted {
        /// The lease now.
        lease: Lease,
        /// What its node held before.
        before: Option<Lease>,
    },
    /// A lease was released, or an address declined.
    Noted(Record),
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is on disk.
    Durable,
    /// The lease goes on, but ends then: tell the node so.
    Until(SystemTime),
    /// It is not: tell the node nothing.
    Lost,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger<D = RealDisk> {
    /// One for each network; none covers what another does.
    books: Vec<LeaseBook>,
    log: LeaseLog<D>,
    /// When the disk last refused, if it has not been better since.
    refused: Option<SystemTime>,
}

impl<D: Disk> Ledger<D> {
    /// Fills the books, one for each network, with what the log had.
    pub fn new(
        mut books: Vec<LeaseBook>,
        log: LeaseLog<D>,
        records: &[Record],
        now: SystemTime,
    ) -> Self {
        for book in &mut books {
            records.iter().for_each(|&record| book.restore(record));
            book.spare_until(now + SHORT_LEASE);
        }
        Self { books, log, refused: None }
    }

    /// A network's book, for answers; what they change is kept by [`Self::commit`].
    ///
    /// # Panics
    /// Where there is no network of that index.
    pub fn book(&mut self, network: usize) -> &mut LeaseBook {
        &mut self.books[network]
    }

    /// Whether `mac` may be offered an address of a network: while the disk refuses, a node without a lease
    /// would only be disappointed. Now and then one may try all the same, and finds out for all.
    pub fn may_offer(&self, network: usize, mac: Mac, now: SystemTime) -> bool {
        let is_recent = |since| now.duration_since(since).is_ok_and(|passed| passed < RETRY);
        !self.refused.is_some_and(is_recent)
            || self.books[network].lease_of(mac).is_some_and(|lease| lease.until > now)
    }

    /// Puts the changes on disk; says of each, in their order, what became of it.
    ///
    /// The error, if any, is for the log only: everything that follows from it has been done.
    pub fn commit(
        &mut self,
        changes: &[Change],
        now: SystemTime,
    ) -> (Vec<Kept>, Result<(), LogError>) {
        if changes.is_empty() {
            return (Vec::new(), Ok(()));
        }
        let records: Vec<Record> = changes.iter().map(Change::record).collect();
        match self.log.append(&records) {
            Ok(()) => {
                self.refused = None;
                (vec![Kept::Durable; changes.len()], self.compact_when_wasteful())
            }
            Err(error) => {
                self.refused = Some(now);
                (self.take_back(changes, now), Err(error))
            }
        }
    }

    /// Writes the log anew, with what the book has and nothing else.
    ///
    /// # Errors
    /// When that was not possible; nothing is lost then.
    pub fn compact(&mut self) -> Result<(), LogError> {
        let records: Vec<Record> = self.books.iter().flat_map(LeaseBook::records).collect();
        self.log.compact(&records)
    }

    fn compact_when_wasteful(&mut self) -> Result<(), LogError> {
        let needed = self.books.iter().map(LeaseBook::len).sum();
        if self.log.is_wasteful(needed) { self.compact() } else { Ok(()) }
    }

    /// Undoes a batch, newest change first, and then lets the nodes that the disk knows go on.
    fn take_back(&mut self, changes: &[Change], now: SystemTime) -> Vec<Kept> {
        for change in changes.iter().rev() {
            if let Change::Granted { lease, before } = *change
                && let Some(book) = self.book_of(lease)
            {
                book.undo(lease, before);
            }
        }
        changes.iter().map(|change| self.prolong(change, now)).collect()
    }

    fn prolong(&mut self, change: &Change, now: SystemTime) -> Kept {
        let Change::Granted { lease, .. } = change else { return Kept::Lost };
        let Some(book) = self.book_of(*lease) else { return Kept::Lost };
        let known = book.lease_of(lease.mac).filter(|known| known.ip == lease.ip);
        let Some(known) = known else { return Kept::Lost };
        let until = known.until.max(now + SHORT_LEASE);
        book.restore(Record::Leased(Lease { until, ..known }));
        Kept::Until(until)
    }

    /// The book that a granted lease is in.
    fn book_of(&mut self, lease: Lease) -> Option<&mut LeaseBook> {
        self.books.iter_mut().find(|book| book.covers(lease.ip))
    }
}

impl Change {
    fn record(&self) -> Record {
        match *self {
            Self::Granted { lease, .. } => Record::Leased(lease),
            Self::Noted(record) => record,
        }
    }
}
