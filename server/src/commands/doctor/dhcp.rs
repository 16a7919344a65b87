//! Shell: asks for an address and a boot file as PCs do, and hears who answers.
//!
//! The questions are broadcast on the lab's network card. The kernel gives broadcasts back to this
//! machine too, so the lab's own server hears them like any other on the segment. Answers are taken
//! from the card itself where that is allowed, so that this machine's firewall cannot hide them.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::firewall::let_in;
use super::trouble::Trouble;
use super::{Diagnosis, capture};
use crate::lab::config::{Config, DhcpMode};
use crate::os::card::Card;
use crate::roles::dhcp::client::{Client, Firmware, Heard};

/// dnsmasq pings an address for three seconds before it offers it.
const LISTEN: Duration = Duration::from_secs(4);
/// What came by the card comes by the socket a moment later, if at all.
const SOON: Duration = Duration::from_millis(300);
const DHCP: u16 = 67;
/// Option 53 (RFC 2132 §9.6).
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NO_ANSWER: &str = "see `bt-server status` and the log in state/ for messages of DHCP; a \
                         firewall, or a range without a free address, has the same effect";

const HIDDEN: &str = "this machine's firewall seems to drop what comes to its own UDP port 68";

/// What a PC was told by this lab's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// The address, where this server gives any; it was given back.
    pub(super) address: Option<Ipv4Addr>,
    /// The loader's name or the script's URL.
    pub(super) file: String,
}

/// A sender of the card's broadcasts, and listeners for answers from anywhere.
pub(super) struct Asker<'a> {
    config: &'a Config,
    card: &'a Card,
    sender: UdpSocket,
    listener: UdpSocket,
    /// What the cards see, before any firewall; `None` without the right.
    capture: Option<UdpSocket>,
    /// Whether the firewall's rules look as if they drop the answers.
    seems_filtered: bool,
    /// Whether an answer was seen at the card that did not come to the listener.
    is_filtered: Cell<bool>,
}

impl<'a> Asker<'a> {
    /// Opens the sockets; `None`, with a finding, where that is not allowed.
    pub(super) fn open(
        config: &'a Config,
        card: &'a Card,
        seems_filtered: bool,
        found: &mut Diagnosis,
    ) -> Option<Asker<'a>> {
        // Answers that are sent to this machine's own address do not come through the card.
        match socket(Some(&card.name)).and_then(|sender| Ok((sender, socket(None)?))) {
            Ok((sender, listener)) => Some(Self {
                config,
                card,
                sender,
                listener,
                capture: capture::open().ok(),
                seems_filtered,
                is_filtered: Cell::new(false),
            }),
            Err(error) => {
                let what = format!("cannot send a DHCP request as a PC does: {error}");
                let remedy = "run doctor as root, while no DHCP client runs on this interface";
                found.warn("dhcp", what, remedy);
                None
            }
        }
    }

    /// Asks once and waits for everybody: who else gives addresses or names boot files?
    pub(super) fn look_for_strangers(&self, found: &mut Diagnosis) {
        let client = Client::doctor(Firmware::Uefi, rand::random());
        match self.ask(&client, &client.discover(None), DHCP, |_| false) {
            Ok(heard) => {
                let hidden = self.hidden();
                strangers(self.config, self.card, &heard, hidden.as_deref(), found);
            }
            Err(error) => {
                let what = format!("cannot send on {}: {error}", self.card.name);
                found.fail("dhcp", what, "check the network interface and its address");
            }
        }
    }

    /// What helps where silence means nothing: [`HIDDEN`].
    fn hidden(&self) -> Option<String> {
        let is_hidden = self.capture.is_none() && self.seems_filtered;
        is_hidden.then(|| {
            let let_in = let_in(&self.card.name, "udp", 68);
            format!("run doctor as root with CAP_NET_RAW, or {let_in}")
        })
    }

    fn no_answer(&self, what: String) -> Trouble {
        match self.hidden() {
            Some(remedy) => Trouble::new(format!("it receives no answer: {HIDDEN}"), &remedy),
            None => Trouble::new(what, NO_ANSWER),
        }
    }

    /// Says that this machine's firewall hides from it what PCs do hear, if it did.
    pub(super) fn tell_filter(&self, found: &mut Diagnosis) {
        if self.is_filtered.get() {
            let what = "DHCP answers arrive, but this machine's firewall drops them at its own UDP port \
                        68: PCs are not affected, but the server cannot detect other DHCP servers";
            found.warn("port 68", what.to_owned(), let_in(&self.card.name, "udp", 68));
        }
    }

    /// Goes from DISCOVER to the boot file's name, and to the lease in full mode, which is then
    /// given back.
    pub(super) fn boot(&self, firmware: Firmware) -> Result<Told, Trouble> {
        let client = Client::doctor(firmware, rand::random());
        let offer = self.own_answer(&client, &client.discover(None), DHCP, OFFER)?;
        let offer = offer.ok_or_else(|| {
            self.no_answer("this lab's server does not answer its DISCOVER".to_owned())
        })?;
        let mut file = offer.boot;
        if let Some(address) = offer.address {
            let request = client.request(self.card.ip, Some(address));
            let ack = self.own_answer(&client, &request, DHCP, ACK)?.ok_or_else(|| {
                self.no_answer(format!(
                    "it was offered {address} and requested it, but did not get it"
                ))
            })?;
            let release = client.release(self.card.ip, address);
            self.sender.send_to(&release, (Ipv4Addr::BROADCAST, DHCP)).map_err(Trouble::io)?;
            file = ack.boot.or(file);
        } else if matches!(self.config.dhcp, DhcpMode::Full(_)) {
            let what = "this lab's server makes an offer without an address".to_owned();
            return Err(Trouble::new(what, NO_ANSWER));
        }
        let remedy = "the boot loader follows from `uefi_loader` and the kind of PC: docs/supervisor/boot-loaders.md";
        let file =
            file.ok_or_else(|| Trouble::new("it gets no boot information".to_owned(), remedy))?;
        Ok(Told { address: offer.address, file })
    }

    /// The answer of this lab's own server to a question.
    fn own_answer(
        &self,
        client: &Client,
        question: &[u8],
        port: u16,
        kind: u8,
    ) -> Result<Option<Heard>, Trouble> {
        let is_it = |heard: &Heard| heard.server == Some(self.card.ip) && heard.kind == kind;
        let heard = self.ask(client, question, port, is_it).map_err(Trouble::io)?;
        Ok(heard.into_iter().find(is_it))
    }

    /// Broadcasts a question and collects the answers, until one `is_enough`.
    fn ask(
        &self,
        client: &Client,
        question: &[u8],
        port: u16,
        is_enough: impl Fn(&Heard) -> bool,
    ) -> io::Result<Vec<Heard>> {
        self.sender.send_to(question, (Ipv4Addr::BROADCAST, port))?;
        let Some(capture) = &self.capture else {
            return listen(&self.listener, plain, client, LISTEN, is_enough);
        };
        let all = listen(capture, capture::payload, client, LISTEN, is_enough)?;
        if !all.is_empty() && listen(&self.listener, plain, client, SOON, |_| true)?.is_empty() {
            self.is_filtered.set(true);
        }
        Ok(all)
    }
}

/// UDP's socket gives the message alone.
fn plain(packet: &[u8]) -> Option<&[u8]> {
    Some(packet)
}

/// Collects answers for so long, or until one `is_enough`; `payload` finds them in packets.
fn listen(
    socket: &UdpSocket,
    payload: impl Fn(&[u8]) -> Option<&[u8]>,
    client: &Client,
    patience: Duration,
    is_enough: impl Fn(&Heard) -> bool,
) -> io::Result<Vec<Heard>> {
    let mut all = Vec::new();
    let mut packet = [0; 2048];
    let end = now() + patience;
    while let Some(left) = end.checked_duration_since(now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        let Ok(length) = socket.recv(&mut packet) else { continue };
        let Some(heard) = payload(&packet[..length]).and_then(|it| client.read(it)) else {
            continue;
        };
        let is_last = is_enough(&heard);
        all.push(heard);
        if is_last {
            break;
        }
    }
    Ok(all)
}

/// A client's socket on port 68, shared with others, on `card` or on all.
fn socket(card: Option<&str>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_broadcast(true)?;
    socket.set_reuse_address(true)?;
    socket.bind_device(card.map(str::as_bytes))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into())?;
    Ok(socket.into())
}

/// Judges the other servers of the segment; `hidden` is what helps where they may not be heard.
fn strangers(
    config: &Config,
    card: &Card,
    heard: &[Heard],
    hidden: Option<&str>,
    found: &mut Diagnosis,
) {
    let names = |is: &dyn Fn(&Heard) -> bool| {
        let others = heard.iter().filter(|it| it.server != Some(card.ip) && is(it));
        let mut names: Vec<String> = others
            .map(|it| {
                it.server.map_or("one without a server identifier".to_owned(), |ip| ip.to_string())
            })
            .collect();
        names.sort();
        names.dedup();
        names.join(", ")
    };
    let givers = names(&|it| it.address.is_some());
    let booters = names(&|it| it.boot.is_some());
    match (&config.dhcp, givers.is_empty()) {
        (DhcpMode::Full(_), false) => {
            let what = format!("another DHCP server assigns addresses here: {givers}");
            let remedy = "switch it off, or write `mode = \"proxy\"` below [dhcp] in server.toml";
            found.fail("dhcp", what, remedy);
        }
        (DhcpMode::Full(_), true) => {
            let what = "no other server on this segment assigns addresses".to_owned();
            match hidden {
                Some(remedy) => {
                    found.warn("dhcp", format!("no other server answers: {HIDDEN}"), remedy);
                }
                None => found.good("dhcp", what),
            }
        }
        (_, false) => found.good("dhcp", format!("addresses are assigned by {givers}")),
        (_, true) => {
            let what = match hidden {
                Some(_) => format!("no DHCP answer was received on {}: {HIDDEN}", card.name),
                None => format!("no DHCP server answers on {}", card.name),
            };
            let remedy = "start the network's own DHCP server, or write `mode = \"full\"` and a \
                          `range` below [dhcp] in server.toml";
            found.fail("dhcp", what, hidden.unwrap_or(remedy));
        }
    }
    if !booters.is_empty() && config.dhcp != DhcpMode::Off {
        let what = format!("another server also sends boot information to PCs: {booters}");
        let remedy = "PCs use whichever answers first: remove its boot options (66, 67, next-server, \
                      filename)";
        found.warn("dhcp", what, remedy);
    }
}

#[expect(clippy::disallowed_methods, reason = "a shell that waits for answers")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Verdict;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
    const FULL: &str = "mode = \"full\"\nrange = \"10.77.0.50-10.77.0.99\"";

    fn heard(server: Ipv4Addr, gives: bool, boot: Option<&str>) -> Heard {
        let address = gives.then_some(Ipv4Addr::new(10, 77, 0, 60));
        Heard { kind: OFFER, server: Some(server), address, boot: boot.map(str::to_owned) }
    }

    fn judged(mode: &str, heard: &[Heard], hidden: Option<&str>) -> Diagnosis {
        let config = Config::parse(&format!("interface = \"eth0\"\n[dhcp]\n{mode}\n"));
        let netmask = [255, 255, 255, 0].into();
        let card = Card { name: "eth0".to_owned(), ip: OWN, netmask };
        let mut found = Diagnosis::default();
        strangers(&config.expect("valid"), &card, heard, hidden, &mut found);
        found
    }

    fn check(mode: &str, heard: &[Heard], expected: &[(Verdict, &str)]) {
        let found = judged(mode, heard, None);
        assert_eq!(found.observations().len(), expected.len(), "{found:?}");
        for (seen, (verdict, words)) in found.observations().iter().zip(expected) {
            assert_eq!(seen.verdict, *verdict, "{seen:?}");
            assert!(seen.what.contains(words), "{seen:?}");
        }
    }

    #[test]
    fn another_server_is_wrong_where_we_give_addresses_and_needed_where_we_do_not() {
        let own = heard(OWN, true, Some("snponly.efi"));
        let other = heard(OTHER, true, None);
        check(FULL, std::slice::from_ref(&own), &[(Verdict::Ok, "no other server")]);
        check(FULL, &[own, other.clone()], &[(Verdict::Fail, "addresses here: 10.77.0.9")]);
        check(
            "mode = \"proxy\"",
            &[other.clone(), other],
            &[(Verdict::Ok, "are assigned by 10.77.0.9")],
        );
        let ours = heard(OWN, false, Some("snponly.efi"));
        check("mode = \"proxy\"", &[ours], &[(Verdict::Fail, "no DHCP server answers")]);
    }

    #[test]
    fn silence_behind_a_firewall_is_no_proof_and_says_so() {
        for (mode, verdict) in [(FULL, Verdict::Warn), ("mode = \"proxy\"", Verdict::Fail)] {
            let found = judged(mode, &[], Some("the firewall"));
            let [seen] = found.observations() else { panic!("{found:?}") };
            assert_eq!((seen.verdict, seen.remedy.as_deref()), (verdict, Some("the firewall")));
            assert!(seen.what.contains(HIDDEN), "{seen:?}");
        }
    }

    #[test]
    fn a_foreign_boot_file_is_told() {
        let other = heard(OTHER, true, Some("pxelinux.0"));
        let expected = [
            (Verdict::Ok, "are assigned by"),
            (Verdict::Warn, "boot information to PCs: 10.77.0.9"),
        ];
        check("mode = \"proxy\"", std::slice::from_ref(&other), &expected);
        check("mode = \"off\"", &[other], &expected[..1]);
    }
}
