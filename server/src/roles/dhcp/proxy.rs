//! Core: a request on a network with another DHCP server -> the boot file, and nothing else.
//!
//! proxyDHCP as firmware does it (PXE 2.1 §2.2.3): the other server's offer has the address, this
//! one's has option 60 and the boot file. Option 43 directs PXE firmware to take the file from the
//! offer; firmware that asks port 4011 anyway is answered there. EDK2 is content with either one,
//! and fails with PXE-E16 where both are missing (the captures proxydhcp-uefi-pxe-opt43-direct and
//! proxydhcp-uefi-pxe-4011-unanswered); vendors' firmware differs, so both are offered. HTTP Boot
//! and iPXE need neither. A REQUEST on port 67 is always the other server's to answer.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use dhcproto::v4::{DhcpOption, MessageType};

use super::respond::{self, Destination, Reply, ReplyKind};
use super::{Kind, Network, Request};
use crate::boot::arch::BootFile;
use crate::lab::config::Nodes;

/// PXE_DISCOVERY_CONTROL (6) of one byte with bit 3, "use the boot file name of this offer", and
/// the end tag (255).
pub(super) const USE_THIS_FILE: [u8; 4] = [6, 1, 8, 255];

/// What proxy mode needs to know.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// This server's address: server identifier, TFTP and HTTP server.
    pub server: Ipv4Addr,
    /// Port of this server's HTTP role.
    pub http_port: u16,
    /// Rooms and single PCs.
    pub nodes: Arc<Nodes>,
}

/// The port that a request was received on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenPort {
    /// 67, shared with every DHCP server of the network.
    Dhcp,
    /// 4011, where only boot clients ask, and only this server (PXE 2.1 §2.2.3); the reply goes to
    /// the sender's address and port.
    Pxe(SocketAddrV4),
}

/// Answers one request; `None` where another server answers it, or nobody.
pub fn respond_proxy(
    request: &Request,
    settings: &ProxySettings,
    port: ListenPort,
) -> Option<Reply> {
    let network = settings.network();
    let (kind, message, to) = match (port, request.kind) {
        // Only DISCOVER on port 67: a REQUEST there is for the server that assigns the address, and a
        // second ACK would confuse firmware that takes the first one.
        (ListenPort::Dhcp, Kind::Discover { .. }) => {
            (ReplyKind::ProxyOffer, MessageType::Offer, respond::destination(request))
        }
        (ListenPort::Pxe(sender), Kind::Request { .. } | Kind::Inform) => {
            (ReplyKind::ProxyAck, MessageType::Ack, Destination::Sender(sender))
        }
        _ => return None,
    };
    // An offer without a file would make firmware wait for one.
    let boot = respond::boot_file(request, &network, None)?;
    let mut message = respond::header(request, message, &network);
    // `yiaddr` stays 0: that is how firmware knows a proxy's offer from one with an address.
    message.set_ciaddr(request.ciaddr);
    respond::add_boot(&mut message, request, Some(&boot), &network);
    if !matches!(boot, BootFile::HttpLoader(_)) {
        let options = message.opts_mut();
        // Without it neither EDK2 nor iPXE takes an offer without an address (the capture
        // proxydhcp-uefi-pxe-rejected-no-opt60). HTTP Boot has a class of its own.
        options.insert(DhcpOption::ClassIdentifier(b"PXEClient".to_vec()));
        options.insert(DhcpOption::VendorExtensions(USE_THIS_FILE.to_vec()));
    }
    let bytes = respond::encode(message, request, &[]);
    Some(Reply { kind, to, bytes, ip: request.ciaddr, boot: Some(boot), grant: None })
}

/// Whether this is the REQUEST by which a PC accepts another server's address, about to load its
/// first boot loader from this server.
pub fn loads_first_hop(request: &Request, settings: &ProxySettings) -> bool {
    matches!(request.kind, Kind::Request { .. })
        && respond::boot_file(request, &settings.network(), None)
            .is_some_and(|boot| boot.is_first_hop())
}

impl ProxySettings {
    /// A network of which only this server's address is known.
    pub(super) fn network(&self) -> Network {
        Network {
            server: self.server,
            is_remote: false,
            address: self.server,
            netmask: Ipv4Addr::BROADCAST,
            router: None,
            dns: Vec::new(),
            domain: None,
            ntp: Vec::new(),
            options: Vec::new(),
            http_port: self.http_port,
            nodes: Arc::clone(&self.nodes),
        }
    }
}

#[cfg(test)]
mod tests {
    use dhcproto::v4::{Decodable, Decoder, Message, OptionCode};

    use super::*;
    use crate::boot::arch::{Arch, BootClient, IpxeFeatures};
    use crate::lab::config::Config;
    use bt_catalog::Mac;

    const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    const SENDER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 60), 4011);
    const DISCOVER: Kind = Kind::Discover { wanted: None };
    const REQUEST: Kind = Kind::Request { server: None, wanted: None };

    fn settings(node: &str) -> ProxySettings {
        let text = format!("interface = \"eth0\"\n{node}");
        let nodes = Config::parse(&text).expect("valid").nodes;
        ProxySettings { server: [10, 77, 0, 2].into(), http_port: 6969, nodes }
    }

    fn request(kind: Kind, arch: u16, ipxe: Option<IpxeFeatures>) -> Request {
        let boot = Some(BootClient { arch: Arch::from_code(arch), ipxe });
        Request { boot, ..Request::of(Mac([2, 0, 0, 0, 0, 1]), kind) }
    }

    fn file(request: &Request, port: ListenPort) -> Option<String> {
        let reply = respond_proxy(request, &settings(""), port)?;
        reply.boot.map(|boot| boot.name().to_owned())
    }

    #[test]
    fn an_offer_has_a_file_and_no_address() {
        let asks = Request { machine_id: Some(vec![0; 17]), ..request(DISCOVER, 7, None) };
        let reply = respond_proxy(&asks, &settings(""), ListenPort::Dhcp).expect("an offer");
        assert_eq!((reply.kind, reply.to), (ReplyKind::ProxyOffer, Destination::Broadcast));
        let message = Message::decode(&mut Decoder::new(&reply.bytes)).expect("can be read");
        assert_eq!((message.yiaddr(), message.siaddr()), (NONE, [10, 77, 0, 2].into()));
        let check = |code, expected| assert_eq!(message.opts().get(code), Some(&expected));
        check(OptionCode::ClassIdentifier, DhcpOption::ClassIdentifier(b"PXEClient".to_vec()));
        check(OptionCode::VendorExtensions, DhcpOption::VendorExtensions(vec![6, 1, 8, 255]));
        check(OptionCode::BootfileName, DhcpOption::BootfileName(b"snponly.efi\0".to_vec()));
        assert!(message.opts().get(OptionCode::ClientMachineIdentifier).is_some());
        for code in [OptionCode::SubnetMask, OptionCode::AddressLeaseTime, OptionCode::Router] {
            assert_eq!(message.opts().get(code), None, "that is the other server's to say");
        }
    }

    #[test]
    fn http_boot_gets_its_own_class_and_no_option_43() {
        let reply = respond_proxy(&request(DISCOVER, 16, None), &settings(""), ListenPort::Dhcp);
        let reply = reply.expect("an offer");
        let message = Message::decode(&mut Decoder::new(&reply.bytes)).expect("can be read");
        let class = message.opts().get(OptionCode::ClassIdentifier);
        assert_eq!(class, Some(&DhcpOption::ClassIdentifier(b"HTTPClient".to_vec())));
        assert_eq!(message.opts().get(OptionCode::VendorExtensions), None);
    }

    #[test]
    fn port_4011_is_answered_where_the_question_came_from() {
        let asks = Request { ciaddr: [10, 77, 0, 60].into(), ..request(REQUEST, 7, None) };
        let reply = respond_proxy(&asks, &settings(""), ListenPort::Pxe(SENDER)).expect("an ACK");
        assert_eq!((reply.kind, reply.to), (ReplyKind::ProxyAck, Destination::Sender(SENDER)));
        let message = Message::decode(&mut Decoder::new(&reply.bytes)).expect("can be read");
        assert_eq!((message.ciaddr(), message.yiaddr()), ([10, 77, 0, 60].into(), NONE));
    }

    #[test]
    fn what_is_another_servers_to_answer_gets_silence() {
        assert_eq!(file(&request(REQUEST, 7, None), ListenPort::Dhcp), None);
        assert_eq!(file(&request(Kind::Inform, 7, None), ListenPort::Dhcp), None);
        assert_eq!(file(&request(Kind::Release, 7, None), ListenPort::Dhcp), None);
        assert_eq!(file(&request(DISCOVER, 7, None), ListenPort::Pxe(SENDER)), None);
        let no_boot = Request { boot: None, ..request(DISCOVER, 7, None) };
        assert_eq!(file(&no_boot, ListenPort::Dhcp), None);
        assert_eq!(file(&request(DISCOVER, 11, None), ListenPort::Dhcp), None, "arm64");
    }

    #[test]
    fn only_the_request_of_firmware_counts_as_a_first_hop() {
        let counts = |request: &Request| loads_first_hop(request, &settings(""));
        assert!(counts(&request(REQUEST, 7, None)));
        assert!(!counts(&request(DISCOVER, 7, None)), "nobody may have given it an address");
        assert!(!counts(&request(REQUEST, 0, Some(IpxeFeatures::COMPLETE))), "it got further");
        assert!(!counts(&request(REQUEST, 11, None)));
        assert!(!counts(&Request { boot: None, ..request(REQUEST, 7, None) }));
    }

    #[test]
    fn ipxe_gets_the_script_and_a_relay_the_reply() {
        let ipxe = request(DISCOVER, 0, Some(IpxeFeatures::COMPLETE));
        assert_eq!(
            file(&ipxe, ListenPort::Dhcp).as_deref(),
            Some("http://10.77.0.2:6969/boot.ipxe")
        );
        let relayed = Request { giaddr: [10, 78, 0, 1].into(), ..ipxe };
        let reply = respond_proxy(&relayed, &settings(""), ListenPort::Dhcp).expect("an offer");
        assert_eq!(reply.to, Destination::Relay([10, 78, 0, 1].into()));
    }

    #[test]
    fn a_host_with_secure_boot_gets_shim_and_no_http_boot() {
        let host = "[[host]]\nmac = \"02:00:00:00:00:01\"\nuefi_loader = \"shim-grub\"\n";
        let told = |arch| {
            let reply =
                respond_proxy(&request(DISCOVER, arch, None), &settings(host), ListenPort::Dhcp);
            reply.and_then(|reply| reply.boot).map(|boot| boot.name().to_owned())
        };
        assert_eq!(told(7).as_deref(), Some("shimx64.efi"));
        assert_eq!(told(16), None);
        assert_eq!(told(0).as_deref(), Some("undionly.kpxe"));
    }
}
