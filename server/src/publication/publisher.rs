//! Shell: the lab's files -> the signed catalog and its torrents.
//!
//! [`Publisher::refresh`] reads the lab, makes the torrents that are missing, signs, and writes
//! everything to `state/published/`. It is called whenever something may have changed; where
//! nothing did, it does nothing. What cannot be used changes nothing either: the old catalog stays.
//!
//! A file that is being written is never published half: its system waits until the file has been
//! quiet for [`SETTLE`]. Meanwhile the system as it was stays on offer where its files were replaced
//! (the seed holds the old ones open), and leaves the menu where they are overwritten in place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bt_catalog::paths;
use bt_catalog::{ByteSize, Catalog, CatalogError, EntryIcon, Icon, System, SystemFile, SystemId};
use bt_swarm::magnet;
use bytes::Bytes;
use jiff::Timestamp;
use tracing::info;

use crate::lab::config::Config;
use crate::lab::files::{Finding, SourceFile, sha256, write_durably};
use crate::lab::keyring::{Keyring, KeyringError};
use crate::lab::{Lab, Offer, OfferedSystem};
use crate::publication::published::{Document, Published, PublishedSystem, SeedSource};
use crate::publication::torrents::{Torrent, TorrentError, Torrents};
use crate::status::CatalogStatus;
use crate::terminal::Progress;

/// How long nodes accept a catalog: a server may be off over the holidays.
pub const VALID: Duration = Duration::from_hours(30 * 24);
/// It is signed anew this often, so that a running server's catalog never comes near its end.
pub const RESIGN: Duration = Duration::from_hours(24);
/// A file whose last change is younger may still be being written.
pub const SETTLE: Duration = Duration::from_secs(2);

/// Why nothing could be published, other than mistakes in the lab's files.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyringError),
    /// A torrent.
    #[error("the torrent of {id} could not be created")]
    Torrent {
        /// Which system.
        id: SystemId,
        /// Why.
        source: TorrentError,
    },
    /// What was signed would be refused by the nodes.
    #[error("PCs would refuse this catalog, so it is not published")]
    Refused(#[source] CatalogError),
    /// Disk.
    #[error("cannot write {}; check that the disk has space and is writable", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a refresh led to.
#[derive(Debug)]
pub struct Refresh {
    /// The result.
    pub outcome: Outcome,
    /// Systems whose newest files are not published yet, and why.
    pub waiting: Vec<Finding>,
    /// The settings as they are now, where they could be read.
    pub config: Option<Config>,
}

/// The result of a refresh.
#[derive(Debug)]
pub enum Outcome {
    /// The live catalog is what the lab says.
    Unchanged,
    /// A new catalog.
    New(Box<Publication>),
    /// The lab's files hold mistakes: the old catalog stays.
    Mistakes(Vec<Finding>),
}

/// A new catalog and what goes with it.
#[derive(Debug)]
pub struct Publication {
    /// For HTTP.
    pub published: Arc<Published>,
    /// For the seed.
    pub seeds: Vec<SeedSource>,
    /// For the table.
    pub status: CatalogStatus,
}

/// One system of the live catalog.
#[derive(Debug, Clone)]
struct PreparedSystem {
    offered: OfferedSystem,
    torrent: Torrent,
}

/// See the module.
#[derive(Debug)]
pub struct Publisher {
    lab: Lab,
    announce: String,
    keyring: Keyring,
    torrents: Torrents,
    version: u64,
    live: Option<(Catalog, BTreeMap<SystemId, PreparedSystem>)>,
}

impl Publisher {
    /// Reads keys, version and known torrents. `announce` is the tracker's URL.
    ///
    /// # Errors
    /// Where keys or folders cannot be used.
    pub fn open(lab: &Lab, announce: &str, now: Timestamp) -> Result<Self, PublishError> {
        let write_error = |path: PathBuf| move |source| PublishError::Write { path, source };
        let published = lab.published();
        fs::create_dir_all(&published).map_err(write_error(published.clone()))?;
        let keyring = Keyring::load(lab, now)?;
        let torrents = Torrents::open(lab, announce).map_err(write_error(published))?;
        let version = last_version(lab);
        let (lab, announce) = (lab.clone(), announce.to_owned());
        Ok(Self { lab, announce, keyring, torrents, version, live: None })
    }

    /// Bytes that had to be hashed since the start.
    pub fn hashed(&self) -> u64 {
        self.torrents.hashed()
    }

    /// Whether a refresh would find files that may still be being written.
    pub fn has_young_files(&self, now: Timestamp) -> bool {
        let is_waiting = |system: &OfferedSystem| {
            self.torrents.find(&system.entry.id, &system.files).is_none()
                && system.files.iter().any(|file| is_young(file, now.into()))
        };
        self.lab.read_offer().is_ok_and(|offer| offer.systems.iter().any(is_waiting))
    }

    /// Brings what is published up to the lab's files as they are at `now`.
    ///
    /// # Errors
    /// Where keys, disk or signing fail; mistakes in the lab's files are an [`Outcome`].
    pub fn refresh(&mut self, now: Timestamp, progress: Progress) -> Result<Refresh, PublishError> {
        let offer = match self.lab.read_offer() {
            Ok(offer) => offer,
            Err(found) => {
                let (outcome, waiting) = (Outcome::Mistakes(found), Vec::new());
                return Ok(Refresh { outcome, waiting, config: None });
            }
        };
        let mut waiting = Vec::new();
        let mut ready = Vec::new();
        for system in &offer.systems {
            match self.prepare(system, now, progress)? {
                Prepared::Ready(system) => ready.push(system),
                Prepared::Waiting { meanwhile, why } => {
                    ready.extend(meanwhile);
                    waiting.push(why);
                }
            }
        }
        let catalog = self.catalog_of(&offer, &ready, now);
        let outcome = if self.is_live(&catalog, now) {
            // The same bytes may lie in other files now.
            self.live = self.live.take().map(|(catalog, _)| (catalog, by_id(ready)));
            Outcome::Unchanged
        } else {
            Outcome::New(Box::new(self.publish(catalog, ready, now)?))
        };
        Ok(Refresh { outcome, waiting, config: Some(offer.config) })
    }

    /// Finds or makes a system's torrent, unless its files are still being written.
    fn prepare(
        &mut self,
        system: &OfferedSystem,
        now: Timestamp,
        progress: Progress,
    ) -> Result<Prepared, PublishError> {
        let id = &system.entry.id;
        if let Some(torrent) = self.torrents.find(id, &system.files) {
            return Ok(Prepared::ready(system, torrent));
        }
        let now = SystemTime::from(now);
        if let Some(young) = system.files.iter().find(|file| is_young(file, now)) {
            return Ok(self.waiting(system, young));
        }
        match self.torrents.make(id, &system.files, progress) {
            Ok(torrent) => Ok(Prepared::ready(system, torrent)),
            Err(TorrentError::Changed(path)) => {
                let changed = system.files.iter().find(|file| file.path == path);
                Ok(self.waiting(system, changed.unwrap_or(&system.files[0])))
            }
            Err(source) => Err(PublishError::Torrent { id: id.clone(), source }),
        }
    }

    fn waiting(&self, system: &OfferedSystem, young: &SourceFile) -> Prepared {
        let file = self.lab.name_of(&young.path);
        let place = format!("catalog/{}.toml", system.entry.id);
        let old = self.live.as_ref().and_then(|(_, live)| live.get(&system.entry.id));
        // An overwritten file has lost the bytes that were signed.
        let (meanwhile, until) = match old {
            Some(old) if !is_overwritten(&old.offered.files, &system.files) => {
                (Some(old.clone()), "the old version stays until it is complete")
            }
            _ => (None, "the system is offered when it is complete"),
        };
        let what = format!("{file} is still being written: {until}");
        Prepared::Waiting { meanwhile, why: Finding::advice(&place, what) }
    }

    fn catalog_of(&self, offer: &Offer, ready: &[PreparedSystem], now: Timestamp) -> Catalog {
        let menu = &offer.config.menu;
        // People read it: whole seconds.
        let issued = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let default = menu.default.as_ref().map(|default| default.id.clone());
        Catalog {
            lab_id: self.keyring.lab_id,
            lab_name: offer.config.name.clone(),
            version: self.version,
            issued,
            expires: issued + VALID,
            // A default that is still being written is not in the menu yet.
            default: default.filter(|id| ready.iter().any(|r| r.offered.entry.id == *id)),
            timeout_secs: u32::try_from(menu.timeout.as_secs()).unwrap_or(u32::MAX),
            systems: ready.iter().map(|ready| system_of(ready, &self.announce)).collect(),
            too_new: Vec::new(),
        }
    }

    /// Whether the live catalog says the same and is fresh enough.
    fn is_live(&self, catalog: &Catalog, now: Timestamp) -> bool {
        self.live.as_ref().is_some_and(|(live, _)| {
            let same =
                Catalog { issued: live.issued, expires: live.expires, ..catalog.clone() } == *live;
            same && SystemTime::from(now)
                .duration_since(live.issued.into())
                .is_ok_and(|age| age < RESIGN)
        })
    }

    fn publish(
        &mut self,
        catalog: Catalog,
        ready: Vec<PreparedSystem>,
        now: Timestamp,
    ) -> Result<Publication, PublishError> {
        let version = self.version + 1;
        let catalog = Catalog { version, ..catalog };
        let text = catalog.to_toml();
        let comment = format!("catalog version {version}, {}", catalog.issued);
        let signature =
            self.keyring.sign(text.as_bytes(), &comment).map_err(PublishError::Refused)?;
        self.keyring.check_as_node(&text, &signature, now).map_err(PublishError::Refused)?;
        // On disk before anybody can see it: after a crash the number is not given twice.
        self.write("../version", version.to_string().as_bytes())?;
        self.version = version;

        let documents = self.documents(&text, &signature, &ready);
        let torrents = ready.iter().map(|r| (&r.offered.entry.id, &r.torrent)).collect();
        let path = self.lab.published();
        self.torrents.publish(&torrents).map_err(|source| PublishError::Write { path, source })?;
        for (path, document) in &documents {
            let is_torrent = path.starts_with("/torrents/");
            if !is_torrent {
                self.write(path.trim_start_matches('/'), &document.bytes)?;
            }
        }
        let systems = ready.iter().map(|ready| PublishedSystem {
            id: ready.offered.entry.id.to_string(),
            name: ready.offered.entry.name.clone(),
            infohash: ready.torrent.infohash,
            total: ready.torrent.total,
        });
        let published = Arc::new(Published { version, documents, systems: systems.collect() });
        let seeds = ready.iter().map(|ready| SeedSource {
            id: ready.offered.entry.id.to_string(),
            torrent: ready.torrent.bytes.clone(),
            infohash: ready.torrent.infohash,
            files: ready.offered.files.clone(),
        });
        let seeds = seeds.collect();
        let status = CatalogStatus {
            version,
            issued: seconds(catalog.issued),
            expires: seconds(catalog.expires),
        };
        info!(version, systems = ready.len(), bytes = text.len(), "catalog published");
        self.live = Some((catalog, by_id(ready)));
        Ok(Publication { published, seeds, status })
    }

    fn documents(
        &self,
        catalog: &str,
        signature: &str,
        ready: &[PreparedSystem],
    ) -> BTreeMap<String, Document> {
        const TOML: &str = "application/toml";
        const TEXT: &str = "text/plain; charset=utf-8";
        let mut documents = BTreeMap::new();
        let mut add = |path: String, bytes: &[u8], content_type| {
            documents.insert(path, Document { bytes: Bytes::copy_from_slice(bytes), content_type });
        };
        let public = self.keyring.signing_public().to_file("signing key of a BootTorrent lab");
        add("/lab.pub".to_owned(), public.as_bytes(), TEXT);
        add(paths::KEYS.to_owned(), self.keyring.key_list.as_bytes(), TOML);
        add(signature_path(paths::KEYS), self.keyring.key_list_signature.as_bytes(), TEXT);
        add(paths::CATALOG.to_owned(), catalog.as_bytes(), TOML);
        add(signature_path(paths::CATALOG), signature.as_bytes(), TEXT);
        for PreparedSystem { offered, torrent } in ready {
            let path = paths::torrent(&offered.entry.id);
            add(path, &torrent.bytes, "application/x-bittorrent");
            if let Some(icon) = &offered.icon {
                add(paths::icon(&sha256(&icon.bytes)), &icon.bytes, icon.content_type);
            }
        }
        documents
    }

    /// Writes a file of `state/published/`.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), PublishError> {
        let path = self.lab.published().join(name);
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        folder
            .and_then(|()| write_durably(&path, bytes, 0o644))
            .map_err(|source| PublishError::Write { path, source })
    }
}

enum Prepared {
    Ready(PreparedSystem),
    Waiting { meanwhile: Option<PreparedSystem>, why: Finding },
}

impl Prepared {
    fn ready(system: &OfferedSystem, torrent: Torrent) -> Self {
        Self::Ready(PreparedSystem { offered: system.clone(), torrent })
    }
}

fn by_id(ready: Vec<PreparedSystem>) -> BTreeMap<SystemId, PreparedSystem> {
    ready.into_iter().map(|ready| (ready.offered.entry.id.clone(), ready)).collect()
}

fn is_young(file: &SourceFile, now: SystemTime) -> bool {
    let age = file.stamp.age(now);
    // Zero is a time in the future: a wrong clock somewhere, and no reason to wait for ever.
    age > Duration::ZERO && age < SETTLE
}

/// Whether a file is the same one with other bytes, rather than another file in its place.
fn is_overwritten(old: &[SourceFile], new: &[SourceFile]) -> bool {
    old.iter().any(|old| {
        new.iter().any(|new| old.stamp.inode == new.stamp.inode && old.stamp != new.stamp)
    })
}

fn system_of(ready: &PreparedSystem, announce: &str) -> System {
    let PreparedSystem { offered: OfferedSystem { entry, icon, kernel, .. }, torrent } = ready;
    let files = torrent.files.iter().map(|(role, length, sha256)| SystemFile {
        role: *role,
        length: *length,
        sha256: *sha256,
    });
    System {
        id: entry.id.clone(),
        name: entry.name.clone(),
        note: entry.note.clone(),
        icon: match (&entry.icon, icon) {
            (_, Some(icon)) => Icon::File(sha256(&icon.bytes)),
            (EntryIcon::Named(name), None) => Icon::Named(name.clone()),
            (EntryIcon::File(_), None) => Icon::Named("linux".to_owned()),
        },
        rooms: entry.rooms.clone(),
        cmdline: entry.cmdline.clone(),
        min_ram: entry.min_ram,
        family: entry.family,
        method: entry.method,
        kernel_memory: ByteSize(kernel.as_ref().map_or(0, |kernel| u64::from(kernel.init_size))),
        kernel_signed: kernel.as_ref().is_some_and(|kernel| kernel.signed),
        cpu: entry.cpu.clone(),
        firmware: entry.firmware,
        magnet: magnet(torrent.infohash, entry.id.as_str(), announce, torrent.total),
        infohash: bt_catalog::Infohash(torrent.infohash.0),
        torrent_sha256: torrent.sha256,
        files: files.collect(),
    }
}

/// The highest version that was ever published, as far as the disk still tells.
fn last_version(lab: &Lab) -> u64 {
    let recorded = fs::read_to_string(lab.state().join("version")).ok();
    let recorded = recorded.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let published = fs::read(lab.published().join("catalog.toml")).ok();
    let published = published.and_then(|bytes| Catalog::parse(&bytes).ok());
    published.map_or(0, |catalog| catalog.version).max(recorded)
}

fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or(0)
}

/// Where the signature of a document is published.
fn signature_path(document: &str) -> String {
    format!("{document}{}", paths::SIGNATURE_SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNOUNCE: &str = "http://10.77.0.1:6969/announce";

    struct Bench {
        folder: tempfile::TempDir,
        lab: Lab,
        now: Timestamp,
    }

    impl Bench {
        /// A lab with one system, whose files have been quiet for an hour.
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let root = folder.path();
            for name in ["catalog", "images", "keys", "state"] {
                fs::create_dir(root.join(name)).expect("made");
            }
            let server = "interface = \"lo\"\n[dhcp]\nmode = \"off\"\n";
            fs::write(root.join("server.toml"), server).expect("written");
            let lab = Lab::open(root).expect("a lab");
            Keyring::create(&lab).expect("keys");
            let bench = Self { folder, lab, now: Timestamp::now() };
            bench.write("images/vmlinuz", "a kernel");
            bench.write("catalog/a.toml", "name = \"A\"\nkernel = \"images/vmlinuz\"\n");
            bench
        }

        fn write(&self, name: &str, text: &str) {
            self.write_just_now(name, text);
            let file = fs::File::options().write(true).open(self.folder.path().join(name));
            let earlier = SystemTime::now() - Duration::from_hours(1);
            file.and_then(|file| file.set_modified(earlier)).expect("there");
        }

        fn write_just_now(&self, name: &str, text: &str) {
            fs::write(self.folder.path().join(name), text).expect("written");
        }

        fn open(&self) -> Publisher {
            Publisher::open(&self.lab, ANNOUNCE, self.now).expect("opens")
        }

        fn refresh(&self, publisher: &mut Publisher) -> Refresh {
            publisher.refresh(self.now, Progress::Logged).expect("works")
        }

        fn publish(&self, publisher: &mut Publisher) -> Publication {
            match self.refresh(publisher).outcome {
                Outcome::New(publication) => *publication,
                other => panic!("must publish: {other:?}"),
            }
        }
    }

    #[test]
    fn a_catalog_is_published_with_all_that_belongs_to_it() {
        let bench = Bench::new();
        let publication = bench.publish(&mut bench.open());
        assert_eq!(publication.published.version, 1);
        let paths: Vec<_> = publication.published.documents.keys().map(String::as_str).collect();
        let expected = [
            "/catalog.toml",
            "/catalog.toml.minisig",
            "/keys.toml",
            "/keys.toml.minisig",
            "/lab.pub",
            "/torrents/a.torrent",
        ];
        assert_eq!(paths, expected);
        for path in expected {
            let file = bench.lab.published().join(path.trim_start_matches('/'));
            assert!(file.exists(), "{path}");
        }
        let catalog = &publication.published.documents["/catalog.toml"].bytes;
        let catalog = Catalog::parse(catalog).expect("valid");
        assert!(catalog.systems[0].magnet.contains("xt=urn:btih:"));
    }

    #[test]
    fn the_version_grows_across_restarts_and_lost_files() {
        let bench = Bench::new();
        assert_eq!(bench.publish(&mut bench.open()).published.version, 1);
        assert_eq!(bench.publish(&mut bench.open()).published.version, 2);
        fs::remove_file(bench.lab.state().join("version")).expect("lost");
        assert_eq!(bench.publish(&mut bench.open()).published.version, 3);
        bench.write("state/published/catalog.toml", "lost too");
        assert_eq!(bench.publish(&mut bench.open()).published.version, 4);
    }

    #[test]
    fn a_restart_hashes_nothing() {
        let bench = Bench::new();
        let mut first = bench.open();
        bench.publish(&mut first);
        assert_eq!(first.hashed(), 8);
        let mut second = bench.open();
        bench.publish(&mut second);
        assert_eq!(second.hashed(), 0);
    }

    #[test]
    fn nothing_changed_means_nothing_is_published() {
        let bench = Bench::new();
        let mut publisher = bench.open();
        bench.publish(&mut publisher);
        assert!(matches!(bench.refresh(&mut publisher).outcome, Outcome::Unchanged));
    }

    #[test]
    fn a_day_later_it_is_signed_anew() {
        let mut bench = Bench::new();
        let mut publisher = bench.open();
        let first = bench.publish(&mut publisher).status;
        bench.now += RESIGN;
        let second = bench.publish(&mut publisher).status;
        assert_eq!(second.version, first.version + 1);
        assert_eq!(second.expires - first.expires, RESIGN.as_secs());
        assert_eq!(publisher.hashed(), 8);
    }

    #[test]
    fn a_mistake_keeps_the_old_catalog_and_says_where() {
        let bench = Bench::new();
        let mut publisher = bench.open();
        bench.publish(&mut publisher);
        bench.write("catalog/b.toml", "name = \"B\"\nkernel = images/vmlinuz\n");
        match bench.refresh(&mut publisher).outcome {
            Outcome::Mistakes(found) => {
                assert!(found[0].place.starts_with("catalog/b.toml, line 2, column "), "{found:?}");
            }
            other => panic!("must be refused: {other:?}"),
        }
        bench.write("catalog/b.toml", "name = \"B\"\nkernel = \"images/vmlinuz\"\n");
        assert_eq!(bench.publish(&mut publisher).published.systems.len(), 2);
    }

    #[test]
    fn a_removed_entry_takes_its_torrent_along() {
        let bench = Bench::new();
        let mut publisher = bench.open();
        bench.publish(&mut publisher);
        fs::remove_file(bench.folder.path().join("catalog/a.toml")).expect("removed");
        assert!(bench.publish(&mut publisher).published.systems.is_empty());
        assert!(!bench.lab.published().join("torrents/a.torrent").exists());
    }

    #[test]
    fn a_file_that_is_still_being_written_waits() {
        let mut bench = Bench::new();
        bench.write_just_now("images/vmlinuz", "a kernel");
        bench.now = Timestamp::now() + Duration::from_secs(1);
        let mut publisher = bench.open();
        let refresh = bench.refresh(&mut publisher);
        assert!(refresh.waiting[0].what.contains("images/vmlinuz is still being written"));
        assert_eq!(publisher.hashed(), 0);
        bench.now += SETTLE;
        assert_eq!(bench.publish(&mut publisher).published.systems.len(), 1);
    }

    #[test]
    fn a_replaced_file_keeps_the_old_system_until_the_new_one_is_whole() {
        let mut bench = Bench::new();
        let mut publisher = bench.open();
        let old = bench.publish(&mut publisher).published.systems[0].infohash;
        bench.write_just_now("images/new", "another kernel");
        let image = bench.folder.path().join("images/vmlinuz");
        fs::rename(bench.folder.path().join("images/new"), &image).expect("swapped");
        bench.now = Timestamp::now() + Duration::from_secs(1);
        let refresh = bench.refresh(&mut publisher);
        assert!(matches!(refresh.outcome, Outcome::Unchanged));
        assert!(refresh.waiting[0].what.contains("the old version stays"));
        bench.now += SETTLE;
        assert_ne!(bench.publish(&mut publisher).published.systems[0].infohash, old);
    }

    #[test]
    fn an_overwritten_file_leaves_the_menu_until_it_is_whole() {
        let mut bench = Bench::new();
        let mut publisher = bench.open();
        bench.publish(&mut publisher);
        bench.write_just_now("images/vmlinuz", "other bytes in the same file");
        bench.now = Timestamp::now() + Duration::from_secs(1);
        assert!(bench.publish(&mut publisher).published.systems.is_empty());
        bench.now += SETTLE;
        assert_eq!(bench.publish(&mut publisher).published.systems.len(), 1);
    }

    #[test]
    fn an_icon_file_is_published_under_its_digest() {
        let bench = Bench::new();
        bench.write("catalog/a.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>");
        let entry = "name = \"A\"\nkernel = \"images/vmlinuz\"\nicon = \"a.svg\"\n";
        bench.write("catalog/a.toml", entry);
        let published = bench.publish(&mut bench.open()).published;
        let (path, icon) =
            published.documents.iter().find(|(p, _)| p.starts_with("/icons/")).expect("there");
        assert_eq!(*path, format!("/icons/{}", sha256(&icon.bytes)));
        assert_eq!(icon.content_type, "image/svg+xml");
    }
}
