//! Core: what firmware and boot loaders are given: which boot file is right for whom, the loaders, scripts
//! and menus, the small Linux, and the names that all of them are asked for by.

pub mod arch;
pub mod files;
pub mod loaders;
pub mod names;
pub mod scripts;
