//! Shell: librqbit on both sides, by a small program of the lab on its published crate.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Source, Stage};
use crate::commands::swarm::tracker::ANNOUNCE;
use crate::commands::swarm::worker::{FINISHED, Mark, Worker};
use crate::host::cargo;
use crate::room::namespace::{Namespace, command_in};

/// A peer with everything that `torrent` names in `folder`, or that fetches it there, by `role`.
pub fn peer(namespace: &Namespace, role: &str, torrent: &Path, folder: &Path) -> Result<Command> {
    let mut peer = command_in(namespace, cargo::librqbit_peer()?);
    peer.arg(role).arg(torrent).arg(folder).args(["--listen", "6881"]);
    Ok(peer)
}

pub fn source(stage: &Stage) -> Result<Source> {
    let torrent = stage.payload.write_torrent(ANNOUNCE)?;
    let seed = peer(&stage.room.server, "seed", &torrent, stage.payload.folder())?;
    let mut source = stage.seed_with_tracker("librqbit", seed)?;
    // It announces itself before it has checked its files.
    source.worker.wait_ready()?;
    Ok(source)
}

pub fn node(stage: &Stage, node: usize) -> Result<Worker> {
    let folder = stage.make_node_folder(node)?;
    let torrent = stage.payload.folder().join("room.torrent");
    let client = peer(stage.node_namespace(node), "fetch", &torrent, &folder)?;
    stage.start_node("librqbit", node, client, Mark::Line(FINISHED))
}
