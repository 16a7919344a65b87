//! Core: `[node]`, `[[room]]` and `[[host]]`: what one PC is told, and which PC it is.
//!
//! A PC is known by its hardware address, its address, its UUID or the relay it came through; not
//! every role knows all of them. What a host says beats what its room says, and that beats the
//! defaults; kernel words add up in the other order, so that the closest ones come last and win.

use std::net::Ipv4Addr;
use std::time::Duration;

use bt_catalog::{Cmdline, NodeWords, Uuid};
use bt_catalog::{SystemId, line_of_text, position};
use serde::Deserialize;
use toml::Spanned;

use super::dhcp::{NetworkOf, is_in};
use super::values::{
    At, LONGEST_TIMEOUT, SHORTEST_TIMEOUT, address, addresses, cmdline, duration, mac, mac_bytes,
};
use super::{NamedSystem, Place};
use bt_catalog::Mac;

/// More would not fit in a lab's network, and each is looked at for every packet.
const MOST_HOSTS: usize = 4096;
/// See [`MOST_HOSTS`].
const MOST_ROOMS: usize = 256;
/// Bytes of all words for one PC. The kernel takes 2047 (x86's COMMAND_LINE_SIZE) and cuts the rest
/// off; the loader's own words (server, card, screen) need up to 200 of them.
const LONGEST_WORDS: usize = 1800;

/// The loader that UEFI firmware is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Loader {
    /// iPXE: fast, but Secure Boot refuses it.
    #[default]
    Ipxe,
    /// Debian's signed shim and GRUB, for PCs with Secure Boot; all by TFTP.
    ShimGrub,
}

/// What is known of a PC that asks for something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// The address it has or is about to get.
    pub ip: Option<Ipv4Addr>,
    /// Its UUID.
    pub uuid: Option<Uuid>,
    /// The relay that its request came through.
    pub relay: Option<Ipv4Addr>,
}

/// What a PC does when its menu would appear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preset {
    /// It shows the menu, whatever the room's or the lab's preset says.
    Menu,
    /// It starts this system at once.
    System(NamedSystem),
}

/// Settings that were written for the lab, for a room or for a host; `None`: nothing was said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `uefi_loader`.
    pub loader: Option<Loader>,
    /// `preset`.
    pub preset: Option<Preset>,
    /// `default`.
    pub default: Option<NamedSystem>,
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// `cmdline`.
    pub cmdline: String,
}

/// One PC, as `[[host]]` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its hardware address; always there when `address` is.
    pub mac: Option<Mac>,
    /// Its UUID.
    pub uuid: Option<Uuid>,
    /// The address that it always gets in full mode, and nobody else.
    pub address: Option<Ipv4Addr>,
    /// Its name.
    pub name: Option<String>,
    /// The room it stands in, where that is not clear from the room's own lists.
    pub room: Option<String>,
    /// What is different for it.
    pub overrides: Overrides,
    /// Where it stands in `server.toml`.
    pub place: Place,
}

/// PCs that belong together, as `[[room]]` describes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Its name, as the `rooms` of catalog entries have it.
    pub name: String,
    /// Hardware addresses, or their beginnings.
    pub macs: Vec<Vec<u8>>,
    /// Addresses, each from first to last.
    pub addresses: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// UUIDs.
    pub uuids: Vec<Uuid>,
    /// Relays.
    pub relays: Vec<Ipv4Addr>,
    /// What is different for it.
    pub overrides: Overrides,
}

/// What one PC is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// The loader, where its firmware is UEFI.
    pub loader: Loader,
    /// The system that it starts at once, without a menu.
    pub preset: Option<SystemId>,
    /// The system of the countdown, where it is another than `[menu]` says.
    pub default: Option<SystemId>,
    /// The countdown, where it is another than `[menu]` says.
    pub timeout: Option<Duration>,
    /// More words for its kernel.
    pub cmdline: String,
    /// Its room.
    pub room: Option<String>,
    /// Its name.
    pub name: Option<String>,
}

impl NodeSettings {
    /// All of it as words for the kernel of the small Linux. Each is free of spaces and of what
    /// iPXE and GRUB would not pass on.
    pub fn words(&self) -> String {
        let own = NodeWords {
            room: self.room.clone(),
            default: self.default.as_ref().map(ToString::to_string),
            timeout: self.timeout.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX)),
            preset: self.preset.as_ref().map(ToString::to_string),
        };
        let own = own.to_string();
        self.cmdline.split_whitespace().chain(own.split_whitespace()).collect::<Vec<_>>().join(" ")
    }
}

/// Everything that `server.toml` says of single PCs and rooms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nodes {
    /// `[[host]]`.
    pub hosts: Vec<Host>,
    /// `[[room]]`.
    pub rooms: Vec<Room>,
    /// `[node]`.
    pub defaults: Overrides,
    /// The network and mask of each `[[dhcp.subnet]]`: who has an address there is behind its relay.
    pub networks: Vec<NetworkOf>,
}

impl Nodes {
    /// The host that this is. One that is known by its UUID counts before one known by its card.
    pub fn host(&self, who: &Identity) -> Option<&Host> {
        let by_uuid =
            |host: &&Host| host.uuid.zip(who.uuid).is_some_and(|(known, uuid)| known.is_same(uuid));
        let by_mac = |host: &&Host| host.mac.is_some() && host.mac == who.mac;
        let by_address =
            |host: &&Host| who.mac.is_none() && host.address.is_some() && host.address == who.ip;
        let hosts = || self.hosts.iter();
        hosts().find(by_uuid).or_else(|| hosts().find(by_mac)).or_else(|| hosts().find(by_address))
    }

    /// The first room that has this PC.
    pub fn room(&self, who: &Identity) -> Option<&Room> {
        let named = self.host(who).and_then(|host| host.room.as_deref());
        match named {
            Some(name) => self.rooms.iter().find(|room| room.name == name),
            None => self.rooms.iter().find(|room| room.has(who) || self.is_behind(room, who)),
        }
    }

    /// Whether a PC that names no relay has an address in the network of one of the room's relays:
    /// DHCP alone sees relays, and a boot script must be for the same room as the loader before it.
    fn is_behind(&self, room: &Room, who: &Identity) -> bool {
        let Some(ip) = who.ip.filter(|_| who.relay.is_none()) else { return false };
        let network = self.networks.iter().find(|network| is_in(**network, ip));
        network.is_some_and(|network| room.relays.iter().any(|relay| is_in(*network, *relay)))
    }

    /// What this PC is told: host before room before defaults.
    pub fn settings(&self, who: &Identity) -> NodeSettings {
        self.told(self.room(who), self.host(who))
    }

    fn told(&self, room: Option<&Room>, host: Option<&Host>) -> NodeSettings {
        let mut settings = NodeSettings {
            room: room.map(|room| room.name.clone()),
            name: host.and_then(|host| host.name.clone()),
            ..NodeSettings::default()
        };
        self.layers(room, host).for_each(|layer| layer.apply(&mut settings));
        settings
    }

    /// What counts for a PC, the closest last.
    fn layers<'a>(
        &'a self,
        room: Option<&'a Room>,
        host: Option<&'a Host>,
    ) -> impl DoubleEndedIterator<Item = &'a Overrides> {
        let layers = [Some(&self.defaults), room.map(|r| &r.overrides), host.map(|h| &h.overrides)];
        layers.into_iter().flatten()
    }

    /// Each `preset` and `default` that counts, with the room that its PCs tell the node; `None`:
    /// no room. A host that gets its room only with its address is left out.
    pub fn systems_by_room(&self) -> Vec<(&NamedSystem, Option<String>)> {
        let nobody = self.rooms.is_empty().then_some((None, None));
        let rooms = self.rooms.iter().map(|room| (Some(room), None));
        let is_open = self.rooms.iter().any(|r| !(r.addresses.is_empty() && r.relays.is_empty()));
        let hosts = self.hosts.iter().filter_map(|host| {
            let (mac, uuid, ip) = (host.mac, host.uuid, host.address);
            let room = self.room(&Identity { mac, uuid, ip, relay: None });
            (room.is_some() || !is_open).then_some((room, Some(host)))
        });
        let mut found = Vec::new();
        for (room, host) in nobody.into_iter().chain(rooms).chain(hosts) {
            let words = self.told(room, host).words();
            // A room that the supervisor writes into `cmdline` counts as well.
            let named = Cmdline::parse(&words).node.room;
            let last = |of: fn(&Overrides) -> Option<&NamedSystem>,
                        is_said: fn(&Overrides) -> bool| {
                self.layers(room, host).rfind(|layer| is_said(layer)).and_then(of)
            };
            let preset = last(Overrides::preset_system, |layer| layer.preset.is_some());
            let default = last(|layer| layer.default.as_ref(), |layer| layer.default.is_some());
            for system in preset.into_iter().chain(default) {
                let pair = (system, named.clone());
                if !found.contains(&pair) {
                    found.push(pair);
                }
            }
        }
        found
    }

    /// The kernel cuts a line that is too long, and the preset is its last word.
    fn fits(&self, room: Option<&Room>, host: Option<&Host>) -> Result<(), String> {
        let length = self.told(room, host).words().len();
        if length <= LONGEST_WORDS {
            return Ok(());
        }
        let whose = room.map_or(String::new(), |room| format!(" in room `{}`", room.name));
        Err(format!(
            "the kernel words of [node], room and host together have {length} characters{whose}, \
             the maximum is {LONGEST_WORDS}; the kernel would cut off the rest, so shorten a `cmdline`"
        ))
    }

    /// Every system that is named somewhere, to be looked up in the catalog.
    pub fn systems(&self) -> impl Iterator<Item = &NamedSystem> {
        let rooms = self.rooms.iter().map(|room| &room.overrides);
        let hosts = self.hosts.iter().map(|host| &host.overrides);
        let all = std::iter::once(&self.defaults).chain(rooms).chain(hosts);
        all.flat_map(|layer| layer.preset_system().into_iter().chain(&layer.default))
    }
}

impl Room {
    fn has(&self, who: &Identity) -> bool {
        let has_mac = |mac: Mac| self.macs.iter().any(|start| mac.0.starts_with(start));
        let has_ip = |ip| self.addresses.iter().any(|(first, last)| (*first..=*last).contains(&ip));
        let has_uuid = |uuid: Uuid| self.uuids.iter().any(|known| known.is_same(uuid));
        who.mac.is_some_and(has_mac)
            || who.ip.is_some_and(has_ip)
            || who.uuid.is_some_and(has_uuid)
            || who.relay.is_some_and(|relay| self.relays.contains(&relay))
    }
}

impl Overrides {
    fn preset_system(&self) -> Option<&NamedSystem> {
        match &self.preset {
            Some(Preset::System(system)) => Some(system),
            Some(Preset::Menu) | None => None,
        }
    }

    fn apply(&self, settings: &mut NodeSettings) {
        settings.loader = self.loader.unwrap_or(settings.loader);
        match &self.preset {
            Some(Preset::System(system)) => settings.preset = Some(system.id.clone()),
            Some(Preset::Menu) => settings.preset = None,
            None => {}
        }
        if let Some(default) = &self.default {
            settings.default = Some(default.id.clone());
        }
        settings.timeout = self.timeout.or(settings.timeout);
        if !self.cmdline.is_empty() {
            let words = [settings.cmdline.as_str(), &self.cmdline];
            settings.cmdline = words.join(" ").trim().to_owned();
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    uefi_loader: Option<Spanned<String>>,
    preset: Option<Spanned<String>>,
    cmdline: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoom {
    name: Spanned<String>,
    macs: Option<Vec<Spanned<String>>>,
    addresses: Option<Vec<Spanned<String>>>,
    uuids: Option<Vec<Spanned<String>>>,
    relays: Option<Vec<Spanned<String>>>,
    uefi_loader: Option<Spanned<String>>,
    preset: Option<Spanned<String>>,
    default: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
    cmdline: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHost {
    mac: Option<Spanned<String>>,
    uuid: Option<Spanned<String>>,
    address: Option<Spanned<String>>,
    name: Option<Spanned<String>>,
    room: Option<Spanned<String>>,
    uefi_loader: Option<Spanned<String>>,
    preset: Option<Spanned<String>>,
    default: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
    cmdline: Option<Spanned<String>>,
}

/// Checks the three tables; `text` is the whole file, for the places of what is checked later.
pub(super) fn nodes(
    node: Option<RawNode>,
    rooms: Vec<Spanned<RawRoom>>,
    hosts: Vec<Spanned<RawHost>>,
    networks: Vec<NetworkOf>,
    text: &str,
) -> At<Nodes> {
    let node = node.unwrap_or_default();
    let defaults = RawOverrides {
        uefi_loader: node.uefi_loader,
        preset: node.preset,
        default: None,
        timeout: None,
        cmdline: node.cmdline,
    };
    let mut nodes = Nodes { defaults: defaults.check(text)?, networks, ..Nodes::default() };
    for raw in rooms {
        let at = raw.span().start;
        add_room(&mut nodes.rooms, raw, text)?;
        nodes.fits(nodes.rooms.last(), None).map_err(|cause| (at, cause))?;
    }
    for raw in hosts {
        let at = raw.span().start;
        add_host(&mut nodes, raw, text)?;
        let host = nodes.hosts.last();
        // Where the host names no room, any room's lists may have it.
        let named = host.and_then(|host| host.room.as_deref());
        let rooms = nodes.rooms.iter().filter(|room| named.is_none_or(|name| room.name == name));
        std::iter::once(None)
            .chain(rooms.map(Some))
            .try_for_each(|room| nodes.fits(room, host))
            .map_err(|cause| (at, cause))?;
    }
    Ok(nodes)
}

fn add_room(rooms: &mut Vec<Room>, raw: Spanned<RawRoom>, text: &str) -> At<()> {
    let at = raw.span().start;
    let raw = raw.into_inner();
    let room = Room {
        name: room_name(&raw.name)?,
        macs: each(&raw.macs, mac_bytes)?,
        addresses: each(&raw.addresses, addresses)?,
        uuids: each(&raw.uuids, uuid)?,
        relays: each(&raw.relays, address)?,
        overrides: RawOverrides {
            uefi_loader: raw.uefi_loader,
            preset: raw.preset,
            default: raw.default,
            timeout: raw.timeout,
            cmdline: raw.cmdline,
        }
        .check(text)?,
    };
    if rooms.len() >= MOST_ROOMS {
        return Err((at, format!("the maximum is {MOST_ROOMS} rooms")));
    }
    if rooms.iter().any(|known| known.name == room.name) {
        let cause = format!("there are two rooms `{}`; merge their lists into one", room.name);
        return Err((raw.name.span().start, cause));
    }
    rooms.push(room);
    Ok(())
}

fn add_host(nodes: &mut Nodes, raw: Spanned<RawHost>, text: &str) -> At<()> {
    let at = raw.span().start;
    let raw = raw.into_inner();
    let (line, column) = position(text, at);
    let host = Host {
        mac: raw.mac.as_ref().map(mac).transpose()?,
        uuid: raw.uuid.as_ref().map(uuid).transpose()?,
        address: raw.address.as_ref().map(address).transpose()?,
        name: raw.name.as_ref().map(host_name).transpose()?,
        room: raw.room.as_ref().map(room_name).transpose()?,
        overrides: RawOverrides {
            uefi_loader: raw.uefi_loader,
            preset: raw.preset,
            default: raw.default,
            timeout: raw.timeout,
            cmdline: raw.cmdline,
        }
        .check(text)?,
        place: Place { line, column },
    };
    if nodes.hosts.len() >= MOST_HOSTS {
        return Err((at, format!("the maximum is {MOST_HOSTS} hosts")));
    }
    if host.mac.is_none() && host.uuid.is_none() {
        let cause = "this host cannot be recognised: write its `mac` or its `uuid`; \
                     `bt-server status` shows the MAC address of each PC that was seen";
        return Err((at, cause.into()));
    }
    if let (None, Some(address)) = (host.mac, &raw.address) {
        let cause = "a fixed `address` belongs to a MAC address: write the host's `mac` too";
        return Err((address.span().start, cause.into()));
    }
    if let (Some(room), Some(text)) = (&host.room, &raw.room)
        && !nodes.rooms.iter().any(|known| known.name == *room)
    {
        let cause = format!("there is no [[room]] with `name = \"{room}\"`");
        return Err((text.span().start, cause));
    }
    is_alone(&nodes.hosts, &host).map_err(|cause| (at, cause))?;
    nodes.hosts.push(host);
    Ok(())
}

/// Two hosts must not share what tells them apart.
fn is_alone(hosts: &[Host], host: &Host) -> Result<(), String> {
    for other in hosts {
        let line = other.place.line;
        let what = if host.mac.is_some() && host.mac == other.mac {
            "MAC address"
        } else if host.uuid.zip(other.uuid).is_some_and(|(one, other)| one.is_same(other)) {
            "UUID"
        } else if host.address.is_some() && host.address == other.address {
            "address"
        } else if host.name.is_some() && host.name == other.name {
            "name"
        } else {
            continue;
        };
        return Err(format!("the host in line {line} has the same {what}"));
    }
    Ok(())
}

/// The keys that `[node]`, `[[room]]` and `[[host]]` share.
struct RawOverrides {
    uefi_loader: Option<Spanned<String>>,
    preset: Option<Spanned<String>>,
    default: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
    cmdline: Option<Spanned<String>>,
}

impl RawOverrides {
    fn check(self, text: &str) -> At<Overrides> {
        let preset = |raw: &Spanned<String>| match raw.as_ref().as_str() {
            "" => Ok(Preset::Menu),
            _ => NamedSystem::read(raw, text).map(Preset::System),
        };
        let default = |raw: &Spanned<String>| NamedSystem::read(raw, text);
        let timeout =
            |raw: &Spanned<String>| duration(raw, "timeout", SHORTEST_TIMEOUT, LONGEST_TIMEOUT);
        Ok(Overrides {
            loader: self.uefi_loader.as_ref().map(loader).transpose()?,
            preset: self.preset.as_ref().map(preset).transpose()?,
            default: self.default.as_ref().map(default).transpose()?,
            timeout: self.timeout.as_ref().map(timeout).transpose()?,
            cmdline: self.cmdline.map_or(Ok(String::new()), cmdline)?,
        })
    }
}

fn each<T>(
    raw: &Option<Vec<Spanned<String>>>,
    read: impl Fn(&Spanned<String>) -> At<T>,
) -> At<Vec<T>> {
    raw.iter().flatten().map(read).collect()
}

fn loader(text: &Spanned<String>) -> At<Loader> {
    match text.as_ref().as_str() {
        "ipxe" => Ok(Loader::Ipxe),
        "shim-grub" => Ok(Loader::ShimGrub),
        other => {
            let cause = format!(
                "unknown uefi_loader `{other}`; write \"ipxe\", or \"shim-grub\" for PCs with Secure Boot"
            );
            Err((text.span().start, cause))
        }
    }
}

fn uuid(text: &Spanned<String>) -> At<Uuid> {
    text.as_ref().parse().map_err(|_| {
        let cause = format!(
            "`{}` is not the UUID of a PC; expected for example 4c4c4544-0051-3510-8052-b4c04f4a4431",
            text.as_ref()
        );
        (text.span().start, cause)
    })
}

/// A room's name becomes a word of the kernel command line.
fn room_name(text: &Spanned<String>) -> At<String> {
    let name = line_of_text(text, "name", 40)?;
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.is_empty() && name.chars().all(is_fit) {
        return Ok(name);
    }
    let cause = format!("the room `{name}` needs a name of letters, digits, `-`, `_` and `.`");
    Err((text.span().start, cause))
}

/// One label of a domain name (RFC 1035 §2.3.1), as option 12 carries it.
fn host_name(text: &Spanned<String>) -> At<String> {
    let name = text.as_ref().trim();
    let is_fit = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let is_label = !name.is_empty() && name.len() <= 63 && !name.starts_with('-');
    if is_label && !name.ends_with('-') && name.chars().all(is_fit) {
        return Ok(name.to_owned());
    }
    let cause = format!("`{name}` is not a host name: up to 63 letters, digits and `-`");
    Err((text.span().start, cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::config::Config;

    const LAB: &str = "interface = \"eth0\"\n\
        [node]\ncmdline = \"quiet\"\n\
        [[room]]\nname = \"A1\"\nmacs = [\"52:54:00\"]\naddresses = [\"10.77.0.50-10.77.0.60\"]\n\
        preset = \"debian\"\ncmdline = \"console=ttyS0\"\n\
        [[room]]\nname = \"B2\"\nrelays = [\"10.78.0.1\"]\naddresses = [\"10.78.0.0/24\"]\n\
        uefi_loader = \"shim-grub\"\ntimeout = \"1m\"\ndefault = \"fedora\"\n\
        [[host]]\nmac = \"52-54-00-aa-00-01\"\naddress = \"10.77.0.9\"\nname = \"teacher\"\n\
        preset = \"\"\nuefi_loader = \"shim-grub\"\n\
        [[host]]\nuuid = \"4c4c4544-0051-3510-8052-b4c04f4a4431\"\nroom = \"B2\"\n\
        uefi_loader = \"ipxe\"\n";

    fn settings(who: Identity) -> NodeSettings {
        Config::parse(LAB).expect("valid").node(&who)
    }

    fn by_mac(last: u8) -> Identity {
        Identity { mac: Some(Mac([0x52, 0x54, 0, 0xaa, 0, last])), ..Identity::default() }
    }

    fn refused(line: usize, text: &str, part: &str) {
        let error = Config::parse(&format!("interface = \"eth0\"\n{text}")).expect_err(text);
        assert!(error.cause.contains(part), "{error}");
        assert_eq!(error.place.line, line, "{error}");
    }

    #[test]
    fn a_host_beats_its_room_and_a_room_beats_the_defaults() {
        let anybody = settings(Identity::default());
        assert_eq!((anybody.loader, anybody.words().as_str()), (Loader::Ipxe, "quiet"));
        let student = settings(by_mac(2));
        assert_eq!(student.words(), "quiet console=ttyS0 bt.room=A1 bt.preset=debian");
        let teacher = settings(by_mac(1));
        assert_eq!(teacher.loader, Loader::ShimGrub);
        assert_eq!(teacher.name.as_deref(), Some("teacher"));
        assert_eq!(teacher.words(), "quiet console=ttyS0 bt.room=A1", "no preset for the teacher");
    }

    #[test]
    fn a_pc_is_known_by_address_relay_or_uuid_too() {
        let ip = |ip: [u8; 4]| settings(Identity { ip: Some(ip.into()), ..Identity::default() });
        assert_eq!(ip([10, 77, 0, 60]).room.as_deref(), Some("A1"));
        assert_eq!(ip([10, 77, 0, 61]).room, None);
        assert_eq!(ip([10, 77, 0, 9]).name.as_deref(), Some("teacher"), "by its fixed address");
        assert_eq!(
            ip([10, 78, 0, 200]).words(),
            "quiet bt.room=B2 bt.default=fedora bt.timeout=60"
        );
        let relay = Identity { relay: Some([10, 78, 0, 1].into()), ..Identity::default() };
        assert_eq!(settings(relay).loader, Loader::ShimGrub);
        for text in ["4C4C4544005135108052B4C04F4A4431", "44454c4c-5100-1035-8052-b4c04f4a4431"] {
            let uuid = text.parse().ok();
            assert!(uuid.is_some());
            let found = settings(Identity { uuid, ..by_mac(2) });
            assert_eq!((found.loader, found.room.as_deref()), (Loader::Ipxe, Some("B2")));
        }
    }

    #[test]
    fn a_room_of_relays_has_whoever_has_an_address_behind_them() {
        let text = "interface = \"eth0\"\n[[dhcp.subnet]]\nnetwork = \"10.78.0.0/24\"\n\
            [[room]]\nname = \"B2\"\nrelays = [\"10.78.0.1\"]\n";
        let config = Config::parse(text).expect("valid");
        let room = |who: Identity| config.node(&who).room;
        let ip = |last| Identity { ip: Some([10, 78, last, 9].into()), ..Identity::default() };
        assert_eq!(room(ip(0)).as_deref(), Some("B2"));
        assert_eq!(room(ip(1)), None, "another network");
        let relay = Some([10, 78, 0, 2].into());
        assert_eq!(room(Identity { relay, ..ip(0) }), None, "a known relay counts itself");
    }

    #[test]
    fn words_that_the_kernel_would_cut_off_are_refused() {
        let words = |length: usize| format!("cmdline = \"{}\"\n", "x".repeat(length));
        let node = format!("[node]\n{}[[room]]\nname = \"A1\"\n", words(900));
        let host = "[[host]]\nmac = \"52:54:00:00:00:01\"\n";
        refused(4, &format!("{node}{}", words(900)), "room `A1`, the maximum is 1800");
        refused(7, &format!("{node}{}{host}{}", words(400), words(600)), "the maximum is 1800");
        let fits = format!("interface = \"eth0\"\n{node}{}{host}{}", words(400), words(300));
        assert!(Config::parse(&fits).is_ok());
    }

    #[test]
    fn a_uuid_that_no_maker_set_is_none() {
        assert_eq!(Uuid::of_option(&[0; 17]), None);
        assert_eq!(Uuid::of_option(&[[0].as_slice(), &[255; 16]].concat()), None);
        assert_eq!(Uuid::of_option(&[1; 17]), None, "another type");
        assert_eq!(Uuid::of_option(&[]), None);
        assert!(Uuid::of_option(&[[0].as_slice(), &[7; 16]].concat()).is_some());
        assert!("4c4c4544".parse::<Uuid>().is_err());
    }

    #[test]
    fn mistakes_about_pcs_say_what_would_be_right() {
        refused(2, "[[host]]\nname = \"a\"\n", "`mac` or its `uuid`");
        refused(3, "[[host]]\nmac = \"52:54:00\"\n", "not the MAC address of a PC");
        refused(3, "[[host]]\nmac = \"ff:ff:ff:ff:ff:ff\"\n", "not the MAC address of a PC");
        refused(3, "[[host]]\nuuid = \"1\"\n", "not the UUID");
        let uuid = "uuid = \"4c4c4544-0051-3510-8052-b4c04f4a4431\"\n";
        refused(4, &format!("[[host]]\n{uuid}address = \"10.0.0.9\"\n"), "`mac` too");
        let host = "[[host]]\nmac = \"52:54:00:00:00:01\"\n";
        refused(4, &format!("{host}room = \"A\"\n"), "no [[room]]");
        refused(4, &format!("{host}{host}"), "line 2 has the same MAC address");
        refused(4, &format!("{host}name = \"a b\"\n"), "not a host name");
        refused(4, &format!("{host}uefi_loader = \"grub\"\n"), "shim-grub");
        refused(4, &format!("{host}preset = \"No OS\"\n"), "not a valid system id");
        refused(4, &format!("{host}adress = \"10.0.0.1\"\n"), "unknown field `adress`");
        refused(3, "[[room]]\nname = \"Room 1\"\n", "letters, digits");
        refused(5, "[[room]]\nname = \"A\"\n[[room]]\nname = \"A\"\n", "two rooms");
        refused(4, "[[room]]\nname = \"A\"\naddresses = [\"10.0.0.9/24\"]\n", "10.0.0.0/24");
    }

    #[test]
    fn every_system_that_is_named_can_be_looked_up() {
        let config = Config::parse(LAB).expect("valid");
        let named: Vec<_> = config.systems().map(|s| (s.id.as_str(), s.place.line)).collect();
        assert_eq!(named, [("debian", 8), ("fedora", 16)]);
    }
}
