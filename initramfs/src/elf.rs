//! Core: the little of ELF that is needed here: a section by name, and whether a program is static.
//!
//! 64-bit little-endian only, which is what an x86-64 node runs. Input is never trusted: any
//! offset out of range gives `None`. Format: elf(5).

/// The bytes of the section called `name`, such as `.modinfo`.
pub fn section<'a>(elf: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let headers = Table::sections(elf)?;
    let names = headers.get(u64::from(u16_at(elf, 0x3e)?))?.section_bytes()?;
    headers.iter().find_map(|header| {
        let start = usize::try_from(header.u32(0)?).ok()?;
        let found = names.get(start..)?.split(|b| *b == 0).next()?;
        (found == name.as_bytes()).then(|| header.section_bytes())?
    })
}

/// What kind of program this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Runs with nothing but a kernel.
    Static,
    /// Needs a dynamic loader and libraries.
    Dynamic,
    /// No program for an x86-64 PC.
    Foreign,
}

/// Tells whether these bytes are a program, and whether it needs libraries.
pub fn program(elf: &[u8]) -> Program {
    const PT_INTERP: u32 = 3;
    const EM_X86_64: u16 = 62;
    const ET_EXEC: u16 = 2;
    const ET_DYN: u16 = 3; // Position-independent programs too.
    let Some(headers) = Table::programs(elf) else { return Program::Foreign };
    let is_program = matches!(u16_at(elf, 0x10), Some(ET_EXEC | ET_DYN));
    if !is_program || u16_at(elf, 0x12) != Some(EM_X86_64) {
        return Program::Foreign;
    }
    if headers.iter().any(|header| header.u32(0) == Some(PT_INTERP)) {
        Program::Dynamic
    } else {
        Program::Static
    }
}

/// A table of equally long headers.
struct Table<'a> {
    elf: &'a [u8],
    start: u64,
    size: u64,
    count: u64,
}

struct Header<'a> {
    elf: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Table<'a> {
    fn sections(elf: &'a [u8]) -> Option<Self> {
        Self::at(elf, u64_at(elf, 0x28)?, u16_at(elf, 0x3a)?, u16_at(elf, 0x3c)?)
    }

    fn programs(elf: &'a [u8]) -> Option<Self> {
        Self::at(elf, u64_at(elf, 0x20)?, u16_at(elf, 0x36)?, u16_at(elf, 0x38)?)
    }

    fn at(elf: &'a [u8], start: u64, size: u16, count: u16) -> Option<Self> {
        const CLASS_64_LITTLE: &[u8] = b"\x7fELF\x02\x01";
        let table = Self { elf, start, size: u64::from(size), count: u64::from(count) };
        elf.starts_with(CLASS_64_LITTLE).then_some(table)
    }

    fn get(&self, index: u64) -> Option<Header<'a>> {
        let start = self.start.checked_add(index.checked_mul(self.size)?)?;
        Some(Header { elf: self.elf, bytes: slice(self.elf, start, self.size)? })
    }

    fn iter(&self) -> impl Iterator<Item = Header<'a>> {
        (0..self.count).map_while(|index| self.get(index))
    }
}

impl<'a> Header<'a> {
    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    fn section_bytes(&self) -> Option<&'a [u8]> {
        slice(self.elf, u64_at(self.bytes, 0x18)?, u64_at(self.bytes, 0x20)?)
    }
}

fn slice(bytes: &[u8], start: u64, size: u64) -> Option<&[u8]> {
    let end = usize::try_from(start.checked_add(size)?).ok()?;
    bytes.get(usize::try_from(start).ok()?..end)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A relocatable object with nothing but this `.modinfo` section.
    pub(crate) fn module(modinfo: &[u8]) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.modinfo\0.shstrtab\0";
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x12] = 62;
        let info_at = elf.len();
        elf.extend(modinfo);
        let names_at = elf.len();
        elf.extend(NAMES);
        let table = elf.len() as u64;
        for (name, at, size) in [(1u32, info_at, modinfo.len()), (10, names_at, NAMES.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend(header);
        }
        elf[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        elf[0x3a] = 64;
        elf[0x3c] = 2;
        elf[0x3e] = 1;
        elf
    }

    /// A program without code: static, or with a loader to ask for.
    pub(crate) fn executable(kind: Program) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[0x10], elf[0x12]) = (2, 62);
        (elf[0x20], elf[0x36], elf[0x38]) = (64, 56, 1);
        elf[64] = if kind == Program::Dynamic { 3 } else { 1 };
        elf
    }

    #[test]
    fn a_section_is_found_by_its_name() {
        assert_eq!(section(&module(b"name=x\0"), ".modinfo"), Some(b"name=x\0".as_slice()));
        assert_eq!(section(&module(b"name=x\0"), ".text"), None);
    }

    #[test]
    fn only_a_program_without_a_loader_is_static() {
        assert_eq!(program(&executable(Program::Static)), Program::Static);
        assert_eq!(program(&executable(Program::Dynamic)), Program::Dynamic);
        assert_eq!(program(b"#!/bin/sh\n"), Program::Foreign);
        assert_eq!(program(&module(b"name=x\0")), Program::Foreign);
    }

    proptest! {
        #[test]
        fn damaged_input_never_panics(mut elf in Just(module(b"depends=a,b\0")), hits in prop::collection::vec((0usize..200, any::<u8>()), 0..20), length in 0usize..300) {
            for (at, byte) in hits {
                if let Some(place) = elf.get_mut(at) {
                    *place = byte;
                }
            }
            elf.truncate(length);
            std::hint::black_box((section(&elf, ".modinfo"), program(&elf)));
        }
    }
}
