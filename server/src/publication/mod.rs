//! Shell: from the lab's files to what is on offer: the signed catalog and its torrents.

pub mod published;
pub mod publisher;
pub mod torrents;
