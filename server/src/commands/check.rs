//! Shell: everything that can be known about a lab before it is started.

use std::path::PathBuf;

use jiff::Timestamp;

use crate::boot::loaders::{Loaders, boot_files, loader_folders};
use crate::humanize;
use crate::lab::config::{DhcpMode, Nodes, Room};
use crate::lab::files::Finding;
use crate::lab::network_check::network;
use crate::lab::{Lab, Offer, keyring};

/// All findings, those that prevent a start first.
pub fn findings(lab: &Lab, now: Timestamp) -> Vec<Finding> {
    let mut found = Vec::new();
    match lab.read_offer() {
        Ok(offer) if offer.systems.is_empty() => found.push(Finding::advice(
            "catalog/",
            "there is no system yet, so the menu is empty; catalog/README shows how to add one"
                .to_owned(),
        )),
        Ok(offer) => found.extend(unknown_rooms(&offer)),
        Err(mistakes) => found.extend(mistakes),
    }
    found.extend(keyring::findings(lab, now));
    if let Ok(config) = lab.read_config() {
        found.extend(network(&config));
        found.extend(empty_rooms(&config.nodes));
        if let Err(error) = Loaders::read(&loader_folders(lab).each_ref().map(PathBuf::as_path)) {
            let what = humanize::chain(&error);
            let is_blocking = config.dhcp != DhcpMode::Off;
            found.push(Finding { place: "boot loaders".to_owned(), what, is_blocking });
        }
    }
    found.extend(boot_files(lab));
    found.sort_by_key(|finding| !finding.is_blocking);
    found
}

/// Rooms of entries that no `[[room]]` of `server.toml` is: no PC sees such a system there.
fn unknown_rooms(offer: &Offer) -> Vec<Finding> {
    let known = &offer.config.nodes.rooms;
    let mut found = Vec::new();
    for entry in offer.systems.iter().map(|system| &system.entry) {
        for name in entry.rooms.iter().filter(|name| known.iter().all(|room| room.name != **name)) {
            let what = format!(
                "`rooms` has {name}, but server.toml has no [[room]] of that name, so no PC there \
                 sees this system; correct one of the two"
            );
            found.push(Finding::advice(&format!("catalog/{}.toml", entry.id), what));
        }
    }
    found
}

/// Rooms that no PC can belong to.
fn empty_rooms(nodes: &Nodes) -> Vec<Finding> {
    let has_host = |room: &Room| {
        nodes.hosts.iter().any(|host| host.room.as_ref().is_some_and(|name| *name == room.name))
    };
    let is_empty = |room: &&Room| {
        let has_list = !room.macs.is_empty()
            || !room.addresses.is_empty()
            || !room.uuids.is_empty()
            || !room.relays.is_empty();
        !has_list && !has_host(room)
    };
    let finding = |room: &Room| {
        let what = format!(
            "no PC belongs to room {}: give it `addresses`, `macs`, `uuids` or `relays`, or name it in \
             the [[host]] of a PC",
            room.name
        );
        Finding::advice("server.toml, [[room]]", what)
    };
    nodes.rooms.iter().filter(is_empty).map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::OfferedSystem;
    use crate::lab::config::Config;

    #[test]
    fn a_room_that_nobody_belongs_to_is_told() {
        let text = "interface = \"eth0\"\n[[room]]\nname = \"A1\"\n[[room]]\nname = \"B2\"\n\
            [[room]]\nname = \"C3\"\nmacs = [\"52\"]\n\
            [[host]]\nmac = \"52:54:00:12:34:56\"\nroom = \"B2\"\n";
        let config = Config::parse(text).expect("valid");
        let found = empty_rooms(&config.nodes);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.contains("room A1") && !found[0].is_blocking, "{found:?}");
    }

    #[test]
    fn a_room_that_server_toml_does_not_know_is_told() {
        let config = Config::parse("interface = \"eth0\"\n[[room]]\nname = \"A1\"\n");
        let entry = "name = \"A\"\nkernel = \"images/a/vmlinuz\"\nrooms = [\"A1\", \"ZZ\"]\n";
        let entry = bt_catalog::Entry::parse("a".parse().expect("an id"), entry).expect("valid");
        let system = OfferedSystem { entry, files: Vec::new(), icon: None, kernel: None };
        let found = unknown_rooms(&Offer { config: config.expect("valid"), systems: vec![system] });
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].to_string().starts_with("catalog/a.toml: `rooms` has ZZ"), "{found:?}");
    }
}
