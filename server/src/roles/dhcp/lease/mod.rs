//! Core: which node holds which address, and until when.
//!
//! Leases are keyed by MAC address alone, although RFC 2131 §4.2 prefers the client identifier: one
//! PC is three DHCP clients in one boot (firmware, iPXE, netboot image), some with an identifier
//! and some without, and must keep its address through all of them. A node gets its old address
//! back as long as no other node needed it. A reserved address is only ever its host's;
//! `newcomers.rs` limits how many addresses invented MAC addresses get. Nothing here is on disk; `lease_log/` keeps the [`Record`]s that this module
//! hands out.

mod newcomers;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

pub use self::newcomers::FIRST_LEASE;
use self::newcomers::Newcomers;

use bt_catalog::Mac;

/// How long an offered address waits for its REQUEST. Firmware takes up to 5 s to choose.
pub const OFFER_HOLD: Duration = Duration::from_secs(10);
/// How long a declined address is not assigned.
pub const DECLINE_HOLD: Duration = Duration::from_mins(10);

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

    /// How many there are; all of IPv4 counts as one less.
    pub fn size(self) -> u32 {
        (self.last - self.first).saturating_add(1)
    }

    /// Whether `ip` is one of them.
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&ip.to_bits())
    }
}

/// One address, leased to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The node that holds it.
    pub mac: Mac,
    /// The address.
    pub ip: Ipv4Addr,
    /// When it ends. An ended lease stays known until the address is needed.
    pub until: SystemTime,
}

/// A change that must be on disk before the reply that announces it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Assigned, renewed, or (with an end in the past) released.
    Leased(Lease),
    /// Found in use by another machine; not assigned before `until`.
    Declined {
        /// The address.
        ip: Ipv4Addr,
        /// When it may be assigned again.
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
    /// It is another node's, or not in this book.
    Refused,
    /// Nothing is known of this node, and it did not ask for a new lease: stay silent.
    Unknown,
}

/// In which state of RFC 2131 §4.3.2 a node asks for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimKind {
    /// It accepts an offer (SELECTING).
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

impl Holder {
    fn mac(self) -> Option<Mac> {
        match self {
            Self::Offered(mac) | Self::Leased(mac) => Some(mac),
            Self::Declined => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Held {
    holder: Holder,
    until: SystemTime,
    /// Whether the node came back for it: invented MAC addresses seldom do.
    is_regular: bool,
}

/// Which ended addresses are reused first: those whose owner is least likely to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Offer,
    Newcomer,
    Regular,
}

/// A reserved address that its host cannot get yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// The address.
    pub ip: Ipv4Addr,
    /// Who has it; `None`: its host itself declined it, in use by an unknown machine.
    pub by: Option<Mac>,
    /// Until when, at the latest.
    pub until: SystemTime,
}

/// See the module. One book serves one network.
#[derive(Debug)]
pub struct LeaseBook {
    range: Range,
    /// Never assigned: the server's own address and the router's, if they are inside the range.
    excluded: Vec<Ipv4Addr>,
    /// Addresses that only one node may get, inside the range or not; kept in both directions.
    reservations: HashMap<Mac, Ipv4Addr>,
    reserved_for: HashMap<Ipv4Addr, Mac>,
    /// Nodes that `server.toml` names: never rate-limited, whether they were seen or not.
    known: HashSet<Mac>,
    lease_time: Duration,
    held: HashMap<Ipv4Addr, Held>,
    by_mac: HashMap<Mac, Ipv4Addr>,
    /// What is held and had not ended at the last [`Self::expire`], soonest end first. A reserved
    /// address that its host holds is neither here nor in `ended`: no other node can get it.
    live: BTreeSet<(SystemTime, Ipv4Addr)>,
    /// What has ended and is remembered until it is needed, in the order of reuse.
    ended: BTreeSet<(Rank, SystemTime, Ipv4Addr)>,
    /// How many of `ended` are [`Rank::Regular`].
    ended_regulars: usize,
    newcomers: Newcomers,
    /// Addresses below this have been held; those from here on never were.
    unused_from: u64,
    /// See [`Self::restart_grace_until`].
    grace_until: SystemTime,
}

impl LeaseBook {
    /// An empty book.
    pub fn new(range: Range, excluded: Vec<Ipv4Addr>, lease_time: Duration) -> Self {
        Self {
            range,
            excluded,
            reservations: HashMap::new(),
            reserved_for: HashMap::new(),
            known: HashSet::new(),
            lease_time,
            held: HashMap::new(),
            by_mac: HashMap::new(),
            live: BTreeSet::new(),
            ended: BTreeSet::new(),
            ended_regulars: 0,
            newcomers: Newcomers::new(range.size()),
            unused_from: u64::from(range.first),
            grace_until: SystemTime::UNIX_EPOCH,
        }
    }

    /// Reserves `ip` for `mac`, which gets no other. To be called before [`Self::restore`].
    pub fn add_reservation(&mut self, mac: Mac, ip: Ipv4Addr) {
        self.reservations.insert(mac, ip);
        self.reserved_for.insert(ip, mac);
        self.add_known(mac);
    }

    /// Makes `mac` known without having been seen, so that it is never rate-limited.
    pub fn add_known(&mut self, mac: Mac) {
        self.known.insert(mac);
    }

    /// How long a lease of `mac` would last now.
    pub fn lease_time(&self, mac: Mac) -> Duration {
        if self.is_scarce() && self.is_newcomer(mac) {
            self.lease_time.min(FIRST_LEASE)
        } else {
            self.lease_time
        }
    }

    /// Addresses that are offered, leased or declined; no less than [`Self::records`] has.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no address was ever held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether this book may assign `ip`, whether it has or not.
    pub fn covers(&self, ip: Ipv4Addr) -> bool {
        self.range.contains(ip) || self.reserved_for.contains_key(&ip)
    }

    /// Whether an address is both this book's and another's.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.range, other.range);
        (a.first <= b.last && b.first <= a.last)
            || self.reserved_for.keys().any(|&ip| other.covers(ip))
            || other.reserved_for.keys().any(|&ip| self.covers(ip))
    }

    /// Takes what the log kept. Later records win; addresses that this book does not cover are
    /// dropped. One that is now reserved for another node stays until its lease ends.
    pub fn restore(&mut self, record: Record) {
        let is_ours = |ip| self.covers(ip) && !self.excluded.contains(&ip);
        match record {
            Record::Leased(lease) if is_ours(lease.ip) => {
                self.assign(lease.ip, Holder::Leased(lease.mac), lease.until, true);
            }
            Record::Declined { ip, until } if is_ours(ip) => {
                self.assign(ip, Holder::Declined, until, false);
            }
            Record::Leased(_) | Record::Declined { .. } => {}
        }
    }

    /// Until then, no address that a node held goes to another node, ended or not: a renewal that
    /// the disk lost may still be in use by its owner.
    pub fn restart_grace_until(&mut self, until: SystemTime) {
        self.grace_until = until;
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
        // Of two leases of one node, that which ends last is restored last, and so wins.
        records.sort_by_key(|record| match record {
            Record::Leased(lease) => (lease.until, lease.ip),
            Record::Declined { ip, until } => (*until, *ip),
        });
        records
    }

    /// Chooses the address to offer to `mac`, and keeps it for [`OFFER_HOLD`]. `None`: all are in
    /// use, or there are too many newcomers, or see [`Self::blocked`].
    ///
    /// In the order of RFC 2131 §4.3.1: its current address, its old one, the one that it requests
    /// (option 50), any other; one that another node had comes last, the longest ended first.
    pub fn offer(
        &mut self,
        mac: Mac,
        wanted: Option<Ipv4Addr>,
        now: SystemTime,
    ) -> Option<Ipv4Addr> {
        self.expire(now);
        if !self.admits(mac, now) {
            return None;
        }
        let own = self.by_mac.get(&mac).copied().filter(|&ip| self.may_give(ip, mac));
        let ip = match (own, self.reservations.get(&mac).copied()) {
            (Some(ip), _) => ip,
            (None, Some(ip)) => Some(ip).filter(|&ip| self.is_free(ip, now))?,
            (None, None) => wanted
                .filter(|&ip| self.may_give(ip, mac) && self.is_free(ip, now))
                .or_else(|| self.next_unused(mac))
                .or_else(|| self.reclaim(mac, now))?,
        };
        let held = self.held.get(&ip).copied();
        if !held.is_some_and(|held| held.holder == Holder::Leased(mac) && held.until > now) {
            let is_regular = own.is_some() && held.is_some_and(|held| held.is_regular);
            self.assign(ip, Holder::Offered(mac), now + OFFER_HOLD, is_regular);
        }
        Some(ip)
    }

    /// Answers the REQUEST of `mac` for `ip` (RFC 2131 §4.3.2).
    pub fn request(&mut self, mac: Mac, ip: Ipv4Addr, kind: ClaimKind, now: SystemTime) -> Claim {
        self.expire(now);
        let own = self.by_mac.get(&mac).copied();
        let is_own = own == Some(ip);
        // A host whose reserved address is not free yet keeps the one that it has.
        let waits =
            is_own && !self.reserved_for.contains_key(&ip) && self.blocked(mac, now).is_some();
        if !self.may_give(ip, mac) && !waits {
            return Claim::Refused;
        }
        if !is_own && !self.is_free(ip, now) {
            return Claim::Refused;
        }
        if !is_own && kind == ClaimKind::Rebooting {
            // NAK where the book knows better; silence where it knows nothing: the address may be
            // another server's (RFC 2131 §4.3.2, INIT-REBOOT).
            return if own.is_some() { Claim::Refused } else { Claim::Unknown };
        }
        if !self.admits(mac, now) {
            return Claim::Unknown;
        }
        // Else it is free: an offer that a restart of this server forgot, or a lease that its disk
        // lost while the owner kept using it. Only granting it prevents a second owner.
        let before = self.lease_of(mac);
        let until = now + self.lease_time(mac);
        let was_regular = self.held.get(&ip).is_some_and(|held| is_own && held.is_regular);
        let came_back = before.is_some_and(|before| before.ip == ip);
        self.assign(ip, Holder::Leased(mac), until, was_regular || came_back);
        Claim::Granted { lease: Lease { mac, ip, until }, before }
    }

    /// Takes back a grant whose record could not be kept. An address that was declined since, or is
    /// another node's, stays so.
    pub fn undo(&mut self, granted: Lease, before: Option<Lease>) {
        let holder = |book: &Self, ip| book.held.get(&ip).map(|held: &Held| held.holder);
        if holder(self, granted.ip) == Some(Holder::Leased(granted.mac)) {
            self.free(granted.ip);
        }
        let Some(lease) = before else { return };
        match holder(self, lease.ip) {
            Some(Holder::Declined) => {}
            Some(Holder::Leased(mac)) if mac != lease.mac => {}
            // An offer to another node yields: this one may be using its old address.
            _ => self.assign(lease.ip, Holder::Leased(lease.mac), lease.until, true),
        }
    }

    /// The node accepted another server's offer: this book's is free again.
    pub fn withdraw_offer(&mut self, mac: Mac) {
        let Some(&ip) = self.by_mac.get(&mac) else { return };
        if self.held.get(&ip).is_some_and(|held| matches!(held.holder, Holder::Offered(_))) {
            self.free(ip);
        }
    }

    /// The node releases `ip` (RFC 2131 §4.3.4); it stays known as the node's old address.
    pub fn release(&mut self, mac: Mac, ip: Ipv4Addr, now: SystemTime) -> Option<Record> {
        let lease = self.lease_of(mac).filter(|lease| lease.ip == ip && lease.until > now)?;
        let is_regular = self.held.get(&ip).is_some_and(|held| held.is_regular);
        self.assign(ip, Holder::Leased(mac), now, is_regular);
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
        self.assign(ip, Holder::Declined, until, false);
        Some(Record::Declined { ip, until })
    }

    /// The lease of `mac`, ended or not.
    pub fn lease_of(&self, mac: Mac) -> Option<Lease> {
        let ip = *self.by_mac.get(&mac)?;
        let held = self.held.get(&ip)?;
        matches!(held.holder, Holder::Leased(_)).then_some(Lease { mac, ip, until: held.until })
    }

    /// Why `mac` cannot get its reserved address now; `None` when it can, or has none.
    pub fn blocked(&self, mac: Mac, now: SystemTime) -> Option<Blocked> {
        let ip = *self.reservations.get(&mac)?;
        let held = self.held.get(&ip)?;
        let by = held.holder.mac();
        let is_blocked = by != Some(mac) && !self.is_free(ip, now);
        is_blocked.then(|| Blocked { ip, by, until: held.until.max(self.grace_until) })
    }

    /// Whether so many addresses are in use that unknown nodes are rate-limited.
    pub fn is_scarce(&self) -> bool {
        self.live.len() > self.range.size() as usize / 2
    }

    fn may_give(&self, ip: Ipv4Addr, mac: Mac) -> bool {
        if self.excluded.contains(&ip) {
            return false;
        }
        match self.reservations.get(&mac) {
            Some(reserved) => *reserved == ip,
            None => self.range.contains(ip) && !self.reserved_for.contains_key(&ip),
        }
    }

    fn is_free(&self, ip: Ipv4Addr, now: SystemTime) -> bool {
        self.held.get(&ip).is_none_or(|held| match held.holder {
            Holder::Offered(_) => held.until <= now,
            Holder::Leased(_) | Holder::Declined => held.until.max(self.grace_until) <= now,
        })
    }

    /// Whether `mac` has no lease and is not in `server.toml`.
    fn is_newcomer(&self, mac: Mac) -> bool {
        !self.known.contains(&mac) && self.lease_of(mac).is_none()
    }

    /// Whether `mac` may get an address, if there is one: known nodes always.
    fn admits(&mut self, mac: Mac, now: SystemTime) -> bool {
        if !self.is_scarce() || !self.is_newcomer(mac) {
            return true;
        }
        let offer = self.by_mac.get(&mac).and_then(|ip| self.held.get(ip));
        offer.is_some_and(|offer| offer.until > now || offer.is_regular)
            || self.newcomers.admit(now)
    }

    /// The next address that was never held.
    fn next_unused(&mut self, mac: Mac) -> Option<Ipv4Addr> {
        while self.unused_from <= u64::from(self.range.last) {
            let bits = u32::try_from(self.unused_from).expect("range.last fits, and bounds it");
            self.unused_from += 1;
            let ip = Ipv4Addr::from_bits(bits);
            if self.may_give(ip, mac) && !self.held.contains_key(&ip) {
                return Some(ip);
            }
        }
        None
    }

    /// The first of the ended addresses that may go to another node. A quarter of the range stays
    /// with regular nodes that are switched off.
    fn reclaim(&self, mac: Mac, now: SystemTime) -> Option<Ipv4Addr> {
        let is_for_all = |ip| !self.reserved_for.contains_key(&ip);
        let (rank, _, ip) = *self.ended.iter().find(|(_, _, ip)| is_for_all(*ip))?;
        let kept = self.range.size() as usize / KEPT_SHARE;
        let may_go = match rank {
            Rank::Offer => true,
            Rank::Newcomer => self.grace_until <= now,
            Rank::Regular => {
                let is_spare = !self.is_scarce() || self.ended_regulars > kept;
                self.grace_until <= now && (is_spare || self.known.contains(&mac))
            }
        };
        may_go.then_some(ip)
    }

    /// Moves what has ended by `now` from `live` to `ended`.
    fn expire(&mut self, now: SystemTime) {
        while let Some((until, ip)) = self.live.first().copied().filter(|(until, _)| *until <= now)
        {
            let held = *self.held.get(&ip).expect("what is indexed is held");
            if self.reserved_for.contains_key(&ip) && self.grace_until <= now {
                // Its host waits for it, and no other node can get it.
                self.forget(ip);
                continue;
            }
            self.live.remove(&(until, ip));
            self.ended.insert((rank(held), until, ip));
            self.ended_regulars += usize::from(rank(held) == Rank::Regular);
        }
    }

    /// Makes `holder` the holder of `ip`; whoever held it, and whatever this node held, is freed.
    /// An offer leaves a node its lease: it may still be using it.
    fn assign(&mut self, ip: Ipv4Addr, holder: Holder, until: SystemTime, is_regular: bool) {
        self.forget(ip);
        if let Some(mac) = holder.mac()
            && let Some(old) = self.by_mac.insert(mac, ip)
        {
            let had = self.held.get(&old).map(|held| held.holder);
            let is_still_its = holder == Holder::Offered(mac) && had == Some(Holder::Leased(mac));
            if !is_still_its {
                self.free(old);
            }
        }
        self.held.insert(ip, Held { holder, until, is_regular });
        if self.is_indexed(ip, holder) {
            self.live.insert((until, ip));
        }
    }

    /// Nobody holds `ip` any more, and [`Self::next_unused`] may find it again.
    fn free(&mut self, ip: Ipv4Addr) {
        self.forget(ip);
        if self.range.contains(ip) {
            self.unused_from = self.unused_from.min(u64::from(ip.to_bits()));
        }
    }

    fn forget(&mut self, ip: Ipv4Addr) {
        let Some(held) = self.held.remove(&ip) else { return };
        if self.is_indexed(ip, held.holder) && !self.live.remove(&(held.until, ip)) {
            let was_there = self.ended.remove(&(rank(held), held.until, ip));
            assert!(was_there, "every held address is indexed under its end");
            self.ended_regulars -= usize::from(rank(held) == Rank::Regular);
        }
        if let Some(mac) = held.holder.mac()
            && self.by_mac.get(&mac) == Some(&ip)
        {
            self.by_mac.remove(&mac);
        }
    }

    fn is_indexed(&self, ip: Ipv4Addr, holder: Holder) -> bool {
        holder.mac().is_none() || self.reserved_for.get(&ip).copied() != holder.mac()
    }
}

/// The part of a range that [`LeaseBook::reclaim`] leaves to known nodes.
const KEPT_SHARE: usize = 4;

fn rank(held: Held) -> Rank {
    match held.holder {
        Holder::Offered(_) => Rank::Offer,
        Holder::Leased(_) if held.is_regular => Rank::Regular,
        Holder::Leased(_) | Holder::Declined => Rank::Newcomer,
    }
}

#[cfg(test)]
mod invariants;
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
        let ip = book.offer(mac(node), None, now)?;
        match book.request(mac(node), ip, ClaimKind::Selecting, now) {
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
        // Twice: a first lease in a range this small is short.
        for (node, now) in [(1, 0), (2, 1), (1, 0), (2, 1)] {
            give(&mut book, node, at(now));
        }
        assert_eq!(book.offer(mac(3), None, at(2)), None);
        assert_eq!(give(&mut book, 3, at(3600)), Some(ip(50)));
        assert_eq!(book.lease_of(mac(1)), None);
    }

    #[test]
    fn an_unanswered_offer_is_free_again_after_ten_seconds() {
        let mut book = book(50, 50);
        assert_eq!(book.offer(mac(1), None, at(0)), Some(ip(50)));
        assert_eq!(book.offer(mac(2), None, at(9)), None);
        assert_eq!(book.offer(mac(2), None, at(10)), Some(ip(50)));
    }

    #[test]
    fn invented_nodes_use_up_ended_offers_before_ended_leases() {
        let mut book = book(50, 51);
        give(&mut book, 1, at(0));
        book.offer(mac(2), None, at(5000));
        assert_eq!(book.offer(mac(3), None, at(5020)), Some(ip(51)));
        assert!(book.lease_of(mac(1)).is_some());
    }

    #[test]
    fn in_the_grace_after_a_restart_a_lease_goes_back_to_its_node_only() {
        let mut book = book(50, 50);
        give(&mut book, 1, at(0));
        book.restart_grace_until(at(9000));
        assert_eq!(book.offer(mac(2), Some(ip(50)), at(8000)), None);
        assert_eq!(book.request(mac(2), ip(50), ClaimKind::Renewing, at(8000)), Claim::Refused);
        let own = book.request(mac(1), ip(50), ClaimKind::Renewing, at(8000));
        assert!(matches!(own, Claim::Granted { .. }));
        book.release(mac(1), ip(50), at(8001));
        assert_eq!(give(&mut book, 2, at(9000)), Some(ip(50)));
    }

    #[test]
    fn a_wish_is_granted_when_it_can_be() {
        let mut book = book(50, 60);
        assert_eq!(book.offer(mac(1), Some(ip(55)), at(0)), Some(ip(55)));
        assert_eq!(book.offer(mac(2), Some(ip(55)), at(0)), Some(ip(50)));
        assert_eq!(book.offer(mac(3), Some(ip(99)), at(0)), Some(ip(51)));
    }

    #[test]
    fn excluded_addresses_are_never_assigned() {
        let mut book = book(1, 2);
        assert_eq!(book.offer(mac(1), Some(ip(1)), at(0)), Some(ip(2)));
        assert_eq!(book.request(mac(2), ip(1), ClaimKind::Renewing, at(0)), Claim::Refused);
    }

    #[test]
    fn the_states_of_rfc_2131_get_their_answers() {
        let mut book = book(50, 60);
        give(&mut book, 1, at(0));
        let mut check = |node: u8, last: u8, kind, expected: fn(Claim) -> bool| {
            let claim = book.request(mac(node), ip(last), kind, at(1));
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
        assert_eq!(give(&mut book, 1, at(2)), Some(ip(51)));
        assert_eq!(book.offer(mac(2), None, at(3)), None);
        assert_eq!(book.offer(mac(2), None, at(601)), Some(ip(50)));
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
            book.request(mac(1), ip(50), ClaimKind::Selecting, at(0))
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

    #[test]
    fn a_reserved_address_is_only_its_hosts() {
        let mut book = book(50, 52);
        book.add_reservation(mac(9), ip(51));
        book.add_reservation(mac(8), ip(9));
        assert_eq!(give(&mut book, 1, at(0)), Some(ip(50)));
        assert_eq!(book.offer(mac(2), Some(ip(51)), at(0)), Some(ip(52)));
        assert_eq!(book.request(mac(2), ip(51), ClaimKind::Renewing, at(0)), Claim::Refused);
        assert_eq!(book.offer(mac(3), None, at(1)), None, "the last one is kept");
        assert_eq!(give(&mut book, 9, at(2)), Some(ip(51)));
        assert_eq!(give(&mut book, 8, at(2)), Some(ip(9)), "outside the range");
        assert_eq!(book.request(mac(9), ip(50), ClaimKind::Renewing, at(90_000)), Claim::Refused);
        assert_eq!(give(&mut book, 4, at(90_000)), Some(ip(52)), "never that of a host");
        assert_eq!(give(&mut book, 5, at(90_000)), Some(ip(50)));
        assert_eq!(give(&mut book, 6, at(90_000)), None);
        assert_eq!(give(&mut book, 9, at(90_000)), Some(ip(51)));
    }

    #[test]
    fn a_host_waits_for_its_address_until_the_lease_of_another_ends() {
        let leased = Record::Leased(Lease { mac: mac(1), ip: ip(51), until: at(3600) });
        let mut book = book(50, 60);
        book.add_reservation(mac(9), ip(51));
        book.restore(leased);
        assert_eq!(book.offer(mac(9), None, at(10)), None);
        let expected = Blocked { ip: ip(51), by: Some(mac(1)), until: at(3600) };
        assert_eq!(book.blocked(mac(9), at(10)), Some(expected));
        // The other one may not renew, gets a new address, and keeps the old one until then.
        assert_eq!(book.request(mac(1), ip(51), ClaimKind::Renewing, at(20)), Claim::Refused);
        assert_eq!(book.offer(mac(1), None, at(21)), Some(ip(50)));
        assert_eq!(book.offer(mac(9), None, at(22)), None, "a mere offer frees nothing");
        assert_eq!(give(&mut book, 1, at(23)), Some(ip(50)));
        assert_eq!(book.blocked(mac(9), at(3599)), Some(expected));
        assert_eq!(give(&mut book, 9, at(3600)), Some(ip(51)));
        assert_eq!(book.blocked(mac(9), at(3601)), None);
    }

    #[test]
    fn a_host_that_got_a_reservation_moves_to_it() {
        let mut book = book(50, 60);
        book.add_reservation(mac(9), ip(55));
        book.restore(Record::Leased(Lease { mac: mac(9), ip: ip(50), until: at(3600) }));
        assert_eq!(book.request(mac(9), ip(50), ClaimKind::Rebooting, at(1)), Claim::Refused);
        assert_eq!(book.offer(mac(9), None, at(2)), Some(ip(55)));
        assert_eq!(book.offer(mac(2), Some(ip(50)), at(3)), Some(ip(51)), "it may be in use");
        assert_eq!(give(&mut book, 9, at(4)), Some(ip(55)));
        assert_eq!(book.offer(mac(3), Some(ip(50)), at(3600)), Some(ip(50)));
    }

    /// Invented nodes: each claims what it is offered, and never comes back.
    fn flood(book: &mut LeaseBook, from: u64, secs: u64, per_sec: u64) -> usize {
        let mut given = 0;
        for n in 0..secs * per_sec {
            let [.., a, b, c] = n.to_be_bytes();
            let mac = Mac([6, 6, 6, a, b, c]);
            let now = at(from) + Duration::from_millis(n * 1000 / per_sec);
            if let Some(ip) = book.offer(mac, None, now) {
                let claim = book.request(mac, ip, ClaimKind::Selecting, now);
                given += usize::from(matches!(claim, Claim::Granted { .. }));
            }
        }
        given
    }

    #[test]
    fn a_flood_of_invented_nodes_takes_no_address_from_those_that_are_known() {
        let mut book = book(100, 149);
        for node in 1..=20 {
            give(&mut book, node, at(0));
        }
        book.add_known(mac(90));
        let given = flood(&mut book, 10, 20, 500);
        assert!(given <= 30, "{given} of 10,000");
        for node in 1..=20 {
            assert_eq!(give(&mut book, node, at(29)), Some(ip(99 + node)), "{node} is known");
        }
        assert!(give(&mut book, 90, at(29)).is_some(), "the supervisor wrote it down");
        let new = (31..=35).filter(|&node| give(&mut book, node, at(60)).is_some()).count();
        assert_eq!(new, 5, "30 s later new nodes get theirs");
    }

    #[test]
    fn a_quarter_stays_with_known_nodes_that_are_away() {
        let mut book = book(100, 139);
        for node in 1..=40 {
            give(&mut book, node, at(0));
            give(&mut book, node, at(1));
        }
        flood(&mut book, 5000, 600, 50);
        let kept = (1..=40).filter(|&node| book.lease_of(mac(node)).is_some()).count();
        assert!(kept >= 10, "{kept} of 40");
    }

    #[test]
    fn while_addresses_are_scarce_a_first_lease_is_short_and_the_second_whole() {
        let mut book = book(50, 53);
        for node in 1..=3 {
            give(&mut book, node, at(0));
        }
        assert_eq!(book.lease_of(mac(2)).map(|lease| lease.until), Some(at(3600)));
        assert_eq!(give(&mut book, 4, at(1)), Some(ip(53)));
        assert_eq!(book.lease_of(mac(4)).map(|lease| lease.until), Some(at(31)));
        let renewed = book.request(mac(4), ip(53), ClaimKind::Renewing, at(16));
        assert!(matches!(renewed, Claim::Granted { lease, .. } if lease.until == at(3616)));
    }

    #[test]
    fn a_room_that_is_switched_on_for_the_first_time_gets_its_addresses() {
        let mut book = book(100, 139);
        let mut waiting: Vec<u8> = (1..=40).collect();
        // As firmware does: at once, then after 4, 8, 16 and 32 s.
        for secs in [0, 4, 12, 28, 60] {
            waiting.retain(|&node| give(&mut book, node, at(secs)).is_none());
            if secs == 0 {
                assert!(waiting.len() <= 10, "{waiting:?}");
            }
        }
        assert_eq!(waiting, [0; 0]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Offer(u8, Option<u8>),
        Request(u8, u8, ClaimKind),
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
            (0..9_u8, proptest::option::of(0..9_u8)).prop_map(|(m, w)| Step::Offer(m, w)),
            (0..9_u8, 0..9_u8, kind).prop_map(|(m, i, k)| Step::Request(m, i, k)),
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
            book.add_reservation(mac(3), ip(4));
            book.add_reservation(mac(5), ip(8));
            let is_allowed = |node: Mac, given: Ipv4Addr| {
                let wanted = [(mac(3), ip(4)), (mac(5), ip(8))];
                wanted.iter().all(|pair| (pair.0 == node) == (pair.1 == given))
            };
            let mut now = at(0);
            let mut granted: HashMap<Ipv4Addr, Lease> = HashMap::new();
            for step in steps {
                match step {
                    Step::Offer(m, wanted) => {
                        if let Some(ip) = book.offer(mac(m), wanted.map(ip), now) {
                            prop_assert!(is_allowed(mac(m), ip));
                            let other = granted.get(&ip).filter(|l| l.until > now);
                            prop_assert!(other.is_none_or(|l| l.mac == mac(m)));
                        }
                    }
                    Step::Request(m, i, kind) => {
                        if let Claim::Granted { lease, .. } = book.request(mac(m), ip(i), kind, now) {
                            prop_assert!(is_allowed(lease.mac, lease.ip));
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
                book.check_invariants();
            }
        }
    }
}
