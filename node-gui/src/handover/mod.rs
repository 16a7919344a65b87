//! Shell: the handover: from verified files to the chosen system's kernel, without copying anything large.
//!
//! ```text
//! power-on    page_pool    huge pages, before memory is fragmented
//! menu        plan         the boot method of each system on this PC, or why there is none
//! chosen      payload      its files are downloaded to where the next kernel will look for them
//! verified    load         in place, by kexec_load; or by kexec_file_load, which Secure Boot requires
//! ```
//! [`placement`], [`memory_map`], [`boot_params`] and [`initrd`] compute what the next kernel is given.

pub mod boot_params;
pub mod efi;
pub mod efi_tables;
pub mod initrd;
pub mod kernel_layout;
pub mod load;
pub mod machine;
pub mod memory_map;
pub mod page_pool;
pub mod pages;
pub mod payload;
pub mod placement;
pub mod plan;
pub mod ports;
pub mod screen;
pub mod screen_info;
