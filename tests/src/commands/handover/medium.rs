//! Shell: a lab with one system that `bt-server add` made, and PCs that boot it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::method::Method;
use super::search::Attempt;
use crate::host::clock;
use crate::host::process::run;
use crate::room::qemu::Machine;
use crate::room::route::{FirmwareKind, MENU_LIMIT};
use crate::room::sample::{Addresses, GUEST_WORDS, SampleLab};
use crate::room::server::{Server, server_command};
use crate::room::student::Student;
use crate::room::testbed::{Testbed, direct};

/// From power-on to the report of the started system, which hashes its medium first.
pub const LIMIT: Duration = Duration::from_secs(900);
/// Until a screen is drawn that the serial console has already reported.
const SCREEN_TAKES: Duration = Duration::from_secs(3);
/// The id of the system under test: the first of the menu, so that Enter takes it.
const ID: &str = "a-medium";
/// Last words of a guest that does not start.
const DEATHS: [&str; 6] = [
    "Kernel panic",
    "Out of memory",
    "Initramfs unpacking failed",
    "System is deadlocked",
    "Press Enter for maintenance",
    "(initramfs)",
];

/// What shows that the system runs.
#[derive(Clone, Debug)]
pub enum Proof {
    /// Its report of the medium as it reads it.
    Sha256(String),
    /// These words on its serial console.
    Words(String),
}

/// A lab with one test system in it.
pub struct Medium {
    name: String,
    /// What shows that it runs.
    pub proof: Proof,
    /// More of the netboot image's kernel command line, where it boots without a firmware.
    pub words: String,
    lab: SampleLab,
    _server: Option<Server>,
}

impl Medium {
    /// Makes the lab: adds `image` by `bt-server add` and offers it with the boot method `way`, to PCs with this firmware.
    pub fn prepare(
        testbed: &Testbed,
        method: Method,
        image: &Path,
        name: &str,
        proof: Proof,
        firmware: Option<FirmwareKind>,
    ) -> Result<Self> {
        let lab = testbed.sample_lab(&format!("lab-{name}"))?;
        if let Some(firmware) = firmware {
            lab.write_settings(Addresses::Ours, &firmware.node_settings())?;
        }
        let mut add = server_command(&testbed.programs.server, &lab);
        add.arg("add").arg(image).args(["--id", ID, "--name", "Test medium"]);
        run(add)?;
        let entry = lab.folder().join("catalog").join(format!("{ID}.toml"));
        let text = std::fs::read_to_string(&entry).context("bt-server add wrote no entry")?;
        std::fs::write(&entry, adapted(&text, method)).context("cannot change the entry")?;
        let server = match method {
            Method::KexecTools => None,
            Method::Pmem | Method::Initrd => Some(testbed.serve(&lab, name)?),
        };
        Ok(Self { name: name.into(), proof, words: String::new(), lab, _server: server })
    }

    /// One of the files that the entry names: `kernel`, `initrd`, `handover`, `image`.
    pub fn file(&self, key: &str) -> Result<PathBuf> {
        let path = self.entry()?.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        let path = path.with_context(|| format!("the entry has no {key}"))?;
        Ok(self.lab.folder().join(path))
    }

    /// The entry that `bt-server add` wrote.
    pub fn entry(&self) -> Result<toml::Table> {
        let file = self.lab.folder().join("catalog").join(format!("{ID}.toml"));
        let text = std::fs::read_to_string(&file).context("cannot read the entry")?;
        text.parse().context("the entry is not TOML")
    }

    /// Boots a PC with so much memory (MiB) into the system; without a firmware, directly into the netboot image.
    pub fn boot(
        &self,
        testbed: &mut Testbed,
        memory: u32,
        firmware: Option<FirmwareKind>,
    ) -> Result<Attempt> {
        let preset = || direct(&self.lab, &format!("bt.preset={ID} {}", self.words));
        let machine = Machine {
            memory_mib: memory,
            ..Machine::new(firmware.map_or_else(preset, FirmwareKind::firmware), 1)
        };
        let name = format!("{}-in-{memory}", self.name);
        let mut student = Student::switch_on(&name, &machine, &mut testbed.lan, &testbed.out)?;
        if firmware.is_some() {
            student.wait_step("menu", MENU_LIMIT)?;
            student.watch(SCREEN_TAKES)?;
            student.picture(&format!("{name}-menu"))?;
            student.press(&["ret"])?;
        }
        let attempt = watch(&mut student, &self.proof)?;
        if let Attempt::Refused(_) = attempt {
            student.watch(SCREEN_TAKES)?;
            student.picture(&format!("{name}-refused"))?;
        }
        let console = testbed.out.join(format!("{name}-serial.log"));
        std::fs::write(&console, student.console()).context("cannot keep the serial log")?;
        student.switch_off()?;
        Ok(attempt)
    }
}

/// Waits for one of the three ends.
fn watch(student: &mut Student, proof: &Proof) -> Result<Attempt> {
    let end = clock::wait_for("the end of a boot", LIMIT, || {
        if let Err(error) = student.look() {
            return Ok(Some(Attempt::Broken(format!("{error:#}"))));
        }
        Ok(judge(&student.console(), proof))
    });
    clock::check_interrupted()?;
    Ok(end.unwrap_or_else(|error| Attempt::Broken(format!("{error:#}"))))
}

/// What the serial console shows about the end of a boot; `None` while there is none.
pub fn judge(console: &str, proof: &Proof) -> Option<Attempt> {
    let (mut is_fetching, mut is_handed_over) = (false, false);
    for line in console.lines() {
        is_fetching |= line.contains("bt-node: step=download");
        is_handed_over |= line.contains("bt-node: step=kexec");
        if let Proof::Words(words) = proof
            && is_handed_over
            && line.contains(words)
        {
            return Some(Attempt::Started);
        }
        if let Proof::Sha256(sha256) = proof
            && let Some(words) = line.split_once("bt-report: ").map(|(_, words)| words)
            && let Some((_, rest)) = words.split_once(" sha256=")
        {
            let seen = rest.split(' ').next().unwrap_or_default();
            let is_right = seen == sha256;
            let wrong = || Attempt::Broken(format!("the medium has sha256 {seen}"));
            return Some(if is_right { Attempt::Started } else { wrong() });
        }
        if let Some(problem) = line.split_once("step=problem ").map(|(_, problem)| problem) {
            let text = problem.split_once("text=").map_or(problem, |(_, text)| text);
            let kinds = ["kind=no-memory", "kind=does-not-fit"];
            let is_refusal = !is_fetching && kinds.iter().any(|kind| problem.contains(kind));
            let text = text.trim_matches('"').to_owned();
            return Some(if is_refusal { Attempt::Refused(text) } else { Attempt::Broken(text) });
        }
        if DEATHS.iter().any(|death| line.contains(death)) {
            return Some(Attempt::Broken(line.trim().to_owned()));
        }
    }
    None
}

/// The entry with a serial console, and with the boot method that is measured.
fn adapted(entry: &str, method: Method) -> String {
    let mut text = String::new();
    for line in entry.lines() {
        let key = line.split('=').next().unwrap_or_default().trim();
        match (key, line.split_once('"')) {
            ("cmdline", Some((before, rest))) => {
                text += &format!("{before}\"{GUEST_WORDS} {rest}\n");
            }
            // The second is the key's old name.
            ("method" | "way", _) => {}
            _ => text += &format!("{line}\n"),
        }
    }
    let has_image = text.lines().any(|line| line.starts_with("image "));
    match method {
        Method::Pmem | Method::Initrd if has_image => {
            text + &format!("method = \"{}\"\n", method.name())
        }
        _ => text,
    }
}

/// The SHA-256 of a file in hex.
pub fn sha256(file: &Path) -> Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256_is(hex: &str) -> Proof {
        Proof::Sha256(hex.into())
    }

    #[test]
    fn the_console_shows_how_a_boot_ended() {
        let started = "x\nbt-report: started way=pmem\nbt-report: way=pmem device=/dev/pmem0 bytes=5 sha256=ab total_kib=1\n";
        assert_eq!(judge(started, &sha256_is("ab")), Some(Attempt::Started));
        assert!(matches!(judge(started, &sha256_is("cd")), Some(Attempt::Broken(_))));
        let refused = "bt-node: step=problem uptime=5 kind=no-memory text=\"Needs 5, has 4\"\n";
        let words = Attempt::Refused("Needs 5, has 4".into());
        assert_eq!(judge(refused, &sha256_is("")), Some(words));
        let panic = judge("[ 1] Kernel panic - not", &sha256_is(""));
        assert!(matches!(panic, Some(Attempt::Broken(_))));
        assert_eq!(judge("bt-node: step=menu uptime=5\n", &sha256_is("")), None);
        // A refusal that comes after the download began is none.
        let late = format!("bt-node: step=download uptime=4\n{refused}");
        assert!(matches!(judge(&late, &sha256_is("")), Some(Attempt::Broken(_))));
    }

    #[test]
    fn words_count_only_after_the_handover() {
        let proof = Proof::Words("login:".into());
        assert_eq!(judge("node login: root\n", &proof), None);
        let handed_over = "bt-node: step=kexec uptime=5\nbt login: ";
        assert_eq!(judge(handed_over, &proof), Some(Attempt::Started));
    }

    #[test]
    fn the_entry_gets_a_serial_console_and_the_method() {
        for key in ["method  ", "way     "] {
            let entry =
                format!("image    = \"a\"\n{key} = \"initrd\"   # why\ncmdline  = \"quiet\"\n");
            let adapted = adapted(&entry, Method::Pmem);
            let table: toml::Table = adapted.parse().expect("TOML");
            assert_eq!(table["method"].as_str(), Some("pmem"));
            assert!(!table.contains_key("way"), "{adapted}");
            let cmdline = table["cmdline"].as_str().expect("a command line");
            assert!(cmdline.starts_with(GUEST_WORDS) && cmdline.ends_with(" quiet"), "{cmdline}");
        }
    }
}
