//! Shell: builds the programs, by the cargo that started the lab: quickly, or as they ship.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::host::process::{command, shown};

/// A node has no libraries, so its one program is static.
const NODE_TARGET: &str = "x86_64-unknown-linux-gnu";
const STATIC: &str =
    r#"target.x86_64-unknown-linux-gnu.rustflags=["-C","target-feature=+crt-static"]"#;

/// How the programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// In the profile of the lab itself, so that every dependency is compiled once for all of them:
    /// for what has to work, not to be fast or small.
    Quick,
    /// As they ship: for what is measured.
    Release,
}

/// The programs under test, as files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Programs {
    /// `bt-server`.
    pub server: PathBuf,
    /// `bt-initramfs`.
    pub initramfs: PathBuf,
    /// `bt-node`, static, as it goes into the initramfs.
    pub node: PathBuf,
}

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the package lies in the workspace's folder").to_owned()
}

/// A cargo command in the workspace.
pub fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = command(cargo);
    command.current_dir(workspace());
    command
}

/// Builds all programs; cargo shows its own progress.
///
/// `BT_LAB_PROGRAMS` names a folder with finished programs (a package's, another machine's): then
/// those are used, and nothing is built.
pub fn build(how: Build) -> Result<Programs> {
    if let Some(folder) = std::env::var_os("BT_LAB_PROGRAMS") {
        let finished = |name: &str| Path::new(&folder).join(name);
        let names = ["bt-server", "bt-initramfs", "bt-node"].map(finished);
        let [server, initramfs, node] = names;
        return Ok(Programs { server, initramfs, node });
    }
    let tools = ["--package", "bt-server", "--package", "bt-initramfs"];
    let (tools, node) = match how {
        Build::Quick => {
            println!("Building the programs (this takes some minutes once) ...");
            // The node is made static by a flag for its own crate alone, which is the one that is
            // linked: a flag for all crates would compile every dependency again.
            let node = ["--package", "bt-node", "--bin", "bt-node"];
            let flags = ["--", "-C", "target-feature=+crt-static", "-C", "strip=symbols"];
            let tools = build_some("build", &[&tools[..], &["--bins"]].concat())?;
            (tools, build_some("rustc", &[&node[..], &flags].concat())?)
        }
        Build::Release => {
            println!("Building bt-server and bt-initramfs (release) ...");
            let tools = build_some("build", &[&tools[..], &["--bins", "--release"]].concat())?;
            println!("Building bt-node (static, optimized for size; takes some minutes) ...");
            let node = ["--bins", "--profile", "node", "--package", "bt-node"];
            let target = ["--target", NODE_TARGET, "--config", STATIC];
            (tools, build_some("build", &[&node[..], &target].concat())?)
        }
    };
    Ok(Programs {
        server: find(&tools, "bt-server")?,
        initramfs: find(&tools, "bt-initramfs")?,
        node: find(&node, "bt-node")?,
    })
}

/// What [`librqbit_peer`] found.
static LIBRQBIT_PEER: OnceLock<PathBuf> = OnceLock::new();

/// The program of the peer that stands on librqbit, built where it has to be; once for each run of
/// the lab, and before the lab leaves the world's network: cargo may have to fetch its crates.
pub fn librqbit_peer() -> Result<PathBuf> {
    if let Some(found) = LIBRQBIT_PEER.get() {
        return Ok(found.clone());
    }
    let name = "bt-librqbit-peer";
    let finished = std::env::var_os("BT_LAB_PROGRAMS").map(|folder| Path::new(&folder).join(name));
    let program = match finished.filter(|program| program.is_file()) {
        Some(finished) => finished,
        None => {
            println!(
                "Building a peer on librqbit (release; takes some minutes the first time) ..."
            );
            // It is no member of the workspace, so it would have a target folder of its own.
            let target = std::path::absolute(target_folder())?;
            let target = target.to_str().context("the target folder's name is not UTF-8")?;
            let peer = ["--release", "--locked", "--manifest-path", "tests/librqbit/Cargo.toml"];
            let target = ["--bins", "--target-dir", target];
            let built = build_some("build", &[&peer[..], &target].concat())?;
            find(&built, name)?
        }
    };
    Ok(LIBRQBIT_PEER.get_or_init(|| program).clone())
}

/// Takes the program that another process of this run has found by [`librqbit_peer`].
pub fn use_librqbit_peer(program: PathBuf) {
    // Whoever was first is right too: it is the same program.
    LIBRQBIT_PEER.get_or_init(|| program);
}

/// Runs `cargo build` or `cargo rustc` and returns the programs it made.
fn build_some(subcommand: &str, words: &[&str]) -> Result<Vec<PathBuf>> {
    let mut cargo = cargo();
    cargo.args([subcommand, "--message-format=json-render-diagnostics"]).args(words);
    cargo.stdout(Stdio::piped());
    let mut child = cargo.spawn().with_context(|| format!("cannot run {}", shown(&cargo)))?;
    let messages = child.stdout.take().expect("its output is a pipe");
    let mut programs = Vec::new();
    for line in BufReader::new(messages).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?).unwrap_or_default();
        programs.extend(message["executable"].as_str().map(PathBuf::from));
    }
    let status = child.wait()?;
    crate::host::clock::check_interrupted()?;
    if !status.success() {
        bail!("{} failed ({status})", shown(&cargo));
    }
    Ok(programs)
}

fn find(programs: &[PathBuf], name: &str) -> Result<PathBuf> {
    let found = programs.iter().find(|program| program.file_name().is_some_and(|it| it == name));
    found.cloned().with_context(|| format!("cargo built no {name}"))
}

/// Where results are kept between runs: `lab/` in cargo's target folder, or in the workspace's.
pub fn results_folder() -> PathBuf {
    target_folder().join("lab")
}

/// Cargo's target folder.
fn target_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| workspace().join("target"))
}
