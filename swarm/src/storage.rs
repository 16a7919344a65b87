//! Shell: where the bytes of a payload are stored.
//!
//! A payload is one sequence of bytes: its files, one after the other in the torrent's order (BEP
//! 3).

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::torrent::{FileSpec, Metainfo};

/// The bytes of a payload, read and written at any offset and from several threads.
pub trait Storage: Send + Sync + 'static {
    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// If not all of it can be read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Fills `buf` from `offset` on, unless that would wait for a disk. Otherwise, and after any
    /// error, returns `false`: the caller then uses [`Storage::read_at`] on a thread that may wait.
    fn read_at_once(&self, offset: u64, buf: &mut [u8]) -> bool;

    /// Stores `data` from `offset` on.
    ///
    /// # Errors
    /// If not all of it can be stored.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
}

/// Files that are opened for reading only: no bug of the engine can change an image.
#[derive(Debug)]
pub struct ReadOnlyFiles(Row);

impl ReadOnlyFiles {
    /// Opens the files of a torrent, which `specs` lists by name.
    ///
    /// # Errors
    /// If one is missing, cannot be opened or has another length than in the torrent.
    pub fn open(metainfo: &Metainfo, specs: &[FileSpec]) -> io::Result<Self> {
        let mut row = Row::default();
        for (name, length) in metainfo.files() {
            let spec = specs.iter().find(|spec| spec.name == *name).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("missing file: the torrent lists {name}"),
                )
            })?;
            let file = File::open(&spec.path).map_err(|error| named(&spec.path, &error))?;
            let found = file.metadata()?.len();
            if found != *length {
                let path = spec.path.display();
                let text = format!("{path} has {found} bytes, but {length} in its torrent");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            row.push(file, *length);
        }
        Ok(Self(row))
    }
}

impl Storage for ReadOnlyFiles {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn read_at_once(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.0.read_at_once(offset, buf)
    }

    fn write_at(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "a seed's files are read-only"))
    }
}

/// Files of a download in one folder, on disk or in memory.
#[derive(Debug)]
pub struct Files {
    row: Row,
    folder: PathBuf,
    names: Vec<String>,
}

impl Files {
    /// Creates the files of a torrent with their full size, so that a lack of space is an error now
    /// and not in the middle of the download.
    ///
    /// Existing files are emptied first.
    ///
    /// # Errors
    /// If a file cannot be created or there is not enough space.
    pub fn create(metainfo: &Metainfo, folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| named(folder, &error))?;
        let mut row = Row::default();
        for (name, length) in metainfo.files() {
            let path = folder.join(name);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)
                .and_then(|file| reserve(&file, *length).map(|()| file))
                .map_err(|error| named(&path, &error))?;
            row.push(file, *length);
        }
        let names = metainfo.files().iter().map(|(name, _)| name.clone()).collect();
        Ok(Self { row, folder: folder.to_owned(), names })
    }

    /// Where the file of this name is, if the torrent has it.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        self.names.iter().any(|known| known == name).then(|| self.folder.join(name))
    }
}

impl Storage for Files {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.row.read_at(offset, buf)
    }

    fn read_at_once(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.row.read_at_once(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.row.write_at(offset, data)
    }
}

/// Allocates the file's space with `fallocate(2)`, or only sets its size on file systems without
/// it.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let size = i64::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    // SAFETY: the descriptor is open during the call, and no memory is passed.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, size) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => file.set_len(length),
        _ => Err(error),
    }
}

/// Fills `buf` from memory: `preadv2(2)` with `RWF_NOWAIT`, and a plain read if the file is in a
/// tmpfs, which does not support the flag. `false` if not all of it is in memory.
pub fn read_cached(file: &File, offset: u64, buf: &mut [u8]) -> bool {
    let Ok(at) = i64::try_from(offset) else { return false };
    let into = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: the descriptor is open and `into` describes memory that nobody else uses during the
    // call.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const into, 1, at, libc::RWF_NOWAIT) };
    let lacks_flag =
        read < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EOPNOTSUPP);
    let is_read = lacks_flag && is_in_memory(file) && file.read_exact_at(buf, offset).is_ok();
    is_read || usize::try_from(read) == Ok(buf.len())
}

fn is_in_memory(file: &File) -> bool {
    let mut about = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open during the call, and there is room for the answer.
    let outcome = unsafe { libc::fstatfs(file.as_raw_fd(), about.as_mut_ptr()) };
    // SAFETY: zero means that the kernel has filled it in.
    outcome == 0 && unsafe { about.assume_init() }.f_type == libc::TMPFS_MAGIC
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The files of a payload, each with the offset at which it starts.
#[derive(Debug, Default)]
struct Row {
    files: Vec<(u64, u64, File)>,
    total: u64,
}

impl Row {
    fn push(&mut self, file: File, length: u64) {
        self.files.push((self.total, length, file));
        self.total += length;
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.each_part(offset, buf.len(), |file, at, range| file.read_exact_at(&mut buf[range], at))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.each_part(offset, data.len(), |file, at, range| file.write_all_at(&data[range], at))
    }

    fn read_at_once(&self, offset: u64, buf: &mut [u8]) -> bool {
        let reading = self.each_part(offset, buf.len(), |file, at, range| {
            let is_there = read_cached(file, at, &mut buf[range]);
            is_there.then_some(()).ok_or_else(|| io::ErrorKind::WouldBlock.into())
        });
        reading.is_ok()
    }

    /// Calls `part` with each file that the range touches, the offset in it, and which bytes.
    fn each_part(
        &self,
        offset: u64,
        length: usize,
        mut part: impl FnMut(&File, u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.total) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "outside the payload"));
        }
        let first = self.files.partition_point(|(start, size, _)| start + size <= offset);
        let mut done = 0;
        for (start, size, file) in &self.files[first..] {
            if done == length {
                break;
            }
            let at = offset + done as u64 - start;
            let room = usize::try_from(size - at).unwrap_or(usize::MAX);
            let take = room.min(length - done);
            part(file, at, done..done + take)?;
            done += take;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torrent::create;

    /// A payload of three files: 10, 0 and 20 bytes.
    fn payload(folder: &Path) -> (Metainfo, Vec<FileSpec>) {
        let specs: Vec<FileSpec> = [("a", 10), ("b", 0), ("c", 20)]
            .into_iter()
            .map(|(name, length)| {
                let path = folder.join(name);
                std::fs::write(&path, vec![name.as_bytes()[0]; length]).expect("writable");
                FileSpec { name: name.to_owned(), path }
            })
            .collect();
        let created = create("sys", &specs, "", 1, &|_| ()).expect("readable");
        (Metainfo::parse(&created.torrent).expect("own torrents are well-formed"), specs)
    }

    #[test]
    fn reads_cross_file_borders() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (meta, specs) = payload(folder.path());
        let files = ReadOnlyFiles::open(&meta, &specs).expect("all files are there");
        let mut buf = [0; 4];
        files.read_at(8, &mut buf).expect("inside");
        assert_eq!(&buf, b"aacc");
        let mut again = [0; 4];
        if files.read_at_once(8, &mut again) {
            assert_eq!(&again, b"aacc");
        }
        assert!(!files.read_at_once(27, &mut buf));
        assert!(files.read_at(27, &mut buf).is_err());
        assert!(files.read_at(u64::MAX, &mut buf).is_err());
    }

    #[test]
    fn a_seed_never_writes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (meta, specs) = payload(folder.path());
        let files = ReadOnlyFiles::open(&meta, &specs).expect("all files are there");
        assert!(files.write_at(0, b"x").is_err());
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (meta, specs) = payload(folder.path());
        std::fs::write(&specs[2].path, b"short").expect("writable");
        let error = ReadOnlyFiles::open(&meta, &specs).expect_err("the length differs");
        assert!(error.to_string().ends_with("c has 5 bytes, but 20 in its torrent"), "{error}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (meta, _) = payload(folder.path());
        let files = Files::create(&meta, &folder.path().join("out")).expect("there is room");
        files.write_at(7, b"123456").expect("inside");
        let mut buf = [0; 6];
        files.read_at(7, &mut buf).expect("inside");
        assert_eq!(&buf, b"123456");
        let path = files.file("c").expect("the torrent has it");
        assert_eq!(&std::fs::read(path).expect("readable")[..4], b"456\0");
        assert_eq!(files.file("../c"), None);
    }
}
