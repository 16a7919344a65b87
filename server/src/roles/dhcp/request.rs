//! Core: the bytes of a DHCP packet -> [`Request`], or why it is not for us.
//!
//! Real clients bend the RFCs: iPXE's user class is not length-prefixed, some host names are not
//! UTF-8, `hlen` may say anything. So options are read raw, and one that makes no sense counts as
//! absent instead of spoiling the packet.

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::{DhcpOption, Message};
use dhcproto::v4::{HType, MAGIC, Opcode};

use super::rogue::is_own_probe;
use crate::boot::arch::{Arch, BootClient, IpxeFeatures};
use bt_catalog::Mac;

/// What every client can receive (RFC 2131 §2).
const MIN_MESSAGE: u16 = 576;
/// What fits in one Ethernet frame; OVMF claims 65280 and does not mean it.
const MAX_MESSAGE: u16 = 1472;
/// A host name longer than this is no host name (RFC 1035 §2.3.4).
const MAX_HOST: usize = 63;

/// Type byte and GUID (RFC 4578 §2.3).
const MAX_MACHINE_ID: usize = 17;
/// What one option can hold; repeated ones arrive joined, and option 82 must not be split.
const MAX_OPTION: usize = 255;

/// What the client wants (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any address.
    Discover {
        /// The address it wishes for.
        wanted: Option<Ipv4Addr>,
    },
    /// This address.
    Request {
        /// The server whose offer it takes.
        server: Option<Ipv4Addr>,
        /// The address it takes; absent when it already uses `ciaddr`.
        wanted: Option<Ipv4Addr>,
    },
    /// It found the address in use.
    Decline {
        /// Which address.
        ip: Ipv4Addr,
    },
    /// It needs `ciaddr` no longer.
    Release,
    /// It has an address from elsewhere and wants the options only.
    Inform,
}

/// A packet that a DHCP server has to think about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it wants.
    pub kind: Kind,
    /// Who asks.
    pub mac: Mac,
    /// To be copied into the reply.
    pub xid: u32,
    /// To be copied into the reply: relays look at the broadcast bit.
    pub flags: u16,
    /// The address it uses already, or 0.
    pub ciaddr: Ipv4Addr,
    /// The relay it came through, or 0.
    pub giaddr: Ipv4Addr,
    /// Set when it wants to be booted.
    pub boot: Option<BootClient>,
    /// The architecture as it was sent, for the supervisor.
    pub arch_code: Option<u16>,
    /// The name it says it has (option 12).
    pub host: Option<String>,
    /// Options it asks for by number (option 55).
    pub wishes: Vec<u8>,
    /// The longest reply it can take.
    pub max_message: u16,
    /// Option 97, echoed (RFC 4578 §2.3).
    pub machine_id: Option<Vec<u8>>,
    /// Option 82, echoed (RFC 3046 §2.2).
    pub relay_info: Option<Vec<u8>>,
}

/// Why a packet gets no thought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotForUs {
    /// Less than the fixed part of a message.
    #[error("too short for a DHCP message")]
    Short,
    /// `op` is not BOOTREQUEST: another server's reply, or garbage.
    #[error("not a request")]
    NotARequest,
    /// `htype` or `hlen` is not Ethernet's.
    #[error("not an Ethernet client")]
    NotEthernet,
    /// The hardware address is zero, or a group of nodes.
    #[error("the MAC address is not that of a single PC")]
    BadMac,
    /// No magic cookie: plain BOOTP.
    #[error("BOOTP without DHCP options")]
    NoCookie,
    /// Option 53 is absent, or says something that servers are not told.
    #[error("no message type that a server answers")]
    BadKind,
    /// It looks for other servers than this one.
    #[error("our own probe")]
    OwnProbe,
    /// A DECLINE that does not say what it declines, or names another server.
    #[error("meant for another server")]
    OtherServer,
}

/// The options that matter here, raw.
#[derive(Default)]
struct Options {
    host: Option<Vec<u8>>,
    wanted: Option<Ipv4Addr>,
    kind: Option<u8>,
    server: Option<Ipv4Addr>,
    wishes: Vec<u8>,
    max_message: Option<u16>,
    vendor_class: Vec<u8>,
    client_id: Vec<u8>,
    user_class: Vec<u8>,
    relay_info: Option<Vec<u8>>,
    arch: Option<u16>,
    machine_id: Option<Vec<u8>>,
    ipxe: Option<Vec<u8>>,
}

impl Request {
    /// A request of a node that says nothing else.
    pub fn of(mac: Mac, kind: Kind) -> Self {
        Self {
            kind,
            mac,
            xid: 0,
            flags: 0,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            boot: None,
            arch_code: None,
            host: None,
            wishes: Vec::new(),
            max_message: MIN_MESSAGE,
            machine_id: None,
            relay_info: None,
        }
    }

    /// Reads one packet. `own` is our server id.
    ///
    /// # Errors
    /// When the packet asks nothing of this server.
    pub fn parse(packet: &[u8], own: Ipv4Addr) -> Result<Self, NotForUs> {
        let message = Message::new(packet).map_err(|_| NotForUs::Short)?;
        if message.opcode() != Opcode::BootRequest {
            return Err(NotForUs::NotARequest);
        }
        // Before chaddr(), which slices by hlen and would panic.
        if message.htype() != HType::Eth || message.hlen() != 6 {
            return Err(NotForUs::NotEthernet);
        }
        let mac: [u8; 6] = message.chaddr().try_into().expect("hlen was checked to be 6");
        if mac == [0; 6] || mac[0] & 1 == 1 {
            return Err(NotForUs::BadMac);
        }
        if packet[236..240] != MAGIC {
            return Err(NotForUs::NoCookie);
        }
        let mut options = Options::default();
        message.opts().for_each(|option| options.take(&option));
        if is_own_probe(&options.client_id, own) {
            return Err(NotForUs::OwnProbe);
        }
        Ok(Self {
            kind: options.kind(own)?,
            mac: Mac(mac),
            xid: message.xid(),
            flags: message.flags().into(),
            ciaddr: message.ciaddr(),
            giaddr: message.giaddr(),
            boot: options.boot_client(),
            arch_code: options.arch,
            host: options.host.as_deref().and_then(host_name),
            wishes: options.wishes,
            max_message: options.max_message.unwrap_or(MIN_MESSAGE).clamp(MIN_MESSAGE, MAX_MESSAGE),
            machine_id: options.machine_id.filter(|id| id.len() <= MAX_MACHINE_ID),
            relay_info: options.relay_info.filter(|info| info.len() <= MAX_OPTION),
        })
    }
}

impl Options {
    fn take(&mut self, option: &DhcpOption<'_>) {
        let data = option.data();
        match u8::from(option.code()) {
            12 => self.host = Some(data.to_vec()),
            50 => self.wanted = address(data),
            53 => self.kind = data.first().copied(),
            54 => self.server = address(data),
            55 => self.wishes = data.to_vec(),
            57 => self.max_message = number(data),
            60 => self.vendor_class = data.to_vec(),
            61 => self.client_id = data.to_vec(),
            77 => self.user_class = data.to_vec(),
            82 => self.relay_info = Some(data.to_vec()),
            // A list (RFC 4578 §2.1): the first is what the client prefers.
            93 => self.arch = data.get(..2).and_then(number),
            97 => self.machine_id = Some(data.to_vec()),
            175 => self.ipxe = Some(data.to_vec()),
            _ => {}
        }
    }

    fn kind(&self, own: Ipv4Addr) -> Result<Kind, NotForUs> {
        match self.kind.ok_or(NotForUs::BadKind)? {
            1 => Ok(Kind::Discover { wanted: self.wanted }),
            3 => Ok(Kind::Request { server: self.server, wanted: self.wanted }),
            4 | 7 if self.server.is_some_and(|server| server != own) => Err(NotForUs::OtherServer),
            4 => Ok(Kind::Decline { ip: self.wanted.ok_or(NotForUs::BadKind)? }),
            7 => Ok(Kind::Release),
            8 => Ok(Kind::Inform),
            _ => Err(NotForUs::BadKind),
        }
    }

    fn boot_client(&self) -> Option<BootClient> {
        // iPXE's user class is four raw bytes, not RFC 3004's list; both are accepted.
        let is_ipxe_class = matches!(self.user_class.as_slice(), b"iPXE" | b"\x04iPXE");
        let ipxe = match &self.ipxe {
            Some(features) => Some(IpxeFeatures::parse(features)),
            None if is_ipxe_class => Some(IpxeFeatures::COMPLETE),
            None => None,
        };
        let is_http = self.vendor_class.starts_with(b"HTTPClient");
        let is_pxe = self.vendor_class.starts_with(b"PXEClient");
        if !is_http && !is_pxe && ipxe.is_none() {
            return None;
        }
        // A BIOS that predates option 93 says it in the vendor class, or not at all.
        let arch = self.arch.or_else(|| arch_of_class(&self.vendor_class)).unwrap_or(0);
        Some(BootClient { arch: Arch::from_code(arch), ipxe })
    }
}

/// The number in `PXEClient:Arch:00007:UNDI:003016`.
fn arch_of_class(class: &[u8]) -> Option<u16> {
    let mut parts = class.split(|&byte| byte == b':').skip_while(|part| *part != b"Arch");
    std::str::from_utf8(parts.nth(1)?).ok()?.parse().ok()
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)
}

fn number(data: &[u8]) -> Option<u16> {
    <[u8; 2]>::try_from(data).ok().map(u16::from_be_bytes)
}

/// A name that is fit to be shown: letters, digits, `-`, `_` and dots.
fn host_name(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?.trim_end_matches('\0');
    let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!text.is_empty() && text.len() <= MAX_HOST && text.chars().all(is_fit))
        .then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    fn packet(options: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 236];
        packet[..4].copy_from_slice(&[1, 1, 6, 0]);
        packet[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        packet.extend(MAGIC);
        packet.extend(options);
        packet
    }

    fn parse(options: &[u8]) -> Result<Request, NotForUs> {
        Request::parse(&packet(options), OWN)
    }

    #[test]
    fn what_is_not_for_a_server_is_told_apart() {
        let check = |change: fn(&mut Vec<u8>), expected| {
            let mut packet = packet(&[53, 1, 1, 255]);
            change(&mut packet);
            assert_eq!(Request::parse(&packet, OWN).err(), Some(expected));
        };
        check(|p| p.truncate(239), NotForUs::Short);
        check(|p| p[0] = 2, NotForUs::NotARequest);
        check(|p| p[1] = 32, NotForUs::NotEthernet);
        check(|p| p[2] = 255, NotForUs::NotEthernet);
        check(|p| p[28..34].fill(0), NotForUs::BadMac);
        check(|p| p[28..34].fill(255), NotForUs::BadMac);
        check(|p| p[236] = 0, NotForUs::NoCookie);
        check(|p| p[240] = 0, NotForUs::BadKind);
        check(|p| p[242] = 2, NotForUs::BadKind);
    }

    #[test]
    fn a_host_name_that_is_no_text_hides_nothing_behind_it() {
        let read = parse(&[
            12, 2, 0xff, 0xfe, 53, 1, 1, 60, 9, b'P', b'X', b'E', b'C', b'l', b'i', b'e', b'n',
            b't', 93, 2, 0, 7, 255,
        ])
        .expect("a DISCOVER");
        assert_eq!(read.host, None);
        assert_eq!(read.boot, Some(BootClient { arch: Arch::UefiX64, ipxe: None }));
    }

    #[test]
    fn ipxe_is_known_by_either_form_of_its_class_or_by_option_175() {
        for mark in [&b"\x4d\x04iPXE"[..], b"\x4d\x05\x04iPXE", b"\xaf\x03\x13\x01\x01"] {
            let read = parse(&[&[53, 1, 1][..], mark, &[255]].concat()).expect("a DISCOVER");
            assert!(read.boot.is_some_and(|boot| boot.ipxe.is_some_and(|ipxe| ipxe.has_http)));
        }
    }

    #[test]
    fn an_architecture_list_counts_by_its_first_and_the_class_stands_in() {
        let class = b"\x3c\x20PXEClient:Arch:00007:UNDI:003000";
        let read = parse(&[&[53, 1, 1][..], class, &[255]].concat()).expect("a DISCOVER");
        assert_eq!(read.boot.map(|boot| boot.arch), Some(Arch::UefiX64));
        let list = [&[53, 1, 1][..], class, &[93, 4, 0, 9, 0, 0, 255]].concat();
        assert_eq!(parse(&list).expect("a DISCOVER").arch_code, Some(9));
    }

    #[test]
    fn sizes_are_taken_within_reason() {
        for (said, taken) in [(0_u16, 576), (576, 576), (1472, 1472), (65280, 1472)] {
            let [high, low] = said.to_be_bytes();
            let read = parse(&[53, 1, 3, 57, 2, high, low, 255]).expect("a REQUEST");
            assert_eq!(read.max_message, taken);
        }
        let read = parse(&[&[53, 1, 1, 82, 200][..], &[1; 200], &[82, 200], &[1; 200]].concat());
        assert_eq!(read.expect("a DISCOVER").relay_info, None, "too long to be echoed");
    }

    #[test]
    fn a_release_for_another_server_is_not_ours() {
        assert_eq!(parse(&[53, 1, 7, 54, 4, 10, 77, 0, 2]).err(), Some(NotForUs::OtherServer));
        assert_eq!(parse(&[53, 1, 7, 54, 4, 10, 77, 0, 1]).expect("ours").kind, Kind::Release);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            drop(Request::parse(&bytes, OWN));
            drop(parse(&bytes));
        }
    }
}
