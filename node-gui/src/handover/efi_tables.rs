//! Core: what a kernel that was started by UEFI passes on to the next one, as the next one reads it.
//!
//! UEFI lets its runtime services be mapped only once, so the next kernel must use this one's mapping; `kexec_file_load`
//! passes the same.

use super::boot_params::Efi;

/// Length of one descriptor as written here.
const DESCRIPTOR: u32 = 40;
/// `SETUP_EFI` of the boot protocol.
const SETUP_EFI: u32 = 4;
/// Length of `struct efi_setup_data`.
const SETUP_LENGTH: u32 = 96;

/// What has to be passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub(super) vendor: u64,
    pub(super) tables: u64,
    pub(super) smbios: u64,
    /// Type, physical address, virtual address, pages, attribute.
    pub(super) runtime: Vec<[u64; 5]>,
}

impl Facts {
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
