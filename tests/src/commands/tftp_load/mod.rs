//! Shell: `cargo lab tftp-load`: a room of TFTP clients at once, and some on a network that loses
//! packets, against bt-server and dnsmasq in one run.
//!
//! The clients are in a network of their own, each with an address of its own, and ask for what real
//! firmware asks for: as iPXE (curl: one block for each ACK) and as UEFI (a client of the lab's own,
//! since curl has no windows). Packets are lost by nftables, `numgen random`, on their way in at both
//! ends; its counters prove it. CPU is what the kernel charged to the server.

mod client;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::host::cargo::{self, Build};
use crate::host::clock;
use crate::host::outcome::{self, Outcome};
use crate::host::packages::Extra;
use crate::host::process::{command, cpu, load, output, run as run_command};
use crate::room::addresses::SERVER;
use crate::room::dnsmasq::Dnsmasq;
use crate::room::namespace::{Namespace, command_in};
use crate::room::server::Server;
use crate::room::testbed::Testbed;
use client::Wish;

/// A boot loader of a usual size.
const FILE_BYTES: usize = 1 << 20;
/// Its name, in the operator's own folder.
const FILE: &str = "load.bin";
/// A room of PCs.
const CLIENTS: u8 = 32;
/// Clients on a network that loses packets.
const LOSSY_CLIENTS: u8 = 8;
/// Lost packets of 1000, in each direction.
const LOSSES: [u32; 2] = [10, 50];
/// A person in front of a PC has given up by then.
const LIMIT: Duration = Duration::from_secs(40);

/// Measure TFTP: 32 clients at once, and 8 on networks that lose packets
///
/// bt-server and dnsmasq serve the same file to the same clients, in turn: with the requests of iPXE
/// and with those of UEFI. All 32 must get it, in the median no slower than from dnsmasq, and all 8
/// must get it from bt-server with 1 % and 5 % of the packets lost in each direction.
#[derive(Args)]
pub struct Options {
    /// Number of rounds without loss; medians count, so it must be odd
    #[arg(long, default_value_t = 5, value_parser = outcome::odd_runs)]
    runs: u32,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// Save logs to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Outcome> {
    let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("tftp-load"));
    let mut testbed = Testbed::prepare(Extra::Load, Build::Release, options.yes, &out, None)?;
    let (crowd, server, dnsmasq) = prepare(&mut testbed, "tftp-load")?;
    let mut rounds = Vec::new();
    for run in 1..=options.runs {
        for kind in [AS_IPXE, AS_UEFI] {
            let ours = || server.explain(crowd.fetch(kind, SERVER, server.pid(), CLIENTS));
            let theirs = || crowd.fetch(kind, dnsmasq.address(), dnsmasq.pid(), CLIENTS);
            // In turns, so that neither always has the warmer caches.
            let (ours, theirs) = if run % 2 == 1 {
                let ours = ours()?;
                (ours, theirs()?)
            } else {
                let theirs = theirs()?;
                (ours()?, theirs)
            };
            println!("round {run}, {}: bt-server {ours}, dnsmasq {theirs}", kind.name);
            rounds.push(Round { kind, ours, theirs });
        }
    }
    let mut lossy = Vec::new();
    for permille in LOSSES {
        let ours = crowd.fetch_with_loss(None, SERVER, server.pid(), permille)?;
        let namespace = Some(dnsmasq.namespace());
        let theirs =
            crowd.fetch_with_loss(namespace, dnsmasq.address(), dnsmasq.pid(), permille)?;
        println!("{} % lost in each direction: bt-server {ours}, dnsmasq {theirs}", permille / 10);
        lossy.push(Lossy { permille, ours, theirs });
    }
    Ok(report(&rounds, &lossy))
}

/// For the tests: on a network that loses 5 % in each direction, every client gets the file.
pub fn survive_loss(testbed: &mut Testbed) -> Result<String> {
    let permille = LOSSES[1];
    let (crowd, server, _dnsmasq) = prepare(testbed, "tftp-loss")?;
    let fetched = server.explain(crowd.fetch_with_loss(None, SERVER, server.pid(), permille))?;
    server.explain(match fetched.is_all() {
        true => Ok(()),
        false => Err(anyhow::anyhow!("only {fetched}")),
    })?;
    Ok(format!(
        "{} of {} clients got the file while nftables lost {} packets",
        fetched.whole, fetched.clients, fetched.dropped
    ))
}

/// The clients and both servers, all with the same file.
fn prepare(testbed: &mut Testbed, name: &str) -> Result<(Crowd, Server, Dnsmasq)> {
    let crowd = Crowd::prepare(testbed)?;
    let lab = testbed.sample_lab(name)?;
    let folder = lab.folder().join("ipxe");
    std::fs::create_dir_all(&folder).context("cannot make the folder for boot loaders")?;
    std::fs::write(folder.join(FILE), &crowd.file).context("cannot write the file")?;
    let server = testbed.serve(&lab, name)?;
    let mut dnsmasq = Dnsmasq::serve_tftp(testbed.lan.namespace()?, &folder, &testbed.out)?;
    clock::pause(Duration::from_secs(1))?;
    dnsmasq.check_running()?;
    Ok((crowd, server, dnsmasq))
}

/// What a kind of client asks for.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    block: u16,
    /// More than 1: by the lab's own client, else by curl.
    window: u16,
}

const AS_IPXE: Kind = Kind { name: "as iPXE: 1432, no window", block: 1432, window: 1 };
const AS_UEFI: Kind = Kind { name: "as UEFI: 1468, window 4", block: 1468, window: 4 };

/// How one crowd of clients fared.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fetched {
    clients: u8,
    whole: u8,
    secs: f64,
    cpu_secs: f64,
    dropped: u64,
}

impl std::fmt::Display for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { whole, clients, secs, cpu_secs, .. } = self;
        write!(f, "{whole}/{clients} in {secs:.2} s ({cpu_secs:.2} s CPU)")
    }
}

impl Fetched {
    fn is_all(&self) -> bool {
        self.whole == self.clients
    }

    fn to_json(self) -> Value {
        let Self { clients, whole, secs, cpu_secs, dropped } = self;
        json!({"clients": clients, "finished": whole, "secs": secs, "cpu_secs": cpu_secs,
               "packets_lost": dropped})
    }
}

/// One round without loss.
struct Round {
    kind: Kind,
    ours: Fetched,
    theirs: Fetched,
}

/// One rate of loss.
struct Lossy {
    permille: u32,
    ours: Fetched,
    theirs: Fetched,
}

/// The medians of one kind of client.
struct Medians {
    kind: Kind,
    ours: (f64, f64),
    theirs: (f64, f64),
}

impl Medians {
    fn of(rounds: &[Round], kind: Kind) -> Self {
        let of = |pick: fn(&Round) -> f64| {
            let same = rounds.iter().filter(|round| round.kind.window == kind.window);
            outcome::median(same.map(pick).collect())
        };
        let ours = (of(|it| it.ours.secs), of(|it| it.ours.cpu_secs));
        Self { kind, ours, theirs: (of(|it| it.theirs.secs), of(|it| it.theirs.cpu_secs)) }
    }

    fn to_json(&self) -> Value {
        json!({"clients": self.kind.name, "bt_server_secs": self.ours.0, "dnsmasq_secs":
               self.theirs.0, "bt_server_cpu_secs": self.ours.1, "dnsmasq_cpu_secs": self.theirs.1})
    }
}

fn report(rounds: &[Round], lossy: &[Lossy]) -> Outcome {
    let medians = [AS_IPXE, AS_UEFI].map(|kind| Medians::of(rounds, kind));
    let all_arrived = rounds.iter().all(|round| round.ours.is_all());
    let all_survived = lossy.iter().all(|one| one.ours.is_all());
    let no_slower = medians.iter().all(|it| it.ours.0 <= it.theirs.0);
    println!("\n| load {:.1} | bt-server | dnsmasq |\n|---|---|---|", load());
    for Medians { kind, ours, theirs } in &medians {
        let shown = |(secs, cpu): (f64, f64)| format!("{secs:.2} s ({cpu:.2} s CPU)");
        let name = kind.name;
        println!("| {CLIENTS} x 1 MiB, {name} | {} | {} |", shown(*ours), shown(*theirs));
    }
    for Lossy { permille, ours, theirs } in lossy {
        let percent = permille / 10;
        println!(
            "| {LOSSY_CLIENTS} x 1 MiB, {percent} % lost in each direction | {ours} | {theirs} |"
        );
    }
    println!();
    let [ipxe, uefi] = &medians;
    let line = format!(
        "{CLIENTS} clients took {:.2} s and {:.2} s with bt-server, {:.2} s and {:.2} s with \
         dnsmasq (requests of iPXE and of UEFI); with loss {} finished",
        ipxe.ours.0,
        uefi.ours.0,
        ipxe.theirs.0,
        uefi.theirs.0,
        if all_survived { "all" } else { "not all" }
    );
    let rounds: Vec<Value> = rounds
        .iter()
        .map(|it| {
            json!({"clients": it.kind.name, "bt_server": it.ours.to_json(),
                   "dnsmasq": it.theirs.to_json()})
        })
        .collect();
    let lossy: Vec<Value> = lossy
        .iter()
        .map(|one| {
            json!({"loss_permille": one.permille, "bt_server": one.ours.to_json(),
                   "dnsmasq": one.theirs.to_json()})
        })
        .collect();
    Outcome::new(all_arrived && all_survived && no_slower, line)
        .with("medians", medians.iter().map(Medians::to_json).collect::<Vec<_>>())
        .with("rounds", rounds)
        .with("lossy", lossy)
}

/// The clients, their network, and what they fetch.
struct Crowd {
    namespace: Namespace,
    folder: PathBuf,
    file: Vec<u8>,
}

impl Crowd {
    fn prepare(testbed: &mut Testbed) -> Result<Self> {
        let namespace = testbed.lan.namespace()?;
        for number in 0..CLIENTS {
            namespace.add_address(address(number))?;
        }
        let file = (0..FILE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
        Ok(Self { namespace, folder: testbed.scratch("tftp-load-files")?, file })
    }

    /// Lets `clients` fetch the file from `server` at once.
    fn fetch(&self, kind: Kind, server: Ipv4Addr, pid: Pid, clients: u8) -> Result<Fetched> {
        let (used, start) = (cpu(pid)?, clock::now());
        let got = if kind.window == 1 {
            self.fetch_with_curl(kind, server, clients)?
        } else {
            let addresses: Vec<_> = (0..clients).map(address).collect();
            let Kind { block, window, .. } = kind;
            let wish = Wish { server, file: FILE, block, window, limit: LIMIT };
            let got = client::fetch_all(&self.namespace, &addresses, wish);
            got.into_iter().map(Result::ok).collect()
        };
        let secs = (clock::now() - start).as_secs_f64();
        let cpu_secs = cpu(pid)?.saturating_sub(used).as_secs_f64();
        let whole = got.iter().flatten().filter(|bytes| **bytes == self.file).count();
        Ok(Fetched { clients, whole: u8::try_from(whole)?, secs, cpu_secs, dropped: 0 })
    }

    /// What each curl left; `None` when there is nothing.
    fn fetch_with_curl(
        &self,
        kind: Kind,
        server: Ipv4Addr,
        clients: u8,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        for number in 0..clients {
            std::fs::remove_file(self.fetched_file(number)).ok();
        }
        let mut crowd = command_in(&self.namespace, "sh");
        crowd.arg("-c").arg(self.script(kind, server, clients));
        output(&mut crowd)?;
        Ok((0..clients).map(|number| std::fs::read(self.fetched_file(number)).ok()).collect())
    }

    /// The same for few, while packets are lost at both ends. `server_namespace`: where the server is,
    /// when it is not in the lab's own network.
    fn fetch_with_loss(
        &self,
        server_namespace: Option<&Namespace>,
        server: Ipv4Addr,
        pid: Pid,
        permille: u32,
    ) -> Result<Fetched> {
        let nft = |namespace: Option<&Namespace>| match namespace {
            Some(namespace) => command_in(namespace, "nft"),
            None => command("nft"),
        };
        let ends = [Some(&self.namespace), server_namespace];
        for end in ends {
            let rules = self.folder.join("loss.nft");
            std::fs::write(&rules, loss_rules(permille)).context("cannot write the rules")?;
            let mut load = nft(end);
            load.arg("-f").arg(&rules);
            run_command(load)?;
        }
        let fetched = self.fetch(AS_IPXE, server, pid, LOSSY_CLIENTS);
        let mut dropped = 0;
        for end in ends {
            let mut list = nft(end);
            list.args(["list", "table", "inet", "loss"]);
            let lost = dropped_packets(&run_command(list)?)?;
            ensure!(lost > 0, "nftables dropped no packet at one end, so the measurement is void");
            dropped += lost;
            let mut delete = nft(end);
            delete.args(["delete", "table", "inet", "loss"]);
            run_command(delete)?;
        }
        Ok(Fetched { dropped, ..fetched? })
    }

    fn fetched_file(&self, number: u8) -> PathBuf {
        self.folder.join(format!("got.{number}"))
    }

    /// All clients in one shell, which ends when the last has.
    fn script(&self, kind: Kind, server: Ipv4Addr, clients: u8) -> String {
        let lines = (0..clients).map(|number| {
            let to = self.fetched_file(number);
            client_line(kind.block, server, address(number), &to)
        });
        lines.collect::<String>() + "wait\n"
    }
}

fn client_line(block: u16, server: Ipv4Addr, from: Ipv4Addr, to: &Path) -> String {
    format!(
        "curl -s -m {} --interface {from} --tftp-blksize {block} -o {} tftp://{server}/{FILE} &\n",
        LIMIT.as_secs(),
        to.display()
    )
}

/// The address of a client; the server's limit per PC is meant for PCs.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 160 + number)
}

/// Loses so many of 1000 UDP packets that come in. Each rule stands on a line of its own: nft 1.0.6
/// refuses the short form.
fn loss_rules(permille: u32) -> String {
    format!(
        "table inet loss {{\n chain in {{\n  type filter hook input priority 0;\n  \
         meta l4proto udp numgen random mod 1000 < {permille} counter drop\n }}\n}}\n"
    )
}

/// The packets that a listed rule has dropped.
fn dropped_packets(listed: &str) -> Result<u64> {
    let (_, after) = listed.split_once("counter packets ").context("the rule has no counter")?;
    let number = after.split(' ').next().unwrap_or_default();
    number.parse().with_context(|| format!("`{number}` is not a number of packets"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_a_listed_rule_is_read() {
        let listed = "table inet loss {\n\tchain in {\n\t\tnumgen random mod 1000 < 50 counter \
                      packets 37 bytes 52000 drop\n\t}\n}\n";
        assert_eq!(dropped_packets(listed).expect("a counter"), 37);
        assert!(dropped_packets("table inet loss {}").is_err());
    }

    #[test]
    fn every_client_has_an_address_of_its_own_outside_the_servers_range() {
        let last = address(CLIENTS - 1);
        assert!(last < Ipv4Addr::new(10, 77, 0, 200) && address(0) > Ipv4Addr::new(10, 77, 0, 150));
    }
}
