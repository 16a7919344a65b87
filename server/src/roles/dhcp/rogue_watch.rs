//! Shell: probes the network for rogue DHCP servers, at the start and while this server runs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::rogue::{Firmware, Observation, Offer, OwnMode, Probe, RogueDetector};
use crate::status::{SharedStatus, StatusEvent};

/// From one probe to the next: a rogue server is reported within 35 s.
const PERIOD: Duration = Duration::from_secs(30);
/// Servers that check whether an address is in use take 3 s before they offer it.
const PATIENCE: Duration = Duration::from_secs(4);
/// Longer than any DHCP message in one Ethernet frame.
const MAX_PACKET: usize = 2048;

/// Probes until `shutdown`; logs what is seen, and reports problems to the supervisor.
///
/// # Errors
/// When the socket cannot be handed to the runtime; not for anything that comes in by it.
pub async fn watch(
    socket: std::net::UdpSocket,
    interface: String,
    own: Ipv4Addr,
    mode: OwnMode,
    status: SharedStatus,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let socket = UdpSocket::from_std(socket)?;
    let mut detector = RogueDetector::new(mode);
    let mut firmwares = [Firmware::Uefi, Firmware::Bios].into_iter().cycle();
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        // Both at the start, so that a server that answers only one of them is reported at once.
        for firmware in firmwares.by_ref().take(2) {
            let found = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                found = ask(&socket, firmware, own) => found,
            };
            match found {
                Ok(offers) => {
                    let now = SystemTime::now();
                    let observations =
                        offers.into_iter().filter_map(|offer| detector.observe(offer, now));
                    let observations: Vec<_> = observations.collect();
                    observations.into_iter().chain(detector.end_round()).for_each(|observation| {
                        report(observation, &interface, &status);
                    });
                }
                // The interface is down, say; the next round may succeed.
                Err(error) => warn!(interface, %error, "cannot look for other DHCP servers"),
            }
        }
    }
}

/// Looks once; every address server answers.
///
/// # Errors
/// When the socket cannot be opened or the packet not sent.
pub async fn look(interface: &str, own: Ipv4Addr) -> io::Result<Vec<Offer>> {
    let socket = UdpSocket::from_std(client_socket(interface)?)?;
    ask(&socket, Firmware::Uefi, own).await
}

/// Sends one probe and collects the answers that come in time.
async fn ask(socket: &UdpSocket, firmware: Firmware, own: Ipv4Addr) -> io::Result<Vec<Offer>> {
    let probe = Probe::new(rand::random());
    let to = SocketAddr::from((Ipv4Addr::BROADCAST, 67));
    socket.send_to(&probe.packet(firmware, own), to).await?;
    let end = Instant::now() + PATIENCE;
    let mut offers = Vec::new();
    let mut buffer = vec![0; MAX_PACKET];
    while let Ok(received) = timeout_at(end, socket.recv_from(&mut buffer)).await {
        let (length, _) = received?;
        offers.extend(probe.read(&buffer[..length]).filter(|offer| offer.server != own));
    }
    Ok(offers)
}

/// A client's socket, to be opened before privileges are dropped. Shared: the machine may get its
/// own address by DHCP.
///
/// # Errors
/// What the system says: port 68 is taken, or a privilege is missing.
pub fn client_socket(interface: &str) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into())?;
    Ok(socket.into())
}

fn report(observation: Observation, interface: &str, status: &SharedStatus) {
    match observation {
        Observation::Expected(text) => info!(interface, "{text}"),
        Observation::Problem(text) => {
            warn!(interface, "{text}");
            status.lock().apply(StatusEvent::Warning { text }, SystemTime::now());
        }
    }
}
