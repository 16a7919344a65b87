//! Core: the head of an ISO 9660 medium with one file on it: put before a squashfs, it makes a medium of that.
//!
//! Live systems look for a file on a medium, not for a bare squashfs. ISO 9660 keeps all that describes a file before it, so
//! those few sectors are all it takes; the squashfs itself follows unchanged. Rock Ridge entries keep upper and lower case.
//! ```text
//! sector 16 primary volume   17 end of volumes   18, 19 path tables   20 root   21 its folder   32 the file
//! ```

use super::iso::SECTOR;

/// Where the file begins, in sectors: 64 KiB, so that it is aligned for every block device.
const FILE_AT: u32 = 32;
const ROOT_AT: u32 = 20;
const FOLDER_AT: u32 = 21;
/// The longest extent of one record: whole sectors, and the length is a 32-bit number.
const MAX_EXTENT: u64 = 0xffff_f800;
/// Records of one folder must fit into its one sector here; each extent takes one record.
const MAX_EXTENTS: u64 = 12;

/// The head of a medium that holds the file `path` (one folder and a name) of `length` bytes.
///
/// The file's bytes follow it, padded to whole sectors.
///
/// # Errors
/// A path of another form, a label that is too long, or a file of more than 48 GiB.
pub fn header(label: &str, path: &str, length: u64) -> Result<Vec<u8>, String> {
    let Some((folder, name)) = path.split_once('/').filter(|(_, name)| !name.contains('/')) else {
        return Err(format!("`{path}` is not a folder and a file name"));
    };
    if label.len() > 32 || folder.len() > 60 || name.len() > 60 {
        return Err(format!("`{label}` or `{path}` is too long for an ISO 9660 medium"));
    }
    if length > MAX_EXTENT * MAX_EXTENTS {
        return Err("the file is larger than 48 GiB".to_owned());
    }
    let sectors = length.div_ceil(SECTOR) + u64::from(FILE_AT);
    let sectors = u32::try_from(sectors).map_err(|_| "the file is too large".to_owned())?;
    let mut medium = vec![0; FILE_AT as usize * SECTOR as usize];
    let mut put = |sector: u32, bytes: &[u8]| {
        let at = sector as usize * SECTOR as usize;
        medium[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(16, &volume(label, folder, sectors));
    put(17, b"\xffCD001\x01");
    put(18, &path_table(folder, false));
    put(19, &path_table(folder, true));
    put(ROOT_AT, &root(folder));
    put(FOLDER_AT, &files(name, length));
    Ok(medium)
}

/// A number as ISO 9660 writes most: first little-endian, then big-endian.
fn both(value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_be_bytes());
    bytes
}

fn both_16(value: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (value.to_le_bytes(), value.to_be_bytes());
    [a, b, c, d]
}

/// ECMA-119 8.4.
fn volume(label: &str, folder: &str, sectors: u32) -> Vec<u8> {
    let mut v = vec![0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| v[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x01CD001\x01");
    put(8, &[b' '; 64]);
    put(40, label.as_bytes());
    put(80, &both(sectors));
    put(120, &both_16(1)); // Volumes of the set
    put(124, &both_16(1)); // and which of them this is.
    put(128, &both_16(SECTOR as u16));
    put(132, &both(path_table(folder, false).len() as u32));
    put(140, &18_u32.to_le_bytes());
    put(148, &19_u32.to_be_bytes());
    put(156, &record(&[0], (ROOT_AT, SECTOR as u32), 2, &[]));
    put(190, &[b' '; 623]);
    // No dates: the same squashfs gives the same medium.
    for at in [813, 830, 847, 864] {
        put(at, &[b'0'; 16]);
    }
    put(881, &[1]);
    v
}

/// ECMA-119 9.4.
fn path_table(folder: &str, big_endian: bool) -> Vec<u8> {
    let four = |n: u32| if big_endian { n.to_be_bytes() } else { n.to_le_bytes() };
    let two = |n: u16| if big_endian { n.to_be_bytes() } else { n.to_le_bytes() };
    let name = iso_name(folder);
    let mut table = Vec::new();
    for (id, at) in [(&[0][..], ROOT_AT), (name.as_bytes(), FOLDER_AT)] {
        table.extend([id.len() as u8, 0]);
        table.extend(four(at));
        table.extend(two(1));
        table.extend(id);
        table.extend((id.len() % 2 == 1).then_some(0));
    }
    table
}

/// The root: itself, its parent (itself), and the folder.
fn root(folder: &str) -> Vec<u8> {
    let place = (ROOT_AT, SECTOR as u32);
    // SUSP is announced in the root's first record, Rock Ridge by its name.
    let mut first = vec![b'S', b'P', 7, 1, 0xbe, 0xef, 0];
    first.extend(mode(0o040_555, 3));
    first.extend([b'E', b'R', 18, 1, 10, 0, 0, 1]);
    first.extend(b"RRIP_1991A");
    let mut records = record(&[0], place, 2, &first);
    records.extend(record(&[1], place, 2, &mode(0o040_555, 3)));
    let mut entries = name_entry(folder);
    entries.extend(mode(0o040_555, 2));
    records.extend(record(iso_name(folder).as_bytes(), (FOLDER_AT, SECTOR as u32), 2, &entries));
    records
}

/// The folder: itself, the root, and the file in as many parts as it needs.
fn files(name: &str, length: u64) -> Vec<u8> {
    let mut records = record(&[0], (FOLDER_AT, SECTOR as u32), 2, &mode(0o040_555, 2));
    records.extend(record(&[1], (ROOT_AT, SECTOR as u32), 2, &mode(0o040_555, 3)));
    let mut entries = name_entry(name);
    entries.extend(mode(0o100_444, 1));
    let iso_name = format!("{};1", iso_name(name));
    let mut at = FILE_AT;
    let mut left = length;
    loop {
        let part = left.min(MAX_EXTENT);
        left -= part;
        let flags = if left > 0 { 0x80 } else { 0 };
        records.extend(record(iso_name.as_bytes(), (at, part as u32), flags, &entries));
        at += u32::try_from(part.div_ceil(SECTOR)).unwrap_or(0);
        if left == 0 {
            return records;
        }
    }
}

/// ECMA-119 9.1, with system use entries.
fn record(name: &[u8], (sector, bytes): (u32, u32), flags: u8, entries: &[u8]) -> Vec<u8> {
    let mut r = vec![0, 0];
    r.extend(both(sector));
    r.extend(both(bytes));
    r.extend([70, 1, 1, 0, 0, 0, 0, flags, 0, 0]); // 1 January 1970
    r.extend(both_16(1));
    r.push(name.len() as u8);
    r.extend(name);
    r.extend((r.len() % 2 == 1).then_some(0));
    r.extend(entries);
    r.extend((r.len() % 2 == 1).then_some(0));
    r[0] = r.len() as u8;
    r
}

/// Rock Ridge `NM`.
fn name_entry(name: &str) -> Vec<u8> {
    let mut entry = vec![b'N', b'M', (5 + name.len()) as u8, 1, 0];
    entry.extend(name.as_bytes());
    entry
}

/// Rock Ridge `PX`: permissions, links, owner and group.
fn mode(mode: u32, links: u32) -> Vec<u8> {
    let mut entry = vec![b'P', b'X', 36, 1];
    for value in [mode, links, 0, 0] {
        entry.extend(both(value));
    }
    entry
}

/// A name in the characters that the standard allows; Rock Ridge has the real one.
fn iso_name(name: &str) -> String {
    let legal =
        |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(legal).take(30).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::commands::add::iso::Iso;

    fn check(length: u64, extents: &[(u64, u64)]) {
        let head = header("LIVE", "live/filesystem.squashfs", length).expect("valid");
        assert_eq!(head.len(), 65_536);
        // Nothing but the head is read, so the file may be a hole.
        let sparse =
            Sparse { head: Cursor::new(head), length: 65_536 + length.next_multiple_of(2048) };
        let iso = Iso::open(sparse).expect("a medium");
        assert_eq!(iso.extents("live/filesystem.squashfs"), Some(extents));
        assert_eq!(iso.bytes, 65_536 + length.next_multiple_of(2048));
    }

    /// A medium whose file was never written.
    struct Sparse {
        head: Cursor<Vec<u8>>,
        length: u64,
    }

    impl std::io::Read for Sparse {
        fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
            self.head.read(bytes)
        }
    }

    impl std::io::Seek for Sparse {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            match to {
                std::io::SeekFrom::End(0) => Ok(self.length),
                to => self.head.seek(to),
            }
        }
    }

    #[test]
    fn the_file_lies_behind_the_head() {
        check(1, &[(65_536, 1)]);
        check(300 << 20, &[(65_536, 300 << 20)]);
    }

    #[test]
    fn a_file_of_more_than_4_gib_has_several_parts_in_a_row() {
        let most = 0xffff_f800;
        check(most, &[(65_536, most)]);
        check(most + 5, &[(65_536, most), (65_536 + most, 5)]);
        check(
            10 << 30,
            &[(65_536, most), (65_536 + most, most), (65_536 + 2 * most, (10 << 30) - 2 * most)],
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(header("L", "filesystem.squashfs", 1).is_err());
        assert!(header("L", "a/b/c", 1).is_err());
        assert!(header(&"L".repeat(33), "a/b", 1).is_err());
        assert!(header("L", "a/b", 60 << 30).is_err());
    }
}
