//! Shell: the engines that are measured, each with the settings that suit a room best.
//!
//! Every engine keeps its files in memory, announces to a tracker that names everybody at once, and
//! has no limit of its own on connections and upload slots where it can be told so.

mod aria2;
mod http;
pub mod librqbit;
pub mod libtorrent;
pub mod ours;
pub mod transmission;
mod udpcast;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::payload::{NAME, Payload};
use super::room::{Room, TCP_HEADERS, UDP_HEADERS};
use super::tracker::Tracker;
use super::worker::{FINISHED, Mark, Worker};
use crate::host::cargo::Programs;
use crate::room::net::Place;

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Engine {
    /// bt-server and bt-node
    Ours,
    /// One nginx and a curl on each PC: what netboot does today
    Http,
    /// libtorrent-rasterbar, of qBittorrent and Deluge
    Libtorrent,
    /// aria2
    Aria2,
    /// Transmission
    Transmission,
    /// librqbit, on whose crates ours stands
    Librqbit,
    /// Multicast by udpcast: all PCs wait for each other
    Udpcast,
}

/// What a run has at hand.
pub struct Stage<'a> {
    /// The wired room.
    pub room: &'a Room,
    /// What is fetched.
    pub payload: &'a Payload,
    /// bt-server and bt-node.
    pub programs: &'a Programs,
    /// The lab of `ours`.
    pub lab: &'a Path,
    /// Where logs are left.
    pub out: &'a Path,
    /// A folder in memory for this run.
    pub work: &'a Path,
    /// Whether a node ends as soon as it has everything.
    pub leaves: bool,
}

/// The server's side of a run.
pub struct Source {
    /// The process whose CPU counts.
    pub worker: Worker,
    // Only held: it answers as long as the seed lives.
    pub _tracker: Option<Tracker>,
}

impl Engine {
    /// As `--engine` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Http => "http",
            Self::Libtorrent => "libtorrent",
            Self::Aria2 => "aria2",
            Self::Transmission => "transmission",
            Self::Librqbit => "librqbit",
            Self::Udpcast => "udpcast",
        }
    }

    /// Bytes of headers in each packet, from Ethernet's on.
    pub fn headers(self) -> u64 {
        if self == Self::Udpcast { UDP_HEADERS } else { TCP_HEADERS }
    }

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

    /// Whether a client ends by itself, in its own way, when it has everything and should leave.
    pub fn leaves_by_itself(self) -> bool {
        matches!(self, Self::Ours | Self::Http | Self::Udpcast)
    }

    /// Whether a node may start while others are at work.
    pub fn takes_latecomers(self) -> bool {
        self != Self::Udpcast
    }

    /// Where a node has left the image.
    pub fn files(self, stage: &Stage, node: usize) -> Vec<PathBuf> {
        let folder = stage.node_folder(node);
        let names = ["initrd", "kernel"];
        match self {
            Self::Ours => names.map(|name| folder.join(name)).into(),
            Self::Http | Self::Udpcast => vec![folder.join("whole")],
            _ => names.map(|name| folder.join(NAME).join(name)).into(),
        }
    }
}

impl Stage<'_> {
    /// The folder of a node, in memory.
    pub fn node_folder(&self, node: usize) -> PathBuf {
        self.work.join(format!("node{}", node + 1))
    }

    /// Makes it.
    fn make_node_folder(&self, node: usize) -> Result<PathBuf> {
        let folder = self.node_folder(node);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    fn node_place(&self, node: usize) -> &Place {
        &self.room.nodes[node]
    }

    fn start(&self, name: &str, command: Command, mark: Mark) -> Result<Worker> {
        Worker::start(name, command, &self.out.join(format!("{name}.log")), mark)
    }

    fn start_node(
        &self,
        engine: &str,
        node: usize,
        command: Command,
        mark: Mark,
    ) -> Result<Worker> {
        self.start(&format!("{engine}-node{}", node + 1), command, mark)
    }

    /// Starts a stock client's seed, with a tracker for it, and waits until it has announced itself.
    fn seed_with_tracker(&self, name: &str, command: Command) -> Result<Source> {
        let tracker = Tracker::start(&self.room.server)?;
        let worker = self.start(&format!("{name}-seed"), command, Mark::End)?;
        tracker.wait_for_seed(|| {
            let ended = worker.end()?;
            anyhow::ensure!(ended.is_none(), "the seed has ended:\n{}", worker.printed());
            Ok(())
        })?;
        Ok(Source { worker, _tracker: Some(tracker) })
    }

    /// A program that prints the mark; clients run it when they are done.
    fn hook(&self) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.work.join("finished");
        if !path.is_file() {
            // Written under another name: a script that is open for writing does not start.
            let fresh = self.work.join("finished.new");
            std::fs::write(&fresh, format!("#!/bin/sh\nprintf '\\n{FINISHED}\\n'\n"))?;
            std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
            std::fs::rename(&fresh, &path)?;
        }
        Ok(path)
    }
}
