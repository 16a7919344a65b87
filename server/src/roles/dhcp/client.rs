//! Core: the DHCP packets of a PC that wants to boot, and what it reads in the answers (RFC 2131,
//! 2132, 4578): for the search for other servers, and for the doctor's virtual PC.

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::Message as Borrowed;
use dhcproto::v4::{
    Architecture, DhcpOption, Encodable, Flags, Message, MessageType, Opcode, OptionCode,
    UnknownOption,
};

use crate::mac::DOCTOR;
use bt_catalog::Mac;

/// iPXE's own option 175: it can do HTTP, start Linux, and is an EFI build.
const IPXE_FEATURES: [u8; 9] = [19, 1, 1, 24, 1, 1, 36, 1, 1];
/// BOOTP's shortest message (RFC 951 §3): some relays drop what is shorter.
const SHORTEST: usize = 300;
/// Boot names are shown to the supervisor.
const LONGEST_NAME: usize = 128;

/// What kind of PC, or program on it, asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Firmware {
    /// A BIOS network ROM.
    Bios,
    /// UEFI's network boot by PXE.
    Uefi,
    /// UEFI's HTTP Boot.
    UefiHttp,
    /// iPXE, started by UEFI.
    Ipxe,
}

impl Firmware {
    /// Options 93 and 60 as real firmware sends them.
    fn identity(self) -> (Architecture, &'static str) {
        match self {
            Self::Bios => (Architecture::X86_Bios, "PXEClient:Arch:00000:UNDI:002001"),
            Self::Uefi => (Architecture::BC, "PXEClient:Arch:00007:UNDI:003000"),
            Self::UefiHttp => (Architecture::from(16), "HTTPClient:Arch:00016:UNDI:003000"),
            Self::Ipxe => (Architecture::BC, "PXEClient:Arch:00007:UNDI:003010"),
        }
    }
}

/// One PC for one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// What it is.
    pub firmware: Firmware,
    /// Its hardware address.
    pub mac: Mac,
    /// Its transaction.
    pub xid: u32,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Option 53: 2 is an OFFER, 5 an ACK, 6 a NAK.
    pub kind: u8,
    /// The server's name for itself, option 54.
    pub server: Option<Ipv4Addr>,
    /// The address that it gives; `None`: it only names a boot file.
    pub address: Option<Ipv4Addr>,
    /// The boot file that it names.
    pub boot: Option<String>,
}

impl Client {
    /// Invents a PC of random bytes, with a locally administered address of a single node.
    pub fn new(firmware: Firmware, random: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = random;
        let mac = Mac([(a & 0xfc) | 2, b, c, d, e, f]);
        Self { firmware, mac, xid: u32::from_be_bytes([g, h, c, d]) }
    }

    /// The doctor's PC with this firmware; `xid` tells its looks apart.
    pub fn doctor(firmware: Firmware, xid: u32) -> Self {
        let [a, b, c, d, e] = DOCTOR;
        Self { firmware, mac: Mac([a, b, c, d, e, firmware as u8 + 1]), xid }
    }

    /// Asks everybody for an address and a boot file; `client_id` is option 61.
    pub fn discover(&self, client_id: Option<&[u8]>) -> Vec<u8> {
        let mut message = self.message(MessageType::Discover);
        self.add_wishes(&mut message);
        if let Some(id) = client_id {
            message.opts_mut().insert(DhcpOption::ClientIdentifier(id.to_vec()));
        }
        bytes(&message)
    }

    /// Takes `address` of `server`; without an address it asks a proxy for the boot file only.
    pub fn request(&self, server: Ipv4Addr, address: Option<Ipv4Addr>) -> Vec<u8> {
        let mut message = self.message(MessageType::Request);
        self.add_wishes(&mut message);
        message.opts_mut().insert(DhcpOption::ServerIdentifier(server));
        if let Some(address) = address {
            message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
        }
        bytes(&message)
    }

    /// Gives `address` back to `server`.
    pub fn release(&self, server: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
        let mut message = self.message(MessageType::Release);
        message.set_ciaddr(address);
        message.opts_mut().insert(DhcpOption::ServerIdentifier(server));
        bytes(&message)
    }

    /// Reads an answer to this PC; `None` for everything else.
    pub fn read(&self, packet: &[u8]) -> Option<Heard> {
        let message = Borrowed::new(packet).ok()?;
        // The hardware address is read by hand: `chaddr()` panics where `hlen` lies.
        let is_ours = message.opcode() == Opcode::BootReply
            && message.xid() == self.xid
            && packet.get(28..34) == Some(&self.mac.0);
        if !is_ours {
            return None;
        }
        let (mut kind, mut server, mut file) = (None, None, None);
        message.opts().for_each(|option| match u8::from(option.code()) {
            53 => kind = option.data().first().copied(),
            54 => server = <[u8; 4]>::try_from(option.data()).ok().map(Ipv4Addr::from),
            67 => file = boot_name(option.data()),
            _ => {}
        });
        let address = Some(message.yiaddr()).filter(|ip| !ip.is_unspecified());
        let boot = file.or_else(|| packet.get(108..236).and_then(boot_name));
        Some(Heard { kind: kind?, server, address, boot })
    }

    fn message(&self, kind: MessageType) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(self.xid, none, none, none, none, &self.mac.0);
        // Broadcast: an answer to the offered address would reach nobody.
        message.set_opcode(Opcode::BootRequest).set_flags(Flags::default().set_broadcast());
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        message
    }

    fn add_wishes(&self, message: &mut Message) {
        let (arch, class) = self.firmware.identity();
        let wishes = [1, 3, 6, 43, 51, 54, 60, 66, 67].map(OptionCode::from).to_vec();
        let options = message.opts_mut();
        options.insert(DhcpOption::MaxMessageSize(1472));
        options.insert(DhcpOption::ParameterRequestList(wishes));
        options.insert(DhcpOption::ClassIdentifier(class.as_bytes().to_vec()));
        options.insert(DhcpOption::ClientSystemArchitecture(arch));
        options.insert(DhcpOption::ClientNetworkInterface(1, 2, 1));
        options.insert(DhcpOption::ClientMachineIdentifier(vec![0; 17]));
        if self.firmware == Firmware::Ipxe {
            options.insert(DhcpOption::UserClass(b"iPXE".to_vec()));
            let features = UnknownOption::new(OptionCode::from(175), IPXE_FEATURES.to_vec());
            options.insert(DhcpOption::Unknown(features));
        }
    }
}

fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = message.to_vec().expect("a message in memory has room for every option");
    bytes.resize(bytes.len().max(SHORTEST), 0);
    bytes
}

/// A boot file's name, up to its NUL; `None` when it is empty or nothing that can be shown.
fn boot_name(bytes: &[u8]) -> Option<String> {
    let name = bytes.split(|&byte| byte == 0 || byte == 0xff).next()?;
    let name = name.get(..name.len().min(LONGEST_NAME))?;
    let is_fit = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    is_fit.then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::boot::arch::Arch;
    use crate::mac::is_doctor;
    use crate::roles::dhcp::{Kind, Request};

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);

    fn client(firmware: Firmware) -> Client {
        Client::new(firmware, [0xff, 1, 2, 3, 4, 5, 6, 7])
    }

    #[test]
    fn our_own_server_understands_every_kind_of_pc() {
        for (firmware, arch) in [
            (Firmware::Bios, Arch::Bios),
            (Firmware::Uefi, Arch::UefiX64),
            (Firmware::UefiHttp, Arch::UefiX64Http),
            (Firmware::Ipxe, Arch::UefiX64),
        ] {
            let request = Request::parse(&client(firmware).discover(None), SERVER);
            let request = request.expect("for us");
            assert_eq!(request.kind, Kind::Discover { wanted: None });
            let boot = request.boot.expect("it wants to boot");
            assert_eq!((boot.arch, boot.ipxe.is_some()), (arch, firmware == Firmware::Ipxe));
        }
        assert_eq!(client(Firmware::Bios).mac.0[0] & 3, 2, "locally administered, a single node's");
    }

    #[test]
    fn our_own_server_understands_what_follows_an_offer() {
        let parse = |packet: Vec<u8>| Request::parse(&packet, SERVER).expect("for us");
        let client = client(Firmware::Uefi);
        let request = parse(client.request(SERVER, Some(ADDRESS)));
        assert_eq!(request.kind, Kind::Request { server: Some(SERVER), wanted: Some(ADDRESS) });
        let release = parse(client.release(SERVER, ADDRESS));
        assert_eq!((release.kind, release.ciaddr), (Kind::Release, ADDRESS));
    }

    #[test]
    fn the_doctors_pcs_are_the_same_at_every_look_and_nobody_elses() {
        let all = [Firmware::Bios, Firmware::Uefi, Firmware::UefiHttp, Firmware::Ipxe];
        let macs = |xid| all.map(|firmware| Client::doctor(firmware, xid).mac);
        assert_eq!(macs(1), macs(2));
        assert!(macs(1).iter().all(|mac| is_doctor(*mac) && mac.0[0] & 3 == 2));
        let mut different = macs(1).to_vec();
        different.dedup();
        assert_eq!(different.len(), all.len());
        assert!(!is_doctor(Mac([0x02, 0x42, 0x54, 0, 0, 9])) && !is_doctor(client(all[0]).mac));
    }

    #[test]
    fn an_answer_is_read_and_anything_else_is_not() {
        let client = client(Firmware::Uefi);
        let mut packet = client.discover(None);
        assert_eq!(client.read(&packet), None, "a question");
        packet[0] = 2;
        packet[16..20].copy_from_slice(&ADDRESS.octets());
        packet[108..119].copy_from_slice(b"snponly.efi");
        packet.truncate(240);
        packet.extend([53, 1, 2, 54, 4, 10, 77, 0, 1, 255]);
        let heard = client.read(&packet).expect("an OFFER");
        let boot = Some("snponly.efi".to_owned());
        let expected = Heard { kind: 2, server: Some(SERVER), address: Some(ADDRESS), boot };
        assert_eq!(heard, expected);
        packet[4] ^= 9;
        assert_eq!(client.read(&packet), None, "somebody else's");
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            drop(client(Firmware::Bios).read(&bytes));
        }
    }
}
