//! Shell: single files of the lab: their state, what is wrong with them, how they are written.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bt_catalog::{Digest, Role};
use sha2::Digest as _;

use crate::humanize;

/// One file of a system as it was when the lab was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// What it is for.
    pub role: Role,
    /// Where it is.
    pub path: PathBuf,
    /// What tells whether it has changed.
    pub stamp: Stamp,
}

/// What tells whether a file has changed, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// The file's number in its file system: another one is another file.
    pub inode: u64,
}

impl Stamp {
    /// The file's stamp now, through symbolic links.
    ///
    /// # Errors
    /// What stat(2) says.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::of_metadata(&fs::metadata(path)?))
    }

    fn of_metadata(metadata: &fs::Metadata) -> Self {
        let mtime_ns =
            metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Self { size: metadata.len(), mtime_ns, inode: metadata.ino() }
    }

    /// How long ago the file was changed; zero for a time in the future.
    pub fn age(&self, now: SystemTime) -> Duration {
        let mtime = u64::try_from(self.mtime_ns).unwrap_or(0);
        now.duration_since(UNIX_EPOCH + Duration::from_nanos(mtime)).unwrap_or(Duration::ZERO)
    }
}

/// Something about the lab that its supervisor should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A file with line and column where there are any, or a part of the system.
    pub place: String,
    /// What is wrong, and what would be right.
    pub what: String,
    /// Whether the server cannot start, or a running one keeps what it has.
    pub is_blocking: bool,
}

impl Finding {
    /// One that prevents a start.
    pub fn blocking(place: String, what: String) -> Self {
        Self { place, what, is_blocking: true }
    }

    /// One that is only worth knowing.
    pub fn advice(place: &str, what: String) -> Self {
        Self { place: place.to_owned(), what, is_blocking: false }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// The stamp of a file that can be offered, or why it cannot, as the end of a sentence.
pub(super) fn stamp_of_file(path: &Path) -> Result<Stamp, String> {
    // Opened and not only looked at: a file that cannot be read must be found now. O_NONBLOCK: a
    // FIFO would wait for its writer.
    let opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let metadata = opened.and_then(|file| file.metadata()).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            "does not exist; put the file there, or correct the path".to_owned()
        }
        _ => format!("cannot be opened: {e}"),
    })?;
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    if metadata.len() == 0 {
        return Err("is empty; copy the file again".to_owned());
    }
    Ok(Stamp::of_metadata(&metadata))
}

pub(super) fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is larger than {}", humanize::size(most))));
    }
    Ok(bytes)
}

/// Replaces a file so that after a power cut there is either the old one or the new one, whole.
///
/// # Errors
/// What the file system says; the old file is then still there.
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("a file has a folder"))?;
    let permissions = fs::Permissions::from_mode(mode);
    let mut file =
        tempfile::Builder::new().prefix(".new-").permissions(permissions).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// Makes a folder that only its owner can enter; one that exists stays as it is.
///
/// # Errors
/// Where it cannot be made.
pub fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// SHA-256 of bytes in memory.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(sha2::Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_durable_write_replaces_the_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x");
        for text in ["one", "two"] {
            write_durably(&path, text.as_bytes(), 0o600).expect("written");
        }
        assert_eq!(fs::read_to_string(&path).expect("readable"), "two");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }
}
