//! Shell: `bt-server doctor`: why PCs do not boot, found from the server's own machine.
//!
//! First this machine (network card, ports, rights, firewall, clock, disk), then the lab's files,
//! then what a PC meets: DHCP servers on the segment, and, while a server runs, every step of a
//! boot from DISCOVER to the last byte of the initramfs and a handshake with the seed. Each
//! observation that is not good says what helps. Nothing is changed; a running server sees one more
//! client, and the lease that it gets is given back.

mod diagnosis;
mod exchange;
mod fetch;
mod firewall;
mod machine;
mod packet;
mod script;
mod walk;

pub use self::diagnosis::{Diagnosis, Observation, Verdict};

use jiff::Timestamp;

use crate::check;
use crate::daemon;
use crate::instance::ServerRole;
use crate::interfaces;
use crate::lab::Lab;
use crate::words;

/// Looks at everything.
pub fn examine(lab: &Lab) -> Diagnosis {
    let now = Timestamp::now();
    let mut found = Diagnosis::default();
    machine::clock(lab, now, &mut found);
    machine::disk(lab, &mut found);
    files(lab, now, &mut found);
    let config = match lab.read_config() {
        Ok(config) => config,
        // `files` has told why.
        Err(_) => return found,
    };
    machine::link(&config.interface, &mut found);
    let Ok((ip, _)) = interfaces::address_of(&config.interface) else { return found };
    firewall::examine(&config, &mut found);
    let running: Vec<ServerRole> = match daemon::all_running(lab) {
        Ok(running) => running.iter().flat_map(|(instance, _)| instance.roles.iter()).collect(),
        Err(error) => {
            found.fail("server", words::chain(&error), "run doctor as the owner of the lab");
            return found;
        }
    };
    if running.is_empty() {
        machine::ports(&config, ip, &mut found);
    }
    let served = exchange::examine(&config, ip, &running, &mut found);
    if running.is_empty() {
        let remedy = "start it with `bt-server start`; then doctor goes every step of a PC's boot";
        found.warn("server", "no server of this lab runs".to_owned(), remedy);
    } else {
        walk::every_step(lab, &config, ip, &running, &served, &mut found);
    }
    found
}

/// All that `check` finds, and one good line where it finds nothing.
fn files(lab: &Lab, now: Timestamp, found: &mut Diagnosis) {
    let findings = check::findings(lab, now);
    let has = |part: &str| findings.iter().any(|finding| finding.place.starts_with(part));
    if !has("keys/") {
        found.good("keys", "there, closed to others, and they belong together".to_owned());
    }
    if !has("catalog/") && !has("server.toml") {
        found.good("systems", "every entry is right, and its files are there".to_owned());
    }
    if !has("boot files") {
        machine::boot_files(lab, found);
    }
    for finding in findings {
        let remedy = "correct it as it says; `bt-server check` looks again";
        if finding.is_blocking {
            found.fail("lab", finding.to_string(), remedy);
        } else {
            found.warn("lab", finding.to_string(), remedy);
        }
    }
}
