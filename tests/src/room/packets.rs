//! Shell: watches the virtual LAN's cables and notes when a booting PC asks for what.
//!
//! Seen on the wire, a moment is the same whatever the server logs. Only requests are looked at:
//! DHCP, TFTP read requests and HTTP GETs. [`Sighting::read`] is pure.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use crate::host::clock;

/// More than a boot asks for; a flood must not fill the memory.
const MOST: usize = 10_000;
/// Long enough for every header and the first line of a request.
const SNAP_LENGTH: usize = 512;

/// One request on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// A DHCP message of a client.
    Dhcp,
    /// A TFTP read request for this file.
    Tftp(String),
    /// An HTTP GET of this path.
    Get(String),
}

/// Collects sightings in the background until the lab ends.
#[derive(Clone)]
pub struct Wire {
    seen: Arc<Mutex<Vec<(Instant, Sighting)>>>,
}

impl Wire {
    /// Starts to watch all cables of this network namespace.
    pub fn watch() -> Result<Self> {
        let socket = every_packet()?;
        let wire = Self { seen: Arc::default() };
        let seen = Arc::clone(&wire.seen);
        std::thread::spawn(move || listen(&socket, &seen));
        Ok(wire)
    }

    /// When something that `is_it` was first seen after `start`.
    pub fn first(&self, start: Instant, is_it: impl Fn(&Sighting) -> bool) -> Option<Instant> {
        let seen = self.seen.lock().expect("the listening thread does not panic");
        seen.iter().find(|(at, sighting)| *at >= start && is_it(sighting)).map(|(at, _)| *at)
    }
}

/// A socket that receives every frame of this network namespace.
pub fn every_packet() -> Result<OwnedFd> {
    let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
    socket(AddressFamily::Packet, kind, flags, SockProtocol::EthAll)
        .context("cannot watch the virtual LAN")
}

fn listen(socket: &OwnedFd, seen: &Mutex<Vec<(Instant, Sighting)>>) {
    let mut frame = [0; SNAP_LENGTH];
    // The socket only fails when the network is removed, and then nobody asks any more.
    while let Ok(length) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_TRUNC) {
        let Some(sighting) = Sighting::read(&frame[..length.min(SNAP_LENGTH)]) else { continue };
        let mut seen = seen.lock().expect("no holder panics");
        if seen.len() < MOST {
            seen.push((clock::now(), sighting));
        }
    }
}

impl Sighting {
    /// Reads an Ethernet frame with IPv4 in it.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
        let header = usize::from(packet.first()? & 15) * 4;
        let protocol = *packet.get(9)?;
        let transport = packet.get(header..)?;
        let port = u16::from_be_bytes(transport.get(2..4)?.try_into().ok()?);
        match (protocol, port) {
            (17, 67) => Some(Self::Dhcp),
            // RFC 1350 §5: opcode 1, then the name, ended by a zero.
            (17, 69) => {
                let name = transport.get(8..)?.strip_prefix(&[0, 1])?;
                let name = name.split(|byte| *byte == 0).next()?;
                Some(Self::Tftp(String::from_utf8_lossy(name).into_owned()))
            }
            (6, _) => {
                let data = transport.get(usize::from(transport.get(12)? >> 4) * 4..)?;
                let path = data.strip_prefix(b"GET ")?.split(|byte| *byte == b' ').next()?;
                Some(Self::Get(String::from_utf8_lossy(path).into_owned()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(protocol: u8, port: u16, header: &[u8], data: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45]);
        frame.extend([0; 8]);
        frame.push(protocol);
        frame.extend([0; 10]);
        frame.extend([0, 1]);
        frame.extend(port.to_be_bytes());
        frame.extend(header);
        frame.extend(data);
        frame
    }

    #[test]
    fn a_tftp_request_names_its_file() {
        let bytes = frame(17, 69, &[0; 4], b"\0\x01snponly.efi\0octet\0");
        assert_eq!(Sighting::read(&bytes), Some(Sighting::Tftp("snponly.efi".into())));
    }

    #[test]
    fn an_http_request_names_its_path() {
        let mut header = [0; 16];
        header[8] = 5 << 4;
        let bytes = frame(6, 6969, &header, b"GET /boot.ipxe HTTP/1.1\r\n");
        assert_eq!(Sighting::read(&bytes), Some(Sighting::Get("/boot.ipxe".into())));
    }

    #[test]
    fn a_dhcp_message_is_known_by_its_port() {
        assert_eq!(Sighting::read(&frame(17, 67, &[0; 4], &[])), Some(Sighting::Dhcp));
    }

    #[test]
    fn cut_or_other_frames_are_ignored() {
        let complete = frame(6, 80, &[0; 16], b"");
        for length in 0..complete.len() {
            assert_eq!(Sighting::read(&complete[..length]), None);
        }
    }
}
