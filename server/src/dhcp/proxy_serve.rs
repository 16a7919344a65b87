//! Shell: proxy mode's two sockets, 67 beside the network's own DHCP server and 4011 for firmware.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Door, ProxySettings, ReplyKind, Request, respond_proxy};
use crate::arch::{self, LoopGuard};
use crate::bind::{self, BindError};
use crate::status::{SharedStatus, StatusEvent};

/// Where firmware asks for its boot file (PXE 2.1 §2.2.3).
const PXE_PORT: u16 = 4011;
/// Longer than any DHCP message in one Ethernet frame.
const MAX_PACKET: usize = 2048;
/// After an error of a socket (the interface is down, say).
const RECEIVE_PAUSE: Duration = Duration::from_millis(500);

/// Proxy mode, ready to run.
#[derive(Debug)]
pub struct Proxy {
    dhcp: UdpSocket,
    pxe: UdpSocket,
    settings: ProxySettings,
    loops: LoopGuard,
    status: SharedStatus,
}

impl Proxy {
    /// Opens both sockets on `interface`.
    ///
    /// # Errors
    /// When a port or the interface cannot be used; the error says why.
    pub fn bind(
        interface: &str,
        settings: ProxySettings,
        status: SharedStatus,
    ) -> Result<Self, BindError> {
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let dhcp = bind::broadcast_udp("proxyDHCP", interface, any(67))?;
        let pxe = bind::broadcast_udp("proxyDHCP", interface, any(PXE_PORT))?;
        Ok(Self { dhcp, pxe, settings, loops: LoopGuard::default(), status })
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When a socket cannot be handed to the runtime; not for anything that a packet does.
    pub async fn run(mut self, shutdown: CancellationToken) -> io::Result<()> {
        let dhcp = tokio::net::UdpSocket::from_std(self.dhcp.try_clone()?)?;
        let pxe = tokio::net::UdpSocket::from_std(self.pxe.try_clone()?)?;
        let (mut dhcp_buffer, mut pxe_buffer) = ([0; MAX_PACKET], [0; MAX_PACKET]);
        loop {
            let (is_pxe, received) = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                received = dhcp.recv_from(&mut dhcp_buffer) => (false, received),
                received = pxe.recv_from(&mut pxe_buffer) => (true, received),
            };
            let (length, sender) = match received {
                Ok((length, SocketAddr::V4(sender))) => (length, sender),
                Ok((_, SocketAddr::V6(_))) => continue,
                Err(error) => {
                    warn!(%error, "proxyDHCP cannot receive");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                    continue;
                }
            };
            let door = if is_pxe { Door::Pxe(sender) } else { Door::Dhcp };
            let (socket, buffer) = if is_pxe { (&pxe, &pxe_buffer) } else { (&dhcp, &dhcp_buffer) };
            self.answer(socket, &buffer[..length], door).await;
        }
    }

    async fn answer(&mut self, socket: &tokio::net::UdpSocket, packet: &[u8], door: Door) {
        let request = match Request::parse(packet, self.settings.server) {
            Ok(request) => request,
            Err(reason) => {
                debug!(%reason, bytes = packet.len(), "DHCP packet ignored");
                return;
            }
        };
        let mac = request.mac;
        let Some(reply) = respond_proxy(&request, &self.settings, door) else {
            self.explain(&request, door);
            return;
        };
        let to = SocketAddr::V4(reply.to.socket_address());
        if let Err(error) = socket.send_to(&reply.bytes, to).await {
            warn!(%mac, %to, %error, "proxyDHCP reply not sent");
            return;
        }
        let boot = reply.boot.as_ref().map_or("", |boot| boot.name());
        info!(%mac, boot, kind = ?reply.kind, "boot file named");
        let is_first_hop = reply.boot.as_ref().is_some_and(|boot| boot.is_first_hop());
        // A silent first hop makes firmware repeat its DISCOVER: that counts as well.
        if reply.kind == ReplyKind::ProxyOffer
            && is_first_hop
            && self.loops.is_looping(mac, SystemTime::now())
        {
            self.warn(format!(
                "{mac} loads its first loader again and again and never gets further; check cable and \
                 firmware, or whether Secure Boot refuses iPXE (`uefi_loader` in server.toml)"
            ));
        }
    }

    /// Says why a PC that wants to be booted hears nothing.
    fn explain(&self, request: &Request, door: Door) {
        let (mac, kind) = (request.mac, request.kind);
        match request.arch_code.filter(|_| request.boot.is_some() && door == Door::Dhcp) {
            Some(code) if arch::Arch::from_code(code) == arch::Arch::Unsupported(code) => {
                let what = arch::describe(code);
                warn!(%mac, arch = code, "{what} cannot be booted: this PC gets no boot file");
            }
            _ => debug!(%mac, ?kind, ?door, "no proxyDHCP reply"),
        }
    }

    fn warn(&self, text: String) {
        warn!("{text}");
        self.status.lock().apply(StatusEvent::Warning { text }, SystemTime::now());
    }
}
