//! Core: the figures of a running download.

use std::time::Duration;

/// The progress of a download.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DownloadProgress {
    /// Bytes here.
    pub done: u64,
    /// Bytes in total.
    pub total: u64,
    /// Bytes per second, smoothed.
    pub speed: u64,
    /// How many other PCs send data now, without the server.
    pub peers: usize,
    /// Whether the server sends data now.
    pub from_server: bool,
    /// How long no byte has arrived, once that is long enough to be shown.
    pub stalled_for: Option<Duration>,
}
