//! Shell: stock BitTorrent clients: each fetches from our server, then feeds our node all alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::commands::swarm::engine::{libtorrent as lt, transmission as tr};
use crate::host::clock;
use crate::host::http;
use crate::host::process::{Running, run, tail};
use crate::room::addresses::SERVER;
use crate::room::namespace::{Namespace, command_in};
use crate::room::sample::SampleLab;
use crate::room::server::HTTP;
use crate::room::testbed::Testbed;
use crate::scenario::clients::check_same_files;
use crate::scenario::swarm::{bytes_from, fetch, figures};

/// The catalog entry that is fetched.
const SYSTEM: &str = "sample";
/// A few seconds' download; some clients take half a minute until they upload to an unknown peer.
const LIMIT: Duration = Duration::from_secs(300);

pub fn aria2(testbed: &mut Testbed) -> Result<String> {
    there_and_back(testbed, "aria2", |at| {
        let mut aria2 = command_in(at.namespace, "aria2c");
        aria2.args(["--no-conf", "--listen-port=6881", "--seed-ratio=0.0", "--enable-dht=false"]);
        aria2.args(["--enable-dht6=false", "--bt-enable-lpd=false", "--file-allocation=none"]);
        aria2.args(["--summary-interval=0", "--dir"]).arg(&at.downloads).arg(&at.torrent);
        Ok(aria2)
    })
}

pub fn transmission(testbed: &mut Testbed) -> Result<String> {
    there_and_back(testbed, "transmission", |at| {
        tr::client(at.namespace, &at.home, &at.downloads, &at.torrent, None)
    })
}

pub fn qbittorrent(testbed: &mut Testbed) -> Result<String> {
    there_and_back(testbed, "qbittorrent", |at| {
        // Without this it asks on a terminal whether one has read its legal notice.
        let settings = "[LegalNotice]\nAccepted=true\n\
             [BitTorrent]\nSession\\Port=6881\nSession\\DHTEnabled=false\n\
             Session\\LSDEnabled=false\nSession\\PeXEnabled=false\n\
             [Preferences]\nWebUI\\Enabled=false\n";
        let folder = at.home.join("qBittorrent/config");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("qBittorrent.conf"), settings)?;
        let mut qbittorrent = command_in(at.namespace, "qbittorrent-nox");
        qbittorrent.env("HOME", &at.home).arg(format!("--profile={}", at.home.display()));
        qbittorrent.arg(format!("--save-path={}", at.downloads.display()));
        qbittorrent.args(["--skip-dialog=true", "--add-paused=false"]).arg(&at.torrent);
        Ok(qbittorrent)
    })
}

pub fn rtorrent(testbed: &mut Testbed) -> Result<String> {
    there_and_back(testbed, "rtorrent", |at| {
        let session = at.home.join("session");
        std::fs::create_dir_all(&session)?;
        let settings = format!(
            "system.daemon.set = true\n\
             directory.default.set = {}\nsession.path.set = {}\n\
             network.port_range.set = 6881-6881\nnetwork.port_random.set = no\n\
             dht.mode.set = off\nprotocol.pex.set = no\n",
            at.downloads.display(),
            session.display()
        );
        let file = at.home.join("rtorrent.rc");
        std::fs::write(&file, settings)?;
        let mut rtorrent = command_in(at.namespace, "rtorrent");
        rtorrent.env("HOME", &at.home).env("TERM", "xterm").arg("-n");
        rtorrent.arg("-o").arg(format!("import={}", file.display())).arg(&at.torrent);
        Ok(rtorrent)
    })
}

pub fn libtorrent(testbed: &mut Testbed) -> Result<String> {
    there_and_back(testbed, "libtorrent", |at| {
        let script = at.home.join("client.py");
        std::fs::write(&script, lt::SCRIPT)?;
        let mut python = command_in(at.namespace, "/usr/bin/python3");
        python.arg("-u").arg(script).args(["node".as_ref(), at.torrent.as_os_str()]);
        python.arg(&at.downloads);
        Ok(python)
    })
}

/// Where a client lives.
pub(super) struct At<'a> {
    pub(super) namespace: &'a Namespace,
    home: PathBuf,
    pub(super) downloads: PathBuf,
    pub(super) torrent: PathBuf,
}

pub(super) fn there_and_back(
    testbed: &mut Testbed,
    client: &str,
    make: impl Fn(&At) -> Result<Command>,
) -> Result<String> {
    let name = format!("interop-{client}");
    let lab = testbed.sample_lab(&name)?;
    let server = testbed.serve(&lab, &name)?;
    let namespace = testbed.lan.namespace()?;
    let home = testbed.scratch(&format!("{name}-home"))?;
    let (downloads, torrent) = (home.join("downloads"), home.join("sample.torrent"));
    std::fs::create_dir_all(&downloads)?;
    std::fs::write(&torrent, http::get(HTTP, &format!("/torrents/{SYSTEM}.torrent"))?)?;
    let at = At { namespace: &namespace, home, downloads, torrent };
    let mut running = Running::start(client, make(&at)?, &testbed.out.join(format!("{name}.log")))?;
    let outcome = (|| {
        let begin = clock::now();
        wait_for_files(&mut running, &lab, &at.downloads.join(SYSTEM))
            .with_context(|| format!("{client} got nothing from bt-server"))?;
        let there = (clock::now() - begin).as_secs_f64();
        let begin = clock::now();
        let back = node_fetches(testbed, &lab, &name, &namespace)
            .with_context(|| format!("nothing came back from {client}"))?;
        let back_took = (clock::now() - begin).as_secs_f64();
        running.check_running()?;
        Ok(format!(
            "{client} fetched the system from bt-server in {there:.0} s; bt-node fetched all of it, \
             {:.1} MB, from {client} alone in {back_took:.0} s",
            back as f64 / 1e6
        ))
    })();
    server.explain(outcome)
}

fn wait_for_files(client: &mut Running, lab: &SampleLab, folder: &Path) -> Result<()> {
    clock::wait_for("the client to have everything", LIMIT, || {
        client.check_running()?;
        clock::pause(Duration::from_millis(500))?;
        Ok(check_same_files(lab, folder).ok())
    })
}

/// A node that reaches the server's web port only, so it has to get everything from the client.
fn node_fetches(
    testbed: &mut Testbed,
    lab: &SampleLab,
    name: &str,
    client: &Namespace,
) -> Result<u64> {
    let namespace = testbed.lan.namespace()?;
    let rules = format!(
        "table ip away {{ chain input {{ type filter hook input priority 0\n\
         ip saddr {SERVER} tcp sport != {} drop\n}}\n}}\n",
        HTTP.port()
    );
    let folder = testbed.scratch(&format!("{name}-node"))?;
    let file = folder.join("away.nft");
    std::fs::write(&file, rules)?;
    let mut nft = command_in(&namespace, "nft");
    nft.arg("-f").arg(file);
    run(nft)?;
    let mut node = fetch(testbed, lab, &namespace, &folder, &format!("{name}-node"), true)?;
    let is_content = node.wait(LIMIT)?;
    ensure!(is_content, "bt-node failed:\n{}", tail(&node.printed(), 10));
    check_same_files(lab, &folder)?;
    let seen = figures(&node.printed())?;
    ensure!(
        bytes_from(&seen, &SERVER.to_string()) == 0,
        "bt-server sent something to bt-node: {seen}"
    );
    let bytes = bytes_from(&seen, &client.address().to_string());
    ensure!(bytes > 0, "nothing came from the client: {seen}");
    Ok(bytes)
}
