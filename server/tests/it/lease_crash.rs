//! Whatever the disk does, no lease that a node was told of is lost, and no address gets a second
//! owner: a simulated disk loses power in every state it can be in, and fails at every operation.
//!
//! The oracle is what the nodes were told. Each history has a seed, so that a failure replays.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bt_catalog::Mac;
use bt_server::roles::dhcp::lease::{Claim, ClaimKind, Lease, LeaseBook, Range, Record};
use bt_server::roles::dhcp::lease_log::{Change, Kept, LeaseLog, Ledger};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::simulated_disk::{Failing, SimulatedDisk};

/// Fewer addresses than nodes, so that addresses change hands.
const POOL: u8 = 8;
const NODES: u8 = 12;
const LEASE: Duration = Duration::from_hours(1);
/// Restarts of the server take this long.
const DOWN: Duration = Duration::from_secs(1);
const STRANGER: Mac = Mac([2, 9, 9, 9, 9, 9]);

fn mac(node: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, node])
}

fn ip(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 50 + index)
}

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// A server's leases, without the threads between books and log.
struct Server {
    ledger: Ledger,
    log: LeaseLog<SimulatedDisk>,
}

impl Server {
    fn book(&mut self) -> &mut LeaseBook {
        self.ledger.book(0)
    }

    /// Keeps one change, and waits for it.
    fn keep(&mut self, change: Change, now: SystemTime) -> Kept {
        self.ledger.change(change);
        let work = self.ledger.begin().expect("there is a change");
        let outcome = work.append_to(&mut self.log);
        self.ledger.settle(&outcome, now)[0]
    }
}

fn open(disk: &SimulatedDisk, now: SystemTime) -> Option<Server> {
    let range = Range::new(ip(0), ip(POOL - 1)).expect("not empty");
    let (log, found) = LeaseLog::open_on(disk.clone(), Path::new("leases")).ok()?;
    let books = vec![LeaseBook::new(range, vec![], LEASE)];
    Some(Server { ledger: Ledger::new(books, &found.records, now), log })
}

/// What the nodes were told.
#[derive(Clone, Default)]
struct Told(HashMap<Mac, Lease>);

impl Told {
    fn take(&mut self, change: &Change, kept: Kept, now: SystemTime) {
        match (*change, kept) {
            (Change::Granted { .. }, Kept::Lost) => {}
            (Change::Granted { lease, .. }, kept) => {
                let until = if let Kept::Until(until) = kept { until } else { lease.until };
                let owner = self.0.values().find(|it| it.ip == lease.ip && it.until > now);
                assert!(owner.is_none_or(|it| it.mac == lease.mac), "a second owner: {lease:?}");
                self.0.insert(lease.mac, Lease { until, ..lease });
            }
            // The node gives it up, whether that is kept or not.
            (Change::Noted(Record::Leased(lease)), _) => {
                self.0.remove(&lease.mac);
            }
            (Change::Noted(Record::Declined { ip, .. }), _) => self.0.retain(|_, it| it.ip != ip),
        }
    }

    /// What must hold while `batch` is on its way: leases that it does not touch.
    fn without(&self, batch: &[Change]) -> Self {
        let touches = |lease: &Lease| {
            batch.iter().any(|change| match change {
                Change::Granted { lease: it, .. } | Change::Noted(Record::Leased(it)) => {
                    it.mac == lease.mac || it.ip == lease.ip
                }
                Change::Noted(Record::Declined { ip, .. }) => *ip == lease.ip,
            })
        };
        Self(self.0.iter().filter(|(_, it)| !touches(it)).map(|(mac, it)| (*mac, *it)).collect())
    }

    /// Whether a server that starts with this log keeps every promise.
    fn check(&self, log: Option<Vec<u8>>, now: SystemTime, context: &str) {
        let disk = SimulatedDisk::with_log(log);
        let mut server = open(&disk, now).unwrap_or_else(|| panic!("{context}: does not start"));
        for later in [1, 110, 1800].map(Duration::from_secs) {
            let then = now + later;
            for lease in self.0.values().filter(|it| it.until > then) {
                let claim = server.book().request(STRANGER, lease.ip, ClaimKind::Renewing, then);
                assert_eq!(claim, Claim::Refused, "{context}: {lease:?} has a second owner");
            }
        }
        let live: Vec<&Lease> = self.0.values().filter(|it| it.until > now).collect();
        for lease in &live {
            let claim = server.book().request(lease.mac, lease.ip, ClaimKind::Rebooting, now);
            assert!(matches!(claim, Claim::Granted { .. }), "{context}: {lease:?} is lost");
        }
        for node in 100..100 + POOL {
            let offered = server.book().offer(mac(node), None, now);
            let is_live = |ip| live.iter().any(|lease| lease.ip == ip);
            assert!(!offered.is_some_and(is_live), "{context}: {offered:?} is offered again");
        }
    }
}

/// A server with its disk, its nodes and their clock.
struct Lab {
    disk: SimulatedDisk,
    server: Server,
    told: Told,
    now: SystemTime,
    random: StdRng,
    context: String,
    states: usize,
}

impl Lab {
    /// `None` when the server could not start.
    fn new(seed: u64, disk: SimulatedDisk) -> Option<Self> {
        disk.record();
        let (random, now) = (StdRng::seed_from_u64(seed), start());
        let server = open(&disk, now)?;
        let told = Told::default();
        let context = format!("seed {seed}");
        let mut lab = Self { disk, server, told, now, random, context, states: 0 };
        lab.check_power_loss(&[]);
        Some(lab)
    }

    /// One batch of requests, and now and then a compaction, a restart or a pause.
    fn step(&mut self) {
        match self.random.random_range(0..20) {
            0 => self.server.ledger.compact_next(),
            1 => self.restart(),
            2 => self.now += Duration::from_secs(self.random.random_range(0..5000)),
            _ => self.batch(),
        }
        self.now += Duration::from_millis(self.random.random_range(0..90_000));
    }

    /// Some requests; while the disk works on what they changed, some more.
    fn batch(&mut self) {
        let count = self.random.random_range(1..=4);
        let mut unsettled = self.requests(count);
        let mut next = self.server.ledger.begin();
        let count = self.random.random_range(0..=3);
        unsettled.extend(self.requests(count));
        next = next.or_else(|| self.server.ledger.begin());
        while let Some(work) = next {
            let outcome = work.append_to(&mut self.server.log);
            self.check_power_loss(&unsettled);
            let kept = self.server.ledger.settle(&outcome, self.now);
            let settled = unsettled.drain(..kept.len());
            settled.zip(kept).for_each(|(change, kept)| self.told.take(&change, kept, self.now));
            // From the moment it was told.
            self.disk.look();
            self.check_power_loss(&unsettled);
            if outcome.is_ok() {
                // An error leaves everything as it was.
                let _outcome = work.compact(&mut self.server.log);
                self.check_power_loss(&unsettled);
            }
            next = self.server.ledger.begin();
        }
        assert!(unsettled.is_empty(), "{}: {unsettled:?} is forgotten", self.context);
    }

    fn requests(&mut self, count: usize) -> Vec<Change> {
        let changes: Vec<Change> = (0..count).filter_map(|_| self.request()).collect();
        changes.iter().for_each(|&change| self.server.ledger.change(change));
        changes
    }

    /// What one node does, and what that changes in the book.
    fn request(&mut self) -> Option<Change> {
        let mac = mac(self.random.random_range(0..NODES));
        let (book, now) = (self.server.book(), self.now);
        let own = book.lease_of(mac).filter(|lease| lease.until > now);
        let asked = match (self.random.random_range(0..10), own) {
            (0, Some(lease)) => return book.release(mac, lease.ip, now).map(Change::Noted),
            (1, Some(lease)) => return book.decline(mac, lease.ip, now).map(Change::Noted),
            (2..6, Some(lease)) => (lease.ip, ClaimKind::Renewing),
            (6, _) => (ip(self.random.random_range(0..POOL)), ClaimKind::Selecting),
            _ => (book.offer(mac, None, now)?, ClaimKind::Selecting),
        };
        match book.request(mac, asked.0, asked.1, now) {
            Claim::Granted { lease, before } => Some(Change::Granted { lease, before }),
            Claim::Refused | Claim::Unknown => None,
        }
    }

    /// The process dies and starts again: what it wrote is there, synced or not.
    fn restart(&mut self) {
        self.now += DOWN;
        let mut tries = 0;
        self.server = loop {
            match open(&self.disk, self.now) {
                Some(server) => break server,
                None => tries += 1,
            }
            assert!(tries < 100, "{}: does not start again", self.context);
        };
        self.check_power_loss(&[]);
    }

    /// Loses power in every state that the disk was in since the last time.
    fn check_power_loss(&mut self, batch: &[Change]) {
        let must_hold = self.told.without(batch);
        for state in self.disk.take_history() {
            for log in state.after_power_loss() {
                must_hold.check(log, self.now + DOWN, &self.context);
                self.states += 1;
            }
        }
    }
}

#[test]
fn power_lost_in_any_state_loses_no_lease_and_makes_no_second_owner() {
    let mut states = 0;
    for seed in 0.. {
        let mut lab = Lab::new(seed, SimulatedDisk::default()).expect("an empty disk is enough");
        (0..60).for_each(|_| lab.step());
        states += lab.states;
        if states >= 100_000 {
            println!("{states} states of the disk in {} histories", seed + 1);
            return;
        }
    }
}

#[test]
fn a_disk_that_fails_at_any_operation_and_then_loses_power_breaks_no_promise() {
    let (mut states, mut labs) = (0, 0);
    for from in 0..40 {
        for length in [1, 2, 7] {
            let disk = SimulatedDisk::default();
            disk.fail(Failing { from, until: from + length, kind: ErrorKind::StorageFull });
            let seed = u64::try_from(from).expect("it is small") + 1000;
            // On an empty disk that refuses there is nothing to start with.
            let Some(mut lab) = Lab::new(seed, disk) else { continue };
            lab.context = format!("seed {seed}, {length} operations fail from {from} on");
            (0..9).for_each(|_| lab.step());
            states += lab.states;
            labs += 1;
        }
    }
    println!("{states} states of failing disks in {labs} histories");
    // Else it would prove nothing: only the few that fail in the first start do not count.
    assert!(labs >= 90, "only {labs} of 120 servers started");
    assert!(states >= 100_000, "only {states} states were looked at");
}

/// A server with one lease for each of the first `count` nodes.
fn with_leases(disk: &SimulatedDisk, count: u8) -> Server {
    let mut server = open(disk, start()).expect("opens");
    for node in 0..count {
        assert_eq!(give(&mut server, node, start()), Some((ip(node), Kept::Durable)));
    }
    server
}

/// One node asks for an address and takes it.
fn give(server: &mut Server, node: u8, now: SystemTime) -> Option<(Ipv4Addr, Kept)> {
    let mac = mac(node);
    if !server.ledger.may_offer(0, mac, now) {
        return None;
    }
    let ip = server.book().offer(mac, None, now)?;
    let Claim::Granted { lease, before } =
        server.book().request(mac, ip, ClaimKind::Selecting, now)
    else {
        return None;
    };
    Some((ip, server.keep(Change::Granted { lease, before }, now)))
}

/// Starts twice with this log, with new leases in between, and looks at who has what.
fn check_damaged(log: Vec<u8>, intact: u8, context: &str) {
    let disk = SimulatedDisk::with_log(Some(log));
    let mut told: HashMap<Ipv4Addr, u8> = (0..intact).map(|node| (ip(node), node)).collect();
    for newcomers in [20..22, 22..24] {
        let mut server = open(&disk, start()).unwrap_or_else(|| panic!("{context}: no start"));
        for (&ip, &node) in &told {
            let lease = server.book().lease_of(mac(node));
            assert_eq!(lease.map(|it| it.ip), Some(ip), "{context}: node {node} lost its lease");
        }
        for node in newcomers {
            // The pool may be full: silence is right then.
            let Some((ip, kept)) = give(&mut server, node, start()) else { continue };
            assert_eq!(kept, Kept::Durable);
            assert_eq!(told.insert(ip, node), None, "{context}: {ip} has a second owner");
        }
    }
}

#[test]
fn a_log_cut_at_any_byte_of_its_last_records_keeps_all_before() {
    let disk = SimulatedDisk::default();
    drop(with_leases(&disk, 5));
    let log = disk.log();
    let ends: Vec<usize> = (0..log.len()).filter(|&at| log[at] == b'\n').map(|at| at + 1).collect();
    // The header's end, then one for each lease.
    for cut in ends[2]..=log.len() {
        let whole = ends.iter().filter(|&&end| end <= cut).count() - 1;
        let intact = u8::try_from(whole).expect("there are five");
        check_damaged(log[..cut].to_vec(), intact, &format!("cut at {cut}"));
    }
}

#[test]
fn a_flipped_bit_in_the_last_record_harms_no_other() {
    let disk = SimulatedDisk::default();
    drop(with_leases(&disk, 5));
    let log = disk.log();
    let last = log[..log.len() - 1].iter().rposition(|&byte| byte == b'\n').expect("lines") + 1;
    for bit in last * 8..log.len() * 8 {
        let mut log = log.clone();
        log[bit / 8] ^= 1 << (bit % 8);
        check_damaged(log, 4, &format!("bit {bit}"));
    }
}

#[test]
fn on_a_full_disk_renewals_go_on_and_newcomers_hear_nothing_until_there_is_space() {
    for kind in [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem, ErrorKind::Other] {
        let disk = SimulatedDisk::default();
        let mut server = with_leases(&disk, 3);
        disk.fail(Failing { from: 0, until: usize::MAX, kind });
        let mut now = start();
        for round in 0..200 {
            now += Duration::from_secs(60);
            for node in 0..3 {
                let (address, kept) = give(&mut server, node, now).expect("its lease goes on");
                let Kept::Until(until) = kept else { panic!("round {round}: {kept:?}") };
                assert!(address == ip(node) && until >= now + Duration::from_secs(120));
            }
            let newcomer = give(&mut server, 7, now);
            assert!(newcomer.is_none_or(|(_, kept)| kept == Kept::Lost), "{newcomer:?}");
        }
        disk.repair();
        now += Duration::from_secs(2);
        assert_eq!(give(&mut server, 7, now).map(|it| it.1), Some(Kept::Durable), "{kind}");
        assert_eq!(give(&mut server, 0, now), Some((ip(0), Kept::Durable)), "{kind}");
    }
}
