//! Core: the firmware's memory map as the next kernel gets it (e820), and where in it a kernel may go.

use super::placement::Range;

/// Usable memory, as e820 numbers it.
pub const RAM: u32 = 1;
/// Memory that a driver of the next kernel treats as a disk (`E820_TYPE_PRAM`).
pub const PMEM: u32 = 12;
/// The most entries in `boot_params`.
pub const MAX_ENTRIES: usize = 128;
/// Below this are the firmware's tables and legacy areas.
const LOWEST: u64 = 16 << 20;

/// One entry of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its addresses.
    pub range: Range,
    /// Its e820 type.
    pub kind: u32,
}

/// The e820 type of a word in `/sys/firmware/memmap/N/type` (the kernel's `e820_type_to_string`).
///
/// An unknown word becomes reserved: such memory is left alone.
#[must_use]
pub fn kind_of(word: &str) -> u32 {
    match word.trim() {
        "System RAM" => RAM,
        "ACPI Tables" => 3,
        "ACPI Non-volatile Storage" => 4,
        "Unusable memory" => 5,
        "Persistent Memory" => 7,
        "Persistent Memory (legacy)" => PMEM,
        "Soft Reserved" => 0xefff_ffff,
        _ => 2,
    }
}

/// The map with these ranges of it turned into pmem, sorted, neighbours of one kind joined.
#[must_use]
pub fn with_pmem(map: &[Entry], pmem: &[Range]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for entry in map {
        let mut rest = vec![entry.range];
        for hole in pmem {
            rest = rest.into_iter().flat_map(|range| without(range, *hole)).collect();
        }
        entries.extend(rest.into_iter().map(|range| Entry { range, kind: entry.kind }));
    }
    entries.extend(pmem.iter().map(|range| Entry { range: *range, kind: PMEM }));
    entries.sort_by_key(|entry| entry.range);
    entries.dedup_by(|next, entry| {
        let joins = next.kind == entry.kind && next.range.start == entry.range.end();
        if joins {
            entry.range.size += next.range.size;
        }
        joins
    });
    entries
}

/// What is left of a range without another, in up to two pieces.
fn without(range: Range, hole: Range) -> Vec<Range> {
    if !range.overlaps(hole) {
        return vec![range];
    }
    let piece = |start: u64, end: u64| (end > start).then(|| Range { start, size: end - start });
    let below = piece(range.start, hole.start.max(range.start));
    let above = piece(hole.end().min(range.end()), range.end());
    below.into_iter().chain(above).collect()
}

/// Bytes of usable memory.
#[must_use]
pub fn ram_of(map: &[Entry]) -> u64 {
    map.iter().filter(|entry| entry.kind == RAM).map(|entry| entry.range.size).sum()
}

/// What the next kernel requires of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelRoom {
    /// Bytes that it needs to unpack itself, and for what follows it.
    pub size: u64,
    /// Alignment of its load address.
    pub align: u64,
    /// It must end below this address.
    pub limit: u64,
}

/// The memory map for the next kernel, and its place in it outside of the initrd and the medium.
///
/// # Errors
/// Why there is none, in one technical line.
pub fn place_kernel(
    firmware: &[Entry],
    initrd: Range,
    medium: &[Range],
    room: KernelRoom,
) -> Result<(Vec<Entry>, Range), String> {
    let map = with_pmem(firmware, medium);
    if map.len() > MAX_ENTRIES {
        return Err(format!(
            "the memory map has {} entries; the maximum is {MAX_ENTRIES}",
            map.len()
        ));
    }
    // In `map` the medium no longer counts as usable memory.
    let hole = find_hole(&map, &[initrd], room.size, room.align, room.limit);
    let hole =
        hole.ok_or_else(|| format!("no range of {} free bytes for the kernel", room.size))?;
    Ok((map, hole))
}

/// The lowest range of `size` bytes in usable memory from 16 MiB on, at a multiple of `align`, below `limit`, that
/// touches none of `taken`.
#[must_use]
pub fn find_hole(
    map: &[Entry],
    taken: &[Range],
    size: u64,
    align: u64,
    limit: u64,
) -> Option<Range> {
    let map = with_pmem(map, &[]);
    let mut best: Option<Range> = None;
    for entry in map.iter().filter(|entry| entry.kind == RAM) {
        let mut pieces = vec![entry.range];
        for hole in taken {
            pieces = pieces.into_iter().flat_map(|piece| without(piece, *hole)).collect();
        }
        for piece in pieces {
            let start = piece.start.max(LOWEST).next_multiple_of(align.max(1));
            let found = Range { start, size };
            if found.end() <= piece.end().min(limit) && best.is_none_or(|best| start < best.start) {
                best = Some(found);
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn entry(start: u64, end: u64, kind: u32) -> Entry {
        Entry { range: Range { start: start * MIB, size: (end - start) * MIB }, kind }
    }

    fn range(start: u64, end: u64) -> Range {
        entry(start, end, RAM).range
    }

    /// A PC of 1 GiB: low memory, the usual hole, RAM, tables.
    fn map() -> Vec<Entry> {
        vec![entry(0, 1, RAM), entry(1, 2, 2), entry(2, 1000, RAM), entry(1000, 1010, 3)]
    }

    #[test]
    fn the_medium_is_cut_out_and_becomes_pmem() {
        let cut = with_pmem(&map(), &[range(400, 600)]);
        assert_eq!(
            cut,
            [
                entry(0, 1, RAM),
                entry(1, 2, 2),
                entry(2, 400, RAM),
                entry(400, 600, PMEM),
                entry(600, 1000, RAM),
                entry(1000, 1010, 3)
            ]
        );
        assert_eq!(ram_of(&cut), 799 * MIB);
    }

    #[test]
    fn a_medium_at_the_edge_leaves_no_empty_entry() {
        let cut = with_pmem(&map(), &[range(900, 1000)]);
        assert!(cut.iter().all(|entry| entry.range.size > 0));
        assert_eq!(cut.len(), 5);
    }

    #[test]
    fn neighbours_of_one_kind_are_joined() {
        let joined = with_pmem(&[entry(2, 4, RAM), entry(0, 2, RAM), entry(5, 6, RAM)], &[]);
        assert_eq!(joined, [entry(0, 4, RAM), entry(5, 6, RAM)]);
    }

    #[test]
    fn the_kernel_goes_to_the_lowest_hole_from_16_mib_on() {
        let find = |taken: &[Range], size| find_hole(&map(), taken, size * MIB, 2 * MIB, u64::MAX);
        assert_eq!(find(&[], 66), Some(range(16, 82)));
        assert_eq!(find(&[range(50, 51)], 66), Some(range(52, 118)));
        assert_eq!(find(&[range(16, 950)], 66), None);
        assert_eq!(find_hole(&map(), &[], 66 * MIB, 2 * MIB, 80 * MIB), None);
    }

    #[test]
    fn words_of_the_firmware_map_are_known_and_others_left_alone() {
        assert_eq!(kind_of("System RAM\n"), RAM);
        assert_eq!(kind_of("Persistent Memory (legacy)"), PMEM);
        assert_eq!(kind_of("something new"), 2);
        assert_eq!(kind_of("Reserved"), 2);
    }

    proptest! {
        #[test]
        fn cutting_never_loses_or_doubles_a_byte(cuts in proptest::collection::vec((2_u64..999, 1_u64..50), 0..4)) {
            let mut pmem: Vec<Range> = Vec::new();
            for (start, size) in cuts {
                let one = range(start, (start + size).min(1000));
                if !pmem.iter().any(|other| other.overlaps(one)) {
                    pmem.push(one);
                }
            }
            let cut = with_pmem(&map(), &pmem);
            let sum = |map: &[Entry]| map.iter().map(|entry| entry.range.size).sum::<u64>();
            prop_assert_eq!(sum(&cut), sum(&map()));
            prop_assert!(cut.windows(2).all(|two| two[0].range.end() <= two[1].range.start));
        }

        #[test]
        fn a_hole_never_touches_what_is_taken(start in 16_u64..900, size in 1_u64..90, wanted in 1_u64..700) {
            let taken = [range(start, start + size)];
            if let Some(hole) = find_hole(&map(), &taken, wanted * MIB, 2 * MIB, u64::MAX) {
                prop_assert!(!hole.overlaps(taken[0]));
                prop_assert!(map().iter().any(|e| e.kind == RAM && e.range.start <= hole.start && hole.end() <= e.range.end()));
            }
        }
    }
}
