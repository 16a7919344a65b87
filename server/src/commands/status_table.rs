//! Core: what `bt-server status` prints.

use std::time::Duration;

use crate::humanize;
use crate::role::{RoleSet, ServerRole};
use crate::status::{NodeStatus, Snapshot};

/// When fewer days are left, nodes may soon refuse the catalog: something hinders the daily signing.
const WARN_DAYS: u64 = 7;

/// A process that ended without saying so: killed, or by a power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// What it did.
    pub roles: RoleSet,
    /// Its process id.
    pub pid: u32,
    /// Its log, as the supervisor knows it.
    pub log: String,
}

/// The tables of all processes, below what is known of those that are gone.
pub fn texts(snapshots: &[Snapshot], gone: &[Gone]) -> String {
    let gone: Vec<String> = gone.iter().map(gone_text).collect();
    let gone = (!gone.is_empty()).then(|| gone.join("\n"));
    gone.into_iter().chain(snapshots.iter().map(text)).collect::<Vec<_>>().join("\n\n")
}

fn gone_text(Gone { roles, pid, log }: &Gone) -> String {
    let (who, command) = match *roles {
        RoleSet::ALL => ("bt-server".to_owned(), "bt-server start".to_owned()),
        _ => (roles.to_string(), format!("bt-server start --roles {roles}")),
    };
    format!(
        "{who}  not running (process {pid} exited unexpectedly)\n  \
         -> restart it with `{command}`; see the end of {log} and `dmesg` for the cause"
    )
}

/// What a process with these roles knows of: the catalog, and PCs. One that has none yet may be all.
fn knowledge(snapshot: &Snapshot) -> (bool, bool) {
    let plays = |role: ServerRole| snapshot.roles.iter().any(|it| it.name == role.name());
    let [is_dhcp, is_tftp, is_http, is_seed] = ServerRole::ALL.map(plays);
    let has_catalog = is_http || is_seed || !(is_dhcp || is_tftp);
    let has_nodes = is_dhcp || is_tftp || is_http || !is_seed;
    (has_catalog, has_nodes || !snapshot.nodes.is_empty())
}

/// The whole table as text.
pub fn text(snapshot: &Snapshot) -> String {
    let age = |at: u64| humanize::duration(Duration::from_secs(snapshot.now.saturating_sub(at)));
    let mut lines = vec![format!(
        "{} - bt-server {} runs as process {} for {}",
        snapshot.lab,
        snapshot.server,
        snapshot.pid,
        age(snapshot.started)
    )];
    if !snapshot.roles.is_empty() {
        lines.push(String::new());
    }
    let roles = snapshot.roles.iter().map(|role| {
        vec![role.name.clone(), if role.is_up { "up" } else { "DOWN" }.into(), role.detail.clone()]
    });
    lines.extend(table(&[], roles));
    let (has_catalog, has_nodes) = knowledge(snapshot);
    if has_catalog {
        lines.push(String::new());
        lines.push(catalog(snapshot));
    }
    if let Some(reason) = &snapshot.edit_refused {
        lines.push("The newest edit is NOT live:".to_owned());
        lines.extend(reason.lines().map(|line| format!("  {line}")));
    }
    if has_catalog {
        lines.push(String::new());
    }
    if !has_catalog {
        // Another process has it.
    } else if snapshot.systems.is_empty() {
        lines.push("No systems yet; catalog/README shows how to add one".to_owned());
    } else {
        let rows = snapshot.systems.iter().map(|system| {
            vec![
                system.id.clone(),
                system.name.clone(),
                humanize::size(system.total),
                system.peers.to_string(),
                humanize::size(system.uploaded),
            ]
        });
        lines.extend(table(&["system", "name", "size", "peers", "sent"], rows));
    }
    if has_nodes {
        lines.push(String::new());
    }
    if !has_nodes {
        // The seed alone meets peers, not boots.
    } else if snapshot.nodes.is_empty() {
        lines.push("No PC seen yet".to_owned());
    } else {
        let rows = snapshot.nodes.iter().map(|node| row(node, &age(node.seen)));
        let head = ["PC", "address", "name", "boots by", "stage", "system", "progress", "seen"];
        lines.extend(table(&head, rows));
    }
    if !snapshot.problems.is_empty() {
        lines.push(String::new());
        lines.push("Last problems".to_owned());
    }
    for problem in &snapshot.problems {
        let times =
            if problem.count > 1 { format!(" ({} times)", problem.count) } else { "".into() };
        lines.push(format!("  {} ago{times}: {}", age(problem.at), problem.text));
    }
    lines.join("\n")
}

fn catalog(snapshot: &Snapshot) -> String {
    let catalog = &snapshot.catalog;
    if catalog.version == 0 {
        return "Still starting: no catalog yet".to_owned();
    }
    let age = Duration::from_secs(snapshot.now.saturating_sub(catalog.issued));
    let left = Duration::from_secs(catalog.expires.saturating_sub(snapshot.now));
    let note = if left.as_secs() < WARN_DAYS * 86_400 { "  <- SOON, see the problems" } else { "" };
    format!(
        "Catalog version {}, signed {} ago, valid for {} more{note}",
        catalog.version,
        humanize::duration(age),
        humanize::duration(left)
    )
}

fn row(node: &NodeStatus, age: &str) -> Vec<String> {
    let dash = || "-".to_owned();
    vec![
        node.mac.clone(),
        node.ip.map_or_else(dash, |ip| ip.to_string()),
        node.name.clone().unwrap_or_else(dash),
        node.firmware.clone().unwrap_or_else(dash),
        node.stage.words().to_owned(),
        node.system.clone().unwrap_or_else(dash),
        progress(node).unwrap_or_else(dash),
        format!("{age} ago"),
    ]
}

/// `42 % at 87 MB/s`, while there is something to wait for.
fn progress(node: &NodeStatus) -> Option<String> {
    if node.total == 0 || node.done >= node.total {
        return None;
    }
    let percent = u128::from(node.done) * 100 / u128::from(node.total);
    Some(format!("{percent} % at {}/s", humanize::size(node.speed)))
}

/// Lines with aligned columns, below their heads.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let mut all: Vec<Vec<String>> = Vec::new();
    if !head.is_empty() {
        all.push(head.iter().map(|&cell| cell.to_owned()).collect());
    }
    all.extend(rows);
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..).map_while(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;
    use crate::status::report::NodeReport;
    use crate::status::{CatalogStatus, StatusBook, StatusEvent, SystemStatus};

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn a_server_that_still_hashes_says_so() {
        let words = text(&StatusBook::new("Lab A1", 812, at(1000)).snapshot(at(1001)));
        assert!(words.contains("Still starting: no catalog yet"), "{words}");
    }

    #[test]
    fn a_process_tells_only_of_what_its_roles_know() {
        let words = |names: &[&'static str]| {
            let mut book = StatusBook::new("Lab A1", 812, at(1000));
            for name in names {
                let role = StatusEvent::Role { name, detail: "eth0".into(), is_up: true };
                book.apply(role, at(1000));
            }
            text(&book.snapshot(at(1001)))
        };
        let knows = |names: &[&'static str]| {
            let words = words(names);
            (words.contains("no catalog yet"), words.contains("No PC seen yet"))
        };
        assert_eq!(knows(&["dhcp", "tftp"]), (false, true));
        assert_eq!(knows(&["seed"]), (true, false));
        assert_eq!(knows(&["dhcp", "http"]), (true, true));
        assert!(words(&["dhcp"]).ends_with("\n\n  dhcp  up  eth0\n\nNo PC seen yet"));
    }

    #[test]
    fn a_process_that_is_gone_is_told_first_with_the_cure() {
        let gone = |roles: &str, log: &str| Gone {
            roles: roles.parse().expect("roles"),
            pid: 123,
            log: log.to_owned(),
        };
        let book = StatusBook::new("Lab A1", 812, at(1000)).snapshot(at(1001));
        let words = texts(std::slice::from_ref(&book), &[gone("dhcp", "state/run/dhcp.log")]);
        let start = "dhcp  not running (process 123 exited unexpectedly)\n  \
            -> restart it with `bt-server start --roles dhcp`; see the end of state/run/dhcp.log";
        assert!(words.starts_with(start), "{words}");
        assert!(words.contains("\n\nLab A1 - "), "{words}");
        let all = texts(&[], &[gone("dhcp,tftp,http,seed", "state/log")]);
        assert!(
            all.contains("bt-server  not running") && all.contains("`bt-server start`"),
            "{all}"
        );
        assert_eq!(texts(std::slice::from_ref(&book), &[]), text(&book));
    }

    #[test]
    fn a_supervisor_sees_roles_catalog_systems_nodes_and_problems() {
        let mut book = StatusBook::new("Lab A1", 812, at(1000));
        let report =
            br#"{"protocol":1,"mac":"52:54:00:12:34:56","stage":"downloading","system":"debian",
            "done":42,"total":100,"peers":3,"speed":1048576}"#;
        let report = NodeReport::parse(report).expect("a good report");
        let ip = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 50));
        let debian = SystemStatus {
            id: "debian".into(),
            name: "Debian 12".into(),
            total: 3 << 30,
            peers: 12,
            ..SystemStatus::default()
        };
        let events = [
            StatusEvent::Role { name: "dhcp", detail: "eth0".into(), is_up: true },
            StatusEvent::Role { name: "http", detail: "10.77.0.1:6969".into(), is_up: false },
            StatusEvent::Published(CatalogStatus {
                version: 17,
                issued: 4000,
                expires: 4000 + 30 * 86_400,
            }),
            StatusEvent::Seeding(vec![debian]),
            StatusEvent::Report { ip, report },
            StatusEvent::EditRefused(Some("catalog/x.toml, line 3, column 1: no".into())),
            StatusEvent::Warning { text: "the disk is full".into() },
        ];
        for event in events {
            book.apply(event, at(4590));
        }
        let expected = "\
Lab A1 - bt-server VERSION runs as process 812 for 60 min

  dhcp  up    eth0
  http  DOWN  10.77.0.1:6969

Catalog version 17, signed 10 min ago, valid for 29 days more
The newest edit is NOT live:
  catalog/x.toml, line 3, column 1: no

  system  name       size    peers  sent
  debian  Debian 12  3.2 GB  12     0 B

  PC                 address     name  boots by  stage        system  progress          seen
  52:54:00:12:34:56  10.77.0.50  -     -         downloading  debian  42 % at 1.0 MB/s  10 s ago

Last problems
  10 s ago: the disk is full";
        let expected = expected.replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert_eq!(text(&book.snapshot(at(4600))), expected);
    }
}
