//! Shell: the hand-over: from verified files to the chosen system's kernel, without copying what is large.
//!
//! ```text
//! power-on    keeper    huge pages, while memory is whole
//! menu        fit       which way each system would start here, or why not
//! chosen      payload   its files arrive where the next kernel will look for them
//! verified    kexec     in_place: our own loader; or the kernel's, which Secure Boot asks for
//! ```
//! [`runs`], [`memory_map`], [`boot_params`] and [`initrd`] are the cores of what the next kernel is told.

pub mod boot_params;
pub mod efi;
pub mod fit;
pub mod in_place;
pub mod initrd;
pub mod keeper;
pub mod kexec;
pub mod machine;
pub mod memory_map;
pub mod pages;
pub mod payload;
pub mod ports;
pub mod runs;
pub mod screen;
