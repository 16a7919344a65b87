//! Core: the figures of a running download.

use std::time::Duration;

/// How far a download is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes here.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// Bytes per second, smoothed.
    pub speed: u64,
    /// How many other PCs send data now, without the server.
    pub peers: usize,
    /// Whether the server sends data now.
    pub from_server: bool,
    /// Since when no byte came, once that is long enough to be told.
    pub stalled_for: Option<Duration>,
}
