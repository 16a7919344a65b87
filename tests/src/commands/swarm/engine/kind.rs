//! Core: the engines by name, and how they differ as the course of a run sees it.

use clap::ValueEnum;

use crate::commands::swarm::flow::{TCP_HEADERS, UDP_HEADERS};

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Engine {
    /// bt-server and bt-node
    #[value(name = "boottorrent", alias = "ours")]
    Ours,
    /// One nginx, and a curl on each PC: the usual netboot
    Http,
    /// libtorrent-rasterbar, of qBittorrent and Deluge
    Libtorrent,
    /// aria2
    Aria2,
    /// Transmission
    Transmission,
    /// librqbit, whose crates BootTorrent uses
    Librqbit,
    /// Multicast with udpcast: all PCs wait for each other
    Udpcast,
}

impl Engine {
    /// As `--engine` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "boottorrent",
            Self::Http => "http",
            Self::Libtorrent => "libtorrent",
            Self::Aria2 => "aria2",
            Self::Transmission => "transmission",
            Self::Librqbit => "librqbit",
            Self::Udpcast => "udpcast",
        }
    }

    /// Bytes of headers in each packet, from Ethernet's on.
    pub fn headers(self) -> u64 {
        if self == Self::Udpcast { UDP_HEADERS } else { TCP_HEADERS }
    }

    /// Whether a client ends by itself, in its own manner, when it has everything and should leave.
    pub fn leaves_by_itself(self) -> bool {
        matches!(self, Self::Ours | Self::Http | Self::Udpcast)
    }

    /// Whether a node may start while others are at work.
    pub fn takes_latecomers(self) -> bool {
        self != Self::Udpcast
    }
}
