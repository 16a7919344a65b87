//! Core: why a download failed.

use std::io;
use std::sync::Arc;

/// Why a download failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SwarmError {
    /// No room, or a broken disk.
    #[error("cannot store the payload")]
    Storage(#[source] Arc<io::Error>),
    /// The server's files are not the ones that its torrent was made from.
    #[error(
        "the server sent piece {piece} with a wrong hash several times: \
         its files have changed since they were published; publish again"
    )]
    WrongSource {
        /// The first such piece.
        piece: u32,
    },
    /// [`Node::stop`](crate::Node::stop) was called.
    #[error("the download was stopped")]
    Stopped,
}
