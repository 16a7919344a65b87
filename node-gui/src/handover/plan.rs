//! Core: can this system start on this PC, and by which boot method? Answered before anything is downloaded.
//!
//! ```text
//! method     memory of the node                       memory of the system
//! pmem       image + initrd, once                     image + what it needs itself
//! initrd     image + initrd, once                     2 x (image + initrd) + what it needs itself
//! files      3 x (image + initrd + kernel)            the same; kexec_file_load, for Secure Boot
//! ```

use std::collections::BTreeSet;

use bt_catalog::{BootMethod, ByteSize, Firmware, MAX_RANGES, Role, System};

use super::initrd::{Composition, MAX_IMAGE};
use super::kernel_layout::BUNDLE;
use super::memory_map::{Entry, KernelRoom, place_kernel};
use super::placement::{NoRoom, PAGE, Placement, Range, Wish, place, whole_pages};
use crate::journey::problem::{Problem, ProblemKind};

/// What the node itself needs while it loads the next kernel.
const NODE: u64 = 24 << 20;
/// What the next kernel takes to unpack itself where the catalog does not say: Debian's.
const KERNEL: u64 = 66 << 20;
/// What the files method needs in addition to its three copies.
const FILES_EXTRA: u64 = 150 << 20;
/// How many copies the files method holds at its peak: the files, the kernel's buffer, the pages that kexec sets aside.
const COPIES: u64 = 3;

/// What this PC has: memory, firmware, processor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Memory that the firmware gives to a system, in bytes.
    pub ram: u64,
    /// Memory that this kernel manages.
    pub total: u64,
    /// What is available now, including the huge pages.
    pub available: u64,
    /// The firmware's memory map, where the next kernel finds its place.
    pub map: Vec<Entry>,
    /// Contiguous runs of huge pages.
    pub runs: Vec<Range>,
    /// Whether the kernel starts only what is signed (Secure Boot).
    pub is_locked_down: bool,
    /// Whether it booted with UEFI.
    pub is_uefi: bool,
    /// The processor's flags, as `/proc/cpuinfo` names them.
    pub cpu: BTreeSet<String>,
}

/// How a system will be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootPlan {
    /// The image in memory that the system sees as a disk.
    Pmem(Placement),
    /// Everything in the initrd, which is not moved.
    InPlace(Placement),
    /// Files, loaded by the kernel itself.
    Files,
}

impl BootPlan {
    /// The word for this boot method in step records.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pmem(_) => "pmem",
            Self::InPlace(_) => "initrd",
            Self::Files => "files",
        }
    }
}

/// Chooses the boot method of this system on this PC.
///
/// # Errors
/// Why it cannot start, with the sizes, as a plain-language problem.
pub fn plan(system: &System, machine: &Machine) -> Result<BootPlan, Problem> {
    check_kind(system, machine)?;
    if machine.is_locked_down {
        return files(system, machine);
    }
    if system.file(Role::Image).is_none() {
        return in_place(system, machine).or_else(|problem| {
            // Small systems can start from files too, where huge pages are scarce.
            files(system, machine).map_err(|_| problem)
        });
    }
    let has_pmem = system.file(Role::Handover).is_some();
    match system.method {
        Some(BootMethod::Initrd) => in_place(system, machine),
        _ if !has_pmem => in_place(system, machine),
        Some(BootMethod::Pmem) => pmem(system, machine),
        // The reason against the method that needs least is the one that counts.
        None => pmem(system, machine).or_else(|why| in_place(system, machine).map_err(|_| why)),
    }
}

/// Firmware, processor and signature.
fn check_kind(system: &System, machine: &Machine) -> Result<(), Problem> {
    match (system.firmware, machine.is_uefi) {
        (Some(Firmware::Uefi), false) => {
            return Err(refuse(system, "Needs UEFI; this PC booted in BIOS mode."));
        }
        (Some(Firmware::Bios), true) => {
            return Err(refuse(system, "Needs BIOS mode; this PC booted with UEFI."));
        }
        _ => {}
    }
    let missing: Vec<&str> =
        system.cpu.iter().filter(|flag| !machine.cpu.contains(*flag)).map(String::as_str).collect();
    if !missing.is_empty() {
        let why = format!("Needs a CPU with {}, which this PC lacks.", missing.join(", "));
        return Err(refuse(system, why));
    }
    if machine.is_locked_down && !system.kernel_signed {
        return Err(refuse(system, "Secure Boot is on, and this system's kernel is not signed."));
    }
    if machine.is_locked_down && system.method == Some(BootMethod::Pmem) {
        let why = "Secure Boot is on, and it forbids this system's boot method.";
        return Err(refuse(system, why));
    }
    Ok(())
}

fn length(system: &System, role: Role) -> u64 {
    system.file(role).map_or(0, |file| file.length)
}

/// What the next kernel takes to unpack itself.
fn kernel_area(system: &System) -> u64 {
    if system.kernel_memory.0 == 0 { KERNEL } else { system.kernel_memory.0 }
}

/// What becomes the initrd; it includes the image in the initrd method.
#[must_use]
pub fn composition(system: &System, with_image: bool) -> Composition {
    let of = |role| system.file(role).map(|file| file.length);
    Composition::of(of(Role::Initrd), of(Role::Handover), of(Role::Image).filter(|_| with_image))
}

fn pmem(system: &System, machine: &Machine) -> Result<BootPlan, Problem> {
    let image = whole_pages(length(system, Role::Image));
    check_pc(system, machine, image.saturating_add(system.min_ram.0))?;
    let wish = Wish {
        medium: image,
        initrd: composition(system, false).length,
        max_ranges: MAX_RANGES,
        initrd_below: u64::MAX,
    };
    Ok(BootPlan::Pmem(placed(system, machine, wish)?))
}

fn in_place(system: &System, machine: &Machine) -> Result<BootPlan, Problem> {
    let image = length(system, Role::Image);
    if image > MAX_IMAGE {
        return Err(refuse(system, too_large_image()));
    }
    let initrd = composition(system, true).length;
    let twice = if image > 0 { initrd.saturating_mul(2) } else { initrd };
    check_pc(system, machine, twice.saturating_add(system.min_ram.0))?;
    let wish = Wish { medium: 0, initrd, max_ranges: 1, initrd_below: u64::MAX };
    Ok(BootPlan::InPlace(placed(system, machine, wish)?))
}

/// Checks that the node has enough memory to load the kernel, and finds contiguous room.
fn placed(system: &System, machine: &Machine, wish: Wish) -> Result<Placement, Problem> {
    let kernel = length(system, Role::Kernel).saturating_add(kernel_area(system));
    let pages = whole_pages(wish.medium).saturating_add(whole_pages(wish.initrd));
    let needed = pages.saturating_add(kernel).saturating_add(NODE);
    if machine.available < needed {
        return Err(too_small(system, needed, machine.available, "free", machine));
    }
    let placement =
        place(&machine.runs, wish).map_err(|error| in_pieces(system, error, machine))?;
    check_kernel(system, wish, &placement, machine)?;
    Ok(placement)
}

/// The problem of memory that is there, but fragmented.
fn in_pieces(system: &System, error: NoRoom, machine: &Machine) -> Problem {
    let problem = match error {
        NoRoom::Initrd { needed } => {
            let longest = machine.runs.iter().map(|run| run.size).max().unwrap_or(0);
            too_small(system, needed, longest, "in one piece", machine)
        }
        NoRoom::Medium { needed, found } => {
            too_small(system, needed, found, &format!("in up to {MAX_RANGES} pieces"), machine)
        }
    };
    Problem { detail: format!("{error}; {}", problem.detail), ..problem }
}

/// Whether the kernel itself has room next to them: where `in_place` will look for it, with what is known by now.
fn check_kernel(
    system: &System,
    wish: Wish,
    placement: &Placement,
    machine: &Machine,
) -> Result<(), Problem> {
    let kernel = kernel_area(system).max(length(system, Role::Kernel)).saturating_add(BUNDLE);
    let room = KernelRoom { size: kernel, align: PAGE, limit: u64::MAX };
    let start = placement.initrd.map_or(0, |range| range.start);
    let initrd = Range { start, size: wish.initrd };
    match place_kernel(&machine.map, initrd, &placement.medium, room) {
        Ok(_) => Ok(()),
        Err(why) => {
            let needs = ByteSize(kernel);
            let problem = too_small(system, 0, 0, "", machine);
            Err(Problem {
                why: format!("Its kernel needs another {needs} in one piece, which this PC lacks."),
                detail: format!("{why}; {}", problem.detail),
                ..problem
            })
        }
    }
}

fn files(system: &System, machine: &Machine) -> Result<BootPlan, Problem> {
    let image = length(system, Role::Image);
    if image > MAX_IMAGE {
        return Err(refuse(system, too_large_image()));
    }
    let payload = system.total();
    // What kexec sets aside may fill no more than half of all memory.
    let half = payload.saturating_add(kernel_area(system)).saturating_mul(2);
    let unpacked = if image > 0 { image.saturating_mul(2) } else { 0 };
    check_pc(system, machine, unpacked.saturating_add(system.min_ram.0))?;
    if machine.total < half {
        return Err(too_small(system, half, machine.total, "", machine));
    }
    let needed = payload.saturating_mul(COPIES).saturating_add(FILES_EXTRA);
    if machine.available < needed {
        return Err(too_small(system, needed, machine.available, "free", machine));
    }
    Ok(BootPlan::Files)
}

/// Whether the system itself will have enough memory.
fn check_pc(system: &System, machine: &Machine, needed: u64) -> Result<(), Problem> {
    if machine.ram < needed {
        return Err(too_small(system, needed, machine.ram, "", machine));
    }
    Ok(())
}

/// Two sizes as texts that differ.
fn sizes(one: u64, other: u64) -> (String, String) {
    let (long, short) = (ByteSize(one).to_string(), ByteSize(other).to_string());
    if long != short {
        return (long, short);
    }
    // Up and down, so that a need that is not met never looks met.
    (format!("{} MB", one.div_ceil(1_000_000)), format!("{} MB", other / 1_000_000))
}

fn too_small(system: &System, needs: u64, has: u64, which: &str, machine: &Machine) -> Problem {
    let (needs, has) = sizes(needs, has);
    let which = if which.is_empty() { String::new() } else { format!(" {which}") };
    Problem::new(
        ProblemKind::NoMemory,
        format!("{} does not fit into this PC", system.name),
        format!("Needs {needs}; this PC has {has}{which}."),
        "Choose another system, or use a PC with more memory.",
        format!(
            "files {}, min_ram {}; RAM {}, MemTotal {}, available {}, longest run {} bytes",
            system.total(),
            system.min_ram.0,
            machine.ram,
            machine.total,
            machine.available,
            machine.runs.iter().map(|run| run.size).max().unwrap_or(0)
        ),
    )
}

fn too_large_image() -> String {
    format!("Its image is larger than {}, the limit for this boot method.", ByteSize(MAX_IMAGE))
}

fn refuse(system: &System, why: impl Into<String>) -> Problem {
    Problem::new(
        ProblemKind::DoesNotFit,
        format!("{} cannot start on this PC", system.name),
        why,
        "Choose another system, or ask your supervisor which PC can run it.",
        format!("{}: refused before the download", system.id),
    )
}

#[cfg(test)]
mod tests {
    use bt_catalog::{Digest, Family, SystemFile};
    use proptest::prelude::*;

    use super::*;
    use crate::download::verify::tests::sample;
    use crate::handover::memory_map::RAM;

    const MIB: u64 = 1 << 20;

    fn file(role: Role, length: u64) -> SystemFile {
        SystemFile { role, length, sha256: Digest([0; 32]) }
    }

    /// A live system: an image of so many MiB, 40 MiB of initrd, 8 MiB of kernel.
    fn live(image: u64) -> System {
        let (system, _) = sample("a");
        System {
            family: Family::DebianLive,
            min_ram: ByteSize(320 * MIB),
            kernel_memory: ByteSize(62 * MIB),
            files: vec![
                file(Role::Handover, MIB),
                file(Role::Image, image * MIB),
                file(Role::Initrd, 40 * MIB),
                file(Role::Kernel, 8 * MIB),
            ],
            ..system
        }
    }

    /// A PC with this many MiB, of which 150 are in use once the picker runs.
    fn pc(ram: u64) -> Machine {
        let run = Range { start: 100 * MIB, size: (ram - 300) * MIB / PAGE * PAGE };
        Machine {
            ram: ram * MIB,
            total: (ram - 60) * MIB,
            available: (ram - 150) * MIB,
            map: vec![Entry { range: Range { start: MIB, size: (ram - 1) * MIB }, kind: RAM }],
            runs: vec![run],
            ..Machine::default()
        }
    }

    fn why(system: &System, machine: &Machine) -> String {
        plan(system, machine).expect_err("must be refused").why
    }

    #[test]
    fn an_image_is_needed_once() {
        assert!(matches!(plan(&live(800), &pc(1152)), Ok(BootPlan::Pmem(_))));
        assert_eq!(why(&live(800), &pc(752)), "Needs 1.2 GB; this PC has 789 MB.");
    }

    #[test]
    fn just_below_the_limit_is_refused_with_sizes_that_differ() {
        let mut machine = pc(1300);
        machine.ram = 1119 * MIB;
        assert_eq!(why(&live(800), &machine), "Needs 1175 MB; this PC has 1173 MB.");
        machine.ram = 1120 * MIB;
        assert!(plan(&live(800), &machine).is_ok());
    }

    #[test]
    fn a_system_set_to_the_initrd_method_needs_its_image_twice() {
        let system = System { method: Some(BootMethod::Initrd), ..live(300) };
        assert!(matches!(plan(&system, &pc(1100)), Ok(BootPlan::InPlace(_))));
        assert!(why(&system, &pc(900)).starts_with("Needs 1.1 GB"), "{}", why(&system, &pc(900)));
        assert!(plan(&live(300), &pc(900)).is_ok());
    }

    #[test]
    fn secure_boot_wants_a_signature_and_three_copies() {
        let locked = |ram| Machine { is_locked_down: true, ..pc(ram) };
        let signed = System { kernel_signed: true, ..live(300) };
        assert!(why(&live(300), &locked(4096)).contains("not signed"));
        assert_eq!(plan(&signed, &locked(1400)), Ok(BootPlan::Files));
        assert!(why(&signed, &locked(1200)).contains("free"));
        let forced = System { method: Some(BootMethod::Pmem), ..signed };
        assert!(why(&forced, &locked(4096)).contains("forbids"));
    }

    #[test]
    fn processor_and_firmware_are_looked_at_first() {
        let needs = System { cpu: vec!["avx2".into(), "sse2".into()], ..live(10) };
        let has = |flags: &[&str]| Machine {
            cpu: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            ..pc(1152)
        };
        assert!(why(&needs, &has(&["sse2"])).contains("with avx2,"));
        assert!(plan(&needs, &has(&["sse2", "avx2"])).is_ok());
        let uefi = System { firmware: Some(Firmware::Uefi), ..live(10) };
        assert!(why(&uefi, &pc(1152)).starts_with("Needs UEFI;"));
        assert!(plan(&uefi, &Machine { is_uefi: true, ..pc(1152) }).is_ok());
    }

    #[test]
    fn fragmented_memory_is_reported_with_the_sum_of_the_ranges_that_count() {
        let mut machine = pc(2048);
        let run = |start, size| Range { start: start * MIB, size: size * MIB };
        // The initrd takes 42 MiB of the shortest; the four longest of what is left hold 360 MiB.
        machine.runs = (0..6).map(|n| run(100 + 200 * n, 90)).collect();
        assert_eq!(
            why(&live(800), &machine),
            "Needs 839 MB; this PC has 377 MB in up to 4 pieces."
        );
        machine.runs = vec![run(100, 30), run(200, 40)];
        assert_eq!(why(&live(20), &machine), "Needs 44 MB; this PC has 42 MB in one piece.");
        machine.runs = vec![run(100, 450), run(700, 450)];
        assert!(plan(&live(800), &machine).is_ok());
    }

    #[test]
    fn a_kernel_without_a_place_is_refused_before_the_download() {
        let mut machine = pc(2048);
        // 60 MiB below the image and the initrd; the kernel needs 62, and what follows it.
        let ram = |end: u64| vec![Entry { range: Range { start: 0, size: end * MIB }, kind: RAM }];
        machine.runs = vec![Range { start: 76 * MIB, size: 842 * MIB }];
        machine.map = ram(918);
        assert_eq!(
            why(&live(800), &machine),
            "Its kernel needs another 65 MB in one piece, which this PC lacks."
        );
        machine.map = ram(2048);
        assert!(plan(&live(800), &machine).is_ok());
        machine.map = Vec::new();
        assert!(plan(&live(800), &machine).is_err());
    }

    #[test]
    fn a_small_plain_system_starts_without_huge_pages() {
        let (plain, _) = sample("a");
        let machine = Machine { runs: Vec::new(), ..pc(600) };
        assert_eq!(plan(&plain, &machine), Ok(BootPlan::Files));
        assert!(matches!(plan(&plain, &pc(600)), Ok(BootPlan::InPlace(_))));
    }

    proptest! {
        #[test]
        fn absurd_sizes_are_refused_without_overflow(image in (1_u64 << 40)..u64::MAX / 4, min_ram: u64) {
            let mut system = live(1);
            system.files[1].length = image;
            system.min_ram = ByteSize(min_ram);
            prop_assert!(plan(&system, &pc(4096)).is_err());
        }

        #[test]
        fn more_memory_never_refuses_what_less_accepts(image in 1_u64..2000, ram in 400_u64..4000) {
            if plan(&live(image), &pc(ram)).is_ok() {
                prop_assert!(plan(&live(image), &pc(ram + 64)).is_ok());
            }
        }
    }
}
