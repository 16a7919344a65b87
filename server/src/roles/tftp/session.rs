//! Shell: runs one transfer on a socket of its own, as RFC 1350 §4 asks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use tokio::net::UdpSocket;

use super::packet::{Packet, ReadRequest};
use super::sessions::Seat;
use super::transfer::{Ending, Step, Transfer};

/// Longer than any ACK, and than the part of an ERROR's text that is worth a log line.
const MAX_PACKET: usize = 576;

/// Why a transfer did not reach its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// No socket could be had.
    #[error("no socket")]
    Socket(#[source] io::Error),
    /// The client's port is closed: its program is gone.
    #[error("the client's port is closed")]
    Gone,
    /// The client asked for another file from the same port.
    #[error("the client asked for something else")]
    Replaced,
    /// What the transfer itself says.
    #[error(transparent)]
    Ended(#[from] Ending),
}

/// How a transfer reached its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// The client said that it has all of it.
    Acknowledged,
    /// All of it was sent, and the client, which had answered so far, was gone: its last ACK was
    /// probably lost, and nobody repeats it (RFC 1350 §6).
    Probably,
}

/// Sends `file` to `client`, until the client has all of it.
pub(super) async fn run(
    local: IpAddr,
    client: SocketAddr,
    request: &ReadRequest,
    file: Bytes,
    seat: &Seat,
) -> Result<Sent, SessionError> {
    let socket = UdpSocket::bind((local, 0)).await.map_err(SessionError::Socket)?;
    // Connected: the kernel drops other senders' packets and reports a closed port.
    socket.connect(client).await.map_err(SessionError::Socket)?;
    let mut transfer = Transfer::begin(&request.options, file, now());
    match exchange(&socket, &mut transfer, seat).await {
        Err(SessionError::Gone | SessionError::Ended(Ending::Silence))
            if transfer.is_probably_done() =>
        {
            Ok(Sent::Probably)
        }
        outcome => outcome.map(|()| Sent::Acknowledged),
    }
}

/// Sends and receives, until the client has said that it has all of it.
async fn exchange(
    socket: &UdpSocket,
    transfer: &mut Transfer,
    seat: &Seat,
) -> Result<(), SessionError> {
    let mut buffer = [0; MAX_PACKET];
    let mut step = Step::Send;
    loop {
        match step {
            Step::Send => {
                for packet in transfer.packets() {
                    check(socket.send(&packet).await)?;
                }
            }
            Step::Wait => {}
            Step::Finished => return Ok(()),
            Step::Ended(why) => return Err(why.into()),
        }
        let deadline = transfer.deadline().into();
        step = tokio::select! {
            received = socket.recv(&mut buffer) => {
                let packet = check(received)?.map(|length| Packet::parse(&buffer[..length]));
                match packet {
                    Some(Ok(packet)) => transfer.on_packet(&packet, now()),
                    Some(Err(_)) | None => Step::Wait,
                }
            }
            () = tokio::time::sleep_until(deadline) => transfer.on_deadline(now()),
            () = seat.asked_again() => transfer.on_request(now()),
            () = seat.replaced() => return Err(SessionError::Replaced),
        };
    }
}

/// A network that is down for a moment loses packets, no more; a closed port is the end.
fn check(outcome: io::Result<usize>) -> Result<Option<usize>, SessionError> {
    match outcome {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(SessionError::Gone),
        Err(_) => Ok(None),
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell reads the clock for the transfer")]
fn now() -> Instant {
    Instant::now()
}
