//! Shell: why a port cannot be used, and the machine's network interfaces.
//!
//! "Address already in use" helps nobody at eight in the morning: the message names the process
//! that holds the port (`/proc/net/{udp,tcp}` and `/proc/*/fd`, proc(5)) or the missing right.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// The transport a port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTP, BitTorrent.
    Tcp,
    /// DHCP, TFTP.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Why a role could not have its port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Another process has it.
    #[error("{role} needs {transport} port {port}, but {holder} has it; {remedy}")]
    Taken {
        /// `dhcp`, `tftp`, `http` or `seed`.
        role: &'static str,
        /// Which kind of port.
        transport: Transport,
        /// Its number.
        port: u16,
        /// `dnsmasq (pid 812)`, or `another process`.
        holder: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Ports below 1024 and raw sockets need capabilities(7).
    #[error(
        "{role} needs {transport} port {port}, and this user may not use it; run bt-server as root, \
         or give the program the right once: \
         setcap cap_net_bind_service,cap_net_raw+ep $(command -v bt-server)"
    )]
    NoRight {
        /// `dhcp`, `tftp`, `http` or `seed`.
        role: &'static str,
        /// Which kind of port.
        transport: Transport,
        /// Its number.
        port: u16,
    },
    /// Anything else that the system said.
    #[error("{role} cannot use {transport} port {port} on {ip}")]
    Other {
        /// `dhcp`, `tftp`, `http` or `seed`.
        role: &'static str,
        /// Which kind of port.
        transport: Transport,
        /// Its number.
        port: u16,
        /// The address it was asked for on.
        ip: String,
        /// What the system said.
        source: io::Error,
    },
}

impl PortError {
    /// Turns the error of a failed `bind` (or of the socket options before it) into words.
    pub fn explain(
        role: &'static str,
        transport: Transport,
        listen: SocketAddr,
        error: io::Error,
    ) -> Self {
        let port = listen.port();
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::Taken {
                role,
                transport,
                port,
                holder: holder(transport, port).unwrap_or_else(|| "another process".to_owned()),
                remedy: match port {
                    67 | 69 => "stop that service: two on one network confuse the PCs",
                    _ => "stop it, or choose another port in server.toml",
                },
            },
            io::ErrorKind::PermissionDenied => Self::NoRight { role, transport, port },
            _ => Self::Other { role, transport, port, ip: listen.ip().to_string(), source: error },
        }
    }
}

/// Name and pid of a process that has this local port, as far as we may see it.
pub fn holder(transport: Transport, port: u16) -> Option<String> {
    let tables: [&str; 2] = match transport {
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let inodes: Vec<u64> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|text| inodes_of_port(&text, transport, port))
        .collect();
    let (pid, name) = processes().find(|(pid, _)| has_socket(*pid, &inodes))?;
    Some(format!("{name} (pid {pid})"))
}

/// Inodes of the sockets bound to `port`, from the text of a table in `/proc/net`.
fn inodes_of_port(table: &str, transport: Transport, port: u16) -> Vec<u64> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        let is_wanted = u16::from_str_radix(hex, 16).ok()? == port;
        // 0A is TCP_LISTEN: connections from that port do not hinder us.
        let is_bound = transport == Transport::Udp || *fields.get(3)? == "0A";
        (is_wanted && is_bound).then(|| fields.get(9)?.parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn processes() -> impl Iterator<Item = (u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((pid, name.trim().to_owned()))
    })
}

fn has_socket(pid: u32, inodes: &[u64]) -> bool {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    links.filter_map(|link| fs::read_link(link.path()).ok()).any(|target: PathBuf| {
        let text = target.to_string_lossy();
        let inode = text.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']'));
        inode.and_then(|i| i.parse().ok()).is_some_and(|inode: u64| inodes.contains(&inode))
    })
}

/// One network interface of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Such as `eth0`.
    pub name: String,
    /// Its first IPv4 address and netmask.
    pub address: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Whether it is switched on.
    pub is_up: bool,
    /// Whether it only reaches this machine itself.
    pub is_loopback: bool,
}

/// All network interfaces, in the system's order.
///
/// # Errors
/// When the system does not tell.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut found: Vec<Interface> = Vec::new();
    for part in getifaddrs()? {
        let known = found.iter().position(|known| known.name == part.interface_name);
        let index = known.unwrap_or_else(|| {
            found.push(Interface {
                name: part.interface_name.clone(),
                address: None,
                is_up: part.flags.contains(InterfaceFlags::IFF_UP),
                is_loopback: part.flags.contains(InterfaceFlags::IFF_LOOPBACK),
            });
            found.len() - 1
        });
        let ip = part.address.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| a.ip());
        let mask = part.netmask.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| a.ip());
        if let (Some(ip), Some(mask), None) = (ip, mask, found[index].address) {
            found[index].address = Some((ip, mask));
        }
    }
    Ok(found)
}

/// Why the interface of `server.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// There is none of that name.
    #[error(
        "there is no network interface `{name}`; this machine has {existing}: correct `interface` in \
         server.toml"
    )]
    Unknown {
        /// The name in server.toml.
        name: String,
        /// Those that exist, for people.
        existing: String,
    },
    /// It has no IPv4 address.
    #[error(
        "interface {name} has no IPv4 address, so the PCs cannot reach this server; give it one, for \
         example: ip address add 10.77.0.1/24 dev {name} && ip link set {name} up"
    )]
    NoAddress {
        /// The name in server.toml.
        name: String,
    },
    /// The system did not tell.
    #[error("the network interfaces of this machine cannot be listed")]
    Io(#[from] io::Error),
}

/// The IPv4 address and netmask of the interface called `name`.
///
/// # Errors
/// When it does not exist or has no address, with what there is instead.
pub fn address_of(name: &str) -> Result<(Ipv4Addr, Ipv4Addr), InterfaceError> {
    let all = interfaces()?;
    match all.iter().find(|interface| interface.name == name) {
        Some(Interface { address: Some(address), .. }) => Ok(*address),
        Some(_) => Err(InterfaceError::NoAddress { name: name.to_owned() }),
        None => Err(InterfaceError::Unknown { name: name.to_owned(), existing: list(&all) }),
    }
}

/// `eth0 (10.77.0.1), wlan0 (no IPv4 address)`.
pub fn list(interfaces: &[Interface]) -> String {
    let words = interfaces.iter().map(|interface| match interface.address {
        Some((ip, _)) => format!("{} ({ip})", interface.name),
        None => format!("{} (no IPv4 address)", interface.name),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_process_that_holds_a_port_is_named() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let me = format!("(pid {})", std::process::id());
        let of_tcp = holder(Transport::Tcp, tcp.local_addr().expect("bound").port());
        let of_udp = holder(Transport::Udp, udp.local_addr().expect("bound").port());
        assert!(of_tcp.as_deref().is_some_and(|h| h.ends_with(&me)), "{of_tcp:?}");
        assert!(of_udp.as_deref().is_some_and(|h| h.ends_with(&me)), "{of_udp:?}");
    }

    #[test]
    fn a_taken_port_is_explained() {
        let first = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let listen = first.local_addr().expect("bound");
        let error = TcpListener::bind(listen).expect_err("it is taken");
        let text = PortError::explain("http", Transport::Tcp, listen, error).to_string();
        let expected = format!("http needs TCP port {}, but ", listen.port());
        assert!(text.starts_with(&expected), "{text}");
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    }

    #[test]
    fn a_missing_right_comes_with_the_way_to_get_it() {
        let listen = "0.0.0.0:67".parse().expect("an address");
        let error = io::ErrorKind::PermissionDenied.into();
        let text = PortError::explain("dhcp", Transport::Udp, listen, error).to_string();
        assert!(text.contains("cap_net_bind_service"), "{text}");
    }

    #[test]
    fn an_unknown_interface_is_answered_with_those_that_exist() {
        let text = address_of("nosuch0").expect_err("no such interface").to_string();
        assert!(text.contains("`nosuch0`") && text.contains("lo ("), "{text}");
    }

    #[test]
    fn only_listening_sockets_hold_a_tcp_port() {
        let table = "head\n\
            0: 00000000:1B39 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 41 1\n\
            1: 0100007F:1B39 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 42 1\n";
        assert_eq!(inodes_of_port(table, Transport::Tcp, 6969), [41]);
        assert_eq!(inodes_of_port(table, Transport::Udp, 6969), [41, 42]);
    }
}
