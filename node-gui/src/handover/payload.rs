//! Shell: where the files of one system are written while they download: where the next kernel will look for them.
//!
//! The torrent is one sequence of bytes. [`Payload`] maps each stretch of it to huge pages, to a file, or to a buffer.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bt_catalog::{Role, System};
use bt_swarm::{Storage, read_cached};
use parking_lot::RwLock;

use super::initrd::Piece;
use super::pages::Pages;
use super::placement::Range;
use super::plan::{BootPlan, composition};

/// The files of a system that is being downloaded.
#[derive(Debug)]
pub struct Payload {
    stretches: Vec<Stretch>,
    total: u64,
    store: Store,
}

/// Bytes of the torrent that are stored contiguously.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    /// Offset in the torrent.
    start: u64,
    length: u64,
    place: Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    /// A physical address in huge pages.
    Memory(u64),
    /// An offset in the kernel's buffer.
    Kernel(u64),
    /// A number in the list of files, and an offset in that file.
    File(usize, u64),
}

#[derive(Debug)]
enum Store {
    Files(Files),
    Memory(Memory),
}

/// Files, each open for writing and for reading.
#[derive(Debug)]
pub struct Files {
    open: Vec<(Option<Role>, File, File)>,
    folder: PathBuf,
    is_removed: bool,
}

/// The parts of a system in memory.
#[derive(Debug)]
pub struct Memory {
    /// The pages that hold medium and initrd.
    pub pages: Pages,
    /// The kernel's file.
    pub kernel: RwLock<Vec<u8>>,
    /// The boot method, and where everything is placed.
    pub plan: BootPlan,
    /// The initrd's exact range; size 0: none.
    pub initrd: Range,
}

impl Payload {
    /// One plain file for each file of the system, by its name, in this folder.
    ///
    /// # Errors
    /// If a file cannot be made or there is no room.
    pub fn in_folder(system: &System, folder: &Path) -> io::Result<Self> {
        let mut payload = Self::with_files(folder, false)?;
        for file in &system.files {
            let number = payload.add_file(Some(file.role), file.role.name(), file.length)?;
            payload.add(file.length, |_| Destination::File(number, 0));
        }
        Ok(payload)
    }

    /// Two files as `kexec_file_load` wants them: the kernel, and everything that becomes the initrd. Removed when dropped.
    ///
    /// # Errors
    /// If a file cannot be made or there is no room.
    pub fn as_kexec_files(system: &System, folder: &Path) -> io::Result<Self> {
        let initrd_parts = composition(system, true);
        let mut payload = Self::with_files(folder, true)?;
        let kernel = system.file(Role::Kernel).map_or(0, |file| file.length);
        let kernel = payload.add_file(Some(Role::Kernel), Role::Kernel.name(), kernel)?;
        let initrd = match initrd_parts.length {
            0 => None,
            length => Some(payload.add_file(Some(Role::Initrd), Role::Initrd.name(), length)?),
        };
        for file in &system.files {
            let place = match (file.role, initrd) {
                (Role::Kernel, _) | (_, None) => Destination::File(kernel, 0),
                (role, Some(number)) => {
                    Destination::File(number, offset_of(&initrd_parts.pieces, role))
                }
            };
            payload.add(file.length, |_| place);
        }
        if let (Store::Files(files), Some(number)) = (&payload.store, initrd) {
            for (at, bytes) in own_bytes(&initrd_parts.pieces) {
                files.open[number].1.write_all_at(bytes, at)?;
            }
        }
        Ok(payload)
    }

    /// The system's files where the plan places them. The other pages go back to the kernel.
    ///
    /// # Errors
    /// If the plan is outside these pages.
    pub fn in_memory(system: &System, mut pages: Pages, plan: BootPlan) -> io::Result<Self> {
        let (placement, is_medium) = match &plan {
            BootPlan::Pmem(placement) => (placement.clone(), true),
            BootPlan::InPlace(placement) => (placement.clone(), false),
            BootPlan::Files => {
                return Err(io::Error::other("this plan does not keep files in memory"));
            }
        };
        pages.keep_only(&placement.ranges().collect::<Vec<_>>());
        let initrd_parts = composition(system, !is_medium);
        let start = placement.initrd.map_or(0, |range| range.start);
        for (at, bytes) in own_bytes(&initrd_parts.pieces) {
            pages.write(start + at, bytes)?;
        }
        let length = |role| system.file(role).map_or(0, |file| file.length);
        let kernel = usize::try_from(length(Role::Kernel)).map_err(io::Error::other)?;
        let initrd = Range { start, size: initrd_parts.length };
        let memory = Memory { pages, kernel: RwLock::new(vec![0; kernel]), plan, initrd };
        let mut payload = Self { stretches: Vec::new(), total: 0, store: Store::Memory(memory) };
        for file in &system.files {
            match file.role {
                Role::Kernel => payload.add(file.length, |_| Destination::Kernel(0)),
                Role::Image if is_medium => payload.add_medium(file.length, &placement.medium),
                role => {
                    let at = start + offset_of(&initrd_parts.pieces, role);
                    payload.add(file.length, |_| Destination::Memory(at));
                }
            }
        }
        Ok(payload)
    }

    fn with_files(folder: &Path, is_removed: bool) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let files = Files { open: Vec::new(), folder: folder.to_owned(), is_removed };
        Ok(Self { stretches: Vec::new(), total: 0, store: Store::Files(files) })
    }

    /// Makes a file of this size and returns its number.
    fn add_file(&mut self, role: Option<Role>, name: &str, length: u64) -> io::Result<usize> {
        let Store::Files(files) = &mut self.store else {
            return Err(io::Error::other("this payload has no files"));
        };
        let path = files.folder.join(name);
        let mut options = OpenOptions::new();
        let written = options.read(true).write(true).create(true).truncate(true).open(&path)?;
        if length > 0 {
            let size = i64::try_from(length).map_err(io::Error::other)?;
            nix::fcntl::fallocate(&written, nix::fcntl::FallocateFlags::empty(), 0, size)?;
        }
        let read = File::open(&path)?;
        files.open.push((role, written, read));
        Ok(files.open.len() - 1)
    }

    /// The next bytes of the torrent go where `place` says.
    fn add(&mut self, length: u64, place: impl FnOnce(u64) -> Destination) {
        let start = self.total;
        self.stretches.push(Stretch { start, length, place: place(start) });
        self.total += length;
    }

    /// The image fills its ranges in their order.
    fn add_medium(&mut self, length: u64, ranges: &[Range]) {
        let mut left = length;
        for range in ranges {
            let take = left.min(range.size);
            self.add(take, |_| Destination::Memory(range.start));
            left -= take;
        }
    }

    /// Bytes in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The parts in memory, if this payload is in memory.
    #[must_use]
    pub fn memory(&self) -> Option<&Memory> {
        match &self.store {
            Store::Memory(memory) => Some(memory),
            Store::Files(_) => None,
        }
    }

    /// Closes everything that could still write, and returns the files of these roles for reading.
    ///
    /// `None` where there is no such file.
    #[must_use]
    pub fn into_read_only(self, roles: [Role; 2]) -> Option<[Option<File>; 2]> {
        let Store::Files(mut files) = self.store else { return None };
        // Moved, not duplicated: a duplicate could fail for lack of descriptors, and look like no file at all.
        Some(roles.map(|role| {
            let found = files.open.iter().position(|(of, _, _)| *of == Some(role))?;
            Some(files.open.swap_remove(found).2)
        }))
    }

    /// Calls `part` for each stretch that the bytes touch: its place, the offset in it, and which bytes.
    fn each_part(
        &self,
        offset: u64,
        length: usize,
        mut part: impl FnMut(Destination, u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.total) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "outside the payload"));
        }
        let first = self.stretches.partition_point(|one| one.start + one.length <= offset);
        let mut done = 0;
        for stretch in &self.stretches[first..] {
            if done == length {
                break;
            }
            let at = offset + done as u64 - stretch.start;
            let room = usize::try_from(stretch.length - at).unwrap_or(usize::MAX);
            let take = room.min(length - done);
            part(stretch.place, at, done..done + take)?;
            done += take;
        }
        Ok(())
    }

    /// Fills `buf` from `offset` on; bytes of a file are read by `from_file`.
    fn read_with(
        &self,
        offset: u64,
        buf: &mut [u8],
        from_file: impl Fn(&File, u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.each_part(offset, buf.len(), |place, at, range| match place {
            Destination::Memory(start) => self.in_pages()?.pages.read(start + at, &mut buf[range]),
            Destination::Kernel(start) => {
                let kernel = self.in_pages()?.kernel.read();
                let from = usize::try_from(start + at).map_err(io::Error::other)?;
                buf[range.clone()].copy_from_slice(&kernel[from..from + range.len()]);
                Ok(())
            }
            Destination::File(number, start) => {
                from_file(self.file(number)?, start + at, &mut buf[range])
            }
        })
    }

    fn file(&self, number: usize) -> io::Result<&File> {
        match &self.store {
            Store::Files(files) => Ok(&files.open[number].1),
            Store::Memory(_) => Err(io::Error::other("this payload has no files")),
        }
    }

    fn in_pages(&self) -> io::Result<&Memory> {
        self.memory().ok_or_else(|| io::Error::other("this payload is not in memory"))
    }
}

impl Storage for Payload {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_with(offset, buf, |file, at, buf| file.read_exact_at(buf, at))
    }

    fn read_at_once(&self, offset: u64, buf: &mut [u8]) -> bool {
        let cached = |file: &File, at, buf: &mut [u8]| {
            read_cached(file, at, buf).then_some(()).ok_or_else(|| io::ErrorKind::WouldBlock.into())
        };
        self.read_with(offset, buf, cached).is_ok()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.each_part(offset, data.len(), |place, at, range| match place {
            Destination::Memory(start) => self.in_pages()?.pages.write(start + at, &data[range]),
            Destination::Kernel(start) => {
                let mut kernel = self.in_pages()?.kernel.write();
                let to = usize::try_from(start + at).map_err(io::Error::other)?;
                kernel[to..to + range.len()].copy_from_slice(&data[range]);
                Ok(())
            }
            Destination::File(number, start) => {
                self.file(number)?.write_all_at(&data[range], start + at)
            }
        })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.is_removed
            && let Err(error) = fs::remove_dir_all(&self.folder)
        {
            tracing::warn!(%error, folder = %self.folder.display(), "cannot remove the payload's files");
        }
    }
}

/// Where a file of the system begins in the composition.
fn offset_of(pieces: &[(u64, Piece)], role: Role) -> u64 {
    let found = pieces.iter().find(|(_, piece)| *piece == Piece::File(role));
    found.map_or(0, |(at, _)| *at)
}

fn own_bytes(pieces: &[(u64, Piece)]) -> impl Iterator<Item = (u64, &[u8])> {
    pieces.iter().filter_map(|(at, piece)| match piece {
        Piece::Bytes(bytes) => Some((*at, &bytes[..])),
        Piece::File(_) => None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use bt_catalog::{Digest, Family, SystemFile};

    use super::*;
    use crate::download::verify::tests::sample;

    /// A live system of four tiny files: `h`, `image`, `an initrd` and a kernel.
    fn live() -> (System, Vec<u8>) {
        let (system, _) = sample("a");
        let contents: [(Role, &[u8]); 4] = [
            (Role::Handover, &[b'h'; 512]),
            (Role::Image, b"image!"),
            (Role::Initrd, b"an initrd"),
            (Role::Kernel, &[7; 100]),
        ];
        let files = contents.map(|(role, bytes)| {
            let (length, sha256) = (bytes.len() as u64, Digest([0; 32]));
            SystemFile { role, length, sha256 }
        });
        let row = contents.map(|(_, bytes)| bytes).concat();
        (System { family: Family::DebianLive, files: files.to_vec(), ..system }, row)
    }

    /// Writes the row in odd pieces, as the swarm does, and reads all of it back.
    fn fill(payload: &Payload, row: &[u8]) {
        assert_eq!(payload.total(), row.len() as u64);
        for (number, piece) in row.chunks(7).enumerate().collect::<Vec<_>>().into_iter().rev() {
            payload.write_at(number as u64 * 7, piece).expect("inside");
        }
        let mut back = vec![0; row.len()];
        payload.read_at(0, &mut back).expect("inside");
        assert_eq!(back, row);
        assert!(payload.write_at(row.len() as u64, b"x").is_err());
    }

    #[test]
    fn plain_files_get_their_names() {
        let (system, row) = live();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let payload = Payload::in_folder(&system, folder.path()).expect("room");
        fill(&payload, &row);
        drop(payload);
        assert_eq!(fs::read(folder.path().join("image")).expect("readable"), b"image!");
    }

    #[test]
    fn for_kexec_file_load_the_initrd_is_assembled_while_it_downloads() {
        let (system, row) = live();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inner = folder.path().join("a");
        let payload = Payload::as_kexec_files(&system, &inner).expect("room");
        fill(&payload, &row);
        let initrd = fs::read(inner.join("initrd")).expect("readable");
        assert_eq!(&initrd[..17], b"an initrd\0\0\0\0\0\0\0h");
        let image = initrd.windows(6).position(|bytes| bytes == b"image!").expect("the image");
        assert_eq!(&initrd[image - 132..image - 126], b"070701");
        assert!(initrd.ends_with(b"TRAILER!!!\0\0\0\0"));
        let files = payload.into_read_only([Role::Kernel, Role::Initrd]).expect("files");
        assert!(files.iter().all(Option::is_some));
        assert!(!inner.exists(), "the folder is removed with the payload");
    }
}
