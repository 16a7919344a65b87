//! Core: a supervisor's TOML file -> [`Entry`].
//!
//! Every key is documented in `docs/supervisor/catalog.md`; unknown keys are refused, so that a
//! misspelt `min_rma` is found when it is written and not when a student waits.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;

use crate::families::RESERVED;
use crate::values::{ByteSize, Firmware, Role, SystemId, cpu_flag};
use crate::{BootMethod, EntryError, Family};

/// The icon of a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryIcon {
    /// One of the picker's own drawings, such as `debian` or `terminal`.
    Named(String),
    /// A PNG or SVG file in the entry's folder, one plain file name.
    File(PathBuf),
}

/// One system as its supervisor describes it: a checked `catalog/<id>.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file's stem.
    pub id: SystemId,
    /// What a student reads; 1 to 80 characters.
    pub name: String,
    /// One line below the name; at most 200 characters, may be empty.
    pub note: String,
    /// The picture.
    pub icon: EntryIcon,
    /// Kernel, relative to the lab folder.
    pub kernel: PathBuf,
    /// Initrd, relative to the lab folder.
    pub initrd: Option<PathBuf>,
    /// Root file system, relative to the lab folder.
    pub image: Option<PathBuf>,
    /// Handover part, relative to the lab folder; exactly where there is an image.
    pub handover: Option<PathBuf>,
    /// How the system finds its image; `Plain` exactly where there is no image.
    pub family: Family,
    /// The only boot method its image may take, if the supervisor chose one.
    pub method: Option<BootMethod>,
    /// The kernel command line, without what [`crate::command_line`] adds; printable ASCII, at most 2,000 characters.
    pub cmdline: String,
    /// What the system needs itself, without its files.
    pub min_ram: ByteSize,
    /// Processor features it needs, as `/proc/cpuinfo` calls them.
    pub cpu: Vec<String>,
    /// The firmware it needs, where it does not start with both.
    pub firmware: Option<Firmware>,
    /// Rooms that see it; empty: all.
    pub rooms: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    name: Spanned<String>,
    #[serde(default)]
    note: Option<Spanned<String>>,
    #[serde(default)]
    icon: Option<Spanned<String>>,
    kernel: Spanned<String>,
    #[serde(default)]
    initrd: Option<Spanned<String>>,
    #[serde(default)]
    image: Option<Spanned<String>>,
    #[serde(default)]
    handover: Option<Spanned<String>>,
    #[serde(default)]
    method: Option<Spanned<String>>,
    /// Its name in entries of the first release.
    #[serde(default)]
    way: Option<Spanned<String>>,
    #[serde(default)]
    cpu: Vec<Spanned<String>>,
    #[serde(default)]
    firmware: Option<Spanned<String>>,
    #[serde(default)]
    family: Option<Spanned<String>>,
    #[serde(default)]
    cmdline: Option<Spanned<String>>,
    #[serde(default)]
    min_ram: Option<Spanned<String>>,
    #[serde(default)]
    rooms: Vec<Spanned<String>>,
}

impl Entry {
    /// Reads one entry; `id` is the file's stem.
    ///
    /// # Errors
    /// The first mistake, with its line and column.
    pub fn parse(id: SystemId, text: &str) -> Result<Self, EntryError> {
        let raw: RawEntry = toml::from_str(text).map_err(|e| {
            let (line, column) = position(text, e.span().map_or(0, |s| s.start));
            EntryError { line, column, cause: e.message().trim().replace('\n', "; ") }
        })?;
        raw.check(id).map_err(|(at, cause)| {
            let (line, column) = position(text, at);
            EntryError { line, column, cause }
        })
    }

    /// The system's files as (role, path relative to the lab folder), in the torrent's order.
    pub fn files(&self) -> Vec<(Role, &Path)> {
        let of = |role| match role {
            Role::Handover => self.handover.as_deref(),
            Role::Image => self.image.as_deref(),
            Role::Initrd => self.initrd.as_deref(),
            Role::Kernel => Some(self.kernel.as_path()),
        };
        Role::ALL.into_iter().filter_map(|r| Some((r, of(r)?))).collect()
    }
}

/// A mistake at a byte offset of the text.
type At<T> = Result<T, (usize, String)>;

impl RawEntry {
    fn check(mut self, id: SystemId) -> At<Entry> {
        if let Some(way) = self.way.take() {
            if self.method.is_some() {
                let cause = "`way` is the old name of `method`, which stands here too; keep one";
                return Err((way.span().start, cause.into()));
            }
            self.method = Some(way);
        }
        let name = line_of_text(&self.name, "name", 80)?;
        if name.is_empty() {
            return Err((self.name.span().start, "`name` is empty; students read it".into()));
        }
        let note =
            self.note.as_ref().map_or(Ok(String::new()), |n| line_of_text(n, "note", 200))?;
        let image = self.image.as_ref().map(inside_lab).transpose()?;
        let family = self.family.as_ref().map_or(Ok(Family::Plain), parsed)?;
        self.check_image(family)?;
        let line = self.cmdline.as_ref().map_or(Ok(String::new()), |line| cmdline(line, family))?;
        let at_cmdline = self.cmdline.as_ref().map_or(0, |line| line.span().start);
        family.check(&line).map_err(|cause| (at_cmdline, cause))?;
        Ok(Entry {
            id,
            name,
            note,
            icon: self.icon.as_ref().map_or(Ok(EntryIcon::Named("linux".into())), icon)?,
            kernel: inside_lab(&self.kernel)?,
            initrd: self.initrd.as_ref().map(inside_lab).transpose()?,
            image,
            handover: self.handover.as_ref().map(inside_lab).transpose()?,
            family,
            method: self.method.as_ref().map(parsed).transpose()?,
            cmdline: line,
            min_ram: self.min_ram.as_ref().map_or(Ok(ByteSize(256 << 20)), parsed)?,
            cpu: self
                .cpu
                .iter()
                .map(|f| cpu_flag(f.as_ref()).map_err(|e| (f.span().start, e)))
                .collect::<At<_>>()?,
            firmware: self.firmware.as_ref().map(parsed).transpose()?,
            rooms: self.rooms.iter().map(|r| line_of_text(r, "rooms", 40)).collect::<At<_>>()?,
        })
    }

    /// An image, its family and its handover part belong together.
    fn check_image(&self, family: Family) -> At<()> {
        let Some(image) = &self.image else {
            let at = |value: &Option<Spanned<String>>| value.as_ref().map_or(0, |v| v.span().start);
            return match (family, &self.handover, &self.method) {
                (Family::Plain, None, None) => Ok(()),
                (Family::Plain, Some(_), _) => {
                    Err((at(&self.handover), "a `handover` part needs an `image`".into()))
                }
                (Family::Plain, None, Some(_)) => {
                    Err((at(&self.method), "a `method` needs an `image`".into()))
                }
                (family, ..) => {
                    Err((at(&self.family), format!("family `{}` needs an `image`", family.name())))
                }
            };
        };
        let missing = if family == Family::Plain {
            "an `image` needs a `family` that says how the system finds it, such as `family = \"debian-live\"`"
        } else if self.initrd.is_none() {
            "an `image` needs an `initrd`: its programs mount the image"
        } else if self.handover.is_none() {
            "an `image` needs a `handover` part, which turns it into a disk of the booted system; `bt-server add` makes \
             the part and the entry"
        } else {
            return Ok(());
        };
        Err((image.span().start, missing.into()))
    }
}

fn parsed<T: FromStr<Err = String>>(value: &Spanned<String>) -> At<T> {
    value.as_ref().parse().map_err(|e| (value.span().start, e))
}

/// One line of text of at most `most` characters, without the blanks around it; `key` is for messages.
///
/// # Errors
/// Its place as a byte offset, and what is wrong with it.
pub fn line_of_text(
    value: &Spanned<String>,
    key: &str,
    most: usize,
) -> Result<String, (usize, String)> {
    let text = value.as_ref().trim();
    let cause = if text.chars().any(char::is_control) {
        format!("`{key}` holds a line break or another control character")
    } else if text.chars().count() > most {
        format!("`{key}` has {} characters; the maximum is {most}", text.chars().count())
    } else {
        return Ok(text.to_owned());
    };
    Err((value.span().start, cause))
}

/// A relative path that cannot leave the lab folder.
fn inside_lab(value: &Spanned<String>) -> At<PathBuf> {
    let path = Path::new(value.as_ref());
    let plain = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if plain && path.file_name().is_some() {
        return Ok(path.components().filter(|c| *c != Component::CurDir).collect());
    }
    let cause = format!(
        "`{}` is not a path inside the lab folder; expected for example \"images/debian-12/vmlinuz\"",
        value.as_ref()
    );
    Err((value.span().start, cause))
}

fn icon(value: &Spanned<String>) -> At<EntryIcon> {
    let text = value.as_ref().as_str();
    let wrong = |cause: String| Err((value.span().start, cause));
    if text.ends_with(".png") || text.ends_with(".svg") {
        return match Path::new(text).components().collect::<Vec<_>>()[..] {
            [Component::Normal(_)] => Ok(EntryIcon::File(text.into())),
            _ => wrong(format!(
                "icon `{text}` must be a file in the same folder as this entry, without a path"
            )),
        };
    }
    match text.parse::<SystemId>() {
        Ok(_) => Ok(EntryIcon::Named(text.to_owned())),
        Err(_) => wrong(format!("icon `{text}` is neither a plain name nor a .png or .svg file")),
    }
}

fn cmdline(value: &Spanned<String>, family: Family) -> At<String> {
    // x86's COMMAND_LINE_SIZE is 2048.
    let most = if family == Family::Plain { 2000 } else { 2048 - RESERVED };
    let text = value.as_ref().split_whitespace().collect::<Vec<_>>().join(" ");
    let cause = if !text.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        "`cmdline` holds a character that a kernel command line cannot: printable ASCII only".into()
    } else if text.len() > most {
        format!("`cmdline` has {} characters; the maximum is {most}", text.len())
    } else {
        return Ok(text);
    };
    Err((value.span().start, cause))
}

/// Line and column (both from 1, columns in characters) of a byte offset.
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> SystemId {
        "debian-12".parse().expect("a valid id")
    }

    fn refused(text: &str, line: usize, part: &str) {
        let error = Entry::parse(id(), text).expect_err("must be refused");
        assert_eq!(error.line, line, "{error}");
        assert!(error.cause.contains(part), "{error}");
    }

    const SMALL: &str = "name = \"Debian\"\nkernel = \"images/d/vmlinuz\"\n";

    const IMAGE: &str = "name = \"Debian\"\nkernel = \"images/d/vmlinuz\"\ninitrd = \"images/d/initrd\"\n\
                         image = \"images/d/live.iso\"\nhandover = \"images/d/handover.cpio\"\nfamily = \"debian-live\"\n";

    #[test]
    fn an_entry_with_an_image_names_every_file() {
        let more = "method = \"initrd\"\ncpu = [\"avx2\"]\nfirmware = \"uefi\"\n";
        let entry = Entry::parse(id(), &format!("{IMAGE}{more}")).expect("valid");
        assert_eq!(entry.files().iter().map(|(role, _)| *role).collect::<Vec<_>>(), Role::ALL);
        assert_eq!(
            (entry.method, entry.firmware),
            (Some(BootMethod::Initrd), Some(Firmware::Uefi))
        );
        assert_eq!(entry.cpu, ["avx2"]);
    }

    #[test]
    fn the_first_releases_word_for_the_boot_method_still_works() {
        let entry = |more: &str| Entry::parse(id(), &format!("{IMAGE}{more}"));
        assert_eq!(entry("way = \"pmem\"\n"), entry("method = \"pmem\"\n"));
        assert_eq!(entry("way = \"pmem\"\n").expect("valid").method, Some(BootMethod::Pmem));
        refused(&format!("{IMAGE}way = \"pmem\"\nmethod = \"pmem\"\n"), 7, "keep one");
    }

    #[test]
    fn a_small_entry_has_sensible_defaults() {
        let entry = Entry::parse(id(), SMALL).expect("valid");
        assert_eq!(entry.family, Family::Plain);
        assert_eq!(entry.icon, EntryIcon::Named("linux".into()));
        assert_eq!(entry.files(), [(Role::Kernel, Path::new("images/d/vmlinuz"))]);
    }

    #[test]
    fn every_example_is_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let mut seen = 0;
        for file in std::fs::read_dir(folder).expect("the examples exist") {
            let path = file.expect("readable").path();
            let text = std::fs::read_to_string(&path).expect("readable");
            let id = path.file_stem().and_then(|s| s.to_str()).expect("a name").parse();
            Entry::parse(id.expect("a valid id"), &text)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            seen += 1;
        }
        assert!(seen >= 3, "only {seen} examples");
    }

    #[test]
    fn mistakes_are_found_where_they_stand() {
        refused("name = \"x\"\n", 1, "missing field `kernel`");
        refused(&format!("{SMALL}min_rma = \"1 GiB\"\n"), 3, "unknown field `min_rma`");
        refused(&format!("{SMALL}min_ram = \"lots\"\n"), 3, "not a size");
        refused(&format!("{SMALL}initrd = \"../../etc/shadow\"\n"), 3, "inside the lab");
        refused(&format!("{SMALL}image = \"images/d/live.iso\"\n"), 3, "needs a `family`");
        refused(&format!("{SMALL}family = \"casper\"\n"), 3, "needs an `image`");
        refused(&format!("{SMALL}handover = \"images/d/h\"\n"), 3, "needs an `image`");
        refused(&format!("{SMALL}method = \"pmem\"\n"), 3, "needs an `image`");
        refused(&format!("{IMAGE}cmdline = \"toram\"\n"), 7, "take the word out");
        refused(&format!("{IMAGE}method = \"tape\"\n"), 7, "\"pmem\" or \"initrd\"");
        refused(&IMAGE.replace("handover", "#"), 4, "`bt-server add` makes the part");
        refused(&IMAGE.replace("initrd ", "#"), 4, "needs an `initrd`");
        refused(&format!("{SMALL}cpu = [\"AVX 2\"]\n"), 3, "/proc/cpuinfo");
        refused(&format!("{SMALL}firmware = \"coreboot\"\n"), 3, "\"bios\" or \"uefi\"");
        refused(&format!("{SMALL}family = \"windows\"\n"), 3, "one of: plain");
        refused(&format!("{SMALL}cmdline = \"quiet \\u0007\"\n"), 3, "printable ASCII");
        refused(&format!("{SMALL}icon = \"../x.png\"\n"), 3, "same folder");
        refused("name = \"\"\nkernel = \"k\"\n", 1, "empty");
        refused("name = \"a\nkernel = 3\n", 1, "");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,200}") {
            let _checked = Entry::parse(id(), &text);
        }
    }
}
