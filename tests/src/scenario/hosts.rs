//! Shell: PCs with boot settings of their own: selected by `server.toml`, with Secure Boot, with an
//! iPXE that has a script before it has an address.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::host::http;
use crate::room::packets::{Sighting, Wire};
use crate::room::qemu::{Firmware, Machine};
use crate::room::route::{self, MENU_LIMIT, START_LIMIT};
use crate::room::sample::{Addresses, SampleLab, usual_words};
use crate::room::server::{HTTP, Server};
use crate::room::student::Student;
use crate::room::testbed::Testbed;

/// The system that one of the PCs starts without a student.
const PRESET: &str = "exam";
/// An iPXE with network drivers of its own: a file that is not the one Debian's package has for this name.
const OWN_LOADER: &str = "/usr/lib/ipxe/ipxe.efi";
/// An iPXE that runs a script loaded along with it, as newer builds run `autoexec.ipxe`: at once,
/// with the network interface closed.
const IPXE_WITH_SCRIPT: &str = "/usr/lib/ipxe/ipxe.lkrn";
/// Until the firmware has loaded the boot loader and reported whether it accepts it.
const REFUSED_LIMIT: Duration = Duration::from_secs(120);

/// Two kinds of PC in one lab: one starts a system by itself, with an iPXE of the operator's own;
/// the other has Secure Boot on.
pub fn own_settings(testbed: &mut Testbed) -> Result<String> {
    let lab = lab_with_hosts(testbed)?;
    let server = testbed.serve(&lab, "hosts")?;
    let outcome = (|| {
        let unattended = unattended(testbed, &lab, &server)?;
        let secure = secure(testbed)?;
        Ok(format!("{unattended}; {secure}"))
    })();
    server.explain(outcome)
}

/// PC 1 has a preset, PC 2 has Secure Boot on; all others are usual.
fn lab_with_hosts(testbed: &Testbed) -> Result<SampleLab> {
    let lab = testbed.sample_lab("lab-hosts")?;
    let mac = |number| Machine::new(Firmware::Uefi, number).mac;
    let settings = format!(
        "{}[[host]]\nmac = \"{}\"\npreset = \"{PRESET}\"\n\
         [[host]]\nmac = \"{}\"\nuefi_loader = \"shim-grub\"\ncmdline = \"loglevel=6\"\n",
        usual_words(),
        mac(1),
        mac(2)
    );
    lab.write_settings(Addresses::Ours, &settings)?;
    let own = lab.folder().join("ipxe");
    std::fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
    std::fs::copy(OWN_LOADER, own.join("snponly.efi")).context("cannot copy an iPXE")?;
    Ok(lab)
}

fn unattended(testbed: &mut Testbed, lab: &SampleLab, server: &Server) -> Result<String> {
    let machine = Machine::new(Firmware::Uefi, 1);
    let mut student = Student::switch_on("hosts-preset", &machine, &mut testbed.lan, &testbed.out)?;
    student.wait_step("chosen", MENU_LIMIT)?;
    let cmdline = student.wait_started(START_LIMIT)?;
    ensure!(cmdline == lab.cmdline(PRESET)?, "the PC started something else: `{cmdline}`");
    let bytes = std::fs::metadata(OWN_LOADER).context("cannot read the iPXE")?.len();
    let sent = format!("path=\"snponly.efi\" bytes={bytes}");
    ensure!(server.logged().contains(&sent), "the log lacks `{sent}`");
    let secs = student.elapsed().as_secs_f64();
    student.switch_off()?;
    Ok(format!("`{PRESET}` started unattended after {secs:.0} s, through the lab's own iPXE"))
}

fn secure(testbed: &mut Testbed) -> Result<String> {
    let machine = Machine::new(Firmware::UefiSecure, 2);
    let mut student = Student::switch_on("hosts-secure", &machine, &mut testbed.lan, &testbed.out)?;
    student.wait_step("menu", MENU_LIMIT)?;
    route::check_secure_boot(&student)?;
    student.switch_off()?;
    Ok("the PC with Secure Boot booted through shim and GRUB".into())
}

/// Proves that the lab's Secure Boot is on: an unsigned boot loader does not run.
pub fn unsigned_loader(testbed: &mut Testbed) -> Result<String> {
    let name = "secure-boot-refuses";
    let lab = testbed.sample_lab(name)?;
    let server = testbed.serve(&lab, name)?;
    let wire = Wire::watch()?;
    let machine = Machine::new(Firmware::UefiSecure, 1);
    let mut student = Student::switch_on(name, &machine, &mut testbed.lan, &testbed.out)?;
    let outcome = (|| {
        student.wait_console("Access Denied", REFUSED_LIMIT)?;
        student.picture(name)?;
        let start = student.power_on();
        let loaded = |seen: &Sighting| *seen == Sighting::Tftp("snponly.efi".into());
        ensure!(wire.first(start, loaded).is_some(), "the PC never fetched its boot loader");
        let ran = |seen: &Sighting| matches!(seen, Sighting::Get(path) if path.contains("ipxe"));
        ensure!(wire.first(start, ran).is_none(), "an unsigned iPXE ran");
        Ok("the firmware refuses an unsigned iPXE with \"Access Denied\" and continues".into())
    })();
    server.explain(outcome)
}

/// The script that newer iPXE builds fetch by the firmware's means leads to the menu by itself.
pub fn autoexec(testbed: &mut Testbed) -> Result<String> {
    let name = "autoexec";
    let lab = testbed.sample_lab(name)?;
    let server = testbed.serve(&lab, name)?;
    let script = testbed.scratch("autoexec-script")?.join("autoexec.ipxe");
    std::fs::write(&script, http::get(HTTP, "/autoexec.ipxe")?).context("cannot keep it")?;
    let firmware = Firmware::Direct {
        kernel: IPXE_WITH_SCRIPT.into(),
        initramfs: script,
        cmdline: String::new(),
    };
    let mut student =
        Student::switch_on(name, &Machine::new(firmware, 1), &mut testbed.lan, &testbed.out)?;
    let outcome = student.wait_step("menu", MENU_LIMIT);
    let secs = student.elapsed().as_secs_f64();
    server.explain(outcome)?;
    student.switch_off()?;
    Ok(format!("an iPXE without an address booted into the picker after {secs:.0} s"))
}
