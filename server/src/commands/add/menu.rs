//! Core: a medium's own boot menu -> which kernel it starts, with which initrd and words.
//!
//! GRUB's `linux`/`initrd` and SYSLINUX's `kernel`/`append`/`initrd` lines, read word by word. It is no interpreter: words with
//! variables are dropped, and the first entry counts, as it does for whoever presses Enter.

/// One entry of a menu.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MenuEntry {
    /// The kernel's path on the medium, without a leading slash.
    pub kernel: String,
    /// The initrd's, where it names one.
    pub initrd: Option<String>,
    /// The kernel's command line, without variables.
    pub words: Vec<String>,
}

/// The menus of a medium, the likeliest first; the shorter path is the main one.
pub fn menus<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let is_menu = |name: &&str| {
        let lower = name.to_lowercase();
        let file = lower.rsplit('/').next().unwrap_or_default();
        let is_grub = matches!(file, "grub.cfg" | "loopback.cfg" | "kernels.cfg");
        is_grub
            || (file.ends_with(".cfg") && lower.contains("linux"))
            || lower.contains("loader/entries/")
    };
    let mut found: Vec<_> = names.filter(is_menu).collect();
    found.sort_by_key(|name| (!name.to_lowercase().ends_with("grub.cfg"), name.len(), *name));
    found
}

/// The entries of one menu, in its order.
pub fn entries(text: &str) -> Vec<MenuEntry> {
    let mut entries: Vec<MenuEntry> = Vec::new();
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or(line);
        let mut words = line.split_whitespace();
        let Some(command) = words.next() else { continue };
        match command.to_ascii_lowercase().as_str() {
            "linux" | "linuxefi" | "kernel" => {
                let kernel = words.next().map(path).unwrap_or_default();
                if !kernel.is_empty() {
                    entries.push(MenuEntry { kernel, initrd: None, words: usable(words) });
                }
            }
            "append" | "options" => {
                if let Some(entry) = entries.last_mut() {
                    for word in words {
                        match word.strip_prefix("initrd=") {
                            Some(initrd) => entry.initrd = initrd.split(',').next_back().map(path),
                            None => entry.words.extend(usable([word].into_iter())),
                        }
                    }
                }
            }
            "initrd" | "initrdefi" => {
                // Of several the last: before it stands microcode.
                if let (Some(entry), Some(last)) = (entries.last_mut(), words.last()) {
                    entry.initrd = last.split(',').next_back().map(path);
                }
            }
            _ => {}
        }
    }
    entries
}

/// A path as the medium's files are named: GRUB puts `($root)` before it, and doubles slashes.
fn path(word: &str) -> String {
    let word = word.trim_matches('"');
    let word = word.rsplit_once(')').map_or(word, |(_, path)| path);
    word.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

fn usable<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let is_usable = |word: &&str| {
        let is_plain = word.chars().all(|c| c.is_ascii_graphic() && !"$\"'`{}\\".contains(c));
        // For the boot loader, not for the kernel; `---` stands before what is for the installed system too.
        let is_loaders = ["--", "BOOT_IMAGE=", "vga="].iter().any(|start| word.starts_with(start));
        is_plain && !is_loaders
    };
    words.filter(is_usable).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn first(text: &str) -> (String, String, String) {
        let entry = entries(text).into_iter().next().expect("an entry");
        (entry.kernel, entry.initrd.unwrap_or_default(), entry.words.join(" "))
    }

    fn check(text: &str, kernel: &str, initrd: &str, words: &str) {
        assert_eq!(first(text), (kernel.to_owned(), initrd.to_owned(), words.to_owned()));
    }

    #[test]
    fn grubs_menus_are_read() {
        check(
            "menuentry \"Live\" {\n  linux  /live/vmlinuz-6.1 boot=live quiet findiso=${iso_path}\n  initrd /live/initrd.img-6.1\n}",
            "live/vmlinuz-6.1",
            "live/initrd.img-6.1",
            "boot=live quiet",
        );
        check(
            "linux ($root)/boot/x86_64/loader/linux root=live:CDLABEL=X rd.live.image\ninitrd ($root)/boot/x86_64/loader/initrd",
            "boot/x86_64/loader/linux",
            "boot/x86_64/loader/initrd",
            "root=live:CDLABEL=X rd.live.image",
        );
        check("linuxefi //casper/vmlinuz --- quiet splash", "casper/vmlinuz", "", "quiet splash");
    }

    #[test]
    fn syslinuxs_menus_are_read() {
        check(
            "LABEL live\n  KERNEL /boot/vmlinuz-lts\n  INITRD /boot/initramfs-lts\n  APPEND modules=loop,squashfs quiet # x",
            "boot/vmlinuz-lts",
            "boot/initramfs-lts",
            "modules=loop,squashfs quiet",
        );
        check(
            "kernel vmlinuz\nappend vga=788 initrd=/ucode.img,/initrd.img quiet \"a b\"",
            "vmlinuz",
            "initrd.img",
            "quiet",
        );
    }

    #[test]
    fn the_main_menu_comes_first() {
        let names = [
            "isolinux/isolinux.cfg",
            "boot/grub/x86_64-efi/grub.cfg",
            "boot/grub/grub.cfg",
            "etc/x.cfg",
        ];
        assert_eq!(
            menus(names.into_iter()),
            ["boot/grub/grub.cfg", "boot/grub/x86_64-efi/grub.cfg", "isolinux/isolinux.cfg"]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(linux|append|initrd|[ -~])*( |\n|/|=|[ -~]){0,80}") {
            let _entries = entries(&text);
        }
    }
}
