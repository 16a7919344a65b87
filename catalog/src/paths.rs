//! Core: the names under which the server offers things and nodes ask for them, over HTTP.
//!
//! Boot loaders ask for these too: a PC's firmware, iPXE and GRUB know them from what DHCP and the
//! scripts say. None may change its meaning: the boot files of last year ask for the same names.

use crate::{Digest, SystemId};

/// The script that iPXE runs first.
pub const SCRIPT: &str = "/boot.ipxe";
/// The folder of the netboot image.
pub const BOOT_FOLDER: &str = "/boot/";
/// The kernel of the netboot image, in [`BOOT_FOLDER`], and by TFTP.
pub const KERNEL: &str = "vmlinuz";
/// Its initramfs, likewise.
pub const INITRAMFS: &str = "initrd.img";
/// The signed list of signing keys.
pub const KEYS: &str = "/keys.toml";
/// The signed catalog.
pub const CATALOG: &str = "/catalog.toml";
/// What a signed document's path ends in to name its signature.
pub const SIGNATURE_SUFFIX: &str = ".minisig";
/// The BitTorrent tracker (BEP 3).
pub const ANNOUNCE: &str = "/announce";
/// Where nodes send their reports.
pub const REPORT: &str = "/report";

/// The .torrent file of a system.
pub fn torrent(system: &SystemId) -> String {
    format!("/torrents/{system}.torrent")
}

/// The picture of a system that has one of its own.
pub fn icon(digest: &Digest) -> String {
    format!("/icons/{digest}")
}
