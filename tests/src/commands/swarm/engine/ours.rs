//! Shell: bt-server and `bt-node fetch`, as they ship.
//!
//! A node's time runs from the start of the program to the line that says that every file has the
//! signed SHA-256; catalog, signatures and the .torrent are fetched in that time too.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Source, Stage};
use crate::commands::swarm::payload::{NAME, Payload};
use crate::commands::swarm::room::Room;
use crate::commands::swarm::worker::{Mark, Worker};
use crate::host::cargo::Programs;
use crate::host::clock;
use crate::host::process::run;
use crate::room::namespace::command_in;

/// Where the catalog is.
pub const SERVER: &str = "http://10.77.0.1:6969";
/// The first start hashes the image.
const READY_LIMIT: Duration = Duration::from_secs(120);

const ENTRY: &str = "name    = \"Room\"\n\
                     kernel  = \"images/room/kernel\"\n\
                     initrd  = \"images/room/initrd\"\n\
                     cmdline = \"quiet\"\n\
                     min_ram = \"256 MiB\"\n";
const SETTINGS: &str = "name = \"Room\"\n\
                        interface = \"eth0\"\n\
                        [dhcp]\n\
                        mode = \"off\"\n";

/// Makes the server's lab folder, with the image in it.
pub fn make_lab(programs: &Programs, room: &Room, payload: &Payload, folder: &Path) -> Result<()> {
    let mut init = command_in(&room.server, &programs.server);
    init.arg("init").arg(folder).args(["--interface", "eth0"]);
    run(init)?;
    std::fs::write(folder.join("server.toml"), SETTINGS)?;
    let images = folder.join("images").join(NAME);
    std::fs::create_dir_all(&images)?;
    for file in payload.files() {
        let name = file.file_name().context("a file has a name")?;
        std::fs::hard_link(&file, images.join(name)).context("cannot put the image in the lab")?;
    }
    let entry = folder.join("catalog").join(format!("{NAME}.toml"));
    std::fs::write(entry, ENTRY).context("cannot write the entry")
}

pub fn source(stage: &Stage) -> Result<Source> {
    let mut start = command_in(&stage.room.server, &stage.programs.server);
    start.arg("--lab").arg(stage.lab).args(["start", "--foreground"]);
    let worker = stage.start("boottorrent-server", start, Mark::End)?;
    clock::wait_for("bt-server to serve the image", READY_LIMIT, || {
        let ended = worker.end()?;
        ensure!(ended.is_none(), "bt-server has exited; its last output:\n{}", worker.printed());
        Ok(torrent(stage).ok())
    })?;
    Ok(Source { worker, _tracker: None })
}

/// The image's .torrent, as the server has published it.
pub fn torrent(stage: &Stage) -> Result<Vec<u8>> {
    let file = stage.work.join("published.torrent");
    let mut curl = command_in(&stage.room.server, "curl");
    curl.args(["--silent", "--show-error", "--fail", "--output"]).arg(&file);
    curl.arg(format!("{SERVER}/torrents/{NAME}.torrent"));
    run(curl)?;
    std::fs::read(&file).context("curl saved no .torrent")
}

pub fn node(stage: &Stage, node: usize) -> Result<Worker> {
    let mut fetch = command_in(stage.node_namespace(node), &stage.programs.node);
    fetch.args(["fetch", "--json", "--server", SERVER, "--system", NAME]);
    fetch.arg("--key").arg(stage.lab.join("keys/root.pub"));
    fetch.arg("--out").arg(stage.make_node_folder(node)?);
    if stage.leaves {
        fetch.args(["--once", "--linger", "60"]);
    }
    stage.start_node("boottorrent", node, fetch, Mark::Line("is complete and verified"))
}
