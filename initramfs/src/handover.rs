//! Core: the handover part: a small archive, put behind a system's own initrd, that makes its image a block device.
//!
//! ```text
//! /.bt-handover/init            the program that the kernel starts (`rdinit=`); handover/*.rs
//! /.bt-handover/load            the modules it loads, one path on each line, in that order
//! /.bt-handover/modules/*.ko    those modules, of exactly this system's kernel, unpacked, so that their signatures hold
//! ```
//! Live systems bring drivers for disks and USB sticks, but none for memory that keeps its content: Debian's live initrd has
//! 775 modules and not one of these. Their kernels have them, though, and so does the package or the squashfs that the kernel
//! came from. The archive is neither compressed (every kernel can read it) nor changed by anything but its modules.

use anyhow::{Context, Result, ensure};
use bt_catalog::HANDOVER_INIT;

use crate::cpio::{Entry, Writer};
use crate::manifest::ModuleGroup;
use crate::modules::{Available, ModuleInfo, ModuleSet};

/// The program, as `build.rs` compiled it.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/handover-init"));

/// What makes a block device of memory that `memmap=` keeps free; they bring libnvdimm and its BTT along.
const PMEM: [&str; 2] = ["nd_pmem", "nd_e820"];
/// What makes a block device of a file.
const LOOP: [&str; 1] = ["loop"];
/// What joins several ranges of memory.
const JOIN: [&str; 1] = ["dm_mod"];
/// The program reads no more of its list.
const MAX_LIST_BYTES: usize = 4096;

/// A finished handover part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The archive, a multiple of 512 bytes.
    pub bytes: Vec<u8>,
    /// The modules in it, in the order they are loaded.
    pub modules: Vec<String>,
    /// Whether this kernel can keep the image in memory as `/dev/pmem0`.
    pub has_pmem: bool,
    /// Whether this kernel can take it from the initramfs as `/dev/loop0`.
    pub has_loop: bool,
    /// Whether this kernel can have it in several ranges of memory.
    pub has_join: bool,
}

/// Builds the part for one kernel.
///
/// `read` gives a module's bytes, unpacked, by its path in `available`.
///
/// # Errors
/// What `read` reports; a module of another kernel; a dependency that is not there.
pub fn build(
    release: &str,
    available: &Available,
    read: impl Fn(&str) -> Result<Vec<u8>>,
) -> Result<Part> {
    let has = |names: &[&str]| {
        let known =
            |name: &&str| available.files.contains_key(*name) || available.builtin.contains(*name);
        names.iter().all(known)
    };
    let (has_pmem, has_loop, has_join) = (has(&PMEM), has(&LOOP), has(&JOIN));
    let mut names = Vec::new();
    if has_pmem {
        names.extend(PMEM);
    }
    if has_loop {
        names.extend(LOOP);
    }
    if has_pmem && has_join {
        names.extend(JOIN);
    }
    let group = ModuleGroup {
        group: "handover".to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..ModuleGroup::default()
    };
    let info = |file: &str| -> Result<ModuleInfo> {
        let info = ModuleInfo::read(&read(file)?)
            .with_context(|| format!("{file} is not a kernel module"))?;
        let built_for = info.vermagic.split(' ').next().unwrap_or_default();
        ensure!(
            built_for == release,
            "{file} was built for kernel {built_for}, and this kernel is {release}: the modules have to be those of \
             exactly this kernel"
        );
        Ok(info)
    };
    let set = ModuleSet::close(available, &[&group], info)?;
    let modules = set.load_order(&names);
    let bytes = archive(&set, &modules, read)?;
    Ok(Part { bytes, modules, has_pmem, has_loop, has_join })
}

fn archive(
    set: &ModuleSet,
    modules: &[String],
    read: impl Fn(&str) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let folder = HANDOVER_INIT.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut entries = vec![
        Entry::folder(folder),
        Entry::file(HANDOVER_INIT, 0o755, PROGRAM),
        Entry::folder(format!("{folder}/modules")),
    ];
    let mut list = String::new();
    for name in modules {
        let path = format!("{folder}/modules/{name}.ko");
        list.push_str(&path);
        list.push('\n');
        entries.push(Entry::file(path, 0o644, read(&set.modules[name].file)?));
    }
    ensure!(
        list.len() <= MAX_LIST_BYTES,
        "these modules need too many others: {}",
        modules.join(", ")
    );
    entries.push(Entry::file(format!("{folder}/load"), 0o644, list));
    let mut writer = Writer::new(Vec::new());
    for entry in &entries {
        writer.add(entry)?;
    }
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::{Node, tests::read as unpacked};
    use crate::elf::tests::module;
    use crate::elf::{Program, program};
    use crate::modules::name_of;

    const RELEASE: &str = "6.1.0-56-amd64";

    /// A kernel of these modules, each with what it depends on.
    fn part(files: &[(&str, &str)], builtin: &[&str], vermagic: &str) -> Result<Part> {
        let paths =
            files.iter().map(|(name, _)| (name.to_string(), format!("kernel/{name}.ko.xz")));
        let builtin = builtin.iter().map(|name| name.to_string()).collect();
        build(RELEASE, &Available { files: paths.collect(), builtin }, |file| {
            let name = name_of(file).expect("a module's path");
            let (_, depends) =
                files.iter().find(|(known, _)| *known == name).expect("in this kernel");
            Ok(module(
                format!("depends={depends}\0vermagic={vermagic} SMP\0name={name}\0").as_bytes(),
            ))
        })
    }

    const DEBIAN: [(&str, &str); 7] = [
        ("nd_pmem", "libnvdimm,nd_btt"),
        ("nd_e820", "libnvdimm"),
        ("nd_btt", "libnvdimm"),
        ("libnvdimm", ""),
        ("loop", ""),
        ("dm_mod", ""),
        ("e1000e", ""),
    ];

    #[test]
    fn the_part_holds_the_program_and_the_modules_in_loading_order() {
        let part = part(&DEBIAN, &[], RELEASE).expect("a part");
        assert_eq!(part.modules, ["libnvdimm", "nd_btt", "nd_pmem", "nd_e820", "loop", "dm_mod"]);
        assert!(part.has_pmem && part.has_loop && part.has_join);
        assert_eq!(part.bytes.len() % 512, 0);
        let entries = unpacked(&part.bytes);
        let paths: Vec<_> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths[..2], ["/.bt-handover", "/.bt-handover/init"]);
        let Node::File(list) = &entries.last().expect("entries").node else { panic!("no file") };
        let list: Vec<_> = std::str::from_utf8(list).expect("text").lines().collect();
        assert_eq!(list.len(), 6);
        // Every listed file is in the archive, under exactly that name.
        assert!(list.iter().all(|line| paths.contains(line)), "{list:?} {paths:?}");
        assert_eq!(list[0], "/.bt-handover/modules/libnvdimm.ko");
    }

    #[test]
    fn what_is_part_of_the_kernel_needs_no_module() {
        let part = part(&[], &["nd_pmem", "nd_e820", "loop"], RELEASE).expect("a part");
        assert!(part.modules.is_empty() && part.has_pmem && part.has_loop);
    }

    #[test]
    fn a_kernel_without_pmem_can_still_go_the_initrd_way() {
        let part = part(&[("loop", ""), ("nd_pmem", "libnvdimm")], &[], RELEASE).expect("a part");
        assert!(!part.has_pmem && part.has_loop);
        assert_eq!(part.modules, ["loop"]);
    }

    #[test]
    fn modules_of_another_kernel_are_refused() {
        let error = part(&DEBIAN, &[], "6.1.0-9-amd64").expect_err("another kernel").to_string();
        assert!(error.contains("built for kernel 6.1.0-9-amd64"), "{error}");
    }

    #[test]
    fn the_program_needs_nothing_but_a_kernel() {
        assert_eq!(program(PROGRAM), Program::Static);
        assert!(PROGRAM.len() < 16_384, "{} bytes", PROGRAM.len());
    }
}
