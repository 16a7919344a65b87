//! Shell: the command line of `bt-initramfs`: arguments, defaults, the size table, exit code.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bt_initramfs::build::{self, DEBIAN_FIRMWARE, DEBIAN_FONTS, Options};
use bt_initramfs::image::mega;
use bt_initramfs::{kernel, sample};
use clap::{Args, Parser, Subcommand};

/// A larger initramfs is built, with a warning.
const WORTH_A_WORD: u64 = 12_000_000;

/// Builds what BootTorrent's nodes boot.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the kernel and the initramfs for the nodes of one lab.
    Build(BuildArgs),
    /// Make the sample system: a kernel and a small initrd that says that it runs.
    Sample(SampleArgs),
}

#[derive(Args)]
struct BuildArgs {
    /// The lab folder: key and id are read from it, the files go to its state/boot.
    #[arg(long, value_name = "FOLDER")]
    lab: Option<PathBuf>,
    /// The static bt-node program [default: in this program's folder, or ../lib/boottorrent/bt-node].
    #[arg(long, value_name = "FILE")]
    node: Option<PathBuf>,
    /// The static BusyBox program.
    #[arg(long, value_name = "FILE", default_value = "/bin/busybox")]
    busybox: PathBuf,
    /// Folder with boot/vmlinuz-VERSION and lib/modules/VERSION, or a linux-image package file.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    kernel: PathBuf,
    /// Which kernel, if there are several [default: the newest].
    #[arg(long, value_name = "VERSION")]
    kernel_version: Option<String>,
    /// The lab's root key, a minisign public key file.
    #[arg(long, value_name = "FILE", required_unless_present = "lab")]
    root_key: Option<PathBuf>,
    /// The lab's id.
    #[arg(long, value_name = "HEX", required_unless_present = "lab")]
    lab_id: Option<String>,
    /// The lowest catalog version that the nodes accept.
    #[arg(long, value_name = "N", default_value_t = 0)]
    version_floor: u64,
    /// Folder with the font files of Inter.
    #[arg(long, value_name = "FOLDER", default_value = DEBIAN_FONTS)]
    font: PathBuf,
    /// Folder with firmware; what network adapters can use of it is taken along.
    #[arg(long, value_name = "FOLDER", default_value = DEBIAN_FIRMWARE)]
    firmware: PathBuf,
    /// Folder for vmlinuz and initrd.img.
    #[arg(long, value_name = "FOLDER", required_unless_present = "lab")]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct SampleArgs {
    /// The static BusyBox program.
    #[arg(long, value_name = "FILE", default_value = "/bin/busybox")]
    busybox: PathBuf,
    /// Folder with boot/vmlinuz-VERSION and lib/modules/VERSION, or a linux-image package file.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    kernel: PathBuf,
    /// Which kernel, if there are several [default: the newest].
    #[arg(long, value_name = "VERSION")]
    kernel_version: Option<String>,
    /// Bytes of noise to add, so that the download takes long enough to be watched.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pad_bytes: u64,
    /// Folder for vmlinuz and initrd.img.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Build(arguments) => run_build(arguments),
        Command::Sample(arguments) => run_sample(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bt-initramfs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_build(arguments: BuildArgs) -> Result<()> {
    let built = build::build(&arguments.options()?)?;
    print!("{}", built.image.table());
    println!("kernel {}: {}", built.kernel_version, built.vmlinuz.display());
    println!("initramfs: {}", built.initrd.display());
    if !built.firmware.is_empty() {
        println!("firmware taken along: {}", built.firmware.join(", "));
    }
    if !built.absent.is_empty() {
        println!("not in this kernel: {}", built.absent.join(", "));
    }
    let size = built.image.bytes.len() as u64;
    if size > WORTH_A_WORD {
        eprintln!("note: the initramfs has {}; look for what can go", mega(size));
    }
    Ok(())
}

fn run_sample(arguments: &SampleArgs) -> Result<()> {
    let kernel = kernel::find(&arguments.kernel, arguments.kernel_version.as_deref())?;
    let files = sample::build(&kernel, &arguments.busybox, &arguments.out, arguments.pad_bytes)?;
    println!("kernel {}: {}", kernel.version, files.kernel.display());
    println!("initrd: {}", files.initrd.display());
    Ok(())
}

impl BuildArgs {
    fn options(self) -> Result<Options> {
        let in_lab = |path: &str| self.lab.as_ref().map(|lab| lab.join(path));
        let root_key = self.root_key.clone().or_else(|| in_lab("keys/root.pub"));
        let lab_id = match (&self.lab_id, in_lab("keys/lab-id")) {
            (Some(id), _) => id.clone(),
            (None, Some(path)) => read_lab_id(&path)?,
            (None, None) => bail!("which lab? --lab FOLDER or --lab-id HEX"),
        };
        let lab_id =
            lab_id.trim().parse().map_err(|e| anyhow::anyhow!("lab id `{lab_id}`: {e}"))?;
        Ok(Options {
            node: self.node.clone().map_or_else(find_node, Ok)?,
            root_key: root_key.context("which key? --lab FOLDER or --root-key FILE")?,
            lab_id,
            out: self.out.clone().or_else(|| in_lab("state/boot")).context("--out FOLDER")?,
            busybox: self.busybox,
            kernel: self.kernel,
            kernel_version: self.kernel_version,
            version_floor: self.version_floor,
            font: self.font,
            firmware: self.firmware,
        })
    }
}

fn read_lab_id(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| {
        format!("cannot read {}: is this a lab folder? `bt-server init` makes one", path.display())
    })
}

/// The node program as a package installs it, or as cargo builds it.
fn find_node() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot determine this program's path")?;
    let folder = own.parent().context("a program is in a folder")?;
    let places = [folder.join("bt-node"), folder.join("../lib/boottorrent/bt-node")];
    match places.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => {
            bail!("no bt-node in the folder of {}: give its path with --node FILE", own.display())
        }
    }
}
