//! Real clients' packets through the parser and the lease book, and what they are told to boot.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, SystemTime};

use bt_server::lab::config::Config;
use bt_server::os::card::Card;
use bt_server::roles::dhcp::lease::{LeaseBook, Range};
use bt_server::roles::dhcp::{
    Answer, Destination, Kind, ListenPort, Network, ProxySettings, Reply, ReplyKind, Request,
    respond, respond_proxy,
};
use dhcproto::v4::{Decodable, Decoder, DhcpOption, Message, OptionCode};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SCRIPT: &str = "http://10.77.0.1:6969/boot.ipxe";

fn network() -> Network {
    let text = "interface = \"eth0\"\n[dhcp]\nmode = \"full\"\nrange = \"10.77.0.50-10.77.0.150\"\n\
                router = \"10.77.0.1\"\ndns = [\"10.77.0.1\"]\ndomain = \"lab.example\"\n";
    let config = Config::parse(text).expect("valid");
    let card = Card { name: "eth0".into(), ip: SERVER, netmask: [255, 255, 255, 0].into() };
    let all = Network::all(&config, &[card]);
    all.into_iter().next().expect("full mode has a network").0
}

fn book() -> LeaseBook {
    let range = Range::new(Ipv4Addr::new(10, 77, 0, 50), Ipv4Addr::new(10, 77, 0, 150));
    LeaseBook::new(range.expect("not empty"), vec![SERVER], Duration::from_hours(1))
}

/// The UDP payloads that clients sent to a port, from a classic little-endian pcap.
fn packets_to(pcap: &[u8], port: u16) -> Vec<Vec<u8>> {
    assert_eq!(pcap[..4], [0xd4, 0xc3, 0xb2, 0xa1], "classic little-endian pcap");
    let mut rest = &pcap[24..];
    let mut packets = Vec::new();
    while rest.len() >= 16 {
        let length = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        let frame = &rest[16..16 + length];
        rest = &rest[16 + length..];
        let is_udp = frame[12..14] == [8, 0] && frame[23] == 17;
        let udp = 14 + usize::from(frame[14] & 15) * 4;
        if is_udp && frame[udp + 2..udp + 4] == port.to_be_bytes() {
            packets.push(frame[udp + 8..].to_vec());
        }
    }
    packets
}

/// What clients sent to port 67; on 4011 only the first byte tells them from the proxy's answers.
fn client_packets(pcap: &[u8]) -> Vec<Vec<u8>> {
    packets_to(pcap, 67)
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
    check(include_bytes!("../golden/bios-ipxe-rom-dhcp.pcap"), &[Some(SCRIPT)]);
}

#[test]
fn undionly_gets_the_script_too() {
    check(include_bytes!("../golden/bios-ipxe-chain-undionly-dhcp-rrq.pcap"), &[Some(SCRIPT)]);
}

#[test]
fn uefi_gets_snponly_and_its_ipxe_the_script() {
    let pcap = include_bytes!("../golden/uefi-pxe-then-ipxe-dhcp-rrq.pcap");
    check(pcap, &[Some("snponly.efi"), Some(SCRIPT)]);
}

#[test]
fn http_boot_gets_a_url_and_the_small_linux_an_address_only() {
    let pcap = include_bytes!("../golden/uefi-http-boot-dhcp.pcap");
    check(pcap, &[Some("http://10.77.0.1:6969/snponly.efi"), None]);
    for (request, reply) in replay(pcap) {
        let message = decoded(&reply);
        let class = message.opts().get(OptionCode::ClassIdentifier);
        let expected = DhcpOption::ClassIdentifier(b"HTTPClient".to_vec());
        assert_eq!(class, request.boot.map(|_| &expected), "HTTP Boot needs its class echoed");
    }
}

/// Plays a capture of a network with an address server to our proxy: every DISCOVER of firmware or
/// iPXE gets the file, no REQUEST on port 67 gets an answer, and each on port 4011 does.
fn check_proxy(name: &str, pcap: &[u8], file: &str, asks_4011: bool) {
    let settings = ProxySettings { server: SERVER, http_port: 6969, nodes: network().nodes };
    let sender = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 60), 4011);
    let mut offers = 0;
    for packet in client_packets(pcap) {
        let request = Request::parse(&packet, SERVER).expect("a client's packet is for us");
        let reply = respond_proxy(&request, &settings, ListenPort::Dhcp);
        let is_discover = matches!(request.kind, Kind::Discover { .. });
        assert_eq!(reply.is_some(), is_discover, "{name}: {:?}", request.kind);
        let Some(reply) = reply else { continue };
        offers += 1;
        check_proxy_reply(name, &request, &reply, file);
        assert_eq!(reply.to, Destination::Broadcast);
    }
    assert!(offers > 0, "{name} has a DISCOVER");
    let mut acks = 0;
    for packet in packets_to(pcap, 4011) {
        // The proxy of the capture answered from and to port 4011.
        let Ok(request) = Request::parse(&packet, SERVER) else { continue };
        let reply = respond_proxy(&request, &settings, ListenPort::Pxe(sender)).expect("an ACK");
        check_proxy_reply(name, &request, &reply, file);
        assert_eq!((reply.kind, reply.to), (ReplyKind::ProxyAck, Destination::Sender(sender)));
        assert_eq!(decoded(&reply).ciaddr(), request.ciaddr);
        acks += 1;
    }
    assert_eq!(acks > 0, asks_4011, "{name}: {acks} requests on port 4011");
}

fn check_proxy_reply(name: &str, request: &Request, reply: &Reply, file: &str) {
    let message = decoded(reply);
    assert_eq!(reply.boot.as_ref().map(|boot| boot.name()), Some(file), "{name}");
    assert_eq!(message.yiaddr(), Ipv4Addr::UNSPECIFIED, "a proxy gives no address");
    assert_eq!((message.xid(), message.siaddr()), (request.xid, SERVER));
    let class = if file.starts_with("http") && file.ends_with(".efi") {
        b"HTTPClient"
    } else {
        &b"PXEClient\0"[..]
    };
    let class = class.strip_suffix(b"\0").unwrap_or(class).to_vec();
    assert_eq!(
        message.opts().get(OptionCode::ClassIdentifier),
        Some(&DhcpOption::ClassIdentifier(class))
    );
    assert!(reply.bytes.len() >= 300 && reply.grant.is_none());
}

#[test]
fn the_proxy_answers_every_captured_client_as_it_should() {
    macro_rules! check {
        ($name:literal, $file:expr, $asks_4011:expr) => {
            check_proxy(
                $name,
                include_bytes!(concat!("../golden/", $name, ".pcap")),
                $file,
                $asks_4011,
            )
        };
    }
    let http = "http://10.77.0.1:6969/snponly.efi";
    check!("proxydhcp-bios-ipxe", SCRIPT, false);
    check!("proxydhcp-uefi-http", http, false);
    check!("proxydhcp-uefi-pxe-4011", "snponly.efi", true);
    check!("proxydhcp-uefi-pxe-4011-only", "snponly.efi", true);
    check!("proxydhcp-uefi-pxe-4011-unanswered", "snponly.efi", true);
    check!("proxydhcp-uefi-pxe-dnsmasq", "snponly.efi", true);
    check!("proxydhcp-uefi-pxe-opt43-direct", "snponly.efi", false);
    check!("proxydhcp-uefi-pxe-rejected-no-opt60", "snponly.efi", false);
}

#[test]
fn the_address_requests_of_proxied_clients_are_answered_in_full_mode_too() {
    check(include_bytes!("../golden/proxydhcp-bios-ipxe.pcap"), &[Some(SCRIPT)]);
    let http = Some("http://10.77.0.1:6969/snponly.efi");
    check(include_bytes!("../golden/proxydhcp-uefi-http.pcap"), &[http]);
    check(include_bytes!("../golden/proxydhcp-uefi-pxe-dnsmasq.pcap"), &[Some("snponly.efi")]);
}
