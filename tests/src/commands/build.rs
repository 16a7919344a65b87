//! Shell: `cargo lab build`: the three programs as they ship, side by side in one folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::host::cargo::{self, Build};
use crate::host::outcome::Outcome;

/// Build the programs for a real network and put them into one folder
///
/// `bt-server` and `bt-initramfs` run on the server; `bt-node` runs on the PCs. They find each other
/// in the same folder: copy it to the server as it is.
#[derive(Args)]
pub struct Options {
    /// Put the programs into this folder [default: in the results folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    let programs = cargo::build(Build::Release)?;
    let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("boottorrent"));
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    for program in [&programs.server, &programs.initramfs, &programs.node] {
        copy(program, &out)?;
    }
    let line = format!("bt-server, bt-initramfs and bt-node are in {}", out.display());
    Ok(Outcome::new(true, line).with("folder", out.display().to_string()))
}

/// Copies next to the old one and renames: a program that runs keeps its own file.
fn copy(program: &Path, out: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    let new = out.join(name).with_added_extension("new");
    fs::copy(program, &new).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, out.join(name)).with_context(|| format!("cannot replace {}", out.display()))
}
