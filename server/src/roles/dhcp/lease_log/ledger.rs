//! Core: the lease books, and what the disk does not hold of them yet: nothing is promised that it
//! does not hold.
//!
//! ```text
//! change, change, ...   what requests change in the books waits here
//! begin                 all that waits becomes one piece of work for the disk: one sync
//! change, change, ...   while the disk works, requests go on
//! settle                what each change's node may be told; and the next piece begins
//! ```
//! When the disk refuses (full, broken), everything that it does not hold is taken back, newest first:
//! ```text
//! a new lease   is taken back: the node hears nothing, and asks again
//! a renewal     goes on, but only for as long as the disk knows of it, or SHORT_LEASE if that is more
//! ```
//! A restart forgets those short leases; so for [`SHORT_LEASE`] after a start, nobody gets an
//! address that ended while the server was away. Thus no power cut makes a second owner.

use std::time::{Duration, SystemTime};

use crate::roles::dhcp::lease::{Lease, LeaseBook, Record};
use bt_catalog::Mac;

/// How long a renewal lasts while the disk refuses: long enough not to flood the server with
/// renewals at half of it.
pub const SHORT_LEASE: Duration = Duration::from_mins(2);
/// While the disk refuses, new nodes are tried this often.
const RETRY: Duration = Duration::from_secs(1);

/// Changes that wait for the disk; it hung for a second under the power-on of a large building then.
const MAX_WAITING: usize = 8192;
/// The log is written anew when it has this many lines more than four times what is needed: often
/// enough to stay small, rarely enough not to matter.
const COMPACT_SLACK: usize = 1000;

/// The log follows the time of day where a correction of the machine's clock is larger than this. A
/// restart spares ended leases for [`SHORT_LEASE`], which is more.
const LARGEST_DRIFT: Duration = Duration::from_mins(1);

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

/// What the disk is to do next.
#[derive(Debug)]
pub struct Work {
    /// To be appended and synced.
    pub(super) records: Vec<Record>,
    /// The books as they are once that is done: what the log shall be then, if it got too long.
    pub(super) compacted: Option<Vec<Record>>,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    /// One for each network; none covers what another does.
    books: Vec<LeaseBook>,
    /// When the disk last refused, if it has not been better since.
    refused: Option<SystemTime>,
    /// What the disk works on.
    begun: Vec<Change>,
    /// What was changed since.
    waiting: Vec<Change>,
    /// Lines of the log.
    lines: usize,
    /// One moment by the clock of the books, and by that of the log.
    clocks: (SystemTime, SystemTime),
}

impl Ledger {
    /// Fills the books, one for each network, with what the log had.
    ///
    /// # Panics
    /// When two books cover one address, which could get two owners then.
    pub fn new(mut books: Vec<LeaseBook>, records: &[Record], now: SystemTime) -> Self {
        for (index, book) in books.iter().enumerate() {
            let is_apart = books[index + 1..].iter().all(|other| !book.overlaps(other));
            assert!(is_apart, "two lease books cover one address");
        }
        for book in &mut books {
            records.iter().for_each(|&record| book.restore(record));
            book.restart_grace_until(now + SHORT_LEASE);
        }
        let (begun, waiting, lines) = (Vec::new(), Vec::new(), records.len());
        Self { books, refused: None, begun, waiting, lines, clocks: (now, now) }
    }

    /// A network's book, for answers; each of their changes goes to [`Self::change`].
    ///
    /// # Panics
    /// Where there is no network of that index.
    pub fn book(&mut self, network: usize) -> &mut LeaseBook {
        &mut self.books[network]
    }

    /// Whether `mac` may be offered an address of a network: while the disk refuses, a node without
    /// a lease would only be disappointed. Now and then one may try all the same, and finds out for
    /// all.
    pub fn may_offer(&self, network: usize, mac: Mac, now: SystemTime) -> bool {
        let is_recent = |since| now.duration_since(since).is_ok_and(|passed| passed < RETRY);
        !self.refused.is_some_and(is_recent)
            || self.books[network].lease_of(mac).is_some_and(|lease| lease.until > now)
    }

    /// Whether the disk is so far behind that no request can be taken in.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// Notes what a request changed in a book; [`Self::settle`] says what became of it.
    pub fn change(&mut self, change: Change) {
        self.waiting.push(change);
    }

    /// The next piece of work for the disk; `None` while it has one, or when there is nothing to do.
    pub fn begin(&mut self) -> Option<Work> {
        if !self.begun.is_empty() || self.waiting.is_empty() {
            return None;
        }
        self.begun = std::mem::take(&mut self.waiting);
        let logged = |record| in_log(record, self.clocks);
        let records: Vec<Record> =
            self.begun.iter().map(|change| logged(change.record())).collect();
        let needed: usize = self.books.iter().map(LeaseBook::len).sum();
        let is_wasteful = self.lines.saturating_add(records.len()) > 4 * needed + COMPACT_SLACK;
        // Now, since the books are ahead of the disk by what is begun and nothing else.
        let compacted = is_wasteful
            .then(|| self.books.iter().flat_map(LeaseBook::records).map(logged).collect());
        Some(Work { records, compacted })
    }

    /// Tells the time of day. The books count by a clock that nobody sets; the log, which the next
    /// start reads, follows the time of day, and is written anew when that was corrected: or leases
    /// that nodes still use would seem to have ended.
    pub fn time_of_day(&mut self, now: SystemTime, time_of_day: SystemTime) {
        let logged = moved(now, self.clocks);
        let drift = logged.duration_since(time_of_day).unwrap_or_else(|error| error.duration());
        if drift > LARGEST_DRIFT {
            self.clocks = (now, time_of_day);
            self.compact_next();
        }
    }

    /// Lets the next piece of work end with the log written anew, however short it is.
    pub fn compact_next(&mut self) {
        self.lines = usize::MAX;
    }

    /// Takes the disk's answer to what was begun. Returns what became of the oldest changes, in
    /// their order: of those that were begun, and after a failure of all that came since as well.
    pub fn settle<E>(&mut self, outcome: &Result<usize, E>, now: SystemTime) -> Vec<Kept> {
        let mut changes = std::mem::take(&mut self.begun);
        match outcome {
            Ok(lines) => {
                self.refused = None;
                self.lines = *lines;
                vec![Kept::Durable; changes.len()]
            }
            Err(_) => {
                self.refused = Some(now);
                changes.append(&mut self.waiting);
                self.take_back(&changes, now)
            }
        }
    }

    /// Undoes changes, the newest first, and then lets the nodes that the disk knows go on.
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

/// What the books' clock calls `time`, by the log's clock.
fn moved(time: SystemTime, (books, log): (SystemTime, SystemTime)) -> SystemTime {
    let moved = match log.duration_since(books) {
        Ok(ahead) => time.checked_add(ahead),
        Err(behind) => time.checked_sub(behind.duration()),
    };
    moved.unwrap_or(time)
}

fn in_log(record: Record, clocks: (SystemTime, SystemTime)) -> Record {
    match record {
        Record::Leased(lease) => {
            Record::Leased(Lease { until: moved(lease.until, clocks), ..lease })
        }
        Record::Declined { ip, until } => Record::Declined { ip, until: moved(until, clocks) },
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::roles::dhcp::lease::{Claim, ClaimKind, Range};
    use crate::roles::dhcp::lease_log::LogError;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const HOUR: Duration = Duration::from_hours(1);

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, last)
    }

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + secs)
    }

    fn book(first: u8, last: u8) -> LeaseBook {
        let range = Range::new(ip(first), ip(last)).expect("not empty");
        LeaseBook::new(range, vec![], HOUR)
    }

    /// A ledger whose disk knows that A has .50 until 1000 s from the start.
    fn ledger() -> Ledger {
        let known = Record::Leased(Lease { mac: A, ip: ip(50), until: at(1000) });
        Ledger::new(vec![book(50, 52)], &[known], at(0))
    }

    fn claim(ledger: &mut Ledger, mac: Mac, ip: Ipv4Addr, now: SystemTime) {
        match ledger.book(0).request(mac, ip, ClaimKind::Selecting, now) {
            Claim::Granted { lease, before } => ledger.change(Change::Granted { lease, before }),
            other => panic!("{mac} is to get {ip}: {other:?}"),
        }
    }

    fn decline(ledger: &mut Ledger, mac: Mac, ip: Ipv4Addr, now: SystemTime) {
        let record = ledger.book(0).decline(mac, ip, now).expect("it is its own");
        ledger.change(Change::Noted(record));
    }

    fn refuse(ledger: &mut Ledger, now: SystemTime) -> Vec<Kept> {
        let _work = ledger.begin().expect("there are changes");
        let full = io::ErrorKind::StorageFull.into();
        ledger.settle(&Err(LogError::Io { path: "leases".into(), source: full }), now)
    }

    #[test]
    fn a_declined_address_stays_declined_when_the_disk_refuses_the_renewal_before_it() {
        let mut ledger = ledger();
        claim(&mut ledger, A, ip(50), at(200));
        decline(&mut ledger, A, ip(50), at(200));
        assert_eq!(refuse(&mut ledger, at(201)), [Kept::Lost, Kept::Lost]);
        assert_eq!(ledger.book(0).lease_of(A), None);
        let mut wished = |mac, secs| ledger.book(0).offer(mac, Some(ip(50)), at(secs));
        assert_eq!(wished(A, 202), Some(ip(51)));
        assert_eq!(wished(B, 799), Some(ip(52)), "left alone for ten minutes");
    }

    #[test]
    fn a_node_that_declines_its_new_address_has_the_old_one_when_the_disk_refuses_both() {
        let mut ledger = ledger();
        claim(&mut ledger, A, ip(51), at(200));
        decline(&mut ledger, A, ip(51), at(200));
        assert_eq!(ledger.book(0).offer(B, None, at(200)), Some(ip(50)), "it is free so far");
        assert_eq!(refuse(&mut ledger, at(201)), [Kept::Lost, Kept::Lost]);
        let old = Lease { mac: A, ip: ip(50), until: at(1000) };
        assert_eq!(ledger.book(0).lease_of(A), Some(old));
        assert_eq!(ledger.book(0).offer(B, Some(ip(51)), at(202)), Some(ip(52)));
    }

    #[test]
    fn an_address_that_changed_hands_in_one_batch_goes_back_to_its_first_owner() {
        let mut ledger = ledger();
        claim(&mut ledger, A, ip(51), at(200));
        claim(&mut ledger, B, ip(50), at(200));
        decline(&mut ledger, A, ip(51), at(200));
        assert_eq!(refuse(&mut ledger, at(201)), [Kept::Lost; 3]);
        assert_eq!(ledger.book(0).lease_of(A).map(|lease| lease.ip), Some(ip(50)));
        assert_eq!(ledger.book(0).lease_of(B), None);
    }

    #[test]
    fn the_log_follows_a_corrected_clock() {
        const YEAR: Duration = Duration::from_hours(365 * 24);
        let ends = |ledger: &mut Ledger| {
            let work = ledger.begin().expect("there is a change");
            let outcome = Ok::<_, LogError>(work.records.len());
            assert_eq!(ledger.settle(&outcome, at(0)), [Kept::Durable]);
            let all = work.records.iter().chain(work.compacted.iter().flatten());
            let end = |record: &Record| match record {
                Record::Leased(lease) => lease.until,
                Record::Declined { until, .. } => *until,
            };
            (all.map(end).collect::<Vec<_>>(), work.compacted.is_some())
        };
        let mut ledger = ledger();
        ledger.time_of_day(at(100), at(159));
        claim(&mut ledger, B, ip(51), at(100));
        assert_eq!(
            ends(&mut ledger),
            (vec![at(100) + HOUR], false),
            "less than a minute is nothing"
        );
        ledger.time_of_day(at(200), at(200) + YEAR);
        claim(&mut ledger, B, ip(51), at(200));
        let (renewed, known) = (at(200) + HOUR + YEAR, at(1000) + YEAR);
        assert_eq!(ends(&mut ledger), (vec![renewed, known, renewed], true));
        assert_eq!(ledger.book(0).offer(B, None, at(900)), Some(ip(51)));
        ledger.time_of_day(at(300), at(300) + YEAR);
        claim(&mut ledger, B, ip(51), at(300));
        assert_eq!(ends(&mut ledger), (vec![at(300) + HOUR + YEAR], false), "once is enough");
        ledger.time_of_day(at(400), at(400) - HOUR);
        claim(&mut ledger, B, ip(51), at(400));
        assert_eq!(ends(&mut ledger), (vec![at(400), at(1000) - HOUR, at(400)], true));
    }

    #[test]
    #[should_panic(expected = "two lease books cover one address")]
    fn books_of_one_range_are_not_taken() {
        Ledger::new(vec![book(50, 60), book(70, 80), book(60, 69)], &[], at(0));
    }

    #[test]
    #[should_panic(expected = "two lease books cover one address")]
    fn a_fixed_address_in_the_range_of_another_book_is_not_taken() {
        let mut other = book(70, 80);
        other.add_reservation(A, ip(55));
        Ledger::new(vec![book(50, 60), other], &[], at(0));
    }
}
