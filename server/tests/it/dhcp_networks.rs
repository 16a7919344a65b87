//! Packets of PCs on several networks, through the parser, the books and the log, as `dhcp/server/`
//! does it: relays, a second network card, fixed addresses, RFC 2131's DECLINE, RELEASE, INFORM.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bt_catalog::Mac;
use bt_server::lab::config::Config;
use bt_server::os::card::Card;
use bt_server::roles::dhcp::lease::{LeaseBook, Range};
use bt_server::roles::dhcp::lease_log::{Change, Kept, LeaseLog, Ledger};
use bt_server::roles::dhcp::{
    Answer, Destination, Network, Reply, ReplyKind, Request, Silence, respond,
};
use dhcproto::v4::{Decodable, Decoder, DhcpOption, Message, OptionCode};

const LAB: &str = "interface = [\"eth0\", \"eth1\"]\n[dhcp]\nmode = \"full\"\n\
    range = \"10.77.0.50-10.77.0.150\"\nntp = [\"10.77.0.9\"]\n\
    [dhcp.options]\ndomain-search = [\"lab.example\"]\n\
    classless-static-routes = [\"10.9.0.0/16 10.77.0.254\"]\n\"209\" = \"x\"\n\
    [[dhcp.subnet]]\nnetwork = \"10.78.0.0/24\"\nrange = \"10.78.0.50-10.78.0.60\"\n\
    [[dhcp.subnet]]\nnetwork = \"10.79.0.0/24\"\nrange = \"10.79.0.50-10.79.0.60\"\n\
    router = \"10.79.0.1\"\nntp = [\"10.79.0.9\"]\n\
    [[host]]\nmac = \"02:00:00:00:00:09\"\naddress = \"10.79.0.55\"\nname = \"teacher\"\n";
const CARDS: [[u8; 4]; 2] = [[10, 77, 0, 1], [10, 78, 0, 1]];
const NONE: [u8; 4] = [0; 4];

/// What `dhcp/server/` keeps, without its sockets.
struct Server {
    ledger: Ledger,
    log: LeaseLog,
    networks: Vec<Network>,
    now: SystemTime,
}

impl Server {
    fn start(folder: &Path, now: SystemTime) -> Self {
        let config = Config::parse(LAB).expect("valid");
        let card = |ip: [u8; 4]| Card {
            name: "eth".into(),
            ip: ip.into(),
            netmask: [255, 255, 255, 0].into(),
        };
        let all = Network::all(&config, &CARDS.map(card));
        let books = all.iter().map(|(network, pool)| {
            let range = Range::new(pool.range.0, pool.range.1).expect("not empty");
            let mut book = LeaseBook::new(range, vec![network.server], pool.lease);
            network.reservations().for_each(|(mac, ip)| book.add_reservation(mac, ip));
            book
        });
        let (log, found) = LeaseLog::open(&folder.join("leases")).expect("opens");
        let ledger = Ledger::new(books.collect(), &found.records, now);
        let networks = all.into_iter().map(|(network, _)| network).collect();
        Self { ledger, log, networks, now }
    }

    /// What a packet is answered, with its change on disk first; `None` for a network not known.
    fn take(&mut self, card: usize, packet: &[u8]) -> Option<Answer> {
        let own = CARDS[card].into();
        let request = Request::parse(packet, own).expect("a client's packet");
        let index = Network::of(&self.networks, own, &request)?;
        let network = self.networks[index].seen_from(own);
        let answer = respond(&request, self.ledger.book(index), &network, self.now);
        let change = match &answer {
            Answer::Send(reply) => reply
                .grant
                .map(|grant| Change::Granted { lease: grant.lease, before: grant.before }),
            Answer::Keep(record) => Some(Change::Noted(*record)),
            Answer::Silent(_) => None,
        };
        if let Some(change) = change {
            self.ledger.change(change);
            let work = self.ledger.begin().expect("there is a change");
            let outcome = work.append_to(&mut self.log);
            assert_eq!(self.ledger.settle(&outcome, self.now), [Kept::Durable]);
        }
        Some(answer)
    }

    fn sent(&mut self, card: usize, packet: &[u8]) -> Reply {
        match self.take(card, packet) {
            Some(Answer::Send(reply)) => reply,
            other => panic!("a reply, not {other:?}"),
        }
    }

    /// DISCOVER, OFFER, REQUEST, ACK; returns the ACK.
    fn boot(&mut self, card: usize, pc: &Pc) -> Reply {
        let offer = self.sent(card, &pc.packet(1, &[]));
        assert_eq!(offer.kind, ReplyKind::Offer);
        let server = server_id(&offer);
        assert_eq!(server, CARDS[card], "the card that it came in by answers");
        let words = [&[50, 4][..], &offer.ip.octets(), &[54, 4], &server].concat();
        let ack = self.sent(card, &pc.packet(3, &words));
        assert_eq!((ack.kind, ack.ip), (ReplyKind::Ack, offer.ip));
        ack
    }
}

struct Pc {
    node: u8,
    ciaddr: [u8; 4],
    giaddr: [u8; 4],
    relay_info: &'static [u8],
}

impl Pc {
    fn new(node: u8) -> Self {
        Self { node, ciaddr: NONE, giaddr: NONE, relay_info: &[] }
    }

    fn behind(node: u8, giaddr: [u8; 4]) -> Self {
        Self { giaddr, relay_info: b"\x52\x06\x01\x04port", ..Self::new(node) }
    }

    /// A packet as it comes from the wire; `words` are its options after 53.
    fn packet(&self, kind: u8, words: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 236];
        packet[..4].copy_from_slice(&[1, 1, 6, 0]);
        packet[4..8].copy_from_slice(&[7, 7, 7, self.node]);
        packet[12..16].copy_from_slice(&self.ciaddr);
        packet[24..28].copy_from_slice(&self.giaddr);
        packet[28..34].copy_from_slice(&[2, 0, 0, 0, 0, self.node]);
        packet.extend([99, 130, 83, 99, 53, 1, kind]);
        packet.extend([57, 2, 5, 192]);
        packet.extend(words);
        packet.extend(self.relay_info);
        packet.push(255);
        packet
    }
}

fn message(reply: &Reply) -> Message {
    Message::decode(&mut Decoder::new(&reply.bytes)).expect("our reply can be read")
}

fn server_id(reply: &Reply) -> [u8; 4] {
    match message(reply).opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(ip)) => ip.octets(),
        other => panic!("a server id, not {other:?}"),
    }
}

/// The bytes of an option in a packet; they stand there as they are.
fn has_bytes(reply: &Reply, option: &[u8]) -> bool {
    reply.bytes.windows(option.len()).any(|window| window == option)
}

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + secs)
}

fn with_server(test: impl FnOnce(&mut Server)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    test(&mut Server::start(folder.path(), at(0)));
}

#[test]
fn a_pc_behind_a_relay_gets_an_address_and_a_router_of_its_network() {
    with_server(|server| {
        let relay = [10, 79, 0, 2];
        let ack = server.boot(0, &Pc::behind(1, relay));
        assert_eq!(ack.ip, Ipv4Addr::new(10, 79, 0, 50));
        assert_eq!(ack.to, Destination::Relay(relay.into()));
        let message = message(&ack);
        assert_eq!(message.giaddr(), Ipv4Addr::from(relay));
        let check = |code, expected| assert_eq!(message.opts().get(code), Some(&expected));
        check(OptionCode::SubnetMask, DhcpOption::SubnetMask([255, 255, 255, 0].into()));
        check(OptionCode::Router, DhcpOption::Router(vec![[10, 79, 0, 1].into()]));
        check(OptionCode::NtpServers, DhcpOption::NtpServers(vec![[10, 79, 0, 9].into()]));
        assert!(has_bytes(&ack, b"\x52\x06\x01\x04port"), "option 82 comes back as it went");
        // It renews by itself, through the router, without the relay.
        let renews = Pc { ciaddr: ack.ip.octets(), ..Pc::new(1) };
        let renewed = server.sent(0, &renews.packet(3, &[]));
        assert_eq!((renewed.kind, renewed.to), (ReplyKind::Ack, Destination::Node(ack.ip)));
        assert_eq!(server.take(0, &Pc::behind(2, [10, 99, 0, 2]).packet(1, &[])), None);
    });
}

#[test]
fn each_card_gives_addresses_of_its_own_network() {
    with_server(|server| {
        assert_eq!(server.boot(0, &Pc::new(1)).ip, Ipv4Addr::new(10, 77, 0, 50));
        assert_eq!(server.boot(1, &Pc::new(2)).ip, Ipv4Addr::new(10, 78, 0, 50));
        // One hardware address on both: a machine with two virtual cards keeps both leases.
        assert_eq!(server.boot(1, &Pc::new(1)).ip, Ipv4Addr::new(10, 78, 0, 51));
        assert_eq!(server.boot(0, &Pc::new(1)).ip, Ipv4Addr::new(10, 77, 0, 50));
        // Plugged in elsewhere, a PC is told that its address is of no use there.
        let wanted = [&[50, 4][..], &[10, 77, 0, 50]].concat();
        assert_eq!(server.sent(1, &Pc::new(3).packet(3, &wanted)).kind, ReplyKind::Nak);
    });
}

#[test]
fn a_host_gets_its_fixed_address_and_name_and_nobody_else_does() {
    with_server(|server| {
        let relay = [10, 79, 0, 2];
        let greedy = server.sent(0, &Pc::behind(1, relay).packet(1, &[50, 4, 10, 79, 0, 55]));
        assert_eq!(greedy.ip, Ipv4Addr::new(10, 79, 0, 50), "its wish is another's");
        let ack = server.boot(0, &Pc::behind(9, relay));
        assert_eq!(ack.ip, Ipv4Addr::new(10, 79, 0, 55));
        let name = message(&ack).opts().get(OptionCode::Hostname).cloned();
        assert_eq!(name, Some(DhcpOption::Hostname("teacher".into())));
    });
}

#[test]
fn a_fixed_address_that_is_leased_to_another_is_waited_for_across_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    {
        // Before the supervisor wrote the host down.
        let (mut log, _) = LeaseLog::open(&folder.path().join("leases")).expect("opens");
        let lease = bt_server::roles::dhcp::lease::Lease {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            ip: [10, 79, 0, 55].into(),
            until: at(1800),
        };
        log.append(&[bt_server::roles::dhcp::lease::Record::Leased(lease)]).expect("written");
    }
    let mut server = Server::start(folder.path(), at(0));
    let (host, other) = (Pc::behind(9, [10, 79, 0, 2]), Pc::behind(1, [10, 79, 0, 2]));
    let answer = server.take(0, &host.packet(1, &[])).expect("a known network");
    let Answer::Silent(Silence::Blocked(blocked)) = answer else { panic!("{answer:?}") };
    assert_eq!((blocked.by, blocked.until), (Some(Mac([2, 0, 0, 0, 0, 1])), at(1800)));
    let renews = Pc { ciaddr: [10, 79, 0, 55], ..Pc::new(1) };
    assert_eq!(server.sent(0, &renews.packet(3, &[])).kind, ReplyKind::Nak);
    assert_eq!(server.boot(0, &other).ip, Ipv4Addr::new(10, 79, 0, 50));
    server.now = at(1801);
    assert_eq!(server.boot(0, &host).ip, Ipv4Addr::new(10, 79, 0, 55));
}

/// RFC 2131 §4.3.3: the address is not given again, and there is no answer.
#[test]
fn a_declined_address_goes_to_nobody_for_ten_minutes() {
    with_server(|server| {
        let ack = server.boot(1, &Pc::new(1));
        let words = [&[50, 4][..], &ack.ip.octets(), &[54, 4], &CARDS[1]].concat();
        assert!(matches!(server.take(1, &Pc::new(2).packet(4, &words)), Some(Answer::Silent(_))));
        assert_eq!(server.boot(1, &Pc::new(1)).ip, ack.ip, "only its own PC can decline it");
        assert!(matches!(server.take(1, &Pc::new(1).packet(4, &words)), Some(Answer::Keep(_))));
        let wish = [&[50, 4][..], &ack.ip.octets()].concat();
        for secs in [1, 599] {
            server.now = at(secs);
            assert_ne!(server.sent(1, &Pc::new(3).packet(1, &wish)).ip, ack.ip, "after {secs} s");
        }
        server.now = at(601);
        assert_eq!(server.sent(1, &Pc::new(4).packet(1, &wish)).ip, ack.ip);
    });
}

/// RFC 2131 §4.3.4: no answer; the address is free, and its old owner's while nobody needs it.
#[test]
fn a_released_address_is_free_at_once() {
    with_server(|server| {
        server.now = at(300);
        let ack = server.boot(1, &Pc::new(1));
        let leaves = Pc { ciaddr: ack.ip.octets(), ..Pc::new(1) };
        let to_us = [&[54, 4][..], &CARDS[1]].concat();
        assert!(matches!(server.take(1, &leaves.packet(7, &to_us)), Some(Answer::Keep(_))));
        let wish = [&[50, 4][..], &ack.ip.octets()].concat();
        assert_eq!(server.sent(1, &Pc::new(2).packet(1, &wish)).ip, ack.ip);
        let packet = leaves.packet(7, &[54, 4, 10, 78, 0, 99]);
        assert!(Request::parse(&packet, CARDS[1].into()).is_err(), "it leaves another server");
    });
}

/// RFC 2131 §4.3.5: options to `ciaddr`, without address and without times.
#[test]
fn inform_gets_every_option_and_no_lease() {
    with_server(|server| {
        let informs = Pc { ciaddr: [10, 77, 0, 20], ..Pc::new(1) };
        let reply = server.sent(0, &informs.packet(8, &[]));
        assert_eq!(reply.to, Destination::Node([10, 77, 0, 20].into()));
        let message = message(&reply);
        assert_eq!(message.yiaddr(), Ipv4Addr::UNSPECIFIED);
        for code in [OptionCode::AddressLeaseTime, OptionCode::Renewal, OptionCode::Rebinding] {
            assert_eq!(message.opts().get(code), None, "{code:?}");
        }
        assert!(has_bytes(&reply, &[42, 4, 10, 77, 0, 9]), "NTP");
        assert!(has_bytes(&reply, b"\x77\x0d\x03lab\x07example\0"), "domain search, RFC 3397");
        assert!(has_bytes(&reply, &[121, 7, 16, 10, 9, 10, 77, 0, 254]), "routes, RFC 3442");
        assert!(has_bytes(&reply, &[209, 1, b'x']), "by number");
    });
}
