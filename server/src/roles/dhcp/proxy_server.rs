//! Shell: proxy mode's two sockets: 67, where the network's DHCP server is asked too, and 4011.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::proxy::loads_first_hop;
use super::relay_agent::Agent;
use super::{ListenPort, ProxySettings, Reply, Request, respond_proxy};
use crate::boot::arch::{self, LoopGuard};
use crate::mac::is_doctor;
use crate::os::sockets::{self, BindError};
use crate::status::log_rate_limit::LogRateLimit;
use crate::status::{SharedStatus, StatusEvent};
use bt_catalog::Mac;

/// Where firmware asks for its boot file (PXE 2.1 §2.2.3).
const PXE_PORT: u16 = 4011;
/// Longer than any DHCP message in one Ethernet frame.
const MAX_PACKET: usize = 2048;
/// After an error of a socket (the interface is down, say).
const RECEIVE_PAUSE: Duration = Duration::from_millis(500);
/// A PC that cannot be booted is logged at most this often: it keeps asking.
const UNSUPPORTED_INTERVAL: Duration = Duration::from_mins(10);

/// A DHCP server that answers no relay agent is reported at most this often.
const UNANSWERED_INTERVAL: Duration = Duration::from_hours(1);

/// Proxy mode, ready to run.
#[derive(Debug)]
pub struct Proxy {
    dhcp: UdpSocket,
    pxe: UdpSocket,
    settings: ProxySettings,
    agent: Agent,
    loops: LoopGuard,
    unsupported_limit: LogRateLimit<Mac>,
    unanswered_limit: LogRateLimit<()>,
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
        let dhcp = sockets::broadcast_udp("proxyDHCP", interface, any(67))?;
        let pxe = sockets::broadcast_udp("proxyDHCP", interface, any(PXE_PORT))?;
        let unsupported_limit = LogRateLimit::new(UNSUPPORTED_INTERVAL);
        let unanswered_limit = LogRateLimit::new(UNANSWERED_INTERVAL);
        let (agent, loops) = (Agent::default(), LoopGuard::default());
        Ok(Self { dhcp, pxe, settings, agent, loops, unsupported_limit, unanswered_limit, status })
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
            let port = if is_pxe { ListenPort::Pxe(sender) } else { ListenPort::Dhcp };
            let (socket, buffer) = if is_pxe { (&pxe, &pxe_buffer) } else { (&dhcp, &dhcp_buffer) };
            self.answer(socket, &buffer[..length], port).await;
        }
    }

    async fn answer(&mut self, socket: &tokio::net::UdpSocket, packet: &[u8], port: ListenPort) {
        if let Some((mac, reply)) = self.agent.back(packet, &self.settings) {
            return self
                .send(socket, mac, &reply, "address of the other server, with our boot file")
                .await;
        }
        let request = match Request::parse(packet, self.settings.server) {
            Ok(request) => request,
            Err(reason) => {
                debug!(%reason, bytes = packet.len(), "DHCP packet ignored");
                return;
            }
        };
        if request.giaddr == self.settings.server {
            return; // Our own broadcast, received again.
        }
        let now = SystemTime::now();
        if port == ListenPort::Dhcp
            && let Some(forwarded) = self.agent.forward(packet, &request, &self.settings, now)
        {
            if let Err(error) = socket.send_to(&forwarded.bytes, (Ipv4Addr::BROADCAST, 67)).await {
                warn!(mac = %request.mac, %error, "DHCP message not relayed");
            }
            if !forwarded.is_unheard {
                return self.explain(&request, port, now);
            }
            self.warn_unanswered(request.mac, now);
        }
        match respond_proxy(&request, &self.settings, port) {
            Some(reply) => self.send(socket, request.mac, &reply, "boot file announced").await,
            None => self.explain(&request, port, now),
        }
    }

    async fn send(&self, socket: &tokio::net::UdpSocket, mac: Mac, reply: &Reply, what: &str) {
        let to = SocketAddr::V4(reply.to.socket_address());
        if let Err(error) = socket.send_to(&reply.bytes, to).await {
            warn!(%mac, %to, %error, "proxyDHCP reply not sent");
            return;
        }
        let boot = reply.boot.as_ref().map_or("", |boot| boot.name());
        info!(%mac, boot, kind = ?reply.kind, "{what}");
    }

    fn warn_unanswered(&mut self, mac: Mac, now: SystemTime) {
        if self.unanswered_limit.is_due((), now) {
            let server = self.settings.server;
            self.warn(format!(
                "the network's DHCP server answers no relay agent, so with Secure Boot {mac} will not \
                 find GRUB's menu; set {server} as the next server (option 66) there, or use mode \"full\""
            ));
        }
    }

    /// Logs what a request says about its PC, although this server does not answer it.
    fn explain(&mut self, request: &Request, port: ListenPort, now: SystemTime) {
        let (mac, kind) = (request.mac, request.kind);
        let code = request.arch_code.unwrap_or_default();
        let wants_boot = request.boot.is_some() && port == ListenPort::Dhcp;
        let is_unsupported = arch::Arch::from_code(code) == arch::Arch::Unsupported(code);
        if wants_boot && is_unsupported && self.unsupported_limit.is_due(mac, now) {
            let what = arch::describe(code);
            warn!(%mac, arch = code, "{what} cannot be booted: this PC gets no boot file");
        } else {
            debug!(%mac, ?kind, ?port, "no proxyDHCP reply");
        }
        // It accepts an address, so next it loads the file that this server announced. Counting
        // DISCOVERs instead would include PCs that no server assigns an address to.
        if port == ListenPort::Dhcp
            && loads_first_hop(request, &self.settings)
            && !is_doctor(mac)
            && self.loops.is_looping(mac, request.xid, now)
        {
            self.warn(format!(
                "{mac} keeps requesting its boot loader and never gets further; check cable and \
                 firmware, or whether Secure Boot refuses iPXE (`uefi_loader` in server.toml)"
            ));
        }
    }

    fn warn(&self, text: String) {
        warn!("{text}");
        self.status.lock().apply(StatusEvent::Warning { text }, SystemTime::now());
    }
}
