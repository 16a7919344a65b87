//! From the lab's files to what is on offer: the signed catalog and its torrents.

pub mod publisher;
pub mod torrents;
