//! Shell: the tests that cross packages: complete boots, attacks, stock clients.
//!
//! Every scenario uses the programs as they ship, on the virtual LAN, and says in one sentence what
//! it saw.

mod added;
mod attack;
mod boot;
mod clients;
mod daemon;
mod dhcp_clients;
mod doctor;
mod hosts;
mod interop;
mod interop_librqbit;
mod leases;
mod refusal;
mod swarm;
mod tftp_clients;

use anyhow::Result;

use crate::host::cargo;
use crate::host::packages;
use crate::room::testbed::Testbed;

/// One end-to-end test.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name, for `cargo lab test NAME`.
    pub name: &'static str,
    /// What holds when it passes.
    pub what: &'static str,
    /// Runs it; returns what was seen.
    pub run: fn(&mut Testbed) -> Result<String>,
    /// Whether it must run alone.
    pub is_alone: bool,
    /// What has to be there before.
    pub need: Option<Need>,
}

impl Scenario {
    /// Runs by itself, no other alongside. A comment next to each use gives the reason.
    const fn alone(self) -> Self {
        Self { is_alone: true, ..self }
    }

    /// Wants something that has to be there before the lab leaves the world's network.
    const fn needs(self, need: Need) -> Self {
        Self { need: Some(need), ..self }
    }
}

const fn scenario(
    name: &'static str,
    what: &'static str,
    run: fn(&mut Testbed) -> Result<String>,
) -> Scenario {
    Scenario { name, what, run, is_alone: false, need: None }
}

/// What is fetched, built or made once before the first scenario begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A package that is no part of the usual ones.
    Transmission,
    /// A program built from crates of its own.
    LibrqbitPeer,
    /// A live ISO, which several scenarios add.
    LiveImage,
}

impl Need {
    /// Sees to it that it is there.
    pub fn provide(self) -> Result<()> {
        match self {
            Self::Transmission => packages::ensure_transmission().map(drop),
            Self::LibrqbitPeer => cargo::librqbit_peer().map(drop),
            Self::LiveImage => added::make_image().map(drop),
        }
    }
}

/// All of them; the quick ones first.
pub const ALL: &[Scenario] = &[
    scenario(
        "daemon",
        "start, stop and status give a plain-language answer, whatever state the server is in",
        daemon::run,
    ),
    scenario(
        "dhcp-clients",
        "stock DHCP clients get, renew and release leases; none while another DHCP server assigns them",
        dhcp_clients::run,
    ),
    // A node that waits 2 s in vain counts as a lost lease, and each answer waits for the disk, which
    // others would keep busy with their labs.
    scenario(
        "leases",
        "a server killed at random under load loses no lease and assigns no address twice",
        leases::run,
    )
    .alone(),
    scenario(
        "doctor-full",
        "the doctor finds every planted fault, and none in a working lab",
        doctor::full,
    ),
    scenario("doctor-proxy", "the same with another DHCP server on the network", doctor::proxy),
    scenario(
        "tftp-clients",
        "stock TFTP clients fetch every boot file, and hostile requests get nothing else",
        tftp_clients::run,
    ),
    // Each lost packet costs a timeout, and the clients give up after 40 s.
    scenario(
        "tftp-loss",
        "8 TFTP clients fetch a complete file although 5 % of the packets are lost in each direction",
        crate::commands::tftp_load::survive_loss,
    )
    .alone(),
    scenario(
        "minisign",
        "the stock minisign tool accepts the published catalog",
        clients::minisign,
    ),
    scenario("aria2", "aria2c downloads a system with nothing but the magnet link", clients::aria2),
    scenario(
        "swarm",
        "a PC that boots while another uploads fetches from it and from the server",
        swarm::second_node,
    ),
    scenario(
        "interop-aria2",
        "aria2 fetches a system from bt-server, and bt-node fetches it from aria2 alone",
        interop::aria2,
    ),
    scenario(
        "interop-transmission",
        "Transmission fetches a system from bt-server, and bt-node fetches it from Transmission alone",
        interop::transmission,
    )
    .needs(Need::Transmission),
    scenario(
        "interop-qbittorrent",
        "qBittorrent fetches a system from bt-server, and bt-node fetches it from qBittorrent alone",
        interop::qbittorrent,
    ),
    scenario(
        "interop-rtorrent",
        "rTorrent fetches a system from bt-server, and bt-node fetches it from rTorrent alone",
        interop::rtorrent,
    ),
    scenario(
        "interop-libtorrent",
        "libtorrent fetches a system from bt-server, and bt-node fetches it from libtorrent alone",
        interop::libtorrent,
    ),
    scenario(
        "interop-librqbit",
        "librqbit fetches a system from bt-server, and bt-node fetches it from librqbit alone",
        interop_librqbit::run,
    )
    .needs(Need::LibrqbitPeer),
    scenario(
        "boot-bios",
        "a BIOS PC boots by PXE into the picker and starts the chosen system",
        boot::bios,
    ),
    scenario(
        "boot-uefi",
        "a UEFI PC boots by PXE into the picker and starts the chosen system",
        boot::uefi,
    ),
    scenario(
        "boot-bios-proxy",
        "a BIOS PC boots where another DHCP server assigns the addresses",
        boot::bios_proxy,
    ),
    scenario(
        "boot-uefi-proxy",
        "a UEFI PC boots where another DHCP server assigns the addresses",
        boot::uefi_proxy,
    ),
    scenario("boot-uefi-http", "a UEFI PC boots by HTTP", boot::uefi_http),
    scenario(
        "boot-uefi-http-proxy",
        "a UEFI PC boots by HTTP where another DHCP server assigns the addresses",
        boot::uefi_http_proxy,
    ),
    scenario(
        "boot-uefi-secure",
        "a PC with Secure Boot boots by shim and GRUB, and starts a signed kernel",
        boot::uefi_secure,
    ),
    scenario(
        "boot-uefi-secure-proxy",
        "a PC with Secure Boot boots where another DHCP server assigns the addresses",
        boot::uefi_secure_proxy,
    ),
    scenario(
        "hosts",
        "per-PC settings apply: in one lab one PC boots unattended, one with Secure Boot",
        hosts::own_settings,
    ),
    scenario(
        "autoexec",
        "an iPXE that runs autoexec.ipxe before it has an address boots into the picker",
        hosts::autoexec,
    ),
    scenario(
        "secure-boot-refuses",
        "a PC with Secure Boot refuses an unsigned boot loader",
        hosts::unsigned_loader,
    ),
    scenario(
        "added-live",
        "a live ISO added by one command boots with one copy of it in memory, and reads it unchanged",
        added::live,
    )
    .needs(Need::LiveImage),
    scenario(
        "added-divided",
        "the same where the image has to be split over several regions of memory",
        added::divided,
    )
    .needs(Need::LiveImage),
    scenario(
        "added-too-large",
        "a live ISO that does not fit into memory is refused before the download, and the screen says why",
        added::too_large,
    )
    .needs(Need::LiveImage),
    scenario(
        "refuse-flipped-bit",
        "a catalog with one flipped bit is refused, and the screen says why",
        refusal::flipped_bit,
    ),
    scenario(
        "refuse-wrong-key",
        "a catalog signed with another lab's keys is refused, and the screen says why",
        refusal::wrong_key,
    ),
    scenario(
        "refuse-changed-image",
        "an image changed after signing never boots, and the screen says why",
        refusal::changed_image,
    ),
    scenario(
        "refuse-broken-kernel",
        "after a kernel that fails to load, the picker shows the reason and starts another system",
        refusal::broken_kernel,
    ),
    scenario(
        "no-server",
        "a PC without a server says so, and continues once the server is back",
        refusal::no_server,
    ),
    scenario(
        "attack-garbage",
        "bt-server survives garbage on every port and then serves a real boot",
        attack::garbage,
    ),
];
