//! Shell: Transmission on both sides.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::{Source, Stage};
use crate::net::Place;
use crate::process::command_in;
use crate::swarm_bench::tracker::ANNOUNCE;
use crate::swarm_bench::worker::{FINISHED, Mark, Worker};

/// A client whose settings lie in `home`.
fn client(stage: &Stage, place: &Place, home: &Path, downloads: &Path) -> Result<Command> {
    let settings = json!({
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
    std::fs::create_dir_all(home)?;
    std::fs::write(home.join("settings.json"), settings.to_string())
        .context("cannot write the settings")?;
    let mut client = command_in(place, "transmission-cli");
    client.env("HOME", home).arg("--config-dir").arg(home);
    client.args(["--encryption-tolerated", "--no-downlimit", "--no-uplimit", "--no-portmap"]);
    client.args(["--port", "6881", "--download-dir"]).arg(downloads);
    client.arg("--finish").arg(stage.hook()?);
    client.arg(stage.payload.folder().join("room.torrent"));
    Ok(client)
}

pub fn source(stage: &Stage) -> Result<Source> {
    stage.payload.write_torrent(ANNOUNCE)?;
    let home = stage.work.join("transmission-seed");
    let seed = client(stage, &stage.room.server, &home, stage.payload.folder())?;
    stage.seed_with_tracker("transmission", seed)
}

pub fn node(stage: &Stage, node: usize) -> Result<Worker> {
    let folder = stage.make_node_folder(node)?;
    let client = client(stage, stage.node_place(node), &folder.join("home"), &folder)?;
    stage.start_node("transmission", node, client, Mark::Line(FINISHED))
}
