//! Shell: the engines that are measured, each with the settings that suit a room best.
//!
//! Every engine keeps its files in memory, announces to a tracker that names everybody at once, and
//! has no limit of its own on connections and upload slots where that can be set.

mod aria2;
mod http;
mod kind;
pub mod librqbit;
pub mod libtorrent;
pub mod ours;
mod stage;
pub mod transmission;
mod udpcast;

use std::path::PathBuf;

use anyhow::Result;

use super::payload::NAME;
use super::worker::Worker;

pub use kind::Engine;
pub use stage::{Source, Stage};

impl Engine {
    /// Starts the server's side and waits until it serves.
    pub fn start_source(self, stage: &Stage) -> Result<Source> {
        match self {
            Self::Ours => ours::source(stage),
            Self::Http => http::source(stage),
            Self::Libtorrent => libtorrent::source(stage),
            Self::Aria2 => aria2::source(stage),
            Self::Transmission => transmission::source(stage),
            Self::Librqbit => librqbit::source(stage),
            Self::Udpcast => udpcast::source(stage),
        }
    }

    /// Gets a node's client ready; `None` when there is nothing to do before it starts.
    pub fn prepare_node(self, stage: &Stage, node: usize) -> Result<Option<Worker>> {
        match self {
            Self::Libtorrent => libtorrent::ready_node(stage, node).map(Some),
            _ => Ok(None),
        }
    }

    /// Starts a node's client, one that is not ready yet.
    pub fn start_node(self, stage: &Stage, node: usize) -> Result<Worker> {
        match self {
            Self::Ours => ours::node(stage, node),
            Self::Http => http::node(stage, node),
            Self::Libtorrent => libtorrent::ready_node(stage, node).and_then(|mut worker| {
                worker.go()?;
                Ok(worker)
            }),
            Self::Aria2 => aria2::node(stage, node),
            Self::Transmission => transmission::node(stage, node),
            Self::Librqbit => librqbit::node(stage, node),
            Self::Udpcast => udpcast::node(stage, node),
        }
    }

    /// Where a node has left the image.
    pub fn files(self, stage: &Stage, node: usize) -> Vec<PathBuf> {
        let folder = stage.node_folder(node);
        let names = ["initrd", "kernel"];
        match self {
            Self::Ours => names.map(|name| folder.join(name)).into(),
            Self::Http | Self::Udpcast => vec![folder.join("image.bin")],
            _ => names.map(|name| folder.join(NAME).join(name)).into(),
        }
    }
}
