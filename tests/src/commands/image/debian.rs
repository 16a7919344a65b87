//! Shell: live systems made by mmdebstrap: real Debian, with the initrds that Debian's own tools make.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::report::{LABEL, REPORT};
use crate::host::process::{command, run, run_visibly};

const SUITE: &str = "bookworm";
const SERVICE: &str = include_str!("../../../files/image/service");
/// Beside what mmdebstrap's smallest variant has.
const COMMON: &str = "systemd-sysv,udev,kmod,linux-image-amd64,zstd,procps,util-linux,iproute2";
/// Commands in the new system's root folder, which mmdebstrap gives as `$1`.
const ROOT_PASSWORD: &str = "echo root:root | chroot \"$1\" chpasswd";
const ENABLE: &str = "chroot \"$1\" systemctl enable bt-report.service";
/// As Fedora makes it: for every PC, with what live media take. It has to be there before dracut is, which runs only once then.
/// Without systemd, since under it dracut 059 mounts a squashfs that is the root file system itself before it has made the
/// overlay's folders.
const DRACUT: &str = "mkdir -p \"$1\"/etc/dracut.conf.d; echo 'hostonly=no add_dracutmodules+=\" dmsquash-live \" \
                      omit_dracutmodules+=\" plymouth systemd dracut-systemd \" compress=\"zstd -3\"' >\"$1\"/etc/dracut.conf.d/live.conf";

/// Debian's live system: live-boot in an initrd of initramfs-tools.
pub fn live_boot(work: &Path, tree: &Path) -> Result<()> {
    let packages = "initramfs-tools,live-boot,live-boot-initramfs-tools";
    let tar = bootstrap(work, packages, None)?;
    let live = tree.join("live");
    fs::create_dir(&live)?;
    boot_files(work, &tar, &live.join("vmlinuz"), &live.join("initrd.img"))?;
    squash(&tar, &live.join("filesystem.squashfs"))?;
    let line = "linux /live/vmlinuz boot=live components quiet splash findiso=${iso_path}";
    grub(&tree.join("boot/grub"), line, "/live/initrd.img")
}

/// A live system in Fedora's layout: dracut with dmsquash-live.
pub fn dracut(work: &Path, tree: &Path) -> Result<()> {
    let tar = bootstrap(work, "dracut,dracut-live", Some(DRACUT))?;
    let (boot, live) = (tree.join("images/pxeboot"), tree.join("LiveOS"));
    fs::create_dir_all(&boot)?;
    fs::create_dir(&live)?;
    boot_files(work, &tar, &boot.join("vmlinuz"), &boot.join("initrd.img"))?;
    squash(&tar, &live.join("squashfs.img"))?;
    let line =
        format!("linux /images/pxeboot/vmlinuz root=live:CDLABEL={LABEL} rd.live.image quiet");
    grub(&tree.join("EFI/BOOT"), &line, "/images/pxeboot/initrd.img")
}

/// A complete Debian as one archive: unpacked, it would need root's rights or a user namespace.
///
/// `prepare` is a command that runs before the packages are set up.
fn bootstrap(work: &Path, packages: &str, prepare: Option<&str>) -> Result<PathBuf> {
    let (report, service) = (work.join("bt-report"), work.join("bt-report.service"));
    fs::write(&report, REPORT)?;
    fs::write(&service, SERVICE)?;
    let tar = work.join("root.tar");
    let upload = |from: &Path, to: &str| format!("upload {} {to}", from.display());
    let hooks = [
        upload(&report, "/usr/local/sbin/bt-report"),
        upload(&service, "/etc/systemd/system/bt-report.service"),
        "chmod 755 \"$1\"/usr/local/sbin/bt-report".to_owned(),
        ENABLE.to_owned(),
        ROOT_PASSWORD.to_owned(),
    ];
    let mut mmdebstrap = command("mmdebstrap");
    mmdebstrap.args(["--mode=auto", "--variant=minbase"]);
    mmdebstrap.arg(format!("--include={COMMON},{packages}"));
    mmdebstrap.args(hooks.iter().map(|hook| format!("--customize-hook={hook}")));
    mmdebstrap.args(prepare.map(|hook| format!("--extract-hook={hook}")));
    mmdebstrap.arg(SUITE).arg(&tar).env("TMPDIR", work);
    run_visibly(mmdebstrap)?;
    Ok(tar)
}

/// Takes kernel and initrd out of the system.
fn boot_files(work: &Path, tar: &Path, kernel: &Path, initrd: &Path) -> Result<()> {
    let mut unpack = command("tar");
    unpack.arg("--extract").arg("--file").arg(tar).arg("--directory").arg(work).arg("./boot");
    run(unpack)?;
    for (start, to) in [("vmlinuz-", kernel), ("initrd.img-", initrd)] {
        let files = fs::read_dir(work.join("boot"))?.filter_map(Result::ok).map(|file| file.path());
        let found = files.filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(start))
        });
        let found = found.last().with_context(|| format!("the system has no {start}*"))?;
        fs::copy(&found, to).with_context(|| format!("cannot copy {}", found.display()))?;
    }
    Ok(())
}

fn squash(tar: &Path, squashfs: &Path) -> Result<()> {
    let mut mksquashfs = command("mksquashfs");
    mksquashfs.arg("-").arg(squashfs).args(["-tar", "-quiet", "-no-progress", "-noappend"]);
    mksquashfs.args(["-comp", "zstd", "-Xcompression-level", "6"]);
    mksquashfs.stdin(fs::File::open(tar)?);
    run_visibly(mksquashfs)
}

/// A boot menu as on a distribution's medium, from which `bt-server add` reads the command line.
fn grub(folder: &Path, line: &str, initrd: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    let menu = format!("menuentry \"Live system\" {{\n    {line}\n    initrd {initrd}\n}}\n");
    fs::write(folder.join("grub.cfg"), menu).context("cannot write grub.cfg")
}
