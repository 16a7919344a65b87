//! Shell: garbage on each of the server's ports, then a real boot.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::host::clock;
use crate::host::http;
use crate::host::process::run;
use crate::room::addresses::SERVER;
use crate::room::namespace::Namespace;
use crate::room::qemu::{Firmware, Machine};
use crate::room::route::MENU_LIMIT;
use crate::room::server::{HTTP, server_command};
use crate::room::student::Student;
use crate::room::testbed::Testbed;

/// How long the garbage flows in the short and the long test.
const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);

pub fn garbage(testbed: &mut Testbed) -> Result<String> {
    let name = "attack-garbage";
    let lab = testbed.sample_lab(name)?;
    let mut server = testbed.serve(&lab, name)?;
    let pid = server.pid();
    let namespace = testbed.lan.namespace()?;
    let end = clock::now() + if testbed.long { LONG } else { SHORT };
    let attackers = [dhcp as Attacker, tftp, web, peer];
    let threads: Vec<_> = (1..)
        .zip(attackers)
        .map(|(seed, attacker)| attack(&namespace, attacker, Noise(seed), end))
        .collect::<Result<_>>()?;
    let mut sent = Vec::new();
    for thread in threads {
        sent.push(thread.join().expect("an attacker does not panic")?);
    }
    clock::check_interrupted()?;
    let outcome = server.check_running().and_then(|()| {
        let mut status = server_command(&testbed.programs.server, &lab);
        status.args(["status", "--json"]);
        run(status).context("after the garbage")?;
        http::get(HTTP, "/catalog.toml").context("after the garbage")
    });
    server.explain(outcome)?;
    let machine = Machine::new(Firmware::Bios, 1);
    let mut student = Student::switch_on(name, &machine, &mut testbed.lan, &testbed.out)?;
    server.explain(student.wait_step("menu", MENU_LIMIT))?;
    student.picture(&format!("{name}-menu"))?;
    anyhow::ensure!(server.pid() == pid, "the server was restarted");
    let [dhcp, tftp, web, peer] = sent[..] else { unreachable!("four attackers") };
    Ok(format!(
        "{dhcp} packets to DHCP, {tftp} to TFTP, {web} connections to HTTP, {peer} to the seed; \
         then a PC booted into the picker"
    ))
}

/// Attacks once; the address is where replies may come.
type Attacker = fn(&mut Noise) -> Result<()>;

/// Attacks again and again from `namespace`; returns how often.
fn attack(
    namespace: &Namespace,
    attacker: Attacker,
    mut noise: Noise,
    end: Instant,
) -> Result<std::thread::JoinHandle<Result<u64>>> {
    let network: OwnedFd = namespace.network().try_clone_to_owned()?;
    Ok(std::thread::spawn(move || {
        setns(&network, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
        let mut times = 0;
        while clock::now() < end && clock::check_interrupted().is_ok() {
            // A refused connection is a good answer to garbage.
            attacker(&mut noise).ok();
            times += 1;
        }
        Ok(times)
    }))
}

/// DHCP: noise, and discovers with one part spoilt.
fn dhcp(noise: &mut Noise) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_broadcast(true)?;
    let mut packet = discover(noise.below(20) as u8);
    match noise.below(3) {
        0 => packet = noise.bytes(1500),
        1 => packet.truncate(noise.below(packet.len())),
        _ => {
            for _ in 0..=noise.below(8) {
                let at = noise.below(packet.len());
                packet[at] = noise.next() as u8;
            }
        }
    }
    let to = if noise.below(2) == 0 { Ipv4Addr::BROADCAST } else { SERVER };
    socket.send_to(&packet, (to, 67))?;
    pace()
}

/// A DHCPDISCOVER (RFC 2131 §2) of one of a few PCs.
fn discover(number: u8) -> Vec<u8> {
    let mut packet = vec![1, 1, 6, 0, 1, 2, 3, 4];
    packet.resize(28, 0);
    packet.extend([0x52, 0x54, 0, 0xba, 0xd0, number]);
    packet.resize(236, 0);
    packet.extend([99, 130, 83, 99, 53, 1, 1, 60, 9]);
    packet.extend(b"PXEClient");
    packet.extend([93, 2, 0, 0, 255]);
    packet
}

/// TFTP: noise, and requests with strange names and options.
fn tftp(noise: &mut Noise) -> Result<()> {
    const REQUESTS: &[&[u8]] = &[
        b"\0\x01../../../../etc/shadow\0octet\0",
        b"\0\x01undionly.kpxe\0octet\0blksize\x000\0windowsize\x0065535\0",
        b"\0\x01undionly.kpxe\0octet\0blksize\x0099999999999999999999\0",
        b"\0\x01no end",
        b"\0\x02undionly.kpxe\0octet\0",
        b"\0\x01\0\0",
        b"\0\x04\0\x01",
        b"\0\x05\0\x08\0",
    ];
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let choice = noise.below(REQUESTS.len() + 2);
    let packet = REQUESTS.get(choice).map_or_else(|| noise.bytes(1400), |it| it.to_vec());
    socket.send_to(&packet, (SERVER, 69))?;
    pace()
}

/// HTTP: noise, and requests that never end, are too long, or ask for what is not theirs.
fn web(noise: &mut Noise) -> Result<()> {
    let mut stream = connect(6969)?;
    let text = match noise.below(7) {
        0 => noise.bytes(4000),
        1 => b"GET /../../keys/root.key HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        2 => b"GET /boot/%2e%2e/%2e%2e/keys/signing.key HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        3 => [b"GET /".as_slice(), &vec![b'a'; 100_000]].concat(),
        4 => b"POST /report HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n{{{{".to_vec(),
        5 => b"GET /announce?info_hash=%00&peer_id=x&port=99999999&left=-1 HTTP/1.1\r\nHost: x\r\n\r\n"
            .to_vec(),
        _ => b"GET /boot/vmlinuz HTTP/1.1\r\nHost: x\r\nRange: bytes=9-3,-0,99999999999999999999-\r\n\r\n"
            .to_vec(),
    };
    stream.write_all(&text)?;
    pace()
}

/// The seed: noise, and what begins like a BitTorrent handshake (BEP 3).
fn peer(noise: &mut Noise) -> Result<()> {
    let mut stream = connect(6881)?;
    let mut bytes = noise.bytes(2000);
    if noise.below(2) == 0 {
        bytes.splice(0..0, *b"\x13BitTorrent protocol");
    }
    stream.write_all(&bytes)?;
    pace()
}

fn connect(port: u16) -> Result<TcpStream> {
    let limit = Duration::from_secs(2);
    let stream = TcpStream::connect_timeout(&SocketAddr::from((SERVER, port)), limit)?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}

/// A few hundred times a second from each attacker: garbage, not a flood.
fn pace() -> Result<()> {
    std::thread::sleep(Duration::from_millis(3));
    Ok(())
}

/// Noise that is the same in every run (xorshift64*, Vigna 2016).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    }

    /// A number from 0 to `limit` - 1.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).unwrap_or(0) % limit.max(1)
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.next() as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_same_in_every_run() {
        assert_eq!(Noise(1).bytes(100), Noise(1).bytes(100));
        assert_ne!(Noise(1).bytes(100), Noise(2).bytes(100));
    }

    #[test]
    fn the_discover_has_its_cookie_where_it_belongs() {
        assert_eq!(discover(1)[236..240], [99, 130, 83, 99]);
    }
}
