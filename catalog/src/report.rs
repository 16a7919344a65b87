//! Core: what a node says of itself to its server (`POST /report`), as JSON.
//!
//! ```json
//! {"protocol": 1, "version": "0.1.0", "mac": "52:54:00:12:34:56", "name": "pc07", "stage": "downloading",
//!  "system": "debian-12", "done": 5, "total": 9, "peers": 2, "speed": 3}
//! ```
//! Keys that a reader does not know are passed over; keys that are missing have their default; a
//! stage that it does not know is none, and the rest of the report still counts.

use std::fmt;

use serde::Serialize;

use crate::mac::{Mac, NotAMac};
use crate::version::PROTOCOL;

/// A report is at most this long, in bytes: a problem's text is the largest part of it.
pub const MAX_REPORT: usize = 4096;
/// The longest problem text that a node sends, in bytes: the report then stays below [`MAX_REPORT`].
pub const MAX_PROBLEM: usize = 500;

/// Where a node stands, as it reports it. What comes before the menu, the server sees by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeStage {
    /// Its screen shows the systems, or is about to.
    Menu,
    /// It downloads a system.
    Downloading,
    /// It verifies what it downloaded.
    Verifying,
    /// It is about to start the system.
    Starting,
    /// Its screen shows a problem.
    Problem,
}

impl NodeStage {
    /// All of them, in the order of a boot.
    pub const ALL: [Self; 5] =
        [Self::Menu, Self::Downloading, Self::Verifying, Self::Starting, Self::Problem];

    /// Its word in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Menu => "menu",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Starting => "starting",
            Self::Problem => "problem",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

impl fmt::Display for NodeStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One report. Texts are as they came: whoever shows one makes it fit for a screen first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What the sender speaks ([`PROTOCOL`]); 0 from boot files older than this number.
    pub protocol: u32,
    /// The version of the boot files; empty from older ones.
    pub version: String,
    /// The MAC address of its boot interface.
    pub mac: Mac,
    /// Its name, if the lab gave it one.
    pub name: Option<String>,
    /// `None` for a stage that only a newer node knows.
    pub stage: Option<NodeStage>,
    /// The chosen system, if any.
    pub system: Option<String>,
    /// Bytes it has, of `total`.
    pub done: u64,
    /// Bytes of all the system's files.
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
    #[error("the report has {0} bytes; the limit is {MAX_REPORT}")]
    TooLong(usize),
    /// Not the JSON object that is expected.
    #[error("the report cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// `mac` is not a MAC address.
    #[error("the report's `mac`: {0}")]
    Mac(#[from] NotAMac),
}

#[derive(Serialize)]
struct RawReport {
    protocol: u32,
    version: String,
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    stage: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    done: u64,
    total: u64,
    peers: u32,
    speed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Report {
    /// A report of this build, with nothing but who sends it and where it stands.
    #[must_use]
    pub fn new(mac: Mac, stage: NodeStage) -> Self {
        Self {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mac,
            name: None,
            stage: Some(stage),
            system: None,
            done: 0,
            total: 0,
            peers: 0,
            speed: 0,
            problem: None,
        }
    }

    /// Reads a report's body.
    ///
    /// # Errors
    /// When it is too long, not such a JSON object, or its `mac` is not a MAC address.
    pub fn parse(body: &[u8]) -> Result<Self, ReportError> {
        if body.len() > MAX_REPORT {
            return Err(ReportError::TooLong(body.len()));
        }
        // Key by key, so that one that changed its type in a newer version costs only itself.
        let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)?;
        let text = |key: &str| keys.get(key)?.as_str().map(str::to_owned);
        let number = |key: &str| keys.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let small = |key: &str| u32::try_from(number(key)).unwrap_or(u32::MAX);
        Ok(Self {
            protocol: small("protocol"),
            version: text("version").unwrap_or_default(),
            mac: text("mac").unwrap_or_default().parse()?,
            name: text("name"),
            stage: text("stage").and_then(|name| NodeStage::of_name(&name)),
            system: text("system"),
            done: number("done"),
            total: number("total"),
            peers: small("peers"),
            speed: number("speed"),
            problem: text("problem"),
        })
    }

    /// The body to send; a problem's text is cut to [`MAX_PROBLEM`].
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let raw = RawReport {
            protocol: self.protocol,
            version: self.version.clone(),
            mac: self.mac.to_string(),
            name: self.name.clone(),
            stage: self.stage.map(|stage| stage.name().to_owned()).unwrap_or_default(),
            system: self.system.clone(),
            done: self.done,
            total: self.total,
            peers: self.peers,
            speed: self.speed,
            problem: self.problem.as_deref().map(shorten),
        };
        serde_json::to_vec(&raw).expect("strings and numbers always serialise")
    }
}

fn shorten(text: &str) -> String {
    let end = (0..=MAX_PROBLEM.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn download() -> Report {
        Report {
            name: Some("pc07".into()),
            system: Some("a".into()),
            done: 5,
            total: 9,
            peers: 2,
            speed: 3,
            ..Report::new(MAC, NodeStage::Downloading)
        }
    }

    #[test]
    fn what_is_sent_is_read_back_the_same() {
        assert_eq!(Report::parse(&download().to_json()).expect("its own JSON"), download());
    }

    #[test]
    fn an_older_node_is_understood() {
        // As the first release's boot files wrote it, without a version.
        let body = br#"{"mac":"02:00:00:00:00:01","stage":"downloading","system":"a","done":5,"total":9,"peers":2,"speed":3}"#;
        let report = Report::parse(body).expect("an older node's report");
        assert_eq!((report.protocol, report.version.as_str()), (0, ""));
        assert_eq!(report.stage, Some(NodeStage::Downloading));
    }

    #[test]
    fn a_newer_node_is_understood_as_far_as_it_goes() {
        let body = br#"{"protocol":9,"version":"7.0","mac":"02:00:00:00:00:01","stage":"prefetching","battery":{"percent":50}}"#;
        let report = Report::parse(body).expect("a newer node's report");
        assert_eq!((report.protocol, report.stage), (9, None));
    }

    #[test]
    fn a_key_of_another_type_costs_only_itself() {
        let body = br#"{"protocol":9,"mac":"02:00:00:00:00:01","stage":{"name":"menu"},"speed":1.5,"problem":[]}"#;
        let report = Report::parse(body).expect("the rest counts");
        let expected = Report {
            protocol: 9,
            version: String::new(),
            stage: None,
            ..Report::new(MAC, NodeStage::Menu)
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn a_long_problem_is_cut_at_a_letter() {
        let problem = Some("ü".repeat(4000));
        let report = Report { problem, ..Report::new(MAC, NodeStage::Problem) };
        let body = report.to_json();
        let text = Report::parse(&body).expect("valid").problem.expect("a text");
        assert!(
            body.len() <= MAX_REPORT && text.len() <= MAX_PROBLEM && text.len() > MAX_PROBLEM - 4
        );
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let refused = |body: &[u8]| Report::parse(body).expect_err("refused").to_string();
        assert!(refused(b"[]").contains("cannot be read"));
        assert!(refused(br#"{"mac":"x","stage":"menu"}"#).contains("MAC address"));
        assert!(refused(&[b' '; MAX_REPORT + 1]).contains("4097 bytes"));
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>) {
            let _ = Report::parse(&body);
        }
    }
}
