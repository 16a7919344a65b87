//! Core: [`Catalog`], its order, and its exact bytes (what is signed).
//!
//! The document is TOML so that a supervisor can read it. [`Catalog::to_toml`] gives the bytes that
//! are signed; [`Catalog::parse`] accepts only what passes every check, so a `Catalog` in hand is
//! complete: known files, unique ids, sizes that add up without overflow.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::entry::position;
use crate::values::cpu_flag;
use crate::version::{self, Program, Readable, VersionError};
use crate::{
    BootMethod, ByteSize, CatalogError, Digest, Family, Firmware, Infohash, LabId, Role, SystemId,
};

/// The largest document a node reads, in bytes; 256 systems take about 200 KiB.
pub const MAX_BYTES: usize = 1 << 20;
/// The most systems in one catalog.
pub const MAX_SYSTEMS: usize = 256;
const DOCUMENT: &str = "catalog.toml";

/// Everything a lab offers, as it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// The lab it belongs to.
    pub lab_id: LabId,
    /// The lab's name, as the picker shows it.
    pub lab_name: String,
    /// Grows with every publication.
    pub version: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// After this a node refuses it.
    pub expires: Timestamp,
    /// The system that starts by itself after `timeout_secs`.
    pub default: Option<SystemId>,
    /// Seconds of the countdown to the default.
    pub timeout_secs: u32,
    /// In the order of the menu.
    pub systems: Vec<System>,
    /// Systems that need newer boot files than these, in the order of the menu. None is startable.
    pub too_new: Vec<TooNew>,
}

/// A system that this build cannot start, since it needs a newer version of the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooNew {
    /// Its id.
    pub id: SystemId,
    /// What a student reads.
    pub name: String,
    /// Rooms that see it; empty: all.
    pub rooms: Vec<String>,
    /// Why it cannot start here, and what to update.
    pub why: VersionError,
}

/// The icon of a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Icon {
    /// One of the picker's own drawings.
    Named(String),
    /// A PNG or SVG file, served as `/icons/<digest>`.
    File(Digest),
}

/// One system that a node can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// Its id: also the torrent's name.
    pub id: SystemId,
    /// What a student reads.
    pub name: String,
    /// One line below the name.
    pub note: String,
    /// The picture.
    pub icon: Icon,
    /// Rooms that see it; empty: all.
    pub rooms: Vec<String>,
    /// The exact kernel command line.
    pub cmdline: String,
    /// What the system needs itself, without its files.
    pub min_ram: ByteSize,
    /// How it finds its image.
    pub family: Family,
    /// The only boot method its image may take, if the supervisor chose one.
    pub method: Option<BootMethod>,
    /// Memory that its kernel needs to start (`init_size` of its header); 0 where it is not known.
    pub kernel_memory: ByteSize,
    /// Whether its kernel carries a signature for Secure Boot.
    pub kernel_signed: bool,
    /// Processor features it needs, as `/proc/cpuinfo` calls them.
    pub cpu: Vec<String>,
    /// The firmware it needs, where it does not start with both.
    pub firmware: Option<Firmware>,
    /// Magnet link (BEP 9), for stock BitTorrent clients.
    pub magnet: String,
    /// The torrent's infohash.
    pub infohash: Infohash,
    /// SHA-256 of the .torrent file.
    pub torrent_sha256: Digest,
    /// Every file, in the torrent's order.
    pub files: Vec<SystemFile>,
}

/// One file of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemFile {
    /// What it is for; its name in the torrent is `role.name()`.
    pub role: Role,
    /// Length in bytes.
    pub length: u64,
    /// SHA-256 of all its bytes.
    pub sha256: Digest,
}

impl System {
    /// Bytes of all files together.
    pub fn total(&self) -> u64 {
        self.files.iter().map(|f| f.length).sum()
    }

    /// The file of a role, if the system has one.
    pub fn file(&self, role: Role) -> Option<&SystemFile> {
        self.files.iter().find(|f| f.role == role)
    }
}

/// What every version of the document has.
#[derive(Deserialize)]
struct Head {
    format: String,
}

#[derive(Serialize, Deserialize)]
struct RawCatalog {
    format: String,
    lab_id: String,
    lab_name: String,
    version: u64,
    issued: String,
    expires: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    timeout_secs: u32,
    // Read one by one: a system of a newer format may have keys of other types.
    #[serde(default, rename = "system", skip_serializing_if = "Vec::is_empty")]
    systems: Vec<toml::Table>,
}

#[derive(Serialize, Deserialize)]
struct RawSystem {
    id: String,
    #[serde(default = "first", skip_serializing_if = "is_first")]
    needs: u32,
    name: String,
    note: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    icon: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icon_sha256: Option<String>,
    rooms: Vec<String>,
    cmdline: String,
    min_ram_bytes: u64,
    family: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // The first boot files know the key by this name only.
    way: Option<String>,
    #[serde(default)]
    kernel_memory_bytes: u64,
    #[serde(default)]
    kernel_signed: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cpu: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    firmware: Option<String>,
    magnet: String,
    infohash: String,
    torrent_sha256: String,
    files: Vec<RawFile>,
}

#[derive(Serialize, Deserialize)]
struct RawFile {
    name: String,
    length: u64,
    sha256: String,
}

/// What every system's table has, whatever its version.
#[derive(Deserialize)]
struct RawHead {
    id: String,
    name: String,
    #[serde(default = "first")]
    needs: u32,
    #[serde(default)]
    rooms: Vec<String>,
}

fn first() -> u32 {
    1
}

/// Left out where it says nothing: the first release's boot files refuse every key they do not know.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first(needs: &u32) -> bool {
    *needs == first()
}

const NAME: &str = "bt-catalog";
/// The lowest version that reads what [`Catalog::to_toml`] writes; see [`version`].
const FORMAT: u32 = 1;
/// What is read, of the document and of each system.
const READABLE: Readable =
    Readable { oldest: 1, newest: 1, reader: Program::BootFiles, writer: Program::Server };

impl Catalog {
    /// The bytes to sign and publish.
    pub fn to_toml(&self) -> String {
        let raw = RawCatalog {
            format: format!("{NAME}-v{FORMAT}"),
            lab_id: self.lab_id.to_string(),
            lab_name: self.lab_name.clone(),
            version: self.version,
            issued: self.issued.to_string(),
            expires: self.expires.to_string(),
            default: self.default.as_ref().map(ToString::to_string),
            timeout_secs: self.timeout_secs,
            systems: self.systems.iter().map(|system| RawSystem::from(system).to_table()).collect(),
        };
        let text = toml::to_string(&raw).expect("plain strings and numbers always serialise");
        format!(
            "# What this lab's PCs can boot. Written and signed by bt-server; do not edit.\n{text}"
        )
    }

    /// Reads a catalog whose signature has been verified already.
    ///
    /// # Errors
    /// [`CatalogError::Version`] where it needs other boot files, else [`CatalogError::Invalid`] with
    /// the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, CatalogError> {
        let invalid = |cause| CatalogError::Invalid { document: DOCUMENT, cause };
        // First the version alone: what else there is may have changed its type since.
        let head: Head = read(bytes).map_err(invalid)?;
        let format = version::of_word(&head.format, NAME).ok_or_else(|| {
            invalid(format!("its format is `{}`; expected `{NAME}-v{FORMAT}`", head.format))
        })?;
        READABLE.check("the catalog", format)?;
        check(read(bytes).map_err(invalid)?).map_err(invalid)
    }

    /// The system of that id.
    pub fn system(&self, id: &SystemId) -> Option<&System> {
        self.systems.iter().find(|s| s.id == *id)
    }
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("it has {} bytes; the maximum is {MAX_BYTES}", bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| format!("it is not UTF-8: {e}"))?;
    toml::from_str(text).map_err(|e| {
        let (line, column) = position(text, e.span().map_or(0, |s| s.start));
        format!("line {line}, column {column}: {}", e.message())
    })
}

fn check(raw: RawCatalog) -> Result<Catalog, String> {
    if raw.systems.len() > MAX_SYSTEMS {
        return Err(format!("it has {} systems; the maximum is {MAX_SYSTEMS}", raw.systems.len()));
    }
    let (mut systems, mut too_new, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for table in raw.systems {
        let head: RawHead = from_table(table.clone())?;
        let id: SystemId = head.id.parse()?;
        if head.needs == 0 {
            return Err(format!("system `{id}` has needs = 0; versions begin with 1"));
        }
        if !seen.insert(id.clone()) {
            return Err(format!("system `{id}` is in it twice"));
        }
        match READABLE.check(&format!("system `{id}`"), head.needs) {
            Ok(()) => systems.push(from_table::<RawSystem>(table)?.check()?),
            Err(why) => too_new.push(TooNew { id, name: head.name, rooms: head.rooms, why }),
        }
    }
    let default = raw.default.map(|d| d.parse::<SystemId>()).transpose()?;
    if let Some(default) = default.as_ref().filter(|d| !seen.contains(d)) {
        return Err(format!("the default `{default}` is not one of its systems"));
    }
    let time =
        |t: &str| t.parse::<Timestamp>().map_err(|e| format!("`{t}` is not a timestamp: {e}"));
    Ok(Catalog {
        lab_id: raw.lab_id.parse()?,
        lab_name: raw.lab_name,
        version: raw.version,
        issued: time(&raw.issued)?,
        expires: time(&raw.expires)?,
        default,
        timeout_secs: raw.timeout_secs,
        systems,
        too_new,
    })
}

fn from_table<T: serde::de::DeserializeOwned>(table: toml::Table) -> Result<T, String> {
    let id = table.get("id").and_then(toml::Value::as_str).unwrap_or("without id").to_owned();
    table.try_into().map_err(|error: toml::de::Error| format!("system `{id}`: {}", error.message()))
}

impl From<&System> for RawSystem {
    fn from(system: &System) -> Self {
        let (icon, icon_sha256) = match &system.icon {
            Icon::Named(name) => (Some(name.clone()), None),
            Icon::File(digest) => (None, Some(digest.to_string())),
        };
        let file = |f: &SystemFile| RawFile {
            name: f.role.name().into(),
            length: f.length,
            sha256: f.sha256.to_string(),
        };
        Self {
            id: system.id.to_string(),
            // A system that older boot files would start wrongly says a higher number here.
            needs: first(),
            name: system.name.clone(),
            note: system.note.clone(),
            icon,
            icon_sha256,
            rooms: system.rooms.clone(),
            cmdline: system.cmdline.clone(),
            min_ram_bytes: system.min_ram.0,
            family: system.family.name().into(),
            way: system.method.map(|method| method.name().into()),
            kernel_memory_bytes: system.kernel_memory.0,
            kernel_signed: system.kernel_signed,
            cpu: system.cpu.clone(),
            firmware: system.firmware.map(|firmware| firmware.name().into()),
            magnet: system.magnet.clone(),
            infohash: system.infohash.to_string(),
            torrent_sha256: system.torrent_sha256.to_string(),
            files: system.files.iter().map(file).collect(),
        }
    }
}

impl RawSystem {
    fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("plain strings and numbers always serialise")
    }

    fn check(self) -> Result<System, String> {
        let id: SystemId = self.id.parse()?;
        let icon = match (self.icon, self.icon_sha256) {
            (Some(name), None) => Icon::Named(name),
            (None, Some(digest)) => Icon::File(digest.parse()?),
            _ => return Err(format!("system `{id}` needs exactly one of icon and icon_sha256")),
        };
        let mut files = Vec::new();
        for raw in self.files {
            let role: Role = raw.name.parse()?;
            files.push(SystemFile { role, length: raw.length, sha256: raw.sha256.parse()? });
        }
        // Strictly rising: sorted as in the torrent, and none twice.
        if !files.windows(2).all(|w| w[0].role < w[1].role) {
            return Err(format!("the files of `{id}` are not sorted, or one is there twice"));
        }
        if !files.iter().any(|f| f.role == Role::Kernel) {
            return Err(format!("system `{id}` has no kernel"));
        }
        let family: Family = self.family.parse()?;
        let has = |role| files.iter().any(|f| f.role == role);
        let has_image = family != Family::Plain;
        if has(Role::Image) != has_image || has(Role::Handover) != has_image {
            return Err(format!("the files of `{id}` are not those of family `{}`", family.name()));
        }
        family.check(&self.cmdline)?;
        if files.iter().try_fold(0_u64, |sum, f| sum.checked_add(f.length)).is_none() {
            return Err(format!("the files of `{id}` are larger than a number can say"));
        }
        if self.cmdline.chars().any(char::is_control) {
            return Err(format!("the command line of `{id}` holds a control character"));
        }
        Ok(System {
            id,
            name: self.name,
            note: self.note,
            icon,
            rooms: self.rooms,
            cmdline: self.cmdline,
            min_ram: ByteSize(self.min_ram_bytes),
            family,
            method: self.way.map(|method| method.parse()).transpose()?,
            kernel_memory: ByteSize(self.kernel_memory_bytes),
            kernel_signed: self.kernel_signed,
            cpu: self.cpu.iter().map(|flag| cpu_flag(flag)).collect::<Result<_, _>>()?,
            firmware: self.firmware.map(|firmware| firmware.parse()).transpose()?,
            magnet: self.magnet,
            infohash: self.infohash.parse()?,
            torrent_sha256: self.torrent_sha256.parse()?,
            files,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Catalog {
        let at = |s| Timestamp::from_second(s).expect("a valid time");
        let file = |role, length| SystemFile {
            role,
            length,
            sha256: Digest([role.name().len() as u8; 32]),
        };
        Catalog {
            lab_id: LabId([7; 16]),
            lab_name: "Lab A1".into(),
            version: 3,
            issued: at(1_795_000_000),
            expires: at(1_797_592_000),
            default: Some("debian".parse().expect("an id")),
            timeout_secs: 30,
            systems: vec![System {
                id: "debian".parse().expect("an id"),
                name: "Debian \"12\" – Büro".into(),
                note: String::new(),
                icon: Icon::Named("debian".into()),
                rooms: vec!["A1".into()],
                cmdline: "quiet root=/dev/x key=\"a b\"".into(),
                min_ram: ByteSize(1 << 30),
                family: Family::Plain,
                method: None,
                kernel_memory: ByteSize(69_000_000),
                kernel_signed: true,
                cpu: Vec::new(),
                firmware: None,
                magnet: "magnet:?xt=urn:btih:00".into(),
                infohash: Infohash([9; 20]),
                torrent_sha256: Digest([8; 32]),
                files: vec![file(Role::Initrd, 5), file(Role::Kernel, 9)],
            }],
            too_new: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let catalog = sample();
        assert_eq!(Catalog::parse(catalog.to_toml().as_bytes()), Ok(catalog));
    }

    #[test]
    fn a_system_with_an_image_says_all_that_a_node_has_to_check() {
        let mut catalog = sample();
        let system = &mut catalog.systems[0];
        let file = |role| SystemFile { role, length: 4096, sha256: Digest([3; 32]) };
        system.files = Role::ALL.map(file).into();
        system.family = Family::DebianLive;
        system.cmdline = "quiet".into();
        system.method = Some(BootMethod::Pmem);
        system.cpu = vec!["avx2".into()];
        system.firmware = Some(Firmware::Uefi);
        let text = catalog.to_toml();
        assert_eq!(Catalog::parse(text.as_bytes()), Ok(catalog));
        let refused = |from, to| {
            Catalog::parse(text.replace(from, to).as_bytes())
                .expect_err("must be refused")
                .to_string()
        };
        assert!(refused("\"debian-live\"", "\"plain\"").contains("not those of family `plain`"));
        assert!(refused("\"quiet\"", "\"toram\"").contains("take the word out"));
    }

    #[test]
    fn a_catalog_from_before_these_keys_is_still_read() {
        let text = sample().to_toml();
        let new = ["kernel_memory_bytes", "kernel_signed"];
        let old: Vec<_> =
            text.lines().filter(|line| !new.iter().any(|key| line.starts_with(key))).collect();
        let read = Catalog::parse(old.join("\n").as_bytes()).expect("an old catalog");
        assert_eq!(
            (read.systems[0].kernel_memory, read.systems[0].kernel_signed),
            (ByteSize(0), false)
        );
    }

    #[test]
    fn a_key_that_only_a_newer_server_knows_is_passed_over() {
        let text = sample().to_toml();
        let newer = text
            .replace("version = 3\n", "version = 3\ncolour = \"#123456\"\n")
            .replace("note = \"\"\n", "note = \"\"\ngroup = { name = \"Exams\" }\n")
            .replace("length = 9\n", "length = 9\nmode = 1\n");
        assert_eq!(newer.lines().count(), text.lines().count() + 3);
        assert_eq!(Catalog::parse(newer.as_bytes()), Ok(sample()));
    }

    #[test]
    fn a_system_that_needs_newer_boot_files_costs_only_itself() {
        let text = sample().to_toml();
        let (_, debian) = text.split_once("[[system]]\n").expect("one system");
        // Its keys mean whatever that version says: nothing of them is read but what all have.
        let newer = "id = \"next\"\nname = \"Next\"\nneeds = 2\ncmdline = 7\nfamily = \"root\"\n";
        let both = format!("{text}[[system]]\n{newer}");
        let catalog = Catalog::parse(both.as_bytes()).expect("the older system still boots");
        assert_eq!(catalog.systems, sample().systems);
        let [next] = &catalog.too_new[..] else { panic!("{:?}", catalog.too_new) };
        assert_eq!((next.id.as_str(), next.name.as_str()), ("next", "Next"));
        let why = next.why.to_string();
        assert!(why.contains("bt-initramfs build"), "{why}");
        let twice = format!("{text}[[system]]\nneeds = 2\n{debian}");
        let refused = Catalog::parse(twice.as_bytes()).expect_err("two of one id").to_string();
        assert!(refused.contains("is in it twice"), "{refused}");
    }

    #[test]
    fn a_catalog_that_needs_newer_boot_files_says_what_to_update() {
        let text = sample().to_toml().replace("bt-catalog-v1", "bt-catalog-v2");
        let error = Catalog::parse(text.as_bytes()).expect_err("must be refused");
        assert!(matches!(error, CatalogError::Version(VersionError::TooNew { found: 2, .. })));
        assert!(error.to_string().contains("rebuild the PCs' boot files"), "{error}");
    }

    #[test]
    fn a_newer_catalog_is_told_apart_from_a_broken_one_whatever_else_it_says() {
        let newer = sample().to_toml().replace("bt-catalog-v1", "bt-catalog-v2");
        for (from, to) in [
            ("timeout_secs = 30", "timeout_secs = \"30 s\""),
            ("lab_name = \"Lab A1\"\n", ""),
            ("[[system]]", "[system]"),
        ] {
            let text = newer.replacen(from, to, 1);
            assert_ne!(text, newer, "{from}");
            let error = Catalog::parse(text.as_bytes()).expect_err("too new");
            assert!(matches!(error, CatalogError::Version(_)), "{error}");
        }
    }

    #[test]
    fn the_first_releases_boot_files_know_every_key_that_is_written() {
        // They refuse a key that they do not know, so none may be added without a higher version.
        let known = [
            "format",
            "lab_id",
            "lab_name",
            "version",
            "issued",
            "expires",
            "default",
            "timeout_secs",
            "id",
            "name",
            "note",
            "icon",
            "rooms",
            "cmdline",
            "min_ram_bytes",
            "family",
            "kernel_memory_bytes",
            "kernel_signed",
            "magnet",
            "infohash",
            "torrent_sha256",
            "length",
            "sha256",
        ];
        let text = sample().to_toml();
        for key in text.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
            assert!(known.contains(&key), "{key}");
        }
    }

    fn refused(change: impl Fn(&str) -> String, part: &str) {
        let text = change(&sample().to_toml());
        let error = Catalog::parse(text.as_bytes()).expect_err("must be refused").to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn half_valid_catalogs_do_not_get_out() {
        refused(|t| t.replace("bt-catalog-v1", "bt-keys-v1"), "its format is `bt-keys-v1`");
        refused(|t| t.replace("name = \"kernel\"", "name = \"initrd\""), "not sorted");
        refused(|t| t.replace("default = \"debian\"", "default = \"other\""), "not one of");
        refused(|t| t.replace("length = 9\n", ""), "system `debian`: missing field `length`");
        refused(|t| t.replace("version = 3\n", ""), "missing field `version`");
        refused(|t| t.replace("id = \"debian\"\n", "id = \"debian\"\nneeds = 0\n"), "needs = 0");
        refused(|t| t.replace("name = \"kernel\"", "name = \"../kernel\""), "unknown file");
        refused(|t| t.replace("icon = \"debian\"\n", ""), "exactly one of");
        refused(|t| format!("{t}{}", t.split_once("[[system]]").map_or("", |(_, s)| s)), "");
        refused(|t| t.replace("length = 9", "length = 18446744073709551615"), "");
        refused(|t| format!("{t}#{}", " ".repeat(MAX_BYTES)), "the maximum is");
    }
}
