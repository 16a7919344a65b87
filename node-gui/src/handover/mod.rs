//! Shell: the hand-over: from verified files to the chosen system's kernel.
//!
//! The initrd way: kernel and initrd go through `kexec_file_load(2)`, so that screen data travels along and signed
//! kernels work under Secure Boot. [`memory`] says before the download whether it will fit; [`kexec`] does it.

pub mod kexec;
pub mod memory;
