//! Core: how a peer calls itself, and whether it is one of ours (BEP 20).

use std::fmt;

/// How a peer calls itself (BEP 20).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub [u8; 20]);

impl PeerId {
    /// Our own client's ids start with this. `-BT` alone also stands for another client.
    const BOOTTORRENT: &'static [u8] = b"-BT0";
    const PREFIX: &'static [u8; 8] = b"-BT0100-";

    /// An id of our own, told apart by twelve random bytes.
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

    /// A number that differs from peer to peer.
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
