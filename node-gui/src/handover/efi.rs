//! Shell: reads what a kernel that was started by UEFI passes on to the next one.
//!
//! The kernel exposes the mapping of the runtime services in `/sys/firmware/efi/runtime-map`; [`Facts`] holds it.

use std::fs;
use std::path::Path;

use super::efi_tables::Facts;

/// More descriptors than any firmware has.
const MOST: usize = 512;

/// Reads the facts from sysfs; `None` on a BIOS PC, or where the runtime services are off.
#[must_use]
pub fn read() -> Option<Facts> {
    read_from(Path::new("/sys/firmware/efi"))
}

fn read_from(folder: &Path) -> Option<Facts> {
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
    Some(Facts {
        vendor: number(&folder.join("fw_vendor"))?,
        tables: number(&folder.join("config_table"))?,
        smbios: smbios.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0),
        runtime,
    })
    .filter(|facts| !facts.runtime.is_empty())
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
        assert_eq!(read_from(folder.path()), None);
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
        let facts = read_from(folder.path()).expect("complete");
        let (bytes, efi) = facts.tables(0x10_0000);
        assert_eq!(bytes.len(), 16 + 96 + 40);
        assert_eq!((efi.descriptors, efi.length, efi.setup_data), (0x10_0070, 40, 0x10_0000));
        assert_eq!(bytes[8], 4);
        assert_eq!(bytes[16..24], 0x3f5a_2018_u64.to_le_bytes());
        assert_eq!(bytes[40..48], 0x3f56_c000_u64.to_le_bytes());
        assert_eq!(bytes[112 + 8..112 + 16], 0x3f4e_d000_u64.to_le_bytes());
    }
}
