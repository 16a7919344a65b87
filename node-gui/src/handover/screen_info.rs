//! Core: what the boot page says about the screen, and what an adapter's registers say.

/// `struct screen_info` of the boot page: 64 bytes, offsets as in `linux/screen_info.h`.
pub type ScreenInfo = [u8; 64];

/// `VIDEO_TYPE_VLFB`: a linear framebuffer set by VESA.
const VLFB: u8 = 0x23;
/// `VIDEO_TYPE_EFI`: one set by UEFI.
const EFI: u8 = 0x70;

/// A picture in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Physical address of the first pixel.
    pub base: u64,
    /// Pixels in a line.
    pub width: u16,
    /// Lines.
    pub height: u16,
    /// Bytes from one line to the next.
    pub stride: u16,
}

/// What DISPI registers say: 0 is the version, 1 width, 2 height, 3 depth, 4 enable, 6 virtual width, 8 and 9 the offset.
///
/// `None` unless a mode of 32 bits is on.
#[must_use]
pub fn dispi(registers: &[u16; 10], base: u64) -> Option<Mode> {
    let [version, width, height, depth, enable, _, virtual_width, _, x, y] = *registers;
    if version & 0xfff0 != 0xb0c0 || enable & 1 == 0 || depth != 32 || width == 0 || height == 0 {
        return None;
    }
    let stride = u32::from(virtual_width.max(width)) * 4;
    let offset = u64::from(y) * u64::from(stride) + u64::from(x) * 4;
    Some(Mode { base: base + offset, width, height, stride: u16::try_from(stride).ok()? })
}

/// The firmware's screen info with this mode in it: 32 bits, blue lowest.
#[must_use]
pub fn with_mode(old: &ScreenInfo, mode: Mode) -> ScreenInfo {
    let mut info = *old;
    let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
    let is_efi = old[0x0f] == EFI;
    let bytes = u32::from(mode.stride) * u32::from(mode.height);
    // VESA counts in 64 KiB, UEFI in bytes.
    let size = if is_efi { bytes } else { bytes.div_ceil(1 << 16) };
    let low = (mode.base & 0xffff_ffff) as u32;
    put(0x0f, &[if is_efi { EFI } else { VLFB }]);
    put(0x12, &mode.width.to_le_bytes());
    put(0x14, &mode.height.to_le_bytes());
    put(0x16, &32_u16.to_le_bytes());
    put(0x18, &low.to_le_bytes());
    put(0x1c, &size.to_le_bytes());
    put(0x24, &mode.stride.to_le_bytes());
    // Red, green, blue, reserved: size and position of each.
    put(0x26, &[8, 16, 8, 8, 8, 0, 8, 24]);
    // No VESA call can change this mode any more.
    put(0x2e, &[0; 4]);
    put(0x32, &[1, 0]);
    put(0x36, &[0; 4]);
    let high = (mode.base >> 32) as u32;
    put(0x3a, &high.to_le_bytes());
    if high != 0 {
        // VIDEO_CAPABILITY_64BIT_BASE
        put(0x36, &2_u32.to_le_bytes());
    }
    info
}

/// What two consecutive readings agree on: the adapter has a single index register, which its driver sets too.
#[must_use]
pub fn settled(mut read: impl FnMut() -> [u16; 10], tries: usize) -> Option<[u16; 10]> {
    let mut before = read();
    for _ in 0..tries {
        let again = read();
        if again == before {
            return Some(again);
        }
        before = again;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As bochs-drm leaves them: 1280x800, the picture one screen further down.
    const REGISTERS: [u16; 10] = [0xb0c5, 1280, 800, 32, 0x41, 0, 1280, 1600, 0, 800];

    #[test]
    fn the_registers_give_the_picture_that_is_shown() {
        let mode = dispi(&REGISTERS, 0xfd00_0000).expect("a mode is on");
        assert_eq!(mode.base, 0xfd00_0000 + 800 * 1280 * 4);
        assert_eq!((mode.width, mode.height, mode.stride), (1280, 800, 5120));
    }

    #[test]
    fn an_adapter_in_text_mode_or_of_another_kind_is_left_alone() {
        let mut registers = REGISTERS;
        registers[4] = 0;
        assert_eq!(dispi(&registers, 0), None);
        assert_eq!(dispi(&[0xffff; 10], 0), None);
    }

    #[test]
    fn a_reading_counts_when_the_next_one_is_the_same() {
        let mut mixed = REGISTERS;
        mixed[9] = 0;
        let mut readings = [REGISTERS, mixed, REGISTERS, REGISTERS].into_iter();
        assert_eq!(settled(|| readings.next().expect("four"), 8), Some(REGISTERS));
        let mut count = 0;
        let restless = || {
            count += 1;
            [count; 10]
        };
        assert_eq!(settled(restless, 8), None);
    }

    #[test]
    fn text_mode_becomes_a_framebuffer_of_this_mode() {
        let mode = dispi(&REGISTERS, 0x1_0000_0000).expect("a mode is on");
        let info = with_mode(&[0; 64], mode);
        assert_eq!((info[0x0f], info[0x16]), (0x23, 32));
        assert_eq!(info[0x12..0x16], [0x00, 0x05, 0x20, 0x03]);
        assert_eq!(info[0x1c..0x20], 63_u32.to_le_bytes());
        assert_eq!((info[0x3a], info[0x36]), (1, 2));
        let mut efi = [0; 64];
        efi[0x0f] = EFI;
        assert_eq!(with_mode(&efi, mode)[0x1c..0x20], 4_096_000_u32.to_le_bytes());
    }
}
