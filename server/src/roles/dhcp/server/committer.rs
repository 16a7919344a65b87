//! Shell: the thread that waits for the disk, so that no other has to.

use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use super::event::Event;
use crate::roles::dhcp::lease_log::{LeaseLog, Work};

/// From one sync to the next: a sync costs the processor as much as some requests do, and under
/// load this shares it among more leases. A lease that comes alone waits for nothing.
const SYNC_INTERVAL: Duration = Duration::from_millis(2);

/// Does one piece of work after the other, and tells `events` of each, until no more can come or
/// nobody listens any more.
pub fn run(log: &mut LeaseLog, work: &Receiver<Work>, events: &SyncSender<Event>) {
    let mut last_sync: Option<Instant> = None;
    while let Ok(work) = work.recv() {
        if let Some(last_sync) = last_sync {
            std::thread::sleep(SYNC_INTERVAL.saturating_sub(last_sync.elapsed()));
        }
        last_sync = Some(now());
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

#[expect(clippy::disallowed_methods, reason = "the shell paces the disk")]
fn now() -> Instant {
    Instant::now()
}
