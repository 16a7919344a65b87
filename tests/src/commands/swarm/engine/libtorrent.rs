//! Shell: libtorrent-rasterbar on both sides, by Debian's Python binding; the loops are C++.
//!
//! Python's own start is not counted: a node waits, imported and with its session open, for the word.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Source, Stage};
use crate::commands::swarm::tracker::ANNOUNCE;
use crate::commands::swarm::worker::{FINISHED, Mark, Worker};
use crate::room::namespace::{Namespace, command_in};

/// `python3 client.py seed|node TORRENT FOLDER`; a node waits for a line on its standard input.
pub const SCRIPT: &str = include_str!("libtorrent.py");

fn client(stage: &Stage, namespace: &Namespace, role: &str, folder: PathBuf) -> Result<Command> {
    let script = stage.work.join("client.py");
    std::fs::write(&script, SCRIPT).context("cannot write the script")?;
    // Debian's own, which has the binding, whatever else is on the search path.
    let mut python = command_in(namespace, "/usr/bin/python3");
    python.arg("-u").arg(script).arg(role).arg(stage.payload.folder().join("room.torrent"));
    python.arg(folder);
    Ok(python)
}

pub fn source(stage: &Stage) -> Result<Source> {
    stage.payload.write_torrent(ANNOUNCE)?;
    let folder = stage.payload.folder().to_owned();
    let seed = client(stage, &stage.room.server, "seed", folder)?;
    stage.seed_with_tracker("libtorrent", seed)
}

/// A node that waits for the word.
pub fn ready_node(stage: &Stage, node: usize) -> Result<Worker> {
    let folder = stage.make_node_folder(node)?;
    let client = client(stage, stage.node_namespace(node), "node", folder)?;
    let mut worker = stage.start_node("libtorrent", node, client, Mark::Line(FINISHED))?;
    worker.wait_ready()?;
    Ok(worker)
}
