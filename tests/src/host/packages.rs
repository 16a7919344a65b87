//! Shell: everything the lab needs from Debian: packages, and a Debian kernel for the nodes.
//!
//! Nothing is installed without saying what and asking first. The kernel package is only unpacked
//! into a cache folder, never installed: the machine boots as before.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::host::process::{command, is_installed, output, run, run_visibly};

/// A Debian package, and what the lab does with it.
struct Package {
    name: &'static str,
    purpose: &'static str,
}

const fn package(name: &'static str, purpose: &'static str) -> Package {
    Package { name, purpose }
}

/// What every command needs.
const PACKAGES: &[Package] = &[
    package("qemu-system-x86", "the PCs of the virtual lab"),
    package("ovmf", "their UEFI firmware"),
    package("ipxe", "the boot loaders that bt-server serves"),
    package("shim-signed", "the boot loader for PCs with Secure Boot"),
    package("grub-efi-amd64-signed", "the boot loader that shim starts"),
    package("dnsmasq-base", "another DHCP server, with which bt-server must coexist"),
    package("iproute2", "the virtual network"),
    package("busybox-static", "the tools in the netboot image"),
    package("fonts-inter", "the font of the picker"),
    package("kmod", "the module lists of the netboot image's kernel"),
    package("ca-certificates", "downloads by cargo"),
];
/// What only a window on the desktop needs.
const WINDOW: &[Package] = &[package("qemu-system-gui", "the window that shows the PC")];
/// What only the measurements of TFTP need.
const LOAD: &[Package] =
    &[package("curl", "a stock TFTP client"), package("nftables", "lost packets")];
/// What only the measurements of DHCP need.
const DHCP_LOAD: &[Package] = &[
    package("kea-admin", "ISC's load generator perfdhcp"),
    package("kea-common", "the libraries of ISC's server Kea"),
];
/// What only the measurements of rooms need.
const ROOM: &[Package] = &[
    package("curl", "a stock HTTP client"),
    package("nftables", "counts who sends to whom; lost packets"),
    package("nginx-light", "a stock HTTP server"),
    package("python3-libtorrent", "the engine of qBittorrent and Deluge, for comparison"),
    package("aria2", "another BitTorrent engine"),
    package("transmission-cli", "the libraries of another BitTorrent engine"),
    package("udpcast", "multicast"),
];
/// What only the fuzzer needs.
const FUZZING: &[Package] = &[package("g++", "the compiler of libFuzzer")];
/// What only the tests need.
const TESTING: &[Package] = &[
    package("aria2", "a stock BitTorrent client that must work with bt-server"),
    package("atftp", "a stock TFTP client that supports windows"),
    package("curl", "another stock TFTP client"),
    package("isc-dhcp-client", "a stock DHCP client"),
    package("transmission-cli", "the libraries of another BitTorrent client"),
    package("qbittorrent-nox", "another BitTorrent client"),
    package("rtorrent", "another BitTorrent client"),
    package("python3-libtorrent", "another BitTorrent engine"),
    package("minisign", "the stock tool that must verify the signed catalog"),
    package(
        "nftables",
        "a firewall that the doctor must find, and one that blocks a PC from the server",
    ),
    package("squashfs-tools", "root file systems that bt-server add inspects"),
    package("tftp-hpa", "the usual TFTP client"),
    package("xorriso", "live media to add"),
];
/// What only the making of test systems needs.
const IMAGES: &[Package] = &[
    package("libxenmisc4.17", "a library of kexec-tools, for comparison"),
    package("mmdebstrap", "small Debian systems to boot"),
    package("squashfs-tools", "their root file systems"),
    package("xorriso", "their media"),
];

/// What the packages are for, in addition to the basics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Nothing else.
    None,
    /// A window on the desktop.
    Window,
    /// The measurements of TFTP.
    Load,
    /// The measurements of DHCP.
    DhcpLoad,
    /// The measurements of rooms.
    Room,
    /// The fuzzer.
    Fuzzing,
    /// The tests.
    Testing,
    /// Test systems of Debian packages.
    Images,
}

/// Sees to it that all Debian packages are there: shows what is missing, asks (not with `yes`),
/// installs.
pub fn ensure_packages(extra: Extra, yes: bool) -> Result<()> {
    let extra = match extra {
        Extra::None => &[],
        Extra::Window => WINDOW,
        Extra::Load => LOAD,
        Extra::DhcpLoad => DHCP_LOAD,
        Extra::Room => ROOM,
        Extra::Fuzzing => FUZZING,
        Extra::Testing => TESTING,
        Extra::Images => IMAGES,
    };
    let missing: Vec<&Package> =
        PACKAGES.iter().chain(extra).filter(|package| !has_package(package.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("These Debian packages are missing:");
    for package in &missing {
        println!("  {:18} {}", package.name, package.purpose);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if !is_installed("apt-get") {
        bail!(
            "not a Debian system (no apt-get); install them with your distribution's package manager"
        );
    }
    if !yes && !agrees("Install them now?")? {
        bail!("not installed; install them with `apt-get install {}`", names.join(" "));
    }
    install(&names)
}

fn has_package(name: &str) -> bool {
    let mut query = command("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", name]);
    output(&mut query).is_ok_and(|output| output.stdout == b"installed")
}

/// Asks a person at a terminal; anybody else has to say `--yes`.
fn agrees(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("cannot ask: not a terminal; add --yes to install the packages without asking");
    }
    print!("{question} [Y/n] ");
    std::io::stdout().flush().context("cannot ask")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("no answer")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes"))
}

fn install(names: &[&str]) -> Result<()> {
    let wanted = ["apt-get", "install", "--yes", "--no-install-recommends"];
    if run_as_root(&[&wanted[..], names].concat()).is_ok() {
        return Ok(());
    }
    // A fresh system has no package lists yet, an old one stale ones.
    run_as_root(&["apt-get", "update"])?;
    run_as_root(&[&wanted[..], names].concat())
}

/// Runs a command as root: as it is for root, by sudo for everybody else.
fn run_as_root(words: &[&str]) -> Result<()> {
    let sudo: &[&str] = if geteuid().is_root() {
        &[]
    } else if is_installed("sudo") {
        &["sudo"]
    } else {
        bail!("this needs root, and sudo is not installed; run as root: `{}`", words.join(" "));
    };
    let words = [sudo, words].concat();
    println!("$ {}", words.join(" "));
    let mut command = command(words[0]);
    command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
    run_visibly(command)
}

/// A folder with `boot/vmlinuz-VERSION` and `lib/modules/VERSION`, as `bt-initramfs` takes it: the
/// machine's own where it runs a Debian kernel, else the kernel package unpacked in the cache.
pub fn ensure_kernel() -> Result<PathBuf> {
    if has_kernel(Path::new("/")) {
        return Ok("/".into());
    }
    let cache = cache_folder()?.join("kernel");
    let ready = cache.join("root");
    if has_kernel(&ready) {
        return Ok(ready);
    }
    println!("Downloading the Debian kernel package for the PCs (once, about 70 MB) ...");
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let fresh = tempfile::Builder::new().prefix("unpacking").tempdir_in(&cache)?;
    let package = download_kernel(fresh.path())?;
    let root = fresh.path().join("root");
    let mut unpack = command("dpkg");
    unpack.arg("-x").arg(&package).arg(&root);
    run(unpack)?;
    let version = kernel_versions(&root).pop().context("the kernel package contains no kernel")?;
    let mut depmod = command("depmod");
    depmod.arg("-b").arg(&root).arg(&version);
    run(depmod)?;
    // Only a complete kernel ever gets the final name: an interrupted run leaves nothing half done.
    std::fs::rename(&root, &ready).with_context(|| format!("cannot make {}", ready.display()))?;
    Ok(ready)
}

/// A folder with ISC's DHCP server Kea in it.
pub fn ensure_kea() -> Result<PathBuf> {
    ensure_unpacked("kea", "kea-dhcp4-server", "usr/sbin/kea-dhcp4")
}

/// A folder with kexec-tools in it: installed, it would take part in this machine's own restarts.
pub fn ensure_kexec_tools() -> Result<PathBuf> {
    ensure_unpacked("kexec-tools", "kexec-tools", "sbin/kexec")
}

/// The program transmission-daemon.
pub fn ensure_transmission() -> Result<PathBuf> {
    let program = "usr/bin/transmission-daemon";
    Ok(ensure_unpacked("transmission-daemon", "transmission-daemon", program)?.join(program))
}

/// A folder in the cache with `package` in it, which has the file `program`: only unpacked, so that no service starts.
fn ensure_unpacked(name: &str, package: &str, program: &str) -> Result<PathBuf> {
    let cache = cache_folder()?.join(name);
    let ready = cache.join("root");
    if ready.join(program).is_file() {
        return Ok(ready);
    }
    println!("Downloading the Debian package {package} for comparison (once) ...");
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let fresh = tempfile::Builder::new().prefix("unpacking").tempdir_in(&cache)?;
    let root = fresh.path().join("root");
    let mut unpack = command("dpkg");
    unpack.arg("-x").arg(download(package, fresh.path())?).arg(&root);
    run(unpack)?;
    std::fs::rename(&root, &ready).with_context(|| format!("cannot make {}", ready.display()))?;
    Ok(ready)
}

/// Downloads the package that `linux-image-amd64` stands for into `folder`.
fn download_kernel(folder: &Path) -> Result<PathBuf> {
    let find = || -> Result<String> {
        let mut depends = command("apt-cache");
        depends.args(["depends", "--important", "linux-image-amd64"]);
        let text = run(depends)?;
        let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        name.map(str::to_owned).context("linux-image-amd64 depends on no kernel package")
    };
    let name = match find() {
        Ok(name) => name,
        Err(_) => {
            run_as_root(&["apt-get", "update"])?;
            find()?
        }
    };
    download(&name, folder)
}

/// Downloads one package into `folder`, which holds no other; returns its file.
fn download(name: &str, folder: &Path) -> Result<PathBuf> {
    let mut download = command("apt-get");
    // As root apt wants to hand over to the user `_apt`, which may not write here.
    download.args(["-o", "APT::Sandbox::User=root", "download", name]).current_dir(folder);
    run_visibly(download)?;
    let files = std::fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .last()
        .with_context(|| format!("apt-get downloaded no package file for {name}"))
}

fn has_kernel(root: &Path) -> bool {
    kernel_versions(root).iter().any(|version| {
        let readable = std::fs::File::open(root.join("boot").join(format!("vmlinuz-{version}")));
        let modules = root.join("lib/modules").join(version);
        readable.is_ok() && modules.join("modules.dep").is_file()
    })
}

/// The versions of the Debian kernels in `root`, in order of their names.
fn kernel_versions(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join("boot")) else { return Vec::new() };
    let names = entries.filter_map(Result::ok).map(|entry| entry.file_name());
    let mut versions: Vec<String> = names
        .filter_map(|name| name.to_str()?.strip_prefix("vmlinuz-").map(str::to_owned))
        .filter(|version| version.ends_with("-amd64"))
        .collect();
    versions.sort();
    versions
}

/// `${XDG_CACHE_HOME:-~/.cache}/boottorrent`.
pub fn cache_folder() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("boottorrent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_with_its_modules_counts() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let modules = root.path().join("lib/modules/6.1.0-9-amd64");
        std::fs::create_dir_all(root.path().join("boot")).expect("made");
        std::fs::create_dir_all(&modules).expect("made");
        std::fs::write(root.path().join("boot/vmlinuz-6.1.0-9-amd64"), "").expect("written");
        assert!(!has_kernel(root.path()), "without modules.dep");
        std::fs::write(modules.join("modules.dep"), "").expect("written");
        assert!(has_kernel(root.path()));
    }

    #[test]
    fn kernels_of_others_are_passed_over() {
        let root = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(root.path().join("boot")).expect("made");
        std::fs::write(root.path().join("boot/vmlinuz-6.18.0-custom"), "").expect("written");
        assert_eq!(kernel_versions(root.path()), Vec::<String>::new());
    }
}
