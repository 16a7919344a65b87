//! Core: what the files of a system that was added are called.

/// Names of a system's files in its folder.
pub(super) const KERNEL: &str = "vmlinuz";
pub(super) const INITRD: &str = "initrd.img";
pub(super) const IMAGE: &str = "live.iso";
pub(super) const HANDOVER: &str = "handover.cpio";
