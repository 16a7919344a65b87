//! Shell: the signed catalog over HTTP, the key it is checked with, and the pictures it names.
//!
//! Four documents make a catalog: the list of keys, the catalog, and a signature for each. A server that publishes in
//! between sends two that do not match; that looks like an attack, and is fixed by asking again.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bt_catalog::version::VersionError;
use bt_catalog::{
    Catalog, CatalogError, Cmdline, Digest, Icon, LabId, MAX_BYTES, PublicKey, Signed, System,
    SystemId, TooNew, Trust, paths,
};
use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::journey::problem::{Problem, ProblemKind};
use crate::journey::{IconRef, Menu, MenuItem};
use crate::server::http::{Http, HttpError};

/// The root key in the initramfs.
pub const ROOT_KEY: &str = "/etc/boottorrent/root.pub";
/// The lab this initramfs was built for.
pub const LAB: &str = "/etc/boottorrent/lab.toml";
/// How often a catalog that fails its check is fetched again before it counts as refused.
const CHECKS: u32 = 3;
/// How often a server that does not answer is tried.
const TRIES: u32 = 4;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(700);

#[derive(Deserialize)]
struct RawLab {
    lab_id: String,
    version_floor: u64,
}

/// Reads what this node was built to trust: the root key, and the lab where `lab` exists.
///
/// # Errors
/// When a file is missing or damaged.
pub fn trust(key: &Path, lab: &Path) -> Result<Trust, Problem> {
    let bad = |path: &Path, why: String| no_trust(format!("{}: {why}", path.display()));
    let text = fs::read_to_string(key).map_err(|error| bad(key, error.to_string()))?;
    let root = PublicKey::parse(&text).map_err(|error| bad(key, error.to_string()))?;
    if !lab.exists() {
        return Ok(Trust { root, lab_id: None, version_floor: 0 });
    }
    let text = fs::read_to_string(lab).map_err(|error| bad(lab, error.to_string()))?;
    let raw: RawLab =
        toml::from_str(&text).map_err(|error| bad(lab, error.message().to_owned()))?;
    let lab_id: LabId = raw.lab_id.parse().map_err(|error| bad(lab, error))?;
    Ok(Trust { root, lab_id: Some(lab_id), version_floor: raw.version_floor })
}

/// The four documents as received.
struct Documents {
    keys: Vec<u8>,
    keys_signature: String,
    catalog: Vec<u8>,
    catalog_signature: String,
}

impl Documents {
    fn open(&self, trust: &Trust) -> Result<Catalog, CatalogError> {
        let keys = Signed { bytes: &self.keys, signature: &self.keys_signature };
        let catalog = Signed { bytes: &self.catalog, signature: &self.catalog_signature };
        // A clock set before the catalog was issued is wrong and proves nothing; one after its expiry counts.
        trust.open(keys, catalog, Some(Timestamp::now()))
    }
}

/// Fetches the catalog and checks it.
///
/// # Errors
/// No server, or the reason why the catalog is refused.
pub async fn fetch(http: &Http, trust: &Trust) -> Result<Catalog, Problem> {
    let mut check = 1;
    loop {
        let documents = documents(http).await?;
        match documents.open(trust) {
            Ok(catalog) => return Ok(catalog),
            Err(error) if check == CHECKS => return Err(refused(&error)),
            Err(error) => tracing::info!(%error, check, "catalog refused, fetching it again"),
        }
        check += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn documents(http: &Http) -> Result<Documents, Problem> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let signature = |path: &str| format!("{path}{}", paths::SIGNATURE_SUFFIX);
    Ok(Documents {
        keys: patient_get(http, paths::KEYS).await?,
        keys_signature: text(patient_get(http, &signature(paths::KEYS)).await?),
        catalog: patient_get(http, paths::CATALOG).await?,
        catalog_signature: text(patient_get(http, &signature(paths::CATALOG)).await?),
    })
}

/// Retries when the server does not answer: it may just be starting.
async fn patient_get(http: &Http, path: &str) -> Result<Vec<u8>, Problem> {
    let mut attempt = 1;
    loop {
        match http.get(path, MAX_BYTES).await {
            Ok(bytes) => return Ok(bytes),
            Err(error @ HttpError::Unreachable { .. }) if attempt < TRIES => {
                tracing::info!(%error, attempt, "no answer, trying again");
            }
            Err(error) => return Err(error.problem()),
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Who this PC is, for the menu's header.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Its name from DHCP.
    pub name: Option<String>,
    /// Its address.
    pub address: Option<String>,
}

/// The menu of this catalog, with its pictures.
///
/// A picture that is missing or not the signed one is replaced by the plain drawing: a class must not wait for it.
/// `obstacle` says why a system cannot start on this PC. Systems that need newer boot files come last: they are shown, so
/// that nobody looks for them, and say what has to be done.
pub async fn menu(
    http: &Http,
    catalog: &Catalog,
    who: Identity,
    line: &Cmdline,
    obstacle: impl Fn(&System) -> Option<Problem>,
) -> Arc<Menu> {
    let room = line.node.room.as_deref();
    let mut systems = Vec::new();
    for system in catalog.systems.iter().filter(|system| is_for_room(&system.rooms, room)) {
        systems.push(MenuItem { obstacle: obstacle(system), ..item(http, system).await });
    }
    systems.extend(too_new_items(catalog, room));
    let default = visible_default(line.node.default.as_deref(), catalog, room);
    Arc::new(Menu {
        lab_name: catalog.lab_name.clone(),
        room: line.node.room.clone(),
        node_name: who.name,
        address: who.address,
        systems,
        default,
    })
}

/// The system of the countdown: this PC's own, or the lab's where its own is not to be seen here.
fn visible_default(own: Option<&str>, catalog: &Catalog, room: Option<&str>) -> Option<SystemId> {
    let is_visible =
        |id: &SystemId| catalog.system(id).is_some_and(|system| is_for_room(&system.rooms, room));
    let own: Option<SystemId> = own.and_then(|id| id.parse().ok());
    own.filter(is_visible).or_else(|| catalog.default.clone().filter(is_visible))
}

/// Whether a PC in `room` sees a system that is meant for `rooms`; a PC whose room is not known sees
/// what is for all.
fn is_for_room(rooms: &[String], room: Option<&str>) -> bool {
    rooms.is_empty() || room.is_some_and(|room| rooms.iter().any(|name| name == room))
}

/// The systems of this room that need newer boot files.
fn too_new_items(catalog: &Catalog, room: Option<&str>) -> Vec<MenuItem> {
    let visible = catalog.too_new.iter().filter(|system| is_for_room(&system.rooms, room));
    visible.map(too_new_item).collect()
}

fn too_new_item(system: &TooNew) -> MenuItem {
    let (what, why, next_step) = match system.why {
        VersionError::TooNew { .. } => (
            "This system needs newer boot files",
            "Needs newer boot files than this PC has.",
            "Choose another system, or ask your supervisor to rebuild the boot files.",
        ),
        VersionError::TooOld { .. } => (
            "This system was published by an older server",
            "Needs a newer server.",
            "Choose another system, or ask your supervisor to update the server.",
        ),
    };
    let obstacle = Problem::new(
        ProblemKind::DoesNotFit,
        what,
        why,
        next_step,
        format!("{}: {}", system.id, system.why),
    );
    MenuItem {
        id: system.id.clone(),
        name: system.name.clone(),
        note: String::new(),
        icon: IconRef::Builtin(String::new()),
        size: 0,
        obstacle: Some(obstacle),
    }
}

async fn item(http: &Http, system: &System) -> MenuItem {
    let icon = match &system.icon {
        Icon::Named(name) => IconRef::Builtin(name.clone()),
        Icon::File(digest) => picture(http, *digest).await,
    };
    MenuItem {
        id: system.id.clone(),
        name: system.name.clone(),
        note: system.note.clone(),
        icon,
        size: system.total(),
        obstacle: None,
    }
}

async fn picture(http: &Http, digest: Digest) -> IconRef {
    match http.get(&paths::icon(&digest), MAX_BYTES).await {
        Ok(bytes) if Digest(Sha256::digest(&bytes).into()) == digest => IconRef::File(bytes),
        Ok(_) => {
            tracing::warn!(%digest, "an icon does not match the catalog");
            IconRef::Builtin(String::new())
        }
        Err(error) => {
            tracing::warn!(%error, "cannot fetch an icon");
            IconRef::Builtin(String::new())
        }
    }
}

/// The problem for each reason to refuse a catalog.
fn refused(error: &CatalogError) -> Problem {
    use ProblemKind::{BadCatalog, BadSignature, Expired};
    const STOP: &str = "Tell your supervisor. Nothing was started.";
    let (kind, what, why, next_step) = match error {
        CatalogError::Altered { .. } => (
            BadSignature,
            "The list of systems was changed",
            "It does not match its signature, so this PC does not trust it.",
            STOP,
        ),
        CatalogError::UntrustedKey { .. } => (
            BadSignature,
            "The list of systems is signed with an unknown key",
            "This PC's boot files do not trust that key.",
            "Tell your supervisor: wrong server, or boot files from before the keys were changed.",
        ),
        CatalogError::UnreadableSignature { .. } => (
            BadSignature,
            "The list of systems has no valid signature",
            "The signature file on the server is damaged.",
            STOP,
        ),
        CatalogError::OtherLab { .. } => (
            BadSignature,
            "This server belongs to another lab",
            "Its list of systems is not for the lab that this PC's boot files were built for.",
            "Tell your supervisor: the cable or the boot files belong to another lab.",
        ),
        CatalogError::TooOld { .. } => (
            Expired,
            "The list of systems is too old",
            "This PC has seen a newer one and accepts no older ones.",
            STOP,
        ),
        CatalogError::Expired { .. } => (
            Expired,
            "The list of systems has expired",
            "It is past its date, or this PC's clock is wrong.",
            "Tell your supervisor: check the clocks of this PC and of the server.",
        ),
        CatalogError::Version(VersionError::TooNew { .. }) => (
            BadCatalog,
            "This PC's boot files are too old for the server",
            "The server was updated, and the boot files were not.",
            "Tell your supervisor: rebuild the boot files with `bt-initramfs build`, then restart this PC.",
        ),
        CatalogError::Version(VersionError::TooOld { .. }) => (
            BadCatalog,
            "The server is too old for this PC's boot files",
            "The boot files were updated, and the server was not.",
            "Tell your supervisor: update bt-server and restart it.",
        ),
        CatalogError::Invalid { .. } | CatalogError::BadKey { .. } => (
            BadCatalog,
            "The list of systems cannot be read",
            "It is correctly signed, but this PC cannot read it.",
            "Tell your supervisor: server and boot files may have different versions.",
        ),
    };
    Problem::new(kind, what, why, next_step, error.to_string())
}

fn no_trust(detail: String) -> Problem {
    Problem::new(
        ProblemKind::BadSignature,
        "This PC has no key to verify the server with",
        "The boot files contain no usable root key.",
        "Tell your supervisor: rebuild the boot files with `bt-initramfs build`.",
        detail,
    )
}

#[cfg(test)]
mod tests {
    use bt_catalog::{KeyList, SecretKey, ValidKey};

    use super::*;

    fn key() -> SecretKey {
        SecretKey::generate().expect("random numbers")
    }

    /// A signed catalog of one system, and what trusts it.
    fn lab() -> (Documents, Trust) {
        let (root, signing) = (key(), key());
        let lab_id = LabId([5; 16]);
        let issued = Timestamp::from_second(1_000_000_000).expect("a time");
        let expires = Timestamp::from_second(9_000_000_000).expect("a time");
        let valid = ValidKey { key: signing.public(), name: "server".into() };
        let keys = KeyList { lab_id, version: 1, issued, keys: vec![valid] }.to_toml();
        let catalog = Catalog {
            lab_id,
            lab_name: "Lab".into(),
            version: 7,
            issued,
            expires,
            default: None,
            timeout_secs: 0,
            systems: vec![crate::download::verify::tests::sample("a").0],
            too_new: Vec::new(),
        };
        let catalog = catalog.to_toml();
        let documents = Documents {
            keys_signature: root.sign(keys.as_bytes(), "keys").expect("signs"),
            catalog_signature: signing.sign(catalog.as_bytes(), "catalog").expect("signs"),
            keys: keys.into_bytes(),
            catalog: catalog.into_bytes(),
        };
        (documents, Trust { root: root.public(), lab_id: Some(lab_id), version_floor: 0 })
    }

    fn why(documents: &Documents, trust: &Trust) -> (ProblemKind, String) {
        let problem = refused(&documents.open(trust).expect_err("must be refused"));
        (problem.kind, problem.what)
    }

    #[test]
    fn a_system_for_some_rooms_is_seen_there_only() {
        let rooms = ["A1".to_owned(), "B2".to_owned()];
        assert!(is_for_room(&rooms, Some("B2")));
        assert!(!is_for_room(&rooms, Some("C3")) && !is_for_room(&rooms, None));
        assert!(is_for_room(&[], None) && is_for_room(&[], Some("C3")));
    }

    #[test]
    fn a_hidden_default_leaves_the_labs_own() {
        let (documents, trust) = lab();
        let mut catalog = documents.open(&trust).expect("is signed");
        let mut hidden = crate::download::verify::tests::sample("b").0;
        hidden.rooms = vec!["B2".to_owned()];
        let (a, b) = (catalog.systems[0].id.clone(), hidden.id.clone());
        catalog.systems.push(hidden);
        catalog.default = Some(a.clone());
        let own = Some(b.as_str());
        assert_eq!(visible_default(own, &catalog, Some("B2")), Some(b.clone()));
        assert_eq!(visible_default(own, &catalog, Some("A1")), Some(a.clone()));
        assert_eq!(visible_default(Some("c"), &catalog, Some("B2")), Some(a), "it left");
        catalog.default = Some(b.clone());
        assert_eq!(visible_default(None, &catalog, None), None);
    }

    #[test]
    fn a_system_for_newer_boot_files_is_shown_in_its_rooms_with_what_to_do() {
        let (documents, trust) = lab();
        let mut catalog = documents.open(&trust).expect("is signed");
        let id: SystemId = "next".parse().expect("an id");
        let update = bt_catalog::version::Program::BootFiles;
        let what = "this system".to_owned();
        let why = VersionError::TooNew { what, found: 9, newest: 1, update };
        let (name, rooms) = ("Debian 14".to_owned(), vec!["A1".to_owned()]);
        catalog.too_new.push(TooNew { id: id.clone(), name, rooms, why });
        catalog.default = Some(id.clone());

        let items = too_new_items(&catalog, Some("A1"));
        let [item] = &items[..] else { panic!("one system: {items:?}") };
        assert_eq!((item.id.as_str(), item.name.as_str()), ("next", "Debian 14"));
        let obstacle = item.obstacle.as_ref().expect("it cannot start here");
        assert_eq!(obstacle.what, "This system needs newer boot files");
        assert!(obstacle.next_step.contains("ask your supervisor to rebuild the boot files"));
        assert!(obstacle.detail.contains("needs version 9"), "{}", obstacle.detail);

        assert!(too_new_items(&catalog, Some("B2")).is_empty(), "it is for room A1 only");
        assert!(too_new_items(&catalog, None).is_empty(), "it is for room A1 only");
        assert_eq!(visible_default(None, &catalog, Some("A1")), None, "no countdown to it");
    }

    #[test]
    fn the_labs_own_catalog_opens() {
        let (documents, trust) = lab();
        assert_eq!(documents.open(&trust).expect("is signed").version, 7);
    }

    #[test]
    fn each_refusal_has_its_own_text() {
        let (mut documents, trust) = lab();
        let unknown = Trust { root: key().public(), ..trust.clone() };
        assert!(why(&documents, &unknown).1.contains("signed with an unknown key"));
        let other = Trust { lab_id: Some(LabId([6; 16])), ..trust.clone() };
        assert!(why(&documents, &other).1.contains("another lab"));
        let newer = Trust { version_floor: 8, ..trust.clone() };
        assert_eq!(why(&documents, &newer).0, ProblemKind::Expired);
        documents.catalog[40] ^= 1;
        let (kind, what) = why(&documents, &trust);
        assert_eq!(kind, ProblemKind::BadSignature);
        assert!(what.contains("was changed"), "{what}");
        documents.catalog_signature.clear();
        assert!(why(&documents, &trust).1.contains("no valid signature"));
    }

    #[test]
    fn trust_is_read_from_key_and_lab_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (key_file, lab_file) = (folder.path().join("root.pub"), folder.path().join("lab.toml"));
        fs::write(&key_file, key().public().to_file("root")).expect("a file");
        assert_eq!(trust(&key_file, &lab_file).expect("a key is enough").lab_id, None);
        let text = format!("lab_id = \"{}\"\nversion_floor = 4\nbuilt = 0\n", LabId([5; 16]));
        fs::write(&lab_file, text).expect("a file");
        let read = trust(&key_file, &lab_file).expect("complete");
        assert_eq!((read.lab_id, read.version_floor), (Some(LabId([5; 16])), 4));
        fs::write(&key_file, "no key").expect("a file");
        assert!(trust(&key_file, &lab_file).expect_err("damaged").detail.contains("root.pub"));
    }
}
