//! Shell: `cargo lab demo`: the complete boot, for somebody who has just cloned the project.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::host::cargo::{self, Build};
use crate::host::clock;
use crate::host::outcome::Outcome;
use crate::host::packages::Extra;
use crate::room::net::Lan;
use crate::room::packets::{Sighting, Wire};
use crate::room::qemu::{Display, Machine};
use crate::room::route::{FirmwareKind, MENU_LIMIT, START_LIMIT};
use crate::room::sample::SampleLab;
use crate::room::screen::shows_something;
use crate::room::student::Student;
use crate::room::testbed::Testbed;

/// Fast enough not to bore, slow enough for a download to be seen.
const MBIT: u32 = 100;
/// After a step is reported, until the screen shows it.
const DRAWN: Duration = Duration::from_secs(20);

/// Watch a PC boot from the network into the picker, choose a system and see it boot
///
/// Does everything that a fresh Debian 12 needs: lists the missing packages and installs them once
/// you agree, downloads a kernel, builds the programs (some minutes the first time), makes a sample
/// lab, starts the server in a private virtual network, and powers on a virtual PC.
///
/// With a desktop the PC is a window and you are the student: use the arrow keys, Enter and the
/// mouse. Without one (or with --headless) a scripted student does it, and screenshots of every
/// step are saved to a folder.
#[derive(Args)]
pub struct Options {
    /// No window: a scripted student chooses, and screenshots of every step are saved to a folder
    #[arg(long)]
    headless: bool,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// The PC's firmware
    #[arg(long, value_enum, default_value = "bios")]
    firmware: FirmwareKind,
    /// Save pictures and logs to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    let display = if !options.headless && has_desktop() { Display::Window } else { Display::None };
    let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("demo"));
    let extra = if display == Display::Window { Extra::Window } else { Extra::None };
    let mut testbed = Testbed::prepare(extra, Build::Quick, options.yes, &out, Some(MBIT))?;
    Lan::advertise_router()?;
    println!("Making a sample lab and starting bt-server in it ...");
    let lab = testbed.sample_lab("lab")?;
    let server = testbed.serve(&lab, "demo")?;
    let wire = Wire::watch()?;
    println!("Powering on a PC ({}) that boots from the network ...", options.firmware.name());
    let machine = Machine { display, ..Machine::new(options.firmware.firmware(), 1) };
    let student = Student::switch_on("demo", &machine, &mut testbed.lan, &testbed.out)?;
    let outcome = match display {
        Display::Window => watch(student),
        Display::None => act(student, &wire, &lab, &testbed.out),
    };
    server.explain(outcome)
}

/// A new screen has been drawn and its transitions are over, also on a busy machine.
const SETTLED: Duration = Duration::from_secs(2);

fn has_desktop() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_set("DISPLAY") || is_set("WAYLAND_DISPLAY")
}

/// Leaves the PC to the person in front of it, and prints what the PC does.
fn watch(mut student: Student) -> Result<Outcome> {
    println!(
        "You are the student now: use the arrow keys, Enter or the mouse. Close the window to stop."
    );
    let mut told = 0;
    while !student.is_off()? {
        // Between the two looks the window may be closed: that is an end, not a failure.
        if student.look().is_err() && student.is_off()? {
            break;
        }
        for step in &student.steps[told..] {
            println!("  {:5.1} s  {}", step.seen.as_secs_f64(), step.word);
        }
        told = student.steps.len();
        clock::pause(Duration::from_millis(200))?;
    }
    let line = match (&student.started, student.steps.iter().any(|step| step.word == "menu")) {
        (Some(_), _) => "the PC booted from the network and started the chosen system",
        (None, true) => "the PC booted from the network into the picker",
        (None, false) => "the PC was powered off before it reached the picker",
    };
    Ok(Outcome::new(true, line))
}

/// The scripted student: looks at every screen, picks, and checks what starts.
fn act(mut student: Student, wire: &Wire, lab: &SampleLab, out: &Path) -> Result<Outcome> {
    let mut album = Album { pictures: Vec::new() };
    let start = student.power_on();
    clock::wait_for("the firmware to send a DHCP request", MENU_LIMIT, || {
        student.look()?;
        Ok(wire.first(start, |seen| *seen == Sighting::Dhcp))
    })?;
    album.add(&mut student, "1-firmware", "the firmware boots from the network")?;
    student.wait_step("network", MENU_LIMIT)?;
    album.add(&mut student, "2-connecting", "the PC looks for its server")?;
    student.wait_step("menu", MENU_LIMIT)?;
    clock::pause(SETTLED)?;
    album.add(&mut student, "3-menu", "the picker")?;
    student.press(&["down"])?;
    clock::pause(SETTLED)?;
    album.add(&mut student, "4-picked", "another system is selected")?;
    student.press(&["ret"])?;
    let chosen = student.wait_step("chosen", DRAWN)?;
    student.wait_step("download", DRAWN)?;
    clock::pause(Duration::from_secs(3))?;
    album.add(&mut student, "5-download", "it is downloaded")?;
    student.wait_step("verify", START_LIMIT)?;
    clock::pause(Duration::from_millis(500))?;
    album.add(&mut student, "6-verifying", "it is verified")?;
    student.wait_step("handover", START_LIMIT)?;
    clock::pause(Duration::from_millis(200))?;
    album.add(&mut student, "7-starting", "the system is started")?;
    let cmdline = student.wait_started(START_LIMIT)?;
    clock::pause(Duration::from_secs(4))?;
    album.add(&mut student, "8-started", "the chosen system runs")?;
    let secs = student.elapsed().as_secs_f64();
    let system = chosen.field("system").to_owned();
    let expected = lab.cmdline(&system)?;
    ensure!(cmdline == expected, "the system got `{cmdline}`, its entry says `{expected}`");
    student.switch_off()?;
    println!("\nPictures:");
    for (file, what) in &album.pictures {
        println!("  {:40} {what}", file.display());
    }
    let line = format!(
        "a PC booted from the network, and the chosen system `{system}` runs after {secs:.0} s; \
         {} pictures in {}",
        album.pictures.len(),
        out.display()
    );
    Ok(Outcome::new(true, line)
        .with("system", system)
        .with("seconds", secs)
        .with("pictures", out.display().to_string()))
}

/// The pictures of one demo.
struct Album {
    pictures: Vec<(PathBuf, &'static str)>,
}

impl Album {
    /// Takes a picture that shows something.
    fn add(&mut self, student: &mut Student, name: &str, what: &'static str) -> Result<()> {
        let (file, _) = student
            .picture_when(name, DRAWN, shows_something)
            .with_context(|| format!("the screen is empty although {what}"))?;
        self.pictures.push((file, what));
        Ok(())
    }
}
