//! Core: a DISCOVER that is nobody's, and what the answers to it tell of other servers.
//!
//! It looks like UEFI or BIOS firmware with an invented hardware address, so both address servers
//! and boot servers answer. It is never followed by a REQUEST: no address is used up. Our own
//! server knows it by its client identifier and keeps silent; another BootTorrent does not.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use super::client::Client;
pub use super::client::Firmware;
use bt_catalog::Mac;

/// How our own server knows its probes; its address follows, so that others' are told apart.
const MARK: &[u8] = b"\0boottorrent-probe";
/// A server that has not been heard for so long is gone; its next answer is news again. Some
/// rounds of probing, since a packet may be lost.
const FORGET: Duration = Duration::from_mins(3);
/// Servers remembered at once; answers can be invented.
const MOST_SERVERS: usize = 16;
/// Option 53 (RFC 2132 §9.6).
const OFFER: u8 = 2;

/// A probe that was sent, to know its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Its invented hardware address.
    pub mac: Mac,
    /// Its transaction.
    pub xid: u32,
}

/// What another server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The server's address.
    pub server: Ipv4Addr,
    /// The address that it offers; `None`: it only names a boot file.
    pub address: Option<Ipv4Addr>,
    /// The boot file that it names.
    pub boot: Option<String>,
}

impl Probe {
    /// Makes a probe of random bytes.
    pub fn new(random: [u8; 8]) -> Self {
        let Client { mac, xid, .. } = Client::new(Firmware::Uefi, random);
        Self { mac, xid }
    }

    /// The packet; `own` is the address of this server. Some servers name a boot file to one
    /// firmware only.
    pub fn packet(&self, firmware: Firmware, own: Ipv4Addr) -> Vec<u8> {
        self.client(firmware).discover(Some(&[MARK, &own.octets()].concat()))
    }

    /// Reads an answer to this probe; `None` for everything else.
    pub fn read(&self, packet: &[u8]) -> Option<Offer> {
        let heard = self.client(Firmware::Uefi).read(packet).filter(|heard| heard.kind == OFFER)?;
        Some(Offer { server: heard.server?, address: heard.address, boot: heard.boot })
    }

    fn client(&self, firmware: Firmware) -> Client {
        Client { firmware, mac: self.mac, xid: self.xid }
    }
}

/// Whether a client identifier is that of a probe of the server with address `own`.
pub fn is_own_probe(client_id: &[u8], own: Ipv4Addr) -> bool {
    client_id.strip_prefix(MARK) == Some(&own.octets())
}

/// What this server does about addresses, as far as it matters for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It gives them: nobody else may.
    Gives,
    /// It names boot files only: somebody else must give them, and nobody else name files.
    Proxy,
}

/// Something that was seen on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// As it should be: for the log.
    Good(String),
    /// The supervisor should look.
    Bad(String),
}

/// Knows what was seen and told before, so that each thing is told once.
#[derive(Debug)]
pub struct Lookout {
    part: Part,
    seen: Vec<(Offer, SystemTime)>,
    rounds: u32,
    is_alone_told: bool,
}

impl Lookout {
    /// Nothing was seen yet.
    pub fn new(part: Part) -> Self {
        Self { part, seen: Vec::new(), rounds: 0, is_alone_told: false }
    }

    /// Takes one answer; returns what is new in it.
    pub fn saw(&mut self, offer: Offer, now: SystemTime) -> Option<Sight> {
        self.seen.retain(|(_, at)| now.duration_since(*at).is_ok_and(|passed| passed < FORGET));
        if let Some((known, at)) = self.seen.iter_mut().find(|(o, _)| o.server == offer.server) {
            *at = now;
            // A server may name a file to one firmware only: no news when the other asks again.
            let is_news = offer.boot.is_some() && known.boot != offer.boot
                || offer.address.is_some() && known.address.is_none();
            known.address = offer.address.or(known.address);
            known.boot = offer.boot.clone().or(known.boot.take());
            return is_news.then(|| self.judge(&offer));
        }
        if self.seen.len() >= MOST_SERVERS {
            return None;
        }
        let sight = self.judge(&offer);
        self.seen.push((offer, now));
        Some(sight)
    }

    /// The answers to one probe have all come; returns what is to be said of their absence.
    pub fn round_is_over(&mut self) -> Option<Sight> {
        self.rounds = self.rounds.saturating_add(1);
        let has_addresses = self.seen.iter().any(|(offer, _)| offer.address.is_some());
        match self.part {
            Part::Gives if self.rounds == 1 && self.seen.is_empty() => {
                Some(Sight::Good("no other DHCP server answers on this network".to_owned()))
            }
            // The second round: one packet may be lost, and both firmwares have asked.
            Part::Proxy if self.rounds >= 2 && !has_addresses && !self.is_alone_told => {
                self.is_alone_told = true;
                let text = "no DHCP server assigns addresses on this network, so no PC can boot: start \
                            it, or write `mode = \"full\"` and a `range` below [dhcp] in server.toml";
                Some(Sight::Bad(text.to_owned()))
            }
            Part::Proxy if has_addresses => {
                self.is_alone_told = false;
                None
            }
            Part::Gives | Part::Proxy => None,
        }
    }

    fn judge(&self, offer: &Offer) -> Sight {
        let Offer { server, address, boot } = offer;
        match (self.part, address, boot) {
            (_, None, None) => Sight::Good(format!("{server} answers, but offers nothing")),
            (Part::Proxy, Some(ip), None) => {
                Sight::Good(format!("DHCP server {server} assigns addresses (it offered {ip})"))
            }
            (Part::Gives, Some(ip), None) => Sight::Bad(format!(
                "another DHCP server, {server}, assigns addresses here (it offered {ip}): PCs that it \
                 answers first do not boot; switch it off, or write `mode = \"proxy\"` below [dhcp] in server.toml"
            )),
            (_, _, Some(file)) => Sight::Bad(format!(
                "another server, {server}, announces the boot file `{file}`: PCs may start that instead; \
                 remove its boot options (66, 67 or next-server, filename)"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use dhcproto::v4::{DhcpOption, Encodable, Message, MessageType, Opcode};
    use proptest::prelude::*;

    use super::*;
    use crate::roles::dhcp::{NotForUs, Request};

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

    fn probe() -> Probe {
        Probe::new([0xff, 1, 2, 3, 4, 5, 6, 7])
    }

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn offer(address: Option<u8>, boot: Option<&str>) -> Offer {
        let address = address.map(|last| Ipv4Addr::new(10, 77, 0, last));
        Offer { server: OTHER, address, boot: boot.map(str::to_owned) }
    }

    fn is_bad(sight: Option<Sight>, part: &str) {
        let Some(Sight::Bad(text)) = sight else { panic!("a warning, not {sight:?}") };
        assert!(text.contains(part), "{text}");
    }

    #[test]
    fn only_our_own_server_keeps_silent_to_a_probe() {
        for firmware in [Firmware::Bios, Firmware::Uefi] {
            let packet = probe().packet(firmware, OWN);
            assert_eq!(Request::parse(&packet, OWN).err(), Some(NotForUs::OwnProbe));
            let request = Request::parse(&packet, OTHER).expect("another server answers");
            assert!(request.boot.is_some());
            assert_eq!(request.mac, probe().mac);
        }
        assert_eq!(probe().mac.0[0] & 3, 2, "locally administered, a single node's");
    }

    #[test]
    fn an_answer_is_read_and_others_are_not() {
        let none = Ipv4Addr::UNSPECIFIED;
        let Probe { mac, xid } = probe();
        let mut message =
            Message::new_with_id(xid, none, [10, 77, 0, 60].into(), none, none, &mac.0);
        message.set_opcode(Opcode::BootReply).set_fname(b"old.0");
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::Offer));
        message.opts_mut().insert(DhcpOption::ServerIdentifier(OTHER));
        let read = |message: &Message| probe().read(&message.to_vec().expect("fits"));
        assert_eq!(read(&message), Some(offer(Some(60), Some("old.0"))));
        message.opts_mut().insert(DhcpOption::BootfileName(b"new.0\0".to_vec()));
        assert_eq!(read(&message), Some(offer(Some(60), Some("new.0"))));
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::Ack));
        assert_eq!(read(&message), None);
        message.opts_mut().insert(DhcpOption::MessageType(MessageType::Offer));
        message.set_xid(xid ^ 1);
        assert_eq!(read(&message), None);
    }

    #[test]
    fn a_server_that_gives_addresses_is_a_problem_only_where_we_do() {
        let mut full = Lookout::new(Part::Gives);
        is_bad(full.saw(offer(Some(60), None), at(0)), "10.77.0.9, assigns addresses here");
        assert_eq!(full.saw(offer(Some(61), None), at(30)), None, "told once");
        is_bad(full.saw(offer(Some(62), None), at(300)), "assigns addresses here");
        let mut proxy = Lookout::new(Part::Proxy);
        assert!(matches!(proxy.saw(offer(Some(60), None), at(0)), Some(Sight::Good(_))));
    }

    #[test]
    fn a_foreign_boot_file_is_always_a_problem() {
        let mut proxy = Lookout::new(Part::Proxy);
        proxy.saw(offer(Some(60), None), at(0));
        is_bad(proxy.saw(offer(Some(60), Some("pxelinux.0")), at(30)), "`pxelinux.0`");
        assert_eq!(proxy.saw(offer(Some(60), None), at(60)), None, "the other firmware");
        assert_eq!(proxy.saw(offer(Some(60), Some("pxelinux.0")), at(90)), None);
        is_bad(Lookout::new(Part::Gives).saw(offer(None, Some("a.efi")), at(0)), "`a.efi`");
    }

    #[test]
    fn silence_is_good_where_we_give_addresses_and_bad_beside_nobody() {
        let mut full = Lookout::new(Part::Gives);
        assert!(matches!(full.round_is_over(), Some(Sight::Good(_))));
        assert_eq!(full.round_is_over(), None);
        let mut proxy = Lookout::new(Part::Proxy);
        assert_eq!(proxy.round_is_over(), None);
        is_bad(proxy.round_is_over(), "no DHCP server assigns addresses");
        assert_eq!(proxy.round_is_over(), None);
        proxy.saw(offer(Some(60), None), at(0));
        assert_eq!(proxy.round_is_over(), None);
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            drop(probe().read(&bytes));
        }
    }
}
