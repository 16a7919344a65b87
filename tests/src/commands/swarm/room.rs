//! Shell: the room: the server and each node in a network of their own, all on one bridge.
//!
//! ```text
//!   server 10.77.0.1 eth0 ==== cable0 -+
//!   node 1 10.77.1.1 eth0 ==== cable1 -+- bridge bt0
//!   node 2 10.77.1.2 eth0 ==== cable2 -+
//! ```
//! Each cable is shaped at both ends, so a PC sends and receives at the link's rate, at the same
//! time, as on a switch. What the server sent is read off its shaper; who fed whom is counted on
//! the bridge, so no engine is asked for its own word.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::flow::{Flow, Sent, TCP_HEADERS};
use crate::host::process::{command, run};
use crate::room::addresses::{BRIDGE, SERVER};
use crate::room::namespace::{self, Namespace, command_in};

/// The most nodes that fit the addresses.
pub const MAX_NODES: usize = 250;
/// How the room is wired.
#[derive(Clone, Copy, Debug)]
pub struct Wiring {
    /// PCs, without the server.
    pub nodes: usize,
    /// Rate of a node's cable in each direction, in Mbit/s.
    pub mbit: u32,
    /// Rate of the server's cable in each direction, in Mbit/s.
    pub server_mbit: u32,
    /// Lost packets of 1000, on the bridge.
    pub loss_permille: u32,
    /// Whether to count who feeds whom.
    pub counts_flows: bool,
}

/// A wired room.
pub struct Room {
    /// The server's network.
    pub server: Namespace,
    /// The nodes' networks.
    pub nodes: Vec<Namespace>,
    wiring: Wiring,
}

impl Room {
    /// Wires the room up, in the private network that the lab has entered.
    pub fn wire_up(wiring: Wiring) -> Result<Self> {
        namespace::ip(&format!("link add {BRIDGE} type bridge mcast_snooping 0"))?;
        namespace::ip(&format!("link set {BRIDGE} up"))?;
        let loses = wiring.loss_permille > 0;
        let server = pc(0, SERVER, wiring.server_mbit, loses)?;
        let nodes = (0..wiring.nodes)
            .map(|node| pc(node + 1, node_address(node), wiring.mbit, loses))
            .collect::<Result<_>>()?;
        let room = Self { server, nodes, wiring };
        if loses || wiring.counts_flows {
            room.watch_bridge()?;
        }
        Ok(room)
    }

    /// How it is wired.
    pub fn wiring(&self) -> Wiring {
        self.wiring
    }

    fn watch_bridge(&self) -> Result<()> {
        let mut rules = String::from(
            "table bridge room {\n\
             set flows { type ipv4_addr . ipv4_addr; flags dynamic; counter; size 65535; }\n\
             counter lost { }\n\
             chain forward {\n\
             type filter hook forward priority 0;\n",
        );
        if self.wiring.counts_flows {
            rules += "update @flows { ip saddr . ip daddr }\n";
        }
        if self.wiring.loss_permille > 0 {
            let permille = self.wiring.loss_permille;
            rules += &format!("numgen random mod 1000 < {permille} counter name lost drop\n");
        }
        rules += "}\n}\n";
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), rules)?;
        let mut nft = command("nft");
        nft.arg("-f").arg(file.path());
        run(nft).context("cannot watch the bridge").map(drop)
    }

    /// What has left the server.
    pub fn server_sent(&self) -> Result<Sent> {
        let mut tc = command_in(&self.server, "tc");
        tc.args(["-j", "-s", "qdisc", "show", "dev", "eth0"]);
        read_sent(&run(tc)?).context("tc shows no counters of the server's link")
    }

    /// Forgets who fed whom so far.
    pub fn forget_flows(&self) -> Result<()> {
        if self.wiring.counts_flows {
            nft("flush set bridge room flows")?;
        }
        Ok(())
    }

    /// Who fed whom; nothing when it is not counted.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        if !self.wiring.counts_flows {
            return Ok(Vec::new());
        }
        read_flows(&nft("-j list set bridge room flows")?).context("nft lists no flows")
    }

    /// Packets that were made to get lost so far.
    pub fn lost(&self) -> Result<u64> {
        if self.wiring.loss_permille == 0 {
            return Ok(0);
        }
        let text = nft("-j list counter bridge room lost")?;
        let listed: Value = serde_json::from_str(&text).context("the output of nft is not JSON")?;
        let entries = listed["nftables"].as_array().context("nft lists nothing")?;
        let packets = entries.iter().find_map(|entry| entry["counter"]["packets"].as_u64());
        packets.context("nft lists no counter")
    }
}

fn nft(words: &str) -> Result<String> {
    let mut nft = command("nft");
    nft.args(words.split(' '));
    run(nft)
}

/// The address of a node, counted from 0.
pub fn node_address(node: usize) -> Ipv4Addr {
    let last = u8::try_from(node + 1).expect("a room has at most MAX_NODES");
    Ipv4Addr::new(10, 77, 1, last)
}

fn pc(number: usize, address: Ipv4Addr, mbit: u32, loses: bool) -> Result<Namespace> {
    ensure!(number <= MAX_NODES, "the maximum is {MAX_NODES} PCs in a room");
    let (here, there) = (format!("cable{number}"), format!("pc{number}"));
    namespace::ip(&format!("link add {here} type veth peer name {there}"))?;
    let namespace = Namespace::with_cable(&there, address, 16)?;
    if loses {
        // Else bundles of packets, of up to 64 KiB, would be lost together.
        namespace.ip("link set dev eth0 gso_max_segs 1")?;
    }
    namespace::ip(&format!("link set {here} master {BRIDGE} up"))?;
    namespace::shape(&here, mbit)?;
    namespace.shape("eth0", mbit)?;
    Ok(namespace)
}

/// Reads `tc -j -s qdisc show`: a token bucket counts each packet of a bundle, with its headers.
fn read_sent(text: &str) -> Option<Sent> {
    let shapers: Value = serde_json::from_str(text).ok()?;
    let shaper = shapers.as_array()?.iter().find(|it| it["kind"] == "tbf")?;
    Some(Sent { bytes: shaper["bytes"].as_u64()?, packets: shaper["packets"].as_u64()? })
}

/// Reads `nft -j list set`: pairs of addresses, each with a counter of bytes from IPv4's header on.
fn read_flows(text: &str) -> Option<Vec<Flow>> {
    let listed: Value = serde_json::from_str(text).ok()?;
    let set = listed["nftables"].as_array()?.iter().find_map(|it| it.get("set"))?;
    // A set without elements has no such key.
    let elements = set["elem"].as_array().map_or(&[][..], Vec::as_slice);
    elements
        .iter()
        .map(|element| {
            let pair = &element["elem"]["val"]["concat"];
            let counter = &element["elem"]["counter"];
            let address = |at: usize| pair[at].as_str()?.parse().ok();
            let headers = counter["packets"].as_u64()? * (TCP_HEADERS - 14);
            let bytes = counter["bytes"].as_u64()?.saturating_sub(headers);
            Some(Flow { from: address(0)?, to: address(1)?, bytes })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_bytes_are_read_without_headers() {
        let text = r#"[{"kind":"tbf","bytes":12932608,"packets":8553},{"kind":"noqueue"}]"#;
        let sent = read_sent(text).expect("there is a token bucket");
        assert_eq!(sent.payload(TCP_HEADERS), 12_368_110);
        assert_eq!(read_sent(r#"[{"kind":"noqueue"}]"#), None);
    }

    #[test]
    fn flows_are_read_with_both_ends() {
        let text = r#"{"nftables": [{"metainfo": {}}, {"set": {"elem": [{"elem": {
            "val": {"concat": ["10.77.0.1", "10.77.1.2"]},
            "counter": {"packets": 10, "bytes": 15000}}}]}}]}"#;
        let flow = Flow { from: SERVER, to: node_address(1), bytes: 15000 - 520 };
        assert_eq!(read_flows(text), Some(vec![flow]));
        assert_eq!(read_flows(r#"{"nftables": [{"set": {"name": "flows"}}]}"#), Some(vec![]));
    }
}
