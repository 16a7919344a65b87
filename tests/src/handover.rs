//! Shell: `cargo lab handover`: the smallest PC on which a live system starts, by each way.
//!
//! A test system of each size is added to a lab by `bt-server add`, and PCs with less and less memory boot it through the swarm.
//! What runs must see the very medium that was added; what does not run must have been refused in words before the
//! download. Beside our two ways: kexec-tools, which copies the image into an initrd.

mod peer;
mod plot;
mod search;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::bench::{Bench, direct};
use crate::cargo;
use crate::clock;
use crate::image::{self, Kind};
use crate::process::run as run_program;
use crate::qemu::{Firmware, Machine};
use crate::report::Report;
use crate::sample::{GUEST_WORDS, SampleLab};
use crate::server::{Server, server_command};
use crate::setup::{self, Extra};
use crate::student::Student;
use plot::Line;
use search::{Outcome, Search};

/// From power-on to the report of the started system, which hashes its medium first.
const LIMIT: Duration = Duration::from_secs(420);
/// The id of the system under test.
const ID: &str = "medium";
/// Last words of a guest whose memory does not suffice.
const DEATHS: [&str; 4] =
    ["Kernel panic", "Out of memory", "Initramfs unpacking failed", "System is deadlocked"];

/// How an image gets to its system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Ours: the image stays where it was downloaded
    Pmem,
    /// Ours: the image as a file of the initramfs
    Initrd,
    /// kexec-tools: image appended to the initrd, loaded by the kernel
    KexecTools,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Pmem => "pmem",
            Self::Initrd => "initrd",
            Self::KexecTools => "kexec-tools",
        }
    }

    /// Sizes to begin with, in MiB, for an image of so many: surely too small, and probably enough.
    fn guess(self, image: u32) -> (u32, u32) {
        match self {
            Self::Pmem => (image, image + 448),
            Self::Initrd => (image, 2 * image + 512),
            Self::KexecTools => (2 * image, 4 * image + 512),
        }
    }
}

/// Find the smallest PC on which a live system of each size starts
///
/// Boots PCs with less and less memory until a system of 100, 300 and 800 MiB does not start any more, by both of our ways
/// and by kexec-tools'. Takes about two hours on two cores; `--sizes 100 --ways pmem` takes some minutes.
#[derive(Args)]
pub struct Options {
    /// Sizes of the image in MiB
    #[arg(long, value_delimiter = ',', default_value = "100,300,800")]
    sizes: Vec<u32>,
    /// Ways to try
    #[arg(long, value_enum, value_delimiter = ',', default_value = "pmem,initrd,kexec-tools")]
    ways: Vec<Way>,
    /// How exactly to search, in MiB
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    step: u32,
    /// The test system to boot; never `plain`, which has no image
    #[arg(long, value_enum, default_value = "alpine-like")]
    kind: Kind,
    /// Boot once with this memory (MiB) instead of searching
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Boot from the network by UEFI firmware instead of straight into the small Linux
    #[arg(long)]
    uefi: bool,
    /// Write the plot to this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// Leave pictures and logs in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One way with one size.
struct Found {
    way: Way,
    size: u32,
    search: Search,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Report> {
    if options.kind == Kind::Plain {
        bail!("a plain system has no image to hand over; choose another --kind");
    }
    setup::ensure_packages(Extra::Images, options.yes)?;
    if options.ways.contains(&Way::KexecTools) {
        setup::ensure_kexec_tools()?;
    }
    let mut images = Vec::new();
    for size in &options.sizes {
        let bytes = u64::from(*size) << 20;
        let path = image::usual_place(options.kind, Some(bytes));
        image::make(options.kind, Some(bytes), &path)?;
        images.push((*size, path));
    }
    let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("handover"));
    let mut bench = Bench::prepare(Extra::Images, options.yes, &out, None)?;
    let mut found = Vec::new();
    for (size, path) in &images {
        for way in &options.ways {
            let search = search_one(options, &mut bench, *way, *size, path)?;
            found.push(Found { way: *way, size: *size, search });
        }
    }
    if let Some(file) = &options.plot {
        std::fs::write(file, plot_of(&found))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(report(&found))
}

/// The smallest PC for this image and this way.
fn search_one(
    options: &Options,
    bench: &mut Bench,
    way: Way,
    size: u32,
    image: &Path,
) -> Result<Search> {
    let name = format!("{}-{size}", way.name());
    let medium = Medium::prepare(bench, way, image, &name)?;
    let (low, high) = way.guess(size);
    let mut search = match options.memory {
        Some(memory) => Search::new(memory.saturating_sub(1), memory, 1),
        None => Search::new(low, high, options.step),
    };
    while let Some(memory) = search.next() {
        let outcome = match way {
            Way::KexecTools => peer::boot(bench, &medium, &name, memory),
            Way::Pmem | Way::Initrd => medium.boot(bench, memory, options.uefi),
        };
        let outcome = outcome?;
        println!("  {name} MiB in a PC of {memory} MiB: {}", words(&outcome));
        search.learn(memory, outcome);
        if options.memory.is_some() {
            break;
        }
    }
    Ok(search)
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Started => "started, and the medium is the right one".into(),
        Outcome::Refused(why) => format!("refused: {why}"),
        Outcome::Broken(why) => format!("BROKEN: {why}"),
    }
}

/// A lab with one test system in it.
struct Medium {
    name: String,
    sha256: String,
    lab: SampleLab,
    _server: Option<Server>,
}

impl Medium {
    fn prepare(bench: &Bench, way: Way, image: &Path, name: &str) -> Result<Self> {
        let lab = bench.sample_lab(&format!("lab-{name}"))?;
        let mut add = server_command(&bench.programs.server, &lab);
        add.arg("add").arg(image).args(["--id", ID, "--name", "Test medium"]);
        run_program(add)?;
        let entry = lab.folder().join("catalog").join(format!("{ID}.toml"));
        let text = std::fs::read_to_string(&entry).context("bt-server add wrote no entry")?;
        std::fs::write(&entry, adapted(&text, way)).context("cannot change the entry")?;
        let sha256 = sha256(image)?;
        let server = match way {
            Way::KexecTools => None,
            Way::Pmem | Way::Initrd => Some(bench.serve(&lab, name)?),
        };
        Ok(Self { name: name.into(), sha256, lab, _server: server })
    }

    /// One of the files that the entry names: `kernel`, `initrd`, `handover`, `image`.
    fn file(&self, key: &str) -> Result<PathBuf> {
        let path = self.entry()?.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        let path = path.with_context(|| format!("the entry has no {key}"))?;
        Ok(self.lab.folder().join(path))
    }

    fn entry(&self) -> Result<toml::Table> {
        let file = self.lab.folder().join("catalog").join(format!("{ID}.toml"));
        let text = std::fs::read_to_string(&file).context("the entry is gone")?;
        text.parse().context("the entry is no TOML")
    }

    /// Boots a PC with so much memory into the system.
    fn boot(&self, bench: &mut Bench, memory: u32, by_uefi: bool) -> Result<Outcome> {
        let preset = format!("bt.preset={ID}");
        let firmware = if by_uefi { Firmware::Uefi } else { direct(&self.lab, &preset) };
        let machine = Machine { memory_mib: memory, ..Machine::new(firmware, 1) };
        let name = format!("{}-in-{memory}", self.name);
        let mut student = Student::switch_on(&name, &machine, &mut bench.lan, &bench.out)?;
        if by_uefi {
            student.wait_step("menu", LIMIT)?;
            choose(&mut student)?;
        }
        let outcome = watch(&mut student, &self.sha256)?;
        let console = bench.out.join(format!("{name}-serial.log"));
        std::fs::write(&console, student.console()).context("cannot keep the serial log")?;
        student.switch_off()?;
        Ok(outcome)
    }
}

/// The test system is the last of the menu.
fn choose(student: &mut Student) -> Result<()> {
    for _ in 0..8 {
        student.press(&["down"])?;
    }
    student.press(&["right"])?;
    student.press(&["ret"])
}

/// Waits for one of the three ends.
fn watch(student: &mut Student, sha256: &str) -> Result<Outcome> {
    let end = clock::wait_for("the end of a boot", LIMIT, || {
        if let Err(error) = student.look() {
            return Ok(Some(Outcome::Broken(format!("{error:#}"))));
        }
        Ok(judge(&student.console(), sha256))
    });
    clock::check_interrupted()?;
    Ok(end.unwrap_or_else(|error| Outcome::Broken(format!("{error:#}"))))
}

/// What the serial console tells about the end of a boot; `None` while there is none.
fn judge(console: &str, sha256: &str) -> Option<Outcome> {
    for line in console.lines() {
        if let Some(words) = line.split_once("bt-report: ").map(|(_, words)| words)
            && let Some((_, rest)) = words.split_once(" sha256=")
        {
            let seen = rest.split(' ').next().unwrap_or_default();
            let is_right = seen == sha256;
            let wrong = || Outcome::Broken(format!("the medium has sha256 {seen}"));
            return Some(if is_right { Outcome::Started } else { wrong() });
        }
        if let Some(problem) = line.split_once("step=problem ").map(|(_, problem)| problem) {
            let text = problem.split_once("text=").map_or(problem, |(_, text)| text);
            let is_refusal = problem.contains("kind=no-memory");
            let text = text.trim_matches('"').to_owned();
            return Some(if is_refusal { Outcome::Refused(text) } else { Outcome::Broken(text) });
        }
        if DEATHS.iter().any(|death| line.contains(death)) {
            return Some(Outcome::Broken(line.trim().to_owned()));
        }
    }
    None
}

/// The entry with words for the serial console, and with the way that is measured.
fn adapted(entry: &str, way: Way) -> String {
    let mut text = String::new();
    for line in entry.lines() {
        let key = line.split('=').next().unwrap_or_default().trim();
        match (key, line.split_once('"')) {
            ("cmdline", Some((before, rest))) => {
                text += &format!("{before}\"{GUEST_WORDS} {rest}\n");
            }
            ("way", _) => {}
            _ => text += &format!("{line}\n"),
        }
    }
    match way {
        Way::Pmem | Way::Initrd => text + &format!("way = \"{}\"\n", way.name()),
        Way::KexecTools => text,
    }
}

fn sha256(file: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut input =
        std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn plot_of(found: &[Found]) -> String {
    let mut lines: Vec<Line> = Vec::new();
    for Found { way, size, search } in found {
        let Some(smallest) = search.smallest() else { continue };
        let point = (f64::from(*size), f64::from(smallest));
        match lines.iter_mut().find(|line| line.name == way.name()) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name: way.name().into(), points: vec![point] }),
        }
    }
    plot::svg("The smallest PC that starts a live system", "image, MiB", "memory, MiB", &lines)
}

fn report(found: &[Found]) -> Report {
    let figures: Vec<Value> = found
        .iter()
        .map(|Found { way, size, search }| {
            let tried: serde_json::Map<String, Value> = search
                .seen
                .iter()
                .map(|(memory, outcome)| (memory.to_string(), json!(words(outcome))))
                .collect();
            json!({"way": way.name(), "image_mib": size, "smallest_mib": search.smallest(), "tried": tried})
        })
        .collect();
    let mut parts = Vec::new();
    let mut ok = true;
    for Found { way, size, search } in found {
        let smallest = search.smallest().map_or("none".into(), |memory| format!("{memory} MiB"));
        parts.push(format!("{} {size} MiB: {smallest}", way.name()));
        // The peer has no rule that refuses; ours must never break.
        ok &= search.smallest().is_some()
            && (*way == Way::KexecTools || search.broken().next().is_none());
    }
    Report::new(ok, format!("smallest PCs: {}", parts.join(", "))).with("found", json!(figures))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_tells_how_a_boot_ended() {
        let started = "x\nbt-report: started way=pmem\nbt-report: way=pmem device=/dev/pmem0 bytes=5 sha256=ab total_kib=1\n";
        assert_eq!(judge(started, "ab"), Some(Outcome::Started));
        assert!(matches!(judge(started, "cd"), Some(Outcome::Broken(_))));
        let refused = "bt-node: step=problem uptime=5 kind=no-memory text=\"Needs 5, has 4\"\n";
        assert_eq!(judge(refused, ""), Some(Outcome::Refused("Needs 5, has 4".into())));
        assert!(matches!(judge("[ 1] Kernel panic - not", ""), Some(Outcome::Broken(_))));
        assert_eq!(judge("bt-node: step=menu uptime=5\n", ""), None);
    }

    #[test]
    fn the_entry_gets_a_serial_console_and_the_way() {
        let entry = "way      = \"initrd\"   # why\ncmdline  = \"quiet\"\n";
        let adapted = adapted(entry, Way::Pmem);
        let table: toml::Table = adapted.parse().expect("TOML");
        assert_eq!(table["way"].as_str(), Some("pmem"));
        let cmdline = table["cmdline"].as_str().expect("a command line");
        assert!(cmdline.starts_with(GUEST_WORDS) && cmdline.ends_with(" quiet"), "{cmdline}");
    }
}
