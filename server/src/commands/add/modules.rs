//! Shell: finds the modules of a system's kernel, and makes its hand-over part of them.
//!
//! They come from where the kernel comes from: the squashfs of the medium, the root folder, a package that the supervisor
//! names; and if this machine happens to run the same kernel, from here. Whatever the source, each module has to say that it
//! was built for exactly this kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bt_initramfs::handover::{self, Part};
use bt_initramfs::kernel::{KernelFiles, find_modules, read_unpacked};
use bt_initramfs::modules::{Available, name_of};

use super::squashfs::Squashfs;

/// Where distributions keep modules; the last is Alpine's modloop.
const FOLDERS: [&str; 3] = ["usr/lib/modules", "lib/modules", "modules"];

/// Where to look.
#[derive(Debug)]
pub struct Sources<'a> {
    /// What the supervisor named: a package, a root folder, or a folder of modules.
    pub named: Option<&'a Path>,
    /// The squashfs files of the medium.
    pub squashfs: &'a [Squashfs],
    /// The system's root folder, where it was given as one.
    pub root: Option<&'a Path>,
}

/// Makes the hand-over part for kernel `release`, and says where the modules were.
///
/// # Errors
/// No modules anywhere, with what to do; or modules of another kernel.
pub fn part(release: &str, sources: &Sources<'_>) -> Result<(Part, String)> {
    if let Some(path) = sources.named {
        let files = find_modules(path, release)?;
        return Ok((of_folder(&files)?, path.display().to_string()));
    }
    let mut unread = Vec::new();
    for squashfs in sources.squashfs {
        match of_squashfs(squashfs, release) {
            Ok(Some(part)) => return Ok((part, squashfs.to_string())),
            Ok(None) => {}
            Err(error) => unread.push(format!("{error:#}")),
        }
    }
    for root in sources.root.into_iter().chain([Path::new("/")]) {
        if let Ok(files) = find_modules(root, release) {
            let place = if root == Path::new("/") {
                "this machine".to_owned()
            } else {
                root.display().to_string()
            };
            return Ok((of_folder(&files)?, place));
        }
    }
    let unread =
        if unread.is_empty() { String::new() } else { format!(" ({})", unread.join("; ")) };
    bail!(
        "cannot find the modules of kernel {release}{unread}, which make the image a disk of the booted system; name \
         them with --modules: the distribution's kernel package (.deb), or a folder with lib/modules/{release}"
    )
}

fn of_folder(files: &KernelFiles) -> Result<Part> {
    handover::build(&files.version, &files.available()?, |file| Ok(files.module_with_info(file)?.1))
}

fn of_squashfs(squashfs: &Squashfs, release: &str) -> Result<Option<Part>> {
    for folder in FOLDERS {
        let folder = format!("{folder}/{release}");
        let listed = squashfs.list(&folder)?;
        let start = format!("{folder}/");
        let files = listed.iter().filter_map(|path| path.strip_prefix(&start));
        let files = files.filter_map(|path| Some((name_of(path)?, path.to_owned()))).collect();
        let mut available = Available { files, builtin: BTreeSet::new() };
        if available.files.is_empty() {
            continue;
        }
        let builtin = squashfs.read(&format!("{folder}/modules.builtin"))?.unwrap_or_default();
        available.builtin = String::from_utf8_lossy(&builtin).lines().filter_map(name_of).collect();
        let read = |file: &str| unpacked(squashfs, &format!("{folder}/{file}"));
        return handover::build(release, &available, read).map(Some);
    }
    Ok(None)
}

/// A module's bytes, unpacked by what its name ends in.
fn unpacked(squashfs: &Squashfs, path: &str) -> Result<Vec<u8>> {
    let bytes = squashfs
        .read(path)?
        .with_context(|| format!("{squashfs} lists {path}, but does not contain it"))?;
    let name = path.rsplit('/').next().unwrap_or(path);
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let file = folder.path().join(name);
    fs::write(&file, bytes).context("cannot write a temporary file")?;
    read_unpacked(&file)
}
