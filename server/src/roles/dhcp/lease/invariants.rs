//! Core: what must always hold between the indices of a lease book; its property test checks it
//! after each step.
//!
//! The indices are kept by hand, because a flood of DISCOVERs must not cost a search through the
//! range. They are written in many places, so here they are rebuilt from the addresses that are
//! held, and compared.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use super::{LeaseBook, Rank, rank};

impl LeaseBook {
    /// Compares every index with what it stands for.
    ///
    /// # Panics
    /// If one of them is wrong.
    pub(super) fn check_invariants(&self) {
        self.check_ends();
        for (mac, ip) in &self.by_mac {
            let holder = self.held.get(ip).and_then(|held| held.holder.mac());
            assert_eq!(holder, Some(*mac), "{ip} is indexed as the address of {mac}");
        }
        assert_eq!(self.reservations.len(), self.reserved_for.len(), "one host per reservation");
        for (mac, ip) in &self.reservations {
            assert_eq!(self.reserved_for.get(ip), Some(mac), "{ip} is reserved for {mac}");
        }
        for ip in &self.excluded {
            assert!(!self.held.contains_key(ip), "{ip} is excluded and held");
        }
        self.check_no_address_is_lost();
    }

    /// Each held address, except a host's own reserved one, is in exactly one of `live` and `ended`.
    fn check_ends(&self) {
        let indexed = self.held.iter().filter(|(ip, held)| self.is_indexed(**ip, held.holder));
        let (ended, live): (Vec<_>, Vec<_>) =
            indexed.partition(|&(ip, held)| self.ended.contains(&(rank(*held), held.until, *ip)));
        let live: BTreeSet<(SystemTime, Ipv4Addr)> =
            live.into_iter().map(|(ip, held)| (held.until, *ip)).collect();
        assert_eq!(self.live, live, "kept and rebuilt");
        let ended: BTreeSet<(Rank, SystemTime, Ipv4Addr)> =
            ended.into_iter().map(|(ip, held)| (rank(*held), held.until, *ip)).collect();
        assert_eq!(self.ended, ended, "kept and rebuilt");
        let regulars = ended.iter().filter(|(rank, ..)| *rank == Rank::Regular).count();
        assert_eq!(self.ended_regulars, regulars, "kept and counted");
    }

    /// [`Self::next_unused`] never looks below `unused_from` again, so what is there must be held, or
    /// nobody would ever get it.
    fn check_no_address_is_lost(&self) {
        for bits in self.range.first..=self.range.last {
            let ip = Ipv4Addr::from_bits(bits);
            let is_found = u64::from(bits) >= self.unused_from || self.held.contains_key(&ip);
            let is_kept = self.excluded.contains(&ip) || self.reserved_for.contains_key(&ip);
            assert!(is_found || is_kept, "{ip} is lost");
        }
    }
}
