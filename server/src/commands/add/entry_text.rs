//! Core: the commented `catalog/<id>.toml` of a system that was added.

use bt_catalog::{BootMethod, Family};

use super::files::{HANDOVER, IMAGE, INITRD, KERNEL};

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryText {
    /// The system's id.
    pub id: String,
    /// What students read.
    pub name: String,
    /// A built-in drawing.
    pub icon: &'static str,
    /// What was added, in words.
    pub what: String,
    /// The kernel's release.
    pub release: String,
    /// Whether there is an initrd.
    pub has_initrd: bool,
    /// The family; `Plain` where there is no image.
    pub family: Family,
    /// The only method, where there is only one.
    pub method: Option<BootMethod>,
    /// The command line, without what the hand-over gives.
    pub cmdline: String,
    /// Memory that the system needs itself, such as `512 MiB`.
    pub min_ram: &'static str,
}

impl EntryText {
    /// The file's text.
    pub fn text(&self) -> String {
        let Self { id, name, icon, what, release, .. } = self;
        let mut text = format!(
            "# This is {what}, kernel {release}.\n\
             # Written by `bt-server add`. Edit it freely: it is kept when the image is added again.\n\
             name     = {}\n\
             note     = \"\" # one line that students read below the name\n\
             icon     = \"{icon}\"\n\
             kernel   = \"images/{id}/{KERNEL}\"\n",
            quoted(name)
        );
        let mut line = |line: String| text.push_str(&(line + "\n"));
        if self.has_initrd {
            line(format!("initrd   = \"images/{id}/{INITRD}\""));
        }
        if self.family != Family::Plain {
            line("# The medium, handed over in memory, and what makes it a disk of the booted system.".into());
            line(format!("image    = \"images/{id}/{IMAGE}\""));
            line(format!("handover = \"images/{id}/{HANDOVER}\""));
            line(format!("family   = \"{}\"", self.family.name()));
        }
        match self.method {
            Some(BootMethod::Initrd) => {
                line("# This kernel cannot keep the image where it is: the PC needs three times its size.".into());
                line("method   = \"initrd\"".into());
            }
            Some(BootMethod::Pmem) => {
                line("# This kernel has no loop devices.".into());
                line("method   = \"pmem\"".into());
            }
            None => {}
        }
        if self.family != Family::Plain {
            line(
                "# Your own words for the kernel; the node adds those that find the image.".into(),
            );
        }
        line(format!("cmdline  = {}", quoted(&self.cmdline)));
        line(
            "# What the system itself needs, without its files. This is a guess: try what works."
                .into(),
        );
        line(format!("min_ram  = \"{}\"", self.min_ram));
        line("# Only these rooms see it; without this line, all do.".into());
        line("#rooms   = [\"A1\"]".into());
        text
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// An id from a file's name: `debian-live-12.5-amd64.iso` without its suffix.
pub fn id_of(file: &str) -> String {
    let stem = ["iso", "squashfs", "sfs", "img"]
        .iter()
        .find_map(|suffix| file.strip_suffix(suffix)?.strip_suffix('.'))
        .unwrap_or(file);
    let legal = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_ascii_lowercase() } else { '-' }
    };
    let id: String = stem.chars().map(legal).take(63).collect();
    id.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// Name and icon from a system's `os-release` (os-release(5)).
pub fn os_release(text: &str) -> (Option<String>, &'static str) {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim().trim_matches('"').trim_matches('\'').to_owned())
            .filter(|value| !value.is_empty())
    };
    let id = value("ID").unwrap_or_default();
    let icon = match id.as_str() {
        "debian" => "debian",
        "ubuntu" => "ubuntu",
        "fedora" => "fedora",
        "arch" => "arch",
        "alpine" => "alpine",
        "linuxmint" => "mint",
        id if id.starts_with("opensuse") => "opensuse",
        _ => "live",
    };
    (value("PRETTY_NAME").or_else(|| value("NAME")), icon)
}

#[cfg(test)]
mod tests {
    use bt_catalog::Entry;

    use super::*;

    fn entry(family: Family, method: Option<BootMethod>) -> EntryText {
        let cmdline = if family == Family::Kiwi { "root=live:CDLABEL=X quiet" } else { "quiet" };
        EntryText {
            id: "x".into(),
            name: "A \"quoted\" \\ name\n".into(),
            icon: "live",
            what: "a live system".into(),
            release: "6.1.0-56-amd64".into(),
            has_initrd: true,
            family,
            method,
            cmdline: cmdline.into(),
            min_ram: "512 MiB",
        }
    }

    #[test]
    fn what_is_written_is_an_entry_that_the_server_takes() {
        for family in Family::all() {
            let methods = [None, Some(BootMethod::Initrd), Some(BootMethod::Pmem)];
            let methods = if family == Family::Plain { &methods[..1] } else { &methods[..] };
            for method in methods {
                let text = entry(family, *method).text();
                let read = Entry::parse("x".parse().expect("an id"), &text);
                let read = read.unwrap_or_else(|error| panic!("{error}\n{text}"));
                assert_eq!((read.family, read.method), (family, *method));
                assert_eq!(read.name, "A \"quoted\" \\ name");
            }
        }
    }

    #[test]
    fn an_id_comes_from_the_files_name() {
        assert_eq!(id_of("debian-live-12.5.0-amd64-xfce.iso"), "debian-live-12.5.0-amd64-xfce");
        assert_eq!(id_of("Fedora Workstation (Live).ISO"), "fedora-workstation--live-.iso");
        assert_eq!(id_of("filesystem.squashfs"), "filesystem");
        assert_eq!(id_of("…"), "");
    }

    #[test]
    fn a_system_says_its_name_itself() {
        let (name, icon) = os_release("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n");
        assert_eq!((name.as_deref(), icon), (Some("Debian GNU/Linux 12"), "debian"));
        assert_eq!(os_release("ID=opensuse-leap\nNAME='openSUSE'").1, "opensuse");
        assert_eq!(os_release(""), (None, "live"));
    }
}
