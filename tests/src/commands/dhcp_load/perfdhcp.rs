//! Shell: ISC's load generator, and what it prints.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::servers::Rival;
use crate::host::process::{command, cpu, output, run};
use crate::room::addresses::BRIDGE;
use crate::room::namespace::{Namespace, command_in};

/// Room for a hundred thousand nodes.
pub const SERVER_NETWORK: &str = "10.123.0.1/16";
/// The server's address there.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 123, 0, 1);
/// perfdhcp's, which calls itself a relay.
pub const RELAY: &str = "10.123.0.2/16";

/// One client machine that plays all the nodes.
pub struct Load {
    namespace: Namespace,
}

/// What one rate led to.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Exchanges begun each second.
    pub offered: u32,
    /// Exchanges that ended with a lease, each second.
    pub leases_per_sec: f64,
    /// From REQUEST to ACK, on average.
    pub delay_ms: f64,
    /// The longest.
    pub max_delay_ms: f64,
    /// CPU of the server for each lease.
    pub cpu_ms: f64,
    discover: Counts,
    request: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Counts {
    sent: u32,
    received: u32,
    delay_ms: f64,
    max_delay_ms: f64,
}

impl Load {
    /// Makes the LAN's network a larger one, and gives `namespace` an address there.
    pub fn new(namespace: Namespace) -> Result<Self> {
        for words in
            [format!("addr flush dev {BRIDGE}"), format!("addr add {SERVER_NETWORK} dev {BRIDGE}")]
        {
            let mut server = command("ip");
            server.args(words.split(' '));
            run(server)?;
        }
        let mut relay = command_in(&namespace, "ip");
        relay.args(["addr", "add", RELAY, "dev", "eth0"]);
        run(relay)?;
        Ok(Self { namespace })
    }

    /// The clients' network.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Lets `nodes` nodes ask in turns, `rate` a second for `secs` seconds.
    pub fn run(&self, rate: u32, secs: u32, nodes: u32, server: &Rival) -> Result<Seen> {
        self.run_more(0, rate, secs, nodes, server)
    }

    /// The same with other nodes than those of the parts before `part`.
    pub fn run_more(
        &self,
        part: u32,
        rate: u32,
        secs: u32,
        nodes: u32,
        server: &Rival,
    ) -> Result<Seen> {
        let mut perfdhcp = command_in(&self.namespace, "perfdhcp");
        let address = RELAY.split('/').next().expect("an address and a length");
        let [rate_word, secs_word, nodes_word, seed] =
            [rate, secs, nodes, rate + part].map(|number| number.to_string());
        perfdhcp.args(["-4", "-l", address, "-r", &rate_word, "-R", &nodes_word, "-p", &secs_word]);
        // MAC addresses count up from here.
        perfdhcp.args(["-b", &format!("mac=02:0c:{part:02x}:00:00:00")]);
        perfdhcp.args(["-W", "1000000", "-s", &seed, &SERVER.to_string()]);
        let before = cpu(server.pid())?;
        let printed = output(&mut perfdhcp)?;
        let used = cpu(server.pid())?.saturating_sub(before);
        let text = String::from_utf8_lossy(&printed.stdout);
        let discover = Counts::find(&text, "DISCOVER-OFFER");
        let request = Counts::find(&text, "REQUEST-ACK");
        let (discover, request) = discover.zip(request).with_context(|| {
            let said = String::from_utf8_lossy(&printed.stderr);
            format!("perfdhcp measured nothing: {said}{text}")
        })?;
        ensure!(request.received > 0, "the server assigned no lease; its log is {}", server.log());
        let leases = f64::from(request.received);
        Ok(Seen {
            offered: rate,
            leases_per_sec: leases / f64::from(secs),
            delay_ms: request.delay_ms,
            max_delay_ms: request.max_delay_ms,
            cpu_ms: used.as_secs_f64() * 1000.0 / leases,
            discover,
            request,
        })
    }
}

impl Seen {
    /// Exchanges that ended with a lease.
    pub fn leases(&self) -> u32 {
        self.request.received
    }

    /// The part of the requests that got no answer in time, in the worse of both halves.
    pub fn drops(&self) -> f64 {
        self.discover.drops().max(self.request.drops())
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({
            "offered": self.offered,
            "leases_per_sec": self.leases_per_sec,
            "discover_drops": self.discover.drops(),
            "request_drops": self.request.drops(),
            "delay_ms": self.delay_ms,
            "max_delay_ms": self.max_delay_ms,
            "cpu_ms_per_lease": self.cpu_ms,
        })
    }
}

impl Counts {
    /// Reads one part of perfdhcp's report: lines of `name: number`, some with a unit.
    fn find(report: &str, part: &str) -> Option<Self> {
        let (_, part) = report.split_once(&format!("***Statistics for: {part}***"))?;
        let part = part.split("***").next()?;
        let numbers: HashMap<&str, f64> = part
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter_map(|(name, value)| Some((name, value.split(' ').next()?.parse().ok()?)))
            .collect();
        let count = |name| numbers.get(name).map(|number| *number as u32);
        Some(Self {
            sent: count("sent packets")?,
            received: count("received packets")?,
            delay_ms: numbers.get("avg delay").copied().unwrap_or_default(),
            max_delay_ms: numbers.get("max delay").copied().unwrap_or_default(),
        })
    }

    fn drops(&self) -> f64 {
        1.0 - f64::from(self.received.min(self.sent)) / f64::from(self.sent.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running: perfdhcp -4\n\
        ***Rate statistics***\nRate: 99.8 4-way exchanges/second, expected rate: 100\n\n\
        ***Statistics for: DISCOVER-OFFER***\nsent packets: 500\nreceived packets: 490\ndrops: 10\n\
        min delay: 0.1 ms\navg delay: 0.416 ms\n\n\
        ***Statistics for: REQUEST-ACK***\nsent packets: 490\nreceived packets: 490\ndrops: 0\n\
        orphans: 0\n\nmin delay: 3.5 ms\navg delay: 5.311 ms\nmax delay: 20.5 ms\n";

    #[test]
    fn perfdhcps_report_is_read() {
        let counts = |sent, received, delay_ms, max_delay_ms| {
            Some(Counts { sent, received, delay_ms, max_delay_ms })
        };
        assert_eq!(Counts::find(REPORT, "DISCOVER-OFFER"), counts(500, 490, 0.416, 0.0));
        assert_eq!(Counts::find(REPORT, "REQUEST-ACK"), counts(490, 490, 5.311, 20.5));
        assert_eq!(Counts::find(REPORT, "RENEW"), None);
    }

    #[test]
    fn drops_are_a_part_of_what_was_sent() {
        let counts = Counts::find(REPORT, "DISCOVER-OFFER").expect("is there");
        assert!((counts.drops() - 0.02).abs() < 1e-9);
        // A load that never began must not count as carried.
        assert_eq!(Counts { sent: 0, ..counts }.drops(), 1.0);
    }
}
