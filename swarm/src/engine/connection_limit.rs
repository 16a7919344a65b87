//! Shell: places for incoming connections, so many in all and so many for one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Connections of one address, shaking hands or established: twice what may become peers.
const MAX_OF_ADDRESS: usize = 64;

/// The places of one listener.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Places {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::new(HashMap::new()) })
    }

    /// A place for one more connection, until it is dropped; `None` if there is none.
    pub(crate) fn take(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock();
        let of_address = taken.get(&ip).copied().unwrap_or(0);
        if of_address >= MAX_OF_ADDRESS || taken.values().sum::<usize>() >= self.most {
            return None;
        }
        taken.insert(ip, of_address + 1);
        Some(Place { of: Arc::downgrade(self), ip })
    }
}

/// One connection's place.
#[derive(Debug)]
pub(crate) struct Place {
    of: Weak<Places>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(places) = self.of.upgrade() else { return };
        let mut taken = places.taken.lock();
        if let Some(count) = taken.get_mut(&self.ip) {
            *count -= 1;
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
    fn one_address_cannot_take_all_places_and_places_come_back() {
        let places = Places::new(100);
        let address = |number| IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
        let greedy: Vec<Place> = (0..100).filter_map(|_| places.take(address(1))).collect();
        assert_eq!(greedy.len(), MAX_OF_ADDRESS);
        let others: Vec<Place> =
            (2..=100).filter_map(|number| places.take(address(number))).collect();
        assert_eq!(others.len(), 100 - MAX_OF_ADDRESS);
        drop(greedy);
        assert!(places.take(address(1)).is_some());
        drop(others);
        assert!(places.taken.lock().is_empty());
    }
}
