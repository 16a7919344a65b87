//! Builds what a node boots: a Debian kernel, and an initramfs with `bt-node` as its init.
//!
//! ```text
//! manifest.toml ---+
//! bt-node, busybox |    modules.rs: what the modules depend on
//! root key, fonts  +--> build.rs --> image.rs (zstd) --> cpio.rs (newc) --> initrd.img, vmlinuz
//! Debian kernel ---+
//! ```
//!
//! The same inputs give the same bytes. [`handover`] makes the small part that lets any live system find its image. [`sample`] makes a small system to boot with it, so that a
//! lab can be tried before any image is there.

pub mod build;
pub mod cpio;
pub mod elf;
pub mod handover;
pub mod image;
pub mod kernel;
pub mod manifest;
pub mod modules;
pub mod sample;
