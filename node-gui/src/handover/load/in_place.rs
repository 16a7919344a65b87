//! Shell: loads a kernel by `kexec_load(2)` whose initrd and image are in memory already.
//!
//! ```text
//! hole        [ kernel, with room to unpack itself | boot page, command line, trampoline, UEFI's tables ]
//! elsewhere   [ initrd ]  [ medium ]     huge pages, never moved: no segment, no copy, no hash
//! ```
//! [`KernelLayout`] finds the hole.

use std::fs;
use std::io;

use bt_catalog::{MAX_RANGES, Medium, Role, command_line};

use super::refusal::refused;
use crate::download::verified::VerifiedSystem;
use crate::handover::boot_params::{self, KernelImage, Start};
use crate::handover::efi;
use crate::handover::kernel_layout::{BUNDLE, KernelLayout};
use crate::handover::machine::memory_map;
use crate::handover::payload::Memory;
use crate::handover::placement::Range;
use crate::handover::plan::BootPlan;
use crate::handover::screen;
use crate::journey::problem::{Problem, ProblemKind};

const CMDLINE: u64 = 0x1000;
const TRAMPOLINE: u64 = 0x2000;
const TABLES: u64 = 0x3000;
/// Where the running kernel exposes the boot page that it was started with.
const BOOT_PAGE: &str = "/sys/kernel/boot_params/data";

/// Loads a verified system that is in memory.
///
/// # Errors
/// The kernel's refusal, or what does not fit, as a plain-language problem.
pub fn load(system: &VerifiedSystem, memory: &Memory) -> Result<(), Problem> {
    let file = memory.kernel.read();
    let kernel = KernelImage::parse(&file).map_err(|why| unusable(system, &why))?;
    let medium = match &memory.plan {
        BootPlan::Pmem(placement) => placement.medium.clone(),
        BootPlan::InPlace(_) | BootPlan::Files => Vec::new(),
    };
    let layout = KernelLayout::of(&kernel, &memory_map(), memory.initrd, &medium);
    let layout = layout.map_err(|why| no_place(system, &why))?;
    let bundle = bundle(system, &kernel, &layout, memory.initrd, &medium)?;
    let segments =
        [segment(&file[kernel.code_offset..], layout.kernel), segment(&bundle, layout.bundle)];
    kexec_load(layout.bundle.start + TRAMPOLINE, &segments)
        .map_err(|error| refused("kexec_load", system.id(), &error))
}

/// Everything that is placed after the kernel.
fn bundle(
    system: &VerifiedSystem,
    kernel: &KernelImage,
    layout: &KernelLayout,
    initrd: Range,
    medium: &[Range],
) -> Result<Vec<u8>, Problem> {
    let cmdline = cmdline(system, medium);
    if cmdline.len() > kernel.max_cmdline || cmdline.len() as u64 >= TRAMPOLINE - CMDLINE {
        return Err(unusable(system, "the kernel command line is too long"));
    }
    let at = layout.bundle.start;
    let (tables, efi) = match efi::read() {
        Some(facts) => {
            let (bytes, efi) = facts.tables(at + TABLES);
            (bytes, Some(efi))
        }
        None => (Vec::new(), None),
    };
    let old = old_page().map_err(|error| unusable(system, &format!("{BOOT_PAGE}: {error}")))?;
    let old_screen = old.first_chunk().expect("the page is longer than its first field");
    let start = Start { kernel: layout.kernel.start, cmdline: at + CMDLINE, initrd };
    let screen = screen::now(old_screen);
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
        let place = place.ok_or_else(|| unusable(system, "the UEFI tables are too long"))?;
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
    // SAFETY: the buffers of both segments live until the call returns, and the kernel copies them before it returns.
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
        "There is no room in this PC's memory for the kernel alongside the system's image.",
        "Choose a smaller system, or use a PC with more memory.",
        format!("{}: {why}", system.id()),
    )
}
