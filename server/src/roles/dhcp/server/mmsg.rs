//! Shell: many packets for one system call (`recvmmsg(2)`, `sendmmsg(2)`).
//!
//! A room that is switched on at once, or a relay of a whole building, costs one wake-up
//! for up to [`BATCH`] requests, and one send for all their answers.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Packets taken with one call.
const BATCH: usize = 64;
/// Packets sent without a pause: a relay's or a PC's receive buffer holds some 200 (Linux: 208 KiB
/// with the kernel's own overhead), and after a pause of the disk thousands may leave at once.
const BURST: usize = 64;
/// The pause after each; 64 packets in that time are more than a busy receiver takes out.
const PAUSE: Duration = Duration::from_millis(1);
/// Longer than any DHCP message in one Ethernet frame.
const MAX_PACKET: usize = 2048;

/// Room for one batch of packets, used again and again.
#[derive(Debug)]
pub struct Inbox {
    buffers: Vec<[u8; MAX_PACKET]>,
    filled: Vec<(usize, SocketAddrV4)>,
}

impl Inbox {
    /// An empty one.
    pub fn new() -> Self {
        Self { buffers: vec![[0; MAX_PACKET]; BATCH], filled: Vec::with_capacity(BATCH) }
    }

    /// Waits for a packet, as long as the socket's timeout allows, and takes all that are there.
    ///
    /// # Errors
    /// What the socket says; `WouldBlock` when nothing came in time.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.filled.clear();
        let mut from = [empty_address(); BATCH];
        let mut parts: Vec<libc::iovec> = self.buffers.iter_mut().map(|it| part(it)).collect();
        let mut headers: Vec<libc::mmsghdr> =
            parts.iter_mut().zip(&mut from).map(|(part, from)| header(part, from)).collect();
        let count = u32::try_from(headers.len()).expect("a batch is small");
        let flags = libc::MSG_WAITFORONE;
        // SAFETY: each header points to one part and one address, each part to a buffer of its
        // length; all of them outlive the call, and nothing else looks at them during it.
        let received = unsafe {
            let none = std::ptr::null_mut();
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags, none)
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        let lengths = headers.iter().take(received).map(|it| it.msg_len as usize);
        self.filled.extend(lengths.zip(from.iter().map(sender)));
        Ok(())
    }

    /// The packets of the last [`Self::receive`], each with its sender.
    pub fn packets(&self) -> impl Iterator<Item = (&[u8], SocketAddrV4)> {
        self.buffers.iter().zip(&self.filled).map(|(it, (length, from))| (&it[..*length], *from))
    }
}

/// Sends the packets in their order, and tells `failed` the index of each that could not leave.
pub fn send(
    socket: &UdpSocket,
    packets: &[(&[u8], SocketAddrV4)],
    mut failed: impl FnMut(usize, io::Error),
) {
    let mut addresses: Vec<libc::sockaddr_in> =
        packets.iter().map(|(_, to)| address(*to)).collect();
    let mut parts: Vec<libc::iovec> = packets
        .iter()
        .map(|(bytes, _)| libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        })
        .collect();
    let mut headers: Vec<libc::mmsghdr> =
        parts.iter_mut().zip(&mut addresses).map(|(part, to)| header(part, to)).collect();
    let mut done = 0;
    while done < headers.len() {
        let end = headers.len().min(done + BURST);
        let left = &mut headers[done..end];
        let count = u32::try_from(left.len()).unwrap_or(u32::MAX);
        // SAFETY: each header points to one part and one address, each part to a packet, which the
        // kernel only reads; all of them outlive the call.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), left.as_mut_ptr(), count, 0) };
        match usize::try_from(sent) {
            Ok(sent) => done += sent,
            Err(_) => {
                // The first of them could not leave: on with the others.
                failed(done, io::Error::last_os_error());
                done += 1;
            }
        }
        if done < headers.len() {
            std::thread::sleep(PAUSE);
        }
    }
}

fn part(buffer: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }
}

fn header(part: &mut libc::iovec, address: &mut libc::sockaddr_in) -> libc::mmsghdr {
    // SAFETY: a header of zeros is a valid one that points to nothing; its padding, which differs
    // between C libraries, has no name to be set by.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_name = (&raw mut *address).cast();
    header.msg_hdr.msg_namelen =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).expect("it is 16");
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
    header
}

fn empty_address() -> libc::sockaddr_in {
    address(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))
}

fn address(of: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).expect("it is 2"),
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr { s_addr: of.ip().to_bits().to_be() },
        sin_zero: [0; 8],
    }
}

fn sender(from: &libc::sockaddr_in) -> SocketAddrV4 {
    let ip = Ipv4Addr::from_bits(u32::from_be(from.sin_addr.s_addr));
    SocketAddrV4::new(ip, u16::from_be(from.sin_port))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn socket() -> (UdpSocket, SocketAddrV4) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("is set");
        let SocketAddr::V4(at) = socket.local_addr().expect("bound") else { panic!("IPv4") };
        (socket, at)
    }

    #[test]
    fn a_batch_arrives_in_order_with_its_senders() {
        let (here, at) = socket();
        let (there, from) = socket();
        let texts: Vec<Vec<u8>> = (0..100_u8).map(|n| vec![n; usize::from(n) + 1]).collect();
        let packets: Vec<_> = texts.iter().map(|text| (text.as_slice(), at)).collect();
        send(&there, &packets, |index, error| panic!("{index}: {error}"));
        let mut inbox = Inbox::new();
        let mut got = Vec::new();
        while got.len() < texts.len() {
            inbox.receive(&here).expect("receives");
            assert!(inbox.packets().all(|(_, sender)| sender == from));
            got.extend(inbox.packets().map(|(bytes, _)| bytes.to_vec()));
        }
        assert_eq!(got, texts);
    }

    #[test]
    fn a_packet_that_cannot_leave_does_not_hold_up_the_others() {
        let (here, at) = socket();
        let (there, _) = socket();
        let too_long = vec![0; 70_000];
        let mut failures = Vec::new();
        let packets: [(&[u8], _); 3] = [(b"one", at), (&too_long, at), (b"two", at)];
        send(&there, &packets, |index, _| failures.push(index));
        assert_eq!(failures, [1]);
        let mut inbox = Inbox::new();
        inbox.receive(&here).expect("receives");
        let got: Vec<&[u8]> = inbox.packets().map(|(bytes, _)| bytes).collect();
        assert_eq!(got, [b"one", b"two"]);
    }
}
