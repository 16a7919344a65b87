//! Shell: the node's side of the tracker (BEP 3): who are the others, and here am I.
//!
//! Core: [`Rhythm`], when to announce. Shell: [`Tracker`], one announce over HTTP.

use std::time::Duration;

use bt_swarm::announce::{Announce, Answer, Event, parse_response, query};
use bt_swarm::{Infohash, Node, PeerId};
use tokio::sync::watch;

use crate::server::http::{Http, HttpError};

/// A room starts together, so newcomers are looked for often at first.
const EARLY: Duration = Duration::from_secs(3);
/// How many announces count as the first ones.
const EARLY_TIMES: u32 = 10;
/// The shortest time between two announces, whatever the tracker says.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest, so that a tracker's typing error does not leave a node alone.
const LONGEST: Duration = Duration::from_secs(120);
/// The longest wait after failures; a server that returns is found within it.
const LONGEST_RETRY: Duration = Duration::from_secs(8);
/// An answer with 512 peers has 3 KiB; a long list of dictionaries may have more.
const ANSWER: usize = 256 << 10;

/// When to announce next.
#[derive(Debug, Default)]
pub struct Rhythm {
    answered: u32,
    failed: u32,
}

impl Rhythm {
    /// The wait after an answer with this interval.
    pub fn after_answer(&mut self, interval: Duration) -> Duration {
        self.failed = 0;
        self.answered = self.answered.saturating_add(1);
        let interval = interval.clamp(SHORTEST, LONGEST);
        if self.answered <= EARLY_TIMES { interval.min(EARLY) } else { interval }
    }

    /// The wait after a failure: 1, 2, 4 and then always 8 seconds.
    pub fn after_failure(&mut self) -> Duration {
        let wait = SHORTEST.saturating_mul(1 << self.failed.min(8));
        self.failed = self.failed.saturating_add(1);
        wait.min(LONGEST_RETRY)
    }
}

/// Why an announce brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// An answer that says no, or nothing.
    #[error(transparent)]
    Answer(#[from] bt_swarm::announce::AnnounceError),
}

/// One node in one swarm, as the tracker knows it.
#[derive(Debug)]
pub struct Tracker {
    http: Http,
    infohash: Infohash,
    peer_id: PeerId,
    port: u16,
    /// How many others still fetch, as last told since this node has everything.
    needy: watch::Sender<Option<u32>>,
}

impl Tracker {
    /// The tracker of the lab's server, for this node of the engine.
    #[must_use]
    pub fn new(http: Http, infohash: Infohash, node: &Node) -> Self {
        let needy = watch::Sender::new(None);
        Self { http, infohash, peer_id: node.peer_id(), port: node.port(), needy }
    }

    /// How many others still fetch; `None` until this node has everything and has said so.
    #[must_use]
    pub fn needy(&self) -> watch::Receiver<Option<u32>> {
        self.needy.subscribe()
    }

    /// Announces for as long as it is polled, and gives the engine the peers that it hears of.
    pub async fn announce_forever(&self, node: &Node) {
        let mut rhythm = Rhythm::default();
        let mut event = Some(Event::Started);
        let mut is_complete = false;
        loop {
            let wait = match self.announce(node, event).await {
                Ok(answer) => {
                    node.add_peers(&answer.peers);
                    if is_complete {
                        self.needy.send_replace(Some(answer.incomplete));
                    }
                    event = None;
                    rhythm.after_answer(answer.interval)
                }
                Err(error) => {
                    tracing::debug!(%error, "announce failed");
                    rhythm.after_failure()
                }
            };
            // The end of the download is told at once: others may then come to us.
            let end = async {
                match node.finished().await {
                    Ok(()) if !is_complete => {}
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = end => {
                    is_complete = true;
                    event = Some(Event::Completed);
                }
            }
        }
    }

    /// Tells the tracker that we leave.
    pub async fn farewell(&self, node: &Node) {
        if let Err(error) = self.announce(node, Some(Event::Stopped)).await {
            tracing::debug!(%error, "the tracker does not know that we left");
        }
    }

    async fn announce(&self, node: &Node, event: Option<Event>) -> Result<Answer, TrackerError> {
        let progress = node.progress();
        let announce = Announce {
            infohash: self.infohash,
            peer_id: self.peer_id,
            port: self.port,
            uploaded: progress.uploaded,
            downloaded: progress.done,
            left: progress.total.saturating_sub(progress.done),
            event,
        };
        let path = format!("/announce?{}", query(&announce));
        Ok(parse_response(&self.http.get(&path, ANSWER).await?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_first_announces_are_quick_and_then_the_tracker_decides() {
        let mut rhythm = Rhythm::default();
        for _ in 0..EARLY_TIMES {
            assert_eq!(rhythm.after_answer(secs(30)), EARLY);
        }
        assert_eq!(rhythm.after_answer(secs(30)), secs(30));
        assert_eq!(rhythm.after_answer(secs(0)), SHORTEST);
        assert_eq!(rhythm.after_answer(secs(999_999)), LONGEST);
    }

    #[test]
    fn a_silent_tracker_is_asked_less_and_less_but_never_forgotten() {
        let mut rhythm = Rhythm::default();
        let waits: Vec<u64> = (0..12).map(|_| rhythm.after_failure().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 8, 8, 8, 8, 8, 8, 8, 8]);
        rhythm.after_answer(secs(5));
        assert_eq!(rhythm.after_failure(), secs(1));
    }
}
