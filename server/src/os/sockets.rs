//! Shell: opens the roles' sockets, or says in words why that cannot be.
//!
//! "Address in use" helps nobody: [`BindError`] names the port, the process that has it where
//! `/proc` tells, the right that is missing, and what to do.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

/// Waiting connections that the kernel keeps for us: a room that is switched on at once.
const TCP_BACKLOG: i32 = 256;
/// DHCP packets wait here while all threads are busy: a building's power-on.
const DHCP_RECEIVE_BUFFER: libc::c_int = 16 << 20;

/// Transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// DHCP, TFTP.
    Udp,
    /// HTTP, peers.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// Why a socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error(
        "{role} needs {transport} port {port}, but {holder} has it; stop that, or choose another port in server.toml where there is a choice"
    )]
    Taken {
        /// `DHCP`, `TFTP`, `HTTP`.
        role: &'static str,
        /// UDP or TCP.
        transport: Transport,
        /// The port.
        port: u16,
        /// `dnsmasq (process 812)`, or that it cannot be seen.
        holder: String,
    },
    /// Ports below 1024, and sockets on one interface, need a right.
    #[error(
        "{role} may not open {transport} port {port}; run bt-server as root, or grant it CAP_NET_BIND_SERVICE and CAP_NET_RAW"
    )]
    Forbidden {
        /// The role.
        role: &'static str,
        /// UDP or TCP.
        transport: Transport,
        /// The port.
        port: u16,
    },
    /// `interface` of server.toml.
    #[error(
        "{role} cannot use the interface '{interface}': there is none of that name; `ip link` lists them"
    )]
    NoInterface {
        /// The role.
        role: &'static str,
        /// Its name in server.toml.
        interface: String,
    },
    /// The address went away, or was never there.
    #[error(
        "{role} cannot listen on {address}: this machine does not have that address; `ip address` lists them"
    )]
    NoAddress {
        /// The role.
        role: &'static str,
        /// The address.
        address: IpAddr,
    },
    /// Something rare.
    #[error("{role} cannot open {transport} port {port}")]
    Io {
        /// The role.
        role: &'static str,
        /// UDP or TCP.
        transport: Transport,
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}

/// Who wants which port, for the message.
#[derive(Clone, Copy)]
struct Wish<'a> {
    role: &'static str,
    transport: Transport,
    address: SocketAddr,
    interface: Option<&'a str>,
}

/// A UDP socket that hears and sends broadcasts on one interface only.
///
/// # Errors
/// When it cannot be opened; the error says why.
pub fn broadcast_udp(
    role: &'static str,
    interface: &str,
    address: SocketAddr,
) -> Result<UdpSocket, BindError> {
    let wish = Wish { role, transport: Transport::Udp, address, interface: Some(interface) };
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        set_receive_buffer(&socket)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    open().map_err(|source| explain(wish, source))
}

/// The whole buffer where the right CAP_NET_ADMIN is there, else what `net.core.rmem_max` allows.
fn set_receive_buffer(socket: &Socket) -> io::Result<()> {
    let size = DHCP_RECEIVE_BUFFER;
    let length = libc::socklen_t::try_from(size_of_val(&size)).expect("it is 4");
    let set = |option| {
        let fd = socket.as_raw_fd();
        // SAFETY: setsockopt(2) reads `length` bytes, the size of the number that it points to.
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const size).cast(), length) }
    };
    if set(libc::SO_RCVBUFFORCE) == 0 || set(libc::SO_RCVBUF) == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// A UDP socket on one address.
///
/// # Errors
/// When it cannot be opened; the error says why.
pub fn udp(role: &'static str, address: SocketAddr) -> Result<UdpSocket, BindError> {
    let wish = Wish { role, transport: Transport::Udp, address, interface: None };
    UdpSocket::bind(address).map_err(|source| explain(wish, source))
}

/// A TCP listener, ready for tokio.
///
/// # Errors
/// When it cannot be opened; the error says why.
pub fn tcp(role: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let wish = Wish { role, transport: Transport::Tcp, address, interface: None };
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait until the old connections are forgotten.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(TCP_BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|source| explain(wish, source))
}

fn explain(wish: Wish<'_>, source: io::Error) -> BindError {
    let Wish { role, transport, address, interface } = wish;
    let port = address.port();
    match (source.raw_os_error(), interface) {
        (Some(libc::EADDRINUSE), _) => {
            let holder = holder_of(transport, port).unwrap_or_else(|| "another process".to_owned());
            BindError::Taken { role, transport, port, holder }
        }
        (Some(libc::EACCES | libc::EPERM), _) => BindError::Forbidden { role, transport, port },
        (Some(libc::ENODEV), Some(interface)) => {
            BindError::NoInterface { role, interface: interface.to_owned() }
        }
        (Some(libc::EADDRNOTAVAIL), _) => BindError::NoAddress { role, address: address.ip() },
        _ => BindError::Io { role, transport, port, source },
    }
}

/// The process that has a local port: `dnsmasq (process 812)`. `None` when `/proc` does not tell:
/// without root only one's own processes can be seen.
pub fn holder_of(transport: Transport, port: u16) -> Option<String> {
    let tables = match transport {
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
    };
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| inodes_of_port(&table, transport, port))
        .collect();
    let processes = fs::read_dir("/proc").ok()?;
    processes.filter_map(Result::ok).find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let has_socket = has_one_of(&process.path().join("fd"), &inodes);
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        has_socket.then(|| format!("{} (process {pid})", name.trim()))
    })
}

/// Inode numbers of the sockets on `port` in a table as `/proc/net/tcp` shows it (proc(5)).
fn inodes_of_port(table: &str, transport: Transport, port: u16) -> Vec<String> {
    const LISTENING: &str = "0A";
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (_, hex_port) = local.rsplit_once(':')?;
        let is_it = u16::from_str_radix(hex_port, 16).ok()? == port
            && (transport == Transport::Udp || *state == LISTENING);
        is_it.then(|| (*inode).to_owned())
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

fn has_one_of(fds: &Path, inodes: &[String]) -> bool {
    let Ok(fds) = fs::read_dir(fds) else { return false };
    fds.filter_map(Result::ok).filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| {
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.iter().any(|one| one == inode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_taken_port_names_the_process_that_has_it() {
        let first = tcp("HTTP", local(0)).expect("a free port");
        let address = first.local_addr().expect("is bound");
        let error = tcp("HTTP", address).expect_err("the port is taken").to_string();
        let me = format!("(process {})", std::process::id());
        assert!(error.contains(&me), "{error}");
        assert!(error.contains(&format!("TCP port {}", address.port())), "{error}");

        let first = udp("TFTP", local(0)).expect("a free port");
        let address = first.local_addr().expect("is bound");
        let error = udp("TFTP", address).expect_err("the port is taken").to_string();
        assert!(error.contains(&me), "{error}");
    }

    #[test]
    fn an_address_of_another_machine_is_told_as_such() {
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
        let error = tcp("HTTP", elsewhere).expect_err("not ours").to_string();
        assert!(error.starts_with("HTTP cannot listen on 192.0.2.1: this machine"), "{error}");
    }

    #[test]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 00000000:1B39 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n\
            1: 0100007F:1B39 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n\
            2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1\n\
            garbage";
        assert_eq!(inodes_of_port(table, Transport::Tcp, 6969), ["4711"]);
        assert_eq!(inodes_of_port(table, Transport::Udp, 6969), ["4711", "4712"]);
    }
}
