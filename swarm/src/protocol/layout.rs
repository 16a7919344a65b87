//! Core: how a payload is cut into pieces and blocks.
//!
//! A *piece* is the unit that is hashed, a *block* the unit that is requested: 16 KiB, the last
//! one of a piece possibly shorter (BEP 3).

/// The size of a block. Every client requests this much, and many close a connection on which more
/// is requested (BEP 3).
pub const BLOCK: u32 = 16 * 1024;

/// How one payload is cut. Constructed only from checked values: no length in it overflows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    total: u64,
    piece_length: u32,
}

/// One block: its piece and its number within that piece, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    /// The piece it belongs to.
    pub piece: u32,
    /// Its number within the piece.
    pub index: u32,
}

/// A range of bytes within one piece, as REQUEST and CANCEL carry it (BEP 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// The piece it belongs to.
    pub piece: u32,
    /// Bytes from the start of the piece.
    pub begin: u32,
    /// Length in bytes.
    pub length: u32,
}

impl Layout {
    /// A payload of `total` bytes in pieces of `piece_length` bytes.
    ///
    /// `None` unless there is at least one byte, the piece length is a power of two from 16 KiB to
    /// 64 MiB, and there are at most 2^20 pieces.
    pub fn new(total: u64, piece_length: u32) -> Option<Self> {
        let fits = piece_length.is_power_of_two()
            && (BLOCK..=64 << 20).contains(&piece_length)
            && (1..=1 << 20).contains(&total.div_ceil(u64::from(piece_length)));
        fits.then_some(Self { total, piece_length })
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes of every piece but the last.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// Number of pieces, at least 1.
    pub fn pieces(&self) -> u32 {
        u32::try_from(self.total.div_ceil(u64::from(self.piece_length)))
            .expect("checked in new: at most 2^20")
    }

    /// Bytes of one piece; 0 past the end.
    pub fn length_of(&self, piece: u32) -> u32 {
        let left = self.total.saturating_sub(self.offset_of(piece));
        u32::try_from(left).unwrap_or(u32::MAX).min(self.piece_length)
    }

    /// Where a piece starts in the payload.
    pub fn offset_of(&self, piece: u32) -> u64 {
        u64::from(piece) * u64::from(self.piece_length)
    }

    /// Number of blocks of one piece.
    pub fn blocks_of(&self, piece: u32) -> u32 {
        self.length_of(piece).div_ceil(BLOCK)
    }

    /// The bytes of a block of this payload.
    pub fn range(&self, block: Block) -> ByteRange {
        let begin = block.index * BLOCK;
        let length = self.length_of(block.piece).saturating_sub(begin).min(BLOCK);
        ByteRange { piece: block.piece, begin, length }
    }

    /// The block that is exactly these bytes, if there is one.
    pub fn block_at(&self, piece: u32, begin: u32, length: usize) -> Option<Block> {
        let block = Block { piece, index: begin / BLOCK };
        let fits = piece < self.pieces()
            && begin.is_multiple_of(BLOCK)
            && block.index < self.blocks_of(piece)
            && self.range(block).length as usize == length;
        fits.then_some(block)
    }

    /// Whether a range is not empty and is within its piece.
    pub fn contains(&self, range: ByteRange) -> bool {
        range.length > 0
            && range.piece < self.pieces()
            && range
                .begin
                .checked_add(range.length)
                .is_some_and(|end| end <= self.length_of(range.piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(total: u64) -> Layout {
        Layout::new(total, 32 * 1024).expect("within the limits")
    }

    #[test]
    fn an_exact_multiple_has_no_extra_piece() {
        let layout = layout(2 * 32 * 1024);
        assert_eq!((layout.pieces(), layout.length_of(1), layout.length_of(2)), (2, 32 * 1024, 0));
    }

    #[test]
    fn the_last_piece_and_block_are_shorter() {
        let layout = layout(32 * 1024 + 16 * 1024 + 5);
        assert_eq!((layout.pieces(), layout.blocks_of(1)), (2, 2));
        assert_eq!(layout.range(Block { piece: 1, index: 1 }).length, 5);
        assert_eq!(layout.block_at(1, BLOCK, 5), Some(Block { piece: 1, index: 1 }));
        assert_eq!(layout.block_at(1, BLOCK, 6), None);
        assert_eq!(layout.block_at(1, 1, 5), None);
    }

    #[test]
    fn ranges_that_overflow_are_outside() {
        let layout = layout(100);
        assert!(layout.contains(ByteRange { piece: 0, begin: 0, length: 100 }));
        for (piece, begin, length) in
            [(0, 0, 101), (0, u32::MAX, 2), (1, 0, 1), (0, 5, 0), (9, 0, 1)]
        {
            assert!(!layout.contains(ByteRange { piece, begin, length }));
        }
    }

    #[test]
    fn impossible_cuts_are_refused() {
        for (total, piece_length) in
            [(0, BLOCK), (1, 0), (1, 1000), (1, 1 << 31), (u64::MAX, BLOCK)]
        {
            assert_eq!(Layout::new(total, piece_length), None);
        }
    }
}
