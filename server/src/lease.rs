//! Core: who holds which address, and until when.
//!
//! Leases are keyed by hardware address alone: one PC shows up as three DHCP clients in one boot
//! (firmware, iPXE, the small Linux), some with a client identifier and some without, and must keep
//! its address all the way. A node gets its old address back as long as nobody else needed it.
//! Nothing here is on disk; `lease_log.rs` keeps the [`Record`]s that this module hands out.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

/// How long an offered address waits for its REQUEST. Firmware takes up to 5 s to choose.
pub const OFFER_HOLD: Duration = Duration::from_secs(10);
/// How long an address that a node found in use is left alone.
pub const DECLINE_HOLD: Duration = Duration::from_mins(10);

/// Hardware address of a node's network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Addresses from `first` to `last`, both included; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: u32,
    last: u32,
}

impl Range {
    /// `None` when `last` comes before `first`.
    pub fn new(first: Ipv4Addr, last: Ipv4Addr) -> Option<Self> {
        (first <= last).then_some(Self { first: first.to_bits(), last: last.to_bits() })
    }

    /// Whether `ip` is one of them.
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&ip.to_bits())
    }
}

/// One address, given to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is.
    pub mac: Mac,
    /// The address.
    pub ip: Ipv4Addr,
    /// When it ends. An ended lease stays known until the address is needed.
    pub until: SystemTime,
}

/// A change that must be on disk before the reply that announces it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Given, renewed, or (with an end in the past) released.
    Leased(Lease),
    /// Found in use by somebody else; nobody gets it before `until`.
    Declined {
        /// The address.
        ip: Ipv4Addr,
        /// When it may be given again.
        until: SystemTime,
    },
}

/// The answer to a node that asks to use an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is the node's, and the record must be kept.
    Granted {
        /// The lease as it is now.
        lease: Lease,
        /// What the node held before, for [`LeaseBook::undo`].
        before: Option<Lease>,
    },
    /// It is somebody else's, or not ours to give.
    Refused,
    /// Nothing is known of this node, and it did not ask for a new lease: stay silent.
    Unknown,
}

/// In which state of RFC 2131 §4.3.2 a node asks for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimKind {
    /// It answers our offer (SELECTING).
    Selecting,
    /// It restarted and remembers an address (INIT-REBOOT).
    Rebooting,
    /// It uses the address now (RENEWING, REBINDING).
    Renewing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Offered(Mac),
    Leased(Mac),
    Declined,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    holder: Holder,
    until: SystemTime,
}

/// See the module. One book serves one range.
#[derive(Debug)]
pub struct LeaseBook {
    range: Range,
    /// Never given: the server's own address and the router's, if they are inside the range.
    reserved: Vec<Ipv4Addr>,
    lease_time: Duration,
    held: HashMap<Ipv4Addr, Held>,
    by_mac: HashMap<Mac, Ipv4Addr>,
    /// Everything in `held`, soonest end first; ended offers before ended leases, so that a flood
    /// of invented nodes uses up its own addresses first.
    ends: BTreeSet<(u8, SystemTime, Ipv4Addr)>,
    /// Addresses below this were held at some time; those from here on never were.
    next_fresh: u64,
    /// See [`Self::spare_until`].
    spared_until: SystemTime,
}

impl LeaseBook {
    /// An empty book.
    pub fn new(range: Range, reserved: Vec<Ipv4Addr>, lease_time: Duration) -> Self {
        Self {
            range,
            reserved,
            lease_time,
            held: HashMap::new(),
            by_mac: HashMap::new(),
            ends: BTreeSet::new(),
            next_fresh: u64::from(range.first),
            spared_until: SystemTime::UNIX_EPOCH,
        }
    }

    /// How long a lease lasts.
    pub fn lease_time(&self) -> Duration {
        self.lease_time
    }

    /// Addresses that are offered, leased or declined; no less than [`Self::records`] has.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no address was ever held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether `ip` belongs to the range, given or not.
    pub fn covers(&self, ip: Ipv4Addr) -> bool {
        self.range.contains(ip)
    }

    /// Takes what the log kept. Later records win; addresses outside the range are dropped.
    pub fn restore(&mut self, record: Record) {
        match record {
            Record::Leased(lease) if self.may_give(lease.ip) => {
                self.hold(lease.ip, Holder::Leased(lease.mac), lease.until);
            }
            Record::Declined { ip, until } if self.may_give(ip) => {
                self.hold(ip, Holder::Declined, until);
            }
            Record::Leased(_) | Record::Declined { .. } => {}
        }
    }

    /// Until then, no address that somebody held goes to another node, ended or not.
    pub fn spare_until(&mut self, until: SystemTime) {
        self.spared_until = until;
    }

    /// Every lease and every declined address: the shortest log that restores this book.
    pub fn records(&self) -> Vec<Record> {
        let mut records: Vec<_> = self
            .held
            .iter()
            .filter_map(|(&ip, held)| match held.holder {
                Holder::Leased(mac) => Some(Record::Leased(Lease { mac, ip, until: held.until })),
                Holder::Declined => Some(Record::Declined { ip, until: held.until }),
                Holder::Offered(_) => None,
            })
            .collect();
        records.sort_by_key(|record| match record {
            Record::Leased(lease) => lease.ip,
            Record::Declined { ip, .. } => *ip,
        });
        records
    }

    /// Chooses the address to offer to `mac`, and holds it for [`OFFER_HOLD`]. `None`: all are in use.
    ///
    /// In the order of RFC 2131 §4.3.1: its current address, its old one, the one it wishes for,
    /// any other, the longest unused last.
    pub fn propose(
        &mut self,
        mac: Mac,
        wanted: Option<Ipv4Addr>,
        now: SystemTime,
    ) -> Option<Ipv4Addr> {
        if let Some(&ip) = self.by_mac.get(&mac) {
            let held = self.held.get(&ip).copied();
            let is_leased = held.is_some_and(|h| h.holder == Holder::Leased(mac) && h.until > now);
            if !is_leased {
                self.hold(ip, Holder::Offered(mac), now + OFFER_HOLD);
            }
            return Some(ip);
        }
        let ip = wanted
            .filter(|&ip| self.may_give(ip) && self.is_free(ip, now))
            .or_else(|| self.fresh())
            .or_else(|| self.recycled(now))?;
        self.hold(ip, Holder::Offered(mac), now + OFFER_HOLD);
        Some(ip)
    }

    /// Gives `ip` to `mac`, or says why not (RFC 2131 §4.3.2).
    pub fn claim(&mut self, mac: Mac, ip: Ipv4Addr, kind: ClaimKind, now: SystemTime) -> Claim {
        if !self.may_give(ip) {
            return Claim::Refused;
        }
        let own = self.by_mac.get(&mac).copied();
        let is_own = own == Some(ip);
        if !is_own && !self.is_free(ip, now) {
            return Claim::Refused;
        }
        if !is_own && kind == ClaimKind::Rebooting {
            // It remembers another address than we do, or we know nothing of it.
            return if own.is_some() { Claim::Refused } else { Claim::Unknown };
        }
        // Else it is free: an offer that a restart of ours forgot, or a lease that our disk lost
        // while its owner kept on using it. To grant it is the only way to no second owner.
        let before = self.lease_of(mac);
        let until = now + self.lease_time;
        self.hold(ip, Holder::Leased(mac), until);
        Claim::Granted { lease: Lease { mac, ip, until }, before }
    }

    /// Takes back a grant whose record could not be kept.
    pub fn undo(&mut self, granted: Lease, before: Option<Lease>) {
        self.free(granted.ip);
        if let Some(lease) = before {
            self.hold(lease.ip, Holder::Leased(lease.mac), lease.until);
        }
    }

    /// The node took another server's offer: ours is free again.
    pub fn withdraw_offer(&mut self, mac: Mac) {
        let Some(&ip) = self.by_mac.get(&mac) else { return };
        if self.held.get(&ip).is_some_and(|held| matches!(held.holder, Holder::Offered(_))) {
            self.free(ip);
        }
    }

    /// The node gives `ip` back (RFC 2131 §4.3.4); it stays known as the node's old address.
    pub fn release(&mut self, mac: Mac, ip: Ipv4Addr, now: SystemTime) -> Option<Record> {
        let lease = self.lease_of(mac).filter(|lease| lease.ip == ip && lease.until > now)?;
        self.hold(ip, Holder::Leased(mac), now);
        Some(Record::Leased(Lease { until: now, ..lease }))
    }

    /// The node found `ip` in use by somebody else (RFC 2131 §4.3.3).
    ///
    /// Only its own address can be declined, so that nobody can empty the range with one packet
    /// for each address.
    pub fn decline(&mut self, mac: Mac, ip: Ipv4Addr, now: SystemTime) -> Option<Record> {
        if self.by_mac.get(&mac) != Some(&ip) {
            return None;
        }
        let until = now + DECLINE_HOLD;
        self.hold(ip, Holder::Declined, until);
        Some(Record::Declined { ip, until })
    }

    /// The lease of `mac`, ended or not.
    pub fn lease_of(&self, mac: Mac) -> Option<Lease> {
        let ip = *self.by_mac.get(&mac)?;
        let held = self.held.get(&ip)?;
        matches!(held.holder, Holder::Leased(_)).then_some(Lease { mac, ip, until: held.until })
    }

    fn may_give(&self, ip: Ipv4Addr) -> bool {
        self.range.contains(ip) && !self.reserved.contains(&ip)
    }

    fn is_free(&self, ip: Ipv4Addr, now: SystemTime) -> bool {
        self.held.get(&ip).is_none_or(|held| match held.holder {
            Holder::Offered(_) => held.until <= now,
            Holder::Leased(_) | Holder::Declined => held.until.max(self.spared_until) <= now,
        })
    }

    /// The next address that was never held.
    fn fresh(&mut self) -> Option<Ipv4Addr> {
        while self.next_fresh <= u64::from(self.range.last) {
            let bits = u32::try_from(self.next_fresh).expect("range.last fits, and bounds it");
            self.next_fresh += 1;
            let ip = Ipv4Addr::from_bits(bits);
            if self.may_give(ip) && !self.held.contains_key(&ip) {
                return Some(ip);
            }
        }
        None
    }

    /// The held address that ended longest ago.
    fn recycled(&self, now: SystemTime) -> Option<Ipv4Addr> {
        let soonest = |rank: u8| {
            let from = (rank, SystemTime::UNIX_EPOCH, Ipv4Addr::UNSPECIFIED);
            let first = self.ends.range(from..).next().filter(|(of, ..)| *of == rank)?;
            (first.1 <= now).then_some(first.2)
        };
        soonest(RANK_OFFER)
            .or_else(|| if self.spared_until <= now { soonest(RANK_LEASE) } else { None })
    }

    /// Puts `ip` into the hands of `holder`; whoever had it, and whatever that node had, is undone.
    fn hold(&mut self, ip: Ipv4Addr, holder: Holder, until: SystemTime) {
        self.forget(ip);
        if let Holder::Offered(mac) | Holder::Leased(mac) = holder {
            if let Some(old) = self.by_mac.get(&mac).copied() {
                self.free(old);
            }
            self.by_mac.insert(mac, ip);
        }
        self.held.insert(ip, Held { holder, until });
        self.ends.insert((rank(holder), until, ip));
    }

    /// Nobody holds `ip` any more, and [`Self::fresh`] may find it again.
    fn free(&mut self, ip: Ipv4Addr) {
        self.forget(ip);
        self.next_fresh = self.next_fresh.min(u64::from(ip.to_bits()));
    }

    fn forget(&mut self, ip: Ipv4Addr) {
        let Some(held) = self.held.remove(&ip) else { return };
        let was_listed = self.ends.remove(&(rank(held.holder), held.until, ip));
        assert!(was_listed, "every held address is listed under its end");
        if let Holder::Offered(mac) | Holder::Leased(mac) = held.holder {
            self.by_mac.remove(&mac);
        }
    }
}

const RANK_OFFER: u8 = 0;
const RANK_LEASE: u8 = 1;

fn rank(holder: Holder) -> u8 {
    match holder {
        Holder::Offered(_) => RANK_OFFER,
        Holder::Leased(_) | Holder::Declined => RANK_LEASE,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, last)
    }

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + secs)
    }

    fn book(first: u8, last: u8) -> LeaseBook {
        let range = Range::new(ip(first), ip(last)).expect("first <= last");
        LeaseBook::new(range, vec![ip(1)], HOUR)
    }

    fn give(book: &mut LeaseBook, node: u8, now: SystemTime) -> Option<Ipv4Addr> {
        let ip = book.propose(mac(node), None, now)?;
        match book.claim(mac(node), ip, ClaimKind::Selecting, now) {
            Claim::Granted { lease, .. } => Some(lease.ip),
            Claim::Refused | Claim::Unknown => None,
        }
    }

    #[test]
    fn a_node_keeps_its_address_through_all_the_loaders_of_one_boot() {
        let mut book = book(50, 60);
        assert_eq!(give(&mut book, 1, at(0)), Some(ip(50)));
        assert_eq!(give(&mut book, 2, at(1)), Some(ip(51)));
        assert_eq!(give(&mut book, 1, at(5)), Some(ip(50)));
        assert_eq!(give(&mut book, 1, at(9)), Some(ip(50)));
    }

    #[test]
    fn a_node_gets_its_old_address_back_after_the_lease_ended() {
        let mut book = book(50, 60);
        give(&mut book, 1, at(0));
        assert_eq!(give(&mut book, 2, at(5000)), Some(ip(51)));
        assert_eq!(give(&mut book, 1, at(90_000)), Some(ip(50)));
    }

    #[test]
    fn a_full_range_offers_nothing_until_a_lease_ends() {
        let mut book = book(50, 51);
        give(&mut book, 1, at(0));
        give(&mut book, 2, at(1));
        assert_eq!(book.propose(mac(3), None, at(2)), None);
        assert_eq!(give(&mut book, 3, at(3600)), Some(ip(50)));
        assert_eq!(book.lease_of(mac(1)), None);
    }

    #[test]
    fn an_unanswered_offer_is_free_again_after_ten_seconds() {
        let mut book = book(50, 50);
        assert_eq!(book.propose(mac(1), None, at(0)), Some(ip(50)));
        assert_eq!(book.propose(mac(2), None, at(9)), None);
        assert_eq!(book.propose(mac(2), None, at(10)), Some(ip(50)));
    }

    #[test]
    fn invented_nodes_use_up_ended_offers_before_ended_leases() {
        let mut book = book(50, 51);
        give(&mut book, 1, at(0));
        book.propose(mac(2), None, at(5000));
        assert_eq!(book.propose(mac(3), None, at(5020)), Some(ip(51)));
        assert!(book.lease_of(mac(1)).is_some());
    }

    #[test]
    fn a_spared_lease_goes_back_to_its_node_only() {
        let mut book = book(50, 50);
        give(&mut book, 1, at(0));
        book.spare_until(at(9000));
        assert_eq!(book.propose(mac(2), Some(ip(50)), at(8000)), None);
        assert_eq!(book.claim(mac(2), ip(50), ClaimKind::Renewing, at(8000)), Claim::Refused);
        let own = book.claim(mac(1), ip(50), ClaimKind::Renewing, at(8000));
        assert!(matches!(own, Claim::Granted { .. }));
        book.release(mac(1), ip(50), at(8001));
        assert_eq!(give(&mut book, 2, at(9000)), Some(ip(50)));
    }

    #[test]
    fn a_wish_is_granted_when_it_can_be() {
        let mut book = book(50, 60);
        assert_eq!(book.propose(mac(1), Some(ip(55)), at(0)), Some(ip(55)));
        assert_eq!(book.propose(mac(2), Some(ip(55)), at(0)), Some(ip(50)));
        assert_eq!(book.propose(mac(3), Some(ip(99)), at(0)), Some(ip(51)));
    }

    #[test]
    fn reserved_addresses_are_never_given() {
        let mut book = book(1, 2);
        assert_eq!(book.propose(mac(1), Some(ip(1)), at(0)), Some(ip(2)));
        assert_eq!(book.claim(mac(2), ip(1), ClaimKind::Renewing, at(0)), Claim::Refused);
    }

    #[test]
    fn the_states_of_rfc_2131_get_their_answers() {
        let mut book = book(50, 60);
        give(&mut book, 1, at(0));
        let mut check = |node: u8, last: u8, kind, expected: fn(Claim) -> bool| {
            let claim = book.claim(mac(node), ip(last), kind, at(1));
            assert!(expected(claim), "node {node} asks for .{last} {kind:?}: {claim:?}");
        };
        let is_granted = |claim| matches!(claim, Claim::Granted { .. });
        check(1, 50, ClaimKind::Rebooting, is_granted);
        check(1, 51, ClaimKind::Rebooting, |claim| claim == Claim::Refused);
        check(2, 50, ClaimKind::Rebooting, |claim| claim == Claim::Refused);
        check(2, 53, ClaimKind::Rebooting, |claim| claim == Claim::Unknown);
        check(2, 99, ClaimKind::Rebooting, |claim| claim == Claim::Refused);
        check(2, 50, ClaimKind::Renewing, |claim| claim == Claim::Refused);
        check(2, 54, ClaimKind::Renewing, is_granted);
        check(3, 55, ClaimKind::Selecting, is_granted);
        check(1, 50, ClaimKind::Renewing, is_granted);
    }

    #[test]
    fn a_declined_address_is_left_alone_and_only_its_node_can_decline_it() {
        let mut book = book(50, 51);
        give(&mut book, 1, at(0));
        assert_eq!(book.decline(mac(2), ip(50), at(1)), None);
        assert!(book.decline(mac(1), ip(50), at(1)).is_some());
        assert_eq!(give(&mut book, 1, at(2)), Some(ip(51)));
        assert_eq!(book.propose(mac(2), None, at(3)), None);
        assert_eq!(book.propose(mac(2), None, at(601)), Some(ip(50)));
    }

    #[test]
    fn a_released_address_is_free_but_remembered() {
        let mut book = book(50, 50);
        give(&mut book, 1, at(0));
        assert_eq!(book.release(mac(2), ip(50), at(1)), None);
        assert!(book.release(mac(1), ip(50), at(1)).is_some());
        assert_eq!(give(&mut book, 1, at(2)), Some(ip(50)));
        book.release(mac(1), ip(50), at(3));
        assert_eq!(give(&mut book, 2, at(4)), Some(ip(50)));
    }

    #[test]
    fn a_grant_that_could_not_be_kept_is_undone() {
        let mut book = book(50, 51);
        let Claim::Granted { lease, before } =
            book.claim(mac(1), ip(50), ClaimKind::Selecting, at(0))
        else {
            panic!("a free address is granted");
        };
        book.undo(lease, before);
        assert_eq!((book.lease_of(mac(1)), book.records()), (None, vec![]));
        assert_eq!(give(&mut book, 2, at(0)), Some(ip(50)));
    }

    #[test]
    fn a_restored_book_answers_as_the_old_one_did() {
        let mut old = book(50, 60);
        give(&mut old, 1, at(0));
        give(&mut old, 2, at(0));
        old.decline(mac(2), ip(51), at(1));
        let mut new = book(50, 60);
        old.records().into_iter().for_each(|record| new.restore(record));
        assert_eq!(new.records(), old.records());
        assert_eq!(give(&mut new, 3, at(2)), Some(ip(52)));
        assert_eq!(give(&mut new, 1, at(2)), Some(ip(50)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Propose(u8, Option<u8>),
        Claim(u8, u8, ClaimKind),
        Release(u8, u8),
        Decline(u8, u8),
        Withdraw(u8),
        Wait(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        let kind = prop_oneof![
            Just(ClaimKind::Selecting),
            Just(ClaimKind::Rebooting),
            Just(ClaimKind::Renewing)
        ];
        prop_oneof![
            (0..9_u8, proptest::option::of(0..9_u8)).prop_map(|(m, w)| Step::Propose(m, w)),
            (0..9_u8, 0..9_u8, kind).prop_map(|(m, i, k)| Step::Claim(m, i, k)),
            (0..9_u8, 0..9_u8).prop_map(|(m, i)| Step::Release(m, i)),
            (0..9_u8, 0..9_u8).prop_map(|(m, i)| Step::Decline(m, i)),
            (0..9_u8).prop_map(Step::Withdraw),
            (0..2000_u16).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn no_two_nodes_ever_hold_one_address(steps in prop::collection::vec(step(), 1..200)) {
            let mut book = book(0, 6);
            let mut now = at(0);
            let mut granted: HashMap<Ipv4Addr, Lease> = HashMap::new();
            for step in steps {
                match step {
                    Step::Propose(m, wanted) => {
                        if let Some(ip) = book.propose(mac(m), wanted.map(ip), now) {
                            let other = granted.get(&ip).filter(|l| l.until > now);
                            prop_assert!(other.is_none_or(|l| l.mac == mac(m)));
                        }
                    }
                    Step::Claim(m, i, kind) => {
                        if let Claim::Granted { lease, .. } = book.claim(mac(m), ip(i), kind, now) {
                            let other = granted.get(&lease.ip).filter(|l| l.until > now);
                            prop_assert!(other.is_none_or(|l| l.mac == mac(m)));
                            granted.retain(|_, l| l.mac != lease.mac);
                            granted.insert(lease.ip, lease);
                        }
                    }
                    Step::Release(m, i) => {
                        if book.release(mac(m), ip(i), now).is_some() {
                            granted.remove(&ip(i));
                        }
                    }
                    Step::Decline(m, i) => {
                        if book.decline(mac(m), ip(i), now).is_some() {
                            granted.remove(&ip(i));
                        }
                    }
                    Step::Withdraw(m) => book.withdraw_offer(mac(m)),
                    Step::Wait(secs) => now += Duration::from_secs(secs.into()),
                }
            }
        }
    }
}
