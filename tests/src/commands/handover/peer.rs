//! Shell: what people would use instead: a BusyBox system with kexec-tools, and the image appended to the initrd.
//!
//! Its guest gets kernel, initrd and image on a disk, so that no download adds to what it needs. It gets the same words on
//! the command line, `rootfstype=ramfs` too, without which images of half the memory arrive damaged.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bt_initramfs::cpio::{Entry, Writer};
use bt_initramfs::kernel;

use super::medium::{LIMIT, Medium, judge};
use super::search::Attempt;
use crate::commands::image::initramfs::pack;
use crate::host::clock;
use crate::host::packages;
use crate::host::process::{Running, command, run};
use crate::room::qemu::{Firmware, Machine, serial_file};
use crate::room::sample::GUEST_WORDS;
use crate::room::testbed::Testbed;

/// The guest's first process. The initrd's length is a word of its command line.
const INIT: &str = "#!/bin/sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o size=100% tmpfs /tmp
for module in /modules/*.ko; do insmod $module; done
for word in $(cat /proc/cmdline); do case $word in length=*) length=${word#length=} ;; esac; done
head -c $length /dev/vda >/tmp/initrd || echo 'bt-node: step=problem kind=copy text=\"no room for the initrd\"' >/dev/ttyS0
kexec -s -l /vmlinuz --initrd=/tmp/initrd --command-line=\"$(cat /cmdline)\" >/dev/ttyS0 2>&1 ||
    echo 'bt-node: step=problem kind=kexec text=\"kexec-tools refused\"' >/dev/ttyS0
kexec -e
sleep 1000
";
/// What reads the disk.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];

/// Boots a PC with so much memory into the system, by kexec-tools.
pub(super) fn boot(
    testbed: &mut Testbed,
    medium: &Medium,
    name: &str,
    memory: u32,
) -> Result<Attempt> {
    let folder = testbed.scratch(&format!("peer-{name}"))?;
    let disk = folder.join("disk");
    let initramfs = folder.join("initramfs");
    let length = write_initrd(medium, &disk)?;
    let kernel = medium.file("kernel")?;
    fs::write(&initramfs, own_initramfs(&kernel, &system_cmdline(medium)?)?)?;
    let cmdline = format!("{GUEST_WORDS} nokaslr quiet length={length}");
    let firmware = Firmware::Direct { kernel, initramfs, cmdline };
    let machine = Machine { memory_mib: memory, ..Machine::new(firmware, 2) };
    let run_folder = tempfile::Builder::new().prefix("bt-pc").tempdir()?;
    let mut qemu = machine.command(&testbed.lan.tap()?, run_folder.path())?;
    qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw,snapshot=on", disk.display()));
    let name = format!("{name}-in-{memory}");
    let mut qemu = Running::start("QEMU", qemu, &testbed.out.join(format!("{name}-qemu.log")))?;
    let serial = serial_file(run_folder.path());
    let console = || String::from_utf8_lossy(&fs::read(&serial).unwrap_or_default()).into_owned();
    let end = clock::wait_for("the end of a boot", LIMIT, || {
        qemu.check_running()?;
        Ok(judge(&console(), &medium.proof))
    });
    clock::check_interrupted()?;
    fs::write(testbed.out.join(format!("{name}-serial.log")), console())?;
    Ok(end.unwrap_or_else(|error| Attempt::Broken(format!("{error:#}"))))
}

/// The kernel command line: the system's own, what finds the image in the initrd, and what kexec-tools needs.
fn system_cmdline(medium: &Medium) -> Result<String> {
    let entry = medium.entry()?;
    let text = |key: &str| entry.get(key).and_then(toml::Value::as_str).unwrap_or_default();
    let family = match text("family") {
        "alpine" => "alpine_dev=loop0:iso9660",
        "debian-live" => "boot=live live-media=/dev/loop0",
        "dracut" => "rd.live.image root=live:/dev/loop0",
        other => anyhow::bail!("no kernel command line for the family {other}"),
    };
    Ok(format!("{} {family} rdinit=/.bt-handover/init rootfstype=ramfs", text("cmdline")))
}

/// Initrd, handover part and image as one archive after the other; returns the length.
fn write_initrd(medium: &Medium, path: &Path) -> Result<u64> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut length = 0;
    for key in ["initrd", "handover"] {
        let mut file = File::open(medium.file(key)?)?;
        length += io::copy(&mut file, &mut out)?;
        while length % 4 != 0 {
            out.write_all(&[0])?;
            length += 1;
        }
    }
    out.flush()?;
    let image = medium.file("image")?;
    let size = image.metadata()?.len();
    let mut writer = Writer::new(out);
    writer.add_stream("/.bt-handover/image", 0o400, size, |out| {
        io::copy(&mut File::open(&image)?, out).map(drop)
    })?;
    writer.finish()?.flush()?;
    Ok(path.metadata()?.len())
}

/// BusyBox, kexec with its libraries, the disk's drivers and the next kernel.
fn own_initramfs(next: &Path, next_cmdline: &str) -> Result<Vec<u8>> {
    let kexec = packages::ensure_kexec_tools()?.join("sbin/kexec");
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut entries: Vec<Entry> =
        ["/bin", "/dev", "/lib", "/lib64", "/modules", "/proc", "/sys", "/tmp"]
            .map(Entry::folder)
            .to_vec();
    entries.push(Entry::file("/bin/busybox", 0o755, read(Path::new("/bin/busybox"))?));
    entries.push(Entry::link("/bin/sh", "busybox"));
    entries.push(Entry::device("/dev/console", 0o600, 5, 1));
    entries.push(Entry::file("/init", 0o755, INIT));
    entries.push(Entry::file("/cmdline", 0o644, next_cmdline));
    entries.push(Entry::file("/vmlinuz", 0o644, read(next)?));
    entries.push(Entry::file("/bin/kexec", 0o755, read(&kexec)?));
    for library in libraries(&kexec)? {
        let name = library.file_name().and_then(|name| name.to_str()).context("a name")?;
        let folder = if name.starts_with("ld-") { "/lib64" } else { "/lib" };
        entries.push(Entry::file(format!("{folder}/{name}"), 0o755, read(&library)?));
    }
    let kernel = kernel::find(&packages::ensure_kernel()?, None)?;
    pack(entries, &kernel, &MODULES)
}

/// The libraries that a program of this machine's architecture is linked with.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut ldd = command("ldd");
    ldd.arg(program);
    let text = run(ldd)?;
    let missing = text.lines().find(|line| line.contains("not found"));
    ensure!(missing.is_none(), "a library is missing: {}", missing.unwrap_or_default().trim());
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}
