//! Shell: a scripted student in front of one PC: switches it on, waits, presses keys, takes pictures.
//!
//! What a student would read from the screen, the student reads from the serial console
//! ([`crate::room::serial_log`]); that the screen really shows it is for the pictures.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use image::RgbImage;

use crate::host::clock;
use crate::host::process::{Running, tail};
use crate::room::net::Lan;
use crate::room::qemu::{self, Machine};
use crate::room::qmp::Qmp;
use crate::room::serial_log::{Step, parse_started};

/// Between two pictures of a film.
const FILM_EVERY: Duration = Duration::from_secs(2);

/// Pictures that are taken while something is waited for.
#[derive(Default)]
struct Film {
    due: Duration,
    last: RgbImage,
}

/// A PC that is on, and the student before it.
pub struct Student {
    name: String,
    qemu: Running,
    qmp: Qmp,
    serial: PathBuf,
    pictures: PathBuf,
    power_on: Instant,
    read: usize,
    unfinished: String,
    waiting: VecDeque<Step>,
    film: Option<Film>,
    /// Every step that was seen, in order.
    pub steps: Vec<Step>,
    /// The kernel command line that the started system reported, and when.
    pub started: Option<(String, Duration)>,
    // QEMU's socket and firmware variables: short path, removed with the student.
    _folder: tempfile::TempDir,
}

impl Student {
    /// Plugs `machine` into the LAN and switches it on. Pictures, and on failure the serial log,
    /// go to `out`.
    pub fn switch_on(name: &str, machine: &Machine, lan: &mut Lan, out: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bt-pc").tempdir()?;
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        let tap = lan.tap()?;
        let command = machine.command(&tap, folder.path())?;
        let power_on = clock::now();
        let log = out.join(format!("{name}-qemu.log"));
        let mut qemu = Running::start("QEMU", command, &log)?;
        let qmp = match Qmp::connect(&qemu::qmp_socket(folder.path())) {
            Ok(qmp) => qmp,
            Err(error) => {
                qemu.check_running()?;
                return Err(error);
            }
        };
        Ok(Self {
            name: name.into(),
            qemu,
            qmp,
            serial: qemu::serial_file(folder.path()),
            pictures: out.into(),
            power_on,
            read: 0,
            unfinished: String::new(),
            waiting: VecDeque::new(),
            film: None,
            steps: Vec::new(),
            started: None,
            _folder: folder,
        })
    }

    /// When the PC was switched on.
    pub fn power_on(&self) -> Instant {
        self.power_on
    }

    /// From now on takes a picture every two seconds, and keeps those on which something changed;
    /// their names are the seconds since power-on.
    pub fn film(&mut self) {
        self.film = Some(Film::default());
    }

    /// Waits so long, with an eye on the PC.
    pub fn watch(&mut self, length: Duration) -> Result<()> {
        let end = self.elapsed() + length;
        let look = || {
            self.look()?;
            Ok((self.elapsed() >= end).then_some(()))
        };
        clock::wait_for("time to pass", length * 2, look)
    }

    fn next_of_film(&mut self) -> Result<()> {
        let now = self.elapsed();
        let Some(film) = self.film.as_mut().filter(|film| now >= film.due) else { return Ok(()) };
        film.due = now + FILM_EVERY;
        let name = format!("{}-{:05.1}s", self.name, now.as_secs_f64());
        let (file, picture) = self.picture(&name)?;
        match &mut self.film {
            Some(film) if film.last != picture => film.last = picture,
            _ => std::fs::remove_file(&file)
                .with_context(|| format!("cannot remove {}", file.display()))?,
        }
        Ok(())
    }

    /// Since power-on.
    pub fn elapsed(&self) -> Duration {
        clock::now() - self.power_on
    }

    /// Waits until the node reports the step `word`; steps before it are passed over, but a
    /// problem ends the wait.
    pub fn wait_step(&mut self, word: &str, limit: Duration) -> Result<Step> {
        self.wait_step_unless(word, limit, |step| step.word == "problem")
    }

    /// The same for a node that has a problem and gets over it: more problems are passed over too.
    pub fn wait_recovered(&mut self, word: &str, limit: Duration) -> Result<Step> {
        self.wait_step_unless(word, limit, |_| false)
    }

    fn wait_step_unless(
        &mut self,
        word: &str,
        limit: Duration,
        ends: impl Fn(&Step) -> bool,
    ) -> Result<Step> {
        let what = format!("the step \"{word}\" of {}", self.name);
        let found = clock::wait_for(&what, limit, || {
            self.look()?;
            while let Some(step) = self.waiting.pop_front() {
                if step.word == word {
                    return Ok(Some(step));
                }
                if ends(&step) {
                    bail!("the PC shows an error: {}", step.field("text"));
                }
            }
            Ok(None)
        });
        found.or_else(|error| self.explain(error))
    }

    /// Waits until the node shows a problem, and returns its words.
    pub fn wait_problem(&mut self, limit: Duration) -> Result<Step> {
        self.wait_step("problem", limit)
    }

    /// Waits until the started system reports itself, and returns its kernel command line.
    pub fn wait_started(&mut self, limit: Duration) -> Result<String> {
        let found = clock::wait_for("the chosen system to report itself", limit, || {
            self.look()?;
            let problem = self.waiting.iter().find(|step| step.word == "problem");
            if let Some(step) = problem {
                bail!("the PC shows an error: {}", step.field("text"));
            }
            Ok(self.started.as_ref().map(|(cmdline, _)| cmdline.clone()))
        });
        found.or_else(|error| self.explain(error))
    }

    /// Waits until `words` stand on the serial console, where firmware logs what it does.
    pub fn wait_console(&mut self, words: &str, limit: Duration) -> Result<()> {
        let found = clock::wait_for(&format!("\"{words}\" on the console"), limit, || {
            self.look()?;
            Ok(self.console().contains(words).then_some(()))
        });
        found.or_else(|error| self.explain(error))
    }

    /// Presses keys one after the other, by their QEMU names.
    pub fn press(&mut self, keys: &[&str]) -> Result<()> {
        keys.iter().try_for_each(|key| self.qmp.press(key))
    }

    /// Takes a picture of the screen.
    pub fn picture(&mut self, name: &str) -> Result<(PathBuf, RgbImage)> {
        let file = self.pictures.join(format!("{name}.png"));
        let file = std::path::absolute(&file)?;
        self.qmp.screenshot(&file)?;
        let picture =
            image::open(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok((file, picture.to_rgb8()))
    }

    /// Takes pictures until one satisfies `is_right`, since a screen is drawn after its step is reported.
    pub fn picture_when(
        &mut self,
        name: &str,
        limit: Duration,
        is_right: impl Fn(&RgbImage) -> bool,
    ) -> Result<(PathBuf, RgbImage)> {
        let what = format!("the right picture \"{name}\"");
        let found = clock::wait_for(&what, limit, || {
            let (file, picture) = self.picture(name)?;
            Ok(is_right(&picture).then_some((file, picture)))
        });
        found.or_else(|error| self.explain(error))
    }

    /// Fails when the PC went off; else reads what came on the serial console.
    pub fn look(&mut self) -> Result<()> {
        self.qemu.check_running()?;
        self.next_of_film()?;
        let bytes = std::fs::read(&self.serial).unwrap_or_default();
        let fresh = String::from_utf8_lossy(&bytes[self.read.min(bytes.len())..]).into_owned();
        self.read = bytes.len();
        let seen = self.elapsed();
        self.unfinished.push_str(&fresh);
        while let Some(end) = self.unfinished.find('\n') {
            let line: String = self.unfinished.drain(..=end).collect();
            if let Some(step) = Step::parse(line.trim_end(), seen) {
                self.steps.push(step.clone());
                self.waiting.push_back(step);
            }
            if let Some(cmdline) = parse_started(&line) {
                self.started = Some((cmdline.to_owned(), seen));
            }
        }
        Ok(())
    }

    /// Everything that came on the serial console.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// Whether the window was closed or the PC switched itself off.
    pub fn is_off(&mut self) -> Result<bool> {
        self.qemu.has_ended()
    }

    /// Pulls the plug.
    pub fn switch_off(mut self) -> Result<()> {
        self.qmp.quit()?;
        self.qemu.wait(Duration::from_secs(10)).map(drop)
    }

    /// Adds what a person needs to understand a failure: a picture, and the last serial lines.
    fn explain<T>(&mut self, error: anyhow::Error) -> Result<T> {
        clock::check_interrupted()?;
        let picture = match self.picture(&format!("{}-failed", self.name)) {
            Ok((file, _)) => file.display().to_string(),
            Err(error) => format!("none ({error:#})"),
        };
        let kept = self.pictures.join(format!("{}-serial.log", self.name));
        let serial = std::fs::read(&self.serial).unwrap_or_default();
        std::fs::write(&kept, &serial)
            .with_context(|| format!("cannot write {}", kept.display()))?;
        let lines = tail(&String::from_utf8_lossy(&serial), 25);
        Err(error.context(format!(
            "{} after {:.1} s\n  screen: {picture}\n  serial console ({}), last lines:\n{lines}\n",
            self.name,
            self.elapsed().as_secs_f64(),
            kept.display(),
        )))
    }
}
