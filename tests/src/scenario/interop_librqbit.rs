//! Shell: librqbit, whose crates our engine stands on, fetches from our server, then feeds our node
//! all alone.

use anyhow::Result;

use super::interop::there_and_back;
use crate::commands::swarm::engine::librqbit::peer;
use crate::room::testbed::Testbed;

pub fn run(testbed: &mut Testbed) -> Result<String> {
    there_and_back(testbed, "librqbit", |at| {
        peer(at.namespace, "fetch", &at.torrent, &at.downloads)
    })
}
