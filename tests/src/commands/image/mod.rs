//! Shell: `cargo lab image`: systems to test the handover with, made of Debian's packages.
//!
//! ```text
//! recipe   mmdebstrap or BusyBox -> a tree of what is on the medium; once, kept in the cache
//! medium   tree + noise -> an ISO of exactly the wanted size; for a plain system a kernel and a padded initrd
//! ```
//! Each started system reports on its serial line how its medium came, its SHA-256 and how much memory is left: see
//! `tests/files/image/report`.

mod debian;
pub mod initramfs;
mod report;
mod small;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bt_initramfs::sample::write_noise;
use clap::{Args, ValueEnum};

use crate::host::cargo;
use crate::host::outcome::Outcome;
use crate::host::packages::{self, Extra};
use crate::host::process::{command, run};
use report::LABEL;

/// ISO 9660 counts in sectors.
const SECTOR: u64 = 2048;

/// Make a test system of a given size, to try the handover
///
/// The first of each kind downloads Debian packages (about 150 MB) and takes some minutes; later ones, of any size, take
/// seconds. Add the result to a lab with `bt-server add`.
#[derive(Args)]
pub struct Options {
    /// Kind of system
    #[arg(long, value_enum)]
    kind: Kind,
    /// Its size, such as 300M or 2G (MiB and GiB) [default: the smallest possible]
    #[arg(long, value_parser = size)]
    size: Option<u64>,
    /// Where to put it: an ISO file, or for `plain` a folder [default: in the results folder]
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
}

/// A kind of test system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Debian with live-boot, as Debian's own live images
    DebianLive,
    /// Debian with dracut and its dmsquash-live, as Fedora's live images
    DracutLive,
    /// A BusyBox system that finds its medium as Alpine does
    AlpineLike,
    /// Kernel and initrd only
    Plain,
}

impl Kind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::DebianLive => "debian-live",
            Self::DracutLive => "dracut-live",
            Self::AlpineLike => "alpine-like",
            Self::Plain => "plain",
        }
    }

    /// Raised when its recipe changes, so that no cache keeps an old one.
    fn recipe(self) -> u32 {
        match self {
            Self::DracutLive => 2,
            Self::DebianLive | Self::AlpineLike | Self::Plain => 1,
        }
    }
}

/// Runs the command.
pub fn run_command(options: &Options) -> Result<Outcome> {
    packages::ensure_packages(Extra::Images, options.yes)?;
    let path = options.out.clone().unwrap_or_else(|| usual_path(options.kind, options.size));
    let bytes = make(options.kind, options.size, &path)?;
    let line = format!("{} ({} MiB): {}", options.kind.name(), bytes >> 20, path.display());
    Ok(Outcome::new(true, line).with("path", path.display().to_string()).with("bytes", bytes))
}

/// Where the command puts a system.
pub fn usual_path(kind: Kind, size: Option<u64>) -> PathBuf {
    let size = size.map_or_else(String::new, |bytes| format!("-{}M", bytes >> 20));
    let suffix = if kind == Kind::Plain { "" } else { ".iso" };
    cargo::results_folder().join("image").join(format!("{}{size}{suffix}", kind.name()))
}

/// Makes a test system at `path`, `size` bytes large (of a plain one the kernel and the initrd together), and returns its
/// size. One that is there already in that size is kept.
pub fn make(kind: Kind, size: Option<u64>, path: &Path) -> Result<u64> {
    let folder = path.parent().context("a system is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let tree = tree(kind)?;
    if kind == Kind::Plain {
        return small::pad(&tree, size, path);
    }
    if let Ok(metadata) = path.metadata()
        && size == Some(metadata.len())
    {
        return Ok(metadata.len());
    }
    let new = path.with_added_extension("new");
    let smallest = write_iso(&tree, None, &new)?;
    let bytes = match size {
        None => smallest,
        Some(size) => {
            let size = size / SECTOR * SECTOR;
            ensure!(
                size >= smallest,
                "a {} needs at least {} MiB",
                kind.name(),
                (smallest >> 20) + 1
            );
            pad_iso(&tree, smallest, size, &new)?
        }
    };
    fs::rename(&new, path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(bytes)
}

/// What is on the medium; made once.
fn tree(kind: Kind) -> Result<PathBuf> {
    let cache = packages::cache_folder()?.join("images");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let ready = cache.join(format!("{}-{}", kind.name(), kind.recipe()));
    if ready.is_dir() {
        return Ok(ready);
    }
    println!("Making a {} system (once) ...", kind.name());
    let fresh = tempfile::Builder::new().prefix("making").tempdir_in(&cache)?;
    let tree = fresh.path().join("tree");
    fs::create_dir(&tree)?;
    match kind {
        Kind::DebianLive => debian::live_boot(fresh.path(), &tree)?,
        Kind::DracutLive => debian::dracut(fresh.path(), &tree)?,
        Kind::AlpineLike => small::alpine_like(&tree)?,
        Kind::Plain => small::plain(&tree)?,
    }
    // Only a complete tree ever gets the final name.
    fs::rename(&tree, &ready).with_context(|| format!("cannot make {}", ready.display()))?;
    Ok(ready)
}

/// Writes an ISO with Rock Ridge, as every distribution's is, and returns its size.
fn write_iso(tree: &Path, noise: Option<&Path>, iso: &Path) -> Result<u64> {
    let mut xorriso = command("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-iso-level", "3", "-rational-rock", "-no-pad"]);
    xorriso.args(["-volid", LABEL, "-output"]).arg(iso).arg(tree).args(noise);
    run(xorriso)?;
    Ok(fs::metadata(iso)?.len())
}

/// Adds a file of noise that brings the ISO to the wanted size; it is no part of the system.
fn pad_iso(tree: &Path, smallest: u64, size: u64, iso: &Path) -> Result<u64> {
    let folder = tempfile::tempdir_in(iso.parent().context("a file is in a folder")?)?;
    let noise = folder.path().join("noise");
    // A directory entry may cost a sector of its own, so the first try may miss.
    let mut bytes = size - smallest;
    for _ in 0..3 {
        let mut file = std::io::BufWriter::new(fs::File::create(&noise)?);
        write_noise(&mut file, bytes).context("cannot write the noise")?;
        file.flush()?;
        let reached = write_iso(tree, Some(folder.path()), iso)?;
        if reached == size {
            return Ok(size);
        }
        bytes = (bytes + size).checked_sub(reached).context("the size is off by a sector")?;
    }
    anyhow::bail!("cannot make an ISO of exactly {size} bytes; choose another size")
}

/// `300M` and `2G` count in MiB and GiB.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a valid size; expected for example 300M or 2G");
    let (number, factor) =
        match text.trim().trim_end_matches("iB").split_at_checked(text.len().max(1) - 1) {
            Some((number, "M")) => (number, 1 << 20),
            Some((number, "G")) => (number, 1 << 30),
            _ => return Err(wrong()),
        };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_mebibytes_and_gibibytes() {
        assert_eq!(size("300M"), Ok(300 << 20));
        assert_eq!(size("2G"), Ok(2 << 30));
        for wrong in ["", "M", "0M", "300", "-1G", "99999999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_script_of_a_test_system_is_one_for_its_shell() {
        for (name, text) in [("report", report::REPORT), ("init", small::INIT)] {
            let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
            file.write_all(text.as_bytes()).expect("it was just made");
            let mut shell = command("sh");
            shell.arg("-n").arg(file.path());
            run(shell).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
    }
}
