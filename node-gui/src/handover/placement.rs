//! Core: physically contiguous runs of huge pages, and which of them hold what.
//!
//! The next kernel sees memory by physical address, so what it must find in one piece has to be physically
//! contiguous. A page is 2 MiB ([`PAGE`]), which is also the alignment that the pmem driver requires.

/// A huge page in bytes.
pub const PAGE: u64 = 2 << 20;

/// A stretch of physical memory in bytes: where it begins, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// Physical address of its first byte.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
}

impl Range {
    /// The address after its last byte.
    #[must_use]
    pub fn end(self) -> u64 {
        self.start.saturating_add(self.size)
    }

    /// Whether the two have a byte in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// The contiguous runs of these pages (physical addresses in any order), by rising address.
#[must_use]
pub fn runs_of(pages: &[u64]) -> Vec<Range> {
    let mut sorted = pages.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<Range> = Vec::new();
    for start in sorted {
        match runs.last_mut() {
            Some(run) if run.end() == start => run.size += PAGE,
            _ => runs.push(Range { start, size: PAGE }),
        }
    }
    runs
}

/// `bytes` rounded up to complete pages.
#[must_use]
pub fn whole_pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE).saturating_mul(PAGE)
}

/// What has to be placed, and into how many ranges the medium may be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Bytes of the medium; 0: there is none.
    pub medium: u64,
    /// Bytes of the next kernel's initrd; 0: there is none.
    pub initrd: u64,
    /// The most ranges that the medium may be cut into.
    pub max_ranges: usize,
    /// Addresses the initrd must stay below; the medium may be anywhere.
    pub initrd_below: u64,
}

/// Where everything is placed: complete pages, without overlaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The medium's ranges by rising address, each of complete pages; together at least its length.
    pub medium: Vec<Range>,
    /// The initrd's range.
    pub initrd: Option<Range>,
}

impl Placement {
    /// Bytes of memory that they take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.medium.iter().chain(&self.initrd).map(|range| range.size).sum()
    }

    /// Every range.
    pub fn ranges(&self) -> impl Iterator<Item = Range> + '_ {
        self.medium.iter().chain(&self.initrd).copied()
    }
}

/// Finds room for the wish in these runs.
///
/// Takes the upper end of the shortest run that is long enough: long runs stay unbroken, and low addresses stay free
/// for the kernel. The medium is split only where no run is long enough.
///
/// # Errors
/// How many bytes there are for the part that found no room.
pub fn place(runs: &[Range], wish: Wish) -> Result<Placement, NoRoom> {
    let mut free = runs.to_vec();
    let size = whole_pages(wish.initrd);
    let mut initrd = None;
    // The initrd is short and cannot be split, so it goes first; into the shortest run, which is seldom the medium's.
    if size > 0 {
        let below = |run: &&mut Range| run.start.saturating_add(size) <= wish.initrd_below;
        let fits = free.iter_mut().filter(below).filter(|run| run.size >= size);
        let run = fits.min_by_key(|run| run.size).ok_or(NoRoom::Initrd { needed: size })?;
        let is_low = run.end() <= wish.initrd_below;
        let start = if is_low { run.end() - size } else { run.start };
        initrd = Some(Range { start, size });
        run.start += if is_low { 0 } else { size };
        run.size -= size;
    }
    let medium = place_medium(free, wish)?;
    Ok(Placement { medium, initrd })
}

fn place_medium(mut free: Vec<Range>, wish: Wish) -> Result<Vec<Range>, NoRoom> {
    let size = whole_pages(wish.medium);
    if size == 0 {
        return Ok(Vec::new());
    }
    if let Some(run) = free.iter().filter(|run| run.size >= size).min_by_key(|run| run.size) {
        return Ok(vec![Range { start: run.end() - size, size }]);
    }
    free.sort_unstable_by_key(|run| std::cmp::Reverse(run.size));
    let mut left = size;
    let mut ranges = Vec::new();
    for run in free.iter().take(wish.max_ranges) {
        let take = left.min(run.size);
        if take > 0 {
            ranges.push(Range { start: run.end() - take, size: take });
        }
        left -= take;
    }
    if left > 0 {
        return Err(NoRoom::Medium { needed: size, found: size - left });
    }
    ranges.sort_unstable();
    Ok(ranges)
}

/// Why there is no room for a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// No run is long enough for the initrd.
    #[error("no {needed} contiguous bytes for the initrd")]
    Initrd {
        /// Bytes it needs.
        needed: u64,
    },
    /// The runs are too short for the medium.
    #[error("only {found} contiguous bytes for an image of {needed} bytes")]
    Medium {
        /// Bytes it needs.
        needed: u64,
        /// Bytes that were found in as many runs as allowed.
        found: u64,
    },
}

/// The physical address in one entry of `/proc/self/pagemap`; `None` when it is not in memory or hidden.
///
/// Bits 0 to 54 are the number of a 4 KiB frame, bit 63 says that the page is in memory (the kernel's pagemap document).
#[must_use]
pub fn address_of(entry: u64) -> Option<u64> {
    let frame = entry & ((1 << 55) - 1);
    (entry >> 63 == 1 && frame != 0).then_some(frame << 12)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, pages: u64) -> Range {
        Range { start: start * PAGE, size: pages * PAGE }
    }

    fn wish(medium: u64, initrd: u64) -> Wish {
        let bytes = |pages| pages * PAGE;
        let (medium, initrd) = (bytes(medium), bytes(initrd));
        Wish { medium, initrd, max_ranges: 2, initrd_below: u64::MAX }
    }

    #[test]
    fn neighbours_become_one_run_whatever_their_order() {
        let pages = [5, 3, 4, 9, 10, 1].map(|page: u64| page * PAGE);
        assert_eq!(runs_of(&pages), [range(1, 1), range(3, 3), range(9, 2)]);
        assert!(runs_of(&[]).is_empty());
    }

    #[test]
    fn pagemap_entries_are_read_as_the_kernel_writes_them() {
        assert_eq!(address_of((1 << 63) | 0x1a200), Some(0x1a20_0000));
        assert_eq!(address_of(0x1a200), None);
        // Without the right to know, the frame is zero.
        assert_eq!(address_of(1 << 63), None);
    }

    #[test]
    fn the_medium_takes_the_upper_end_of_the_shortest_run_that_holds_it() {
        let runs = [range(8, 100), range(200, 50)];
        let placement = place(&runs, wish(40, 5)).expect("fits");
        assert_eq!(placement.initrd, Some(range(245, 5)));
        assert_eq!(placement.medium, [range(205, 40)]);
        let placement = place(&runs, wish(60, 5)).expect("fits");
        assert_eq!(placement.medium, [range(48, 60)]);
        assert_eq!(placement.bytes(), 65 * PAGE);
    }

    #[test]
    fn two_short_runs_are_joined_by_rising_address_only_where_allowed() {
        let runs = [range(8, 30), range(100, 50)];
        let placement = place(&runs, wish(70, 0)).expect("80 in two");
        assert_eq!(placement.medium, [range(18, 20), range(100, 50)]);
        let one = place(&runs, Wish { max_ranges: 1, ..wish(70, 0) });
        assert_eq!(one, Err(NoRoom::Medium { needed: 70 * PAGE, found: 50 * PAGE }));
    }

    #[test]
    fn an_initrd_that_must_lie_low_does_not_go_high() {
        let runs = [range(8, 30), range(3000, 9)];
        let low = Wish { initrd_below: 4 << 30, ..wish(0, 5) };
        assert_eq!(place(&runs, low).expect("fits").initrd, Some(range(33, 5)));
        let crossing = [range(2040, 90)];
        assert_eq!(place(&crossing, low).expect("fits").initrd, Some(range(2040, 5)));
        assert_eq!(place(&runs[1..], low), Err(NoRoom::Initrd { needed: 5 * PAGE }));
    }

    proptest! {
        #[test]
        fn places_lie_in_the_runs_and_never_overlap(
            lengths in proptest::collection::vec((1_u64..40, 1_u64..5), 1..8),
            medium in 0_u64..120,
            initrd in 0_u64..20,
        ) {
            let mut at = 4;
            let mut runs = Vec::new();
            for (pages, gap) in lengths {
                runs.push(range(at, pages));
                at += pages + gap;
            }
            if let Ok(placement) = place(&runs, wish(medium, initrd)) {
                let all: Vec<Range> = placement.ranges().collect();
                for (number, one) in all.iter().enumerate() {
                    prop_assert!(runs.iter().any(|run| run.start <= one.start && one.end() <= run.end()));
                    prop_assert!(all[..number].iter().all(|other| !other.overlaps(*one)));
                }
                prop_assert_eq!(placement.medium.iter().map(|r| r.size).sum::<u64>(), medium * PAGE);
                prop_assert!(placement.medium.is_sorted());
            }
        }
    }
}
