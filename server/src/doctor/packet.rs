//! Core: the DHCP packets of a PC that wants to boot, and what it reads in the answers (RFC 2131,
//! 2132, 4578).

use std::net::Ipv4Addr;

/// The fixed part and the magic cookie.
const HEADER: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// iPXE's own option: it can do HTTP, start Linux, and is an EFI build.
const IPXE_FEATURES: &[u8] = &[19, 1, 1, 24, 1, 1, 36, 1, 1];

/// What kind of PC, or program on it, asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Firmware {
    /// A BIOS network ROM.
    Bios,
    /// UEFI's network boot.
    Uefi,
    /// iPXE, started by UEFI.
    Ipxe,
}

impl Firmware {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bios => "BIOS",
            Self::Uefi => "UEFI",
            Self::Ipxe => "iPXE",
        }
    }

    fn arch(self) -> u8 {
        if self == Self::Bios { 0 } else { 7 }
    }
}

/// One PC for one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) firmware: Firmware,
    pub(super) mac: [u8; 6],
    pub(super) xid: u32,
}

/// An OFFER or ACK.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reply {
    /// Option 53: 2 is an OFFER, 5 an ACK, 6 a NAK.
    pub(super) kind: u8,
    pub(super) server: Option<Ipv4Addr>,
    /// The address that the PC gets; 0 from a proxy.
    pub(super) address: Option<Ipv4Addr>,
    /// The loader's name or the script's URL.
    pub(super) file: Option<String>,
    /// Whether it is an answer to booting PCs.
    pub(super) is_boot: bool,
}

impl Client {
    pub(super) fn discover(&self) -> Vec<u8> {
        let mut packet = self.header(Ipv4Addr::UNSPECIFIED, 1);
        self.boot_options(&mut packet);
        ended(packet)
    }

    /// Takes `address` of `server`; without an address it asks a proxy for the boot file only.
    pub(super) fn request(&self, server: Ipv4Addr, address: Option<Ipv4Addr>) -> Vec<u8> {
        let mut packet = self.header(Ipv4Addr::UNSPECIFIED, 3);
        option(&mut packet, 54, &server.octets());
        if let Some(address) = address {
            option(&mut packet, 50, &address.octets());
        }
        self.boot_options(&mut packet);
        ended(packet)
    }

    pub(super) fn release(&self, server: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
        let mut packet = self.header(address, 7);
        option(&mut packet, 54, &server.octets());
        ended(packet)
    }

    fn header(&self, ciaddr: Ipv4Addr, kind: u8) -> Vec<u8> {
        let mut packet = vec![0; HEADER];
        packet[..3].copy_from_slice(&[1, 1, 6]);
        packet[4..8].copy_from_slice(&self.xid.to_be_bytes());
        packet[10] = 0x80; // Answer by broadcast: this PC has no address yet.
        packet[12..16].copy_from_slice(&ciaddr.octets());
        packet[28..34].copy_from_slice(&self.mac);
        packet[236..].copy_from_slice(&COOKIE);
        option(&mut packet, 53, &[kind]);
        packet
    }

    fn boot_options(&self, packet: &mut Vec<u8>) {
        let arch = self.firmware.arch();
        option(packet, 55, &[1, 3, 6, 15, 43, 54, 60, 66, 67]);
        option(packet, 57, &1472_u16.to_be_bytes());
        option(packet, 93, &[0, arch]);
        option(packet, 94, &[1, 3, 16]);
        let mut machine = [0; 17];
        machine[11..].copy_from_slice(&self.mac);
        option(packet, 97, &machine);
        option(packet, 60, format!("PXEClient:Arch:{arch:05}:UNDI:003016").as_bytes());
        if self.firmware == Firmware::Ipxe {
            option(packet, 77, b"iPXE");
            option(packet, 175, IPXE_FEATURES);
        }
    }

    /// Reads an answer to this question; `None` for everything else on the port.
    pub(super) fn read(&self, packet: &[u8]) -> Option<Reply> {
        let header = packet.get(..HEADER)?;
        let is_ours = header[0] == 2
            && header[4..8] == self.xid.to_be_bytes()
            && header[28..34] == self.mac
            && header[236..] == COOKIE;
        if !is_ours {
            return None;
        }
        let address = ipv4(&header[16..20]).filter(|ip| !ip.is_unspecified());
        let mut reply = Reply { address, file: text(&header[108..236]), ..Reply::default() };
        let mut rest = &packet[HEADER..];
        while let [code, after @ ..] = rest {
            if *code == 0 {
                rest = after;
                continue;
            }
            let Some((length, after)) = after.split_first().filter(|_| *code != 255) else { break };
            let Some((data, after)) = after.split_at_checked(usize::from(*length)) else { break };
            match code {
                53 => reply.kind = data.first().copied().unwrap_or(0),
                54 => reply.server = ipv4(data),
                60 => reply.is_boot |= data.starts_with(b"PXEClient"),
                67 => reply.file = text(data).or(reply.file.take()),
                _ => {}
            }
            rest = after;
        }
        reply.is_boot |= reply.file.is_some();
        (reply.kind != 0).then_some(reply)
    }
}

fn option(packet: &mut Vec<u8>, code: u8, data: &[u8]) {
    let length = u8::try_from(data.len()).expect("our options are short");
    packet.extend([code, length]);
    packet.extend_from_slice(data);
}

fn ended(mut packet: Vec<u8>) -> Vec<u8> {
    packet.push(255);
    // BOOTP's minimum (RFC 951 §3): some relays drop what is shorter.
    packet.resize(packet.len().max(300), 0);
    packet
}

fn ipv4(data: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)
}

fn text(data: &[u8]) -> Option<String> {
    let data = data.split(|byte| *byte == 0).next().unwrap_or_default();
    let text: String = String::from_utf8_lossy(data).chars().filter(|c| !c.is_control()).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::{Kind, Request};

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn client(firmware: Firmware) -> Client {
        Client { firmware, mac: MAC, xid: 7 }
    }

    #[test]
    fn our_own_server_understands_the_questions() {
        for firmware in [Firmware::Bios, Firmware::Uefi, Firmware::Ipxe] {
            let request = Request::parse(&client(firmware).discover(), SERVER).expect("for us");
            assert_eq!(request.kind, Kind::Discover { wanted: None });
            let boot = request.boot.expect("it wants to boot");
            assert_eq!(boot.ipxe.is_some(), firmware == Firmware::Ipxe);
        }
        let address = Ipv4Addr::new(10, 77, 0, 50);
        let request = client(Firmware::Uefi).request(SERVER, Some(address));
        let request = Request::parse(&request, SERVER).expect("for us");
        assert_eq!(request.kind, Kind::Request { server: Some(SERVER), wanted: Some(address) });
        let release = client(Firmware::Uefi).release(SERVER, address);
        let release = Request::parse(&release, SERVER).expect("for us");
        assert_eq!((release.kind, release.ciaddr), (Kind::Release, address));
    }

    #[test]
    fn an_answer_is_read_and_anything_else_is_not() {
        let client = client(Firmware::Uefi);
        let mut packet = client.discover();
        assert_eq!(client.read(&packet), None, "a question");
        packet[0] = 2;
        packet[16..20].copy_from_slice(&[10, 77, 0, 50]);
        packet[108..119].copy_from_slice(b"snponly.efi");
        packet.truncate(HEADER);
        packet.extend([53, 1, 2, 54, 4, 10, 77, 0, 1, 255]);
        let reply = client.read(&packet).expect("an OFFER");
        assert_eq!((reply.kind, reply.server), (2, Some(SERVER)));
        assert_eq!(reply.file.as_deref(), Some("snponly.efi"));
        for length in 0..packet.len() {
            let _: Option<Reply> = client.read(&packet[..length]);
        }
        packet[4] = 9;
        assert_eq!(client.read(&packet), None, "somebody else's");
    }
}
