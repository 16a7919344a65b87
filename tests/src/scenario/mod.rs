//! Shell: the tests that cross packages: whole boots, attacks, strangers' clients.
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

use crate::room::testbed::Testbed;

/// One test of the whole.
pub struct Scenario {
    /// Its name, for `cargo lab test NAME`.
    pub name: &'static str,
    /// What holds when it passes.
    pub what: &'static str,
    /// Runs it; returns what was seen.
    pub run: fn(&mut Testbed) -> Result<String>,
}

/// The one that needs a package of its own.
pub const TRANSMISSION: &str = "interop-transmission";
/// The one that needs a program built from crates of its own.
pub const LIBRQBIT: &str = "interop-librqbit";

/// All of them; the quick ones first.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "daemon",
        what: "start, stop and status answer in words, whatever state the server is in",
        run: daemon::run,
    },
    Scenario {
        name: "dhcp-clients",
        what: "real DHCP clients get, renew and release addresses; beside another server they get none",
        run: dhcp_clients::run,
    },
    Scenario {
        name: "leases",
        what: "a server killed at random under load loses no lease and gives no address twice",
        run: leases::run,
    },
    Scenario {
        name: "doctor-full",
        what: "the doctor finds each of the things that can be wrong, and nothing where all is well",
        run: doctor::full,
    },
    Scenario {
        name: "doctor-proxy",
        what: "the same beside another DHCP server",
        run: doctor::proxy,
    },
    Scenario {
        name: "tftp-clients",
        what: "stock TFTP clients fetch every boot file, and strangers get nothing else",
        run: tftp_clients::run,
    },
    Scenario {
        name: "tftp-loss",
        what: "8 TFTP clients get a file whole where 5 % of the packets are lost each way",
        run: crate::commands::tftp_load::survive_loss,
    },
    Scenario {
        name: "minisign",
        what: "the stock minisign tool accepts the published catalog",
        run: clients::minisign,
    },
    Scenario {
        name: "aria2",
        what: "aria2c downloads a system with nothing but the magnet link",
        run: clients::aria2,
    },
    Scenario {
        name: "swarm",
        what: "a node that boots while another still shares fetches from it and from the server",
        run: swarm::second_node,
    },
    Scenario {
        name: "interop-aria2",
        what: "aria2 fetches a system from us, and a node fetches it from aria2 alone",
        run: interop::aria2,
    },
    Scenario {
        name: TRANSMISSION,
        what: "Transmission fetches a system from us, and a node fetches it from Transmission alone",
        run: interop::transmission,
    },
    Scenario {
        name: "interop-qbittorrent",
        what: "qBittorrent fetches a system from us, and a node fetches it from qBittorrent alone",
        run: interop::qbittorrent,
    },
    Scenario {
        name: "interop-rtorrent",
        what: "rTorrent fetches a system from us, and a node fetches it from rTorrent alone",
        run: interop::rtorrent,
    },
    Scenario {
        name: "interop-libtorrent",
        what: "libtorrent fetches a system from us, and a node fetches it from libtorrent alone",
        run: interop::libtorrent,
    },
    Scenario {
        name: LIBRQBIT,
        what: "librqbit fetches a system from us, and a node fetches it from librqbit alone",
        run: interop_librqbit::run,
    },
    Scenario {
        name: "boot-bios",
        what: "a BIOS PC boots by PXE into the picker and starts the chosen system",
        run: boot::bios,
    },
    Scenario {
        name: "boot-uefi",
        what: "a UEFI PC boots by PXE into the picker and starts the chosen system",
        run: boot::uefi,
    },
    Scenario {
        name: "boot-bios-proxy",
        what: "a BIOS PC boots where another DHCP server gives the addresses",
        run: boot::bios_proxy,
    },
    Scenario {
        name: "boot-uefi-proxy",
        what: "a UEFI PC boots where another DHCP server gives the addresses",
        run: boot::uefi_proxy,
    },
    Scenario { name: "boot-uefi-http", what: "a UEFI PC boots by HTTP", run: boot::uefi_http },
    Scenario {
        name: "boot-uefi-http-proxy",
        what: "a UEFI PC boots by HTTP beside another DHCP server",
        run: boot::uefi_http_proxy,
    },
    Scenario {
        name: "boot-uefi-secure",
        what: "a PC with Secure Boot boots by shim and GRUB, and starts a signed kernel",
        run: boot::uefi_secure,
    },
    Scenario {
        name: "boot-uefi-secure-proxy",
        what: "a PC with Secure Boot boots beside another DHCP server",
        run: boot::uefi_secure_proxy,
    },
    Scenario {
        name: "hosts",
        what: "PCs of one lab boot in ways of their own: one unattended, one with Secure Boot",
        run: hosts::own_ways,
    },
    Scenario {
        name: "autoexec",
        what: "an iPXE that runs autoexec.ipxe before it has an address finds its way",
        run: hosts::autoexec,
    },
    Scenario {
        name: "secure-boot-refuses",
        what: "a PC with Secure Boot refuses a loader without a signature",
        run: hosts::unsigned_loader,
    },
    Scenario {
        name: "added-live",
        what: "a live ISO added by one command boots at one times its size, and sees the very medium",
        run: added::live,
    },
    Scenario {
        name: "added-divided",
        what: "the same where the image has to lie in several pieces of memory",
        run: added::divided,
    },
    Scenario {
        name: "added-too-large",
        what: "a live ISO that does not fit into a PC is refused in words, before the download",
        run: added::too_large,
    },
    Scenario {
        name: "refuse-flipped-bit",
        what: "a catalog with one flipped bit is refused on the screen, in words",
        run: refusal::flipped_bit,
    },
    Scenario {
        name: "refuse-wrong-key",
        what: "a catalog signed with another lab's keys is refused on the screen, in words",
        run: refusal::wrong_key,
    },
    Scenario {
        name: "refuse-changed-image",
        what: "an image changed after signing never starts, and the screen says so",
        run: refusal::changed_image,
    },
    Scenario {
        name: "refuse-broken-kernel",
        what: "after a kernel that cannot be started the picker is back with the reason, and starts another",
        run: refusal::broken_kernel,
    },
    Scenario {
        name: "no-server",
        what: "a node without a server says so, and goes on once the server is back",
        run: refusal::no_server,
    },
    Scenario {
        name: "attack-garbage",
        what: "bt-server survives garbage on each port and serves the next real boot",
        run: attack::garbage,
    },
];
