//! Shell: multicast. The sender starts when all receivers are there, and repeats what one missed.

use anyhow::Result;

use super::{Source, Stage};
use crate::commands::swarm::worker::{Mark, Worker};
use crate::room::namespace::command_in;

/// What share of the link is sent: faster, and the switch's queue drops packets.
const SHARE: f64 = 0.97;

pub fn source(stage: &Stage) -> Result<Source> {
    let wiring = stage.room.wiring();
    let kbit = f64::from(wiring.mbit.min(wiring.server_mbit)) * 1000.0 * SHARE;
    let mut sender = command_in(&stage.room.server, "udp-sender");
    sender.args(["--interface", "eth0", "--full-duplex", "--nokbd", "--no-progress"]);
    sender.args(["--min-receivers", &wiring.nodes.to_string(), "--max-bitrate"]);
    sender.arg(format!("{kbit:.0}k")).arg("--file").arg(stage.payload.single_file());
    let worker = stage.start("udpcast-sender", sender, Mark::End)?;
    Ok(Source { worker, _tracker: None })
}

pub fn node(stage: &Stage, node: usize) -> Result<Worker> {
    let mut receiver = command_in(stage.node_namespace(node), "udp-receiver");
    receiver.args(["--interface", "eth0", "--nokbd", "--no-progress", "--file"]);
    receiver.arg(stage.make_node_folder(node)?.join("image.bin"));
    stage.start_node("udpcast", node, receiver, Mark::End)
}
