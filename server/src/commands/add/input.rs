//! Shell: what the supervisor named: an ISO, a squashfs, a folder with files of a medium, or a root folder.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bt_catalog::Family;
use indicatif::ProgressBar;
use walkdir::WalkDir;

use super::family::Layout;
use super::iso::{Iso, SECTOR, is_primary_volume};
use super::squashfs::{MAGIC, Squashfs};
use crate::lab::kernel_header;

/// A folder with more files is a whole disk, given by mistake.
const MAX_FILES: usize = 1_000_000;
/// Bytes copied at once.
const BLOCK: usize = 1 << 20;

/// What is to be added.
#[derive(Debug)]
pub enum Input {
    /// A medium as one file.
    Iso(Box<Iso<File>>, PathBuf),
    /// A bare root file system.
    Squashfs(Squashfs),
    /// A folder: the files of a medium, or kernel and initrd.
    Folder(PathBuf, Vec<String>),
    /// A folder that is the root of a system.
    Root(PathBuf),
}

impl Input {
    /// Looks at what is at `path`.
    ///
    /// # Errors
    /// Nothing there, or nothing that can be added, in words.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let metadata = fs::metadata(path).with_context(|| format!("cannot open {shown}"))?;
        if metadata.is_dir() {
            return Self::folder(path);
        }
        ensure!(metadata.is_file(), "{shown} is neither a file nor a folder");
        ensure!(metadata.len() > 0, "{shown} is empty: copy or download it again");
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let mut start = Vec::new();
        (&file).take(17 * SECTOR).read_to_end(&mut start)?;
        if start.starts_with(MAGIC) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(Self::Squashfs(Squashfs { file: path.to_owned(), offset: 0, name }));
        }
        if is_primary_volume(start.get(16 * SECTOR as usize..).unwrap_or_default()) {
            let iso = Iso::open(file).with_context(|| format!("cannot read the medium {shown}"))?;
            return Ok(Self::Iso(Box::new(iso), path.to_owned()));
        }
        if kernel_header(path).is_ok() {
            let folder =
                path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            bail!(
                "{shown} is only a kernel; put it into a folder with its initrd, and add that folder ({})",
                folder.display()
            );
        }
        bail!(
            "{shown} is neither an ISO nor a squashfs; what can be added is described in docs/supervisor/systems.md \
             (archives have to be unpacked first)"
        )
    }

    fn folder(path: &Path) -> Result<Self> {
        let is_root = ["etc", "usr", "boot"].iter().all(|name| path.join(name).is_dir());
        if is_root {
            return Ok(Self::Root(path.to_owned()));
        }
        let mut names = Vec::new();
        for entry in WalkDir::new(path).follow_links(true) {
            // A link that leads nowhere is no file of the system.
            let Ok(entry) = entry else { continue };
            ensure!(names.len() < MAX_FILES, "{} has more than {MAX_FILES} files", path.display());
            let name = entry.path().strip_prefix(path).ok().and_then(Path::to_str);
            names.extend(name.filter(|_| entry.file_type().is_file()).map(str::to_owned));
        }
        names.sort();
        Ok(Self::Folder(path.to_owned(), names))
    }

    /// A small file of the medium or folder, as text.
    ///
    /// # Errors
    /// No such file, or one of more than a megabyte.
    pub fn text(&mut self, name: &str) -> Result<String> {
        const MOST: u64 = 1 << 20;
        let bytes = match self {
            Self::Iso(iso, _) => iso.read(name, MOST)?,
            Self::Folder(folder, _) => {
                let path = folder.join(name);
                ensure!(fs::metadata(&path)?.len() <= MOST, "{name} is too large");
                fs::read(path)?
            }
            Self::Squashfs(_) | Self::Root(_) => Vec::new(),
        };
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Copies a file of it to `to`.
    ///
    /// # Errors
    /// What reading or writing reports.
    pub fn copy(&self, name: &str, to: &Path, bar: &ProgressBar) -> Result<()> {
        match self {
            Self::Iso(iso, path) => {
                let extents = iso
                    .extents(name)
                    .with_context(|| format!("there is no {name} on the medium"))?;
                copy_parts(path, extents, 0, to, bar)
            }
            Self::Folder(folder, _) | Self::Root(folder) => {
                copy_whole(&folder.join(name), 0, to, bar)
            }
            Self::Squashfs(squashfs) => {
                let bytes =
                    squashfs.read(name)?.with_context(|| format!("{squashfs} has no {name}"))?;
                bar.inc_length(bytes.len() as u64);
                bar.inc(bytes.len() as u64);
                fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
            }
        }
    }

    /// The squashfs files that `layout` names.
    pub fn squashfs(&self, layout: &Layout) -> Vec<Squashfs> {
        match self {
            Self::Iso(iso, path) => {
                let place = |name: &String| {
                    let (offset, _) = *iso.extents(name)?.first()?;
                    Some(Squashfs { file: path.clone(), offset, name: name.clone() })
                };
                layout.roots.iter().filter_map(place).collect()
            }
            Self::Folder(folder, _) => {
                let place = |name: &String| Squashfs {
                    file: folder.join(name),
                    offset: 0,
                    name: name.clone(),
                };
                layout.roots.iter().map(place).collect()
            }
            Self::Squashfs(squashfs) => vec![squashfs.clone()],
            Self::Root(_) => Vec::new(),
        }
    }

    /// The root folder, where it is one.
    pub fn root(&self) -> Option<&Path> {
        if let Self::Root(folder) = self { Some(folder) } else { None }
    }

    /// What a bare root file system is, from the programs in it that make its initrd.
    ///
    /// # Errors
    /// No kernel or initrd in it, or no program that would find the image.
    pub fn layout_of_root(&self) -> Result<Layout> {
        let names = |folder: &str| -> Result<Vec<String>> {
            match self {
                Self::Squashfs(squashfs) => squashfs.list(folder),
                Self::Root(root) => Ok(listed(root, folder)),
                Self::Iso(..) | Self::Folder(..) => Ok(Vec::new()),
            }
        };
        let markers = [
            (Family::DebianLive, "Debian with live-boot", ["usr/lib/live/boot", "lib/live/boot"]),
            (
                Family::Casper,
                "Ubuntu with casper",
                ["usr/share/initramfs-tools/scripts/casper-bottom", "usr/share/casper"],
            ),
            (
                Family::Dracut,
                "a system with dracut's dmsquash-live",
                [
                    "usr/lib/dracut/modules.d/90dmsquash-live",
                    "usr/lib/dracut/modules.d/70dmsquash-live",
                ],
            ),
        ];
        let mut found = None;
        for (family, what, folders) in markers {
            for folder in folders {
                if found.is_none() && !names(folder)?.is_empty() {
                    found = Some((family, what));
                }
            }
        }
        let (family, what) = found.context(
            "this root file system has no program that finds its image at boot: install live-boot (Debian), casper \
             (Ubuntu) or dracut-live in it, and rebuild its initrd",
        )?;
        let boot = names("boot")?;
        let newest = |start: &str| {
            boot.iter()
                .filter(|name| name.starts_with(start))
                .max_by_key(|n| (n.len(), *n))
                .cloned()
        };
        let initrd = newest("boot/initrd.img").or_else(|| newest("boot/initramfs"));
        Ok(Layout {
            family,
            what: what.to_owned(),
            roots: Vec::new(),
            kernel: newest("boot/vmlinuz"),
            initrd,
            label: String::new(),
            words: Vec::new(),
            unsure: Vec::new(),
        })
    }
}

/// The files of a root's folder, as paths from the root.
fn listed(root: &Path, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| Some(format!("{folder}/{}", entry.file_name().to_str()?)))
        .collect();
    names.sort();
    names
}

/// Appends a whole file to `to` from byte `at` on.
///
/// # Errors
/// What reading or writing reports.
pub fn copy_whole(from: &Path, at: u64, to: &Path, bar: &ProgressBar) -> Result<()> {
    let length =
        fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?.len();
    copy_parts(from, &[(0, length)], at, to, bar)
}

fn copy_parts(
    from: &Path,
    parts: &[(u64, u64)],
    at: u64,
    to: &Path,
    bar: &ProgressBar,
) -> Result<()> {
    let write = || format!("cannot write {}; check that the disk has space", to.display());
    let mut source = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let mut target =
        File::options().create(true).write(true).truncate(false).open(to).with_context(write)?;
    target.seek(SeekFrom::Start(at))?;
    bar.inc_length(parts.iter().map(|(_, length)| length).sum());
    let mut block = vec![0; BLOCK];
    for (offset, length) in parts {
        source.seek(SeekFrom::Start(*offset))?;
        let mut left = *length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            let count = source
                .read(&mut block[..most])
                .with_context(|| format!("cannot read {}", from.display()))?;
            ensure!(count > 0, "{} became shorter while it was read", from.display());
            target.write_all(&block[..count]).with_context(write)?;
            bar.inc(count as u64);
            left -= count as u64;
        }
    }
    target.sync_all().with_context(write)
}
