//! Shell: shares every published system with the nodes, through `bt-swarm`.
//!
//! Files are opened read-only and stay open: a file that is replaced keeps its old bytes for the
//! nodes that are in the middle of it. So a replaced or removed system is shared for `GRACE`
//! longer, except where its file was overwritten in place: those bytes are lost.

pub mod publish_loop;
pub mod replica;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bt_swarm::{Infohash, Metainfo, ReadOnlyFiles, Seed, SeedOptions, SeedStats};
use tracing::{info, warn};

use crate::lab::files::{SourceFile, Stamp};
use crate::os::sockets::{self, BindError};
use crate::publication::published::{Invitation, Published, PublishedSystem, SeedSource};
use crate::publication::torrents::specs;
use crate::status::SystemStatus;

/// How long a replaced system is still shared: longer than the slowest download of a room takes.
/// After that its disk space is free again.
const GRACE: Duration = Duration::from_hours(1);

/// Why the seed could not start.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// Its port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Something rarer.
    #[error("the seed cannot listen on TCP port {port}")]
    Start {
        /// The port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The seed of all systems of the lab.
pub struct LabSeed {
    seed: Seed,
    /// By system.
    shared: BTreeMap<String, Shared>,
    retired: Vec<(Infohash, SystemTime)>,
}

struct Shared {
    infohash: Infohash,
    files: Vec<SourceFile>,
}

impl LabSeed {
    /// Listens; nothing is shared yet.
    ///
    /// # Errors
    /// When the port cannot be used.
    pub async fn start(ip: Ipv4Addr, port: u16) -> Result<Self, SeedError> {
        let listen = SocketAddr::from((ip, port));
        // Tried first, for the explanation: the engine's own error is only a number.
        drop(sockets::tcp("seed", listen)?);
        let options = SeedOptions { listen };
        let seed =
            Seed::start(options).await.map_err(|source| SeedError::Start { port, source })?;
        Ok(Self { seed, shared: BTreeMap::new(), retired: Vec::new() })
    }

    /// Shares what is published now. Returns what could not be shared, and why.
    pub fn apply(&mut self, sources: &[SeedSource], now: SystemTime) -> Vec<String> {
        let replaced: Vec<String> = self
            .shared
            .iter()
            .filter(|(id, old)| {
                !sources.iter().any(|new| new.id == **id && new.infohash == old.infohash)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in replaced {
            if let Some(old) = self.shared.remove(&id) {
                self.retire(&id, old, now);
            }
        }
        let mut problems = Vec::new();
        for source in sources {
            if self.shared.contains_key(&source.id) {
                continue;
            }
            if let Err(why) = self.share(source) {
                problems.push(format!("{} cannot be shared: {why}", source.id));
            }
        }
        problems
    }

    /// Stops what was replaced long enough ago.
    pub fn prune(&mut self, now: SystemTime) {
        let seed = &self.seed;
        self.retired.retain(|(infohash, since)| {
            let is_young = now.duration_since(*since).is_ok_and(|age| age < GRACE);
            if !is_young {
                seed.remove(*infohash);
            }
            is_young
        });
    }

    /// Connects to a stock client that announced itself.
    pub fn invite(&self, guest: Invitation) {
        self.seed.invite(guest.infohash, guest.address);
    }

    /// The figures of each published system.
    pub fn status(&self, published: &Published) -> Vec<SystemStatus> {
        rows(published, |infohash| self.seed.stats(infohash))
    }

    /// Closes every connection.
    pub async fn stop(self) {
        self.seed.stop().await;
    }

    fn share(&mut self, source: &SeedSource) -> Result<(), String> {
        let metainfo = Metainfo::parse(&source.torrent).map_err(|error| error.to_string())?;
        let files = ReadOnlyFiles::open(&metainfo, &specs(&source.files))
            .map_err(|error| error.to_string())?;
        // Back to what it was a moment ago: it must not be stopped later.
        self.retired.retain(|(infohash, _)| *infohash != source.infohash);
        self.seed.add(metainfo, Arc::new(files));
        info!(system = source.id, infohash = %source.infohash, "shared");
        let shared = Shared { infohash: source.infohash, files: source.files.clone() };
        self.shared.insert(source.id.clone(), shared);
        Ok(())
    }

    fn retire(&mut self, id: &str, old: Shared, now: SystemTime) {
        if old.files.iter().any(is_overwritten) {
            warn!(system = id, infohash = %old.infohash, "no longer shared: overwritten in place");
            self.seed.remove(old.infohash);
        } else {
            info!(system = id, infohash = %old.infohash, "replaced; shared for an hour longer");
            self.retired.push((old.infohash, now));
        }
    }
}

/// The status of the published systems; without figures for what is not shared here.
pub fn rows(
    published: &Published,
    stats: impl Fn(Infohash) -> Option<SeedStats>,
) -> Vec<SystemStatus> {
    let row = |system: &PublishedSystem| {
        let stats = stats(system.infohash);
        SystemStatus {
            id: system.id.clone(),
            name: system.name.clone(),
            total: system.total,
            infohash: system.infohash.to_string(),
            peers: stats.as_ref().map_or(0, |stats| stats.peers),
            uploaded: stats.as_ref().map_or(0, |stats| stats.uploaded),
        }
    };
    published.systems.iter().map(row).collect()
}

/// Whether the very file that is open has other bytes now.
fn is_overwritten(file: &SourceFile) -> bool {
    Stamp::of(&file.path).is_ok_and(|now| now.inode == file.stamp.inode && now != file.stamp)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bt_catalog::Role;

    use super::*;

    #[test]
    fn only_the_same_file_with_other_bytes_is_overwritten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("kernel");
        fs::write(&path, "one").expect("written");
        let stamp = Stamp::of(&path).expect("is there");
        let file = SourceFile { role: Role::Kernel, path: path.clone(), stamp };
        assert!(!is_overwritten(&file));
        fs::write(&path, "other").expect("written");
        assert!(is_overwritten(&file));
        fs::write(folder.path().join("new"), "new").expect("written");
        fs::rename(folder.path().join("new"), &path).expect("replaced");
        assert!(!is_overwritten(&file));
    }
}
