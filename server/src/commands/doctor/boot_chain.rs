//! Shell: a PC's way from DISCOVER to the last byte of its initramfs, for each kind of firmware.
//!
//! What arrives is compared with what lies on the disk: a firewall that cuts long transfers, or a
//! server that still has an old file in memory, is found here and not in the lab.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::dhcp::{Asker, Told};
use super::script::{Plan, grub_plan, plan};
use super::trouble::Trouble;
use super::{Diagnosis, clients};
use crate::boot::arch::{BIOS_LOADER, SHIM_LOADER, UEFI_LOADER};
use crate::boot::loaders::{self, BUILD_BOOT_FILES, Loaders};
use crate::boot::names::GRUB;
use crate::boot::scripts::{GRUB_FOLDER, base_url};
use crate::humanize;
use crate::lab::Lab;
use crate::lab::config::{Config, Loader, Nodes};
use crate::role::ServerRole;
use crate::roles::dhcp::client::Firmware;
use bt_catalog::paths::SCRIPT;

/// Scripts that send to scripts; more go round in a circle.
const MAX_CHAIN: usize = 4;
/// The hardware address that scripts are asked with.
const MAC: &str = "02:00:00:00:00:01";
const NO_TFTP: &str =
    "see `bt-server status`; a firewall that blocks UDP port 69 has the same effect";
const NO_HTTP: &str = "see `bt-server status` and the log in state/";

impl Trouble {
    pub(super) fn new(what: String, remedy: &str) -> Self {
        Self { what, remedy: remedy.to_owned() }
    }

    /// Puts it among the findings.
    pub(super) fn tell(self, part: &'static str, found: &mut Diagnosis) {
        found.fail(part, self.what, self.remedy);
    }

    pub(super) fn io(error: std::io::Error) -> Self {
        Self::new(format!("network error: {error}"), "check the network interface")
    }
}

/// A file of the server, as it arrived.
#[derive(Debug, Clone)]
struct Arrived {
    /// `snponly.efi 170 kB by TFTP`.
    shown: String,
    bytes: Vec<u8>,
}

/// The way of the PCs through one running lab. Each file is fetched once by each protocol.
pub(super) struct Walk<'a> {
    config: &'a Config,
    ip: Ipv4Addr,
    running: &'a [ServerRole],
    /// Files on disk, by name.
    disk: HashMap<String, Vec<u8>>,
    fetched: HashMap<String, Result<Arrived, String>>,
    is_tftp_silent: bool,
    has_own_shim: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        lab: &Lab,
        config: &'a Config,
        ip: Ipv4Addr,
        running: &'a [ServerRole],
    ) -> Self {
        let mut disk = HashMap::new();
        for file in lab.boot_files() {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            disk.extend(fs::read(&file).ok().map(|bytes| (name, bytes)));
        }
        let folders = loaders::loader_folders(lab);
        let loaders = Loaders::read(&folders.each_ref().map(PathBuf::as_path)).unwrap_or_default();
        for name in [BIOS_LOADER, UEFI_LOADER, SHIM_LOADER, GRUB] {
            let found = loaders.find(name).map(|(name, bytes)| (name.to_owned(), bytes.to_vec()));
            disk.extend(found);
        }
        let has_own_shim = folders[0].join(SHIM_LOADER).is_file();
        let fetched = HashMap::new();
        Self { config, ip, running, disk, fetched, is_tftp_silent: false, has_own_shim }
    }

    /// One line for each kind of PC. Without `asker`, or without our DHCP, each begins with the
    /// loader that it would be told.
    pub(super) fn every_firmware(mut self, asker: Option<&Asker<'_>>, found: &mut Diagnosis) {
        let is_shim_default = self.config.nodes.defaults.loader == Some(Loader::ShimGrub);
        let mut rows = vec![("BIOS", Firmware::Bios), ("UEFI", Firmware::Uefi)];
        if !is_shim_default {
            // HTTP Boot is left alone where Secure Boot is expected.
            rows.push(("HTTP Boot", Firmware::UefiHttp));
        }
        rows.push(("iPXE", Firmware::Ipxe));
        for (part, firmware) in rows {
            let told = match asker {
                Some(asker) => asker.boot(firmware),
                None => Ok(Told { address: None, file: self.usual_file(firmware) }),
            };
            let outcome = told.and_then(|told| {
                let mut way: Vec<String> = told.address.iter().map(Ipv4Addr::to_string).collect();
                self.go_on_from(&told.file, &mut way).map_err(|trouble| after(&way, trouble))?;
                Ok(way)
            });
            report(part, outcome, found);
        }
        if uses_shim(&self.config.nodes) && !is_shim_default {
            let mut way = Vec::new();
            let outcome = self.go_on_from(SHIM_LOADER, &mut way);
            let outcome = outcome.map_err(|trouble| after(&way, trouble)).map(|()| way);
            report("Secure Boot", outcome, found);
        }
    }

    fn usual_file(&self, firmware: Firmware) -> String {
        match firmware {
            Firmware::Bios => BIOS_LOADER.to_owned(),
            Firmware::Uefi if self.config.nodes.defaults.loader == Some(Loader::ShimGrub) => {
                SHIM_LOADER.to_owned()
            }
            Firmware::Uefi => UEFI_LOADER.to_owned(),
            Firmware::UefiHttp => format!("{}/{UEFI_LOADER}", self.base()),
            Firmware::Ipxe => format!("{}{SCRIPT}", self.base()),
        }
    }

    fn base(&self) -> String {
        base_url(SocketAddr::from((self.ip, self.config.http_port)))
    }

    /// Fetches all that follows from the file that DHCP names.
    fn go_on_from(&mut self, file: &str, way: &mut Vec<String>) -> Result<(), Trouble> {
        let script = format!("{}{SCRIPT}", self.base());
        if file == SHIM_LOADER {
            self.file(SHIM_LOADER, way)?;
            // The operator's own shim starts an iPXE that is signed for it.
            if self.has_own_shim {
                return self.by_ipxe(&script, way);
            }
            self.file(GRUB, way)?;
            return self.by_grub(way);
        }
        if file.starts_with("http://") && !file.ends_with(".efi") {
            return self.by_ipxe(file, way);
        }
        self.file(file, way)?;
        self.by_ipxe(&script, way)
    }

    /// As iPXE goes on: script, kernel, initramfs.
    fn by_ipxe(&mut self, first: &str, way: &mut Vec<String>) -> Result<(), Trouble> {
        let known = BTreeMap::from([
            ("netX/mac", MAC.replace(':', "-")),
            ("net0/mac", MAC.to_owned()),
            ("uuid", "00000000-0000-0000-0000-000000000001".to_owned()),
            ("platform", "efi".to_owned()),
            ("buildarch", "x86_64".to_owned()),
        ]);
        self.follow(first.to_owned(), way, |text, url| plan(text, url, &known))
    }

    /// As the signed GRUB goes on: menu, kernel, initramfs.
    fn by_grub(&mut self, way: &mut Vec<String>) -> Result<(), Trouble> {
        let menu = format!("/{GRUB_FOLDER}grub.cfg");
        self.follow(menu, way, |text, _| grub_plan(text, MAC))
    }

    /// Follows scripts until one names a kernel, and fetches that and its initramfs.
    fn follow(
        &mut self,
        mut name: String,
        way: &mut Vec<String>,
        read: impl Fn(&str, &str) -> Plan,
    ) -> Result<(), Trouble> {
        let first = name.clone();
        for _ in 0..MAX_CHAIN {
            let text = self.fetch(&name)?.bytes;
            let Plan { chain, kernel, initrds } = read(&String::from_utf8_lossy(&text), &name);
            match (kernel, chain) {
                (Some(kernel), _) => {
                    let script = name.split('?').next().unwrap_or(&name);
                    way.push(script.rsplit('/').next().unwrap_or(script).to_owned());
                    let mut files = std::iter::once(&kernel).chain(&initrds);
                    return files.try_for_each(|file| self.file(file, way));
                }
                (None, Some(next)) => name = next,
                (None, None) => {
                    return Err(Trouble::new(format!("{name} does not name a kernel"), NO_HTTP));
                }
            }
        }
        let what = format!("{first} chains more than {MAX_CHAIN} scripts, and none names a kernel");
        Err(Trouble::new(what, NO_HTTP))
    }

    /// Fetches a file that lies on disk too, and compares both.
    fn file(&mut self, name: &str, way: &mut Vec<String>) -> Result<(), Trouble> {
        let Arrived { shown, bytes } = self.fetch(name)?;
        let short = name.rsplit('/').next().unwrap_or(name);
        if self.disk.get(short).is_some_and(|expected| *expected != bytes) {
            let what = format!("{shown} arrived, but differs from the file on disk");
            let remedy = "if it was just replaced: `bt-server stop`, `bt-server start`";
            return Err(Trouble::new(what, remedy));
        }
        way.push(shown);
        Ok(())
    }

    /// Fetches by HTTP what has a URL, and by TFTP what has a name.
    fn fetch(&mut self, name: &str) -> Result<Arrived, Trouble> {
        let is_http = name.starts_with("http://");
        let role = if is_http { ServerRole::Http } else { ServerRole::Tftp };
        if !self.running.contains(&role) {
            let what = format!("{name} cannot be fetched: the role {} is not running", role.name());
            let remedy = format!("`bt-server start --roles {}`", role.name());
            return Err(Trouble { what, remedy });
        }
        if !self.fetched.contains_key(name) {
            let fetched = if is_http {
                clients::http(name)
            } else if self.is_tftp_silent {
                Err("TFTP does not answer".to_owned())
            } else {
                clients::tftp(SocketAddr::from((self.ip, 69)), name)
            };
            self.is_tftp_silent |=
                !is_http && fetched.as_ref().is_err_and(|why| why.contains("not answer"));
            let short = name.rsplit('/').next().unwrap_or(name).to_owned();
            let by = if is_http { "HTTP" } else { "TFTP" };
            let arrived = fetched.map(|bytes| {
                let shown = format!("{short} {} by {by}", humanize::size(bytes.len() as u64));
                Arrived { shown, bytes }
            });
            self.fetched.insert(name.to_owned(), arrived);
        }
        self.fetched[name].clone().map_err(|what| Trouble { remedy: remedy(name, &what), what })
    }
}

/// What helps when `name` did not come.
fn remedy(name: &str, why: &str) -> String {
    if name.ends_with("/vmlinuz") || name.ends_with("/initrd.img") {
        format!("build the boot files: `{BUILD_BOOT_FILES}`")
    } else if why.contains("refuses") || why.contains("404") {
        "install the boot loaders and restart the server: `apt install ipxe shim-signed \
         grub-efi-amd64-signed`"
            .to_owned()
    } else if name.starts_with("http://") {
        NO_HTTP.to_owned()
    } else {
        NO_TFTP.to_owned()
    }
}

/// Says how far it went before the trouble.
fn after(way: &[String], trouble: Trouble) -> Trouble {
    match way.last() {
        Some(last) => {
            Trouble { what: format!("after {last}: {}", trouble.what), remedy: trouble.remedy }
        }
        None => trouble,
    }
}

fn report(part: &'static str, outcome: Result<Vec<String>, Trouble>, found: &mut Diagnosis) {
    match outcome {
        Ok(way) => found.good(part, way.join(", ")),
        Err(trouble) => trouble.tell(part, found),
    }
}

/// Whether any PC of the lab is booted by shim.
fn uses_shim(nodes: &Nodes) -> bool {
    let hosts = nodes.hosts.iter().map(|host| &host.overrides);
    let rooms = nodes.rooms.iter().map(|room| &room.overrides);
    hosts.chain(rooms).chain([&nodes.defaults]).any(|it| it.loader == Some(Loader::ShimGrub))
}
