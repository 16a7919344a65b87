//! Shell: what a kernel that was started by UEFI passes on to the next one.
//!
//! Core: [`Facts::tables`]. Shell: [`Facts::read`]. UEFI lets its runtime services be mapped only once, so the next kernel must
//! use this one's mapping: the kernel shows it in `/sys/firmware/efi/runtime-map`, and `kexec_file_load` passes the same.

use std::fs;
use std::path::Path;

use super::boot_params::Efi;

/// Length of one descriptor as written here.
const DESCRIPTOR: u32 = 40;
/// `SETUP_EFI` of the boot protocol.
const SETUP_EFI: u32 = 4;
/// Length of `struct efi_setup_data`.
const SETUP_LENGTH: u32 = 96;
/// More than any firmware has.
const MOST: usize = 512;

/// What has to be passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    vendor: u64,
    tables: u64,
    smbios: u64,
    /// Type, physical address, virtual address, pages, attribute.
    runtime: Vec<[u64; 5]>,
}

impl Facts {
    /// Reads them from sysfs; `None` on a BIOS PC, or where the runtime services are off.
    #[must_use]
    pub fn read() -> Option<Self> {
        Self::read_from(Path::new("/sys/firmware/efi"))
    }

    fn read_from(folder: &Path) -> Option<Self> {
        let number = |path: &Path| {
            let text = fs::read_to_string(path).ok()?;
            u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
        };
        let mut runtime = Vec::new();
        for entry in fs::read_dir(folder.join("runtime-map")).ok()?.flatten().take(MOST) {
            let of = |name: &str| number(&entry.path().join(name));
            runtime.push([
                of("type")?,
                of("phys_addr")?,
                of("virt_addr")?,
                of("num_pages")?,
                of("attribute")?,
            ]);
        }
        runtime.sort_unstable_by_key(|descriptor| descriptor[1]);
        let systab = fs::read_to_string(folder.join("systab")).unwrap_or_default();
        let smbios = systab.lines().find_map(|line| line.strip_prefix("SMBIOS=0x"));
        Some(Self {
            vendor: number(&folder.join("fw_vendor"))?,
            tables: number(&folder.join("config_table"))?,
            smbios: smbios.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0),
            runtime,
        })
        .filter(|facts| !facts.runtime.is_empty())
    }

    /// The bytes that must lie at the address `at`, and what the boot page says about them.
    #[must_use]
    pub fn tables(&self, at: u64) -> (Vec<u8>, Efi) {
        // struct setup_data: next, type, length; then struct efi_setup_data.
        let mut bytes = Vec::new();
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(SETUP_EFI.to_le_bytes());
        bytes.extend(SETUP_LENGTH.to_le_bytes());
        for value in [self.vendor, 0, self.tables, self.smbios, 0, 0, 0, 0, 0, 0, 0, 0] {
            bytes.extend(value.to_le_bytes());
        }
        let descriptors = at + bytes.len() as u64;
        for [kind, physical, address, pages, attribute] in &self.runtime {
            // The type has 32 bits, and 4 bytes of padding follow it.
            for value in [kind, physical, address, pages, attribute] {
                bytes.extend(value.to_le_bytes());
            }
        }
        let length = DESCRIPTOR * u32::try_from(self.runtime.len()).expect("at most 512");
        (bytes, Efi { descriptors, length, each: DESCRIPTOR, setup_data: at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_map_is_read_and_written_as_the_kernel_lays_it_out() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("inside")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        assert_eq!(Facts::read_from(folder.path()), None);
        put("fw_vendor", "0x3f5a2018\n");
        put("config_table", "0x3f5a1f18\n");
        put("systab", "ACPI20=0x3f77e014\nSMBIOS=0x3f56c000\n");
        for (name, value) in [
            ("type", "0x5"),
            ("phys_addr", "0x3f4ed000"),
            ("virt_addr", "0xfffffffeffa00000"),
            ("num_pages", "0x100"),
            ("attribute", "0x800000000000000f"),
        ] {
            put(&format!("runtime-map/0/{name}"), value);
        }
        let facts = Facts::read_from(folder.path()).expect("complete");
        let (bytes, efi) = facts.tables(0x10_0000);
        assert_eq!(bytes.len(), 16 + 96 + 40);
        assert_eq!((efi.descriptors, efi.length, efi.setup_data), (0x10_0070, 40, 0x10_0000));
        assert_eq!(bytes[8], 4);
        assert_eq!(bytes[16..24], 0x3f5a_2018_u64.to_le_bytes());
        assert_eq!(bytes[40..48], 0x3f56_c000_u64.to_le_bytes());
        assert_eq!(bytes[112 + 8..112 + 16], 0x3f4e_d000_u64.to_le_bytes());
    }
}
