//! Shell: the DHCP server dies at random moments under load, and no node may suffer from it.
//!
//! A client plays a relay with fifty nodes (RFC 2131 §4.1: replies come to the relay's port 67) and
//! remembers each ACK. After each kill -9 and restart, every node asks for its address as after a
//! reboot (INIT-REBOOT): silence or NAK would mean that its lease is lost.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};

use crate::host::clock;
use crate::room::addresses::SERVER;
use crate::room::namespace::Namespace;
use crate::room::relay::{self, ACK, DISCOVER, OFFER, REQUEST, Reply, address_option, message};
use crate::room::testbed::Testbed;

/// Half of the sample lab's addresses: while more are free, the server accepts unknown PCs at any rate.
const NODES: u8 = 50;
/// Concurrent exchanges.
const WINDOW: usize = 16;
/// How long an answer may take before the client goes on without it.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn run(testbed: &mut Testbed) -> Result<String> {
    let rounds = if testbed.long { 500 } else { 20 };
    let lab = testbed.sample_lab("leases")?;
    let namespace = testbed.lan.namespace()?;
    let mut client = Client::new(&namespace)?;
    // Printed, so that a failure can be replayed.
    let mut random = Random(u64::from(std::process::id()));
    println!("  seed {}", random.0);
    for round in 1..=rounds {
        let server = testbed.serve(&lab, "leases")?;
        let outcome = client.check_all();
        server.explain(outcome).with_context(|| format!("round {round}"))?;
        let (pid, life) = (server.pid(), Duration::from_millis(20 + random.next() % 500));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(life);
            kill(pid, Signal::SIGKILL)
        });
        let load = client.load(clock::now() + life, &mut random);
        killer
            .join()
            .expect("it only sleeps and kills")
            .context("the server had already exited")?;
        server.explain(load).with_context(|| format!("round {round}"))?;
    }
    let server = testbed.serve(&lab, "leases")?;
    server.explain(client.check_all())?;
    Ok(format!(
        "{rounds} times kill -9 under load: {} ACKs, no lease lost, no address assigned twice",
        client.acks
    ))
}

/// Small and seeded (Knuth's MMIX generator; the high bits are the good ones).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// The nodes, and the addresses they were assigned.
struct Client {
    socket: UdpSocket,
    relay: Ipv4Addr,
    assigned: BTreeMap<u8, Ipv4Addr>,
    acks: usize,
}

impl Client {
    fn new(namespace: &Namespace) -> Result<Self> {
        let relay = namespace.address();
        let socket = relay::socket(namespace, relay, SERVER)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Self { socket, relay, assigned: BTreeMap::new(), acks: 0 })
    }

    /// Every node reboots and asks for the address it remembers.
    fn check_all(&mut self) -> Result<()> {
        let remembered: Vec<(u8, Ipv4Addr)> =
            self.assigned.iter().map(|it| (*it.0, *it.1)).collect();
        for nodes in remembered.chunks(WINDOW) {
            let mut asked: HashMap<u8, Ipv4Addr> = nodes.iter().copied().collect();
            for (&node, &ip) in &asked {
                self.send(node, REQUEST, &address_option(50, ip));
            }
            let end = clock::now() + PATIENCE;
            while !asked.is_empty() && clock::now() < end {
                let Some(reply) = self.receive()? else { continue };
                if reply.kind == ACK {
                    self.take(&reply)?;
                    asked.remove(&reply.node);
                }
            }
            ensure!(asked.is_empty(), "leases are lost: {asked:?} got no answer");
        }
        Ok(())
    }

    /// Nodes come and go until `end`, when the server dies.
    fn load(&mut self, end: Instant, random: &mut Random) -> Result<()> {
        let mut under_way = 0;
        while clock::now() < end {
            while under_way < WINDOW {
                self.send(u8::try_from(random.next() % u64::from(NODES))?, DISCOVER, &[]);
                under_way += 1;
            }
            match self.receive()? {
                Some(Reply { node, kind: OFFER, ip }) => {
                    let server = address_option(54, SERVER);
                    self.send(node, REQUEST, &[server, address_option(50, ip)].concat());
                }
                Some(reply) => {
                    self.take(&reply)?;
                    under_way -= 1;
                }
                // Lost, or two of one node that took one offer.
                None => under_way = 0,
            }
        }
        // What is still in the socket was assigned as well.
        while let Some(reply) = self.receive()? {
            if reply.kind == ACK {
                self.take(&reply)?;
            }
        }
        Ok(())
    }

    /// Remembers an ACK, and looks whether it fits to all before.
    fn take(&mut self, reply: &Reply) -> Result<()> {
        if reply.kind != ACK {
            bail!("PC {} was refused {:?}", reply.node, self.assigned.get(&reply.node));
        }
        self.acks += 1;
        if let Some(before) = self.assigned.insert(reply.node, reply.ip) {
            ensure!(before == reply.ip, "PC {} lost {before} and got {}", reply.node, reply.ip);
        }
        let owners = self.assigned.values().filter(|ip| **ip == reply.ip).count();
        ensure!(owners == 1, "{} has {owners} owners", reply.ip);
        Ok(())
    }

    /// A dead server refuses packets; that is no failure of the client.
    fn send(&self, node: u8, kind: u8, options: &[u8]) {
        self.socket.send(&message(node, kind, self.relay, options)).ok();
    }

    fn receive(&self) -> Result<Option<Reply>> {
        clock::check_interrupted()?;
        let mut packet = [0; 1500];
        // Nothing in time, or the port is closed for want of a server.
        let Ok(length) = self.socket.recv(&mut packet) else { return Ok(None) };
        Ok(Reply::read(&packet[..length]))
    }
}
