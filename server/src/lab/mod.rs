//! Shell: the lab folder: where everything is, and what the supervisor wrote into it.
//!
//! ```text
//! server.toml          the server's settings
//! catalog/*.toml       one system per file; icons beside them
//! images/<id>/         the files of each system; opened read-only, always
//! keys/                root and signing key; never served
//! state/               leases, what is published, boot files, pid, socket, log
//! ```
//! [`Lab::read_offer`] reads it all and returns either a whole [`Offer`] or every [`Finding`] that
//! stands against it, so that a supervisor corrects all mistakes at once.

pub mod config;
pub mod files;
pub mod instance;
pub mod keyring;
pub mod network_check;
pub mod watcher;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bt_catalog::{Entry, EntryIcon, KERNEL_HEADER_BYTES, KernelHeader, MAX_SYSTEMS, SystemId};

use crate::lab::config::{Config, ConfigError, NamedSystem, Place};
use crate::lab::files::{Finding, SourceFile, read_bounded, stamp_of_file};

/// Larger configuration files are refused unread: no supervisor writes a megabyte.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Larger icons are refused: every node of a room fetches each of them.
const MAX_ICON_BYTES: u64 = 512 << 10;

/// A lab folder that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lab {
    root: PathBuf,
}

/// Why a folder is no lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// There is no `server.toml`.
    #[error(
        "{} is not a lab folder: it has no server.toml; go to the lab's folder, name it with --lab, or \
         create one with `bt-server init {}`", .0.display(), .0.display()
    )]
    NotALab(PathBuf),
    /// The folder itself cannot be reached.
    #[error("cannot open the lab folder {}", path.display())]
    Unreachable {
        /// As it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Lab {
    /// The lab in an existing folder.
    ///
    /// # Errors
    /// Where the folder does not exist or holds no `server.toml`.
    pub fn open(folder: &Path) -> Result<Self, LabError> {
        let unreachable = |source| LabError::Unreachable { path: folder.to_owned(), source };
        let root = folder.canonicalize().map_err(unreachable)?;
        let lab = Self { root };
        if lab.config_file().exists() { Ok(lab) } else { Err(LabError::NotALab(lab.root)) }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `server.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.root.join("server.toml")
    }

    /// The folder of the entries.
    pub fn catalog(&self) -> PathBuf {
        self.root.join("catalog")
    }

    /// The folder of the systems' files.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The folder of the keys.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// The server's own folder.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Locks, sockets and logs of processes that play only some of the roles.
    pub fn run(&self) -> PathBuf {
        self.state().join("run")
    }

    /// What is published, as files.
    pub fn published(&self) -> PathBuf {
        self.state().join("published")
    }

    /// The nodes' small Linux.
    pub fn boot(&self) -> PathBuf {
        self.state().join("boot")
    }

    /// The boot files that every node needs.
    pub fn boot_files(&self) -> [PathBuf; 2] {
        [self.boot().join("vmlinuz"), self.boot().join("initrd.img")]
    }

    /// The lease log.
    pub fn leases(&self) -> PathBuf {
        self.state().join("leases")
    }

    /// `path` as the supervisor knows it: relative to the lab.
    pub fn name_of(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    /// Reads `server.toml`.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn read_config(&self) -> Result<Config, Finding> {
        let text = self.read_text(&self.config_file())?;
        Config::parse(&text).map_err(|ConfigError { place, cause }| {
            Finding::blocking(
                format!("server.toml, line {}, column {}", place.line, place.column),
                cause,
            )
        })
    }

    /// Reads everything that the catalog is made of, and the state of every file it names.
    ///
    /// # Errors
    /// All that stands against it: at least one finding.
    pub fn read_offer(&self) -> Result<Offer, Vec<Finding>> {
        let mut findings = Vec::new();
        let config = self.read_config().map_err(|finding| findings.push(finding)).ok();
        let mut systems = Vec::new();
        match self.entry_files() {
            Ok(files) => {
                for file in files {
                    match self.read_system(&file) {
                        Ok(system) => systems.push(system),
                        Err(mut found) => findings.append(&mut found),
                    }
                }
            }
            Err(finding) => findings.push(finding),
        }
        if systems.len() > MAX_SYSTEMS {
            let what = format!("there are {} entries; the maximum is {MAX_SYSTEMS}", systems.len());
            findings.push(Finding::blocking("catalog/".to_owned(), what));
        }
        if let Some(config) = config.as_ref().filter(|_| findings.is_empty()) {
            findings.extend(unknown_systems(config, &systems));
            findings.extend(hidden_systems(config, &systems));
        }
        match config {
            Some(config) if findings.is_empty() => Ok(Offer { config, systems }),
            _ => Err(findings),
        }
    }

    /// `catalog/*.toml`, sorted; editors' hidden and backup files are none.
    fn entry_files(&self) -> Result<Vec<PathBuf>, Finding> {
        let list = || -> io::Result<Vec<PathBuf>> {
            let mut files = Vec::new();
            for item in fs::read_dir(self.catalog())? {
                let path = item?.path();
                let is_hidden =
                    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
                if !is_hidden && path.extension().is_some_and(|e| e == "toml") {
                    files.push(path);
                }
            }
            files.sort();
            Ok(files)
        };
        list().map_err(|error| {
            Finding::blocking("catalog/".to_owned(), format!("cannot be listed: {error}"))
        })
    }

    /// Reads one entry and the state of every file that it names.
    ///
    /// # Errors
    /// All that stands against it: at least one finding.
    pub fn system(&self, id: &SystemId) -> Result<OfferedSystem, Vec<Finding>> {
        self.read_system(&self.catalog().join(format!("{id}.toml")))
    }

    fn read_system(&self, file: &Path) -> Result<OfferedSystem, Vec<Finding>> {
        let name = self.name_of(file);
        let one = |finding| vec![finding];
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        let id: SystemId = stem.parse().map_err(|cause: String| {
            one(Finding::blocking(name.clone(), format!("the file's name is the id, and {cause}")))
        })?;
        let text = self.read_text(file).map_err(one)?;
        let entry = Entry::parse(id, &text).map_err(|e| {
            one(Finding::blocking(format!("{name}, line {}, column {}", e.line, e.column), e.cause))
        })?;
        let mut findings = Vec::new();
        let mut files = Vec::new();
        for (role, relative) in entry.files() {
            let path = self.root.join(relative);
            match stamp_of_file(&path) {
                Ok(stamp) => files.push(SourceFile { role, path, stamp }),
                Err(why) => findings.push(Finding::blocking(
                    name.clone(),
                    format!("its {} {} {why}", role.name(), relative.display()),
                )),
            }
        }
        let icon = match &entry.icon {
            EntryIcon::Named(_) => None,
            EntryIcon::File(icon) => match read_icon(&self.catalog().join(icon)) {
                Ok(icon) => Some(icon),
                Err(why) => {
                    let what = format!("its icon catalog/{} {why}", icon.display());
                    findings.push(Finding::blocking(name, what));
                    None
                }
            },
        };
        if !findings.is_empty() {
            return Err(findings);
        }
        let kernel = kernel_header(&self.root.join(&entry.kernel)).ok();
        Ok(OfferedSystem { entry, files, icon, kernel })
    }

    fn read_text(&self, path: &Path) -> Result<String, Finding> {
        let blocking = |what: String| Finding::blocking(self.name_of(path), what);
        let bytes = read_bounded(path, MAX_TEXT_BYTES)
            .map_err(|error| blocking(format!("cannot be read: {error}")))?;
        String::from_utf8(bytes).map_err(|_| blocking("is not UTF-8 text".to_owned()))
    }
}

/// Systems that `server.toml` names and nobody made, each where it stands.
fn unknown_systems(config: &Config, systems: &[OfferedSystem]) -> Vec<Finding> {
    let ids: Vec<_> = systems.iter().map(|system| system.entry.id.as_str()).collect();
    let there_is = if ids.is_empty() { "there is none yet".to_owned() } else { ids.join(", ") };
    let unknown = config.systems().filter(|named| !ids.contains(&named.id.as_str()));
    let finding = |named: &NamedSystem| {
        let Place { line, column } = named.place;
        Finding::blocking(
            format!("server.toml, line {line}, column {column}"),
            format!("`{}` is not a system of catalog/ ({there_is})", named.id),
        )
    };
    unknown.map(finding).collect()
}

/// Systems that PCs shall start in rooms where they are not to be seen: those PCs would stop.
fn hidden_systems(config: &Config, systems: &[OfferedSystem]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (named, room) in config.nodes.systems_by_room() {
        let Some(system) = systems.iter().find(|system| system.entry.id == named.id) else {
            continue;
        };
        let rooms = &system.entry.rooms;
        if rooms.is_empty() || room.as_ref().is_some_and(|room| rooms.contains(room)) {
            continue;
        }
        let Place { line, column } = named.place;
        let (id, rooms) = (&named.id, rooms.join(", "));
        let whose = room.map_or("PCs without a room".to_owned(), |room| format!("room {room}"));
        findings.push(Finding::blocking(
            format!("server.toml, line {line}, column {column}"),
            format!(
                "`{id}` is not for {whose}: `rooms` in catalog/{id}.toml has only {rooms}; add the \
                 room there or name another system here"
            ),
        ));
    }
    findings
}

/// Everything that one catalog is made of, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// `server.toml`.
    pub config: Config,
    /// The systems in the menu's order.
    pub systems: Vec<OfferedSystem>,
}

/// One system and the files it consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedSystem {
    /// Its entry.
    pub entry: Entry,
    /// Its files in the torrent's order.
    pub files: Vec<SourceFile>,
    /// Its icon, where that is a file.
    pub icon: Option<IconFile>,
    /// What its kernel says about itself; `None` where that is no Linux kernel.
    pub kernel: Option<KernelHeader>,
}

/// An icon that nodes can draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IconFile {
    /// PNG or SVG.
    pub bytes: Vec<u8>,
    /// For the `Content-Type` header.
    pub content_type: &'static str,
}

/// What a kernel file says about itself.
///
/// # Errors
/// A file that cannot be read, or is no kernel.
pub fn kernel_header(path: &Path) -> io::Result<KernelHeader> {
    let mut start = Vec::new();
    File::open(path)?.take(KERNEL_HEADER_BYTES as u64).read_to_end(&mut start)?;
    KernelHeader::parse(&start).map_err(io::Error::other)
}

fn read_icon(path: &Path) -> Result<IconFile, String> {
    let bytes = read_bounded(path, MAX_ICON_BYTES).map_err(|e| format!("cannot be read: {e}"))?;
    let is_png = bytes.starts_with(b"\x89PNG\r\n\x1a\n");
    let is_svg = std::str::from_utf8(&bytes).is_ok_and(|text| text.contains("<svg"));
    match path.extension().and_then(|e| e.to_str()) {
        Some("png") if is_png => Ok(IconFile { bytes, content_type: "image/png" }),
        Some("svg") if is_svg => Ok(IconFile { bytes, content_type: "image/svg+xml" }),
        _ => Err("is not the PNG or SVG image that its name says".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Lab) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("has a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let lab = Lab::open(folder.path()).expect("a lab");
        (folder, lab)
    }

    const SERVER: (&str, &str) = ("server.toml", "interface = \"lo\"\n[dhcp]\nmode = \"off\"\n");
    const ENTRY: &str = "name = \"A\"\nkernel = \"images/a/vmlinuz\"\n";

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let (_folder, lab) = lab_with(files);
        let found = lab.read_offer().expect_err("there must be findings");
        assert!(found.iter().all(|finding| finding.is_blocking));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_lab_is_read_whole() {
        let (_folder, lab) =
            lab_with(&[SERVER, ("catalog/a.toml", ENTRY), ("images/a/vmlinuz", "kernel")]);
        let offer = lab.read_offer().expect("a good lab");
        assert_eq!(offer.systems.len(), 1);
        assert_eq!(offer.systems[0].files[0].stamp.size, 6);
    }

    #[test]
    fn every_mistake_is_told_with_file_and_line() {
        let found = findings(&[
            SERVER,
            ("catalog/a.toml", ENTRY),
            ("catalog/b.toml", "name = \"B\"\nkernl = \"x\"\n"),
            ("catalog/Big.toml", ENTRY),
        ]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("catalog/Big.toml: the file's name is the id"), "{found:?}");
        assert!(found[1].starts_with("catalog/a.toml: its kernel images/a/vmlinuz does not exist"));
        assert!(found[2].starts_with("catalog/b.toml, line 2, column 1: "), "{found:?}");
    }

    #[test]
    fn each_system_that_is_not_there_is_a_mistake_of_server_toml() {
        let text = "interface = \"lo\"\n[dhcp]\nmode = \"off\"\n[menu]\ndefault = \"a\"\n\
                    [node]\npreset = \"b\"\n[[room]]\nname = \"A1\"\ndefault = \"c\"\n\
                    [[host]]\nuuid = \"4c4c4544-0051-3510-8052-b4c04f4a4431\"\npreset = \"d\"\n";
        let found = findings(&[("server.toml", text), ("catalog/x.txt", "")]);
        let places = [("5, column 11", "a"), ("7, column 10", "b"), ("10, column 11", "c")];
        for (found, (place, id)) in found.iter().zip(places) {
            assert!(
                found.starts_with(&format!("server.toml, line {place}: `{id}` is not a system"))
            );
        }
        assert!(found[3].contains("line 13, ") && found.len() == 4, "{found:?}");
    }

    #[test]
    fn a_system_that_a_room_cannot_see_is_no_preset_there() {
        let head = "interface = \"lo\"\n[dhcp]\nmode = \"off\"\n";
        let rooms = "[[room]]\nname = \"A1\"\nmacs = [\"52\"]\n[[room]]\nname = \"B2\"\n";
        let host = "[[host]]\nmac = \"52:54:00:00:00:01\"\n";
        let found = |tables: &str| -> Vec<String> {
            let entry = format!("{ENTRY}rooms = [\"B2\"]\n");
            let server = format!("{head}{tables}");
            let (_folder, lab) = lab_with(&[
                ("server.toml", &server),
                ("catalog/a.toml", &entry),
                ("images/a/vmlinuz", "MZ"),
            ]);
            lab.read_offer().err().unwrap_or_default().iter().map(ToString::to_string).collect()
        };
        let refused = |tables: &str, line: usize| {
            let found = found(tables);
            let start = format!("server.toml, line {line}, ");
            assert!(found.len() == 1 && found[0].starts_with(&start), "{tables}{found:?}");
            assert!(found[0].contains("`a` is not for "), "{found:?}");
        };
        refused("[[room]]\nname = \"A1\"\npreset = \"a\"\n", 6);
        refused("[[room]]\nname = \"A1\"\ndefault = \"a\"\n", 6);
        refused("[node]\npreset = \"a\"\n", 5);
        refused(&format!("[node]\npreset = \"a\"\n{rooms}"), 5);
        refused(&format!("{rooms}{host}preset = \"a\"\n"), 11);
        for fits in [
            format!("{rooms}preset = \"a\"\n{host}room = \"B2\"\ndefault = \"a\"\n"),
            "[node]\npreset = \"a\"\ncmdline = \"bt.room=B2\"\n".to_owned(),
            format!("[node]\npreset = \"a\"\n{}", rooms.replace("[\"52\"]", "[]\npreset = \"\"")),
        ] {
            assert_eq!(found(&fits), Vec::<String>::new(), "{fits}");
        }
    }

    #[test]
    fn an_empty_image_and_a_false_icon_are_refused() {
        let entry = format!("{ENTRY}icon = \"a.png\"\n");
        let files = [SERVER, ("catalog/a.toml", entry.as_str()), ("images/a/vmlinuz", "")];
        let found = findings(&files);
        assert!(found[0].contains("is empty") && found[1].contains("cannot be read"), "{found:?}");
    }

    #[test]
    fn a_folder_without_server_toml_is_no_lab() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = Lab::open(folder.path()).expect_err("no lab").to_string();
        assert!(text.contains("bt-server init"), "{text}");
    }
}
