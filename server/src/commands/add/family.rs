//! Core: the files of a medium or folder -> which family of system it is, and where its parts are.
//!
//! Every live system's initrd looks for files of certain names, so those names tell what it is: more surely than labels,
//! titles or the name of the ISO do.

use bt_catalog::Family;

use super::menu::MenuEntry;

/// What a medium or folder turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Its family; `Plain` for a kernel and an initrd without a medium.
    pub family: Family,
    /// What it is, in words for people.
    pub what: String,
    /// Files that may hold the system's root, the main one first: where its kernel's modules are looked for.
    pub roots: Vec<String>,
    /// The kernel's path.
    pub kernel: Option<String>,
    /// The initrd's path.
    pub initrd: Option<String>,
    /// The medium's volume label.
    pub label: String,
    /// The command line of its own menu, without what the hand-over gives.
    pub words: Vec<String>,
    /// What the supervisor should look at.
    pub unsure: Vec<String>,
}

/// Tells what these files are; `label` is the medium's, `menu` the entries of its boot menus.
///
/// # Errors
/// Why this is nothing that a node can start, and what would be.
pub fn recognise(names: &[String], label: &str, menu: &[MenuEntry]) -> Result<Layout, String> {
    let mut layout = family(names).ok_or_else(|| nothing(names))?;
    let is_there = |name: &String| names.contains(name);
    // The menu's first entry whose kernel really is there.
    let entry = menu.iter().find(|entry| is_there(&entry.kernel));
    if let Some(entry) = entry {
        layout.kernel = Some(entry.kernel.clone());
        layout.initrd = entry.initrd.clone().filter(is_there).or(layout.initrd);
        layout.words.extend(entry.words.iter().cloned());
    }
    layout.label = label.to_owned();
    let is_kiwi = |name: &String| name == "boot/x86_64/loader/linux" || name == "config.isoclient";
    if layout.family == Family::Dracut && names.iter().any(is_kiwi) {
        layout.turn_into(Family::Kiwi);
    }
    let family = layout.family;
    let is_given =
        |word: &String| word.starts_with("rd.live.image") || word.starts_with("ignore_uuid");
    layout.words.retain(|word| !family.forbids(word) && !is_given(word));
    let mut seen = Vec::new();
    layout.words.retain(|word| {
        let is_new = !seen.contains(word);
        seen.push(word.clone());
        is_new
    });
    Ok(layout)
}

fn family(names: &[String]) -> Option<Layout> {
    let with = |start: &str, ends: &[&str]| -> Vec<String> {
        let fits = |name: &&String| {
            let rest = name.strip_prefix(start);
            rest.is_some_and(|rest| {
                !rest.contains('/') && ends.iter().any(|end| rest.ends_with(end))
            })
        };
        names.iter().filter(fits).cloned().collect()
    };
    let layout = |family, what: &str, roots, kernels: &[&str], initrds: &[&str]| Layout {
        family,
        what: what.to_owned(),
        roots,
        kernel: first_start(names, kernels),
        initrd: first_start(names, initrds),
        label: String::new(),
        words: Vec::new(),
        unsure: Vec::new(),
    };
    let squashfs = [".squashfs"];
    let found = with("casper/", &squashfs);
    if !found.is_empty() {
        return Some(layout(
            Family::Casper,
            "an Ubuntu live system (casper)",
            found,
            &["casper/vmlinuz"],
            &["casper/initrd"],
        ));
    }
    let found = with("live/", &squashfs);
    if !found.is_empty() {
        return Some(layout(
            Family::DebianLive,
            "a Debian live system (live-boot)",
            found,
            &["live/vmlinuz"],
            &["live/initrd"],
        ));
    }
    let archiso = names
        .iter()
        .find(|n| n.ends_with("/x86_64/airootfs.sfs") || n.ends_with("/x86_64/airootfs.erofs"));
    if let Some(root) = archiso {
        let base = root.split('/').next().unwrap_or_default();
        let (kernel, initrd) =
            (format!("{base}/boot/x86_64/vmlinuz"), format!("{base}/boot/x86_64/initramfs"));
        let mut found = layout(
            Family::Archiso,
            "an Arch Linux live system (archiso)",
            vec![root.clone()],
            &[&kernel],
            &[&initrd],
        );
        found.words.push(format!("archisobasedir={base}"));
        return Some(found);
    }
    let modloop = with("boot/modloop", &[""]);
    if !modloop.is_empty() {
        return Some(layout(
            Family::Alpine,
            "an Alpine Linux medium",
            modloop,
            &["boot/vmlinuz"],
            &["boot/initramfs"],
        ));
    }
    let found = with("LiveOS/", &["squashfs.img", "rootfs.img"]);
    if !found.is_empty() {
        let (kernels, initrds) = (
            ["images/pxeboot/vmlinuz", "boot/x86_64/loader/linux"],
            ["images/pxeboot/initrd", "boot/x86_64/loader/initrd"],
        );
        return Some(layout(
            Family::Dracut,
            "a live system of dracut (Fedora and its relatives)",
            found,
            &kernels,
            &initrds,
        ));
    }
    plain(names)
}

/// A kernel with an initrd beside it, anywhere; the shallowest counts.
fn plain(names: &[String]) -> Option<Layout> {
    let file = |name: &str| name.rsplit('/').next().unwrap_or_default().to_lowercase();
    let is_kernel = |name: &&String| {
        let file = file(name);
        file == "linux" || file == "bzimage" || file == "kernel" || file.starts_with("vmlinuz")
    };
    let folder = |name: &str| {
        name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"))
    };
    let initrd_beside = |kernel: &String| {
        let starts = ["initrd", "initramfs"].map(|start| format!("{}{start}", folder(kernel)));
        first_start(names, &[&starts[0], &starts[1]])
    };
    let mut kernels: Vec<_> = names.iter().filter(is_kernel).collect();
    kernels.sort_by_key(|name| (initrd_beside(name).is_none(), name.matches('/').count(), *name));
    let kernel = kernels.first()?;
    let count = kernels.len();
    let is_installer = kernel.contains("debian-installer/") || kernel.starts_with("install.");
    let initrd = initrd_beside(kernel);
    let mut unsure = Vec::new();
    if initrd.is_none() {
        unsure.push("there is no initrd next to the kernel: this works only if the kernel has everything built in".to_owned());
    }
    if kernel.starts_with("install.") {
        unsure.push(
            "this installer needs its CD, which the PC will not have; the package \
             debian-installer-12-netboot-amd64 has the one that installs from the network"
                .to_owned(),
        );
    }
    if count > 1 {
        unsure.push(format!(
            "it contains {count} kernels, and only the one above is used; for another, add its folder"
        ));
    }
    let what = if is_installer { "the Debian installer" } else { "a kernel and an initrd" };
    Some(Layout {
        family: Family::Plain,
        what: what.to_owned(),
        roots: Vec::new(),
        kernel: Some((*kernel).clone()),
        initrd,
        label: String::new(),
        words: Vec::new(),
        unsure,
    })
}

impl Layout {
    /// dracut and kiwi have the same files on their media; what differs is how their initrds find them.
    pub fn turn_into(&mut self, family: Family) {
        self.family = family;
        self.words.retain(|word| !word.starts_with("root="));
        if family != Family::Kiwi {
            self.what = "a live system of dracut, made by kiwi (newer Fedora)".to_owned();
            return;
        }
        self.what = "a live system made by kiwi (openSUSE)".to_owned();
        if self.label.contains(char::is_whitespace) || self.label.is_empty() {
            self.unsure.push(format!(
                "its volume label is `{}`, and kiwi finds its medium by the label: check root=live:CDLABEL= in the entry",
                self.label
            ));
        }
        self.words.insert(0, format!("root=live:CDLABEL={}", self.label.replace(' ', "_")));
    }
}

/// The first file whose path begins like one of these; of several for one the shortest, so that `vmlinuz` comes before
/// `vmlinuz-6.1.0-9-amd64`.
fn first_start(names: &[String], starts: &[&str]) -> Option<String> {
    starts.iter().find_map(|start| {
        let fits = names
            .iter()
            .filter(|name| name.strip_prefix(start).is_some_and(|rest| !rest.contains('/')));
        fits.min_by_key(|name| (name.len(), name.as_str())).cloned()
    })
}

fn nothing(names: &[String]) -> String {
    let has = |part: &str| names.iter().any(|name| name.to_lowercase().contains(part));
    let why = if has("sources/install.wim") || has("bootmgr") {
        "this is a Windows medium; PCs boot Linux only"
    } else if names.is_empty() {
        "it contains no file"
    } else {
        "there is neither a live system of a known kind in it (Debian live, Ubuntu, Fedora, Arch, Alpine, openSUSE) nor a \
         kernel (vmlinuz, linux or bzImage)"
    };
    format!("{why}; what can be added is described in docs/supervisor/systems.md")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::add::menu;

    fn layout(names: &[&str], label: &str, menu_text: &str) -> Layout {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        recognise(&names, label, &menu::entries(menu_text)).expect("a system")
    }

    fn parts(layout: &Layout) -> (&str, &str, &str, String) {
        let or = |path: &Option<String>| path.clone().unwrap_or_default();
        let (kernel, initrd) = (or(&layout.kernel), or(&layout.initrd));
        let path = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        (layout.family.name(), path(kernel), path(initrd), layout.words.join(" "))
    }

    fn check(names: &[&str], menu: &str, family: &str, kernel: &str, initrd: &str, words: &str) {
        let layout = layout(names, "LABEL", menu);
        assert_eq!(parts(&layout), (family, kernel, initrd, words.to_owned()));
    }

    #[test]
    fn debian_live_is_recognised_and_what_the_hand_over_gives_is_left_out() {
        check(
            &[
                "live/filesystem.squashfs",
                "live/vmlinuz-6.1",
                "live/initrd.img-6.1",
                "live/vmlinuz",
                "live/initrd.img",
            ],
            "linux /live/vmlinuz-6.1 boot=live components quiet splash toram\ninitrd /live/initrd.img-6.1",
            "debian-live",
            "live/vmlinuz-6.1",
            "live/initrd.img-6.1",
            "components quiet splash",
        );
    }

    #[test]
    fn a_medium_without_a_menu_is_recognised_too() {
        let names = ["live/filesystem.squashfs", "live/vmlinuz", "live/initrd.img"];
        check(&names, "", "debian-live", "live/vmlinuz", "live/initrd.img", "");
    }

    #[test]
    fn ubuntu_is_recognised() {
        check(
            &["casper/minimal.squashfs", "casper/vmlinuz", "casper/initrd", "install/x"],
            "linux /casper/vmlinuz layerfs-path=minimal.standard.live.squashfs --- quiet splash\ninitrd /casper/initrd",
            "casper",
            "casper/vmlinuz",
            "casper/initrd",
            "layerfs-path=minimal.standard.live.squashfs quiet splash",
        );
    }

    #[test]
    fn fedora_is_recognised() {
        check(
            &["LiveOS/squashfs.img", "images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"],
            "linux /images/pxeboot/vmlinuz root=live:CDLABEL=Fedora-WS rd.live.image quiet rhgb\ninitrd /images/pxeboot/initrd.img",
            "dracut",
            "images/pxeboot/vmlinuz",
            "images/pxeboot/initrd.img",
            "quiet rhgb",
        );
    }

    #[test]
    fn arch_is_recognised_with_its_folder() {
        let names = [
            "arch/x86_64/airootfs.sfs",
            "arch/boot/x86_64/vmlinuz-linux",
            "arch/boot/x86_64/initramfs-linux.img",
        ];
        let menu = "linux /arch/boot/x86_64/vmlinuz-linux archisobasedir=arch archisosearchuuid=2026-01-01\n\
                    initrd /arch/boot/x86_64/initramfs-linux.img";
        check(&names, menu, "archiso", names[1], names[2], "archisobasedir=arch");
    }

    #[test]
    fn alpine_is_recognised() {
        let names =
            ["boot/modloop-lts", "boot/vmlinuz-lts", "boot/initramfs-lts", "apks/.boot_repository"];
        let menu = "linux /boot/vmlinuz-lts modules=loop,squashfs,sd-mod quiet\ninitrd /boot/initramfs-lts";
        check(&names, menu, "alpine", names[1], names[2], "modules=loop,squashfs,sd-mod quiet");
    }

    #[test]
    fn opensuse_is_recognised_with_the_label_of_its_medium() {
        let names =
            ["LiveOS/squashfs.img", "boot/x86_64/loader/linux", "boot/x86_64/loader/initrd"];
        let menu = "linux /boot/x86_64/loader/linux rd.live.image root=live:CDLABEL=old splash=silent\n\
                    initrd /boot/x86_64/loader/initrd";
        check(&names, menu, "kiwi", names[1], names[2], "root=live:CDLABEL=LABEL splash=silent");
        assert!(Family::Kiwi.check("root=live:CDLABEL=LABEL splash=silent").is_ok());
        assert!(!layout(&names, "", "").unsure.is_empty());
    }

    #[test]
    fn a_medium_by_kiwi_with_dracuts_initrd_needs_no_label() {
        let names =
            ["LiveOS/squashfs.img", "boot/x86_64/loader/linux", "boot/x86_64/loader/initrd"];
        let mut layout = layout(
            &names,
            "Fedora-42",
            "linux /boot/x86_64/loader/linux root=live:CDLABEL=Fedora-42 quiet",
        );
        layout.turn_into(Family::Dracut);
        assert_eq!(layout.words, ["quiet"]);
        assert!(Family::Dracut.check("quiet").is_ok());
    }

    #[test]
    fn the_installer_and_other_kernels_are_plain() {
        check(
            &[
                "text/debian-installer/amd64/linux",
                "text/debian-installer/amd64/initrd.gz",
                "gtk/boot-screens/x",
            ],
            "",
            "plain",
            "text/debian-installer/amd64/linux",
            "text/debian-installer/amd64/initrd.gz",
            "",
        );
        check(&["vmlinuz", "initrd.img", "old/vmlinuz"], "", "plain", "vmlinuz", "initrd.img", "");
        let alone = layout(&["bzImage"], "", "");
        assert!(alone.unsure[0].contains("no initrd"));
        let cd = layout(&["install.amd/vmlinuz", "install.amd/initrd.gz"], "", "");
        assert!(cd.unsure[0].contains("netboot"));
        let two = layout(&["gtk/linux", "gtk/initrd.gz", "text/linux", "text/initrd.gz"], "", "");
        assert!(two.unsure[0].contains("it contains 2 kernels"));
    }

    #[test]
    fn what_cannot_be_started_is_told() {
        let refused = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            recognise(&names, "", &[]).expect_err("nothing to start")
        };
        assert!(refused(&["sources/install.wim", "bootmgr"]).contains("Windows"));
        assert!(refused(&["holiday.jpg"]).contains("neither a live system"));
        assert!(refused(&[]).contains("no file"));
    }
}
