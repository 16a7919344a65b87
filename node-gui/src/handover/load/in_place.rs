//! Shell: our own loader: `kexec_load(2)` of a kernel whose initrd and medium lie in memory already.
//!
//! ```text
//! hole        [ kernel, with room to unpack itself | boot page, command line, trampoline, UEFI's tables ]
//! elsewhere   [ initrd ]  [ medium ]     huge pages, never moved: no segment, no copy, no hash
//! ```
//! Core: [`Layout`]. Shell: [`load`].

use std::fs;
use std::io;

use bt_catalog::{MAX_RANGES, Medium, Role, command_line};

use super::refused;
use crate::download::verify::VerifiedSystem;
use crate::handover::boot_params::{self, KernelImage, Start};
use crate::handover::efi;
use crate::handover::machine::memory_map;
use crate::handover::memory_map::{Entry, KernelRoom, place_kernel};
use crate::handover::payload::Memory;
use crate::handover::placement::Range;
use crate::handover::plan::Plan;
use crate::handover::screen;
use crate::journey::problem::{Problem, ProblemKind};

/// What goes behind the kernel: boot page, command line, trampoline, and up to 48 KiB of UEFI's tables.
pub(in crate::handover) const BUNDLE: u64 = 64 << 10;
const CMDLINE: u64 = 0x1000;
const TRAMPOLINE: u64 = 0x2000;
const TABLES: u64 = 0x3000;
const FRAME: u64 = 4096;
/// Where the kernel shows the page it was started with.
const BOOT_PAGE: &str = "/sys/kernel/boot_params/data";
const FOUR_GIB: u64 = 4 << 30;

/// Where the next kernel's parts go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The kernel, with what it needs to unpack itself, in whole frames.
    pub kernel: Range,
    /// Boot page, command line and the rest, right behind it.
    pub bundle: Range,
    /// The memory map that it is told.
    pub map: Vec<Entry>,
}

impl Layout {
    /// Finds a place outside of the initrd and the medium.
    ///
    /// # Errors
    /// Why there is none, in one technical line.
    pub fn of(
        kernel: &KernelImage,
        firmware: &[Entry],
        initrd: Range,
        medium: &[Range],
    ) -> Result<Self, String> {
        let limit = if kernel.is_above_4g { u64::MAX } else { FOUR_GIB };
        if initrd.size > 0 && initrd.end() > limit {
            return Err("the initrd lies above 4 GiB, which this kernel cannot reach".to_owned());
        }
        let room = kernel.init_size.next_multiple_of(FRAME);
        let wanted = KernelRoom { size: room + BUNDLE, align: kernel.alignment, limit };
        let (map, hole) = place_kernel(firmware, initrd, medium, wanted)?;
        let kernel = Range { start: hole.start, size: room };
        Ok(Self { kernel, bundle: Range { start: kernel.end(), size: BUNDLE }, map })
    }
}

/// Loads a verified system that lies in memory.
///
/// # Errors
/// The kernel's refusal, or what does not fit together, in words.
pub fn load(system: &VerifiedSystem, memory: &Memory) -> Result<(), Problem> {
    let file = memory.kernel.read();
    let kernel = KernelImage::parse(&file).map_err(|why| unusable(system, &why))?;
    let medium = match &memory.plan {
        Plan::Pmem(places) => places.medium.clone(),
        Plan::InPlace(_) | Plan::Files => Vec::new(),
    };
    let layout = Layout::of(&kernel, &memory_map(), memory.initrd, &medium);
    let layout = layout.map_err(|why| no_place(system, &why))?;
    let bundle = bundle(system, &kernel, &layout, memory.initrd, &medium)?;
    let segments =
        [segment(&file[kernel.code_offset..], layout.kernel), segment(&bundle, layout.bundle)];
    kexec_load(layout.bundle.start + TRAMPOLINE, &segments)
        .map_err(|error| refused("kexec_load", system.id(), &error))
}

/// Everything that goes behind the kernel.
fn bundle(
    system: &VerifiedSystem,
    kernel: &KernelImage,
    layout: &Layout,
    initrd: Range,
    medium: &[Range],
) -> Result<Vec<u8>, Problem> {
    let cmdline = cmdline(system, medium);
    if cmdline.len() > kernel.max_cmdline || cmdline.len() as u64 >= TRAMPOLINE - CMDLINE {
        return Err(unusable(system, "the command line is too long for it"));
    }
    let at = layout.bundle.start;
    let (tables, efi) = match efi::Facts::read() {
        Some(facts) => {
            let (bytes, efi) = facts.tables(at + TABLES);
            (bytes, Some(efi))
        }
        None => (Vec::new(), None),
    };
    let old = old_page().map_err(|error| unusable(system, &format!("{BOOT_PAGE}: {error}")))?;
    let told = old.first_chunk().expect("the page is longer than its first field");
    let start = Start { kernel: layout.kernel.start, cmdline: at + CMDLINE, initrd };
    let screen = screen::now(told);
    let page = boot_params::build(kernel, start, &layout.map, &old, &screen, efi.as_ref());
    let code = boot_params::trampoline(at + TRAMPOLINE, at, layout.kernel.start);
    let mut bundle = vec![0; BUNDLE as usize];
    for (offset, bytes) in [
        (0, &page[..]),
        (CMDLINE, cmdline.as_bytes()),
        (TRAMPOLINE, &code[..]),
        (TABLES, &tables[..]),
    ] {
        let place = bundle.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
        let place = place.ok_or_else(|| unusable(system, "UEFI's tables are too long"))?;
        place.copy_from_slice(bytes);
    }
    Ok(bundle)
}

fn cmdline(system: &VerifiedSystem, medium: &[Range]) -> String {
    let ranges: Vec<(u64, u64)> = medium.iter().map(|range| (range.start, range.size)).collect();
    debug_assert!(ranges.len() <= MAX_RANGES, "the plan keeps the limit");
    let has_image = system.system().file(Role::Image).is_some();
    let medium = match (has_image, ranges.is_empty()) {
        (false, _) => Medium::None,
        (true, true) => Medium::Initrd,
        (true, false) => Medium::Pmem(&ranges),
    };
    command_line(system.cmdline(), system.system().family, medium)
}

fn old_page() -> io::Result<Box<[u8; boot_params::SIZE]>> {
    let bytes = fs::read(BOOT_PAGE)?;
    let wrong = |bytes: Vec<u8>| io::Error::other(format!("{} bytes", bytes.len()));
    bytes.into_boxed_slice().try_into().map_err(|bytes: Box<[u8]>| wrong(bytes.into_vec()))
}

/// `struct kexec_segment` of `linux/kexec.h`.
#[repr(C)]
struct Segment {
    buffer: *const u8,
    buffer_size: usize,
    memory: u64,
    memory_size: usize,
}

fn segment(bytes: &[u8], range: Range) -> Segment {
    Segment {
        buffer: bytes.as_ptr(),
        buffer_size: bytes.len(),
        memory: range.start,
        memory_size: usize::try_from(range.size).expect("addresses have 64 bits"),
    }
}

fn kexec_load(entry: u64, segments: &[Segment; 2]) -> io::Result<()> {
    // SAFETY: the buffers of both segments live for the whole call, and the kernel copies them before it returns.
    let result = unsafe {
        libc::syscall(libc::SYS_kexec_load, entry, segments.len(), segments.as_ptr(), 0_u64)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn unusable(system: &VerifiedSystem, why: &str) -> Problem {
    Problem::new(
        ProblemKind::KexecRefused,
        "This PC refused to start the system",
        "Its kernel file cannot be started from memory.",
        "Choose another system, and tell your supervisor.",
        format!("{}: {why}", system.id()),
    )
}

fn no_place(system: &VerifiedSystem, why: &str) -> Problem {
    Problem::new(
        ProblemKind::KexecRefused,
        "This PC refused to start the system",
        "There is no room in its memory for the kernel beside the system's image.",
        "Choose a smaller system, or a PC with more memory.",
        format!("{}: {why}", system.id()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::boot_params::tests::kernel_file;
    use crate::handover::memory_map::{PMEM, RAM};

    const MIB: u64 = 1 << 20;

    fn range(start: u64, end: u64) -> Range {
        Range { start: start * MIB, size: (end - start) * MIB }
    }

    fn layout(initrd: Range, medium: &[Range]) -> Result<Layout, String> {
        let kernel = KernelImage::parse(&kernel_file(100_000)).expect("a kernel");
        let firmware = [Entry { range: range(1, 1152), kind: RAM }];
        Layout::of(&kernel, &firmware, initrd, medium)
    }

    #[test]
    fn the_kernel_goes_below_a_medium_at_the_upper_end() {
        let layout = layout(range(300, 340), &[range(340, 1140)]).expect("room");
        assert_eq!(layout.kernel, range(16, 78));
        assert_eq!(layout.bundle.start, 78 * MIB);
        assert!(layout.map.iter().any(|e| e.kind == PMEM && e.range == range(340, 1140)));
    }

    #[test]
    fn kernel_and_bundle_never_touch_what_lies_there_already() {
        let (initrd, medium) = (range(40, 80), range(82, 1000));
        let layout = layout(initrd, &[medium]).expect("room above");
        for part in [layout.kernel, layout.bundle] {
            assert!(!part.overlaps(initrd) && !part.overlaps(medium), "{part:?}");
        }
        assert!(layout.kernel.start >= 1000 * MIB);
    }

    #[test]
    fn without_a_hole_the_reason_is_a_number() {
        let why = layout(range(20, 40), &[range(60, 1152)]).expect_err("no 62 MiB left");
        assert!(why.contains("free bytes for the kernel"), "{why}");
    }
}
