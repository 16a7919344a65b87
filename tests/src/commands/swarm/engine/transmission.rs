//! Shell: Transmission on both sides.
//!
//! The daemon, since `transmission-cli` takes a torrent that is about to start for one that was
//! stopped, and ends, when the machine is busy.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::{Source, Stage};
use crate::commands::swarm::tracker::ANNOUNCE;
use crate::commands::swarm::worker::{FINISHED, Mark, Worker};
use crate::host::packages;
use crate::room::namespace::{Namespace, command_in};

/// A client that takes up `torrent`, shares with everybody at once and asks nobody outside; it
/// runs `hook` when it has everything. Its settings lie in `home`.
pub fn client(
    namespace: &Namespace,
    home: &Path,
    downloads: &Path,
    torrent: &Path,
    hook: Option<&Path>,
) -> Result<Command> {
    let watched = home.join("torrents");
    std::fs::create_dir_all(&watched)?;
    std::fs::copy(torrent, watched.join("image.torrent")).context("cannot copy the torrent")?;
    let settings = json!({
        "watch-dir": watched,
        "watch-dir-enabled": true,
        "download-dir": downloads,
        "incomplete-dir-enabled": false,
        "script-torrent-done-enabled": hook.is_some(),
        "script-torrent-done-filename": hook,
        "rpc-enabled": false,
        "peer-port": 6881,
        "dht-enabled": false,
        "lpd-enabled": false,
        "utp-enabled": false,
        "port-forwarding-enabled": false,
        "encryption": 0,
        "preallocation": 0,
        "prefetch-enabled": false,
        "cache-size-mb": 64,
        "peer-limit-global": 1000,
        "peer-limit-per-torrent": 300,
        "upload-slots-per-torrent": 300,
        "speed-limit-down-enabled": false,
        "speed-limit-up-enabled": false,
        "ratio-limit-enabled": false,
        "idle-seeding-limit-enabled": false,
    });
    std::fs::write(home.join("settings.json"), settings.to_string())
        .context("cannot write the settings")?;
    let mut client = command_in(namespace, packages::ensure_transmission()?);
    client.env("HOME", home).args(["--foreground", "--config-dir"]).arg(home);
    Ok(client)
}

pub fn source(stage: &Stage) -> Result<Source> {
    let torrent = stage.payload.write_torrent(ANNOUNCE)?;
    let home = stage.work.join("transmission-seed");
    let seed = client(&stage.room.server, &home, stage.payload.folder(), &torrent, None)?;
    stage.seed_with_tracker("transmission", seed)
}

pub fn node(stage: &Stage, node: usize) -> Result<Worker> {
    let folder = stage.make_node_folder(node)?;
    let torrent = stage.payload.folder().join("room.torrent");
    let (namespace, hook) = (stage.node_namespace(node), stage.hook()?);
    let client = client(namespace, &folder.join("home"), &folder, &torrent, Some(&hook))?;
    stage.start_node("transmission", node, client, Mark::Line(FINISHED))
}
