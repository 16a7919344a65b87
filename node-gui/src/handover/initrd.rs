//! Core: what the next kernel unpacks as its initramfs: the system's own initrd, the handover part, perhaps the image.
//!
//! The kernel unpacks one archive after the other; each begins at a multiple of 4 bytes, and zeros between them are skipped.
//! At least 4 zeros precede each: legacy lz4 has no end mark, and the kernel's decoder stops at an empty chunk.
//! Nothing is copied: the composition says where each file goes while it downloads.

use bt_catalog::{HANDOVER_IMAGE, Role};

/// The largest file in an archive of this format: its length has 8 hexadecimal digits.
pub const MAX_IMAGE: u64 = u32::MAX as u64;

/// Zeros before each further archive, at least: the empty chunk that ends legacy lz4 (`lib/decompress_unlz4.c`).
const ARCHIVE_GAP: u64 = 4;

/// What is at one offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A file of the system.
    File(Role),
    /// Bytes that we generate.
    Bytes(Vec<u8>),
}

/// An initrd made of several parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Composition {
    /// Each part and the offset at which it begins; the bytes between two are zero.
    pub pieces: Vec<(u64, Piece)>,
    /// Bytes in all.
    pub length: u64,
}

impl Composition {
    /// Puts together the files that are there, by their lengths in bytes; `image` only where it goes into the initrd.
    #[must_use]
    pub fn of(initrd: Option<u64>, handover: Option<u64>, image: Option<u64>) -> Self {
        let mut composition = Self::default();
        for (role, length) in [(Role::Initrd, initrd), (Role::Handover, handover)] {
            if let Some(length) = length {
                composition.begin_archive();
                composition.add(Piece::File(role), length);
            }
        }
        if let Some(length) = image {
            let header = entry(HANDOVER_IMAGE.trim_start_matches('/'), length);
            let bytes = header.len() as u64;
            composition.begin_archive();
            composition.add(Piece::Bytes(header), bytes);
            composition.add(Piece::File(Role::Image), length);
            let end = entry("TRAILER!!!", 0);
            let bytes = end.len() as u64;
            composition.add(Piece::Bytes(end), bytes);
        }
        composition
    }

    /// Separates the next archive from the one before it, if there is one.
    fn begin_archive(&mut self) {
        if self.length > 0 {
            self.length = self.length.saturating_add(ARCHIVE_GAP);
        }
    }

    fn add(&mut self, piece: Piece, length: u64) {
        let at = self.length.next_multiple_of(4);
        self.pieces.push((at, piece));
        self.length = at + length;
    }
}

/// The head of one file in a newc archive (cpio(5)), padded, so that the file's bytes follow at once.
fn entry(name: &str, length: u64) -> Vec<u8> {
    // Inode, mode (a plain file that its owner may read), owner, group, links, time, length, devices, name's length, checksum.
    let is_file = length > 0;
    let mode: u64 = if is_file { 0o100_400 } else { 0 };
    let named = name.len() as u64 + 1;
    let fields = [u64::from(is_file), mode, 0, 0, 1, 0, length, 0, 0, 0, 0, named, 0];
    let mut bytes = b"070701".to_vec();
    for field in fields {
        bytes.extend(format!("{:08x}", field & 0xffff_ffff).bytes());
    }
    bytes.extend(name.bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn archives_follow_each_other_at_multiples_of_four_behind_at_least_four_zeros() {
        for (initrd, handover) in [(5, 12), (8, 12), (9, 16)] {
            let composition = Composition::of(Some(initrd), Some(512), None);
            let expected =
                [(0, Piece::File(Role::Initrd)), (handover, Piece::File(Role::Handover))];
            assert_eq!(
                (&composition.pieces[..], composition.length),
                (&expected[..], handover + 512)
            );
        }
        assert_eq!(Composition::of(None, None, None).length, 0);
    }

    #[test]
    fn nothing_stands_between_the_images_head_and_the_image() {
        let composition = Composition::of(Some(8), Some(16), Some(6));
        let offsets: Vec<u64> = composition.pieces.iter().map(|(at, _)| *at).collect();
        // The head begins behind the gap and takes 132 bytes; the trailer follows the image at the next multiple of 4.
        assert_eq!(offsets, [0, 12, 32, 164, 172]);
    }

    #[test]
    fn the_image_becomes_a_file_that_cpio_unpacks() {
        let composition = Composition::of(None, None, Some(6));
        let mut archive = vec![0; usize::try_from(composition.length).expect("small")];
        for (at, piece) in &composition.pieces {
            let bytes = match piece {
                Piece::File(_) => b"medium",
                Piece::Bytes(bytes) => &bytes[..],
            };
            let at = usize::try_from(*at).expect("small");
            archive[at..at + bytes.len()].copy_from_slice(bytes);
        }
        // Header, name with NUL and padding, data with padding, trailer: each field where cpio(5) says.
        assert_eq!(&archive[..6], b"070701");
        assert_eq!(&archive[54..62], b"00000006");
        assert_eq!(&archive[94..102], b"00000013");
        assert_eq!(&archive[110..129], b".bt-handover/image\0");
        assert_eq!(&archive[132..138], b"medium");
        assert_eq!(&archive[140..146], b"070701");
        unpack(&archive);
    }

    /// Unpacks it with cpio, where that is installed.
    fn unpack(archive: &[u8]) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(".bt-handover")).expect("a folder");
        let mut cpio = Command::new("cpio");
        cpio.args(["-i", "--quiet"]).current_dir(folder.path()).stdin(Stdio::piped());
        let Ok(mut child) = cpio.spawn() else { return };
        let mut input = child.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut input, archive).expect("cpio reads");
        drop(input);
        assert!(child.wait().expect("ends").success());
        let image = std::fs::read(folder.path().join(".bt-handover/image")).expect("unpacked");
        assert_eq!(image, b"medium");
    }
}
