//! Shell: a DHCP relay with many nodes behind it (RFC 2131 §4.1: replies come to its port 67).

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::Result;
use nix::sched::{CloneFlags, setns};

use crate::room::namespace::Namespace;

/// RFC 951 §3 and RFC 2131 §2.
const FIXED_PART: usize = 240;

/// A reply, as far as it matters here.
#[derive(Debug, PartialEq)]
pub struct Reply {
    /// Whom it is for, as in [`message`].
    pub node: u8,
    /// Its message type (RFC 2132 §9.6).
    pub kind: u8,
    /// The address that it is about.
    pub ip: Ipv4Addr,
}

/// Message types (RFC 2132 §9.6).
pub const DISCOVER: u8 = 1;
pub const OFFER: u8 = 2;
pub const REQUEST: u8 = 3;
pub const ACK: u8 = 5;

/// A socket of the relay `relay` in the network of `namespace`, for talking to `server`.
pub fn socket(namespace: &Namespace, relay: Ipv4Addr, server: Ipv4Addr) -> Result<UdpSocket> {
    let network = namespace.network();
    // A socket belongs to the network in which it was made, whoever uses it.
    let socket = std::thread::scope(|scope| {
        let made = scope.spawn(|| -> Result<UdpSocket> {
            setns(network, CloneFlags::CLONE_NEWNET)?;
            Ok(UdpSocket::bind((relay, 67))?)
        });
        made.join().expect("it makes two system calls")
    })?;
    socket.connect((server, 67))?;
    Ok(socket)
}

impl Reply {
    /// Reads one; `None` when it is none.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let options = packet.get(FIXED_PART..)?;
        // Option 53 comes first, or second after 54 and so on: look for it.
        let mut at = 0;
        let kind = loop {
            match *options.get(at)? {
                0 => at += 1,
                53 => break *options.get(at + 2)?,
                _ => at += 2 + usize::from(*options.get(at + 1)?),
            }
        };
        let ip: [u8; 4] = packet[16..20].try_into().expect("four bytes");
        Some(Self { node: packet[33], kind, ip: ip.into() })
    }
}

/// An option that holds an address.
pub fn address_option(code: u8, ip: Ipv4Addr) -> Vec<u8> {
    [&[code, 4][..], &ip.octets()].concat()
}

/// A request that came through `relay` (RFC 2131 §2).
pub fn message(node: u8, kind: u8, relay: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; FIXED_PART];
    packet[..4].copy_from_slice(&[1, 1, 6, 1]);
    packet[7] = node;
    packet[24..28].copy_from_slice(&relay.octets());
    packet[28..34].copy_from_slice(&[2, 0, 0, 0, 1, node]);
    packet[236..].copy_from_slice(&[99, 130, 83, 99]);
    packet.extend([53, 1, kind]);
    packet.extend(options);
    packet.push(255);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAK: u8 = 6;

    #[test]
    fn a_reply_is_read_wherever_its_kind_stands() {
        let mut packet = message(7, NAK, Ipv4Addr::LOCALHOST, &[]);
        packet.splice(FIXED_PART..FIXED_PART, [0, 54, 4, 10, 77, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 77, 0, 50]);
        let ip = Ipv4Addr::new(10, 77, 0, 50);
        assert_eq!(Reply::read(&packet), Some(Reply { node: 7, kind: NAK, ip }));
        for length in 0..FIXED_PART + 7 {
            assert_eq!(Reply::read(&packet[..length]), None);
        }
    }
}
