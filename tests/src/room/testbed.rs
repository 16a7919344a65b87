//! Shell: everything that has to be in place before the first PC is switched on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::host::cargo::{self, Build, Programs};
use crate::host::packages::{self, Extra};
use crate::host::process::{command, run};
use crate::room::addresses::BRIDGE;
use crate::room::net::{self, Lan};
use crate::room::qemu::Firmware;
use crate::room::sample::{GUEST_WORDS, SampleLab};
use crate::room::server::{HTTP, Server};

/// The finished programs, a private network, and a folder for results.
pub struct Testbed {
    /// The programs under test.
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
    /// Limit of each link of the network, in Mbit/s.
    mbit: Option<u32>,
    /// The lab that all others are copies of; made when the first is wanted.
    template: PathBuf,
    /// Where lab folders are.
    work: PathBuf,
    // Gone with the testbed that made it; one that joined works in another's.
    _folder: Option<tempfile::TempDir>,
}

/// What another process of the lab needs to know to work alongside this one, in a network of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Invitation {
    programs: Programs,
    librqbit_peer: Option<PathBuf>,
    kernel: PathBuf,
    template: PathBuf,
    work: PathBuf,
    out: PathBuf,
    mbit: Option<u32>,
    long: bool,
    accept_screens: bool,
}

impl Testbed {
    /// Installs, downloads and builds what is missing, then enters the private network.
    ///
    /// `mbit` limits every link of the network.
    pub fn prepare(
        extra: Extra,
        how: Build,
        yes: bool,
        out: &Path,
        mbit: Option<u32>,
    ) -> Result<Self> {
        packages::ensure_packages(extra, yes)?;
        let kernel = packages::ensure_kernel()?;
        let programs = cargo::build(how)?;
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        let out = std::path::absolute(out)?;
        net::enter_private_network()?;
        let lan = Lan::create(mbit)?;
        let folder = tempfile::Builder::new().prefix("bt-lab").tempdir()?;
        let work = folder.path().to_owned();
        Ok(Self {
            programs,
            kernel,
            lan,
            out,
            long: false,
            accept_screens: false,
            mbit,
            template: work.join("template"),
            work,
            _folder: Some(folder),
        })
    }

    /// What [`Self::join`] needs to work in the folder `work`.
    ///
    /// Makes the template lab: two processes that make it at once would collide.
    pub fn invite(&self, work: &Path, librqbit_peer: Option<PathBuf>) -> Result<Invitation> {
        self.template()?;
        Ok(Invitation {
            programs: self.programs.clone(),
            librqbit_peer,
            kernel: self.kernel.clone(),
            template: self.template.clone(),
            work: work.to_owned(),
            out: self.out.clone(),
            mbit: self.mbit,
            long: self.long,
            accept_screens: self.accept_screens,
        })
    }

    /// Enters a private network, separate from that of the process that wrote the invitation.
    pub fn join(invitation: Invitation) -> Result<Self> {
        let Invitation { programs, kernel, template, work, out, mbit, .. } = invitation;
        if let Some(program) = invitation.librqbit_peer {
            cargo::use_librqbit_peer(program);
        }
        net::enter_private_network()?;
        let lan = Lan::create(mbit)?;
        let Invitation { long, accept_screens, .. } = invitation;
        let _folder = None;
        Ok(Self { programs, kernel, lan, out, long, accept_screens, mbit, template, work, _folder })
    }

    /// Makes a sample lab in a folder of its own. All have the same keys and boot files, since
    /// those take long to make: the first is made, the others are its copies.
    pub fn sample_lab(&self, name: &str) -> Result<SampleLab> {
        self.template()?.copy_to(&self.work.join(name))
    }

    /// The lab that all others are copies of. Whoever makes it early knows when it takes the time.
    pub fn template(&self) -> Result<SampleLab> {
        if self.template.is_dir() {
            return Ok(SampleLab::open(&self.template));
        }
        SampleLab::create(&self.programs, &self.kernel, &self.template)
    }

    /// Makes the keys of another lab, and nothing else; returns the folder that they are in.
    pub fn other_keys(&self, name: &str) -> Result<PathBuf> {
        let folder = self.work.join(name);
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
        let folder = self.work.join(name);
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
