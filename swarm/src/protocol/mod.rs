//! Core: what goes over the wire and what its numbers mean: messages, announces, pieces and blocks.
//!
//! Nothing here decides anything: values that leave these files are parsed and within bounds.

pub mod announce;
pub(crate) mod bencode;
pub mod bitfield;
pub mod infohash;
pub mod layout;
pub mod peer_id;
pub mod url;
pub(crate) mod utp;
pub mod wire;
