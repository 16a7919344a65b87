//! Core: what a kernel file says about itself: the setup header of the x86 boot protocol, and whether it is signed.
//!
//! Offsets: `Documentation/arch/x86/boot.rst` of the Linux source ("The Real-Mode Kernel Header"). Signature: the
//! certificate table of the PE/COFF format (data directory 4), which a kernel with `CONFIG_EFI_STUB` can carry.

/// How many bytes from its start [`KernelHeader::parse`] has to see, at most.
pub const KERNEL_HEADER_BYTES: usize = 64 << 10;

/// The setup header of a Linux kernel for PCs (bzImage).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelHeader {
    /// Boot protocol, such as `0x20f` for 2.15.
    pub protocol: u16,
    /// The release, as in `6.1.0-56-amd64`: the name of its folder of modules.
    pub release: String,
    /// Bytes before the protected-mode kernel: boot sector and setup code.
    pub setup_bytes: u32,
    /// Where it likes to be loaded, as a physical address.
    pub pref_address: u64,
    /// Memory that it needs from there on before it knows the memory map, in bytes.
    pub init_size: u32,
    /// Alignment of its address, in bytes.
    pub alignment: u32,
    /// `xloadflags`: bit 0 a 64-bit entry point at 0x200, bit 1 may be loaded above 4 GiB.
    pub xloadflags: u16,
    /// The longest command line, in bytes without the NUL.
    pub cmdline_size: u32,
    /// Whether it carries a signature for Secure Boot; whose is not looked at.
    pub signed: bool,
}

impl KernelHeader {
    /// Reads the header from the first bytes of a kernel file; [`KERNEL_HEADER_BYTES`] are always enough.
    ///
    /// # Errors
    /// Why a node cannot start this kernel, as text.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let not = |why: &str| format!("not a Linux kernel for 64-bit PCs ({why})");
        if bytes.get(0x202..0x206) != Some(b"HdrS") {
            return Err(not("there is no setup header"));
        }
        let cut = || not("its setup header is cut off");
        let protocol = u16_at(bytes, 0x206).ok_or_else(cut)?;
        // 2.12 of 2013 brought xloadflags; every 64-bit kernel since 3.8 has it.
        if protocol < 0x20c {
            return Err(not("its boot protocol is older than 2.12"));
        }
        let sectors = match bytes[0x1f1] {
            0 => 4, // "For backwards compatibility".
            count => u32::from(count),
        };
        let xloadflags = u16_at(bytes, 0x236).ok_or_else(cut)?;
        if xloadflags & 1 == 0 {
            return Err(not("it has no 64-bit entry"));
        }
        // Its own place may be taken by then.
        if bytes[0x234] == 0 {
            return Err(not("it runs at one fixed address, built without CONFIG_RELOCATABLE"));
        }
        Ok(Self {
            protocol,
            release: release(bytes).ok_or_else(|| not("it does not say its release"))?,
            setup_bytes: (sectors + 1) * 512,
            pref_address: u64_at(bytes, 0x258).ok_or_else(cut)?,
            init_size: u32_at(bytes, 0x260).ok_or_else(cut)?,
            alignment: u32_at(bytes, 0x230).ok_or_else(cut)?,
            xloadflags,
            cmdline_size: u32_at(bytes, 0x238).ok_or_else(cut)?,
            signed: certificates(bytes).is_some_and(|size| size > 0),
        })
    }
}

/// The first word of the version string, such as `6.1.0-56-amd64 (debian-kernel@…) #1 SMP …`.
fn release(bytes: &[u8]) -> Option<String> {
    let start = usize::from(u16_at(bytes, 0x20e).filter(|at| *at != 0)?) + 0x200;
    let text = bytes.get(start..)?;
    let text = &text[..text.len().min(256)];
    let word = text.split(|b| *b == 0).next()?.split(u8::is_ascii_whitespace).next()?;
    let word = std::str::from_utf8(word).ok().filter(|word| !word.is_empty())?;
    // It becomes part of a path.
    word.chars().all(|c| c.is_ascii_alphanumeric() || "._+-~".contains(c)).then(|| word.to_owned())
}

/// The size of the certificate table, in bytes.
fn certificates(bytes: &[u8]) -> Option<u32> {
    const PE32_PLUS: u16 = 0x20b;
    let pe = usize::try_from(u32_at(bytes, 0x3c)?).ok()?;
    if !bytes.starts_with(b"MZ") || bytes.get(pe..pe.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let optional = pe + 24;
    if u16_at(bytes, optional)? != PE32_PLUS || u32_at(bytes, optional + 108)? <= 4 {
        return None;
    }
    u32_at(bytes, optional + 112 + 4 * 8 + 4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header with the values of Debian 12's kernel.
    fn header(signature: u32) -> Vec<u8> {
        let mut bytes = vec![0; 0x4000];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"MZ");
        put(0x3c, &0x40_u32.to_le_bytes());
        put(0x40, b"PE\0\0");
        put(0x58, &0x20b_u16.to_le_bytes());
        put(0x58 + 108, &6_u32.to_le_bytes());
        put(0x58 + 112 + 36, &signature.to_le_bytes());
        put(0x1f1, &[39]);
        put(0x202, b"HdrS");
        put(0x206, &0x20f_u16.to_le_bytes());
        put(0x20e, &0x3000_u16.to_le_bytes());
        put(0x230, &0x20_0000_u32.to_le_bytes());
        put(0x234, &[1]);
        put(0x236, &0x3f_u16.to_le_bytes());
        put(0x238, &2047_u32.to_le_bytes());
        put(0x258, &0x100_0000_u64.to_le_bytes());
        put(0x260, &69_000_000_u32.to_le_bytes());
        put(0x3200, b"6.1.0-56-amd64 (debian-kernel@lists.debian.org) #1 SMP\0");
        bytes
    }

    #[test]
    fn a_kernel_says_its_release_and_its_needs() {
        let kernel = KernelHeader::parse(&header(0)).expect("a kernel");
        assert_eq!(kernel.release, "6.1.0-56-amd64");
        assert_eq!((kernel.setup_bytes, kernel.init_size), (20_480, 69_000_000));
        assert!(!kernel.signed);
    }

    #[test]
    fn a_certificate_table_is_a_signature() {
        assert!(KernelHeader::parse(&header(2_000)).expect("a kernel").signed);
    }

    #[test]
    fn what_is_not_a_kernel_is_refused_with_the_reason() {
        let refused = |bytes: &[u8], part: &str| {
            let why = KernelHeader::parse(bytes).expect_err("not a kernel");
            assert!(why.contains("not a Linux kernel") && why.contains(part), "{why}");
        };
        refused(b"\x7fELF", "no setup header");
        refused(&header(0)[..0x230], "cut off");
        let mut old = header(0);
        old[0x206] = 9;
        refused(&old, "older than 2.12");
        let mut path = header(0);
        path[0x3200..0x3204].copy_from_slice(b"../x");
        refused(&path, "release");
        let mut fixed = header(0);
        fixed[0x234] = 0;
        refused(&fixed, "one fixed address");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(at in 0_usize..0x300, junk in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = header(1);
            bytes.splice(at..at + junk.len(), junk);
            let _checked = KernelHeader::parse(&bytes);
            let _checked = KernelHeader::parse(&bytes[..at]);
        }
    }
}
