//! Shell: the thread that waits for the disk, so that no other has to.

use std::sync::mpsc::{Receiver, SyncSender};

use super::Event;
use crate::lease_log::{LeaseLog, Work};

/// Does one piece of work after the other, and tells `events` of each, until no more can come or
/// nobody listens any more.
pub fn run(log: &mut LeaseLog, work: &Receiver<Work>, events: &SyncSender<Event>) {
    while let Ok(work) = work.recv() {
        let outcome = work.append_to(log);
        let is_kept = outcome.is_ok();
        if events.send(Event::Kept(outcome)).is_err() {
            return;
        }
        // Whoever waits for a lease of this work has been told; the next work waits a little.
        if is_kept
            && let Err(error) = work.compact(log)
            && events.send(Event::NotCompacted(error)).is_err()
        {
            return;
        }
    }
}
