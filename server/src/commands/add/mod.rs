//! Shell: `bt-server add`: an ISO, a squashfs or a folder -> a system that nodes can start.
//!
//! ```text
//! input.rs    what was named       iso.rs    files of a medium      squashfs.rs    files of a root file system
//! family.rs   which family it is   menu.rs   its own boot menu      modules.rs     the modules of its kernel
//! initrd.rs   what its initrd says
//! wrap.rs     a medium of a bare squashfs                           entry_text.rs  the catalog entry
//! ```
//! Everything is made in a new folder beside the others in `images/`, and takes its place by one rename when it is whole. A
//! running server keeps the old files open, so nodes that began with them finish with them.

mod entry_text;
mod family;
mod files;
mod initrd;
mod input;
mod iso;
mod menu;
mod modules;
mod squashfs;
mod wrap;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use bt_catalog::{BootMethod, Entry, Family, KernelHeader, SystemId};
use bt_initramfs::handover::Part;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use self::entry_text::{EntryText, id_of, os_release};
use self::family::{Layout, recognise};
use self::files::{HANDOVER, IMAGE, INITRD, KERNEL};
use self::input::{Input, copy_whole};
use self::modules::Sources;
use crate::humanize;
use crate::lab::files::write_durably;
use crate::lab::{Lab, kernel_header};

/// How the name of a folder begins that is being filled.
const ADDING: &str = ".adding-";
/// dracut's word for an overlay of the kernel's overlay file system.
const OVERLAY: &str = "rd.live.overlay.overlayfs";
/// The label of media that are made here.
const LABEL: &str = "BOOTTORRENT";

/// What to add.
#[derive(Debug, Clone)]
pub struct Options {
    /// An ISO, a squashfs, or a folder.
    pub source: PathBuf,
    /// The system's id; else it comes from the source's name.
    pub id: Option<SystemId>,
    /// What students read; else the system says it.
    pub name: Option<String>,
    /// Where the kernel's modules are, if not in the source.
    pub modules: Option<PathBuf>,
}

/// Adds a system, or replaces its files. Returns what was found and done, as lines.
///
/// # Errors
/// What was named cannot be added, or a file could not be written; the lab is then as it was.
pub fn add(lab: &Lab, options: &Options) -> Result<Vec<String>> {
    let is_blank = |name: &String| name.trim().is_empty();
    ensure!(!options.name.as_ref().is_some_and(is_blank), "--name is empty; students read it");
    let mut input = Input::open(&options.source)?;
    let id = system_id(options)?;
    let mut found = look(&mut input)?;
    let (folder, _lock) = stage(lab, &id)?;
    let bar = bar(&id);
    let copied = copy_boot_files(&input, &found, folder.path(), &bar);
    let kernel = copied.inspect_err(|_| bar.finish_and_clear())?;
    look_into_initrd(&folder.path().join(INITRD), &mut found);
    give_overlay(&input, &mut found);
    let mut lines = vec![
        format!("found   {}", found.what),
        format!(
            "found   kernel {} ({}), {}",
            kernel.release,
            found.kernel.as_deref().unwrap_or_default(),
            signature(&kernel)
        ),
    ];
    let mut method = None;
    if found.family != Family::Plain {
        let squashfs = input.squashfs(&found);
        let sources =
            Sources { named: options.modules.as_deref(), squashfs: &squashfs, root: input.root() };
        let (part, place) = modules::part(&kernel.release, &sources)
            .with_context(|| format!("it is {}", found.what))?;
        method = method_of(&part, &mut found)?;
        lines.push(format!("found   its modules in {place}: {}", listed(&part)));
        fs::write(folder.path().join(HANDOVER), &part.bytes)
            .context("cannot write the handover part")?;
        // The pause before was no copying.
        bar.reset_eta();
        image(&input, &found, &folder.path().join(IMAGE), &bar)?;
    }
    bar.finish_and_clear();
    let entry = entry(&input, options, &id, &found, &kernel, method);
    let kept = check_entry(lab, &id, &entry)?;
    install(lab, &id, folder)?;
    lines.extend(report_files(lab, &id)?);
    if kept {
        let name = if options.name.is_some() { ", its name too: edit that there" } else { "" };
        lines.push(format!("kept    catalog/{id}.toml as it is{name}"));
    } else {
        write_durably(&lab.catalog().join(format!("{id}.toml")), entry.text().as_bytes(), 0o644)
            .with_context(|| format!("cannot write catalog/{id}.toml"))?;
        lines.push(format!("made    catalog/{id}.toml: name, note and rooms are yours to edit"));
    }
    if is_untried(found.family) {
        found.unsure.push(format!(
            "the project has not booted an original medium of family `{}` yet: try it on one PC first",
            found.family.name()
        ));
    }
    if !kept {
        found.unsure.push("its `min_ram` is a guess".to_owned());
    }
    lines.extend(found.unsure.iter().map(|what| format!("unsure  {what}")));
    Ok(lines)
}

fn system_id(options: &Options) -> Result<SystemId> {
    if let Some(id) = &options.id {
        return Ok(id.clone());
    }
    // `.` and `..` have no name of their own.
    let path = options.source.canonicalize().unwrap_or_else(|_| options.source.clone());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    id_of(&name).parse().map_err(|_| {
        anyhow::anyhow!(
            "cannot derive an id from `{name}`; choose one with --id, such as --id debian-12"
        )
    })
}

/// Finds out what it is.
fn look(input: &mut Input) -> Result<Layout> {
    let (names, label) = match input {
        Input::Iso(iso, _) => (iso.names().map(str::to_owned).collect(), iso.label.clone()),
        Input::Folder(_, names) => (names.clone(), LABEL.to_owned()),
        Input::Squashfs(_) | Input::Root(_) => {
            let mut layout = input.layout_of_root()?;
            layout.words.push("quiet".to_owned());
            return Ok(layout);
        }
    };
    let mut entries = Vec::new();
    for name in menu::menus(names.iter().map(String::as_str)) {
        // A menu that cannot be read is one hint less.
        entries.extend(input.text(name).map(|text| menu::entries(&text)).unwrap_or_default());
    }
    recognise(&names, &label, &entries).map_err(anyhow::Error::msg)
}

/// The initrd is what looks for the image, so it has the last word.
fn look_into_initrd(path: &Path, found: &mut Layout) {
    if found.initrd.is_none() {
        return;
    }
    match initrd::names(path).map(|names| initrd::family(&names)) {
        // These look for no image, or have no program of their own for it.
        Ok(_) if matches!(found.family, Family::Plain | Family::Alpine) => {}
        Ok(Some(family)) if family == found.family => {}
        // kiwi's media have dracut's files on them, and newer ones of Fedora are made by kiwi, with dracut's own module.
        Ok(Some(family)) if [family, found.family].iter().all(|f| matches!(f, Family::Dracut | Family::Kiwi)) => {
            found.turn_into(family);
        }
        Ok(Some(family)) => found.unsure.push(format!(
            "the medium looks like {}, and its initrd like family `{}`: change `family` in the entry if it does not boot",
            found.what,
            family.name()
        )),
        Ok(None) => found.unsure.push(
            "its initrd contains none of the known programs that find an image: try it before students do".to_owned(),
        ),
        Err(error) => found.unsure.push(format!("its initrd could not be inspected ({error:#})")),
    }
}

/// A root file system that is the squashfs itself, not an image inside of it, is read-only below an overlay; dracut makes
/// the overlay's folders only when it is told (seen with dracut 059).
fn give_overlay(input: &Input, found: &mut Layout) {
    let has_root = || match input.root() {
        Some(_) => true,
        None => input
            .squashfs(found)
            .iter()
            .any(|squashfs| squashfs.list("usr").is_ok_and(|files| !files.is_empty())),
    };
    if found.family == Family::Dracut && !has_word(found, OVERLAY) && has_root() {
        found.words.push(format!("{OVERLAY}=1"));
    }
}

fn has_word(found: &Layout, key: &str) -> bool {
    found.words.iter().any(|word| word.split('=').next() == Some(key))
}

/// A new folder in `images/`: on the same disk as what it will replace. The lock says that somebody works in it; what was
/// interrupted has none, and is removed.
fn stage(lab: &Lab, id: &SystemId) -> Result<(tempfile::TempDir, fs::File)> {
    let images = lab.images();
    let cannot = || format!("cannot write to {}", lab.name_of(&images));
    let all = fs::File::open(&images).with_context(cannot)?;
    // Disks without locks keep what was interrupted.
    if all.lock().is_ok() {
        remove_interrupted(&images);
    }
    let prefix = format!("{ADDING}{id}-");
    let folder =
        tempfile::Builder::new().prefix(&prefix).tempdir_in(&images).with_context(cannot)?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let lock = fs::File::open(folder.path()).with_context(cannot)?;
    let _has_locks = lock.try_lock();
    Ok((folder, lock))
}

/// Removes the folders of `add`s that were stopped halfway.
fn remove_interrupted(images: &Path) {
    for entry in fs::read_dir(images).into_iter().flatten().flatten() {
        let is_staged = entry.file_name().to_string_lossy().starts_with(ADDING);
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let is_free = || fs::File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok());
        if is_staged && is_folder && is_free() {
            // What cannot be removed is an obstacle to nobody but the disk.
            let _removed = fs::remove_dir_all(entry.path());
        }
    }
}

fn copy_boot_files(
    input: &Input,
    found: &Layout,
    folder: &Path,
    bar: &ProgressBar,
) -> Result<KernelHeader> {
    let name = found
        .kernel
        .as_ref()
        .with_context(|| format!("it contains no kernel, although it looks like {}", found.what))?;
    let kernel = folder.join(KERNEL);
    input.copy(name, &kernel, bar)?;
    let header = kernel_header(&kernel).with_context(|| format!("{name} cannot be booted"))?;
    match &found.initrd {
        Some(initrd) => {
            let to = folder.join(INITRD);
            input.copy(initrd, &to, bar)?;
            ensure!(fs::metadata(&to)?.len() > 0, "its initrd {initrd} is empty: copy it again");
        }
        None if found.family == Family::Plain => {}
        None => bail!("it contains no initrd, although it looks like {}", found.what),
    }
    Ok(header)
}

fn signature(kernel: &KernelHeader) -> &'static str {
    if kernel.signed {
        "signed: it may start under Secure Boot"
    } else {
        "not signed: not for PCs with Secure Boot"
    }
}

/// What no test has started as the real thing; docs/supervisor/systems.md says the same.
fn is_untried(family: Family) -> bool {
    matches!(family, Family::Casper | Family::Archiso | Family::Kiwi)
}

/// Which methods this kernel leaves open.
fn method_of(part: &Part, found: &mut Layout) -> Result<Option<BootMethod>> {
    if part.has_pmem && !part.has_join {
        found.unsure.push(
            "this kernel has no device mapper (dm_mod), so the image must be contiguous in memory: large images may \
             not boot on PCs whose memory is fragmented"
                .to_owned(),
        );
    }
    match (part.has_pmem, part.has_loop) {
        (true, true) => Ok(None),
        (true, false) => Ok(Some(BootMethod::Pmem)),
        (false, true) => {
            found.unsure.push(
                "this kernel has no driver for persistent memory (CONFIG_X86_PMEM_LEGACY), so the PC needs three times \
                 the image's size while it boots: for small images only"
                    .to_owned(),
            );
            Ok(Some(BootMethod::Initrd))
        }
        (false, false) => bail!(
            "this kernel has neither nd_pmem and nd_e820 nor loop, so no image can be handed over to it"
        ),
    }
}

fn listed(part: &Part) -> String {
    if part.modules.is_empty() { "all built in".to_owned() } else { part.modules.join(", ") }
}

/// Puts the image in place: the medium as it is, or one made of a folder or a root file system.
fn image(input: &Input, found: &Layout, to: &Path, bar: &ProgressBar) -> Result<()> {
    let inner = match found.family {
        Family::Dracut | Family::Kiwi => "LiveOS/squashfs.img",
        Family::Casper => "casper/filesystem.squashfs",
        _ => "live/filesystem.squashfs",
    };
    match input {
        Input::Iso(_, path) => copy_whole(path, 0, to, bar),
        Input::Squashfs(squashfs) => {
            let length = fs::metadata(&squashfs.file)?.len();
            let head = wrap::header(LABEL, inner, length).map_err(anyhow::Error::msg)?;
            copy_whole(&squashfs.file, head.len() as u64, to, bar)?;
            put_head(to, &head)
        }
        Input::Root(root) => {
            let mut mksquashfs = Command::new("mksquashfs");
            mksquashfs.arg(root).arg(to).args(["-noappend", "-offset", "65536", "-comp", "zstd"]);
            mksquashfs.args(["-wildcards", "-e", "proc/*", "sys/*", "dev/*", "run/*", "tmp/*"]);
            run(mksquashfs, "squashfs-tools", bar)?;
            let length = fs::metadata(to)?.len() - 65_536;
            let head = wrap::header(LABEL, inner, length).map_err(anyhow::Error::msg)?;
            put_head(to, &head)
        }
        Input::Folder(folder, _) => {
            let mut xorriso = Command::new("xorriso");
            xorriso.args([
                "-as",
                "mkisofs",
                "-quiet",
                "-iso-level",
                "3",
                "-rational-rock",
                "-volid",
                LABEL,
                "-output",
            ]);
            xorriso.arg(to).arg(folder);
            run(xorriso, "xorriso", bar)
        }
    }
}

/// Writes a medium's head into the place left free for it, and ends the medium on a whole sector.
fn put_head(medium: &Path, head: &[u8]) -> Result<()> {
    let mut file = fs::File::options().write(true).open(medium)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(head)?;
    let length = file.metadata()?.len();
    file.set_len(length.next_multiple_of(iso::SECTOR))?;
    file.sync_all().context("cannot write the image")
}

/// Runs a tool that shows its own progress on a terminal.
fn run(mut tool: Command, package: &str, bar: &ProgressBar) -> Result<()> {
    let name = tool.get_program().to_string_lossy().into_owned();
    tool.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    bar.set_message(format!("({name} is running)"));
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let output =
        tool.output().with_context(|| format!("cannot run {name}: `apt install {package}`"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{name} failed, check that the disk has space: {}",
        last_words(&words)
    );
    Ok(())
}

/// The last two lines: tools say why, and then that they end.
fn last_words(words: &str) -> String {
    let lines: Vec<_> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(2)..].join("; ")
}

fn entry(
    input: &Input,
    options: &Options,
    id: &SystemId,
    found: &Layout,
    kernel: &KernelHeader,
    method: Option<BootMethod>,
) -> EntryText {
    let release = ["usr/lib/os-release", "etc/os-release"]
        .iter()
        .find_map(|path| os_release_of(input, found, path));
    let (name, icon) = os_release(&release.unwrap_or_default());
    let is_installer = found.what.contains("installer");
    let icon = match found.family {
        Family::Plain if is_installer => "installer",
        Family::Plain => "linux",
        Family::Archiso => "arch",
        Family::Alpine => "alpine",
        _ => icon,
    };
    let name = options.name.clone().or(name).unwrap_or_else(|| {
        if is_installer { "Debian installer".to_owned() } else { id.to_string() }
    });
    EntryText {
        id: id.to_string(),
        name: name.chars().take(80).collect(),
        icon,
        what: found.what.clone(),
        release: kernel.release.clone(),
        has_initrd: found.initrd.is_some(),
        family: found.family,
        method,
        cmdline: found.words.join(" "),
        min_ram: min_ram(input, found),
    }
}

/// The `os-release` of the system itself.
fn os_release_of(input: &Input, found: &Layout, path: &str) -> Option<String> {
    let bytes = match input.root() {
        Some(root) => fs::read(root.join(path)).ok()?,
        None => {
            input.squashfs(found).iter().find_map(|squashfs| squashfs.read(path).ok().flatten())?
        }
    };
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A guess: a desktop needs more than a console.
fn min_ram(input: &Input, found: &Layout) -> &'static str {
    const SESSIONS: [&str; 2] = ["usr/share/xsessions", "usr/share/wayland-sessions"];
    let has_desktop = SESSIONS.iter().any(|folder| match input.root() {
        Some(root) => root.join(folder).is_dir(),
        None => input
            .squashfs(found)
            .iter()
            .any(|s| s.list(folder).is_ok_and(|files| !files.is_empty())),
    });
    match found.family {
        _ if has_desktop => "2 GiB",
        // A kernel and an initrd, or nearly that.
        Family::Plain | Family::Alpine => "128 MiB",
        _ => "320 MiB",
    }
}

/// Whether there is an entry already that fits these files: it is the supervisor's, and stays.
fn check_entry(lab: &Lab, id: &SystemId, new: &EntryText) -> Result<bool> {
    let path = lab.catalog().join(format!("{id}.toml"));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot read catalog/{id}.toml")),
    };
    let old = Entry::parse(id.clone(), &text)
        .with_context(|| format!("catalog/{id}.toml has a mistake; correct or remove it"))?;
    let new = Entry::parse(id.clone(), &new.text()).context("the new entry is not valid")?;
    ensure!(
        old.files() == new.files()
            && old.family == new.family
            && (new.method.is_none() || old.method == new.method),
        "catalog/{id}.toml describes another kind of system or other files; choose another --id, or remove that file and \
         add again"
    );
    Ok(true)
}

/// Puts the finished folder in its place by one rename; the old one is removed afterwards.
fn install(lab: &Lab, id: &SystemId, folder: tempfile::TempDir) -> Result<()> {
    let place = lab.images().join(id.as_str());
    let here = || format!("cannot put the files into {}", lab.name_of(&place));
    if place.exists() {
        renameat2(AT_FDCWD, folder.path(), AT_FDCWD, &place, RenameFlags::RENAME_EXCHANGE)
            .with_context(here)?;
        // What the temporary folder's name stands for now is the old version: it goes when it is dropped.
        drop(folder);
    } else {
        fs::rename(folder.keep(), &place).with_context(here)?;
    }
    fs::File::open(lab.images()).and_then(|images| images.sync_all()).with_context(here)
}

fn report_files(lab: &Lab, id: &SystemId) -> Result<Vec<String>> {
    let place = lab.images().join(id.as_str());
    let mut files: Vec<_> =
        fs::read_dir(&place)?.filter_map(Result::ok).map(|file| file.path()).collect();
    files.sort();
    let line = |path: PathBuf| {
        let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        format!("made    {} ({})", lab.name_of(&path), humanize::size(size))
    };
    Ok(files.into_iter().map(line).collect())
}

fn bar(id: &SystemId) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = "adding {prefix}  [{wide_bar}] {decimal_bytes}/{decimal_total_bytes}, \
                 {decimal_bytes_per_sec}, {eta} left {msg}";
    bar.set_style(
        ProgressStyle::with_template(style).expect("a valid template").progress_chars("=> "),
    );
    bar.set_prefix(id.to_string());
    bar
}

#[cfg(test)]
mod tests;
