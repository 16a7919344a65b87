//! Shell: a PC's way from the boot loader to the first piece of a system, step by step.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use bt_catalog::{Catalog, PublicKey, Signed, System, Trust};
use jiff::Timestamp;

use super::Diagnosis;
use super::exchange::Served;
use super::fetch;
use super::script::{Plan, plan};
use crate::arch::{BIOS_LOADER, SCRIPT_PATH, UEFI_LOADER};
use crate::check::BUILD_BOOT_FILES;
use crate::config::Config;
use crate::http::base_url;
use crate::instance::ServerRole;
use crate::lab::Lab;
use crate::torrents::sha256;
use crate::words;

/// Scripts that send to scripts; more go round in a circle.
const MAX_CHAIN: usize = 4;
const SEE_STATUS: &str = "see `bt-server status` and the log in state/";

/// Goes all the way; a step that fails ends what depends on it.
pub(super) fn every_step(
    lab: &Lab,
    config: &Config,
    ip: Ipv4Addr,
    running: &[ServerRole],
    served: &Served,
    found: &mut Diagnosis,
) {
    for role in [ServerRole::Tftp, ServerRole::Http, ServerRole::Seed] {
        if !running.contains(&role) {
            let remedy = format!("`bt-server start --roles {}`", role.name());
            found.fail(role.name(), format!("the role {} does not run", role.name()), remedy);
        }
    }
    if running.contains(&ServerRole::Tftp) {
        loaders(ip, served, found);
    }
    if !running.contains(&ServerRole::Http) {
        return;
    }
    let base = base_url(SocketAddr::from((ip, config.http_port)));
    boot_files(&base, served, found);
    let remedy = "if keys were changed, build the boot files anew and restart the PCs";
    let Some(catalog) = found.step("catalog", remedy, catalog(lab, &base)) else { return };
    for system in &catalog.systems {
        found.step("system", SEE_STATUS, torrent(&base, system));
    }
    if let Some(system) = catalog.systems.first().filter(|_| running.contains(&ServerRole::Seed)) {
        let seed = SocketAddr::from((ip, config.seed_port));
        let shaken = fetch::handshake(seed, system.infohash.0);
        let step = shaken.map(|()| ((), format!("the seed at {seed} shares {}", system.id)));
        found.step("seed", SEE_STATUS, step);
    }
}

fn loaders(ip: Ipv4Addr, served: &Served, found: &mut Diagnosis) {
    let server = SocketAddr::from((ip, 69));
    let told = served.loaders.iter().map(|(_, name)| name.as_str());
    let mut names: Vec<&str> = told.filter(|name| !name.contains("://")).collect();
    if names.is_empty() {
        names = vec![BIOS_LOADER, UEFI_LOADER];
    }
    for name in names {
        let fetched = fetch::tftp(server, name);
        let step = fetched.map(|length| ((), format!("{name}, {}", words::size(length as u64))));
        found.step("tftp", SEE_STATUS, step);
    }
}

fn boot_files(base: &str, served: &Served, found: &mut Diagnosis) {
    let script = served.script.clone().unwrap_or_else(|| format!("{base}{SCRIPT_PATH}"));
    let Some(plan) = found.step("script", SEE_STATUS, follow(script)) else { return };
    let remedy = format!("build them: `{BUILD_BOOT_FILES}`");
    for url in plan.kernel.iter().chain(&plan.initrds) {
        let fetched = fetch::http(url);
        let step = fetched.map(|bytes| ((), format!("{url}, {}", words::size(bytes.len() as u64))));
        found.step("http", &remedy, step);
    }
}

/// Follows scripts until one names a kernel.
fn follow(first: String) -> Result<(Plan, String), String> {
    let mac = "02:00:00:00:00:01".to_owned();
    let known = BTreeMap::from([
        ("netX/mac", mac.clone()),
        ("net0/mac", mac.clone()),
        ("mac", mac),
        ("uuid", "00000000-0000-0000-0000-000000000001".to_owned()),
        ("platform", "efi".to_owned()),
        ("buildarch", "x86_64".to_owned()),
    ]);
    let mut url = first.clone();
    for _ in 0..MAX_CHAIN {
        let text = fetch::http(&url)?;
        let plan = plan(&String::from_utf8_lossy(&text), &url, &known);
        match (&plan.kernel, plan.chain.clone()) {
            (Some(_), _) => return Ok((plan, format!("{first} names kernel and initramfs"))),
            (None, Some(next)) => url = next,
            (None, None) => return Err(format!("{url} names no kernel")),
        }
    }
    Err(format!("{first} leads from script to script and to no kernel"))
}

/// Fetches and judges the catalog as a node does.
fn catalog(lab: &Lab, base: &str) -> Result<(Catalog, String), String> {
    let file = lab.keys().join("root.pub");
    let key = fs::read_to_string(&file).map_err(|error| format!("keys/root.pub: {error}"))?;
    let root = PublicKey::parse(&key).map_err(|error| words::chain(&error))?;
    let get = |name: &str| fetch::http(&format!("{base}/{name}"));
    let text =
        |name: &str| String::from_utf8(get(name)?).map_err(|_| format!("{base}/{name} is no text"));
    let (keys, keys_signature) = (get("keys.toml")?, text("keys.toml.minisig")?);
    let (bytes, signature) = (get("catalog.toml")?, text("catalog.toml.minisig")?);
    let trust = Trust { root, lab_id: None, version_floor: 0 };
    let catalog = trust
        .open(
            Signed { bytes: &keys, signature: &keys_signature },
            Signed { bytes: &bytes, signature: &signature },
            Some(Timestamp::now()),
        )
        .map_err(|error| words::chain(&error))?;
    let systems = words::count(catalog.systems.len(), "system");
    let what = format!("version {}, {systems}, signed by this lab", catalog.version);
    Ok((catalog, what))
}

/// Fetches a torrent, compares it with the catalog, and asks the tracker for peers.
fn torrent(base: &str, system: &System) -> Result<((), String), String> {
    let bytes = fetch::http(&format!("{base}/torrents/{}.torrent", system.id))?;
    if sha256(&bytes) != system.torrent_sha256 {
        return Err(format!("the torrent of {} is not the one that was signed", system.id));
    }
    let mut infohash = String::new();
    for byte in system.infohash.0 {
        write!(infohash, "%{byte:02x}").map_err(|error| error.to_string())?;
    }
    // `stopped`: the tracker answers, and keeps nothing of a client that only looks.
    let query = format!(
        "info_hash={infohash}&peer_id=-DR0100-looks-at-it.&port=9&left=1&compact=1&event=stopped"
    );
    let answer = fetch::http(&format!("{base}/announce?{query}"))?;
    if !answer.windows(8).any(|window| window.starts_with(b"5:peers")) {
        return Err(format!("the tracker refuses {}: {}", system.id, answer.escape_ascii()));
    }
    let what = format!("{}, {}: torrent and tracker agree", system.id, words::size(system.total()));
    Ok(((), what))
}
