//! Shell: this machine: network card, ports, clock, disk, boot files.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bt_catalog::{Catalog, PublicKey};
use jiff::Timestamp;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::statvfs::statvfs;

use super::Diagnosis;
use crate::boot::loaders::BUILD_BOOT_FILES;
use crate::humanize;
use crate::lab::Lab;
use crate::lab::config::{Config, DhcpMode};
use crate::lab::instance::Instance;
use crate::os::card::Card;
use crate::os::interfaces::interfaces;
use crate::os::sockets;
use crate::process::privileges;
use crate::role::ServerRole;

/// With less, leases and catalogs cannot be written.
const DISK_FULL: u64 = 16 << 20;
/// With less, the next image will not fit.
const DISK_LOW: u64 = 1 << 30;
/// 2026-01-01: an earlier clock was never set.
const EARLIEST: i64 = 1_767_225_600;

/// Nodes take the time from the server, and refuse catalogs that have expired.
pub fn clock(lab: &Lab, now: Timestamp, found: &mut Diagnosis) {
    const REMEDY: &str = "set it: `timedatectl set-ntp true`, or `timedatectl set-time`";
    let published = fs::read(lab.published().join("catalog.toml")).ok();
    let issued = published.and_then(|bytes| Catalog::parse(&bytes).ok()).map(|it| it.issued);
    match issued {
        _ if now.as_second() < EARLIEST => {
            found.fail("clock", format!("this machine's clock says {now:.0}"), REMEDY);
        }
        Some(issued) if issued > now => {
            let what =
                format!("the clock says {now:.0}, but the last catalog was signed {issued:.0}");
            found.fail("clock", what, REMEDY);
        }
        _ => found.good("clock", format!("{now:.0}")),
    }
}

/// The lab's folder, and `state/`, where the lease log and the catalog are written: it may be on
/// another disk, and it must be open for writing.
pub fn disk(lab: &Lab, found: &mut Diagnosis) {
    let state = lab.state();
    let device = |path: &Path| fs::metadata(path).ok().map(|it| it.dev());
    free(lab.root(), "the lab", found);
    // Before the first start there is none.
    let Some(of_state) = device(&state) else { return };
    if Some(of_state) != device(lab.root()) {
        free(&state, "state/", found);
    }
    if let Err(error) = try_to_write(&state) {
        let what = format!(
            "cannot write to state/: {error}; without leases and catalogs on the disk, no \
             new PC gets an address and no change goes live"
        );
        let remedy = match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                "find the cause with `dmesg`, check the disk, then `mount -o remount,rw` it"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => MAKE_ROOM,
            _ => "give it to the lab's owner, and run doctor as that user or as root",
        };
        found.fail("disk", what, remedy);
    }
}

/// Writes a file without a name, which is gone at once.
fn try_to_write(folder: &Path) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(folder)?;
    file.write_all(&[0; 4096])?;
    file.sync_all()
}

const MAKE_ROOM: &str = "free some space: `du -h -d 2` in the lab folder shows what uses it";

fn free(folder: &Path, whose: &str, found: &mut Diagnosis) {
    const REMEDY: &str = MAKE_ROOM;
    match statvfs(folder) {
        Ok(status) => {
            let free = status.blocks_available().saturating_mul(status.fragment_size());
            let what = format!("{} free for {whose}", humanize::size(free));
            if free < DISK_FULL {
                found.fail("disk", what, REMEDY);
            } else if free < DISK_LOW {
                found.warn("disk", what, REMEDY);
            } else {
                found.good("disk", what);
            }
        }
        Err(error) => {
            let what = format!("cannot determine the free space for {whose}: {error}");
            found.warn("disk", what, REMEDY);
        }
    }
}

/// The network card; the lab's findings tell of one that is missing or has no address.
pub fn link(name: &str, found: &mut Diagnosis) {
    let all = interfaces().unwrap_or_default();
    let Some(interface) = all.iter().find(|it| it.name == name) else { return };
    let Some((ip, mask)) = interface.address else { return };
    let address = format!("{name} has {ip}/{}", mask.to_bits().count_ones());
    if !interface.is_up {
        let remedy = format!("`ip link set {name} up`");
        found.fail("link", format!("{name} is down"), remedy);
    } else if !has_link(name) {
        let remedy = "plug in the cable; check the switch and the other end";
        found.fail("link", format!("{address}, but no link: nothing is plugged in"), remedy);
    } else if interface.is_loopback {
        let remedy = "name the network interface of the lab as `interface` in server.toml";
        found.warn("link", format!("{address}, which only this machine can reach"), remedy);
    } else {
        let speed = fs::read_to_string(format!("/sys/class/net/{name}/speed")).unwrap_or_default();
        let speed = speed.trim().parse::<i64>().ok().filter(|speed| *speed > 0);
        let speed = speed.map_or_else(String::new, |speed| format!(", {speed} Mbit/s"));
        found.good("link", format!("{address}, link is up{speed}"));
    }
}

/// Whether something is plugged in (`IFF_RUNNING`, netdevice(7)).
fn has_link(name: &str) -> bool {
    getifaddrs().is_ok_and(|mut all| {
        all.any(|it| it.interface_name == name && it.flags.contains(InterfaceFlags::IFF_RUNNING))
    })
}

/// Whether the ports of the roles that do not run can be had, asked by having them for a moment.
pub fn ports(config: &Config, card: &Card, running: &[ServerRole], found: &mut Diagnosis) {
    let at = |port| SocketAddr::from((card.ip, port));
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let card = &card.name;
    let mut tried = Vec::new();
    for role in ServerRole::ALL.into_iter().filter(|role| !running.contains(role)) {
        match role {
            ServerRole::Dhcp if config.dhcp == DhcpMode::Off => {}
            ServerRole::Dhcp => {
                tried.push(sockets::broadcast_udp("DHCP", card, any(67)).map(drop));
                if config.dhcp == DhcpMode::Proxy {
                    tried.push(sockets::broadcast_udp("proxyDHCP", card, any(4011)).map(drop));
                }
            }
            ServerRole::Tftp => tried.push(sockets::udp("TFTP", at(69)).map(drop)),
            ServerRole::Http => tried.push(sockets::tcp("HTTP", at(config.http_port)).map(drop)),
            ServerRole::Seed => tried.push(sockets::tcp("seed", at(config.seed_port)).map(drop)),
        }
    }
    let count = tried.len();
    let failed: Vec<_> = tried.into_iter().filter_map(Result::err).collect();
    match (count, failed.is_empty()) {
        (0, _) => found.good("ports", "this lab's server listens on all of them".to_owned()),
        (_, true) => found.good("ports", format!("{count} are free and can be opened")),
        (_, false) => {}
    }
    for error in failed {
        found.fail("ports", humanize::chain(&error), "then run doctor again");
    }
}

/// Who the server's processes are, and whether they gave up the rights that they do not need.
pub fn processes(running: &[(Instance, u32)], found: &mut Diagnosis) {
    for (Instance { roles, .. }, pid) in running {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let rights = field("CapEff:").and_then(|bits| u64::from_str_radix(bits, 16).ok());
        let uid = field("Uid:").and_then(|ids| ids.split_whitespace().next()?.parse().ok());
        let who = uid.map_or_else(|| "another user".to_owned(), privileges::user_name);
        let what = format!("{roles} (process {pid}) as {who}");
        match rights {
            Some(0) => found.good("rights", format!("{what}, with no capability")),
            Some(bits) if bits & !privileges::NEEDED == 0 => {
                found.good("rights", format!("{what}, with CAP_NET_BIND_SERVICE alone"));
            }
            Some(bits) => {
                let what = format!("{what}, with more capabilities than it needs ({bits:#x})");
                found.warn(
                    "rights",
                    what,
                    "start it with `bt-server start`, or with the unit in docs/supervisor/roles.md",
                );
            }
            None => found.good("rights", what),
        }
    }
}

/// Whether the nodes' initramfs trusts this lab.
pub fn boot_files(lab: &Lab, found: &mut Diagnosis) {
    let remedy = format!("rebuild it: `{BUILD_BOOT_FILES}`");
    let [_, initramfs] = lab.boot_files();
    let key = fs::read_to_string(lab.keys().join("root.pub")).ok();
    let Some(key) = key.and_then(|text| PublicKey::parse(&text).ok()) else { return };
    let unpacked = fs::read(&initramfs).and_then(|bytes| zstd::decode_all(&bytes[..]));
    match unpacked {
        Ok(unpacked) => {
            let wanted = key.to_base64().as_bytes();
            if unpacked.windows(wanted.len()).any(|window| window == wanted) {
                found.good("boot files", "kernel and initramfs; they trust this lab's key".into());
            } else {
                let what =
                    "the PCs' initramfs holds another lab's key: they will refuse the catalog";
                found.fail("boot files", what.to_owned(), remedy);
            }
        }
        Err(error) => {
            let what = format!("cannot determine whose key the PCs' initramfs trusts: {error}");
            found.warn("boot files", what, remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Verdict;

    fn lab() -> (tempfile::TempDir, Lab) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("server.toml"), "").expect("written");
        let lab = Lab::open(folder.path()).expect("a lab");
        (folder, lab)
    }

    fn seen(lab: &Lab) -> Vec<(Verdict, String)> {
        let mut found = Diagnosis::default();
        disk(lab, &mut found);
        found.observations().iter().map(|it| (it.verdict, it.what.clone())).collect()
    }

    #[test]
    fn a_state_folder_on_the_labs_own_disk_is_told_of_once_and_left_empty() {
        let (_folder, lab) = lab();
        assert_eq!(seen(&lab).len(), 1);
        fs::create_dir(lab.state()).expect("made");
        let seen = seen(&lab);
        assert!(seen.len() == 1 && seen[0].1.ends_with(" free for the lab"), "{seen:?}");
        assert_eq!(fs::read_dir(lab.state()).expect("listed").count(), 0);
    }

    #[test]
    fn a_state_folder_on_another_file_system_that_takes_nothing_is_told() {
        let (_folder, lab) = lab();
        // proc(5) has no free space, and nobody can make a file there.
        std::os::unix::fs::symlink("/proc", lab.state()).expect("made");
        let seen = seen(&lab);
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert_eq!(seen[1], (Verdict::Fail, "0 B free for state/".to_owned()));
        assert_eq!(seen[2].0, Verdict::Fail);
        assert!(seen[2].1.starts_with("cannot write to state/: "), "{seen:?}");
    }
}
