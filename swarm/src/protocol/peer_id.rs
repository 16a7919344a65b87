//! Core: the id of a peer, and whether it is one of BootTorrent's own (BEP 20).

use std::fmt;

/// The id that a peer chose for itself (BEP 20). Nothing proves it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub [u8; 20]);

impl PeerId {
    /// Ids of BootTorrent start with this. `-BT` alone is also another client's: BitTorrent's
    /// `-BT7950-`.
    const BOOTTORRENT: &'static [u8] = b"-BT0";
    const PREFIX: &'static [u8; 8] = b"-BT0100-";

    /// An id of BootTorrent's own; twelve random bytes make it unique.
    pub fn boottorrent(random: [u8; 12]) -> Self {
        let mut id = [0; 20];
        id[..8].copy_from_slice(Self::PREFIX);
        id[8..].copy_from_slice(&random);
        Self(id)
    }

    /// Whether this is a node or server of this project.
    pub fn is_boottorrent(&self) -> bool {
        self.0.starts_with(Self::BOOTTORRENT)
    }

    /// A number that differs from peer to peer, for choices that should not be the same everywhere.
    pub(crate) fn salt(&self) -> u64 {
        self.0.as_chunks::<4>().0.iter().fold(0, |salt: u64, chunk| {
            salt.rotate_left(13).wrapping_mul(0x0100_0000_01b3)
                ^ u64::from(u32::from_be_bytes(*chunk))
        })
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_with_our_prefix_are_boottorrents() {
        assert!(PeerId::boottorrent([0; 12]).is_boottorrent());
        assert!(!PeerId(*b"-BT7950-abcdefghijkl").is_boottorrent());
        assert_ne!(PeerId::boottorrent([1; 12]).salt(), PeerId::boottorrent([2; 12]).salt());
    }
}
