//! Shell: `cargo lab boot`: one boot from power-on to the started system, each step with its time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

use crate::host::cargo::{self, Build};
use crate::host::outcome::Outcome;
use crate::host::packages::Extra;
use crate::room::net::Lan;
use crate::room::packets::{Sighting, Wire};
use crate::room::qemu::Machine;
use crate::room::route::{FirmwareKind, MENU_LIMIT, Route, START_LIMIT, check_secure_boot};
use crate::room::sample::{Addresses, SampleLab};
use crate::room::student::Student;
use crate::room::testbed::Testbed;

/// How long a film stays at the menu and at the started system, so that they are on it.
const FILM_STAYS: Duration = Duration::from_secs(5);
/// The longest bar of the table, in characters.
const BAR: f64 = 40.0;

/// Boot one PC from the network and show how long each step takes
///
/// A QEMU PC boots from the network into the picker, a scripted student chooses the first system,
/// and it boots. The table shows when each step was reached. Emulation is several times slower than
/// a real PC: compare runs with each other, not with a stopwatch.
#[derive(Args)]
pub struct Options {
    /// The PC's firmware
    #[arg(long, value_enum, default_value = "bios")]
    firmware: FirmwareKind,
    /// Another DHCP server (dnsmasq) assigns the addresses; bt-server only supplies boot information
    #[arg(long)]
    proxy: bool,
    /// Number of boots, one after the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Limit each link of the virtual network to N Mbit/s (default: no limit)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    mbit: Option<u32>,
    /// Add an IPv6 router to the network, which saves iPXE a wait of 16 to 20 s
    #[arg(long)]
    ipv6_router: bool,
    /// Take a screenshot every two seconds, keep those that differ, and pause at the picker; the
    /// seconds are then not comparable
    #[arg(long)]
    film: bool,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// Save pictures and logs to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("boot"));
    let mut testbed =
        Testbed::prepare(Extra::None, Build::Release, options.yes, &out, options.mbit)?;
    if options.ipv6_router {
        Lan::advertise_router()?;
    }
    let wire = Wire::watch()?;
    let route = options.route();
    let lab = route.lab(&testbed)?;
    let _others = route.other_server(&mut testbed)?;
    let server = testbed.serve(&lab, &route.name())?;
    let name = route.name();
    let mut runs = Vec::new();
    for run in 1..=options.runs {
        let moments = one_boot(&mut testbed, &lab, &wire, options, run);
        let moments = server.explain(moments)?;
        println!("\n{name}, run {run} of {}, seconds since power-on:", options.runs);
        print!("{}", table(&moments));
        runs.push(moments);
    }
    let totals: Vec<f64> = runs.iter().filter_map(|run| run.last()).map(|last| last.secs).collect();
    let mean = totals.iter().sum::<f64>() / totals.len() as f64;
    let line = format!(
        "{} of {} {name} boots reached the chosen system, on average {mean:.1} s after power-on",
        totals.len(),
        options.runs
    );
    let steps: Vec<_> = runs.iter().map(|run| steps_json(run)).collect();
    Ok(Outcome::new(true, line)
        .with("firmware", options.firmware.name())
        .with("proxy", options.proxy)
        .with("runs", json!(steps)))
}

impl Options {
    fn route(&self) -> Route {
        let addresses = if self.proxy { Addresses::Others } else { Addresses::Ours };
        Route { firmware: self.firmware, addresses }
    }
}

/// A step of a boot and when it was reached.
#[derive(Clone, Debug, PartialEq)]
struct Moment {
    name: &'static str,
    secs: f64,
}

fn one_boot(
    testbed: &mut Testbed,
    lab: &SampleLab,
    wire: &Wire,
    options: &Options,
    run: u32,
) -> Result<Vec<Moment>> {
    let route = options.route();
    let name = format!("{}-{run}", route.name());
    let machine = Machine::new(route.firmware.firmware(), 1);
    let mut student = Student::switch_on(&name, &machine, &mut testbed.lan, &testbed.out)?;
    if options.film {
        student.film();
    }
    student.wait_step("menu", MENU_LIMIT)?;
    if options.film {
        student.watch(FILM_STAYS)?;
    }
    student.press(&["ret"])?;
    let chosen = student.wait_step("chosen", Duration::from_secs(20))?;
    let cmdline = student.wait_started(START_LIMIT)?;
    let expected = lab.cmdline(chosen.field("system"))?;
    ensure!(cmdline == expected, "the system got `{cmdline}`, its entry says `{expected}`");
    if route.firmware == FirmwareKind::UefiSecure {
        check_secure_boot(&student)?;
    }
    if options.film {
        student.watch(FILM_STAYS)?;
    }
    let moments = moments(&student, wire);
    student.switch_off()?;
    Ok(moments)
}

/// Brings together what was seen on the wire and what the node reported.
fn moments(student: &Student, wire: &Wire) -> Vec<Moment> {
    let start = student.power_on();
    let on_wire = |name, is_it: &dyn Fn(&Sighting) -> bool| {
        let at: Option<Instant> = wire.first(start, is_it);
        at.map(|at| Moment { name, secs: (at - start).as_secs_f64() })
    };
    let told = |name, word: &str| {
        let step = student.steps.iter().find(|step| step.word == word)?;
        Some(Moment { name, secs: step.seen.as_secs_f64() })
    };
    let tftp = |path: &'static str| move |seen: &Sighting| matches!(seen, Sighting::Tftp(it) if it == path);
    let get = |path: &'static str| move |seen: &Sighting| matches!(seen, Sighting::Get(it) if it.split('?').next() == Some(path));
    let started = student.started.as_ref();
    let moments = [
        Some(Moment { name: "power on", secs: 0.0 }),
        on_wire("first DHCP request", &|seen| *seen == Sighting::Dhcp),
        on_wire("boot loader asked for", &|seen| match seen {
            Sighting::Tftp(_) => true,
            Sighting::Get(path) => path.ends_with(".efi"),
            Sighting::Dhcp => false,
        }),
        on_wire("boot.ipxe asked for", &get("/boot.ipxe")),
        on_wire("GRUB's menu asked for", &tftp("/grub/grub.cfg")),
        on_wire("kernel asked for", &|seen| get("/boot/vmlinuz")(seen) || tftp("/vmlinuz")(seen)),
        on_wire("initramfs asked for", &|seen| {
            get("/boot/initrd.img")(seen) || tftp("/initrd.img")(seen)
        }),
        told("node's init runs", "init"),
        told("drivers loaded", "modules"),
        told("network up", "network"),
        told("catalog checked", "catalog"),
        told("menu on screen", "menu"),
        told("system chosen", "chosen"),
        told("download begins", "download"),
        told("downloaded", "verify"),
        told("verified", "handover"),
        told("kexec", "kexec"),
        started.map(|(_, at)| Moment { name: "system started", secs: at.as_secs_f64() }),
    ];
    moments.into_iter().flatten().collect()
}

/// Name, seconds since power-on, and a bar from the step before it to this one.
fn table(moments: &[Moment]) -> String {
    let end = moments.last().map_or(1.0, |last| last.secs).max(0.1);
    let column = |secs: f64| (secs / end * BAR).round() as usize;
    let mut text = String::new();
    let mut before = 0.0_f64;
    for Moment { name, secs } in moments {
        let from = column(before.min(*secs));
        let length = column(*secs).saturating_sub(from).max(1);
        let bar = format!("{}{}", " ".repeat(from), "█".repeat(length));
        text += &format!("  {name:22} {secs:6.1}  {bar}\n");
        before = *secs;
    }
    text
}

fn steps_json(moments: &[Moment]) -> serde_json::Value {
    moments.iter().map(|moment| (moment.name.replace(' ', "_"), json!(moment.secs))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_its_bars_follow_each_other() {
        let moments = [Moment { name: "power on", secs: 0.0 }, Moment { name: "menu", secs: 10.0 }];
        let table = table(&moments);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], format!("  {:22} {:6.1}  █", "power on", 0.0));
        assert_eq!(lines[1], format!("  {:22} {:6.1}  {}", "menu", 10.0, "█".repeat(40)));
    }

    #[test]
    fn the_json_names_each_step_in_one_word() {
        let moments = [Moment { name: "system started", secs: 1.5 }];
        assert_eq!(steps_json(&moments), json!({"system_started": 1.5}));
    }
}
