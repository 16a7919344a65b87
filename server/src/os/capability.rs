//! Core: the rights of a process that the server may keep.

/// A right that can be kept (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Ports below 1024.
    NetBindService = 10,
}
