//! Shell: reads a squashfs, alone or inside of a medium, by Debian's `unsquashfs`: nothing is mounted.

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The first bytes of every squashfs.
pub const MAGIC: &[u8; 4] = b"hsqs";

/// A squashfs somewhere in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Squashfs {
    /// The file that holds it.
    pub file: PathBuf,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// What people call it.
    pub name: String,
}

impl fmt::Display for Squashfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Squashfs {
    /// The files below a folder, as paths from the root; none where there is no such folder.
    ///
    /// # Errors
    /// `unsquashfs` is not installed, or this is no squashfs that it can read.
    pub fn list(&self, folder: &str) -> Result<Vec<String>> {
        let printed = self.run(&["-lc"], folder)?;
        let text = String::from_utf8_lossy(&printed);
        let paths = text.lines().filter_map(|line| line.strip_prefix("squashfs-root/"));
        Ok(paths.map(str::to_owned).collect())
    }

    /// A file's bytes, through symbolic links inside of the squashfs; `None` where there is none.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let bytes = self.run(&["-cat"], path)?;
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    fn run(&self, arguments: &[&str], path: &str) -> Result<Vec<u8>> {
        const NO_MATCH: i32 = 2;
        let mut unsquashfs = Command::new("unsquashfs");
        unsquashfs.args(arguments).args(["-o", &self.offset.to_string()]);
        unsquashfs.arg(&self.file).arg(path).stdin(Stdio::null());
        let output =
            unsquashfs.output().context("cannot run unsquashfs: `apt install squashfs-tools`")?;
        if output.status.success() || output.status.code() == Some(NO_MATCH) {
            return Ok(output.stdout);
        }
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("cannot read {}: {}", self.name, words.lines().last().unwrap_or("unsquashfs failed"))
    }
}
