//! Shell: makes a lab folder that explains itself.
//!
//! Nothing that exists is ever changed: running `init` again only adds what is missing, so it is
//! also how boot files are built later, or a sample is added.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bt_catalog::LabId;

use crate::boot::loaders::BUILD_BOOT_FILES;
use crate::lab::Lab;
use crate::lab::files::private_folder;
use crate::lab::keyring::Keyring;
use crate::os::interfaces::{self, Interface};
use crate::roles::dhcp::{rogue, rogue_watch};
use crate::terminal::tell;

const SERVER_TOML: &str = include_str!("server.toml");
const CATALOG_README: &str = include_str!("catalog-README");
const IMAGES_README: &str = include_str!("images-README");
const KEYS_README: &str = include_str!("keys-README");
const SAMPLE_TOML: &str = include_str!("sample.toml");
const SAMPLE: &str = "images/sample";
/// BusyBox as Debian's busybox-static installs it.
const BUSYBOX: &str = "/bin/busybox";
/// Where a package of ours puts the node's program, from the folder of `bt-server`.
const NODE_PLACES: [&str; 2] = ["bt-node", "../lib/boottorrent/bt-node"];
/// The addresses that `init` offers to the PCs, where the network is large enough.
const POOL: u32 = 101;
/// Left free at the start of the network for servers, printers and the like.
const LEFT_FREE: u32 = 49;

/// What kind of lab to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub folder: PathBuf,
    /// With a small system to try.
    pub has_sample: bool,
    /// Where the Debian kernel is.
    pub kernel: PathBuf,
    /// The network card, where the supervisor chose one.
    pub interface: Option<String>,
    /// Who gives the addresses, where the supervisor knows.
    pub mode: Option<Mode>,
    /// The program bt-node, where the supervisor named it.
    pub node: Option<PathBuf>,
}

/// DHCP mode: `mode` below `[dhcp]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// This server assigns the addresses.
    Full,
    /// Another server assigns the addresses; this one supplies the boot information.
    Proxy,
    /// Another server does both.
    Off,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Proxy => "proxy",
            Self::Off => "off",
        }
    }
}

/// Makes the folder, or adds what it lacks. Returns what was done and what to do next, as lines.
///
/// # Errors
/// What could not be made, and why.
pub fn init(options: &Options) -> Result<Vec<String>> {
    let folder = &options.folder;
    let card = network_card(options.interface.as_deref())?;
    for name in ["catalog", "images"] {
        let path = folder.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    for name in ["keys", "state"] {
        let path = folder.join(name);
        private_folder(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let mut report = Report { folder, lines: Vec::new(), next: Vec::new() };
    if folder.join("server.toml").exists() {
        report.kept("server.toml");
        if options.interface.is_some() || options.mode.is_some() {
            report.next.push("write the interface and the mode into server.toml yourself: it existed already, so --interface and --mode changed nothing".to_owned());
        }
    } else {
        let (mode, why) = match options.mode {
            Some(mode) => (mode, "you chose it".to_owned()),
            None => dhcp_mode(&card),
        };
        let mode = mode.word();
        let text = server_toml(&card, mode);
        report.add("server.toml", &text, "the settings, each with its explanation")?;
        report.next.push(format!("[dhcp] mode is \"{mode}\", since {why}"));
    }
    report.add("catalog/README", CATALOG_README, "how to add a system")?;
    report.add("images/README", IMAGES_README, "what belongs there")?;
    report.add("keys/README", KEYS_README, "what the keys are for")?;
    let lab = Lab::open(folder)?;
    if Keyring::create(&lab)? {
        report.made("keys/", "root key and signing key of this lab");
    }
    let keyring = Keyring::load(&lab, jiff::Timestamp::now())?;
    if options.has_sample {
        sample(options, &mut report)?;
    }
    boot_files(options, &lab, keyring.lab_id, &mut report)?;
    // A server.toml that was there already may name another card.
    let chosen = lab.read_config().ok();
    let chosen = chosen.and_then(|config| network_card(Some(&config.interface)).ok());
    Ok(report.finish(&chosen.unwrap_or(card)))
}

/// What was done, and what is left to do.
struct Report<'a> {
    folder: &'a Path,
    lines: Vec<String>,
    next: Vec<String>,
}

impl Report<'_> {
    /// Writes a file, unless it exists.
    fn add(&mut self, name: &str, text: &str, what: &str) -> Result<()> {
        let path = self.folder.join(name);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
        match opened.and_then(|mut file| file.write_all(text.as_bytes())) {
            Ok(()) => self.made(name, what),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.kept(name),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot write {}", path.display()));
            }
        }
        Ok(())
    }

    fn made(&mut self, name: &str, what: &str) {
        self.lines.push(format!("made  {name:<22} {what}"));
    }

    fn kept(&mut self, name: &str) {
        self.lines.push(format!("kept  {name:<22} exists already"));
    }

    fn finish(mut self, card: &Card) -> Vec<String> {
        self.lines.push(String::new());
        self.lines.push("What to do next".to_owned());
        let mut steps = self.next;
        if self.folder != Path::new(".") {
            steps.insert(0, format!("cd {}", self.folder.display()));
        }
        steps.push(card.advice());
        steps.push("bt-server check     reports what is still missing".to_owned());
        steps
            .push("bt-server start     then switch on a PC that boots from the network".to_owned());
        let numbered = (1..).zip(steps).map(|(number, step)| format!("  {number}. {step}"));
        self.lines.extend(numbered);
        self.lines
    }
}

/// The network card for `server.toml`.
struct Card {
    name: String,
    address: Option<(Ipv4Addr, Ipv4Addr)>,
}

impl Card {
    fn advice(&self) -> String {
        match self.address {
            Some((ip, _)) => format!(
                "review server.toml: the PCs are connected to {} ({ip}); is that right?",
                self.name
            ),
            None => format!(
                "review server.toml: `interface` is {}, which has no IPv4 address yet",
                self.name
            ),
        }
    }
}

/// The mode for `server.toml`, and why: where a server gives addresses already, nobody may disturb it.
fn dhcp_mode(card: &Card) -> (Mode, String) {
    let looked = match card.address {
        Some((ip, _)) if !ip.is_loopback() => look(&card.name, ip),
        Some(_) => Err(io::Error::other("only this machine can reach that interface")),
        None => Err(io::Error::other("the interface has no address")),
    };
    match looked {
        Ok(offers) => match offers.iter().find(|offer| offer.address.is_some()) {
            Some(offer) => {
                (Mode::Proxy, format!("DHCP server {} assigns the addresses there", offer.server))
            }
            None => (
                Mode::Full,
                "no DHCP server answered there, so this one assigns the addresses".into(),
            ),
        },
        // It disturbs nobody, whoever is there.
        Err(error) => (Mode::Proxy, format!("could not check for another server ({error})")),
    }
}

fn look(interface: &str, ip: Ipv4Addr) -> io::Result<Vec<rogue::Offer>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(rogue_watch::look(interface, ip))
}

/// The card that was asked for, or the first that is up and has an address.
///
/// # Errors
/// When there is none of the name that was asked for.
fn network_card(wanted: Option<&str>) -> Result<Card> {
    let all = interfaces::interfaces().context("cannot list the network interfaces")?;
    let is_fit = |card: &&Interface| card.is_up && !card.is_loopback && card.address.is_some();
    let found = match wanted {
        Some(name) => all.iter().find(|card| card.name == name),
        None => all.iter().find(is_fit).or_else(|| all.iter().find(|card| !card.is_loopback)),
    };
    match (found, wanted) {
        (Some(card), _) => Ok(Card { name: card.name.clone(), address: card.address }),
        (None, None) => Ok(Card { name: "eth0".to_owned(), address: None }),
        (None, Some(name)) => {
            let existing = interfaces::list(&all);
            bail!("there is no network interface `{name}`; this machine has {existing}")
        }
    }
}

fn server_toml(card: &Card, mode: &str) -> String {
    let (ip, netmask) =
        card.address.unwrap_or((Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(255, 255, 255, 0)));
    let (first, last) = pool(ip, netmask);
    SERVER_TOML
        .replace("{interface}", &card.name)
        .replace("{mode}", mode)
        .replace("{first}", &first.to_string())
        .replace("{last}", &last.to_string())
        .replace("{ip}", &ip.to_string())
}

/// Addresses to give on the network of `ip`, without `ip` itself: on its larger side.
fn pool(ip: Ipv4Addr, netmask: Ipv4Addr) -> (Ipv4Addr, Ipv4Addr) {
    let (ip, mask) = (ip.to_bits(), netmask.to_bits());
    let (network, broadcast) = (ip & mask, ip | !mask);
    let below = (network.saturating_add(1), ip.saturating_sub(1));
    let above = (ip.saturating_add(1), broadcast.saturating_sub(1));
    let size = |(first, last): (u32, u32)| last.saturating_sub(first);
    let (mut first, mut last) = if size(above) >= size(below) { above } else { below };
    if size((first, last)) >= LEFT_FREE + POOL {
        // 10.77.0.50 rather than .51: counted from the network's own address.
        first = network.saturating_add(LEFT_FREE + 1).max(first);
        last = last.min(first.saturating_add(POOL - 1));
    }
    (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last.max(first)))
}

fn sample(options: &Options, report: &mut Report<'_>) -> Result<()> {
    let out = options.folder.join(SAMPLE);
    if out.join("vmlinuz").exists() && out.join("initrd.img").exists() {
        report.kept("images/sample/");
    } else {
        let kernel = bt_initramfs::kernel::find(&options.kernel, None)
            .context("the sample needs a Debian kernel (--kernel)")?;
        bt_initramfs::sample::build(&kernel, Path::new(BUSYBOX), &out, 0)
            .context("cannot create the sample")?;
        report.made("images/sample/", &format!("Debian kernel {} and BusyBox", kernel.version));
    }
    report.add("catalog/sample.toml", SAMPLE_TOML, "the sample's entry in the menu")
}

/// The nodes' small Linux, where a bt-node program is found; else the command that builds it.
fn boot_files(options: &Options, lab: &Lab, lab_id: LabId, report: &mut Report<'_>) -> Result<()> {
    if lab.boot_files().iter().all(|file| file.exists()) {
        report.kept("state/boot/");
        return Ok(());
    }
    let build = |node: PathBuf| {
        // To stderr: the report on stdout is one piece, and this takes a while.
        tell("packing the PCs' netboot image, about half a minute ...");
        bt_initramfs::build::build(&bt_initramfs::build::Options {
            node,
            busybox: BUSYBOX.into(),
            kernel: options.kernel.clone(),
            kernel_version: None,
            root_key: lab.keys().join("root.pub"),
            lab_id,
            version_floor: 0,
            font: bt_initramfs::build::DEBIAN_FONTS.into(),
            firmware: bt_initramfs::build::DEBIAN_FIRMWARE.into(),
            out: lab.boot(),
        })
    };
    // A program that the supervisor named must do; one that only lies there may be of no use.
    let built = match (options.node.clone(), find_node()) {
        (Some(node), _) => {
            Ok(build(node).context("cannot build the PCs' boot files")?.kernel_version)
        }
        (None, Some(node)) => {
            build(node).map(|built| built.kernel_version).map_err(|error| format!("{error:#}"))
        }
        (None, None) => Err("bt-node was not found here".to_owned()),
    };
    let why_not = match built {
        Ok(kernel) => {
            report.made("state/boot/", &format!("the PCs' netboot image, kernel {kernel}"));
            return Ok(());
        }
        Err(why_not) => why_not,
    };
    report.next.push(format!("build the PCs' boot files: {BUILD_BOOT_FILES}\n     ({why_not})"));
    Ok(())
}

/// bt-node beside this program, or where a package puts it.
fn find_node() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    NODE_PLACES.iter().map(|place| folder.join(place)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::config::{Config, DhcpMode};

    fn card(ip: [u8; 4], mask: [u8; 4]) -> Card {
        Card { name: "eth7".into(), address: Some((ip.into(), mask.into())) }
    }

    fn check_pool(ip: [u8; 4], mask: [u8; 4], first: [u8; 4], last: [u8; 4]) {
        let text = server_toml(&card(ip, mask), "full");
        let config = Config::parse(&text).expect("the template is valid");
        assert_eq!(config.interface, "eth7");
        let DhcpMode::Full(pool) = config.dhcp else { panic!("full mode") };
        assert_eq!(pool.range, (first.into(), last.into()), "for {ip:?}");
    }

    #[test]
    fn the_addresses_to_give_fit_the_network_and_leave_the_server_out() {
        let c = [255, 255, 255, 0];
        check_pool([10, 77, 0, 1], c, [10, 77, 0, 50], [10, 77, 0, 150]);
        check_pool([192, 168, 1, 254], c, [192, 168, 1, 50], [192, 168, 1, 150]);
        check_pool([10, 77, 0, 100], c, [10, 77, 0, 101], [10, 77, 0, 201]);
        check_pool([10, 0, 0, 1], [255, 255, 255, 248], [10, 0, 0, 2], [10, 0, 0, 6]);
        check_pool([10, 0, 0, 6], [255, 255, 255, 248], [10, 0, 0, 1], [10, 0, 0, 5]);
        check_pool([172, 16, 0, 1], [255, 240, 0, 0], [172, 16, 0, 50], [172, 16, 0, 150]);
    }

    #[test]
    fn the_sample_entry_is_valid() {
        let id = "sample".parse().expect("an id");
        let entry = bt_catalog::Entry::parse(id, SAMPLE_TOML).expect("valid");
        assert_eq!(entry.files().len(), 2);
    }

    #[test]
    fn a_second_init_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = Options {
            folder: folder.path().join("lab"),
            has_sample: false,
            kernel: "/nowhere".into(),
            interface: Some("lo".into()),
            mode: Some(Mode::Off),
            node: None,
        };
        init(&options).expect("makes a lab");
        let server = options.folder.join("server.toml");
        let text = fs::read_to_string(&server).expect("made");
        assert_eq!(Config::parse(&text).expect("valid").dhcp, DhcpMode::Off);
        fs::write(&server, "name = \"mine\"\n").expect("edited");
        let key = fs::read(options.folder.join("keys/root.key")).expect("made");
        let lines = init(&options).expect("nothing to do");
        assert!(lines[0].starts_with("kept  server.toml"), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("--mode changed nothing")), "{lines:?}");
        assert_eq!(fs::read_to_string(&server).expect("there"), "name = \"mine\"\n");
        assert_eq!(fs::read(options.folder.join("keys/root.key")).expect("there"), key);
    }

    #[test]
    fn a_card_that_is_not_there_is_refused_before_anything_is_made() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = Options {
            folder: folder.path().join("lab"),
            has_sample: false,
            kernel: "/nowhere".into(),
            interface: Some("nosuch0".into()),
            mode: None,
            node: None,
        };
        let why = init(&options).expect_err("no such card").to_string();
        assert!(why.contains("`nosuch0`") && why.contains("lo ("), "{why}");
        assert!(!options.folder.exists());
    }
}
