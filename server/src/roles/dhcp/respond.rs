//! Core: a request, the lease book and the time -> what to send, and what to keep first.
//!
//! Full mode: this network's addresses are ours to give (RFC 2131 §4.3). The caller keeps
//! [`Reply::grant`] on disk before it sends the reply, and tells the book when it could not.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, SystemTime};

use dhcproto::v4::{
    DhcpOption, Encodable, Message, MessageType, Opcode, OptionCode, UnknownOption,
};

use super::{Kind, Network, Request};
use crate::boot::arch::{Arch, BootFile};
use crate::lab::config::Loader;
use crate::lab::config::dhcp_options::ExtraOption;
use crate::roles::dhcp::lease::{Blocked, Claim, ClaimKind, Lease, LeaseBook, Record};

/// Relays and some firmware drop shorter replies (RFC 951 §3).
const MIN_REPLY: usize = 300;
/// UDP's and IP's headers count against the client's limit (RFC 2132 §9.10).
const HEADERS: u16 = 28;
/// Site-specific option that tells our small Linux the URL of its server, when it asks.
const SERVER_URL: u8 = 224;

/// Where a reply goes (RFC 2131 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// 255.255.255.255:68.
    Broadcast,
    /// Port 68 of a node that has this address.
    Node(Ipv4Addr),
    /// Port 67 of the relay that it came through.
    Relay(Ipv4Addr),
    /// Where the request came from (port 4011).
    Sender(SocketAddrV4),
}

impl Destination {
    /// The address and port to send to.
    pub fn socket_address(self) -> SocketAddrV4 {
        match self {
            Self::Broadcast => SocketAddrV4::new(Ipv4Addr::BROADCAST, 68),
            Self::Node(ip) => SocketAddrV4::new(ip, 68),
            Self::Relay(ip) => SocketAddrV4::new(ip, 67),
            Self::Sender(address) => address,
        }
    }
}

/// The kind of a reply, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// An address is offered.
    Offer,
    /// An address is given or renewed.
    Ack,
    /// Options for a node that has its address from elsewhere.
    Informed,
    /// That address is not for this node.
    Nak,
    /// A boot file, beside another server's offer of an address.
    ProxyOffer,
    /// The same, asked for on port 4011.
    ProxyAck,
}

/// A lease to be kept before its ACK leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// What is granted.
    pub lease: Lease,
    /// What the node held before, for [`LeaseBook::undo`].
    pub before: Option<Lease>,
}

impl Grant {
    /// Whether the node keeps an address that the disk already knows to be its own.
    pub fn is_renewal(&self) -> bool {
        self.before.is_some_and(|before| before.ip == self.lease.ip)
    }
}

/// A packet ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What it is.
    pub kind: ReplyKind,
    /// Where it goes.
    pub to: Destination,
    /// Its bytes, padded.
    pub bytes: Vec<u8>,
    /// The address it is about.
    pub ip: Ipv4Addr,
    /// What the node was told to boot.
    pub boot: Option<BootFile>,
    /// To be kept first.
    pub grant: Option<Grant>,
}

/// Why a request gets no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// Every address of the range is in use, or kept for known nodes.
    #[error("every address of the range is in use or kept for a known PC")]
    Full,
    /// The node's fixed address is still another's.
    #[error("its fixed address {} is still in use", .0.ip)]
    Blocked(Blocked),
    /// The node took the offer of another server.
    #[error("the PC took the offer of another server")]
    OtherServer,
    /// The node remembers an address that we know nothing of.
    #[error("nothing is known of this PC's address")]
    UnknownNode,
    /// The relay is on a network that we have no addresses for.
    #[error("the relay is on a network that is no [[dhcp.subnet]] of server.toml")]
    OtherNetwork,
    /// The address is of this network, but another server's to manage.
    #[error("the address is outside the range")]
    OutsideRange,
    /// The request contradicts itself.
    #[error("the request names no address")]
    NoAddress,
    /// Secure Boot's shim and GRUB cannot go on by HTTP: the firmware shall ask by PXE.
    #[error("HTTP Boot is left alone where `uefi_loader` is shim-grub")]
    HttpBoot,
    /// RELEASE and DECLINE are not answered.
    #[error("not to be answered")]
    Unanswered,
}

/// What is to be done about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Keep the grant, if there is one, then send.
    Send(Reply),
    /// Keep this and send nothing.
    Keep(Record),
    /// Do nothing.
    Silent(Silence),
}

/// Answers one request at `now`.
pub fn respond(
    request: &Request,
    book: &mut LeaseBook,
    network: &Network,
    now: SystemTime,
) -> Answer {
    if !network.serves(request) {
        return Answer::Silent(Silence::OtherNetwork);
    }
    match request.kind {
        Kind::Discover { wanted } => match book.offer(request.mac, wanted, now) {
            // The hold stays: the same PC asks by PXE next.
            Some(ip) if is_left_to_pxe(request, ip, network) => Answer::Silent(Silence::HttpBoot),
            Some(ip) => Answer::Send(offer(request, ip, book.lease_time(request.mac), network)),
            None => Answer::Silent(
                book.blocked(request.mac, now).map_or(Silence::Full, Silence::Blocked),
            ),
        },
        // §3.1, step 3: that the PC names another server declines our offer; the address is free again.
        Kind::Request { server: Some(chosen), .. } if chosen != network.server => {
            book.withdraw_offer(request.mac);
            Answer::Silent(Silence::OtherServer)
        }
        Kind::Request { server, wanted } => {
            // §4.3.2 tells the states apart by these fields alone: option 54 only in SELECTING, option
            // 50 not when renewing, `ciaddr` only when renewing or rebinding.
            let claimed = match (server, wanted) {
                (Some(_), Some(ip)) => Some((ip, ClaimKind::Selecting)),
                (None, Some(ip)) if request.ciaddr.is_unspecified() => {
                    Some((ip, ClaimKind::Rebooting))
                }
                _ if !request.ciaddr.is_unspecified() => {
                    Some((request.ciaddr, ClaimKind::Renewing))
                }
                _ => None,
            };
            let Some((ip, kind)) = claimed else { return Answer::Silent(Silence::NoAddress) };
            if is_left_to_pxe(request, ip, network) {
                return Answer::Silent(Silence::HttpBoot);
            }
            claim(request, ip, kind, book, network, now)
        }
        // Neither is answered (§4.3.3, §4.3.4): the sender no longer has an address.
        Kind::Decline { ip } => keep(book.decline(request.mac, ip, now)),
        Kind::Release => keep(book.release(request.mac, request.ciaddr, now)),
        Kind::Inform if request.ciaddr.is_unspecified() => Answer::Silent(Silence::NoAddress),
        Kind::Inform if is_left_to_pxe(request, request.ciaddr, network) => {
            Answer::Silent(Silence::HttpBoot)
        }
        Kind::Inform => Answer::Send(informed(request, network)),
    }
}

fn keep(record: Option<Record>) -> Answer {
    record.map_or(Answer::Silent(Silence::Unanswered), Answer::Keep)
}

fn claim(
    request: &Request,
    ip: Ipv4Addr,
    kind: ClaimKind,
    book: &mut LeaseBook,
    network: &Network,
    now: SystemTime,
) -> Answer {
    // A fixed address or another server's: to refuse it would take a working node off the network.
    if kind != ClaimKind::Selecting && network.contains(ip) && !book.covers(ip) {
        return Answer::Silent(Silence::OutsideRange);
    }
    match book.request(request.mac, ip, kind, now) {
        Claim::Granted { lease, before } => {
            let grant = Grant { lease, before };
            let lease_time = lease.until.duration_since(now).unwrap_or_default();
            Answer::Send(ack(request, grant, lease_time, network))
        }
        Claim::Refused => Answer::Send(nak(request, ip, network)),
        Claim::Unknown => Answer::Silent(Silence::UnknownNode),
    }
}

/// Whether firmware asks by HTTP Boot where shim and GRUB could not go on; a room may be known by
/// `ip`, the address that the PC has or gets.
fn is_left_to_pxe(request: &Request, ip: Ipv4Addr, network: &Network) -> bool {
    let is_http =
        request.boot.is_some_and(|boot| boot.ipxe.is_none() && boot.arch == Arch::UefiX64Http);
    is_http && network.settings(request, Some(ip)).loader == Loader::ShimGrub
}

fn offer(request: &Request, ip: Ipv4Addr, lease_time: Duration, network: &Network) -> Reply {
    let boot = boot_file(request, network, Some(ip));
    let mut message = header(request, MessageType::Offer, network);
    message.set_yiaddr(ip);
    add_times(&mut message, lease_time);
    add_network(&mut message, request, network, ip);
    add_boot(&mut message, request, boot.as_ref(), network);
    let bytes = encode(message, request, &network.options);
    Reply { kind: ReplyKind::Offer, to: destination(request), bytes, ip, boot, grant: None }
}

fn ack(request: &Request, grant: Grant, lease_time: Duration, network: &Network) -> Reply {
    let boot = boot_file(request, network, Some(grant.lease.ip));
    let mut message = header(request, MessageType::Ack, network);
    message.set_yiaddr(grant.lease.ip).set_ciaddr(request.ciaddr);
    add_times(&mut message, lease_time);
    add_network(&mut message, request, network, grant.lease.ip);
    // Here too: EDK2 takes the file's name from the ACK.
    add_boot(&mut message, request, boot.as_ref(), network);
    let bytes = encode(message, request, &network.options);
    let (to, ip) = (destination(request), grant.lease.ip);
    Reply { kind: ReplyKind::Ack, to, bytes, ip, boot, grant: Some(grant) }
}

/// RFC 2131 §4.3.5: no `yiaddr` and no times, since the address is not ours.
fn informed(request: &Request, network: &Network) -> Reply {
    let boot = boot_file(request, network, None);
    let mut message = header(request, MessageType::Ack, network);
    message.set_ciaddr(request.ciaddr);
    add_network(&mut message, request, network, request.ciaddr);
    add_boot(&mut message, request, boot.as_ref(), network);
    let bytes = encode(message, request, &network.options);
    let ip = request.ciaddr;
    Reply { kind: ReplyKind::Informed, to: Destination::Node(ip), bytes, ip, boot, grant: None }
}

/// RFC 2131 §4.3.2: always broadcast, by the relay where there is one.
fn nak(request: &Request, ip: Ipv4Addr, network: &Network) -> Reply {
    let mut message = header(request, MessageType::Nak, network);
    let to = if request.giaddr.is_unspecified() {
        Destination::Broadcast
    } else {
        message.set_flags(message.flags().set_broadcast());
        // The PC has no valid address, so the relay must not send to `yiaddr` (§4.1).
        Destination::Relay(request.giaddr)
    };
    let why = "this address is not for you: ask again with DISCOVER".to_owned();
    message.opts_mut().insert(DhcpOption::Message(why));
    let bytes = encode(message, request, &[]);
    Reply { kind: ReplyKind::Nak, to, bytes, ip, boot: None, grant: None }
}

pub(super) fn destination(request: &Request) -> Destination {
    if !request.giaddr.is_unspecified() {
        Destination::Relay(request.giaddr)
    } else if !request.ciaddr.is_unspecified() {
        Destination::Node(request.ciaddr)
    } else {
        // Whatever the broadcast flag says: a unicast to a PC that has no address yet needs an ARP
        // entry made by hand, and every client takes a broadcast: iPXE, EDK2 and udhcpc were tried, the
        // first and the last with the flag off (server/tests/golden).
        Destination::Broadcast
    }
}

pub(super) fn boot_file(
    request: &Request,
    network: &Network,
    ip: Option<Ipv4Addr>,
) -> Option<BootFile> {
    let loader = network.settings(request, ip).loader;
    request.boot.and_then(|client| client.boot_file(network.http(), loader))
}

pub(super) fn header(request: &Request, kind: MessageType, network: &Network) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message =
        Message::new_with_id(request.xid, none, none, none, request.giaddr, &request.mac.0);
    message.set_opcode(Opcode::BootReply).set_flags(request.flags.into());
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message.opts_mut().insert(DhcpOption::ServerIdentifier(network.server));
    message
}

fn add_times(message: &mut Message, lease_time: Duration) {
    let secs = u32::try_from(lease_time.as_secs()).unwrap_or(u32::MAX);
    let options = message.opts_mut();
    options.insert(DhcpOption::AddressLeaseTime(secs));
    // T1 and T2 at §4.4.5's defaults, half and seven eighths of the lease.
    options.insert(DhcpOption::Renewal(secs / 2));
    options.insert(DhcpOption::Rebinding(secs - secs / 8));
}

fn add_network(message: &mut Message, request: &Request, network: &Network, ip: Ipv4Addr) {
    let options = message.opts_mut();
    options.insert(DhcpOption::SubnetMask(network.netmask));
    options.insert(DhcpOption::BroadcastAddr(network.broadcast()));
    if let Some(router) = network.router {
        options.insert(DhcpOption::Router(vec![router]));
    }
    if !network.dns.is_empty() {
        options.insert(DhcpOption::DomainNameServer(network.dns.clone()));
    }
    if let Some(domain) = &network.domain {
        options.insert(DhcpOption::DomainName(domain.clone()));
    }
    if !network.ntp.is_empty() {
        options.insert(DhcpOption::NtpServers(network.ntp.clone()));
    }
    if let Some(name) = network.settings(request, Some(ip)).name {
        options.insert(DhcpOption::Hostname(name));
    }
    // A private option (RFC 3942), so only for a client that asks for it: our own netboot image.
    if request.wishes.contains(&SERVER_URL) {
        let url = format!("http://{}", network.http());
        let option = UnknownOption::new(OptionCode::from(SERVER_URL), url.into_bytes());
        options.insert(DhcpOption::Unknown(option));
    }
}

pub(super) fn add_boot(
    message: &mut Message,
    request: &Request,
    boot: Option<&BootFile>,
    network: &Network,
) {
    if let Some(id) = &request.machine_id {
        message.opts_mut().insert(DhcpOption::ClientMachineIdentifier(id.clone()));
    }
    let Some(boot) = boot else { return };
    // Server and file are named twice each, in the fixed header and as options 66 and 67: vendors'
    // firmware reads one or the other, and ignores what it does not expect.
    message.set_siaddr(network.server);
    message.set_fname(boot.name().as_bytes());
    let options = message.opts_mut();
    options.insert(DhcpOption::TFTPServerName(network.server.to_string().into_bytes()));
    // The NUL is for firmware that reads option 67 as a C string, and would ask TFTP for a name that
    // ends in the next byte, 0xFF (End).
    options.insert(DhcpOption::BootfileName([boot.name().as_bytes(), b"\0"].concat()));
    if let BootFile::HttpLoader(_) = boot {
        // UEFI 2.10 §24.7.3: without it the firmware ignores the offer.
        options.insert(DhcpOption::ClassIdentifier(b"HTTPClient".to_vec()));
    }
}

/// The packet's bytes: the relay's option last, padded, and no longer than the client can take.
pub(super) fn encode(mut message: Message, request: &Request, extra: &[ExtraOption]) -> Vec<u8> {
    for option in extra {
        let option = UnknownOption::new(OptionCode::Unknown(option.code), option.data.clone());
        message.opts_mut().insert(DhcpOption::Unknown(option));
    }
    let limit = usize::from(request.max_message - HEADERS);
    // What a PC can do without, least important first. DNS goes last: what remains (address, mask,
    // router, times, boot file) it cannot boot without.
    let droppable = [
        OptionCode::DomainName,
        OptionCode::ClientMachineIdentifier,
        OptionCode::BroadcastAddr,
        OptionCode::TFTPServerName,
        OptionCode::Message,
        OptionCode::DomainNameServer,
    ];
    // The supervisor's own go first, and of them those that the node did not ask for.
    let code = |option: &ExtraOption| OptionCode::from(option.code);
    let (wished, others): (Vec<_>, Vec<_>) =
        extra.iter().rev().partition(|option| request.wishes.contains(&option.code));
    let extra = others.into_iter().chain(wished).map(code);
    let relay_info = request.relay_info.as_deref();
    let mut bytes = to_bytes(&message, relay_info);
    for code in extra.chain(droppable) {
        if bytes.len() <= limit {
            break;
        }
        message.opts_mut().remove(code);
        bytes = to_bytes(&message, relay_info);
    }
    // Old relays and BOOTP clients drop anything shorter (RFC 1542 §2.1).
    bytes.resize(bytes.len().max(MIN_REPLY), 0);
    bytes
}

/// The message, and as its last option the relay's information as it came (RFC 3046 §2.1).
///
/// Put in by hand: dhcproto would write a raw option 82 twice.
fn to_bytes(message: &Message, relay_info: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = message.to_vec().expect("a message in memory has room for every option");
    if let Some(info) = relay_info {
        let end = bytes.pop().expect("a message ends with the option End");
        bytes.extend([82, u8::try_from(info.len()).expect("longer ones are not read")]);
        bytes.extend_from_slice(info);
        bytes.push(end);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use dhcproto::v4::{Decodable, Decoder};
    use proptest::prelude::*;

    use super::*;
    use crate::boot::arch::{Arch, BootClient};
    use crate::lab::config::Config;
    use crate::os::card::Card;
    use crate::roles::dhcp::lease::Range;
    use bt_catalog::Mac;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, last)
    }

    fn network() -> Network {
        network_of("")
    }

    /// The network of a `server.toml` that has `more` at its end.
    fn network_of(more: &str) -> Network {
        let text = format!(
            "interface = \"eth0\"\n[dhcp]\nmode = \"full\"\nrange = \"10.77.0.50-10.77.0.51\"\n\
             dns = [\"10.77.0.2\", \"10.77.0.3\"]\n{more}"
        );
        let config = Config::parse(&text).expect("valid");
        let netmask = Ipv4Addr::new(255, 255, 255, 0);
        let all = Network::all(&config, &[Card { name: "eth0".into(), ip: SERVER, netmask }]);
        all.into_iter().next().expect("full mode has a network").0
    }

    fn book() -> LeaseBook {
        let range = Range::new(ip(50), ip(51)).expect("not empty");
        LeaseBook::new(range, vec![], Duration::from_hours(1))
    }

    fn request(node: u8, kind: Kind) -> Request {
        Request { xid: 7, ..Request::of(Mac([2, 0, 0, 0, 0, node]), kind) }
    }

    #[test]
    fn http_boot_is_left_to_pxe_in_a_room_that_only_the_address_tells() {
        let room = "[[room]]\nname = \"A1\"\naddresses = [\"10.77.0.50-10.77.0.51\"]\n\
                    uefi_loader = \"shim-grub\"\n";
        let boot = Some(BootClient { arch: Arch::UefiX64Http, ipxe: None });
        let discover = Request { boot, ..request(1, Kind::Discover { wanted: None }) };
        let answer = |more: &str| respond(&discover, &mut book(), &network_of(more), at(0));
        assert_eq!(answer(room), Answer::Silent(Silence::HttpBoot));
        assert!(matches!(answer(""), Answer::Send(_)));
    }

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn discover(node: u8) -> Request {
        request(node, Kind::Discover { wanted: None })
    }

    fn select(node: u8, last: u8) -> Request {
        request(node, Kind::Request { server: Some(SERVER), wanted: Some(ip(last)) })
    }

    fn renew(node: u8, last: u8) -> Request {
        let kind = Kind::Request { server: None, wanted: None };
        Request { ciaddr: ip(last), ..request(node, kind) }
    }

    /// What is answered, in short: the kind and the destination.
    fn answer(book: &mut LeaseBook, request: &Request, secs: u64) -> Answer {
        respond(request, book, &network(), at(secs))
    }

    fn sent(answer: Answer) -> Reply {
        let Answer::Send(reply) = answer else { panic!("a reply, not {answer:?}") };
        reply
    }

    fn options(reply: &Reply) -> Message {
        Message::decode(&mut Decoder::new(&reply.bytes)).expect("our reply can be read")
    }

    #[test]
    fn a_node_discovers_selects_and_renews() {
        let mut book = book();
        let reply = sent(answer(&mut book, &discover(1), 0));
        assert_eq!(
            (reply.kind, reply.to, reply.ip),
            (ReplyKind::Offer, Destination::Broadcast, ip(50))
        );
        let reply = sent(answer(&mut book, &select(1, 50), 1));
        assert_eq!((reply.kind, reply.to), (ReplyKind::Ack, Destination::Broadcast));
        assert!(reply.grant.is_some_and(|grant| !grant.is_renewal()));
        let reply = sent(answer(&mut book, &renew(1, 50), 1800));
        assert_eq!((reply.kind, reply.to), (ReplyKind::Ack, Destination::Node(ip(50))));
        assert!(
            reply.grant.is_some_and(|grant| grant.is_renewal() && grant.lease.until == at(5400))
        );
        let message = options(&reply);
        assert_eq!(message.ciaddr(), ip(50));
        assert_eq!(message.opts().get(OptionCode::Renewal), Some(&DhcpOption::Renewal(1800)));
    }

    #[test]
    fn a_wrong_address_is_refused_by_broadcast() {
        let mut book = book();
        sent(answer(&mut book, &select(1, 50), 0));
        for wrong in [select(2, 50), select(2, 99), renew(2, 50)] {
            let reply = sent(answer(&mut book, &wrong, 1));
            assert_eq!((reply.kind, reply.to), (ReplyKind::Nak, Destination::Broadcast));
            assert_eq!(options(&reply).yiaddr(), NONE);
        }
        let elsewhere = Request { ciaddr: Ipv4Addr::new(192, 168, 1, 9), ..renew(2, 50) };
        assert_eq!(sent(answer(&mut book, &elsewhere, 1)).kind, ReplyKind::Nak);
    }

    #[test]
    fn silence_has_its_reasons() {
        let mut book = book();
        sent(answer(&mut book, &select(1, 50), 0));
        sent(answer(&mut book, &discover(2), 1));
        let mut check = |request: Request, reason| {
            assert_eq!(answer(&mut book, &request, 2), Answer::Silent(reason));
        };
        check(discover(3), Silence::Full);
        check(renew(3, 99), Silence::OutsideRange);
        let other = Kind::Request { server: Some(ip(9)), wanted: Some(ip(80)) };
        check(request(2, other), Silence::OtherServer);
        let reboot = Kind::Request { server: None, wanted: Some(ip(51)) };
        check(request(3, reboot), Silence::UnknownNode);
        check(request(3, Kind::Inform), Silence::NoAddress);
        check(request(3, Kind::Release), Silence::Unanswered);
        let far = Request { giaddr: Ipv4Addr::new(10, 78, 0, 1), ..discover(3) };
        check(far, Silence::OtherNetwork);
        // The offer that node 2 left for another server's is free again.
        assert_eq!(sent(answer(&mut book, &discover(3), 3)).ip, ip(51));
    }

    #[test]
    fn a_relay_gets_the_reply_with_its_own_option_last() {
        let relay_info = Some(vec![1, 3, b'a', b'b', b'c']);
        let relayed = Request { giaddr: ip(200), relay_info, ..discover(1) };
        let reply = sent(answer(&mut book(), &relayed, 0));
        assert_eq!(reply.to, Destination::Relay(ip(200)));
        assert_eq!(reply.to.socket_address().port(), 67);
        let end = reply.bytes.iter().rposition(|&byte| byte == 255).expect("an end");
        assert_eq!(reply.bytes[end - 7..end], [82, 5, 1, 3, b'a', b'b', b'c']);
        let count = reply.bytes.windows(7).filter(|it| it.starts_with(&[82, 5, 1, 3])).count();
        assert_eq!(count, 1, "a relay that finds two may drop the packet");
    }

    #[test]
    fn an_inform_gets_options_and_no_lease() {
        let inform = Request { ciaddr: ip(99), ..request(1, Kind::Inform) };
        let reply = sent(answer(&mut book(), &inform, 0));
        assert_eq!((reply.kind, reply.to), (ReplyKind::Informed, Destination::Node(ip(99))));
        let message = options(&reply);
        assert_eq!(message.yiaddr(), NONE);
        assert_eq!(message.opts().get(OptionCode::AddressLeaseTime), None);
    }

    #[test]
    fn a_host_gets_its_name_and_everybody_the_further_options() {
        let more = "ntp = [\"10.77.0.4\"]\n[dhcp.options]\ninterface-mtu = 1400\n224 = \"x\"\n\
                    [[host]]\nmac = \"02:00:00:00:00:01\"\nname = \"pc-01\"\n";
        let network = network_of(more);
        let reply = sent(respond(&discover(1), &mut book(), &network, at(0)));
        let message = options(&reply);
        let name = message.opts().get(OptionCode::Hostname);
        assert_eq!(name, Some(&DhcpOption::Hostname("pc-01".to_owned())));
        assert_eq!(
            message.opts().get(OptionCode::NtpServers),
            Some(&DhcpOption::NtpServers(vec![ip(4)]))
        );
        for option in [&[26, 2, 5, 120][..], &[224, 1, b'x']] {
            assert!(reply.bytes.windows(option.len()).any(|part| part == option), "{option:?}");
        }
        let message = options(&sent(respond(&discover(2), &mut book(), &network, at(0))));
        assert_eq!(message.opts().get(OptionCode::Hostname), None);
    }

    #[test]
    fn http_boot_is_left_alone_where_secure_boot_is_on() {
        let network = network_of("[node]\nuefi_loader = \"shim-grub\"\n");
        let boot = |arch| Some(BootClient { arch, ipxe: None });
        let http = Request { boot: boot(Arch::UefiX64Http), ..discover(1) };
        let answer = respond(&http, &mut book(), &network, at(0));
        assert_eq!(answer, Answer::Silent(Silence::HttpBoot));
        let pxe = Request { boot: boot(Arch::UefiX64), ..discover(1) };
        let reply = sent(respond(&pxe, &mut book(), &network, at(0)));
        assert_eq!(reply.boot.expect("a file").name(), "shimx64.efi");
    }

    #[test]
    fn our_small_linux_can_ask_for_the_servers_url() {
        let asks = Request { wishes: vec![1, 3, 224], ..discover(1) };
        let reply = sent(answer(&mut book(), &asks, 0));
        let url = b"http://10.77.0.1:6969";
        assert!(reply.bytes.windows(url.len()).any(|part| part == url));
    }

    #[test]
    fn a_reply_stays_within_what_the_client_takes() {
        let boot = Some(BootClient { arch: Arch::UefiX64Http, ipxe: None });
        let network = Network {
            dns: vec![SERVER; 30],
            domain: Some("a-very-long-label.".repeat(12)),
            ..network_of("[dhcp.options]\nroot-path = \"/a/long/way/to/the/root/of/the/system\"\n")
        };
        let asks = Request {
            boot,
            machine_id: Some(vec![0; 17]),
            relay_info: Some(vec![9; 60]),
            ..discover(1)
        };
        let reply = sent(respond(&asks, &mut book(), &network, at(0)));
        assert!(reply.bytes.len() <= 548, "{}", reply.bytes.len());
        let message = options(&reply);
        for code in [OptionCode::RootPath, OptionCode::DomainName] {
            assert_eq!(message.opts().get(code), None, "dropped first");
        }
        assert!(message.opts().get(OptionCode::BootfileName).is_some(), "never dropped");
    }

    proptest! {
        #[test]
        fn whatever_is_understood_gets_a_reply_that_can_be_read(
            options in prop::collection::vec(any::<u8>(), 0..200),
            kind in 1..9_u8,
            addresses in any::<[u8; 16]>(),
        ) {
            let mut packet = vec![0; 236];
            packet[..4].copy_from_slice(&[1, 1, 6, 0]);
            packet[12..28].copy_from_slice(&addresses);
            packet[24..28].fill(0);
            packet[28] = 2;
            packet.extend(dhcproto::v4::MAGIC);
            packet.extend([53, 1, kind]);
            packet.extend(options);
            if let Ok(request) = Request::parse(&packet, SERVER)
                && let Answer::Send(reply) = respond(&request, &mut book(), &network(), at(9))
            {
                self::options(&reply);
            }
        }
    }
}
