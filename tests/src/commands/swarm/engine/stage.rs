//! Shell: what a run has at hand, and how it starts the processes of an engine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::commands::swarm::payload::Payload;
use crate::commands::swarm::room::Room;
use crate::commands::swarm::tracker::Tracker;
use crate::commands::swarm::worker::{FINISHED, Mark, Worker};
use crate::host::cargo::Programs;
use crate::room::namespace::Namespace;

/// What a run has at hand.
pub struct Stage<'a> {
    /// The wired room.
    pub room: &'a Room,
    /// What is fetched.
    pub payload: &'a Payload,
    /// bt-server and bt-node.
    pub programs: &'a Programs,
    /// The lab of `boottorrent`.
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

impl Stage<'_> {
    /// The folder of a node, in memory.
    pub fn node_folder(&self, node: usize) -> PathBuf {
        self.work.join(format!("node{}", node + 1))
    }

    /// Makes it.
    pub fn make_node_folder(&self, node: usize) -> Result<PathBuf> {
        let folder = self.node_folder(node);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// Its network.
    pub fn node_namespace(&self, node: usize) -> &Namespace {
        &self.room.nodes[node]
    }

    /// Starts a process of an engine.
    pub fn start(&self, name: &str, command: Command, mark: Mark) -> Result<Worker> {
        Worker::start(name, command, &self.out.join(format!("{name}.log")), mark)
    }

    /// Starts the client of a node.
    pub fn start_node(
        &self,
        engine: &str,
        node: usize,
        command: Command,
        mark: Mark,
    ) -> Result<Worker> {
        self.start(&format!("{engine}-node{}", node + 1), command, mark)
    }

    /// Starts a stock client's seed, with a tracker for it, and waits until it has announced itself.
    pub fn seed_with_tracker(&self, name: &str, command: Command) -> Result<Source> {
        let tracker = Tracker::start(&self.room.server)?;
        let worker = self.start(&format!("{name}-seed"), command, Mark::End)?;
        tracker.wait_for_seed(|| {
            let ended = worker.end()?;
            anyhow::ensure!(ended.is_none(), "the seed has exited:\n{}", worker.printed());
            Ok(())
        })?;
        Ok(Source { worker, _tracker: Some(tracker) })
    }

    /// A program that prints the mark; clients run it when they are done.
    pub fn hook(&self) -> Result<PathBuf> {
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
