//! Shell: a lab folder to try things with, made by the real tools.
//!
//! `bt-server init --sample` makes it; the lab only adds what a virtual room needs: the bridge's
//! address range, a serial console, and a few more entries, so that the picker looks like one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::cargo::Programs;
use crate::host::process::{command, run};
use crate::room::addresses::{BRIDGE, SERVER};

/// The words that a guest's kernel needs here: steps go to the serial console, and the emulated
/// timer of a busy machine must not be tested.
pub const GUEST_WORDS: &str = "console=tty0 console=ttyS0 no_timer_check";

/// Who gives the addresses in a virtual lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// `bt-server`, in full mode.
    Ours,
    /// Another DHCP server, which `bt-server` does not disturb: proxy mode.
    Others,
}

/// An entry of the sample lab: they share the sample's files and differ in what a student reads.
struct Sample {
    id: &'static str,
    name: &'static str,
    note: &'static str,
    icon: &'static str,
}

const SAMPLES: &[Sample] = &[
    Sample {
        id: "debian-12",
        name: "Debian 12 XFCE",
        note: "Office, Python, C. Your files: the network drive.",
        icon: "debian",
    },
    Sample {
        id: "electronics",
        name: "Electronics bench",
        note: "KiCad, ngspice and the drivers of the oscilloscopes.",
        icon: "tools",
    },
    Sample {
        id: "exam",
        name: "Exam",
        note: "No network, one editor. For written examinations.",
        icon: "office",
    },
];

/// A lab folder with its sample systems.
pub struct SampleLab {
    folder: PathBuf,
}

impl SampleLab {
    /// Makes the lab in `folder`, keys, boot files and all.
    pub fn create(programs: &Programs, kernel: &Path, folder: &Path) -> Result<Self> {
        let mut init = command(&programs.server);
        init.arg("init").arg(folder).args(["--sample", "--interface", BRIDGE]);
        init.arg("--kernel").arg(kernel).arg("--node").arg(&programs.node);
        run(init)?;
        let lab = Self::open(folder);
        lab.write_settings(Addresses::Ours, &usual_words())?;
        for sample in SAMPLES {
            let file = lab.folder.join("catalog").join(format!("{}.toml", sample.id));
            std::fs::write(&file, sample.entry())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        lab.connect_serial_console()?;
        lab.pad(PAD_BYTES)?;
        if !lab.initramfs().is_file() {
            lab.build_boot_files(programs, kernel)?;
        }
        Ok(lab)
    }

    /// A lab that was made before.
    pub fn open(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Makes a copy with everything in it, keys and boot files too.
    pub fn copy_to(&self, folder: &Path) -> Result<Self> {
        let mut copy = command("cp");
        copy.args(["--archive", "--reflink=auto"]).arg(&self.folder).arg(folder);
        run(copy)?;
        Ok(Self::open(folder))
    }

    /// Writes `server.toml`; `node` are the lines of its section `[node]`.
    pub fn write_settings(&self, addresses: Addresses, node: &str) -> Result<()> {
        let text = server_toml(addresses, node);
        std::fs::write(self.folder.join("server.toml"), text).context("cannot write server.toml")
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kernel that the nodes boot.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("state/boot/vmlinuz")
    }

    /// The initramfs that the nodes boot.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("state/boot/initrd.img")
    }

    /// The sample's file `name`, `kernel` or `initrd`.
    pub fn image(&self, name: &str) -> PathBuf {
        self.folder.join("images/sample").join(if name == "kernel" {
            "vmlinuz"
        } else {
            "initrd.img"
        })
    }

    /// The kernel command line that the catalog entry `id` asks for.
    pub fn cmdline(&self, id: &str) -> Result<String> {
        let file = self.folder.join("catalog").join(format!("{id}.toml"));
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let entry: toml::Table = text.parse().with_context(|| file.display().to_string())?;
        let cmdline = entry.get("cmdline").and_then(toml::Value::as_str);
        Ok(cmdline.unwrap_or_default().to_owned())
    }

    fn build_boot_files(&self, programs: &Programs, kernel: &Path) -> Result<()> {
        let mut build = command(&programs.initramfs);
        build.arg("build").arg("--lab").arg(&self.folder);
        build.arg("--node").arg(&programs.node).args(["--busybox", "/bin/busybox"]);
        build.arg("--kernel").arg(kernel);
        run(build).map(drop)
    }

    /// Gives the sample's own entry the words for the serial console.
    fn connect_serial_console(&self) -> Result<()> {
        let file = self.folder.join("catalog/sample.toml");
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let lines = text.lines().map(|line| match line.strip_prefix("cmdline = \"") {
            Some(rest) => format!("cmdline = \"{GUEST_WORDS} {rest}\n"),
            None => format!("{line}\n"),
        });
        std::fs::write(&file, lines.collect::<String>()).context("cannot change the sample entry")
    }

    /// Lengthens the sample's initrd with zeros, which the kernel passes over, so that a download
    /// takes long enough to be seen.
    fn pad(&self, bytes: u64) -> Result<()> {
        let path = self.image("initrd");
        let file = std::fs::File::options().append(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let length = file.metadata()?.len();
        // Archives behind each other start at a multiple of four bytes.
        let end = (length + bytes).next_multiple_of(4);
        file.set_len(end).with_context(|| format!("cannot pad {}", path.display()))
    }
}

/// As long as a small live system's initrd.
const PAD_BYTES: u64 = 48 << 20;

impl Sample {
    fn entry(&self) -> String {
        let Self { id, name, note, icon } = self;
        format!(
            "name    = \"{name}\"\n\
             note    = \"{note}\"\n\
             icon    = \"{icon}\"\n\
             kernel  = \"images/sample/vmlinuz\"\n\
             initrd  = \"images/sample/initrd.img\"\n\
             cmdline = \"{GUEST_WORDS} quiet sample={id}\"\n\
             min_ram = \"256 MiB\"\n"
        )
    }
}

/// The lines of `[node]` where nothing special is tried.
pub fn usual_words() -> String {
    format!("cmdline = \"{GUEST_WORDS}\"\n")
}

fn server_toml(addresses: Addresses, node: &str) -> String {
    let dhcp = match addresses {
        Addresses::Ours => format!(
            "mode = \"full\"\nrange = \"10.77.0.50-10.77.0.150\"\nlease = \"1h\"\nrouter = \"{SERVER}\"\n"
        ),
        Addresses::Others => "mode = \"proxy\"\n".to_owned(),
    };
    format!(
        "name = \"Computer lab A1\"\n\
         interface = \"{BRIDGE}\"\n\
         [dhcp]\n\
         {dhcp}\
         [http]\n\
         port = 6969\n\
         [seed]\n\
         port = 6881\n\
         [node]\n\
         {node}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_entry_is_toml_and_reaches_the_serial_console() {
        for sample in SAMPLES {
            let entry: toml::Table = sample.entry().parse().expect("an entry is TOML");
            let cmdline = entry["cmdline"].as_str().expect("a command line");
            assert!(cmdline.contains("console=ttyS0"), "{cmdline}");
        }
    }

    #[test]
    fn the_settings_are_toml() {
        let read = |addresses, node: &str| -> toml::Table {
            server_toml(addresses, node).parse().expect("TOML")
        };
        let settings = read(Addresses::Ours, &usual_words());
        assert_eq!(settings["interface"].as_str(), Some("bt0"));
        assert_eq!(settings["node"]["cmdline"].as_str(), Some(GUEST_WORDS));
        let settings = read(Addresses::Others, "cmdline = \"quiet\"\n");
        assert_eq!(settings["dhcp"]["mode"].as_str(), Some("proxy"));
        assert_eq!(settings["node"]["cmdline"].as_str(), Some("quiet"));
    }
}
