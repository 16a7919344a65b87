//! Core: probe DISCOVERs, to detect rogue DHCP servers by their answers.
//!
//! A probe looks like UEFI or BIOS firmware with an invented MAC address, so both address servers
//! and boot servers answer. No REQUEST follows it, so no address is leased. This server recognises
//! its own probes by their client identifier and does not answer them; another BootTorrent does.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use super::client::Client;
pub use super::client::Firmware;
use bt_catalog::Mac;

/// The client identifier of a probe; the server's address follows, so that it knows its own.
const MARK: &[u8] = b"\0boottorrent-probe";
/// A server that was silent for so long counts as stopped, and its next answer is reported again.
/// Several rounds of probing, since a packet may be lost.
const FORGET: Duration = Duration::from_mins(3);
/// Servers remembered at once; answers can be invented.
const MAX_SERVERS: usize = 16;
/// Option 53 (RFC 2132 §9.6).
const OFFER: u8 = 2;

/// A probe that was sent, to recognise its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Its invented MAC address.
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
        let reply = self.client(Firmware::Uefi).read(packet).filter(|reply| reply.kind == OFFER)?;
        Some(Offer { server: reply.server?, address: reply.address, boot: reply.boot })
    }

    fn client(&self, firmware: Firmware) -> Client {
        Client { firmware, mac: self.mac, xid: self.xid }
    }
}

/// Whether a client identifier is that of a probe of the server with address `own`.
pub fn is_own_probe(client_id: &[u8], own: Ipv4Addr) -> bool {
    client_id.strip_prefix(MARK) == Some(&own.octets())
}

/// What this server does itself: it decides what another may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnMode {
    /// It assigns addresses: no other server may.
    Full,
    /// It only announces boot files: another server must assign addresses, none announce files.
    Proxy,
}

/// Something that was seen on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// As it should be; only logged.
    Expected(String),
    /// To be reported to the supervisor.
    Problem(String),
}

/// Remembers what was seen and reported, so that each observation is reported once.
#[derive(Debug)]
pub struct RogueDetector {
    mode: OwnMode,
    seen: Vec<(Offer, SystemTime)>,
    rounds: u32,
    is_absence_reported: bool,
}

impl RogueDetector {
    /// Nothing was seen yet.
    pub fn new(mode: OwnMode) -> Self {
        Self { mode, seen: Vec::new(), rounds: 0, is_absence_reported: false }
    }

    /// Takes one answer; returns what is new in it.
    pub fn observe(&mut self, offer: Offer, now: SystemTime) -> Option<Observation> {
        self.seen.retain(|(_, at)| now.duration_since(*at).is_ok_and(|passed| passed < FORGET));
        if let Some((known, at)) = self.seen.iter_mut().find(|(o, _)| o.server == offer.server) {
            *at = now;
            // A server may announce a file to one firmware only: nothing new when the other asks.
            let is_new = offer.boot.is_some() && known.boot != offer.boot
                || offer.address.is_some() && known.address.is_none();
            known.address = offer.address.or(known.address);
            known.boot = offer.boot.clone().or(known.boot.take());
            return is_new.then(|| self.judge(&offer));
        }
        if self.seen.len() >= MAX_SERVERS {
            return None;
        }
        let observation = self.judge(&offer);
        self.seen.push((offer, now));
        Some(observation)
    }

    /// The answers to one probe have all come; returns what their absence means.
    pub fn end_round(&mut self) -> Option<Observation> {
        self.rounds = self.rounds.saturating_add(1);
        let has_addresses = self.seen.iter().any(|(offer, _)| offer.address.is_some());
        match self.mode {
            OwnMode::Full if self.rounds == 1 && self.seen.is_empty() => Some(
                Observation::Expected("no other DHCP server answers on this network".to_owned()),
            ),
            // The second round: one packet may be lost, and both firmwares have asked.
            OwnMode::Proxy if self.rounds >= 2 && !has_addresses && !self.is_absence_reported => {
                self.is_absence_reported = true;
                let text = "no DHCP server assigns addresses on this network, so no PC can boot: start \
                            it, or write `mode = \"full\"` and a `range` below [dhcp] in server.toml";
                Some(Observation::Problem(text.to_owned()))
            }
            OwnMode::Proxy if has_addresses => {
                self.is_absence_reported = false;
                None
            }
            OwnMode::Full | OwnMode::Proxy => None,
        }
    }

    fn judge(&self, offer: &Offer) -> Observation {
        let Offer { server, address, boot } = offer;
        match (self.mode, address, boot) {
            (_, None, None) => {
                Observation::Expected(format!("{server} answers, but offers nothing"))
            }
            (OwnMode::Proxy, Some(ip), None) => Observation::Expected(format!(
                "DHCP server {server} assigns addresses (it offered {ip})"
            )),
            (OwnMode::Full, Some(ip), None) => Observation::Problem(format!(
                "another DHCP server, {server}, assigns addresses here (it offered {ip}): PCs that it \
                 answers first do not boot; switch it off, or write `mode = \"proxy\"` below [dhcp] in server.toml"
            )),
            (_, _, Some(file)) => Observation::Problem(format!(
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

    fn is_bad(observation: Option<Observation>, part: &str) {
        let Some(Observation::Problem(text)) = observation else {
            panic!("a warning, not {observation:?}")
        };
        assert!(text.contains(part), "{text}");
    }

    #[test]
    fn only_this_server_does_not_answer_its_probe() {
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
    fn a_server_that_assigns_addresses_is_a_problem_only_where_we_do() {
        let mut full = RogueDetector::new(OwnMode::Full);
        is_bad(full.observe(offer(Some(60), None), at(0)), "10.77.0.9, assigns addresses here");
        assert_eq!(full.observe(offer(Some(61), None), at(30)), None, "reported once");
        is_bad(full.observe(offer(Some(62), None), at(300)), "assigns addresses here");
        let mut proxy = RogueDetector::new(OwnMode::Proxy);
        assert!(matches!(
            proxy.observe(offer(Some(60), None), at(0)),
            Some(Observation::Expected(_))
        ));
    }

    #[test]
    fn a_rogue_boot_file_is_always_a_problem() {
        let mut proxy = RogueDetector::new(OwnMode::Proxy);
        proxy.observe(offer(Some(60), None), at(0));
        is_bad(proxy.observe(offer(Some(60), Some("pxelinux.0")), at(30)), "`pxelinux.0`");
        assert_eq!(proxy.observe(offer(Some(60), None), at(60)), None, "the other firmware");
        assert_eq!(proxy.observe(offer(Some(60), Some("pxelinux.0")), at(90)), None);
        is_bad(
            RogueDetector::new(OwnMode::Full).observe(offer(None, Some("a.efi")), at(0)),
            "`a.efi`",
        );
    }

    #[test]
    fn silence_is_expected_in_full_mode_and_a_problem_in_proxy_mode() {
        let mut full = RogueDetector::new(OwnMode::Full);
        assert!(matches!(full.end_round(), Some(Observation::Expected(_))));
        assert_eq!(full.end_round(), None);
        let mut proxy = RogueDetector::new(OwnMode::Proxy);
        assert_eq!(proxy.end_round(), None);
        is_bad(proxy.end_round(), "no DHCP server assigns addresses");
        assert_eq!(proxy.end_round(), None);
        proxy.observe(offer(Some(60), None), at(0));
        assert_eq!(proxy.end_round(), None);
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            drop(probe().read(&bytes));
        }
    }
}
