//! Shell: the small Linux's two files.
//!
//! The files are kept in memory: 30 nodes that boot at once read the disk once, and a file that
//! is replaced meanwhile cannot be half old and half new.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bt_catalog::paths;
use bytes::Bytes;
use tokio::sync::Mutex;
use tracing::{info, warn};

/// What there is below `/boot/`.
const NAMES: [&str; 2] = [paths::KERNEL, paths::INITRAMFS];

/// Both together are 30 MB; far more is no file of ours.
const MAX_FILE: u64 = 256 << 20;

/// Tells whether a file on disk is still the one in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            return Err(io::Error::other("not a kernel or initramfs"));
        }
        Ok(Self {
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// The kernel and the initramfs that nodes boot.
#[derive(Debug)]
pub struct BootFiles {
    folder: PathBuf,
    /// One lock for both files: the second of two nodes waits for the first one's read.
    kept: Mutex<HashMap<&'static str, (Stamp, Bytes)>>,
}

impl BootFiles {
    /// Reads nothing yet.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, kept: Mutex::default() }
    }

    /// The file as it is now.
    pub async fn find(&self, name: &str) -> Option<Bytes> {
        let name = NAMES.into_iter().find(|known| *known == name)?;
        let path = self.folder.join(name);
        let mut kept = self.kept.lock().await;
        let known = kept.get(name).cloned();
        let shown = path.display().to_string();
        let work = tokio::task::spawn_blocking(move || read(&path, known));
        match work.await.expect("reading a file does not panic") {
            Ok((stamp, bytes)) => {
                kept.insert(name, (stamp, bytes.clone()));
                Some(bytes)
            }
            Err(error) => {
                // That a file is missing, the supervisor was told at start; here anybody could
                // fill the log with it.
                if error.kind() != io::ErrorKind::NotFound {
                    warn!(path = shown, %error, "a boot file cannot be read");
                }
                kept.remove(name);
                None
            }
        }
    }
}

fn read(path: &Path, known: Option<(Stamp, Bytes)>) -> io::Result<(Stamp, Bytes)> {
    let stamp = Stamp::of(path)?;
    if let Some(known) = known.filter(|(of, _)| *of == stamp) {
        return Ok(known);
    }
    let bytes = Bytes::from(std::fs::read(path)?);
    info!(path = %path.display(), bytes = bytes.len(), "boot file read");
    Ok((stamp, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replaced_file_is_served_anew_and_no_other_name_is_a_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = BootFiles::new(folder.path().to_owned());
        assert_eq!(files.find("vmlinuz").await, None);
        std::fs::write(folder.path().join("vmlinuz"), "old").expect("writes");
        std::fs::write(folder.path().join("secret"), "secret").expect("writes");
        assert_eq!(files.find("vmlinuz").await.as_deref(), Some(&b"old"[..]));
        assert_eq!(files.find("vmlinuz").await.as_deref(), Some(&b"old"[..]));
        std::fs::write(folder.path().join("vmlinuz"), "newer").expect("writes");
        assert_eq!(files.find("vmlinuz").await.as_deref(), Some(&b"newer"[..]));
        for name in ["secret", "", ".", "../vmlinuz", "vmlinuz/", "VMLINUZ"] {
            assert_eq!(files.find(name).await, None, "{name}");
        }
    }
}
