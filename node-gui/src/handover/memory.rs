//! Core: will it fit? Told before anything is fetched.
//!
//! The initrd way holds the payload three times at its peak: in the node's file system, in the kernel's read buffer, and
//! in the pages set aside for the next kernel, which themselves may fill no more than half of all memory.

use bt_catalog::{ByteSize, System};

use crate::problem::{Problem, ProblemKind};

/// What the node needs beside the payload while it loads: the next kernel's working area (66 MiB for Debian's) and its own.
const BESIDE: u64 = 150 << 20;
/// How many times the payload is in memory at the peak.
const COPIES: u64 = 3;
/// What the kernel segment takes of the half that kexec may use.
const KERNEL_SEGMENT: u64 = 70 << 20;

/// What `/proc/meminfo` says, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All memory that the kernel manages.
    pub total: u64,
    /// What programs can still get.
    pub available: u64,
}

impl Memory {
    /// Reads `/proc/meminfo`; `None` when a line is missing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let line = |name: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kibibytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kibibytes * 1024)
        };
        Some(Self { total: line("MemTotal:")?, available: line("MemAvailable:")? })
    }
}

/// Whether this system can be fetched and started with this memory.
///
/// # Errors
/// The sum, in words.
pub fn check(system: &System, memory: Memory) -> Result<(), Problem> {
    let payload = system.total();
    let now = payload.saturating_mul(COPIES).saturating_add(BESIDE);
    let half = payload.saturating_add(KERNEL_SEGMENT).saturating_mul(2);
    let run = system.min_ram.0;
    if memory.available < now {
        let what = format!("needs {} of free memory to start", ByteSize(now));
        return Err(too_small(system, &what, memory.available, "free", memory));
    }
    if memory.total < half.max(run) {
        let what = format!("needs a PC with {} of memory", ByteSize(half.max(run)));
        return Err(too_small(system, &what, memory.total, "in all", memory));
    }
    Ok(())
}

fn too_small(system: &System, needs: &str, has: u64, which: &str, memory: Memory) -> Problem {
    Problem::new(
        ProblemKind::NoMemory,
        format!("{} does not fit into this PC", system.name),
        format!("It {needs}; this PC has {} {which}.", ByteSize(has)),
        "Choose another system, or a PC with more memory.",
        format!(
            "payload {}, min_ram {}, MemTotal {}, MemAvailable {} bytes; needed: {COPIES} x payload + {BESIDE} available",
            system.total(),
            system.min_ram.0,
            memory.total,
            memory.available
        ),
    )
}

#[cfg(test)]
mod tests {
    use bt_catalog::ByteSize;

    use super::*;
    use crate::verify::tests::sample;

    const GIB: u64 = 1 << 30;

    fn system(payload: u64, min_ram: u64) -> System {
        let (mut system, _) = sample("a");
        system.files[0].length = payload;
        system.files[1].length = 0;
        System { min_ram: ByteSize(min_ram), ..system }
    }

    fn check_one(payload: u64, min_ram: u64, total: u64, available: u64) -> Option<String> {
        check(&system(payload, min_ram), Memory { total, available }).err().map(|p| p.why)
    }

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:        2014208 kB\nMemFree:  100 kB\nMemAvailable:    1500000 kB\n";
        let memory = Memory::parse(text).expect("complete");
        assert_eq!(memory, Memory { total: 2_014_208 << 10, available: 1_500_000 << 10 });
        assert_eq!(Memory::parse("MemTotal: 5 kB\n"), None);
    }

    #[test]
    fn a_small_system_fits_into_half_a_gibibyte() {
        assert_eq!(check_one(20 << 20, 0, GIB / 2, 400 << 20), None);
    }

    #[test]
    fn three_copies_must_fit_into_what_is_free() {
        let why = check_one(300 << 20, 0, 2 * GIB, GIB).expect("1050 MiB are needed");
        assert!(why.contains("1 GiB") || why.contains("1.0 GiB"), "{why}");
        assert_eq!(check_one(300 << 20, 0, 2 * GIB, GIB + (40 << 20)), None);
    }

    #[test]
    fn the_systems_own_wish_counts_too() {
        let why = check_one(20 << 20, 2 * GIB, GIB, 900 << 20).expect("2 GiB are asked for");
        assert!(why.contains("2 GiB"), "{why}");
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        assert!(check_one(u64::MAX, u64::MAX, GIB, GIB).is_some());
    }
}
