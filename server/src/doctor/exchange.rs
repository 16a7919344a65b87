//! Shell: asks for an address and a boot file as PCs do, and hears who answers.
//!
//! The questions are broadcast on the lab's network card. The kernel gives broadcasts back to this
//! machine too, so the lab's own server hears them like any other on the segment.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::Diagnosis;
use super::packet::{Client, Firmware, Reply};
use crate::config::{Config, DhcpMode};
use crate::instance::ServerRole;

/// dnsmasq pings an address for three seconds before it offers it.
const LISTEN: Duration = Duration::from_secs(4);
const OFFER: u8 = 2;
const ACK: u8 = 5;

/// What PCs are told to boot.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// The loaders, by firmware.
    pub(super) loaders: Vec<(Firmware, String)>,
    /// The script that iPXE is sent to.
    pub(super) script: Option<String>,
}

/// A sender on the card's broadcasts, and a listener for answers from anywhere.
struct Sockets {
    sender: UdpSocket,
    listener: UdpSocket,
}

/// Asks, judges who answers, and returns what the lab's own server said.
pub(super) fn examine(
    config: &Config,
    own: Ipv4Addr,
    running: &[ServerRole],
    found: &mut Diagnosis,
) -> Served {
    let mut served = Served::default();
    let sockets = match Sockets::open(&config.interface) {
        Ok(sockets) => sockets,
        Err(error) => {
            let what = format!("this program cannot ask for an address as a PC does: {error}");
            found.warn("dhcp", what, "run doctor as root, while no DHCP client runs on this card");
            return served;
        }
    };
    let client = Client::new(Firmware::Uefi);
    // The first question is also the search for strangers, so everybody gets the time to answer.
    let replies = match sockets.ask(&client, &client.discover(), 67, |_| false) {
        Ok(replies) => replies,
        Err(error) => {
            let what = format!("nothing can be broadcast on {}: {error}", config.interface);
            found.warn("dhcp", what, "check the network card and its address");
            return served;
        }
    };
    strangers(config, own, &replies, found);
    if config.dhcp == DhcpMode::Off || running.is_empty() {
        return served;
    }
    if !running.contains(&ServerRole::Dhcp) {
        found.fail("dhcp", "the role dhcp does not run".into(), "`bt-server start --roles dhcp`");
        return served;
    }
    for firmware in [Firmware::Bios, Firmware::Uefi, Firmware::Ipxe] {
        let step = sockets.boot(config, own, Client::new(firmware));
        let remedy = "see `bt-server status` and state/log for what DHCP says of it";
        let Some(file) = found.step("dhcp", remedy, step) else { continue };
        match firmware {
            Firmware::Ipxe => served.script = Some(file),
            firmware => served.loaders.push((firmware, file)),
        }
    }
    served
}

/// Judges the other servers of the segment.
fn strangers(config: &Config, own: Ipv4Addr, replies: &[Reply], found: &mut Diagnosis) {
    let others: Vec<&Reply> = replies.iter().filter(|it| it.server != Some(own)).collect();
    let names = |is: &dyn Fn(&&&Reply) -> bool| {
        let mut names: Vec<String> = others
            .iter()
            .filter(|reply| is(reply))
            .map(|it| it.server.map_or("one without a name".to_owned(), |ip| ip.to_string()))
            .collect();
        names.dedup();
        names.join(", ")
    };
    let givers = names(&|reply| reply.address.is_some());
    let booters = names(&|reply| reply.is_boot);
    match (&config.dhcp, givers.is_empty()) {
        (DhcpMode::Full(_), false) => {
            let what = format!("another DHCP server gives addresses here: {givers}");
            let remedy = "switch it off, or write `mode = \"proxy\"` below [dhcp] in server.toml";
            found.fail("dhcp", what, remedy);
        }
        (DhcpMode::Full(_), true) => {
            found.good("dhcp", "no other server on this segment gives addresses".to_owned());
        }
        (_, false) => found.good("dhcp", format!("addresses come from {givers}")),
        (_, true) => {
            let what = format!("no DHCP server answers on {}", config.interface);
            let remedy = "start the network's own DHCP server, or write `mode = \"full\"` and a \
                          `range` below [dhcp] in server.toml";
            found.fail("dhcp", what, remedy);
        }
    }
    if !booters.is_empty() && config.dhcp != DhcpMode::Off {
        let what = format!("another server also tells PCs what to boot: {booters}");
        found.warn("dhcp", what, "PCs take whichever answers first; switch off its PXE answers");
    }
}

impl Client {
    fn new(firmware: Firmware) -> Self {
        let mut mac: [u8; 6] = rand::random();
        // Locally administered, and one card's (IEEE 802 §8.2).
        mac[0] = mac[0] & 0xfc | 2;
        Self { firmware, mac, xid: rand::random() }
    }
}

impl Sockets {
    fn open(card: &str) -> io::Result<Self> {
        let socket = |card: Option<&str>| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_broadcast(true)?;
            socket.set_reuse_address(true)?;
            socket.bind_device(card.map(str::as_bytes))?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into())?;
            Ok::<UdpSocket, io::Error>(socket.into())
        };
        // Answers that are sent to this machine's own address do not come through the card.
        Ok(Self { sender: socket(Some(card))?, listener: socket(None)? })
    }

    /// Broadcasts a question and collects the answers, until one `is_enough`.
    fn ask(
        &self,
        client: &Client,
        question: &[u8],
        port: u16,
        is_enough: impl Fn(&Reply) -> bool,
    ) -> io::Result<Vec<Reply>> {
        self.sender.send_to(question, (Ipv4Addr::BROADCAST, port))?;
        let mut replies = Vec::new();
        let mut packet = [0; 2048];
        let end = now() + LISTEN;
        while let Some(left) = end.checked_duration_since(now()).filter(|left| !left.is_zero()) {
            self.listener.set_read_timeout(Some(left))?;
            let Ok((length, _)) = self.listener.recv_from(&mut packet) else { continue };
            if let Some(reply) = client.read(&packet[..length]) {
                let is_last = is_enough(&reply);
                replies.push(reply);
                if is_last {
                    break;
                }
            }
        }
        Ok(replies)
    }

    /// Goes from DISCOVER to the boot file's name, and to the lease in full mode, which is then
    /// given back.
    fn boot(
        &self,
        config: &Config,
        own: Ipv4Addr,
        client: Client,
    ) -> Result<(String, String), String> {
        let name = client.firmware.name();
        let ask = |question: &[u8], port, kind| {
            let is_it = |reply: &Reply| reply.server == Some(own) && reply.kind == kind;
            let replies = self.ask(&client, question, port, is_it);
            replies.map(|replies| replies.into_iter().find(is_it)).map_err(|e| e.to_string())
        };
        let offer = ask(&client.discover(), 67, OFFER)?
            .ok_or_else(|| format!("this lab's server does not answer a {name} client"))?;
        if config.dhcp == DhcpMode::Proxy {
            let file = match offer.file {
                Some(file) => Some(file),
                None => ask(&client.request(own, None), 4011, ACK)?.and_then(|ack| ack.file),
            };
            let file = file.ok_or_else(|| format!("a {name} client is not told what to boot"))?;
            let what = format!("{name} is told to boot {file}");
            return Ok((file, what));
        }
        let address = offer.address.ok_or_else(|| format!("a {name} client gets no address"))?;
        let ack = ask(&client.request(own, Some(address)), 67, ACK)?
            .ok_or_else(|| format!("a {name} client was offered {address} and not given it"))?;
        self.sender
            .send_to(&client.release(own, address), (Ipv4Addr::BROADCAST, 67))
            .map_err(|error| format!("the lease of {address} was not given back: {error}"))?;
        let file = ack.file.or(offer.file);
        let file = file.ok_or_else(|| format!("a {name} client is not told what to boot"))?;
        let what = format!("{name} gets {address} and is told to boot {file}");
        Ok((file, what))
    }
}

#[expect(clippy::disallowed_methods, reason = "a shell that waits for answers")]
fn now() -> Instant {
    Instant::now()
}
