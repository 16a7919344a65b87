//! Shell: how many incoming connections there may be, in total and from one address.
//!
//! Peers of a swarm are bounded too, but only after their handshake. Before it, a connection
//! already costs a file descriptor, and one machine could take all of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Connections from one address, in their handshake or established: twice
/// `MAX_PEERS_PER_ADDRESS`, so that handshakes find room next to peers.
const MAX_OF_ADDRESS: usize = 64;

/// How many connections one listener may have, and how many it has.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    max: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl ConnectionLimit {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::new(HashMap::new()) })
    }

    /// A permit for one more connection, until it is dropped; `None` if the limit is reached.
    pub(crate) fn take(self: &Arc<Self>, ip: IpAddr) -> Option<Permit> {
        let mut taken = self.taken.lock();
        let of_address = taken.get(&ip).copied().unwrap_or(0);
        if of_address >= MAX_OF_ADDRESS || taken.values().sum::<usize>() >= self.max {
            return None;
        }
        taken.insert(ip, of_address + 1);
        // Weak: a connection may outlive its listener.
        Some(Permit { limit: Arc::downgrade(self), ip })
    }
}

/// The permit of one connection. It returns itself when dropped, however the connection ends.
#[derive(Debug)]
pub(crate) struct Permit {
    limit: Weak<ConnectionLimit>,
    ip: IpAddr,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(limit) = self.limit.upgrade() else { return };
        let mut taken = limit.taken.lock();
        if let Some(count) = taken.get_mut(&self.ip) {
            *count -= 1;
            // Or the map would grow with each address that ever connected.
            if *count == 0 {
                taken.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn one_address_cannot_take_all_permits_and_permits_come_back() {
        let limit = ConnectionLimit::new(100);
        let address = |number| IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
        let greedy: Vec<Permit> = (0..100).filter_map(|_| limit.take(address(1))).collect();
        assert_eq!(greedy.len(), MAX_OF_ADDRESS);
        let others: Vec<Permit> =
            (2..=100).filter_map(|number| limit.take(address(number))).collect();
        assert_eq!(others.len(), 100 - MAX_OF_ADDRESS);
        drop(greedy);
        assert!(limit.take(address(1)).is_some());
        drop(others);
        assert!(limit.taken.lock().is_empty());
    }
}
