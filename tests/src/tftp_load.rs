//! Shell: `cargo lab tftp-load`: a room of TFTP clients at once, and some on a network that loses
//! packets, against bt-server and dnsmasq in one run.
//!
//! The clients are curl, in a network of their own, each with an address of its own. Packets are
//! lost by nftables, `numgen random`, on their way in at both ends; its counters prove it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::cargo;
use crate::clock;
use crate::dnsmasq::Dnsmasq;
use crate::net::{Place, SERVER};
use crate::process::{command, command_in, output, run as run_command};
use crate::report::Report;
use crate::setup::Extra;

/// A loader of a usual size.
const FILE_BYTES: usize = 1 << 20;
/// Its name, in the operator's own folder.
const FILE: &str = "load.bin";
/// What fits in an Ethernet frame with room to spare, as iPXE asks for.
const BLOCK: u16 = 1400;
/// A room of PCs.
const CLIENTS: u8 = 32;
/// Clients on a network that loses packets.
const LOSSY_CLIENTS: u8 = 8;
/// Lost packets of 1000, each way.
const LOSSES: [u32; 2] = [10, 50];
/// A person in front of a PC has given up by then.
const LIMIT: Duration = Duration::from_secs(40);

/// Measure TFTP: 32 clients at once, and 8 on networks that lose packets
///
/// bt-server and dnsmasq serve the same file to the same clients, in turns. All 32 must get it,
/// no slower than from dnsmasq, and all 8 must get it from bt-server with 1 % and 5 % of the
/// packets lost each way.
#[derive(Args)]
pub struct Options {
    /// Rounds without loss; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Install missing Debian packages without asking
    #[arg(long)]
    yes: bool,
    /// Leave logs in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Report> {
    let out = options.out.clone().unwrap_or_else(|| cargo::results_folder().join("tftp-load"));
    let mut bench = Bench::prepare(Extra::Load, options.yes, &out, None)?;
    let crowd = Crowd::prepare(&mut bench)?;
    let lab = bench.sample_lab("tftp-load")?;
    let loaders = lab.folder().join("ipxe");
    std::fs::create_dir_all(&loaders).context("cannot make the folder for loaders")?;
    std::fs::write(loaders.join(FILE), &crowd.file).context("cannot write the file")?;
    let server = bench.serve(&lab, "tftp-load")?;
    let mut dnsmasq = Dnsmasq::serve_tftp(bench.lan.place()?, &loaders, &out)?;
    clock::pause(Duration::from_secs(1))?;
    dnsmasq.check_running()?;

    let mut rounds = Rounds::default();
    for run in 1..=options.runs {
        // In turns, so that neither always has the warmer caches.
        let (ours, theirs) = if run % 2 == 1 {
            let ours = server.explain(crowd.fetch(SERVER, CLIENTS))?;
            (ours, crowd.fetch(dnsmasq.address(), CLIENTS)?)
        } else {
            let theirs = crowd.fetch(dnsmasq.address(), CLIENTS)?;
            (server.explain(crowd.fetch(SERVER, CLIENTS))?, theirs)
        };
        println!("round {run}: bt-server {ours}, dnsmasq {theirs}");
        rounds.add(ours, theirs);
    }
    let mut lossy = Vec::new();
    for permille in LOSSES {
        let ours = crowd.fetch_with_loss(None, SERVER, permille)?;
        let theirs = crowd.fetch_with_loss(Some(dnsmasq.place()), dnsmasq.address(), permille)?;
        println!("{} % lost each way: bt-server {ours}, dnsmasq {theirs}", permille / 10);
        lossy.push(Lossy { permille, ours, theirs });
    }
    Ok(report(&rounds, &lossy))
}

/// How one crowd of clients fared.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fetched {
    clients: u8,
    whole: u8,
    secs: f64,
    dropped: u64,
}

impl std::fmt::Display for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} in {:.2} s", self.whole, self.clients, self.secs)
    }
}

impl Fetched {
    fn is_all(&self) -> bool {
        self.whole == self.clients
    }

    fn to_json(self) -> Value {
        let Self { clients, whole, secs, dropped } = self;
        json!({"clients": clients, "finished": whole, "secs": secs, "packets_lost": dropped})
    }
}

/// The rounds without loss.
#[derive(Default)]
struct Rounds {
    ours: Vec<Fetched>,
    theirs: Vec<Fetched>,
}

impl Rounds {
    fn add(&mut self, ours: Fetched, theirs: Fetched) {
        self.ours.push(ours);
        self.theirs.push(theirs);
    }
}

/// One rate of loss.
struct Lossy {
    permille: u32,
    ours: Fetched,
    theirs: Fetched,
}

/// The median; of an even count the upper one.
fn median(fetched: &[Fetched]) -> f64 {
    let mut secs: Vec<f64> = fetched.iter().map(|one| one.secs).collect();
    secs.sort_by(f64::total_cmp);
    secs.get(secs.len() / 2).copied().unwrap_or(f64::INFINITY)
}

fn report(rounds: &Rounds, lossy: &[Lossy]) -> Report {
    let (ours, theirs) = (median(&rounds.ours), median(&rounds.theirs));
    let all_arrived = rounds.ours.iter().all(Fetched::is_all);
    let all_survived = lossy.iter().all(|one| one.ours.is_all());
    let is_good = all_arrived && all_survived && ours <= theirs;
    println!("\n  {:34} {:>18} {:>18}", "", "bt-server", "dnsmasq");
    let row = |name: &str, ours: String, theirs: String| {
        println!("  {name:34} {ours:>18} {theirs:>18}");
    };
    let name = format!("{CLIENTS} clients x 1 MiB, median");
    row(&name, format!("{ours:.2} s"), format!("{theirs:.2} s"));
    for one in lossy {
        let name = format!("{LOSSY_CLIENTS} clients, {} % lost each way", one.permille / 10);
        row(&name, one.ours.to_string(), one.theirs.to_string());
    }
    let line = format!(
        "{CLIENTS} clients took {ours:.2} s with bt-server, {theirs:.2} s with dnsmasq; with loss \
         {} finished",
        if all_survived { "all" } else { "not all" }
    );
    let all = |fetched: &[Fetched]| fetched.iter().map(|one| one.to_json()).collect::<Vec<_>>();
    let lossy: Vec<Value> = lossy
        .iter()
        .map(|one| {
            json!({"loss_permille": one.permille, "bt_server": one.ours.to_json(),
                   "dnsmasq": one.theirs.to_json()})
        })
        .collect();
    Report::new(is_good, line)
        .with("bt_server_secs", ours)
        .with("dnsmasq_secs", theirs)
        .with("bt_server_rounds", all(&rounds.ours))
        .with("dnsmasq_rounds", all(&rounds.theirs))
        .with("lossy", lossy)
}

/// The clients, their network, and what they fetch.
struct Crowd {
    place: Place,
    folder: PathBuf,
    file: Vec<u8>,
}

impl Crowd {
    fn prepare(bench: &mut Bench) -> Result<Self> {
        let place = bench.lan.place()?;
        for number in 0..CLIENTS {
            place.add_address(address(number))?;
        }
        let file = (0..FILE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
        Ok(Self { place, folder: bench.scratch("tftp-load-files")?, file })
    }

    /// Lets `clients` fetch the file at once.
    fn fetch(&self, server: Ipv4Addr, clients: u8) -> Result<Fetched> {
        for number in 0..clients {
            std::fs::remove_file(self.fetched_file(number)).ok();
        }
        let mut crowd = command_in(&self.place, "sh");
        crowd.arg("-c").arg(self.script(server, clients));
        let start = clock::now();
        output(&mut crowd)?;
        let secs = (clock::now() - start).as_secs_f64();
        let is_whole = |number: &u8| {
            std::fs::read(self.fetched_file(*number)).is_ok_and(|bytes| bytes == self.file)
        };
        let whole = (0..clients).filter(is_whole).count() as u8;
        Ok(Fetched { clients, whole, secs, dropped: 0 })
    }

    /// The same for few, while packets are lost at both ends. `server_place`: where the server is,
    /// when it is not in the lab's own network.
    fn fetch_with_loss(
        &self,
        server_place: Option<&Place>,
        server: Ipv4Addr,
        permille: u32,
    ) -> Result<Fetched> {
        let nft = |place: Option<&Place>| match place {
            Some(place) => command_in(place, "nft"),
            None => command("nft"),
        };
        let ends = [Some(&self.place), server_place];
        for end in ends {
            let rules = self.folder.join("loss.nft");
            std::fs::write(&rules, loss_rules(permille)).context("cannot write the rules")?;
            let mut load = nft(end);
            load.arg("-f").arg(&rules);
            run_command(load)?;
        }
        let fetched = self.fetch(server, LOSSY_CLIENTS);
        let mut dropped = 0;
        for end in ends {
            let mut list = nft(end);
            list.args(["list", "table", "inet", "loss"]);
            let lost = dropped_packets(&run_command(list)?)?;
            ensure!(lost > 0, "nftables lost no packet at one end: the measurement is void");
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
    fn script(&self, server: Ipv4Addr, clients: u8) -> String {
        let lines = (0..clients).map(|number| {
            let to = self.fetched_file(number);
            client_line(server, address(number), &to)
        });
        lines.collect::<String>() + "wait\n"
    }
}

fn client_line(server: Ipv4Addr, from: Ipv4Addr, to: &Path) -> String {
    format!(
        "curl -s -m {} --interface {from} --tftp-blksize {BLOCK} -o {} tftp://{server}/{FILE} &\n",
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
    number.parse().with_context(|| format!("`{number}` is no count of packets"))
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
    fn the_median_is_the_middle_round() {
        let round = |secs| Fetched { clients: 1, whole: 1, secs, dropped: 0 };
        assert_eq!(median(&[round(3.0), round(1.0), round(2.0)]), 2.0);
        assert_eq!(median(&[]), f64::INFINITY);
    }

    #[test]
    fn every_client_has_an_address_of_its_own_outside_the_servers_range() {
        let last = address(CLIENTS - 1);
        assert!(last < Ipv4Addr::new(10, 77, 0, 200) && address(0) > Ipv4Addr::new(10, 77, 0, 150));
    }
}
