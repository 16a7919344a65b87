//! Shell: the node's side of the tracker (BEP 3): announces this node and learns of others.

use bt_catalog::paths;
use bt_swarm::announce::{Announce, Answer, Event, parse_response, query};
use bt_swarm::{Infohash, Node, PeerId};
use tokio::sync::watch;

use super::rhythm::Rhythm;
use crate::server::http::{Http, HttpError};

/// An answer with 512 peers has 3 KiB; a long list of dictionaries may have more.
const ANSWER: usize = 256 << 10;

/// Why an announce brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// An answer that is a refusal or invalid.
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
    /// How many others still download, as last reported since this node has everything.
    needy: watch::Sender<Option<u32>>,
}

impl Tracker {
    /// The tracker of the lab's server, for this node of the engine.
    #[must_use]
    pub fn new(http: Http, infohash: Infohash, node: &Node) -> Self {
        let needy = watch::Sender::new(None);
        Self { http, infohash, peer_id: node.peer_id(), port: node.port(), needy }
    }

    /// How many others still download; `None` until this node has everything and has announced it.
    #[must_use]
    pub fn needy(&self) -> watch::Receiver<Option<u32>> {
        self.needy.subscribe()
    }

    /// Announces for as long as it is polled, and passes the peers that it learns of to the engine.
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
            // The end of the download is announced at once: others may then connect to this node.
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

    /// Announces that this node leaves.
    pub async fn farewell(&self, node: &Node) {
        if let Err(error) = self.announce(node, Some(Event::Stopped)).await {
            tracing::debug!(%error, "cannot announce that this node leaves");
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
        let path = format!("{}?{}", paths::ANNOUNCE, query(&announce));
        Ok(parse_response(&self.http.get(&path, ANSWER).await?)?)
    }
}
