//! Core: who is banned for a piece with a wrong hash (libtorrent's smart ban).
//!
//! If the piece came from one address alone, that address is banned. If several peers contributed,
//! the digest of each block is kept until the piece is correct; then each contributor of a
//! different block is banned. Nobody is banned on suspicion.
//!
//! Addresses are banned, not peer ids: an id is free to choose, an address in one's own room is
//! not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How many banned addresses and how many suspect pieces are remembered at most.
const MAX_BANNED: usize = 1024;
const MAX_SUSPECTS: usize = 64;

/// How many failed attempts at one piece are remembered at most.
const MAX_ATTEMPTS: usize = 4;

/// So many wrong copies of one piece from the trusted server alone are not an error of the network,
/// which TCP's checksum rarely lets through.
const TRUSTED_FAILURES: u32 = 3;

/// The SHA-1 of each block of a failed attempt, with its contributor.
type Attempt = Vec<(IpAddr, [u8; 20])>;

/// Who is banned, and what is known of suspect pieces.
#[derive(Debug)]
pub(super) struct SmartBan {
    trusted: Option<IpAddr>,
    banned: BTreeSet<IpAddr>,
    suspects: BTreeMap<u32, Vec<Attempt>>,
    /// How often the trusted server alone sent a piece wrong.
    trusted_failures: BTreeMap<u32, u32>,
}

/// What follows from the hash of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is not known who sent wrong data, if anybody.
    Nobody,
    /// These addresses sent wrong data and are banned from now on.
    Banned(BTreeSet<IpAddr>),
    /// The trusted server sends wrong data.
    Trusted,
}

impl SmartBan {
    pub(super) fn new(trusted: Option<IpAddr>) -> Self {
        Self {
            trusted,
            banned: BTreeSet::new(),
            suspects: BTreeMap::new(),
            trusted_failures: BTreeMap::new(),
        }
    }

    pub(super) fn is_banned(&self, ip: IpAddr) -> bool {
        self.banned.contains(&ip)
    }

    pub(super) fn is_suspect(&self, piece: u32) -> bool {
        self.suspects.contains_key(&piece)
    }

    /// A piece has a wrong hash.
    pub(super) fn failed(
        &mut self,
        piece: u32,
        contributors: &[IpAddr],
        blocks: &[[u8; 20]],
    ) -> Verdict {
        let distinct: BTreeSet<IpAddr> = contributors.iter().copied().collect();
        match (distinct.len(), distinct.first()) {
            (1, Some(ip)) if Some(*ip) == self.trusted => {
                let failures = self.trusted_failures.entry(piece).or_default();
                *failures += 1;
                let is_certain = *failures >= TRUSTED_FAILURES;
                return if is_certain { Verdict::Trusted } else { Verdict::Nobody };
            }
            (1, _) => return self.ban(distinct),
            _ => {}
        }
        let has_room = self.suspects.len() < MAX_SUSPECTS || self.is_suspect(piece);
        if has_room && contributors.len() == blocks.len() {
            let attempts = self.suspects.entry(piece).or_default();
            if attempts.len() < MAX_ATTEMPTS {
                attempts.push(contributors.iter().copied().zip(blocks.iter().copied()).collect());
            }
        }
        Verdict::Nobody
    }

    /// A piece is correct: each contributor of a different block in an earlier attempt sent wrong
    /// data.
    pub(super) fn passed(&mut self, piece: u32, blocks: &[[u8; 20]]) -> Verdict {
        let Some(attempts) = self.suspects.remove(&piece) else { return Verdict::Nobody };
        let mut liars = BTreeSet::new();
        for attempt in attempts.iter().filter(|attempt| attempt.len() == blocks.len()) {
            let differing = attempt.iter().zip(blocks).filter(|((_, was), is)| was != *is);
            liars.extend(differing.map(|((ip, _), _)| *ip));
        }
        if let Some(trusted) = self.trusted {
            liars.remove(&trusted);
        }
        if liars.is_empty() { Verdict::Nobody } else { self.ban(liars) }
    }

    fn ban(&mut self, culprits: BTreeSet<IpAddr>) -> Verdict {
        if self.banned.len() < MAX_BANNED {
            self.banned.extend(&culprits);
        }
        Verdict::Banned(culprits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const GOOD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const EVIL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3));

    fn smart_ban() -> SmartBan {
        SmartBan::new(Some(SERVER))
    }

    #[test]
    fn a_wrong_piece_from_one_alone_bans_it() {
        let mut smart_ban = smart_ban();
        let verdict = smart_ban.failed(0, &[EVIL, EVIL], &[[1; 20], [2; 20]]);
        assert_eq!(verdict, Verdict::Banned([EVIL].into()));
        assert!(smart_ban.is_banned(EVIL));
    }

    #[test]
    fn of_a_mixed_piece_only_the_liar_is_banned_and_only_with_proof() {
        let mut smart_ban = smart_ban();
        assert_eq!(smart_ban.failed(0, &[GOOD, EVIL], &[[1; 20], [6; 20]]), Verdict::Nobody);
        assert!(!smart_ban.is_banned(EVIL) && smart_ban.is_suspect(0));
        assert_eq!(smart_ban.passed(0, &[[1; 20], [2; 20]]), Verdict::Banned([EVIL].into()));
        assert!(!smart_ban.is_banned(GOOD) && !smart_ban.is_suspect(0));
    }

    #[test]
    fn the_server_is_never_banned_but_named_at_the_third_time() {
        let mut smart_ban = smart_ban();
        assert_eq!(smart_ban.failed(0, &[SERVER], &[[1; 20]]), Verdict::Nobody);
        assert_eq!(smart_ban.failed(0, &[SERVER], &[[1; 20]]), Verdict::Nobody);
        assert_eq!(smart_ban.failed(0, &[SERVER], &[[1; 20]]), Verdict::Trusted);
        assert!(!smart_ban.is_banned(SERVER));
    }

    #[test]
    fn memory_of_suspects_is_bounded() {
        let mut smart_ban = smart_ban();
        for piece in 0..1000 {
            smart_ban.failed(piece, &[GOOD, EVIL], &[[1; 20], [6; 20]]);
        }
        assert_eq!(smart_ban.suspects.len(), MAX_SUSPECTS);
    }
}
