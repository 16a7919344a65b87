//! Shell: nginx and curl. nginx sends straight from the page cache (sendfile), in one process.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Source, Stage};
use crate::commands::swarm::worker::{Mark, Worker};
use crate::host::clock;
use crate::room::namespace::command_in;

const PORT: u16 = 8080;
const READY_LIMIT: Duration = Duration::from_secs(20);

pub fn source(stage: &Stage) -> Result<Source> {
    let folder = stage.work.join("nginx");
    std::fs::create_dir_all(&folder)?;
    let settings = folder.join("nginx.conf");
    let root = stage.payload.folder().display();
    let text = format!(
        "user root;\ndaemon off;\nmaster_process off;\npid {0}/pid;\nerror_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         access_log off; sendfile on; tcp_nopush on;\n\
         client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};\n\
         uwsgi_temp_path {0}; scgi_temp_path {0};\n\
         server {{ listen {PORT}; root {root}; }}\n\
         }}\n",
        folder.display()
    );
    std::fs::write(&settings, text).context("cannot write nginx.conf")?;
    let mut nginx = command_in(&stage.room.server, "nginx");
    nginx.arg("-p").arg(&folder).arg("-c").arg(&settings);
    let worker = stage.start("http-nginx", nginx, Mark::End)?;
    clock::wait_for("nginx to listen", READY_LIMIT, || {
        let ended = worker.end()?;
        ensure!(ended.is_none(), "nginx has exited:\n{}", worker.printed());
        // The process' own view: the table of its network.
        let sockets = std::fs::read_to_string(format!("/proc/{}/net/tcp", worker.pid()))?;
        Ok(sockets.contains(&format!("00000000:{PORT:04X} 00000000:0000 0A")).then_some(()))
    })?;
    Ok(Source { worker, _tracker: None })
}

pub fn node(stage: &Stage, node: usize) -> Result<Worker> {
    let mut curl = command_in(stage.node_namespace(node), "curl");
    curl.args(["--silent", "--show-error", "--fail", "--output"]);
    curl.arg(stage.make_node_folder(node)?.join("image.bin"));
    curl.arg(format!("http://{}:{PORT}/image.bin", crate::room::addresses::SERVER));
    stage.start_node("http", node, curl, Mark::End)
}
