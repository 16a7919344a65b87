//! Core: a set of pieces, stored as it goes over the wire (BEP 3: high bit first).

/// Which pieces a peer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitfield {
    bytes: Vec<u8>,
    length: u32,
    count: u32,
}

impl Bitfield {
    /// No piece out of `length`.
    pub fn empty(length: u32) -> Self {
        Self { bytes: vec![0; length.div_ceil(8) as usize], length, count: 0 }
    }

    /// Every piece out of `length`.
    pub fn full(length: u32) -> Self {
        let mut all = Self::empty(length);
        (0..length).for_each(|piece| {
            all.insert(piece);
        });
        all
    }

    /// Reads the wire format; `None` if the length is wrong or a spare bit is set (BEP 3).
    pub fn from_wire(bytes: &[u8], length: u32) -> Option<Self> {
        let spare = (8 - length % 8) % 8;
        let tail_is_clear = bytes.last().is_none_or(|last| last.trailing_zeros() >= spare);
        if bytes.len() != length.div_ceil(8) as usize || !tail_is_clear {
            return None;
        }
        let count = bytes.iter().map(|byte| byte.count_ones()).sum();
        Some(Self { bytes: bytes.to_vec(), length, count })
    }

    /// The wire format.
    pub fn wire(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether `piece` is in the set; never for a piece past the end.
    pub fn contains(&self, piece: u32) -> bool {
        piece < self.length && self.bytes[piece as usize / 8] & (0x80 >> (piece % 8)) != 0
    }

    /// Adds a piece; `false` if it was in the set already or is past the end.
    pub fn insert(&mut self, piece: u32) -> bool {
        if piece >= self.length || self.contains(piece) {
            return false;
        }
        self.bytes[piece as usize / 8] |= 0x80 >> (piece % 8);
        self.count += 1;
        true
    }

    /// Removes a piece; `false` if it was not in the set.
    pub fn remove(&mut self, piece: u32) -> bool {
        let was_there = self.contains(piece);
        if was_there {
            self.bytes[piece as usize / 8] &= !(0x80 >> (piece % 8));
            self.count -= 1;
        }
        was_there
    }

    /// How many pieces are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether every piece is in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.length
    }

    /// The pieces in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        pieces_of(self.bytes.iter().copied())
    }

    /// The pieces that are in both sets, in order.
    pub fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        pieces_of(self.bytes.iter().zip(&other.bytes).map(|(ours, theirs)| ours & theirs))
    }

    /// The pieces of this set that are not in the other one, in order.
    pub fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        pieces_of(self.bytes.iter().zip(&other.bytes).map(|(ours, theirs)| ours & !theirs))
    }
}

/// The set bits of bytes in the wire format. Bytes of zero are skipped: the picker walks over these
/// sets for every new piece.
fn pieces_of(bytes: impl Iterator<Item = u8>) -> impl Iterator<Item = u32> {
    let in_byte = |(at, mut bits): (u32, u8)| {
        std::iter::from_fn(move || {
            let bit = bits.leading_zeros();
            (bit < 8).then(|| {
                bits &= !(0x80 >> bit);
                at * 8 + bit
            })
        })
    };
    (0..).zip(bytes).filter(|(_, bits)| *bits != 0).flat_map(in_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_piece_is_the_high_bit() {
        let mut set = Bitfield::empty(10);
        assert!(set.insert(0) && set.insert(9) && !set.insert(9) && !set.insert(10));
        assert_eq!(set.wire(), [0x80, 0x40]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 9]);
        assert_eq!(Bitfield::from_wire(set.wire(), 10), Some(set));
    }

    #[test]
    fn sets_are_compared_piece_by_piece() {
        let set = |pieces: &[u32]| {
            let mut set = Bitfield::empty(20);
            pieces.iter().for_each(|piece| assert!(set.insert(*piece)));
            set
        };
        let (one, mut other) = (set(&[0, 7, 8, 19]), set(&[7, 9, 19]));
        assert_eq!(one.common(&other).collect::<Vec<_>>(), [7, 19]);
        assert_eq!(one.without(&other).collect::<Vec<_>>(), [0, 8]);
        assert!(other.remove(9) && !other.remove(9) && !other.remove(20));
        assert_eq!((other.count(), other.contains(9)), (2, false));
    }

    #[test]
    fn spare_bits_and_wrong_lengths_are_refused() {
        assert_eq!(Bitfield::from_wire(&[0, 0x20], 10), None);
        assert_eq!(Bitfield::from_wire(&[0], 10), None);
        assert_eq!(Bitfield::from_wire(&[0, 0, 0], 10), None);
    }

    #[test]
    fn a_full_set_has_every_piece_and_no_spare_bit() {
        let set = Bitfield::full(10);
        assert!(set.is_full());
        assert_eq!(set.wire(), [0xff, 0xc0]);
        assert!(!set.contains(10));
    }
}
