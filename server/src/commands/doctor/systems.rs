//! Shell: what a node does once it runs: catalog, torrents, tracker, seed.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use bt_catalog::paths;
use bt_catalog::version::Program;
use bt_catalog::{Catalog, CatalogError, PublicKey, Signed, System, Trust};
use jiff::Timestamp;

use super::{Diagnosis, clients};
use crate::boot::scripts::base_url;
use crate::humanize;
use crate::lab::Lab;
use crate::lab::config::Config;
use crate::lab::files::sha256;
use crate::role::ServerRole;

const SEE_STATUS: &str = "see `bt-server status` and the log in state/";

/// Fetches what the roles http and seed give, as far as they run.
pub(super) fn examine(
    lab: &Lab,
    config: &Config,
    ip: Ipv4Addr,
    running: &[ServerRole],
    found: &mut Diagnosis,
) {
    if !running.contains(&ServerRole::Http) {
        return;
    }
    let base = base_url(SocketAddr::from((ip, config.http_port)));
    let catalog = match catalog(lab, &base) {
        Ok((catalog, what)) => {
            found.good("catalog", what);
            catalog
        }
        Err(why) => {
            let remedy = "if keys were changed, rebuild the boot files and restart the PCs";
            return found.fail("catalog", why, remedy);
        }
    };
    let seed = SocketAddr::from((ip, config.seed_port));
    for system in &catalog.systems {
        let fetched = torrent(&base, system).and_then(|what| {
            // A role that does not run was told before.
            if running.contains(&ServerRole::Seed) {
                clients::handshake(seed, system.infohash.0)?;
            }
            Ok(what)
        });
        match fetched {
            Ok(what) => found.good("system", what),
            Err(why) => found.fail("system", why, SEE_STATUS),
        }
    }
}

/// Fetches and judges the catalog as a node does.
fn catalog(lab: &Lab, base: &str) -> Result<(Catalog, String), String> {
    let file = lab.keys().join("root.pub");
    let key = fs::read_to_string(&file).map_err(|error| format!("keys/root.pub: {error}"))?;
    let root = PublicKey::parse(&key).map_err(|error| humanize::chain(&error))?;
    let get = |path: &str| clients::http(&format!("{base}{path}"));
    let signature_of = |path: &str| {
        let path = format!("{path}{}", paths::SIGNATURE_SUFFIX);
        String::from_utf8(get(&path)?).map_err(|_| format!("{base}{path} is not a text file"))
    };
    let (keys, keys_signature) = (get(paths::KEYS)?, signature_of(paths::KEYS)?);
    let (bytes, signature) = (get(paths::CATALOG)?, signature_of(paths::CATALOG)?);
    let trust = Trust { root, lab_id: None, version_floor: 0 };
    let catalog = trust
        .open(
            Signed { bytes: &keys, signature: &keys_signature },
            Signed { bytes: &bytes, signature: &signature },
            Some(Timestamp::now()),
        )
        .map_err(|error| match error {
            CatalogError::Version(error) => humanize::chain(&error.read_by(Program::Server)),
            error => humanize::chain(&error),
        })?;
    if let Some(system) = catalog.too_new.first() {
        return Err(humanize::chain(&system.why.clone().read_by(Program::Server)));
    }
    let systems = humanize::count(catalog.systems.len(), "system");
    let what = format!("version {}, {systems}, signed by this lab", catalog.version);
    Ok((catalog, what))
}

/// Fetches a torrent, compares it with the catalog, and asks the tracker for peers.
fn torrent(base: &str, system: &System) -> Result<String, String> {
    let bytes = clients::http(&format!("{base}{}", paths::torrent(&system.id)))?;
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
    let answer = clients::http(&format!("{base}{}?{query}", paths::ANNOUNCE))?;
    if !answer.windows(8).any(|window| window.starts_with(b"5:peers")) {
        return Err(format!("the tracker refuses {}: {}", system.id, answer.escape_ascii()));
    }
    let size = humanize::size(system.total());
    Ok(format!("{}, {size}: torrent, tracker and seed agree with the catalog", system.id))
}
