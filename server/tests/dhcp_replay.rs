//! Real clients' packets through the parser and the lease book, and what they are told to boot.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use bt_server::dhcp::{Answer, Destination, Kind, Network, Reply, ReplyKind, Request, respond};
use bt_server::lease::{LeaseBook, Range};
use dhcproto::v4::{Decodable, Decoder, DhcpOption, Message, OptionCode};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SCRIPT: &str = "http://10.77.0.1:6969/boot.ipxe";

fn network() -> Network {
    Network {
        server: SERVER,
        netmask: Ipv4Addr::new(255, 255, 255, 0),
        router: Some(SERVER),
        dns: vec![SERVER],
        domain: Some("lab.example".to_owned()),
        http_port: 6969,
    }
}

fn book() -> LeaseBook {
    let range = Range::new(Ipv4Addr::new(10, 77, 0, 50), Ipv4Addr::new(10, 77, 0, 150));
    LeaseBook::new(range.expect("not empty"), vec![SERVER], Duration::from_hours(1))
}

/// The UDP payloads that a client sent to port 67, from a classic little-endian pcap.
fn client_packets(pcap: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(pcap[..4], [0xd4, 0xc3, 0xb2, 0xa1], "classic little-endian pcap");
    let mut rest = &pcap[24..];
    let mut packets = Vec::new();
    while rest.len() >= 16 {
        let length = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        let frame = &rest[16..16 + length];
        rest = &rest[16 + length..];
        let is_udp = frame[12..14] == [8, 0] && frame[23] == 17;
        let udp = 14 + usize::from(frame[14] & 15) * 4;
        if is_udp && frame[udp + 2..udp + 4] == 67_u16.to_be_bytes() {
            packets.push(frame[udp + 8..].to_vec());
        }
    }
    packets
}

/// Plays a capture's DISCOVERs and REQUESTs to one book. The captured REQUESTs name addresses that
/// another server offered; they take ours instead, as the client would have done.
fn replay(pcap: &[u8]) -> Vec<(Request, Reply)> {
    let (mut book, network, mut offered) = (book(), network(), None);
    let mut now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let mut replies = Vec::new();
    for packet in client_packets(pcap) {
        now += Duration::from_secs(1);
        let mut request = Request::parse(&packet, SERVER).expect("a client's packet is for us");
        if let Kind::Request { server: Some(_), wanted: Some(_) } = request.kind {
            request.kind = Kind::Request { server: Some(SERVER), wanted: offered };
        }
        let Answer::Send(reply) = respond(&request, &mut book, &network, now) else {
            panic!("{:?} of {} gets an answer", request.kind, request.mac);
        };
        offered = Some(reply.ip);
        replies.push((request, reply));
    }
    replies
}

fn decoded(reply: &Reply) -> Message {
    Message::decode(&mut Decoder::new(&reply.bytes)).expect("our reply can be read")
}

/// Checks every reply of a capture, and the boot files in the order in which they were told.
fn check(pcap: &[u8], expected: &[Option<&str>]) {
    let replies = replay(pcap);
    let mut told: Vec<Option<String>> = Vec::new();
    for (request, reply) in &replies {
        assert!(reply.bytes.len() >= 300 && reply.bytes.len() <= 548, "{}", reply.bytes.len());
        assert_eq!(reply.to, Destination::Broadcast, "these clients have no address");
        assert_eq!(reply.ip, Ipv4Addr::new(10, 77, 0, 50), "one PC keeps one address");
        let message = decoded(reply);
        assert_eq!((message.xid(), message.yiaddr()), (request.xid, reply.ip));
        assert_eq!(
            message.opts().get(OptionCode::ServerIdentifier),
            Some(&DhcpOption::ServerIdentifier(SERVER))
        );
        let file = message.fname().map(|name| {
            let name = name.strip_suffix(b"\0").unwrap_or(name);
            String::from_utf8(name.to_vec()).expect("a name is text")
        });
        let option = file.as_ref().map(|name| [name.as_bytes(), b"\0"].concat());
        assert_eq!(
            message.opts().get(OptionCode::BootfileName),
            option.map(DhcpOption::BootfileName).as_ref(),
            "file and option 67 say the same"
        );
        assert_eq!(reply.kind == ReplyKind::Ack, reply.grant.is_some());
        if told.last() != Some(&file) {
            told.push(file);
        }
    }
    let expected: Vec<_> = expected.iter().map(|name| name.map(str::to_owned)).collect();
    assert_eq!(told, expected);
    assert!(replies.iter().any(|(_, reply)| reply.kind == ReplyKind::Ack));
}

#[test]
fn an_ipxe_rom_gets_the_script_at_once() {
    check(include_bytes!("golden/bios-ipxe-rom-dhcp.pcap"), &[Some(SCRIPT)]);
}

#[test]
fn undionly_gets_the_script_too() {
    check(include_bytes!("golden/bios-ipxe-chain-undionly-dhcp-rrq.pcap"), &[Some(SCRIPT)]);
}

#[test]
fn uefi_gets_snponly_and_its_ipxe_the_script() {
    let pcap = include_bytes!("golden/uefi-pxe-then-ipxe-dhcp-rrq.pcap");
    check(pcap, &[Some("snponly.efi"), Some(SCRIPT)]);
}

#[test]
fn http_boot_gets_a_url_and_the_small_linux_an_address_only() {
    let pcap = include_bytes!("golden/uefi-http-boot-dhcp.pcap");
    check(pcap, &[Some("http://10.77.0.1:6969/snponly.efi"), None]);
    for (request, reply) in replay(pcap) {
        let message = decoded(&reply);
        let class = message.opts().get(OptionCode::ClassIdentifier);
        let expected = DhcpOption::ClassIdentifier(b"HTTPClient".to_vec());
        assert_eq!(class, request.boot.map(|_| &expected), "HTTP Boot needs its class echoed");
    }
}
