//! Shell: `bt-server doctor`: why PCs do not boot, found from the server's own machine.
//!
//! First this machine (network card, ports, rights, firewall, clock, disk), then the lab's files,
//! then what a PC meets: DHCP servers on the segment, and, while a server runs, every step of a
//! boot from DISCOVER to the last byte of the initramfs, by each network card and for each kind of
//! firmware, and a handshake with the seed. Each observation that is not good says what helps. Nothing is changed; a running
//! server sees a few more clients, and the leases that they get are given back.

mod boot_chain;
mod capture;
mod clients;
mod dhcp;
mod diagnosis;
mod firewall;
mod machine;
mod script;
mod systems;
mod trouble;

use jiff::Timestamp;

use self::boot_chain::Walk;
use self::dhcp::Asker;
pub use self::diagnosis::{Diagnosis, Observation, Verdict};
use self::firewall::Firewall;
use crate::boot::loaders;
use crate::commands::check;
use crate::humanize;
use crate::lab::Lab;
use crate::lab::config::{Config, DhcpMode};
use crate::lab::instance::Instance;
use crate::os::card::Card;
use crate::os::interfaces;
use crate::os::sockets::{self, Transport};
use crate::process::daemon;
use crate::role::ServerRole;

/// Where firmware asks a proxy for its boot file (PXE 2.1 §2.2.3).
const PXE_PORT: u16 = 4011;

/// Looks at everything; `progress` is told what takes a moment now.
pub fn examine(lab: &Lab, progress: &dyn Fn(&str)) -> Diagnosis {
    let now = Timestamp::now();
    let mut found = Diagnosis::default();
    found.section("This machine");
    machine::clock(lab, now, &mut found);
    machine::disk(lab, &mut found);
    let config = lab.read_config().ok();
    // Where one is missing or has no address, `files` tells why.
    let card = |name| interfaces::cards([name]).ok().and_then(|mut found| found.pop());
    let cards: Vec<Card> = config.iter().flat_map(Config::interfaces).filter_map(card).collect();
    let running = daemon::all_running(lab);
    let firewall = Firewall::read();
    if let Some(config) = &config {
        for name in config.interfaces() {
            machine::link(name, &mut found);
        }
        if !firewall.is_known() {
            Firewall::tell_unknown(&mut found);
        }
        for card in &cards {
            found.at_card(several(&cards, card));
            if let Ok(running) = &running {
                machine::ports(config, card, &roles(running), &mut found);
            }
            firewall.examine(config, &card.name, &mut found);
        }
        found.at_card(None);
    }
    found.section("The lab folder");
    files(lab, now, &mut found);
    let Some(config) = config.filter(|_| !cards.is_empty()) else { return found };
    let place = Place { lab, config: &config, cards: &cards, firewall: &firewall };
    match running {
        Ok(running) => network(&place, &running, progress, &mut found),
        Err(error) => {
            found.fail("server", humanize::chain(&error), "run doctor as the owner of the lab");
        }
    }
    found
}

fn roles(running: &[(Instance, u32)]) -> Vec<ServerRole> {
    running.iter().flat_map(|(instance, _)| instance.roles.iter()).collect()
}

/// The name of a card for the findings; one that is alone needs none.
fn several<'a>(cards: &[Card], card: &'a Card) -> Option<&'a str> {
    (cards.len() > 1).then_some(card.name.as_str())
}

/// What is looked at.
struct Place<'a> {
    lab: &'a Lab,
    config: &'a Config,
    /// Those that have an address; at least one.
    cards: &'a [Card],
    firewall: &'a Firewall,
}

/// Who answers PCs, and how far they get.
fn network(
    place: &Place<'_>,
    processes: &[(Instance, u32)],
    progress: &dyn Fn(&str),
    found: &mut Diagnosis,
) {
    let Place { lab, config, cards, firewall } = *place;
    found.section("Other servers on the network");
    let mut askers = Vec::new();
    for card in cards {
        progress(&format!("checking on {} for other DHCP servers, 4 s ...", card.name));
        found.at_card(several(cards, card));
        let asker = Asker::open(config, card, firewall.hides_answers(&card.name), found);
        if let Some(asker) = &asker {
            asker.look_for_strangers(found);
        }
        askers.push((card, asker));
    }
    found.at_card(None);
    found.section("The running server");
    let running = roles(processes);
    if running.is_empty() {
        let remedy =
            "start it with `bt-server start`; then doctor simulates a PC's boot step by step";
        found.warn("server", "no server of this lab is running".to_owned(), remedy);
        return;
    }
    machine::processes(processes, found);
    for role in ServerRole::ALL.into_iter().filter(|role| !running.contains(role)) {
        if role != ServerRole::Dhcp || config.dhcp != DhcpMode::Off {
            let remedy = format!("`bt-server start --roles {}`", role.name());
            found.fail("server", format!("the role {} is not running", role.name()), remedy);
        }
    }
    found.section("A PC's boot, by its firmware");
    progress("booting as each kind of PC does ...");
    let is_dhcp_ours = config.dhcp != DhcpMode::Off && running.contains(&ServerRole::Dhcp);
    if is_dhcp_ours && config.dhcp == DhcpMode::Proxy {
        // Not asked: the answer, from a socket on the card, cannot come back to this machine.
        match sockets::holder_of(Transport::Udp, PXE_PORT) {
            Some(holder) => found.good("port 4011", format!("{holder} listens there")),
            None => {
                let what = "nothing listens on UDP port 4011, which some firmware asks";
                found.fail("port 4011", what.to_owned(), "run doctor as root; restart the server");
            }
        }
    }
    for (card, asker) in &askers {
        found.at_card(several(cards, card));
        let asker = asker.as_ref();
        let walk = Walk::new(lab, config, card.ip, &running);
        walk.every_firmware(asker.filter(|_| is_dhcp_ours), found);
        if let Some(asker) = asker {
            asker.tell_filter(found);
        }
    }
    found.at_card(None);
    found.section("What its picker offers");
    // The same by every card.
    systems::examine(lab, config, cards[0].ip, &running, found);
}

/// All that `check` finds, and one good line where it finds nothing.
fn files(lab: &Lab, now: Timestamp, found: &mut Diagnosis) {
    let findings = check::findings(lab, now);
    let has = |part: &str| findings.iter().any(|finding| finding.place.starts_with(part));
    if !has("keys/") {
        found.good("keys", "present, mode 0600, key pairs match".to_owned());
    }
    if !has("catalog/") && !has("server.toml") {
        found.good("systems", "all entries are valid, and their files exist".to_owned());
    }
    if !has(loaders::BOOT_FILES) {
        machine::boot_files(lab, found);
    }
    for finding in findings {
        let remedy = "correct it as stated; then run `bt-server check` again";
        // The server starts without them, but no PC boots.
        if finding.is_blocking || finding.place == loaders::BOOT_FILES {
            found.fail("lab", finding.to_string(), remedy);
        } else {
            found.warn("lab", finding.to_string(), remedy);
        }
    }
}
