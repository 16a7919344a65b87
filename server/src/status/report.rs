//! Core: what a node says of itself (`POST /report`), read and bounded.

use serde::{Deserialize, Serialize};

use crate::mac::parse_mac;

/// A node's report is at most this long, in bytes.
pub const MAX_REPORT: usize = 4096;

/// Longest name, system id or problem text that is kept of a report, in characters.
const MAX_TEXT: usize = 300;

/// The last step of its boot that a node was seen at, in the order of a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It was given an address.
    Address,
    /// It fetched its boot loader over TFTP.
    Loader,
    /// It fetched the small Linux over HTTP.
    Kernel,
    /// It fetched the catalog.
    Catalog,
    /// Its screen shows the systems.
    Menu,
    /// It downloads a system.
    Downloading,
    /// It checks what it downloaded.
    Verifying,
    /// It is about to start the system.
    Starting,
    /// Its screen shows a problem.
    Problem,
}

impl Stage {
    /// The words that a supervisor reads.
    pub fn words(self) -> &'static str {
        match self {
            Self::Address => "has an address",
            Self::Loader => "loading iPXE",
            Self::Kernel => "loading Linux",
            Self::Catalog => "reading catalog",
            Self::Menu => "menu",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Starting => "starting",
            Self::Problem => "problem",
        }
    }
}

/// What a node says of itself (`POST /report`). [`NodeReport::parse`] is the only way to get one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Hardware address of its boot interface.
    pub mac: [u8; 6],
    /// Its name, if the lab gave it one.
    pub name: Option<String>,
    /// `Menu` to `Problem`: the earlier stages are seen by the server, not reported.
    pub stage: Stage,
    /// The chosen system, if any.
    pub system: Option<String>,
    /// Bytes it has, of `total`.
    pub done: u64,
    /// Bytes of the whole system.
    pub total: u64,
    /// Peers that it is connected to.
    pub peers: u32,
    /// Bytes per second that come in.
    pub speed: u64,
    /// What its screen says went wrong.
    pub problem: Option<String>,
}

/// Why a report was refused. The sender gets it as the answer's text.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// More than [`MAX_REPORT`] bytes.
    #[error("the report has {0} bytes, the limit is {MAX_REPORT}")]
    TooLong(usize),
    /// Not the JSON object that is expected.
    #[error("the report is not understood: {0}")]
    Json(#[from] serde_json::Error),
    /// `mac` is not a hardware address.
    #[error("'{0}' is not a hardware address like 52:54:00:12:34:56")]
    Mac(String),
}

/// The report as it is on the wire. Unknown keys are fine: a newer node may say more.
#[derive(Deserialize)]
struct WireReport {
    mac: String,
    name: Option<String>,
    stage: WireStage,
    system: Option<String>,
    #[serde(default)]
    done: u64,
    #[serde(default)]
    total: u64,
    #[serde(default)]
    peers: u32,
    #[serde(default)]
    speed: u64,
    problem: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireStage {
    Menu,
    Downloading,
    Verifying,
    Starting,
    Problem,
}

impl NodeReport {
    /// Reads a report and bounds everything in it: it comes from the network, and people read it
    /// in a terminal and on a page, so no control characters and no endless texts.
    ///
    /// # Errors
    /// When it is too long, no such JSON object, or its `mac` is no hardware address.
    pub fn parse(body: &[u8]) -> Result<Self, ReportError> {
        if body.len() > MAX_REPORT {
            return Err(ReportError::TooLong(body.len()));
        }
        let wire: WireReport = serde_json::from_slice(body)?;
        let mac = parse_mac(&wire.mac).ok_or_else(|| ReportError::Mac(printable(&wire.mac)))?;
        let stage = match wire.stage {
            WireStage::Menu => Stage::Menu,
            WireStage::Downloading => Stage::Downloading,
            WireStage::Verifying => Stage::Verifying,
            WireStage::Starting => Stage::Starting,
            WireStage::Problem => Stage::Problem,
        };
        let text = |text: Option<String>| text.map(|t| printable(&t)).filter(|t| !t.is_empty());
        Ok(Self {
            mac,
            name: text(wire.name),
            stage,
            system: text(wire.system),
            done: wire.done.min(wire.total),
            total: wire.total,
            peers: wire.peers,
            speed: wire.speed,
            problem: text(wire.problem),
        })
    }
}

/// Text from the network, fit for a terminal: one line, no control characters, bounded.
pub(super) fn printable(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(MAX_TEXT).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_reports_are_refused_and_long_texts_cut() {
        for bad in ["", "[]", r#"{"mac":"x","stage":"menu"}"#, r#"{"mac":"52:54:00:12:34:56"}"#] {
            assert!(NodeReport::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(NodeReport::parse(&[b' '; MAX_REPORT + 1]).is_err());
        let long = format!(
            r#"{{"mac":"52:54:00:12:34:56","stage":"problem","problem":"\u001b[2J{}"}}"#,
            "x".repeat(2000)
        );
        let text = NodeReport::parse(long.as_bytes()).expect("fits").problem.expect("has text");
        assert_eq!(text.len(), MAX_TEXT - 1);
        assert!(text.starts_with("[2J"));
    }
}
