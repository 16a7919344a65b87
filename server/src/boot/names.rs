//! Core: which file a TFTP name means. There is no path to a disk here, so no name can lead to one.
//!
//! What can be fetched: the boot loaders in memory, the boot script under the name that newer iPXE
//! builds look for, GRUB's menus, and for GRUB the two files of the netboot image.

use crate::boot::scripts::GRUB_FOLDER;
use bt_catalog::paths;

/// First hop under Secure Boot: signed by Microsoft, which firmware trusts.
pub const SHIM: &str = "shimx64.efi";
/// What shim starts, requested by this name: GRUB, signed by Debian, which this shim trusts.
pub const GRUB: &str = "grubx64.efi";
/// The script that newer iPXE builds request from the folder that they were loaded from.
pub const AUTOEXEC: &str = "autoexec.ipxe";
/// The netboot image, for GRUB, which fetches it by TFTP.
const BOOT_FILES: [&str; 2] = [paths::KERNEL, paths::INITRAMFS];

/// The file that a TFTP request means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestedFile {
    /// The iPXE script.
    Script,
    /// A menu of GRUB, by its name in [`GRUB_FOLDER`].
    GrubMenu(String),
    /// Kernel or initramfs of the netboot image.
    BootFile(&'static str),
    /// A boot loader, if there is one of that exact name.
    Loader(String),
}

impl RequestedFile {
    /// Reads a name as firmware writes it.
    pub fn read(name: &[u8]) -> Self {
        let name = match normalise(name) {
            name if is_garbled_shim_request(&name) => GRUB.to_owned(),
            name => name,
        };
        if name == AUTOEXEC {
            Self::Script
        } else if let Some(menu) = name.strip_prefix(GRUB_FOLDER) {
            Self::GrubMenu(menu.to_owned())
        } else if let Some(file) = BOOT_FILES.into_iter().find(|file| *file == name) {
            Self::BootFile(file)
        } else {
            Self::Loader(name)
        }
    }
}

/// A file name as the allow-list spells it. Firmware writes `/name`, `//name`, `\name` and, with a
/// DHCP option that it took for a C string, garbage after the name.
pub fn normalise(name: &[u8]) -> String {
    let end = name.iter().rposition(u8::is_ascii_graphic).map_or(0, |last| last + 1);
    let name = String::from_utf8_lossy(&name[..end]).replace('\\', "/");
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    // A folder is not a file: `name/` stays different from `name`.
    let slash = if name.ends_with('/') { "/" } else { "" };
    parts.join("/") + slash
}

/// Dell firmware passes shim 15.8 the text of its boot entry ("... Onboard NIC ...") where shim
/// expects the name of the next boot loader, and shim requests that text as a file.
fn is_garbled_shim_request(name: &str) -> bool {
    !name.is_ascii() || name.to_ascii_lowercase().ends_with("onboard")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &[u8], expected: &RequestedFile) {
        assert_eq!(RequestedFile::read(name), *expected, "{}", name.escape_ascii());
    }

    #[test]
    fn names_are_taken_as_firmware_writes_them() {
        let loader = RequestedFile::Loader("snponly.efi".to_owned());
        for name in [
            &b"snponly.efi"[..],
            b"/snponly.efi",
            b"//snponly.efi",
            b"\\snponly.efi",
            b"./snponly.efi",
            b"/./\\snponly.efi",
            b"snponly.efi\xff",
            b"snponly.efi\xff\xff \r\n",
        ] {
            check(name, &loader);
        }
        check(b"/autoexec.ipxe", &RequestedFile::Script);
        check(b"/grub/grub.cfg", &RequestedFile::GrubMenu("grub.cfg".to_owned()));
        check(b"(pxe)\\grub", &RequestedFile::Loader("(pxe)/grub".to_owned()));
        check(b"/vmlinuz", &RequestedFile::BootFile("vmlinuz"));
        check(b"/initrd.img", &RequestedFile::BootFile("initrd.img"));
    }

    #[test]
    fn a_garbled_request_of_shim_means_grub() {
        let grub = RequestedFile::Loader(GRUB.to_owned());
        check(b"/\xc3\xbf\xfeM\x01x", &grub);
        check(b"Onboard", &grub);
    }

    #[test]
    fn a_name_that_climbs_or_names_a_folder_is_no_boot_file() {
        for name in [
            &b"../vmlinuz"[..],
            b"a/../vmlinuz",
            b"vmlinuz/",
            b"vmlinuz/..",
            b"VMLINUZ",
            b"boot/vmlinuz",
            b"%2e/vmlinuz",
            b"vmlinuz\0/../../etc/shadow",
        ] {
            assert!(
                matches!(RequestedFile::read(name), RequestedFile::Loader(_)),
                "{}",
                name.escape_ascii()
            );
        }
    }
}
