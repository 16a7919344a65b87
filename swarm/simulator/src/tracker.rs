//! Core: a tracker that answers with some of the peers that announced before.

use crate::random::random;

/// Hosts in the order of their first announce.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    hosts: Vec<u32>,
}

impl Tracker {
    /// A host announces. Returns how many did before it: the answer lists only these, so that of
    /// each pair one end dials.
    pub(crate) fn announced(&mut self, host: u32) -> usize {
        let known = self.hosts.iter().position(|other| *other == host);
        if known.is_none() {
            self.hosts.push(host);
        }
        known.unwrap_or(self.hosts.len() - 1)
    }

    /// At most `most` of the first `before` hosts, at random.
    pub(crate) fn some_of(&self, before: usize, most: usize, rng_state: &mut u64) -> Vec<u32> {
        let mut named: Vec<u32> = self.hosts[..before].to_vec();
        for at in (most..named.len()).rev() {
            let chosen = random(rng_state) as usize % (at + 1);
            named.swap(chosen, at);
        }
        named.truncate(most);
        named
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = u32> + '_ {
        self.hosts.iter().copied()
    }

    pub(crate) fn forget(&mut self, host: u32) {
        self.hosts.retain(|other| *other != host);
    }
}
