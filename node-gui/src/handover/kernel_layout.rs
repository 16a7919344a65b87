//! Core: where `kexec_load` places the next kernel: in a hole next to what is in memory already.

use super::boot_params::KernelImage;
use super::memory_map::{Entry, KernelRoom, place_kernel};
use super::placement::Range;

/// What follows the kernel: boot page, command line, trampoline, and up to 48 KiB of UEFI's tables.
pub(super) const BUNDLE: u64 = 64 << 10;
const FRAME: u64 = 4096;
const FOUR_GIB: u64 = 4 << 30;

/// Where the next kernel's parts go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelLayout {
    /// The kernel, with what it needs to unpack itself, in complete frames.
    pub kernel: Range,
    /// Boot page, command line and the rest, right after it.
    pub bundle: Range,
    /// The memory map that it is given.
    pub map: Vec<Entry>,
}

impl KernelLayout {
    /// Finds room outside the initrd and the medium.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::boot_params::tests::kernel_file;
    use crate::handover::memory_map::{PMEM, RAM};

    const MIB: u64 = 1 << 20;

    fn range(start: u64, end: u64) -> Range {
        Range { start: start * MIB, size: (end - start) * MIB }
    }

    fn layout(initrd: Range, medium: &[Range]) -> Result<KernelLayout, String> {
        let kernel = KernelImage::parse(&kernel_file(100_000)).expect("a kernel");
        let firmware = [Entry { range: range(1, 1152), kind: RAM }];
        KernelLayout::of(&kernel, &firmware, initrd, medium)
    }

    #[test]
    fn the_kernel_goes_below_a_medium_at_the_upper_end() {
        let layout = layout(range(300, 340), &[range(340, 1140)]).expect("room");
        assert_eq!(layout.kernel, range(16, 78));
        assert_eq!(layout.bundle.start, 78 * MIB);
        assert!(layout.map.iter().any(|e| e.kind == PMEM && e.range == range(340, 1140)));
    }

    #[test]
    fn kernel_and_bundle_never_touch_what_is_there_already() {
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
