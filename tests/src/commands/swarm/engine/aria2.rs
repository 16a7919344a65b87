//! Shell: aria2 on both sides.

use std::process::Command;

use anyhow::Result;

use super::{Source, Stage};
use crate::commands::swarm::tracker::ANNOUNCE;
use crate::commands::swarm::worker::{FINISHED, Mark, Worker};
use crate::room::namespace::{Namespace, command_in};

/// Every connection is welcome, nothing is asked of the world, and nobody stops sharing by itself.
const SETTINGS: &[&str] = &[
    "--no-conf",
    "--listen-port=6881",
    "--enable-dht=false",
    "--enable-dht6=false",
    "--bt-enable-lpd=false",
    "--bt-max-peers=0",
    "--bt-request-peer-speed-limit=1000M",
    "--bt-tracker-interval=2",
    "--max-upload-limit=0",
    "--seed-ratio=0.0",
    "--file-allocation=none",
    "--summary-interval=0",
    "--enable-color=false",
    "--allow-overwrite=true",
];

fn aria2(namespace: &Namespace) -> Command {
    let mut aria2 = command_in(namespace, "aria2c");
    aria2.args(SETTINGS);
    aria2
}

pub fn source(stage: &Stage) -> Result<Source> {
    let torrent = stage.payload.write_torrent(ANNOUNCE)?;
    let mut seed = aria2(&stage.room.server);
    seed.arg("--bt-seed-unverified=true").arg("--dir").arg(stage.payload.folder()).arg(torrent);
    stage.seed_with_tracker("aria2", seed)
}

pub fn node(stage: &Stage, node: usize) -> Result<Worker> {
    let mut client = aria2(stage.node_namespace(node));
    client.arg("--on-bt-download-complete").arg(stage.hook()?);
    client.arg("--dir").arg(stage.make_node_folder(node)?);
    client.arg(stage.payload.folder().join("room.torrent"));
    stage.start_node("aria2", node, client, Mark::Line(FINISHED))
}
