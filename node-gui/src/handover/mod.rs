//! Shell: the hand-over: from verified files to the chosen system's kernel, without copying what is large.
//!
//! ```text
//! power-on    page_pool    huge pages, while memory is whole
//! menu        plan         which way each system would start here, or why not
//! chosen      payload      its files arrive where the next kernel will look for them
//! verified    load         in place: our own loader; or the kernel's, which Secure Boot asks for
//! ```
//! [`placement`], [`memory_map`], [`boot_params`] and [`initrd`] are the cores of what the next kernel is told.

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
