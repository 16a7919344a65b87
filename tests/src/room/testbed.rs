//! Shell: everything that has to be in place before the first PC is switched on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::cargo::{self, Programs};
use crate::host::packages::{self, Extra};
use crate::host::process::{command, run};
use crate::room::addresses::BRIDGE;
use crate::room::net::{self, Lan};
use crate::room::qemu::Firmware;
use crate::room::sample::{GUEST_WORDS, SampleLab};
use crate::room::server::{HTTP, Server};

/// The finished programs, a private network, and a folder for results.
pub struct Testbed {
    /// The programs as they ship.
    pub programs: Programs,
    /// A folder with a Debian kernel and its modules.
    pub kernel: PathBuf,
    /// The private network that this process is in from now on.
    pub lan: Lan,
    /// Where pictures and logs are left.
    pub out: PathBuf,
    /// Whether attacks last a minute instead of ten seconds.
    pub long: bool,
    /// Whether the screens of this run become the reference pictures.
    pub accept_screens: bool,
    // Lab folders; gone with the testbed.
    work: tempfile::TempDir,
}

impl Testbed {
    /// Installs, downloads and builds what is missing, then enters the private network.
    ///
    /// `mbit` limits every link of the network.
    pub fn prepare(extra: Extra, yes: bool, out: &Path, mbit: Option<u32>) -> Result<Self> {
        packages::ensure_packages(extra, yes)?;
        let kernel = packages::ensure_kernel()?;
        let programs = cargo::build()?;
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        let out = std::path::absolute(out)?;
        net::enter_private_network()?;
        let lan = Lan::create(mbit)?;
        let work = tempfile::Builder::new().prefix("bt-lab").tempdir()?;
        Ok(Self { programs, kernel, lan, out, long: false, accept_screens: false, work })
    }

    /// Makes a sample lab in a folder of its own. All have the same keys and boot files, since
    /// those take long to make: the first is made, the others are its copies.
    pub fn sample_lab(&self, name: &str) -> Result<SampleLab> {
        let template = self.work.path().join("template");
        let template = if template.is_dir() {
            SampleLab::open(&template)
        } else {
            SampleLab::create(&self.programs, &self.kernel, &template)?
        };
        template.copy_to(&self.work.path().join(name))
    }

    /// Makes the keys of another lab, and nothing else; returns the folder that they are in.
    pub fn other_keys(&self, name: &str) -> Result<PathBuf> {
        let folder = self.work.path().join(name);
        let mut init = command(&self.programs.server);
        init.arg("init").arg(&folder).args(["--interface", BRIDGE]);
        run(init)?;
        Ok(folder.join("keys"))
    }

    /// Starts the server of `lab` in the foreground, with its log in the results folder.
    pub fn serve(&self, lab: &SampleLab, name: &str) -> Result<Server> {
        Server::start(&self.programs.server, lab, &self.out.join(format!("{name}-server.log")))
    }

    /// A folder for what a scenario needs only while it runs.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let folder = self.work.path().join(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }
}

/// A boot of the lab's own boot files without a firmware, which then ask `server`.
pub fn direct(lab: &SampleLab, more: &str) -> Firmware {
    let cmdline = format!(
        "initrd=initrd.img bt.server=http://{HTTP} nokaslr quiet loglevel=3 \
         vt.global_cursor_default=0 {GUEST_WORDS} {more}"
    );
    Firmware::Direct {
        kernel: lab.kernel(),
        initramfs: lab.initramfs(),
        cmdline: cmdline.trim_end().into(),
    }
}
