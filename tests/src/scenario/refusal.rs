//! Shell: what must never start, and what the student then reads.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::host::clock;
use crate::room::proxy::Proxy;
use crate::room::qemu::{Firmware, Machine};
use crate::room::route::START_LIMIT;
use crate::room::screen::shows_something;
use crate::room::serial_log::Step;
use crate::room::server::HTTP;
use crate::room::student::Student;
use crate::room::testbed::{Testbed, direct};

/// From power-on to the catalog, without a firmware.
const CATALOG_LIMIT: Duration = Duration::from_secs(120);
/// A node gives a silent server this long, and more, before it speaks of a problem.
const PROBLEM_LIMIT: Duration = Duration::from_secs(180);
/// After a key or a step, until the screen shows it.
const DRAWN: Duration = Duration::from_secs(30);

pub fn flipped_bit(testbed: &mut Testbed) -> Result<String> {
    let name = "refuse-flipped-bit";
    let lab = testbed.sample_lab(name)?;
    let server = testbed.serve(&lab, name)?;
    let proxy = Proxy::start()?;
    let firmware = through(direct(&lab, ""), &proxy);
    let mut student =
        Student::switch_on(name, &Machine::new(firmware, 1), &mut testbed.lan, &testbed.out)?;
    let outcome =
        refused(&mut student, name, CATALOG_LIMIT, &["bad-signature"]).and_then(|words| {
            proxy.become_honest();
            student.press(&["ret"])?;
            student.wait_step("menu", DRAWN).context("after the catalog was repaired")?;
            Ok(format!(
                "the screen says \"{words}\"; with the intact catalog, Retry leads to the picker"
            ))
        });
    server.explain(outcome)
}

/// The same boot, but the node talks to the attacker.
fn through(firmware: Firmware, proxy: &Proxy) -> Firmware {
    let Firmware::Direct { kernel, initramfs, cmdline } = firmware else { return firmware };
    let cmdline = cmdline.replace(&HTTP.to_string(), &proxy.address().to_string());
    Firmware::Direct { kernel, initramfs, cmdline }
}

pub fn wrong_key(testbed: &mut Testbed) -> Result<String> {
    let name = "refuse-wrong-key";
    let old = testbed.sample_lab(&format!("{name}-old"))?;
    let rekeyed = testbed.sample_lab(name)?;
    // The lab's id stays: only the signature differs.
    let keys = testbed.other_keys(&format!("{name}-keys"))?;
    for file in ["root.key", "root.pub", "signing.key", "signing.pub"] {
        std::fs::copy(keys.join(file), rekeyed.folder().join("keys").join(file))
            .with_context(|| format!("cannot put {file} in place"))?;
    }
    let server = testbed.serve(&rekeyed, name)?;
    let machine = Machine::new(direct(&old, ""), 1);
    let mut student = Student::switch_on(name, &machine, &mut testbed.lan, &testbed.out)?;
    let words = refused(&mut student, name, CATALOG_LIMIT, &["bad-signature"]);
    Ok(format!("the screen says \"{}\"", server.explain(words)?))
}

pub fn changed_image(testbed: &mut Testbed) -> Result<String> {
    let name = "refuse-changed-image";
    let lab = testbed.sample_lab(name)?;
    let server = testbed.serve(&lab, name)?;
    change_secretly(&lab.image("initrd"))?;
    let machine = Machine::new(direct(&lab, ""), 1);
    let mut student = Student::switch_on(name, &machine, &mut testbed.lan, &testbed.out)?;
    let outcome = (|| {
        student.wait_step("menu", CATALOG_LIMIT)?;
        student.press(&["ret"])?;
        student.wait_step("download", DRAWN)?;
        let words = refused(&mut student, name, PROBLEM_LIMIT, &["hash-wrong", "stalled"])?;
        ensure!(student.started.is_none(), "the changed system was started");
        Ok(format!("the screen says \"{words}\""))
    })();
    server.explain(outcome)
}

/// Changes one byte of a file and gives it back its old time: what an attacker with access to the
/// disk would do, or a dying disk.
fn change_secretly(file: &Path) -> Result<()> {
    let modified = nix::sys::stat::stat(file)?;
    let time = TimeSpec::new(modified.st_mtime, modified.st_mtime_nsec);
    let mut bytes = std::fs::read(file)?;
    bytes[100_000] ^= 1;
    // In place, as the seed has it open.
    let opened = std::fs::File::options().write(true).open(file)?;
    std::os::unix::fs::FileExt::write_all_at(&opened, &bytes[100_000..=100_000], 100_000)?;
    let here = nix::fcntl::AT_FDCWD;
    utimensat(here, file, &time, &time, UtimensatFlags::FollowSymlink)
        .context("cannot set back the file's time")
}

pub fn broken_kernel(testbed: &mut Testbed) -> Result<String> {
    let name = "refuse-broken-kernel";
    let lab = testbed.sample_lab(name)?;
    cut_off_kernel(lab.folder(), &lab.image("kernel"))?;
    let server = testbed.serve(&lab, name)?;
    let machine = Machine::new(direct(&lab, ""), 1);
    let mut student = Student::switch_on(name, &machine, &mut testbed.lan, &testbed.out)?;
    let outcome = (|| {
        student.wait_step("menu", CATALOG_LIMIT)?;
        student.press(&["ret"])?;
        let words = refused(&mut student, name, PROBLEM_LIMIT, &["kexec-refused"])?;
        student.press(&["esc"])?;
        student.wait_recovered("menu", DRAWN).context("after the kernel was refused")?;
        student.press(&["right", "ret"])?;
        student.wait_started(START_LIMIT).context("another system, afterwards")?;
        Ok(format!("the screen says \"{words}\"; back in the picker, the next system starts"))
    })();
    server.explain(outcome)
}

/// Gives the first system of the menu a kernel that ends behind its header.
fn cut_off_kernel(lab: &Path, kernel: &Path) -> Result<()> {
    let folder = lab.join("images/broken");
    std::fs::create_dir(&folder)?;
    let bytes = std::fs::read(kernel)?;
    std::fs::write(folder.join("vmlinuz"), &bytes[..16 << 10])?;
    let entry = lab.join("catalog/debian-12.toml");
    let text = std::fs::read_to_string(&entry)?;
    let changed = text.replace("images/sample/vmlinuz", "images/broken/vmlinuz");
    ensure!(changed != text, "the entry names another kernel");
    std::fs::write(&entry, changed).context("cannot change the entry")
}

pub fn no_server(testbed: &mut Testbed) -> Result<String> {
    let name = "no-server";
    let lab = testbed.sample_lab(name)?;
    let mut server = testbed.serve(&lab, name)?;
    // The PC gets its address from the server, then finds it stopped: it boots slower than this.
    let machine = Machine::new(direct(&lab, ""), 1);
    let mut student = Student::switch_on(name, &machine, &mut testbed.lan, &testbed.out)?;
    student.wait_step("network", CATALOG_LIMIT)?;
    server.check_running()?;
    drop(server);
    let words = refused(&mut student, name, PROBLEM_LIMIT, &["no-server"])?;
    let server = testbed.serve(&lab, &format!("{name}-again"))?;
    student.press(&["ret"])?;
    let menu = student.wait_recovered("menu", DRAWN).context("after the server was started again");
    server.explain(menu)?;
    Ok(format!("the screen says \"{words}\"; with the server back, Retry leads to the picker"))
}

/// Waits for a problem of one of these kinds, takes its picture, and returns its words.
fn refused(student: &mut Student, name: &str, limit: Duration, kinds: &[&str]) -> Result<String> {
    let problem: Step = student.wait_problem(limit)?;
    clock::pause(Duration::from_secs(1))?;
    student.picture_when(&format!("{name}-problem"), DRAWN, shows_something)?;
    let kind = problem.field("kind");
    ensure!(kinds.contains(&kind), "the problem is of the kind {kind}, not {}", kinds.join(" or "));
    let words = problem.field("text").to_owned();
    ensure!(words.split(' ').count() >= 3, "the PC says only \"{words}\"");
    Ok(words)
}
