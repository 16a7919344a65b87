//! Core: proxy mode's relay agent, for PCs whose loader believes the address server alone.
//!
//! Debian's signed GRUB takes its TFTP server from the DHCPACK and never looks at a proxyDHCP
//! offer, so beside another server it would look for its menu there. Therefore the messages of a
//! PC that is to load it go through us: as a relay agent (RFC 1542 §4.1) we hand them on, and the
//! replies, which come to `giaddr`, get our boot file and name us as the server to answer, as a
//! relay with RFC 5107 does. Address, lease and all else stay the other server's, in its own book.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use dhcproto::v4::borrowed::Message as View;
use dhcproto::v4::{
    Decodable, Decoder, DhcpOption, Encodable, MAGIC, Message, MessageType, Opcode, OptionCode,
};

use super::proxy::{ProxySettings, USE_THIS_FILE};
use super::respond::{self, Destination, Reply, ReplyKind};
use super::{Kind, Request};
use crate::boot::arch::{BootFile, SHIM_LOADER};
use bt_catalog::Mac;

/// PCs that boot at the same time; hardware addresses can be invented, memory cannot.
const MOST: usize = 1024;
/// Firmware waits no longer for the ACK to its REQUEST.
const LIFETIME: Duration = Duration::from_mins(2);
/// A server that answers relays at all has done so by now.
const PATIENCE: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug, Default)]
pub struct Agent {
    exchanges: HashMap<Mac, Exchange>,
}

#[derive(Debug)]
struct Exchange {
    /// The PC's last message.
    request: Request,
    /// Whose offer the PC got.
    server: Option<Ipv4Addr>,
    asked: SystemTime,
}

/// A PC's message for the network's DHCP servers.
#[derive(Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// To be broadcast to port 67.
    pub bytes: Vec<u8>,
    /// Its message before this one was handed on too, and no server answered us.
    pub is_unheard: bool,
}

impl Agent {
    /// Hands on what a PC asks, where it is one that boots through us.
    pub fn forward(
        &mut self,
        packet: &[u8],
        request: &Request,
        settings: &ProxySettings,
        now: SystemTime,
    ) -> Option<Forwarded> {
        if !request.giaddr.is_unspecified() {
            return None;
        }
        let mut message = decode(packet)?;
        if matches!(request.kind, Kind::Release | Kind::Decline { .. }) {
            // No word of booting in these: who got a lease through us is known by its exchange.
            let theirs = self.exchanges.get(&request.mac)?.server?;
            message.opts_mut().insert(DhcpOption::ServerIdentifier(theirs));
            return relayed(message, false, settings);
        }
        boot_file(request, settings)?;
        let before = self.exchanges.get(&request.mac);
        let is_unheard = before.is_some_and(|before| before.is_unheard(now));
        let server = match request.kind {
            Kind::Discover { .. } => None,
            Kind::Request { server: Some(ours), .. } if ours == settings.server => {
                let theirs = before?.server?;
                message.opts_mut().insert(DhcpOption::ServerIdentifier(theirs));
                Some(theirs)
            }
            _ => return None,
        };
        self.remember(Exchange { request: request.clone(), server, asked: now }, now)?;
        relayed(message, is_unheard, settings)
    }

    fn remember(&mut self, exchange: Exchange, now: SystemTime) -> Option<()> {
        let mac = exchange.request.mac;
        if self.exchanges.len() >= MOST && !self.exchanges.contains_key(&mac) {
            self.exchanges.retain(|_, it| it.age(now) < LIFETIME);
        }
        let has_room = self.exchanges.len() < MOST || self.exchanges.contains_key(&mac);
        has_room.then(|| drop(self.exchanges.insert(mac, exchange)))
    }

    /// A server's reply to what was handed on -> the same for the PC, with our boot file.
    pub fn back(&mut self, packet: &[u8], settings: &ProxySettings) -> Option<(Mac, Reply)> {
        // Message::chaddr() slices by `hlen`, the third byte.
        let mut message = decode(packet)?;
        if message.opcode() != Opcode::BootReply || packet[2] != 6 {
            return None;
        }
        let mac = Mac(message.chaddr().try_into().ok()?);
        let exchange = self.exchanges.get_mut(&mac)?;
        if message.giaddr() != settings.server || message.xid() != exchange.request.xid {
            return None;
        }
        let Some(DhcpOption::ServerIdentifier(theirs)) =
            message.opts().get(OptionCode::ServerIdentifier)
        else {
            return None;
        };
        let kind = match (message.opts().get(OptionCode::MessageType)?, exchange.request.kind) {
            (DhcpOption::MessageType(MessageType::Offer), Kind::Discover { .. }) => {
                ReplyKind::Offer
            }
            (DhcpOption::MessageType(MessageType::Ack), Kind::Request { .. }) => ReplyKind::Ack,
            (DhcpOption::MessageType(MessageType::Nak), Kind::Request { .. }) => ReplyKind::Nak,
            _ => return None,
        };
        // An offer without an address is another proxy's.
        if kind != ReplyKind::Nak && message.yiaddr().is_unspecified() {
            return None;
        }
        // One server only: the PC could not tell their offers apart.
        if *exchange.server.get_or_insert(*theirs) != *theirs {
            return None;
        }
        let boot = boot_file(&exchange.request, settings)?;
        rewrite(&mut message, &exchange.request, &boot, settings);
        let (to, ip) = (Destination::Broadcast, message.yiaddr());
        let bytes = respond::encode(message, &exchange.request, &[]);
        Some((mac, Reply { kind, to, bytes, ip, boot: Some(boot), grant: None }))
    }
}

impl Exchange {
    fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.asked).unwrap_or_default()
    }

    fn is_unheard(&self, now: SystemTime) -> bool {
        self.server.is_none() && self.age(now) >= PATIENCE
    }
}

/// The message as a relay agent hands it on (RFC 1542 §4.1.1).
fn relayed(mut message: Message, is_unheard: bool, settings: &ProxySettings) -> Option<Forwarded> {
    let hops = message.hops().saturating_add(1);
    message.set_giaddr(settings.server).set_hops(hops);
    Some(Forwarded { bytes: message.to_vec().ok()?, is_unheard })
}

/// Reads all of a message. dhcproto asserts the lengths of some options instead of checking them.
fn decode(packet: &[u8]) -> Option<Message> {
    packet.get(236..240).filter(|cookie| *cookie == MAGIC)?;
    let mut options = View::new(packet).ok()?.opts();
    let is_sound = options.all(|option| match (u8::from(option.code()), option.data().len()) {
        (80, length) => length == 0,
        (81, length) => length >= 3,
        (94, length) => length == 3,
        (151, length) => length >= 1,
        (152..=155, length) => length == 4,
        _ => true,
    });
    is_sound.then(|| Message::decode(&mut Decoder::new(packet)).ok()).flatten()
}

/// What to load first, for a PC that needs a relay agent to load the rest.
fn boot_file(request: &Request, settings: &ProxySettings) -> Option<BootFile> {
    respond::boot_file(request, &settings.network(), None)
        .filter(|boot| *boot == BootFile::Tftp(SHIM_LOADER))
}

/// Names us where the reply says whom to ask, and what to boot from where.
fn rewrite(message: &mut Message, request: &Request, boot: &BootFile, settings: &ProxySettings) {
    message.set_giaddr(Ipv4Addr::UNSPECIFIED).set_flags(request.flags.into());
    message.clear_sname();
    let options = message.opts_mut();
    options.remove(OptionCode::OptionOverload);
    // What a switch put into the PC's message is put back as the last option, as it came.
    options.remove(OptionCode::RelayAgentInformation);
    options.insert(DhcpOption::ServerIdentifier(settings.server));
    options.insert(DhcpOption::ClassIdentifier(b"PXEClient".to_vec()));
    options.insert(DhcpOption::VendorExtensions(USE_THIS_FILE.to_vec()));
    respond::add_boot(message, request, Some(boot), &settings.network());
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::boot::arch::{Arch, BootClient};
    use crate::lab::config::Config;

    const US: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const THEM: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 201);
    const PC: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);
    const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const DISCOVER: Kind = Kind::Discover { wanted: None };
    const REQUEST: Kind = Kind::Request { server: Some(US), wanted: Some(PC) };

    fn settings(loader: &str) -> ProxySettings {
        let text = format!("interface = \"eth0\"\n[node]\nuefi_loader = \"{loader}\"\n");
        let nodes = Config::parse(&text).expect("valid").nodes;
        ProxySettings { server: US, http_port: 6969, nodes }
    }

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn request(kind: Kind, arch: u16) -> Request {
        let boot = Some(BootClient { arch: Arch::from_code(arch), ipxe: None });
        Request { boot, xid: 7, ..Request::of(MAC, kind) }
    }

    fn message(op: Opcode, kind: MessageType, server: Ipv4Addr) -> Message {
        let mut message = Message::new_with_id(7, NONE, NONE, NONE, NONE, &MAC.0);
        message.set_opcode(op).opts_mut().insert(DhcpOption::MessageType(kind));
        message.opts_mut().insert(DhcpOption::ServerIdentifier(server));
        message
    }

    fn forward(agent: &mut Agent, kind: Kind, now: u64) -> Option<Forwarded> {
        let packet = message(Opcode::BootRequest, MessageType::Discover, US);
        let packet = packet.to_vec().expect("encodes");
        agent.forward(&packet, &request(kind, 7), &settings("shim-grub"), at(now))
    }

    fn back(
        agent: &mut Agent,
        kind: MessageType,
        server: Ipv4Addr,
    ) -> Option<(ReplyKind, Message)> {
        let mut message = message(Opcode::BootReply, kind, server);
        message.set_giaddr(US).set_yiaddr(PC).set_siaddr(THEM);
        message.opts_mut().insert(DhcpOption::AddressLeaseTime(3600));
        let packet = message.to_vec().expect("encodes");
        let (_, reply) = agent.back(&packet, &settings("shim-grub"))?;
        Some((reply.kind, read(&reply.bytes)))
    }

    fn read(bytes: &[u8]) -> Message {
        Message::decode(&mut Decoder::new(bytes)).expect("can be read")
    }

    fn server_of(message: &Message) -> Option<&DhcpOption> {
        message.opts().get(OptionCode::ServerIdentifier)
    }

    #[test]
    fn a_pc_takes_the_other_servers_address_and_our_boot_file() {
        let mut agent = Agent::default();
        let discover = read(&forward(&mut agent, DISCOVER, 0).expect("handed on").bytes);
        assert_eq!((discover.giaddr(), discover.hops(), discover.xid()), (US, 1, 7));
        let (kind, offer) = back(&mut agent, MessageType::Offer, THEM).expect("an offer");
        assert_eq!((kind, offer.yiaddr(), offer.siaddr()), (ReplyKind::Offer, PC, US));
        assert_eq!(server_of(&offer), Some(&DhcpOption::ServerIdentifier(US)));
        let lease = offer.opts().get(OptionCode::AddressLeaseTime);
        assert_eq!(lease, Some(&DhcpOption::AddressLeaseTime(3600)));
        let request = read(&forward(&mut agent, REQUEST, 4).expect("handed on").bytes);
        assert_eq!(server_of(&request), Some(&DhcpOption::ServerIdentifier(THEM)));
        let (kind, ack) = back(&mut agent, MessageType::Ack, THEM).expect("an ACK");
        assert_eq!(
            (kind, ack.yiaddr(), ack.siaddr(), ack.giaddr()),
            (ReplyKind::Ack, PC, US, NONE)
        );
        assert_eq!(ack.fname(), Some(&b"shimx64.efi\0"[..]), "a C string");
        let file = ack.opts().get(OptionCode::BootfileName);
        assert_eq!(file, Some(&DhcpOption::BootfileName(b"shimx64.efi\0".to_vec())));
    }

    #[test]
    fn an_address_given_back_or_declined_reaches_the_server_it_came_from() {
        let kinds = [
            (MessageType::Release, Kind::Release),
            (MessageType::Decline, Kind::Decline { ip: PC }),
        ];
        for (message_type, kind) in kinds {
            let mut agent = Agent::default();
            let mut packet = message(Opcode::BootRequest, message_type, US);
            let packet = packet.set_ciaddr(PC).to_vec().expect("encodes");
            // Firmware says nothing of booting in these.
            let request = Request::of(MAC, kind);
            let hand_on =
                |agent: &mut Agent| agent.forward(&packet, &request, &settings("shim-grub"), at(9));
            assert_eq!(hand_on(&mut agent), None, "nobody's lease came through us");
            forward(&mut agent, DISCOVER, 0).expect("handed on");
            assert_eq!(hand_on(&mut agent), None, "nobody offered anything");
            back(&mut agent, MessageType::Offer, THEM).expect("an offer");
            forward(&mut agent, REQUEST, 1).expect("handed on");
            back(&mut agent, MessageType::Ack, THEM).expect("an ACK");
            let forwarded = hand_on(&mut agent).expect("handed on");
            assert!(!forwarded.is_unheard);
            let forwarded = read(&forwarded.bytes);
            assert_eq!(server_of(&forwarded), Some(&DhcpOption::ServerIdentifier(THEM)));
            assert_eq!(forwarded.opts().msg_type(), Some(message_type));
            assert_eq!((forwarded.ciaddr(), forwarded.giaddr(), forwarded.hops()), (PC, US, 1));
        }
    }

    /// How often option 82 stands in a packet, whatever it holds.
    fn relay_infos(packet: &[u8]) -> usize {
        let (mut at, mut count) = (240, 0);
        while packet[at] != 255 {
            count += usize::from(packet[at] == 82);
            at += if packet[at] == 0 { 1 } else { 2 + usize::from(packet[at + 1]) };
        }
        count
    }

    #[test]
    fn what_a_switch_says_of_the_port_goes_each_way_once() {
        let info = [1, 3, b'a', b'b', b'c'];
        let with_info = |mut packet: Vec<u8>| {
            assert_eq!(packet.pop(), Some(255));
            packet.extend([82, 5].iter().chain(&info).chain(&[255]));
            packet
        };
        let mut agent = Agent::default();
        let packet = message(Opcode::BootRequest, MessageType::Discover, US);
        let packet = with_info(packet.to_vec().expect("encodes"));
        let request = Request { relay_info: Some(info.to_vec()), ..request(DISCOVER, 7) };
        let forwarded = agent.forward(&packet, &request, &settings("shim-grub"), at(0));
        let forwarded = forwarded.expect("handed on").bytes;
        assert_eq!(relay_infos(&forwarded), 1);
        assert!(forwarded.windows(info.len()).any(|window| window == info));
        let mut offer = message(Opcode::BootReply, MessageType::Offer, THEM);
        let offer = offer.set_giaddr(US).set_yiaddr(PC).to_vec().expect("encodes");
        let (_, reply) = agent.back(&with_info(offer), &settings("shim-grub")).expect("an offer");
        assert_eq!(relay_infos(&reply.bytes), 1);
        assert!(reply.bytes.windows(info.len()).any(|window| window == info));
    }

    #[test]
    fn everybody_else_asks_the_other_server_alone() {
        let packet =
            message(Opcode::BootRequest, MessageType::Discover, US).to_vec().expect("encodes");
        let forwards = |request: &Request, loader: &str| {
            Agent::default().forward(&packet, request, &settings(loader), at(0)).is_some()
        };
        assert!(forwards(&request(DISCOVER, 7), "shim-grub"));
        assert!(!forwards(&request(DISCOVER, 7), "ipxe"));
        assert!(!forwards(&request(DISCOVER, 0), "shim-grub"), "BIOS");
        assert!(!forwards(&request(DISCOVER, 16), "shim-grub"), "HTTP Boot");
        let no_boot = Request { boot: None, ..request(DISCOVER, 7) };
        assert!(!forwards(&no_boot, "shim-grub"), "the small Linux");
        let relayed = Request { giaddr: [10, 78, 0, 1].into(), ..request(DISCOVER, 7) };
        assert!(!forwards(&relayed, "shim-grub"));
        assert!(!forwards(&request(REQUEST, 7), "shim-grub"), "nobody's offer was taken");
        let to_them = Kind::Request { server: Some(THEM), wanted: Some(PC) };
        assert!(!forwards(&request(to_them, 7), "shim-grub"));
    }

    #[test]
    fn options_of_a_wrong_length_are_not_handed_on() {
        let options = [
            &[80, 1, 0][..],
            &[81, 2, 0, 0],
            &[94, 2, 1, 3],
            &[94, 1, 1, 0, 94, 2, 3, 0],
            &[151, 0],
            &[155, 3, 0, 0, 0],
        ];
        for option in options {
            let packet = message(Opcode::BootRequest, MessageType::Discover, US).to_vec();
            let mut packet = packet.expect("encodes");
            assert!(decode(&packet).is_some());
            packet.truncate(240);
            packet.extend_from_slice(option);
            packet.push(255);
            assert!(decode(&packet).is_none(), "{option:?}");
        }
    }

    #[test]
    fn replies_to_nothing_and_second_servers_are_dropped() {
        let mut agent = Agent::default();
        assert_eq!(back(&mut agent, MessageType::Offer, THEM), None);
        forward(&mut agent, DISCOVER, 0).expect("handed on");
        assert_eq!(back(&mut agent, MessageType::Ack, THEM), None, "nothing was requested");
        assert!(back(&mut agent, MessageType::Offer, THEM).is_some());
        assert_eq!(back(&mut agent, MessageType::Offer, [10, 77, 0, 202].into()), None);
        assert!(back(&mut agent, MessageType::Offer, THEM).is_some(), "the same once more");
        let mut of_a_proxy = message(Opcode::BootReply, MessageType::Offer, THEM);
        let of_a_proxy = of_a_proxy.set_giaddr(US).to_vec().expect("encodes");
        assert_eq!(agent.back(&of_a_proxy, &settings("shim-grub")), None);
        for length in 0..300 {
            let mut packet = message(Opcode::BootReply, MessageType::Offer, THEM);
            let packet = packet.set_giaddr(US).to_vec().expect("encodes");
            agent.back(&packet[..length.min(packet.len())], &settings("shim-grub"));
        }
    }

    #[test]
    fn a_network_whose_server_answers_no_relay_is_noticed_at_the_next_try() {
        let mut agent = Agent::default();
        let unheard: Vec<_> = [0, 1, 5]
            .map(|now| forward(&mut agent, DISCOVER, now).expect("handed on").is_unheard)
            .to_vec();
        assert_eq!(unheard, [false, false, true]);
        back(&mut agent, MessageType::Offer, THEM).expect("an offer");
        assert!(!forward(&mut agent, DISCOVER, 30).expect("handed on").is_unheard);
    }

    #[test]
    fn a_flood_of_invented_pcs_fills_no_memory() {
        let mut agent = Agent::default();
        let packet =
            message(Opcode::BootRequest, MessageType::Discover, US).to_vec().expect("encodes");
        let mut forwarded = |n: u16, now| {
            let [high, low] = n.to_be_bytes();
            let request = Request { mac: Mac([2, 0, 0, 0, high, low]), ..request(DISCOVER, 7) };
            agent.forward(&packet, &request, &settings("shim-grub"), at(now)).is_some()
        };
        assert_eq!((0..2000).filter(|n| forwarded(*n, 0)).count(), MOST);
        assert!(forwarded(3000, 200), "the old ones are gone");
    }
}
