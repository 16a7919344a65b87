//! Core: a supervisor's TOML file -> [`Entry`], and the small types that the format is made of.
//!
//! Every key is documented in `docs/supervisor/catalog.md`; unknown keys are refused, so that a
//! misspelt `min_rma` is found when it is written and not when a student waits.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;
use toml::Spanned;

use crate::families::RESERVED;
use crate::{EntryError, Family, Way};

/// A system's name in URLs, file names and torrents: `[a-z0-9][a-z0-9._-]*`, at most 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SystemId(String);

impl SystemId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SystemId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let first = text.chars().next().is_some_and(fits);
        let rest = text.chars().all(|c| fits(c) || "._-".contains(c));
        if first && rest && text.len() <= 63 {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{text}` is no system id: use lower-case letters, digits, `.`, `_` and `-`, begin with a \
             letter or digit, 63 characters at most"
        ))
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! hex_newtype {
    ($name:ident, $bytes:literal, $what:literal) => {
        #[doc = $what]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text.trim(), &mut bytes).map_err(|e| {
                    format!("`{text}` is not {} hexadecimal digits: {e}", 2 * $bytes)
                })?;
                Ok(Self(bytes))
            }
        }
    };
}

hex_newtype!(Digest, 32, "SHA-256 of a file; shown and read as 64 hexadecimal digits.");
hex_newtype!(Infohash, 20, "BitTorrent v1 infohash (BEP 3): SHA-1 of the info dictionary.");
hex_newtype!(LabId, 16, "Random name of a lab, so that one lab's catalog is nothing to another.");

/// A number of bytes as people write it: `512 MiB`, `2 GiB`, `1500 MB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no size: write for example \"512 MiB\" or \"2 GiB\"");
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor: u64 = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * factor as f64;
        // 2^53: every whole number below it is exact in an f64, and no PC holds as much.
        if !(0.0..9_007_199_254_740_992.0).contains(&bytes) {
            return Err(wrong());
        }
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        for (size, unit) in UNITS {
            if self.0 >= size {
                let value = self.0 as f64 / size as f64;
                return if value < 10.0 && !self.0.is_multiple_of(size) {
                    write!(f, "{value:.1} {unit}")
                } else {
                    write!(f, "{value:.0} {unit}")
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// What one file of a system is for. Its name in torrent and catalog is the same word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The hand-over part: a cpio archive that makes the image a block device, put behind the initrd.
    Handover,
    /// The root file system: an ISO or squashfs, handed over in memory.
    Image,
    /// The system's own initrd.
    Initrd,
    /// The Linux kernel (bzImage).
    Kernel,
}

impl Role {
    /// All roles, in the order of their names: the order of files in a torrent.
    pub const ALL: [Self; 4] = [Self::Handover, Self::Image, Self::Initrd, Self::Kernel];

    /// The file's name in the torrent and in the catalog.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handover => "handover",
            Self::Image => "image",
            Self::Initrd => "initrd",
            Self::Kernel => "kernel",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|r| r.name() == text).ok_or_else(|| {
            format!("`{text}` is no file of a system (handover, image, initrd or kernel)")
        })
    }
}

/// The firmware that a system needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Firmware {
    /// Legacy BIOS, or UEFI's support for it.
    Bios,
    /// UEFI.
    Uefi,
}

impl Firmware {
    /// The name in TOML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        }
    }
}

impl FromStr for Firmware {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bios" => Ok(Self::Bios),
            "uefi" => Ok(Self::Uefi),
            _ => Err(format!(
                "firmware `{text}` is not known; \"bios\" or \"uefi\", or leave it out"
            )),
        }
    }
}

/// A processor feature as `/proc/cpuinfo` calls it: `avx2`, `sse4_2`.
pub(crate) fn cpu_flag(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !text.is_empty() && text.len() <= 40 && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is no processor feature; write it as in /proc/cpuinfo, such as \"avx2\""))
}

/// The picture beside a system's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryIcon {
    /// One of the picker's own drawings, such as `debian` or `terminal`.
    Named(String),
    /// A PNG or SVG file beside the entry, one plain file name.
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
    /// Hand-over part, relative to the lab folder; exactly where there is an image.
    pub handover: Option<PathBuf>,
    /// How the system finds its image; `Plain` exactly where there is no image.
    pub family: Family,
    /// The one way its image may go, where the supervisor chose one.
    pub way: Option<Way>,
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
    fn check(self, id: SystemId) -> At<Entry> {
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
            way: self.way.as_ref().map(parsed).transpose()?,
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

    /// An image, its family and its hand-over part belong together.
    fn check_image(&self, family: Family) -> At<()> {
        let Some(image) = &self.image else {
            let at = |value: &Option<Spanned<String>>| value.as_ref().map_or(0, |v| v.span().start);
            return match (family, &self.handover, &self.way) {
                (Family::Plain, None, None) => Ok(()),
                (Family::Plain, Some(_), _) => {
                    Err((at(&self.handover), "a `handover` part needs an `image`".into()))
                }
                (Family::Plain, None, Some(_)) => {
                    Err((at(&self.way), "a `way` needs an `image`".into()))
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
            "an `image` needs a `handover` part, which makes it a disk of the started system; `bt-server add` makes it, \
             and this whole entry"
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
        format!("`{key}` has {} characters, {most} are the most", text.chars().count())
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
        "`{}` is no path inside the lab folder; write for example \"images/debian-12/vmlinuz\"",
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
            _ => wrong(format!("icon `{text}` must be a file beside this one, without a folder")),
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
        format!("`cmdline` has {} characters, {most} are the most", text.len())
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
        let more = "way = \"initrd\"\ncpu = [\"avx2\"]\nfirmware = \"uefi\"\n";
        let entry = Entry::parse(id(), &format!("{IMAGE}{more}")).expect("valid");
        assert_eq!(entry.files().iter().map(|(role, _)| *role).collect::<Vec<_>>(), Role::ALL);
        assert_eq!((entry.way, entry.firmware), (Some(Way::Initrd), Some(Firmware::Uefi)));
        assert_eq!(entry.cpu, ["avx2"]);
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
        refused(&format!("{SMALL}min_ram = \"lots\"\n"), 3, "no size");
        refused(&format!("{SMALL}initrd = \"../../etc/shadow\"\n"), 3, "inside the lab");
        refused(&format!("{SMALL}image = \"images/d/live.iso\"\n"), 3, "needs a `family`");
        refused(&format!("{SMALL}family = \"casper\"\n"), 3, "needs an `image`");
        refused(&format!("{SMALL}handover = \"images/d/h\"\n"), 3, "needs an `image`");
        refused(&format!("{SMALL}way = \"pmem\"\n"), 3, "needs an `image`");
        refused(&format!("{IMAGE}cmdline = \"toram\"\n"), 7, "take the word out");
        refused(&format!("{IMAGE}way = \"tape\"\n"), 7, "\"pmem\" or \"initrd\"");
        refused(&IMAGE.replace("handover", "#"), 4, "`bt-server add` makes it");
        refused(&IMAGE.replace("initrd ", "#"), 4, "needs an `initrd`");
        refused(&format!("{SMALL}cpu = [\"AVX 2\"]\n"), 3, "/proc/cpuinfo");
        refused(&format!("{SMALL}firmware = \"coreboot\"\n"), 3, "\"bios\" or \"uefi\"");
        refused(&format!("{SMALL}family = \"windows\"\n"), 3, "one of: plain");
        refused(&format!("{SMALL}cmdline = \"quiet \\u0007\"\n"), 3, "printable ASCII");
        refused(&format!("{SMALL}icon = \"../x.png\"\n"), 3, "beside this one");
        refused("name = \"\"\nkernel = \"k\"\n", 1, "empty");
        refused("name = \"a\nkernel = 3\n", 1, "");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let check = |text: &str, bytes| assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        check("2 GiB", 2 << 30);
        check("1.5GiB", 3 << 29);
        check("1500 MB", 1_500_000_000);
        check("77", 77);
        assert!("-1 GiB".parse::<ByteSize>().is_err());
        assert!("99999999 GiB".parse::<ByteSize>().is_err());
        assert_eq!(ByteSize(3 << 29).to_string(), "1.5 GiB");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,200}") {
            let _checked = Entry::parse(id(), &text);
        }
    }
}
