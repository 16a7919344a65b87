//! Shell: packs a small initramfs with the kernel modules that its own init loads.

use anyhow::{Result, ensure};
use bt_initramfs::cpio::{Entry, Writer};
use bt_initramfs::kernel::KernelFiles;
use bt_initramfs::manifest::ModuleGroup;
use bt_initramfs::modules::ModuleSet;

/// Packs `entries`, and in `/modules` these modules of `kernel` with all that they need, named in
/// the order in which they have to be loaded.
pub fn pack(mut entries: Vec<Entry>, kernel: &KernelFiles, modules: &[&str]) -> Result<Vec<u8>> {
    let available = kernel.available()?;
    let names = modules.iter().map(|name| (*name).to_owned()).collect();
    let group = ModuleGroup { group: "own".into(), names, ..ModuleGroup::default() };
    let set = ModuleSet::close(&available, &[&group], |file| Ok(kernel.module_with_info(file)?.0))?;
    ensure!(set.absent.is_empty(), "this kernel lacks {}", set.absent.join(", "));
    for (number, name) in set.load_order(modules).iter().enumerate() {
        let (_, bytes) = kernel.module_with_info(&set.modules[name].file)?;
        entries.push(Entry::file(format!("/modules/{number:02}-{name}.ko"), 0o644, bytes));
    }
    let mut writer = Writer::new(Vec::new());
    for entry in &entries {
        writer.add(entry)?;
    }
    Ok(writer.finish()?)
}
