//! Shell: who is fetching now, and how many that may be.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::packet::ReadRequest;

/// Transfers at once: a hall of 250 PCs, each with as many as it may have. A transfer costs a socket
/// and some 2 KiB; the file's bytes are shared.
const MAX_SESSIONS: usize = 1000;
/// Transfers at once to one address. UEFI has two per boot: a size probe it abandons, and the real
/// one.
const MAX_SESSIONS_PER_CLIENT: usize = 4;

/// The transfers that run, by the client's address and port: one transfer each.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    running: Mutex<HashMap<SocketAddr, Session>>,
}

#[derive(Debug)]
struct Session {
    request: ReadRequest,
    signals: Arc<Signals>,
}

/// What port 69 has to say to a running transfer.
#[derive(Debug, Default)]
struct Signals {
    asked_again: Notify,
    replaced: CancellationToken,
}

/// Why a request does not start a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The same request from the same port has one, which was told of it.
    Running,
    /// There are too many.
    Full,
}

/// A place for one transfer, given back on drop.
#[derive(Debug)]
pub(super) struct Seat {
    sessions: Arc<Sessions>,
    client: SocketAddr,
    signals: Arc<Signals>,
}

impl Sessions {
    /// Finds a place for a request. Another request from the port of a running transfer ends that.
    pub(super) fn admit(
        self: &Arc<Self>,
        client: SocketAddr,
        request: &ReadRequest,
    ) -> Result<Seat, Refusal> {
        let mut running = self.running.lock();
        if let Some(session) = running.get(&client) {
            if session.request == *request {
                session.signals.asked_again.notify_one();
                return Err(Refusal::Running);
            }
            session.signals.replaced.cancel();
            running.remove(&client);
        }
        let of_ip = |ip: IpAddr| running.keys().filter(|other| other.ip() == ip).count();
        if running.len() >= MAX_SESSIONS || of_ip(client.ip()) >= MAX_SESSIONS_PER_CLIENT {
            return Err(Refusal::Full);
        }
        let signals = Arc::<Signals>::default();
        let session = Session { request: request.clone(), signals: Arc::clone(&signals) };
        running.insert(client, session);
        Ok(Seat { sessions: Arc::clone(self), client, signals })
    }
}

impl Seat {
    /// The client sent its request once more.
    pub(super) async fn asked_again(&self) {
        self.signals.asked_again.notified().await;
    }

    /// The client wants something else on this port.
    pub(super) async fn replaced(&self) {
        self.signals.replaced.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut running = self.sessions.running.lock();
        // The port may belong to the transfer that replaced this one.
        let is_own =
            running.get(&self.client).is_some_and(|s| Arc::ptr_eq(&s.signals, &self.signals));
        if is_own {
            running.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::tftp::packet::Options;

    fn client(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 77, 0, last], port))
    }

    fn request(name: &str) -> ReadRequest {
        ReadRequest { name: name.into(), is_octet: true, options: Options::default() }
    }

    #[test]
    fn transfers_are_limited_per_client_and_in_all() {
        let sessions = Arc::<Sessions>::default();
        let admit = |last, port| sessions.admit(client(last, port), &request("a"));
        let mut seats: Vec<_> = (0..4).map(|port| admit(1, port).expect("has room")).collect();
        assert_eq!(admit(1, 9).err(), Some(Refusal::Full));
        seats.pop();
        seats.push(admit(1, 9).expect("one ended"));
        for last in 2..=250 {
            seats.extend((0..4).filter_map(|port| admit(last, port).ok()));
        }
        assert_eq!(seats.len(), MAX_SESSIONS);
        assert_eq!(admit(251, 1).err(), Some(Refusal::Full));
        drop(seats);
        assert!(sessions.running.lock().is_empty());
    }

    #[tokio::test]
    async fn a_repeated_request_is_told_to_its_transfer_and_another_one_ends_it() {
        let sessions = Arc::<Sessions>::default();
        let first = sessions.admit(client(1, 1), &request("a")).expect("has room");
        assert_eq!(sessions.admit(client(1, 1), &request("a")).err(), Some(Refusal::Running));
        first.asked_again().await;
        let second = sessions.admit(client(1, 1), &request("b")).expect("replaces the first");
        first.replaced().await;
        drop(first);
        assert_eq!(sessions.running.lock().len(), 1, "the second keeps its place");
        drop(second);
    }
}
