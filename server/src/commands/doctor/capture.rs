//! Shell: what the network cards see of DHCP's answers (packet(7)), before this machine's firewall
//! drops any of it.

use std::io;
use std::net::UdpSocket;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// Every packet, in and out (`ETH_P_ALL`): the lab's own server sends from this machine.
const EVERY_PACKET: u16 = 3;
/// A DHCP client's port.
const CLIENT: u16 = 68;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// A socket that hears IPv4 packets to UDP port 68 on every card. It is no UDP socket, but is read
/// like one; [`payload`] finds the message in what it gives.
///
/// # Errors
/// Without the right `CAP_NET_RAW`.
pub(super) fn open() -> io::Result<UdpSocket> {
    let kind = Protocol::from(i32::from(EVERY_PACKET.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(kind))?;
    // A seed sends gigabytes meanwhile: the kernel sorts them out.
    socket.attach_filter(&filter())?;
    Ok(socket.into())
}

/// [`payload`]'s conditions for the kernel, as classic BPF on the IP header.
fn filter() -> [SockFilter; 12] {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const LOAD_HALF_AFTER_HEADER: u16 = 0x48;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let step = SockFilter::new;
    [
        step(LOAD_BYTE, 0, 0, 0),
        step(AND, 0, 0, 0xf0),
        step(JUMP_IF_EQUAL, 0, 8, 0x40),
        step(LOAD_BYTE, 0, 0, 9),
        step(JUMP_IF_EQUAL, 0, 6, u32::from(UDP)),
        step(LOAD_HALF, 0, 0, 6),
        step(JUMP_IF_SET, 4, 0, 0x1fff),
        step(LOAD_HEADER_LENGTH, 0, 0, 0),
        step(LOAD_HALF_AFTER_HEADER, 0, 0, 2),
        step(JUMP_IF_EQUAL, 0, 1, u32::from(CLIENT)),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ]
}

/// What an unbroken IPv4 packet carries to UDP port 68 (RFC 791 §3.1, RFC 768).
pub(super) fn payload(packet: &[u8]) -> Option<&[u8]> {
    let first = packet.first()?;
    let length = usize::from(first & 0x0f) * 4;
    let offset = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
    let is_udp = first >> 4 == 4 && packet.get(9) == Some(&UDP) && offset == 0;
    let udp = packet.get(length..).filter(|_| is_udp && length >= 20)?;
    (udp.get(2..4)? == CLIENT.to_be_bytes()).then(|| udp.get(UDP_HEADER..)).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// From 10.77.0.1:67 to 255.255.255.255:68, with `options` words in its IP header.
    fn packet(options: u8) -> Vec<u8> {
        let mut packet = vec![0x45 + options, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0];
        packet.extend([10, 77, 0, 1, 255, 255, 255, 255]);
        packet.extend(vec![0; usize::from(options) * 4]);
        packet.extend([0, 67, 0, 68, 0, 12, 0, 0]);
        packet.extend(b"DHCP");
        packet
    }

    #[test]
    fn an_answer_is_found_behind_its_headers() {
        assert_eq!(payload(&packet(0)), Some(&b"DHCP"[..]));
        assert_eq!(payload(&packet(2)), Some(&b"DHCP"[..]));
    }

    #[test]
    fn everything_else_is_left_out() {
        for (at, byte) in [(0, 0x65), (0, 0x41), (0, 0x4f), (7, 1), (9, 6), (23, 67), (22, 1)] {
            let mut other = packet(0);
            other[at] = byte;
            assert_eq!(payload(&other), None, "byte {at} is {byte}");
        }
        assert_eq!(payload(&packet(0)[..27]), None);
    }

    proptest! {
        #[test]
        fn no_packet_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            assert!(payload(&bytes).is_none_or(|it| it.len() + 28 <= bytes.len()));
        }
    }
}
