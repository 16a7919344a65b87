//! Shell: what the thread that answers requests waits for.

use crate::roles::dhcp::lease_log::LogError;

/// What the answering thread waits for.
#[derive(Debug)]
pub(super) enum Event {
    /// A packet, and the index of the card that it came in by.
    Packet(usize, Vec<u8>),
    /// The disk's answer; the log's lines.
    Kept(Result<usize, LogError>),
    /// The log could not be written anew; nothing is lost.
    NotCompacted(LogError),
    /// The server ends.
    End,
}
