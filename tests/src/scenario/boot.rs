//! Shell: from power-on to the chosen system, for every kind of firmware.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use image::RgbImage;

use crate::host::cargo;
use crate::host::clock;
use crate::room::qemu::Machine;
use crate::room::route::{self, FirmwareKind, MENU_LIMIT, Route, START_LIMIT};
use crate::room::sample::{Addresses, SampleLab};
use crate::room::screen::{Difference, Region, compare};
use crate::room::student::Student;
use crate::room::testbed::Testbed;

/// After a key or a step, until the screen shows it.
const DRAWN: Duration = Duration::from_secs(20);

pub fn bios(testbed: &mut Testbed) -> Result<String> {
    complete_boot(testbed, FirmwareKind::Bios, Addresses::Ours)
}

pub fn uefi(testbed: &mut Testbed) -> Result<String> {
    complete_boot(testbed, FirmwareKind::Uefi, Addresses::Ours)
}

pub fn uefi_http(testbed: &mut Testbed) -> Result<String> {
    complete_boot(testbed, FirmwareKind::UefiHttp, Addresses::Ours)
}

pub fn uefi_secure(testbed: &mut Testbed) -> Result<String> {
    complete_boot(testbed, FirmwareKind::UefiSecure, Addresses::Ours)
}

pub fn bios_proxy(testbed: &mut Testbed) -> Result<String> {
    complete_boot(testbed, FirmwareKind::Bios, Addresses::Others)
}

pub fn uefi_proxy(testbed: &mut Testbed) -> Result<String> {
    complete_boot(testbed, FirmwareKind::Uefi, Addresses::Others)
}

pub fn uefi_http_proxy(testbed: &mut Testbed) -> Result<String> {
    complete_boot(testbed, FirmwareKind::UefiHttp, Addresses::Others)
}

pub fn uefi_secure_proxy(testbed: &mut Testbed) -> Result<String> {
    complete_boot(testbed, FirmwareKind::UefiSecure, Addresses::Others)
}

fn complete_boot(
    testbed: &mut Testbed,
    firmware: FirmwareKind,
    addresses: Addresses,
) -> Result<String> {
    let route = Route { firmware, addresses };
    let name = format!("boot-{}", route.name());
    let lab = route.lab(testbed)?;
    let _others = route.other_server(testbed)?;
    let server = testbed.serve(&lab, &name)?;
    let machine = Machine::new(firmware.firmware(), 1);
    let student = Student::switch_on(&name, &machine, &mut testbed.lan, &testbed.out)?;
    server.explain(through_the_menu(testbed, student, &lab, route))
}

fn through_the_menu(
    testbed: &Testbed,
    mut student: Student,
    lab: &SampleLab,
    route: Route,
) -> Result<String> {
    let name = format!("boot-{}", route.name());
    student.wait_step("menu", MENU_LIMIT)?;
    let menu_secs = student.elapsed().as_secs_f64();
    check_menu(testbed, &mut student, &name, route.firmware)?;
    student.press(&["down", "ret"])?;
    let chosen = student.wait_step("chosen", DRAWN)?;
    let cmdline = student.wait_started(START_LIMIT)?;
    let secs = student.elapsed().as_secs_f64();
    // The system's own screen follows its first words.
    clock::pause(Duration::from_secs(3))?;
    student.picture(&format!("{name}-started"))?;
    let system = chosen.field("system");
    let expected = lab.cmdline(system)?;
    ensure!(cmdline == expected, "the system got `{cmdline}`, its entry says `{expected}`");
    let verified = student.steps.iter().any(|step| step.word == "verify");
    ensure!(verified, "the PC did not report that it verifies the download");
    if route.firmware == FirmwareKind::UefiSecure {
        route::check_secure_boot(&student)?;
    }
    student.switch_off()?;
    Ok(format!("picker after {menu_secs:.0} s, `{system}` runs after {secs:.0} s"))
}

/// Compares the menu with its reference picture.
fn check_menu(
    testbed: &Testbed,
    student: &mut Student,
    name: &str,
    firmware: FirmwareKind,
) -> Result<()> {
    let reference = reference(firmware);
    let name = format!("{name}-menu");
    if testbed.accept_screens {
        clock::pause(Duration::from_secs(3))?;
        let (file, _) = student.picture(&name)?;
        std::fs::copy(&file, &reference).context("cannot keep the reference picture")?;
        return Ok(());
    }
    let expected = image::open(&reference)
        .with_context(|| format!("cannot read {}", reference.display()))?
        .to_rgb8();
    let varying = [address_region(&expected)];
    let looks_right = |picture: &RgbImage| {
        compare(picture, &expected, &varying).is_some_and(Difference::is_small)
    };
    student.picture_when(&name, DRAWN, looks_right).with_context(|| {
        format!(
            "the picker does not look like {}; if the change is intended, run `cargo lab test boot \
             --accept-screens` and review the new picture",
            reference.display()
        )
    })?;
    Ok(())
}

/// The right end of the header, where the node's address stands: it differs from run to run.
fn address_region(picture: &RgbImage) -> Region {
    let (width, height) = picture.dimensions();
    Region { x: width / 2, y: 0, width: width / 2, height: height / 12 }
}

/// One picture for each kind of firmware: the boot loader leaves no trace on the picker.
fn reference(firmware: FirmwareKind) -> PathBuf {
    let kind = match firmware {
        FirmwareKind::Bios => "bios",
        FirmwareKind::Uefi | FirmwareKind::UefiHttp | FirmwareKind::UefiSecure => "uefi",
    };
    cargo::workspace().join("tests/screens").join(format!("menu-{kind}.png"))
}
