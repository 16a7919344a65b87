//! Core: which kernel modules the image needs, and the tables that BusyBox `modprobe` reads.
//!
//! What a module needs stands in its own `.modinfo` section, so no `depmod` has to have run: an
//! unpacked kernel package has no `modules.dep` yet. The tables are written for the shipped
//! modules alone, in the format of modules.dep(5). Soft dependencies to be loaded before (modprobe.d(5)
//! `softdep … pre:`) are written as plain ones, since BusyBox knows no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Result, bail};

use crate::elf;
use crate::manifest::ModuleGroup;

/// What a module says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleInfo {
    /// Modules that must be loaded before.
    pub depends: Vec<String>,
    /// Modules that should be loaded before.
    pub soft_depends: Vec<String>,
    /// Patterns of the hardware it serves.
    pub aliases: Vec<String>,
    /// Firmware files it may ask for.
    pub firmware: Vec<String>,
    /// The kernel it was built for: release first, then options.
    pub vermagic: String,
}

impl ModuleInfo {
    /// Reads the `.modinfo` section of a module; `None` where the bytes are no module.
    pub fn read(module: &[u8]) -> Option<Self> {
        let section = elf::section(module, ".modinfo")?;
        let mut info = Self::default();
        for field in section.split(|b| *b == 0) {
            let Ok(field) = std::str::from_utf8(field) else { continue };
            let Some((key, value)) = field.split_once('=') else { continue };
            match key {
                "depends" => {
                    info.depends.extend(value.split(',').filter(|d| !d.is_empty()).map(normal));
                }
                "softdep" => info.soft_depends.extend(before(value)),
                "alias" => info.aliases.push(value.to_owned()),
                "vermagic" => info.vermagic = value.to_owned(),
                "firmware" => info.firmware.push(value.to_owned()),
                _ => {}
            }
        }
        Some(info)
    }
}

/// The `pre:` part of a soft dependency: `pre: a b post: c` gives a and b.
fn before(softdep: &str) -> Vec<String> {
    let words = softdep.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
    words.take_while(|word| !word.ends_with(':')).map(normal).collect()
}

/// A module's name as the kernel writes it: `hid-generic` and `hid_generic` are one.
pub fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The module of a file: `kernel/drivers/hid/hid-generic.ko.xz` is `hid_generic`.
pub fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, suffix) = file.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst" | ".gz").then(|| normal(name))
}

/// What one kernel has.
#[derive(Debug, Clone, Default)]
pub struct Available {
    /// Module files by name, as paths below `lib/modules/VERSION`.
    pub files: BTreeMap<String, String>,
    /// Names of what is part of the kernel itself.
    pub builtin: BTreeSet<String>,
}

/// One module of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The group that brought it in, first come.
    pub group: String,
    /// Its file in the kernel package, below `lib/modules/VERSION`; may end in `.xz` or `.zst`.
    pub file: String,
    /// What it says about itself.
    pub info: ModuleInfo,
}

impl Module {
    /// Its path in the image, below `lib/modules/VERSION`: never compressed a second time.
    pub fn path(&self) -> &str {
        self.file.split_once(".ko").map_or(&self.file, |(stem, _)| &self.file[..stem.len() + 3])
    }
}

/// The modules of an image, with everything they depend on.
#[derive(Debug, Default)]
pub struct ModuleSet {
    /// By name.
    pub modules: BTreeMap<String, Module>,
    /// What the manifest names and this kernel does not have.
    pub absent: Vec<String>,
}

impl ModuleSet {
    /// Takes what the groups want and all that it depends on. `read` gives a file's own statement.
    ///
    /// # Errors
    /// What `read` reports; a dependency that the kernel does not have.
    pub fn close(
        available: &Available,
        groups: &[&ModuleGroup],
        mut read: impl FnMut(&str) -> Result<ModuleInfo>,
    ) -> Result<Self> {
        let mut set = Self::default();
        for group in groups {
            for name in wanted(available, group) {
                if available.files.contains_key(&name) {
                    set.add(available, &group.group, &name, &mut read)?;
                } else if !available.builtin.contains(&name) {
                    set.absent.push(name);
                }
            }
        }
        Ok(set)
    }

    fn add(
        &mut self,
        available: &Available,
        group: &str,
        name: &str,
        read: &mut impl FnMut(&str) -> Result<ModuleInfo>,
    ) -> Result<()> {
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            if self.modules.contains_key(&name) || available.builtin.contains(&name) {
                continue;
            }
            let Some(file) = available.files.get(&name) else {
                bail!(
                    "module {name} is needed, but this kernel has it neither as a file nor built in"
                );
            };
            let mut info = read(file)?;
            // A soft dependency may be an alias (`crypto-crc32c`) or not exist: then it is dropped.
            info.soft_depends.retain(|soft| available.files.contains_key(soft));
            open.extend(info.depends.iter().chain(&info.soft_depends).cloned());
            self.modules.insert(name, Module { group: group.to_owned(), file: file.clone(), info });
        }
        Ok(())
    }

    /// The first module of `never` that got in.
    pub fn forbidden<'a>(&self, never: &'a [String]) -> Option<&'a str> {
        never.iter().map(String::as_str).find(|name| self.modules.contains_key(&normal(name)))
    }

    /// All that has to be loaded before `name`, in the order of loading.
    fn before(&self, name: &str) -> Vec<&str> {
        let mut order = Vec::new();
        self.visit(name, &mut BTreeSet::from([name.to_owned()]), &mut order);
        order
    }

    fn visit<'a>(&'a self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<&'a str>) {
        let Some(module) = self.modules.get(name) else { return };
        for next in module.info.soft_depends.iter().chain(&module.info.depends) {
            // `seen` also ends the rounds of two modules that softly want each other.
            if self.modules.contains_key(next) && seen.insert(next.clone()) {
                self.visit(next, seen, order);
                order.push(next);
            }
        }
    }

    /// These modules and all they need, each once and after what it needs itself; what is not in the set is left out.
    pub fn load_order(&self, names: &[&str]) -> Vec<String> {
        let mut order: Vec<&str> = Vec::new();
        for name in names.iter().filter(|name| self.modules.contains_key(**name)) {
            for next in self.before(name).into_iter().chain([*name]) {
                if !order.contains(&next) {
                    order.push(next);
                }
            }
        }
        order.into_iter().map(str::to_owned).collect()
    }

    /// `modules.dep`: each module and what it needs, the last of which is loaded first.
    pub fn modules_dep(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            text.push_str(module.path());
            text.push(':');
            for needed in self.before(name).into_iter().rev() {
                text.push(' ');
                text.push_str(self.modules[needed].path());
            }
            text.push('\n');
        }
        text
    }

    /// `modules.alias`: which module serves which hardware.
    pub fn modules_alias(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            for alias in &module.info.aliases {
                writeln!(text, "alias {alias} {name}").expect("a string takes everything");
            }
        }
        text
    }
}

/// The names that a group asks for, sorted, before dependencies.
fn wanted(available: &Available, group: &ModuleGroup) -> BTreeSet<String> {
    let except: BTreeSet<_> = group.except.iter().map(|name| normal(name)).collect();
    let in_folder = |path: &str| {
        let below =
            |folder: &String| path.strip_prefix(folder.as_str()).map(|rest| rest.starts_with('/'));
        group.folders.iter().any(|folder| below(folder) == Some(true))
    };
    let by_folder = available.files.iter().filter(|(_, path)| in_folder(path));
    let by_folder = by_folder.map(|(name, _)| name.clone()).filter(|name| !except.contains(name));
    by_folder.chain(group.names.iter().map(|name| normal(name))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::elf::tests::module;

    /// A kernel of modules in `kernel/NAME.ko`, each with what it depends on.
    fn close(kernel: &[(&str, &str)], names: &[&str]) -> Result<ModuleSet> {
        let files = kernel.iter().map(|(n, _)| (n.to_string(), format!("kernel/{n}.ko"))).collect();
        let available = Available { files, builtin: BTreeSet::from(["libphy".to_owned()]) };
        let group = ModuleGroup {
            group: "test".into(),
            names: names.iter().map(|n| n.to_string()).collect(),
            ..ModuleGroup::default()
        };
        ModuleSet::close(&available, &[&group], |file| {
            let name = name_of(file).expect("a module's path");
            let (_, info) = kernel.iter().find(|(n, _)| *n == name).expect("in this kernel");
            Ok(ModuleInfo::read(&module(info.replace('|', "\0").as_bytes())).expect("a module"))
        })
    }

    #[test]
    fn modinfo_is_read_field_by_field() {
        let elf = module(
            b"depends=libphy,mdio-devres\0softdep=pre: realtek post: x\0alias=pci:v1\0firmware=a/b.fw\0",
        );
        let info = ModuleInfo::read(&elf).expect("a module");
        assert_eq!(info.depends, ["libphy", "mdio_devres"]);
        assert_eq!(info.soft_depends, ["realtek"]);
        assert_eq!(info.aliases, ["pci:v1"]);
        assert_eq!(info.firmware, ["a/b.fw"]);
        assert_eq!(ModuleInfo::read(b"no module"), None);
    }

    #[test]
    fn dependencies_come_along_in_the_order_that_modprobe_wants() {
        let kernel = [("a", "depends=b,libphy"), ("b", "depends=c"), ("c", ""), ("unused", "")];
        let set = close(&kernel, &["a"]).expect("complete");
        assert_eq!(
            set.modules_dep(),
            "kernel/a.ko: kernel/b.ko kernel/c.ko\nkernel/b.ko: kernel/c.ko\nkernel/c.ko:\n"
        );
    }

    #[test]
    fn soft_dependencies_in_a_circle_end() {
        let kernel = [("a", "softdep=pre: b"), ("b", "softdep=pre: a not_there")];
        let set = close(&kernel, &["a"]).expect("complete");
        assert_eq!(set.modules_dep(), "kernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\n");
    }

    #[test]
    fn what_the_kernel_lacks_is_told_unless_it_is_built_in() {
        let set = close(&[("a", "")], &["a", "libphy", "i40e"]).expect("complete");
        assert_eq!(set.absent, ["i40e"]);
        assert!(close(&[("a", "depends=gone")], &["a"]).is_err());
    }

    #[test]
    fn a_forbidden_module_is_found_even_as_a_dependency() {
        let set = close(&[("a", "depends=i915"), ("i915", "")], &["a"]).expect("complete");
        assert_eq!(set.forbidden(&["xe".into(), "i915".into()]), Some("i915"));
        assert_eq!(set.forbidden(&["xe".into()]), None);
    }

    #[test]
    fn a_folder_brings_all_but_its_exceptions() {
        let files = ["kernel/hid/a.ko", "kernel/hid/b.ko.xz", "kernel/hidden/c.ko"];
        let files = files.map(|path| (name_of(path).expect("a module"), path.to_owned())).into();
        let available = Available { files, builtin: BTreeSet::new() };
        let group = ModuleGroup {
            folders: vec!["kernel/hid".into()],
            except: vec!["a".into()],
            ..ModuleGroup::default()
        };
        assert_eq!(wanted(&available, &group), BTreeSet::from(["b".to_owned()]));
    }

    #[test]
    fn a_compressed_module_gets_a_plain_name() {
        let file = "kernel/drivers/hid/hid-generic.ko.xz".to_owned();
        assert_eq!(name_of(&file).as_deref(), Some("hid_generic"));
        let module = Module { group: String::new(), file, info: ModuleInfo::default() };
        assert_eq!(module.path(), "kernel/drivers/hid/hid-generic.ko");
        assert_eq!(name_of("kernel/modules.order"), None);
    }

    proptest! {
        #[test]
        fn every_dependency_is_in_the_set_and_before_its_module(
            edges in prop::collection::vec((1usize..12, 0usize..12), 0..30)
        ) {
            // An edge only points to a lower number, so that there is no circle.
            let names: Vec<_> = (0..12).map(|n| format!("m{n}")).collect();
            let info: Vec<_> = (0..12)
                .map(|n| {
                    let needs = edges.iter().filter(|(from, to)| *from == n && to < from);
                    let needs: Vec<_> = needs.map(|(_, to)| names[*to].as_str()).collect();
                    format!("depends={}", needs.join(","))
                })
                .collect();
            let kernel: Vec<_> = names.iter().map(String::as_str).zip(info.iter().map(String::as_str)).collect();
            let set = close(&kernel, &["m11", "m7"]).expect("complete");
            for (name, module) in &set.modules {
                let order = set.before(name);
                for needed in &module.info.depends {
                    let at = order.iter().position(|n| n == needed);
                    prop_assert!(at.is_some(), "{name} needs {needed}");
                    for deeper in &set.modules[needed].info.depends {
                        prop_assert!(order.iter().position(|n| n == deeper) < at);
                    }
                }
            }
        }
    }
}
