//! Core: what must always hold between the picker's indices; the property tests check it after each
//! step.
//!
//! The indices are kept up to date by hand, because a block must not cost a search through pieces
//! and peers. They are written in many places, so here they are counted again from scratch, and
//! compared.

use std::collections::{BTreeMap, BTreeSet};

use super::{MAX_LATE, Picker};
use crate::protocol::bitfield::Bitfield;
use crate::protocol::layout::Block;
use crate::swarm::peer::PeerKey;

/// Everything that the picker could also count whenever it needs it.
#[derive(Debug, PartialEq)]
struct Indices {
    availability: Vec<u16>,
    near_availability: Vec<u16>,
    fresh: Bitfield,
    open: BTreeSet<u32>,
    fresh_of_peers: BTreeMap<PeerKey, u32>,
}

impl Indices {
    fn kept(picker: &Picker) -> Self {
        Self {
            availability: picker.availability.clone(),
            near_availability: picker.near_availability.clone(),
            fresh: picker.fresh.clone(),
            open: picker.open.clone(),
            fresh_of_peers: picker.peers.iter().map(|(key, peer)| (*key, peer.fresh)).collect(),
        }
    }

    fn counted(picker: &Picker) -> Self {
        let pieces = picker.layout.pieces();
        let holders = |piece: u32, far_too: bool| {
            let peers = picker.peers.values().filter(|peer| peer.is_near || far_too);
            u16::try_from(peers.filter(|peer| peer.holds.contains(piece)).count())
        };
        let count = |far_too| (0..pieces).map(|piece| holders(piece, far_too)).collect();
        let counted: Result<Vec<u16>, _> = count(true);
        let counted_near: Result<Vec<u16>, _> = count(false);
        let mut fresh = Bitfield::empty(pieces);
        for piece in 0..pieces {
            if !picker.have.contains(piece) && !picker.partial_pieces.contains_key(&piece) {
                fresh.insert(piece);
            }
        }
        let open =
            picker.partial_pieces.iter().filter(|(_, partial)| partial.first_free().is_some());
        let open = open.map(|(piece, _)| *piece).collect();
        let of_peer =
            |peer: &super::RemotePeer| peer.holds.common(&fresh).zip(0_u32..).count() as u32;
        let fresh_of_peers = picker.peers.iter().map(|(key, peer)| (*key, of_peer(peer))).collect();
        Self {
            availability: counted.expect("few peers"),
            near_availability: counted_near.expect("few peers"),
            fresh,
            open,
            fresh_of_peers,
        }
    }
}

impl Picker {
    /// Compares every index with a new count.
    ///
    /// # Panics
    /// If one of them is wrong, with both versions.
    pub(super) fn check_invariants(&self) {
        assert_eq!(Indices::kept(self), Indices::counted(self), "kept and counted");
        for (piece, partial) in &self.partial_pieces {
            assert!(
                !self.have.contains(*piece),
                "piece {piece} is verified and still being downloaded"
            );
            assert!(!partial.is_untouched(), "piece {piece} is neither fresh nor started");
            let requesters = |index| {
                let block = Block { piece: *piece, index };
                self.peers.values().filter(|peer| peer.requested.contains(&block)).count()
            };
            partial.check_invariants(requesters);
        }
        for (piece, failed) in &self.on_parole {
            assert!(!self.have.contains(*piece), "piece {piece} is verified and on parole");
            assert!(
                failed.iter().all(|key| self.peers.contains_key(key)),
                "a peer that left is remembered"
            );
        }
        for (key, peer) in &self.peers {
            let is_requested_twice = (1..peer.requested.len())
                .any(|at| peer.requested.range(at..).any(|block| *block == peer.requested[at - 1]));
            assert!(!is_requested_twice, "{key:?} has two requests for one block");
            assert!(
                peer.requested.iter().all(|block| self.partial_pieces.contains_key(&block.piece))
            );
            assert!(peer.requested.iter().all(|block| peer.holds.contains(block.piece)));
            assert!(peer.late.len() <= MAX_LATE);
            assert!(
                !peer.is_choking || peer.requested.is_empty(),
                "a choke voids requests (BEP 3)"
            );
        }
    }
}
