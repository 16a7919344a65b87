//! Shell: the image that everybody fetches, in memory, in every form that an engine wants.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bt_swarm::FileSpec;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sha2::{Digest, Sha256};

/// The torrent's name, and so the folder of its files.
pub const NAME: &str = "room";
/// The catalog wants a kernel: the least that bt-node accepts as one.
const KERNEL_BYTES: usize = 64 << 10;

/// The image, in a folder that is in memory and removed with the lab.
pub struct Payload {
    folder: PathBuf,
    bytes: u64,
    digest: [u8; 32],
}

impl Drop for Payload {
    fn drop(&mut self) {
        // Else its mount point could not be removed.
        if let Err(error) = umount2(&self.folder, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.folder.display());
        }
    }
}

impl Payload {
    /// Makes an image of this many bytes, mostly noise, in `folder`, on which memory gets mounted.
    pub fn create(folder: &Path, bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        // Only the lab's own mount namespace sees it.
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("size=90%"))
            .context("cannot mount memory for the image")?;
        let mut payload = Self { folder: folder.into(), bytes, digest: [0; 32] };
        let image = payload.folder().join(NAME);
        std::fs::create_dir_all(&image)?;
        let kernel = kernel();
        let mut noise = File::open("/dev/urandom")?.take(bytes - kernel.len() as u64);
        std::io::copy(&mut noise, &mut File::create(image.join("initrd"))?)
            .context("not enough memory for the image")?;
        std::fs::write(image.join("kernel"), kernel)?;
        payload.join_files()?;
        payload.digest = digest(&[payload.single_file()])?;
        Ok(payload)
    }

    fn join_files(&self) -> Result<()> {
        let mut joined = File::create(self.single_file())?;
        for file in self.files() {
            std::io::copy(&mut File::open(file)?, &mut joined)
                .context("not enough memory for the image")?;
        }
        Ok(())
    }

    /// Where everything lies; the folder `room` in it is what a torrent client seeds.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its files, in the torrent's order.
    pub fn files(&self) -> [PathBuf; 2] {
        ["initrd", "kernel"].map(|name| self.folder.join(NAME).join(name))
    }

    /// The same bytes as one file.
    pub fn single_file(&self) -> PathBuf {
        self.folder.join("image.bin")
    }

    /// How large it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether these files, one behind the other, are the image.
    pub fn is_same(&self, files: &[PathBuf]) -> Result<bool> {
        Ok(digest(files)? == self.digest)
    }

    /// Writes the .torrent, with the pieces that our own server would make, for this tracker.
    pub fn write_torrent(&self, announce: &str) -> Result<PathBuf> {
        let specs = self.files().map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            FileSpec { name: name.into(), path: path.clone() }
        });
        let made = bt_swarm::create(NAME, &specs, announce, 2, &|_| ())
            .context("cannot make the torrent")?;
        let path = self.folder.join("room.torrent");
        File::create(&path)?.write_all(&made.torrent)?;
        Ok(path)
    }
}

fn digest(files: &[PathBuf]) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut file =
            File::open(path).with_context(|| format!("the file {} is missing", path.display()))?;
        loop {
            let bytes = file.read(&mut buffer)?;
            if bytes == 0 {
                break;
            }
            hash.update(&buffer[..bytes]);
        }
    }
    Ok(hash.finalize().into())
}

/// A setup header without a kernel (Documentation/arch/x86/boot.rst): nothing here ever starts it.
fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; KERNEL_BYTES];
    kernel[0x1f1] = 4;
    kernel[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    kernel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_and_its_parts_have_the_same_digest() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("writable");
            path
        };
        let parts = [file("a", b"boot"), file("b", b"torrent")];
        let joined = digest(&[file("joined", b"boottorrent")]).expect("readable");
        assert_eq!(digest(&parts).expect("readable"), joined);
        assert!(digest(&[folder.path().join("none")]).is_err());
    }
}
