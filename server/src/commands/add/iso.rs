//! Core: what is on an ISO 9660 medium, with Rock Ridge names where it has them, and where each file lies.
//!
//! Formats: ECMA-119 (volume and directory records), IEEE P1281 (SUSP: `SP`, `CE`) and P1282 (Rock Ridge: `NM`, `SL`). Input is
//! never trusted: every number is checked, and folders that contain each other end. Left out: Joliet and UDF; every Linux
//! distribution's medium has Rock Ridge.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes of a sector.
pub const SECTOR: u64 = 2048;
/// More files than any medium has.
const MAX_FILES: usize = 500_000;
/// Larger than any folder of them.
const MAX_FOLDER_BYTES: u64 = 64 << 20;
/// Deeper than any path.
const MAX_DEPTH: usize = 32;

/// A medium whose folders have been read.
#[derive(Debug)]
pub struct Iso<R> {
    source: R,
    /// Its volume label.
    pub label: String,
    /// Its length as it says itself, in bytes.
    pub bytes: u64,
    files: BTreeMap<String, Place>,
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// (offset, length) in bytes; several for files of more than 4 GiB.
    Extents(Vec<(u64, u64)>),
    /// A symbolic link to this path, relative to its folder or with a leading slash.
    Link(String),
}

/// One record of a folder.
struct Record {
    name: String,
    offset: u64,
    length: u64,
    is_folder: bool,
    link: Option<String>,
}

impl<R: Read + Seek> Iso<R> {
    /// Reads the volume's head and all folders.
    ///
    /// # Errors
    /// What reading reports; a medium that is damaged or cut off, or none at all.
    pub fn open(mut source: R) -> io::Result<Self> {
        let mut head = [0; SECTOR as usize];
        source.seek(SeekFrom::Start(16 * SECTOR))?;
        source
            .read_exact(&mut head)
            .map_err(|_| wrong("it is too short for an ISO 9660 medium"))?;
        if !is_primary_volume(&head) {
            return Err(wrong("it is not an ISO 9660 medium"));
        }
        let label = String::from_utf8_lossy(&head[40..72]).trim_end().to_owned();
        let bytes = u64::from(u32_at(&head, 80)?) * SECTOR;
        let length = source.seek(SeekFrom::End(0))?;
        if length < bytes {
            let why = format!(
                "its header states {bytes} bytes, but it has {length}: the copy is incomplete"
            );
            return Err(wrong(&why));
        }
        let (root, _) = raw_record(&head, 156)?;
        let mut iso = Self { source, label, bytes, files: BTreeMap::new() };
        let (root_offset, root_length) = (root.offset, root.length);
        let skip = iso.susp_skip(root_offset)?;
        let mut seen = BTreeSet::new();
        iso.walk("", (root_offset, root_length), skip, 0, &mut seen)?;
        Ok(iso)
    }

    /// The paths of all files, without a leading slash.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The parts of a file as (offset, length) in bytes, through symbolic links; `None` where there is no such file.
    pub fn extents(&self, path: &str) -> Option<&[(u64, u64)]> {
        let mut path = path.trim_start_matches('/').to_owned();
        for _ in 0..8 {
            match self.files.get(&path)? {
                Place::Extents(extents) => return Some(extents),
                Place::Link(to) => path = resolved(&path, to),
            }
        }
        None
    }

    /// A small file's bytes.
    ///
    /// # Errors
    /// No such file, or one of more than `most` bytes; what reading reports.
    pub fn read(&mut self, path: &str, most: u64) -> io::Result<Vec<u8>> {
        let extents =
            self.extents(path).ok_or_else(|| wrong(&format!("there is no {path} on it")))?.to_vec();
        let length: u64 = extents.iter().map(|(_, length)| length).sum();
        if length > most {
            return Err(wrong(&format!("its {path} is larger than {most} bytes")));
        }
        let mut bytes = Vec::new();
        for (offset, length) in extents {
            self.source.seek(SeekFrom::Start(offset))?;
            (&mut self.source).take(length).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    fn block(&mut self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        if length > MAX_FOLDER_BYTES || offset.saturating_add(length) > self.bytes {
            return Err(wrong("it is damaged: a folder lies outside of it"));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.source.seek(SeekFrom::Start(offset))?;
        self.source.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// How many bytes to skip before each record's system use entries; `None` where there is no Rock Ridge.
    fn susp_skip(&mut self, root: u64) -> io::Result<Option<usize>> {
        let bytes = self.block(root, SECTOR)?;
        let (_, area) = raw_record(&bytes, 0)?;
        let area = &bytes[area.0..area.1];
        let is_susp = area.len() >= 7 && area.starts_with(b"SP") && area[4..6] == [0xbe, 0xef];
        Ok(is_susp.then(|| usize::from(area[6])))
    }

    fn walk(
        &mut self,
        folder: &str,
        (offset, length): (u64, u64),
        skip: Option<usize>,
        depth: usize,
        seen: &mut BTreeSet<u64>,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH || !seen.insert(offset) {
            return Ok(());
        }
        let bytes = self.block(offset, length)?;
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] == 0 {
                // Records do not cross sectors; the rest of one is zero.
                at = (at + 1).next_multiple_of(SECTOR as usize);
                continue;
            }
            let (mut record, area) = raw_record(&bytes, at)?;
            let is_self_or_parent = matches!(record.name.as_bytes(), [0] | [1]);
            if let Some(skip) = skip {
                let area = bytes[area.0..area.1].get(skip..).unwrap_or_default().to_vec();
                self.rock_ridge(&mut record, area)?;
            } else {
                record.name = plain_name(&record.name);
            }
            at += usize::from(bytes[at]);
            if is_self_or_parent || !is_name(&record.name) {
                continue;
            }
            let path = if folder.is_empty() {
                record.name.clone()
            } else {
                format!("{folder}/{}", record.name)
            };
            if record.is_folder {
                self.walk(&path, (record.offset, record.length), skip, depth + 1, seen)?;
            } else {
                self.add(path, record)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: String, record: Record) -> io::Result<()> {
        if self.files.len() > MAX_FILES {
            return Err(wrong("it has more files than a medium can have"));
        }
        let extent = (record.offset, record.length);
        if record.link.is_none() && extent.0.saturating_add(extent.1) > self.bytes {
            return Err(wrong(&format!("it is damaged: {path} lies outside of it")));
        }
        match (self.files.get_mut(&path), record.link) {
            (_, Some(link)) => {
                self.files.insert(path, Place::Link(link));
            }
            // A file of more than 4 GiB has several records of the same name, one after the other.
            (Some(Place::Extents(extents)), None) => extents.push(extent),
            (_, None) => {
                self.files.insert(path, Place::Extents(vec![extent]));
            }
        }
        Ok(())
    }

    /// Reads the entries of a record's system use area: its real name, and where a symbolic link points.
    fn rock_ridge(&mut self, record: &mut Record, mut area: Vec<u8>) -> io::Result<()> {
        let (mut name, mut link) = (Vec::new(), None::<Vec<String>>);
        // A chain of continuation areas ends, whatever the medium says.
        for _ in 0..16 {
            let mut next = None;
            let mut rest = area.as_slice();
            while let [a, b, length, _, ..] = *rest {
                let length = usize::from(length);
                let Some(entry) = rest.get(..length).filter(|_| length >= 4) else { break };
                match (&[a, b], entry) {
                    (b"NM", [_, _, _, _, _, text @ ..]) => name.extend_from_slice(text),
                    (b"SL", [_, _, _, _, _, parts @ ..]) => {
                        link.get_or_insert_default().extend(components(parts));
                    }
                    (b"CE", _) if length >= 28 => {
                        let sector = u64::from(u32_at(entry, 4)?);
                        let (offset, size) = (u32_at(entry, 12)?, u32_at(entry, 20)?);
                        next = Some((sector * SECTOR + u64::from(offset), u64::from(size)));
                    }
                    (b"ST", _) => break,
                    _ => {}
                }
                rest = &rest[length..];
            }
            let Some((offset, length)) = next else { break };
            area = self.block(offset, length)?;
        }
        record.name = if name.is_empty() {
            plain_name(&record.name)
        } else {
            String::from_utf8_lossy(&name).into_owned()
        };
        record.link = link.map(|parts| parts.join("/"));
        Ok(())
    }
}

/// Whether a sector 16 is that of an ISO 9660 medium.
pub fn is_primary_volume(sector: &[u8]) -> bool {
    sector.starts_with(b"\x01CD001\x01")
}

/// Whether a file can have this name: no path, and nothing that changes a terminal.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(|c: char| c == '/' || c.is_control())
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk());
    four.map(|four| u32::from_le_bytes(*four))
        .ok_or_else(|| wrong("it is damaged: a record is cut off"))
}

/// The record at `at`, and where its system use area begins and ends.
fn raw_record(bytes: &[u8], at: usize) -> io::Result<(Record, (usize, usize))> {
    let cut = || wrong("it is damaged: a record is cut off");
    let length = usize::from(*bytes.get(at).ok_or_else(cut)?);
    let record = bytes.get(at..at + length).filter(|_| length >= 34).ok_or_else(cut)?;
    let name_length = usize::from(record[32]);
    let name = record.get(33..33 + name_length).ok_or_else(cut)?;
    // The name is padded to an even end.
    let area = (33 + name_length).next_multiple_of(2).min(length);
    let flags = record[25];
    let extended = u64::from(record[1]);
    let found = Record {
        name: String::from_utf8_lossy(name).into_owned(),
        offset: (u64::from(u32_at(record, 2)?) + extended) * SECTOR,
        length: u64::from(u32_at(record, 10)?),
        is_folder: flags & 0x02 != 0,
        link: None,
    };
    Ok((found, (at + area, at + length)))
}

/// A name without Rock Ridge, as Linux shows it: `INITRD.IMG;1` is `initrd.img`.
fn plain_name(name: &str) -> String {
    name.split(';').next().unwrap_or_default().trim_end_matches('.').to_lowercase()
}

/// The components of a symbolic link's `SL` entry.
fn components(mut parts: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while let [flags, length, rest @ ..] = parts {
        let Some(text) = rest.get(..usize::from(*length)) else { break };
        found.push(match flags & 0x0e {
            0x02 => ".".to_owned(),
            0x04 => "..".to_owned(),
            0x08 => String::new(), // The root: joining makes a leading slash of it.
            _ => String::from_utf8_lossy(text).into_owned(),
        });
        parts = &rest[usize::from(*length)..];
    }
    found
}

/// Where a link at `path` points to.
fn resolved(path: &str, link: &str) -> String {
    let mut parts: Vec<&str> = match link.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => path.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev().collect(),
    };
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use crate::commands::add::wrap;

    /// A medium made by the other half of this module, with a file of 100,000 bytes.
    fn medium() -> Vec<u8> {
        let mut bytes =
            wrap::header("LIVE OS", "LiveOS/squashfs.img", 100_000).expect("a valid path");
        bytes.resize(bytes.len() + 100_352, 7);
        bytes
    }

    #[test]
    fn a_medium_is_read_with_its_real_names() {
        let mut iso = Iso::open(Cursor::new(medium())).expect("a medium");
        assert_eq!(iso.label, "LIVE OS");
        assert_eq!(iso.names().collect::<Vec<_>>(), ["LiveOS/squashfs.img"]);
        assert_eq!(iso.read("/LiveOS/squashfs.img", 1 << 20).expect("there"), vec![7; 100_000]);
        assert!(iso.read("LiveOS/squashfs.img", 10).is_err());
        assert!(iso.read("nothing", 10).is_err());
    }

    #[test]
    fn an_incomplete_copy_is_told() {
        let bytes = medium();
        let error = Iso::open(Cursor::new(&bytes[..bytes.len() - 4096])).expect_err("cut off");
        assert!(error.to_string().contains("the copy is incomplete"), "{error}");
        assert!(Iso::open(Cursor::new(&bytes[..1000])).is_err());
    }

    #[test]
    fn links_are_followed_inside_the_medium() {
        assert_eq!(resolved("live/vmlinuz", "vmlinuz-6.1"), "live/vmlinuz-6.1");
        assert_eq!(resolved("a/b/c", "../../x/./y"), "x/y");
        assert_eq!(resolved("a/b", "/boot/k"), "boot/k");
        assert_eq!(resolved("a", "../../../etc/passwd"), "etc/passwd");
        assert_eq!(components(&[8, 0, 0, 4, b'b', b'o', b'o', b't']).join("/"), "/boot");
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_names() {
        for name in ["", ".", "..", "../x", "/etc/passwd", "a\u{1b}[31m", "a\nb"] {
            assert!(!is_name(name), "{name:?}");
        }
        assert!(is_name("initrd.img-6.1") && is_name("..x"));
    }

    #[test]
    fn names_without_rock_ridge_are_those_that_linux_shows() {
        assert_eq!(plain_name("INITRD.IMG;1"), "initrd.img");
        assert_eq!(plain_name("VMLINUZ.;1"), "vmlinuz");
    }

    proptest! {
        #[test]
        fn a_damaged_medium_is_read_or_refused_without_a_panic(at in 0_usize..0xc000, junk in prop::collection::vec(any::<u8>(), 1..80)) {
            let mut bytes = medium();
            let end = (at + junk.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&junk[..end - at]);
            if let Ok(mut iso) = Iso::open(Cursor::new(bytes)) {
                let names: Vec<_> = iso.names().map(str::to_owned).collect();
                for name in names {
                    let _read = iso.read(&name, 1 << 20);
                }
            }
        }
    }
}
