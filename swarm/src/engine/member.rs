//! Shell: one swarm's state with what the cores must not touch: storage, clock, hashing, wake-ups.
//!
//! A block goes straight to its place in the storage, and a complete piece is read back to be
//! hashed: the payload is in memory once, and the pages that were just written are still in the
//! cache.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use librqbit_sha1_wrapper::{ISha1, Sha1};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::worker::Worker;
use crate::error::SwarmError;
use crate::protocol::layout::{BLOCK, Block, ByteRange};
use crate::protocol::wire::{Incoming, Violation};
use crate::storage::Storage;
use crate::swarm::peer::{Next, PeerKey};
use crate::swarm::{Candidate, Check, Checked, Refusal, Swarm};
use crate::torrent::Metainfo;

/// Pieces that are hashed at the same time; each needs a thread and a small buffer.
const HASHERS: usize = 4;

/// Bytes that are read back for hashing at a time.
const HASH_STEP: usize = 16 * BLOCK as usize;

/// The result of a download; `None` until it has ended.
pub(crate) type Outcome = Option<Result<(), SwarmError>>;

/// This machine's membership in one swarm.
pub(crate) struct Member {
    pub(crate) meta: Metainfo,
    pub(crate) stop: CancellationToken,
    pub(crate) worker: Worker,
    storage: Arc<dyn Storage>,
    state: Mutex<State>,
    hashers: Semaphore,
    outcome: watch::Sender<Outcome>,
}

struct State {
    swarm: Swarm,
    wakers: BTreeMap<PeerKey, Arc<Notify>>,
}

impl Member {
    pub(crate) fn new(
        meta: Metainfo,
        storage: Arc<dyn Storage>,
        swarm: Swarm,
        stop: CancellationToken,
        worker: Worker,
    ) -> Arc<Self> {
        Arc::new(Self {
            meta,
            stop,
            worker,
            storage,
            state: Mutex::new(State { swarm, wakers: BTreeMap::new() }),
            hashers: Semaphore::new(HASHERS),
            outcome: watch::Sender::new(None),
        })
    }

    /// Runs `act` on the swarm, and wakes the connections that have something to do after it.
    ///
    /// The lock is held for the decision alone, never across IO, so a plain mutex is enough.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Swarm, Instant) -> R) -> R {
        let state = &mut *self.state.lock();
        let result = act(&mut state.swarm, now());
        for key in state.swarm.take_wakes() {
            // A connection that is not waiting finds the wake-up when it does: `Notify` keeps one.
            if let Some(waker) = state.wakers.get(&key) {
                waker.notify_one();
            }
        }
        result
    }

    pub(crate) fn join(&self, candidate: Candidate) -> Result<(PeerKey, Arc<Notify>), Refusal> {
        let waker = Arc::new(Notify::new());
        let key = self.with(|swarm, now| swarm.join(candidate, now))?;
        self.state.lock().wakers.insert(key, Arc::clone(&waker));
        // `Swarm::join` has queued messages, and its wake-up found no waker here yet.
        waker.notify_one();
        Ok((key, waker))
    }

    pub(crate) fn leave(&self, key: PeerKey) {
        self.with(|swarm, now| swarm.leave(key, now));
        self.state.lock().wakers.remove(&key);
    }

    pub(crate) fn tick(&self) {
        self.with(|swarm, now| swarm.tick(now));
    }

    pub(crate) fn next(&self, key: PeerKey) -> Next {
        self.with(|swarm, now| swarm.next(key, now))
    }

    pub(crate) fn sent(&self, key: PeerKey, ranges: &[ByteRange]) {
        self.with(|swarm, now| ranges.iter().for_each(|range| swarm.sent(key, *range, now)));
    }

    /// Ends all connections and tasks of this swarm.
    pub(crate) fn close(&self) {
        self.stop.cancel();
        self.with(|swarm, now| swarm.close(now));
        self.settle(Err(SwarmError::Stopped));
    }

    pub(crate) fn outcome(&self) -> watch::Receiver<Outcome> {
        self.outcome.subscribe()
    }

    /// Only the first outcome counts: a node that has finished and is then stopped has finished.
    fn settle(&self, outcome: Result<(), SwarmError>) {
        self.outcome.send_if_modified(|current| {
            let is_first = current.is_none();
            if is_first {
                *current = Some(outcome);
            }
            is_first
        });
    }

    /// Reads a range unless that would wait for a disk; returns whether it did.
    pub(crate) fn read_at_once(&self, range: ByteRange, buffer: &mut [u8]) -> bool {
        self.storage.read_at_once(self.offset_of(range), buffer)
    }

    fn offset_of(&self, range: ByteRange) -> u64 {
        self.meta.layout().offset_of(range.piece) + u64::from(range.begin)
    }

    pub(crate) fn read(&self, range: ByteRange, buffer: &mut [u8]) -> io::Result<()> {
        self.storage.read_at(self.offset_of(range), buffer).inspect_err(|error| {
            let (infohash, piece) = (self.meta.infohash(), range.piece);
            error!(%infohash, piece, %error, "cannot read a piece to upload");
        })
    }

    /// Handles one message from a peer.
    pub(crate) fn receive(
        self: &Arc<Self>,
        key: PeerKey,
        message: &Incoming<'_>,
    ) -> Result<(), Violation> {
        let block = self.with(|swarm, now| swarm.receive(key, message, now))?;
        if let (Some(block), Incoming::Data(_, data)) = (block, message) {
            self.store(block, data);
        }
        Ok(())
    }

    fn store(self: &Arc<Self>, block: Block, data: &[u8]) {
        // On this thread: a node stores in memory, and to pass the block to another thread would
        // cost another copy of it.
        let offset = self.offset_of(self.meta.layout().range(block));
        if let Err(error) = self.storage.write_at(offset, data) {
            let (infohash, piece) = (self.meta.infohash(), block.piece);
            error!(%infohash, piece, %error, "cannot store a block");
            self.settle(Err(SwarmError::Storage(Arc::new(error))));
            return;
        }
        if let Some(check) = self.with(|swarm, _| swarm.stored(block)) {
            let member = Arc::clone(self);
            self.worker.spawn(async move { member.check(check).await });
        }
    }

    /// Hashes a complete piece on another thread, so that no connection waits for it.
    async fn check(self: Arc<Self>, check: Check) {
        // Pieces that wait here are in the storage already, so they cost no memory.
        let _permit = self.hashers.acquire().await.expect("the semaphore is never closed");
        let wants_blocks = self.with(|swarm, _| swarm.is_suspect(check.piece));
        let member = Arc::clone(&self);
        let hashing =
            tokio::task::spawn_blocking(move || member.hash(check.piece, wants_blocks)).await;
        match hashing {
            Ok(Ok(checked)) => self.report(&checked),
            Ok(Err(error)) => self.settle(Err(SwarmError::Storage(Arc::new(error)))),
            Err(error) => debug!(%error, "hashing was interrupted"),
        }
    }

    fn report(&self, checked: &Checked) {
        let infohash = self.meta.infohash();
        if !checked.is_correct {
            warn!(%infohash, piece = checked.piece, "wrong hash; downloading the piece again");
        }
        let (is_complete, wrong_source) = self.with(|swarm, now| {
            swarm.checked(checked, now);
            (swarm.is_complete(), swarm.wrong_source())
        });
        if let Some(piece) = wrong_source {
            self.settle(Err(SwarmError::WrongSource { piece }));
        }
        if is_complete {
            self.settle(Ok(()));
        }
    }

    /// The hash of a piece as it is in the storage, and of its blocks if they are wanted or it is
    /// wrong.
    ///
    /// SHA-1 is what BEP 3 has, but collisions of it can be made. If the torrent lists SHA-256 too,
    /// both must match; they are computed in one pass.
    fn hash(&self, piece: u32, wants_blocks: bool) -> io::Result<Checked> {
        let mut sha1 = Sha1::new();
        let wanted = self.meta.sha256_of(piece);
        let mut sha256 = wanted.map(|_| Sha256::new());
        self.read_piece(piece, |bytes| {
            sha1.update(bytes);
            if let Some(sha256) = &mut sha256 {
                sha256.update(bytes);
            }
        })?;
        let is_proven = sha256.map(|sha256| sha256.finalize().into()) == wanted;
        let is_correct = sha1.finish() == self.meta.hash_of(piece) && is_proven;
        // Digests of blocks in a second pass: smart_ban.rs needs them for few pieces, if for any.
        let mut blocks = Vec::new();
        if wants_blocks || !is_correct {
            self.read_piece(piece, |bytes| {
                for block in bytes.chunks(BLOCK as usize) {
                    let mut sha1 = Sha1::new();
                    sha1.update(block);
                    blocks.push(sha1.finish());
                }
            })?;
        }
        Ok(Checked { piece, is_correct, blocks })
    }

    /// Passes a piece to `take` in steps of a few complete blocks: a piece of 4 MiB needs no such
    /// buffer.
    fn read_piece(&self, piece: u32, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let layout = self.meta.layout();
        let (offset, length) = (layout.offset_of(piece), layout.length_of(piece) as usize);
        let mut buffer = vec![0; HASH_STEP.min(length)];
        for start in (0..length).step_by(HASH_STEP) {
            let step = &mut buffer[..HASH_STEP.min(length - start)];
            self.storage.read_at(offset + start as u64, step)?;
            take(step);
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell is where the clock is read")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
