//! A lab in a temporary folder, and the program on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_bt-server");
/// An entry of `catalog/`.
pub const ENTRY: &str = "name = \"System A\"\nkernel = \"images/a/vmlinuz\"\n";

/// A lab in a temporary folder; its server is stopped when this is dropped.
pub struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    /// A lab with one system and this `server.toml`.
    pub fn new(server_toml: &str) -> Self {
        let lab = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let made = lab.run(&["init", "--interface", "lo", "--kernel", "/nowhere"]);
        assert!(made.status.success(), "{made:?}");
        lab.write("server.toml", server_toml);
        fs::create_dir_all(lab.path("images/a")).expect("made");
        lab.write("images/a/vmlinuz", "a kernel");
        lab.write("catalog/a.toml", ENTRY);
        lab
    }

    /// The lab folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the lab folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file as if it had been there for an hour.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).expect("written");
        let file = fs::File::options().write(true).open(self.path(name));
        let earlier = SystemTime::now() - Duration::from_hours(1);
        file.and_then(|file| file.set_modified(earlier)).expect("there");
    }

    /// Runs the program on this lab.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("--lab").arg(self.folder.path()).args(arguments);
        command.output().expect("the program runs")
    }

    /// Runs shell commands in a network of their own; `sh` are the shell's own options. `$BT` is the
    /// program on this lab.
    pub fn in_network(&self, sh: &str, script: &str) -> Output {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--net", "sh", sh, script]);
        command.env("BT", format!("{PROGRAM} --lab {}", self.folder.path().display()));
        command.output().expect("unshare runs")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let stopped = self.run(&["stop"]);
        if !stopped.status.success() {
            eprintln!("not stopped: {stopped:?}");
        }
    }
}

/// What a program wrote.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
