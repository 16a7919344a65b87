//! Core: the x86 boot protocol: the header of a kernel file, and the boot page that it is started with.
//!
//! Offsets and flags are those of the kernel's documents "The Linux/x86 Boot Protocol" and "zero-page". The page of the
//! kernel that runs now (`/sys/kernel/boot_params/data`) is where screen, firmware and disk facts come from, as in the
//! kernel's own `kexec_file_load`.

use bt_catalog::KernelHeader;

use super::memory_map::{Entry, MAX_ENTRIES};
use super::placement::Range;

/// Size of `struct boot_params`.
pub const SIZE: usize = 4096;
/// Where the setup header begins, in the file and in the page.
const HEADER: usize = 0x1f1;
/// `XLF_CAN_BE_LOADED_ABOVE_4G`: so can initrd, command line and this page.
const ABOVE_4G: u16 = 2;
/// The loader type of a boot loader without a registered number.
const UNKNOWN_LOADER: u8 = 0xff;
/// The largest `init_size` that is accepted.
const MAX_INIT_SIZE: u64 = 1 << 30;

/// What the kernel's setup header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelImage {
    /// The setup header, byte for byte.
    header: Vec<u8>,
    /// Where the 64-bit part begins in the file.
    pub code_offset: usize,
    /// Memory that it needs from its load address on to unpack itself.
    pub init_size: u64,
    /// Alignment of the load address.
    pub alignment: u64,
    /// Whether kernel, initrd, command line and boot page may lie above 4 GiB.
    pub is_above_4g: bool,
    /// The longest command line, without its NUL.
    pub max_cmdline: usize,
}

impl KernelImage {
    /// Reads the header of a bzImage.
    ///
    /// # Errors
    /// Why the file cannot be started, as text.
    pub fn parse(file: &[u8]) -> Result<Self, String> {
        let facts = KernelHeader::parse(file)?;
        // The jump at 0x200 leads past the header: 0x202 plus its second byte.
        let end = 0x202 + file.get(0x201).map_or(0, |distance| usize::from(*distance));
        let header = file.get(HEADER..end.max(0x264)).unwrap_or_default().to_vec();
        let code_offset = facts.setup_bytes as usize;
        let init_size = u64::from(facts.init_size);
        if file.len() <= code_offset + 0x200 || init_size > MAX_INIT_SIZE {
            return Err("it is cut off, or its header is damaged".to_owned());
        }
        let alignment = u64::from(facts.alignment);
        Ok(Self {
            header,
            code_offset,
            init_size: init_size.max((file.len() - code_offset) as u64),
            alignment: if alignment.is_power_of_two() { alignment.max(4096) } else { 2 << 20 },
            is_above_4g: facts.xloadflags & ABOVE_4G != 0,
            max_cmdline: facts.cmdline_size as usize,
        })
    }
}

/// Where everything is when the kernel starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Load address of the 64-bit part.
    pub kernel: u64,
    /// The command line, NUL-terminated.
    pub cmdline: u64,
    /// The initrd's bytes; size 0: none.
    pub initrd: Range,
}

/// What the firmware passed to the running kernel, and the next one needs too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Efi {
    /// Address of the memory descriptors for the next kernel.
    pub descriptors: u64,
    /// Their length in bytes.
    pub length: u32,
    /// Length of one.
    pub each: u32,
    /// Address of the `setup_data` that states where the runtime services are mapped.
    pub setup_data: u64,
}

/// Builds the boot page.
///
/// `old` is the page of the kernel that runs now, `screen` what is on the screen (`struct screen_info`, 64 bytes), `map`
/// the memory map, cut to [`MAX_ENTRIES`].
#[must_use]
pub fn build(
    kernel: &KernelImage,
    start: Start,
    map: &[Entry],
    old: &[u8; SIZE],
    screen: &[u8; 64],
    efi: Option<&Efi>,
) -> Box<[u8; SIZE]> {
    let mut page = Box::new([0; SIZE]);
    // Screen, RSDP, EDD's disks and their signatures, secure boot: as the kernel's own kexec copies them.
    page[..64].copy_from_slice(screen);
    for (from, to) in [(0x70, 0x78), (0x140, 0x1c0), (0x1e9, 0x1eb), (0x1ec, 0x1ed), (0xd00, 0xeec)]
    {
        page[from..to].copy_from_slice(&old[from..to]);
    }
    page[0x290..0x2d0].copy_from_slice(&old[0x290..0x2d0]);
    page[HEADER..HEADER + kernel.header.len()].copy_from_slice(&kernel.header);
    page[0x210] = UNKNOWN_LOADER;
    let mut put32 = |at: usize, value: u64| {
        let low = (value & 0xffff_ffff) as u32;
        page[at..at + 4].copy_from_slice(&low.to_le_bytes());
    };
    put32(0x214, start.kernel);
    put32(0x218, start.initrd.start);
    put32(0x21c, start.initrd.size);
    put32(0x228, start.cmdline);
    put32(0x0c0, start.initrd.start >> 32);
    put32(0x0c4, start.initrd.size >> 32);
    put32(0x0c8, start.cmdline >> 32);
    put_map(&mut page, map);
    match efi {
        Some(efi) => put_efi(&mut page, old, efi),
        // A kernel that thinks it has runtime services but cannot reach them would fail.
        None => page[0x1c0..0x1e0].fill(0),
    }
    page
}

fn put_map(page: &mut [u8; SIZE], map: &[Entry]) {
    let map = &map[..map.len().min(MAX_ENTRIES)];
    page[0x1e8] = u8::try_from(map.len()).expect("cut to 128");
    for (entry, slot) in map.iter().zip(page[0x2d0..].chunks_exact_mut(20)) {
        slot[..8].copy_from_slice(&entry.range.start.to_le_bytes());
        slot[8..16].copy_from_slice(&entry.range.size.to_le_bytes());
        slot[16..].copy_from_slice(&entry.kind.to_le_bytes());
    }
}

/// `struct efi_info`: signature and system table as they were, with new descriptors.
fn put_efi(page: &mut [u8; SIZE], old: &[u8; SIZE], efi: &Efi) {
    page[0x1c0..0x1e0].copy_from_slice(&old[0x1c0..0x1e0]);
    let mut put32 = |at: usize, value: u64| {
        let low = (value & 0xffff_ffff) as u32;
        page[at..at + 4].copy_from_slice(&low.to_le_bytes());
    };
    put32(0x1c8, u64::from(efi.each));
    put32(0x1cc, 1);
    put32(0x1d0, efi.descriptors);
    put32(0x1d4, u64::from(efi.length));
    put32(0x1dc, efi.descriptors >> 32);
    page[0x250..0x258].copy_from_slice(&efi.setup_data.to_le_bytes());
}

/// The few instructions between kexec's jump and the kernel's 64-bit entry, followed by their GDT and stack.
///
/// kexec leaves the processor in long mode with all memory mapped one to one, and every register zero; the protocol wants
/// flat segments 0x10 and 0x18, and the boot page's address in RSI. `at` is where the code will lie.
#[must_use]
pub fn trampoline(at: u64, boot_params: u64, kernel: u64) -> [u8; TRAMPOLINE] {
    const GDT: usize = 0x80;
    const POINTER: usize = 0xa0;
    let address = |offset: usize| (at + offset as u64).to_le_bytes();
    let mut code = Vec::with_capacity(GDT);
    code.extend([0xfa, 0xfc]); // cli; cld
    code.extend([0x48, 0xb8]); // mov rax, pointer
    code.extend(address(POINTER));
    code.extend([0x0f, 0x01, 0x10]); // lgdt [rax]
    code.extend([0x48, 0xbc]); // mov rsp, end
    code.extend(address(TRAMPOLINE));
    code.extend([0x6a, 0x10]); // push 0x10
    code.extend([0x48, 0xb8]); // mov rax, next
    let next = code.len() + 8 + 3;
    code.extend(address(next));
    code.extend([0x50, 0x48, 0xcb]); // push rax; retfq
    code.extend([0xb8, 0x18, 0, 0, 0]); // mov eax, 0x18
    code.extend([0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0x8e, 0xe0, 0x8e, 0xe8]); // mov ds, es, ss, fs, gs
    code.extend([0x48, 0xbe]); // mov rsi, boot_params
    code.extend(boot_params.to_le_bytes());
    code.extend([0x48, 0xb8]); // mov rax, entry
    code.extend((kernel + 0x200).to_le_bytes());
    code.extend([0xff, 0xe0]); // jmp rax
    let mut page = [0; TRAMPOLINE];
    page[..code.len()].copy_from_slice(&code);
    page[GDT + 0x10..GDT + 0x18].copy_from_slice(&0x00af_9a00_0000_ffff_u64.to_le_bytes());
    page[GDT + 0x18..GDT + 0x20].copy_from_slice(&0x00cf_9200_0000_ffff_u64.to_le_bytes());
    page[POINTER..POINTER + 2].copy_from_slice(&0x1f_u16.to_le_bytes());
    page[POINTER + 2..POINTER + 10].copy_from_slice(&address(GDT));
    page
}

/// Bytes of [`trampoline`], with room for the stack of one far return.
pub const TRAMPOLINE: usize = 0x200;

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with the header of a Debian 12 kernel: protocol 2.15, 39 setup sectors, init_size 62 MiB.
    pub(crate) fn kernel_file(length: usize) -> Vec<u8> {
        let mut file = vec![0; length];
        file[0x1f1] = 39;
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        file[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        file[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        file[0x300..0x30b].copy_from_slice(b"6.1.0-test ");
        file[0x211] = 1;
        file[0x234] = 1;
        file[0x230..0x234].copy_from_slice(&(2_u32 << 20).to_le_bytes());
        file[0x236..0x238].copy_from_slice(&0x7f_u16.to_le_bytes());
        file[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
        file[0x260..0x264].copy_from_slice(&(62_u32 << 20).to_le_bytes());
        file
    }

    fn u32_of(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
    }

    const START: Start = Start {
        kernel: 0x100_0000,
        cmdline: 0x1_2345_6000,
        initrd: Range { start: 0x2_0000_0000, size: 0x1_0000_0005 },
    };

    fn page() -> Box<[u8; SIZE]> {
        let kernel = KernelImage::parse(&kernel_file(100_000)).expect("a kernel");
        let map = [Entry { range: Range { start: 0, size: 0x9fc00 }, kind: 1 }; 130];
        let mut old = [0; SIZE];
        old[0x70] = 7; // RSDP
        old[0x1c0..0x1c4].copy_from_slice(b"EL64");
        build(&kernel, START, &map, &old, &[9; 64], None)
    }

    #[test]
    fn a_kernels_header_is_read() {
        let kernel = KernelImage::parse(&kernel_file(100_000)).expect("a kernel");
        assert_eq!(kernel.code_offset, 40 * 512);
        assert_eq!((kernel.init_size, kernel.alignment), (62 << 20, 2 << 20));
        assert!(kernel.is_above_4g);
        assert_eq!(kernel.max_cmdline, 2047);
    }

    #[test]
    fn files_that_are_not_kernels_are_refused() {
        let refused = |file: &[u8], part: &str| {
            let why = KernelImage::parse(file).expect_err("must be refused");
            assert!(why.contains(part), "{why}");
        };
        refused(b"\x7fELF", "not a Linux kernel");
        refused(&kernel_file(0x400), "cut off");
        let mut fixed = kernel_file(100_000);
        fixed[0x234] = 0;
        refused(&fixed, "fixed address");
        fixed[0x236] = 0;
        refused(&fixed, "64-bit");
    }

    #[test]
    fn addresses_above_4_gib_are_split_over_both_fields() {
        let page = page();
        let u32_at = |at| u32_of(&page[..], at);
        assert_eq!((u32_at(0x218), u32_at(0x0c0)), (0, 2));
        assert_eq!((u32_at(0x21c), u32_at(0x0c4)), (5, 1));
        assert_eq!((u32_at(0x228), u32_at(0x0c8)), (0x2345_6000, 1));
        assert_eq!((page[0x210], page[0x70], page[0]), (0xff, 7, 9));
        assert_eq!(&page[0x202..0x206], b"HdrS");
    }

    #[test]
    fn a_map_that_is_too_long_is_cut_and_does_not_run_over() {
        let page = page();
        assert_eq!(page[0x1e8], 128);
        assert_eq!(page[0x2d0 + 128 * 20..0xd00], [0; 0xd00 - 0x2d0 - 2560]);
    }

    #[test]
    fn without_descriptors_the_next_kernel_sees_no_efi() {
        assert_eq!(page()[0x1c0..0x1e0], [0; 32]);
    }

    #[test]
    fn efi_keeps_its_signature_and_gets_new_descriptors() {
        let kernel = KernelImage::parse(&kernel_file(100_000)).expect("a kernel");
        let mut old = [0; SIZE];
        old[0x1c0..0x1c4].copy_from_slice(b"EL64");
        let efi = Efi { descriptors: 0x1_0000_1000, length: 80, each: 40, setup_data: 0x77 };
        let page = build(&kernel, START, &[], &old, &[0; 64], Some(&efi));
        let u32_at = |at| u32_of(&page[..], at);
        assert_eq!(&page[0x1c0..0x1c4], b"EL64");
        assert_eq!((u32_at(0x1c8), u32_at(0x1d4)), (40, 80));
        assert_eq!((u32_at(0x1d0), u32_at(0x1dc)), (0x1000, 1));
        assert_eq!(page[0x250], 0x77);
    }

    #[test]
    fn the_trampoline_points_at_its_own_tables_and_at_the_kernel() {
        let code = trampoline(0x9000, 0x1122_3344_5566, 0x100_0000);
        let u64_at = |at: usize| u64::from_le_bytes(code[at..at + 8].try_into().expect("8 bytes"));
        // lgdt's operand, then the descriptor table's address in it.
        assert_eq!(u64_at(4), 0x9000 + 0xa0);
        assert_eq!(u64_at(0xa2), 0x9000 + 0x80);
        // The far return lands on `mov eax, 0x18`.
        let landing = usize::try_from(u64_at(29) - 0x9000).expect("near");
        assert_eq!(code[landing..landing + 5], [0xb8, 0x18, 0, 0, 0]);
        let text = hex::encode(code);
        assert!(text.contains(&format!("48be{}", hex::encode(0x1122_3344_5566_u64.to_le_bytes()))));
        assert!(text.contains(&format!("48b8{}ffe0", hex::encode(0x100_0200_u64.to_le_bytes()))));
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused_without_a_panic(at in 0_usize..0x300, byte: u8) {
            let mut file = kernel_file(30_000);
            file[at] = byte;
            let parsed = KernelImage::parse(&file);
            prop_assert!(parsed.is_err() || parsed.is_ok_and(|kernel| kernel.code_offset < 30_000));
        }
    }
}
