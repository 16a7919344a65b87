//! Shell: the lab's own network, which shares nothing with the machine's.
//!
//! ```text
//!   one network namespace                       one more per extra client
//!   +---------------------------------------+   +----------------------+
//!   | bt-server  10.77.0.1/24 on bridge bt0 |   | aria2c, bt-node fetch|
//!   |      tap1 -- QEMU PC    veth2 --------+---+ eth0 10.77.0.202/24  |
//!   +---------------------------------------+   +----------------------+
//! ```
//! The lab moves itself into the namespace (`unshare`); all it starts from then on lives there.
//! As an ordinary user it takes a user namespace along, in which it is root. Links are shaped with
//! `tbf`, since every kernel has it and `netem` is often missing.

use std::fs::File;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::room::addresses::{BRIDGE, SERVER};
use crate::room::namespace::{Namespace, ip, shape};

/// Between two router advertisements: iPXE asks for one within its first second.
const ADVERTISE_EVERY: Duration = Duration::from_millis(500);

/// Moves this process into a network and mount namespace of its own.
///
/// Must be called while the process has a single thread: an ordinary user's new user namespace
/// is refused otherwise (unshare(2)).
pub fn enter_private_network() -> Result<()> {
    let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if geteuid().is_root() {
        unshare(own).context(
            "cannot make a private network: root is not allowed to unshare (a container without \
             CAP_SYS_ADMIN?); start the container with --privileged",
        )?;
    } else {
        enter_as_user(own)?;
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make the mounts private")?;
    // A /sys of our own shows our interfaces; without it only programs that look there are misled.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).ok();
    if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
        bail!("cannot open /dev/net/tun ({error}): load it with `modprobe tun`, or run as root");
    }
    Ok(())
}

/// The same for an ordinary user: in a user namespace, where this user is root.
fn enter_as_user(own: CloneFlags) -> Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | own).context(
        "cannot make a private network as an ordinary user: user namespaces are disabled; run as \
         root, or enable them with `sysctl kernel.unprivileged_userns_clone=1`",
    )?;
    std::fs::write("/proc/self/setgroups", "deny").context("cannot write setgroups")?;
    std::fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("cannot map the user")?;
    std::fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("cannot map the group")
}

/// The virtual LAN: a bridge with the server's address.
pub struct Lan {
    ports: u8,
    namespaces: u8,
    mbit: Option<u32>,
}

impl Lan {
    /// Makes the LAN in the namespace that [`enter_private_network`] entered.
    /// `mbit` limits what each link carries towards its PC.
    pub fn create(mbit: Option<u32>) -> Result<Self> {
        ip("link set lo up")?;
        ip(&format!("link add {BRIDGE} type bridge mcast_snooping 0"))?;
        ip(&format!("addr add {SERVER}/24 dev {BRIDGE}"))?;
        ip(&format!("link set {BRIDGE} up"))?;
        Ok(Self { ports: 0, namespaces: 0, mbit })
    }

    /// Plugs in a cable for a QEMU PC; returns the name of its tap interface.
    pub fn tap(&mut self) -> Result<String> {
        let name = format!("tap{}", self.next_port());
        ip(&format!("tuntap add dev {name} mode tap"))?;
        self.plug(&name)?;
        Ok(name)
    }

    /// Makes a network with one interface on this LAN, for a client that is not a QEMU PC.
    pub fn namespace(&mut self) -> Result<Namespace> {
        let port = self.next_port();
        let (here, there) = (format!("veth{port}"), format!("peer{port}"));
        ip(&format!("link add {here} type veth peer name {there}"))?;
        self.namespaces += 1;
        let namespace =
            Namespace::with_cable(&there, Ipv4Addr::new(10, 77, 0, 200 + self.namespaces), 24)?;
        self.plug(&here)?;
        if let Some(mbit) = self.mbit {
            namespace.shape("eth0", mbit)?;
        }
        Ok(namespace)
    }

    /// Answers iPXE's question for an IPv6 router, as most networks of today do.
    ///
    /// Without an answer each iPXE stage waits 16 to 20 s. The advertisement names no prefix and
    /// no DHCPv6 server, so it changes nothing else. Runs until the lab ends.
    pub fn advertise_router() -> Result<()> {
        let socket = socket2::Socket::new(
            socket2::Domain::IPV6,
            socket2::Type::RAW,
            Some(socket2::Protocol::ICMPV6),
        )
        .context("cannot open a socket for router advertisements")?;
        socket.bind_device(Some(BRIDGE.as_bytes())).context("cannot bind to the bridge")?;
        socket.set_multicast_hops_v6(255).context("cannot set the hop limit (RFC 4861 §6.1.2)")?;
        let index = nix::net::if_::if_nametoindex(BRIDGE).context("the bridge is missing")?;
        let all_nodes = std::net::SocketAddrV6::new("ff02::1".parse()?, 0, 0, index);
        std::thread::spawn(move || {
            loop {
                // Lost ones do not matter, the next follows at once; there is none before the
                // bridge's own address is ready.
                socket.send_to(&ROUTER_ADVERTISEMENT, &all_nodes.into()).ok();
                std::thread::sleep(ADVERTISE_EVERY);
            }
        });
        Ok(())
    }

    fn next_port(&mut self) -> u8 {
        self.ports += 1;
        self.ports
    }

    fn plug(&self, name: &str) -> Result<()> {
        ip(&format!("link set {name} master {BRIDGE} up"))?;
        if let Some(mbit) = self.mbit {
            shape(name, mbit)?;
        }
        Ok(())
    }
}

/// RFC 4861 §4.2: type 134, hop limit 64, no flags, router lifetime 30 s; the kernel fills in the
/// checksum.
const ROUTER_ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0];
