//! Core: entries in groups -> one zstd-compressed archive, and how much each group adds to it.
//!
//! One thread, fixed parameters: the same entries give the same bytes on every machine. The
//! compressor is flushed between the groups, which costs a few bytes and makes the share of
//! each exact.

use std::io;

use crate::cpio::{Entry, Writer};

/// The highest level with a window of 8 MiB, which is what a node needs for unpacking. Level 22
/// and a window over the entire image are 1 % smaller and cost the node 32 MiB.
const LEVEL: i32 = 19;

/// What one group adds to the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSize {
    /// The group's name in the manifest.
    pub group: String,
    /// How many files it has, without folders and links.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What they take in the compressed image.
    pub compressed: u64,
}

/// A finished image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The compressed archive, ready for a boot loader.
    pub bytes: Vec<u8>,
    /// The groups in their order in the archive.
    pub groups: Vec<GroupSize>,
}

/// Packs the groups, each with its name, in their order.
///
/// # Errors
/// A file too large for the format; what the compressor reports.
pub fn pack<'a>(groups: impl IntoIterator<Item = (&'a str, &'a [Entry])>) -> io::Result<Image> {
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    let mut writer = Writer::new(encoder);
    let mut sizes = Vec::new();
    let mut before = 0;
    for (group, entries) in groups {
        for entry in entries {
            writer.add(entry)?;
        }
        writer.flush()?;
        let after = writer.out().get_ref().len() as u64;
        let bytes = entries.iter().map(Entry::size).sum();
        let files = entries.iter().filter(|entry| entry.is_file()).count();
        sizes.push(GroupSize { group: group.to_owned(), files, bytes, compressed: after - before });
        before = after;
    }
    let bytes = writer.finish()?.finish()?;
    Ok(Image { bytes, groups: sizes })
}

impl Image {
    /// The sizes as a table for people.
    pub fn table(&self) -> String {
        let mut text = row("group", "files", "bytes", "zstd");
        for group in &self.groups {
            let (files, bytes) = (group.files.to_string(), mega(group.bytes));
            text.push_str(&row(&group.group, &files, &bytes, &mega(group.compressed)));
        }
        let files: usize = self.groups.iter().map(|group| group.files).sum();
        let bytes = self.groups.iter().map(|group| group.bytes).sum();
        let packed = mega(self.bytes.len() as u64);
        text.push_str(&row("all", &files.to_string(), &mega(bytes), &packed));
        text
    }
}

fn row(group: &str, files: &str, bytes: &str, packed: &str) -> String {
    format!("{group:<10} {files:>6} {bytes:>10} {packed:>10}\n")
}

/// A size in MB of a million bytes, as download times are counted.
pub fn mega(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::tests::read;

    fn groups() -> [(&'static str, Vec<Entry>); 2] {
        let noise: Vec<u8> =
            (0..40_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        [
            ("base", vec![Entry::folder("/bin"), Entry::link("/bin/sh", "busybox")]),
            ("big", vec![Entry::file("/bin/busybox", 0o755, noise)]),
        ]
    }

    fn packed() -> Image {
        let groups = groups();
        pack(groups.iter().map(|(name, entries)| (*name, entries.as_slice()))).expect("memory")
    }

    #[test]
    fn the_same_entries_give_the_same_bytes() {
        assert_eq!(packed(), packed());
    }

    #[test]
    fn the_archive_unpacks_to_its_entries() {
        let archive = zstd::decode_all(packed().bytes.as_slice()).expect("zstd");
        assert_eq!(read(&archive), groups().into_iter().flat_map(|(_, e)| e).collect::<Vec<_>>());
    }

    #[test]
    fn the_groups_add_up_to_the_image() {
        let image = packed();
        let sum: u64 = image.groups.iter().map(|g| g.compressed).sum();
        let total = image.bytes.len() as u64;
        // The trailer and the checksum belong to nobody.
        assert!(sum < total && total - sum < 200, "{sum} of {total}");
        assert_eq!((image.groups[0].files, image.groups[1].files), (0, 1));
        assert!(image.table().lines().last().is_some_and(|row| row.starts_with("all")));
    }
}
