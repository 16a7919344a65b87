//! Shell: test systems of a Debian kernel and BusyBox: one with a medium like Alpine's, one without any.

use std::fs;
use std::io::{self, BufWriter};
use std::path::Path;

use anyhow::{Context, Result};
use bt_initramfs::cpio::{Entry, Writer};
use bt_initramfs::kernel::{self, KernelFiles};
use bt_initramfs::sample::write_noise;

use super::initramfs::pack;
use super::report::REPORT;
use crate::host::packages;
use crate::host::process::{command, run};

pub(super) const INIT: &str = include_str!("../../../files/image/init");
/// What it takes to mount an ISO and the squashfs on it.
const MODULES: [&str; 3] = ["loop", "isofs", "squashfs"];
/// Alpine's modules of its kernel, as a squashfs.
const MODLOOP: &str = "modloop-lts";

/// The layout of Alpine's media, with its boot menu.
pub fn alpine_like(tree: &Path) -> Result<()> {
    let kernel = kernel::find(&packages::ensure_kernel()?, None)?;
    let boot = tree.join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    fs::create_dir_all(tree.join("apks"))?;
    fs::write(tree.join("apks/.boot_repository"), "")?;
    fs::write(tree.join(".alpine-release"), "like Alpine, made of Debian\n")?;
    fs::copy(&kernel.vmlinuz, boot.join("vmlinuz-lts")).context("cannot copy the kernel")?;
    fs::write(boot.join("initramfs-lts"), initrd(&kernel, &MODULES)?)?;
    modloop(&kernel, &boot.join(MODLOOP))?;
    let menu = "menuentry \"Linux lts\" {\n    linux /boot/vmlinuz-lts modules=loop,squashfs quiet\n    \
                initrd /boot/initramfs-lts\n}\n";
    fs::write(boot.join("grub/grub.cfg"), menu).context("cannot write grub.cfg")
}

/// A kernel and an initrd.
pub fn plain(tree: &Path) -> Result<()> {
    let kernel = kernel::find(&packages::ensure_kernel()?, None)?;
    fs::copy(&kernel.vmlinuz, tree.join("vmlinuz")).context("cannot copy the kernel")?;
    fs::write(tree.join("initrd.img"), initrd(&kernel, &[])?).context("cannot write the initrd")
}

/// Copies a plain system to the folder `path`, and puts noise before its initrd until both have `size` bytes.
pub fn pad(tree: &Path, size: Option<u64>, path: &Path) -> Result<u64> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    let kernel = fs::copy(tree.join("vmlinuz"), path.join("vmlinuz"))?;
    let initrd = fs::read(tree.join("initrd.img"))?;
    let smallest = kernel + initrd.len() as u64;
    // Beside the file, an archive of it takes two headers with their names; it ends on a block.
    const HEADERS: u64 = 240;
    const BLOCK: u64 = 512;
    let missing = size.map_or(Some(0), |size| size.checked_sub(smallest));
    let missing = missing
        .with_context(|| format!("a plain system needs at least {} MiB", (smallest >> 20) + 1))?;
    let noise = missing.next_multiple_of(BLOCK).saturating_sub(HEADERS);
    let mut out = BufWriter::new(fs::File::create(path.join("initrd.img"))?);
    if noise > 0 {
        let mut writer = Writer::new(&mut out);
        writer.add_stream("/noise", 0o644, noise, |out| write_noise(out, noise))?;
        writer.finish()?;
    }
    io::copy(&mut initrd.as_slice(), &mut out)?;
    let written = out.into_inner().context("cannot write the initrd")?.metadata()?.len();
    Ok(kernel + written)
}

fn initrd(kernel: &KernelFiles, modules: &[&str]) -> Result<Vec<u8>> {
    let busybox =
        fs::read("/bin/busybox").context("cannot read BusyBox: `apt install busybox-static`")?;
    let mut entries: Vec<_> =
        ["/bin", "/dev", "/proc", "/sys", "/usr", "/usr/local", "/usr/local/sbin", "/modules"]
            .into_iter()
            .map(Entry::folder)
            .collect();
    entries.push(Entry::file("/bin/busybox", 0o755, busybox));
    entries.push(Entry::link("/bin/sh", "busybox"));
    entries.push(Entry::device("/dev/console", 0o600, 5, 1));
    entries.push(Entry::file("/init", 0o755, INIT));
    entries.push(Entry::file("/usr/local/sbin/bt-report", 0o755, REPORT));
    pack(entries, kernel, modules)
}

fn modloop(kernel: &KernelFiles, squashfs: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let modules = folder.path().join("modules");
    fs::create_dir(&modules)?;
    let mut copy = command("cp");
    copy.arg("--archive")
        .arg("--dereference")
        .arg(&kernel.modules)
        .arg(modules.join(&kernel.version));
    run(copy)?;
    let mut mksquashfs = command("mksquashfs");
    mksquashfs.arg(folder.path()).arg(squashfs).args(["-quiet", "-no-progress", "-noappend"]);
    mksquashfs.args(["-comp", "zstd", "-Xcompression-level", "3"]);
    run(mksquashfs).map(drop)
}
