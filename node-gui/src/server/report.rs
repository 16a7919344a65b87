//! Core: what the node tells its server: the supervisor sees each PC's stage.

use serde::Serialize;

use crate::init::cmdline::Mac;
use crate::journey::Journey;

/// The longest problem text in bytes: a report stays below the server's 4 KiB.
const TEXT: usize = 500;

/// One report, as the server reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    stage: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    done: u64,
    total: u64,
    peers: usize,
    speed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Report {
    /// What there is to tell about this state.
    #[must_use]
    pub fn of(journey: &Journey, mac: Option<Mac>, name: Option<&str>) -> Self {
        let mut report = Self {
            mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
            name: name.map(str::to_owned),
            stage: journey.stage(),
            ..Self::default()
        };
        match journey {
            Journey::Downloading { system, progress, .. } => {
                report.system = Some(system.to_string());
                report.done = progress.done;
                report.total = progress.total;
                report.peers = progress.peers;
                report.speed = progress.speed;
            }
            Journey::Verifying { system, done, total, .. } => {
                report.system = Some(system.to_string());
                report.done = *done;
                report.total = *total;
            }
            Journey::Starting { system, .. } => report.system = Some(system.to_string()),
            Journey::Stopped { system, problem, .. } => {
                report.system = system.as_ref().map(ToString::to_string);
                report.problem = Some(shorten(&problem.to_string()));
            }
            Journey::Connecting { .. } | Journey::Menu { .. } | Journey::Leaving { .. } => {}
        }
        report
    }

    /// Whether `later` is worth a message of its own at once.
    #[must_use]
    pub fn changes_stage(&self, later: &Self) -> bool {
        (self.stage, &self.system, &self.problem) != (later.stage, &later.system, &later.problem)
    }
}

fn shorten(text: &str) -> String {
    let end = (0..=TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::journey::{Menu, Problem, Progress};

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn menu() -> Arc<Menu> {
        Arc::new(Menu {
            lab_name: "Lab".into(),
            room: None,
            node_name: None,
            address: None,
            systems: Vec::new(),
            default: None,
        })
    }

    fn json(journey: &Journey) -> serde_json::Value {
        serde_json::to_value(Report::of(journey, Some(MAC), Some("pc07"))).expect("plain values")
    }

    #[test]
    fn a_download_is_reported_with_its_figures() {
        let progress = Progress { done: 5, total: 9, speed: 3, peers: 2, ..Progress::default() };
        let system = "a".parse().expect("an id");
        let told = json(&Journey::Downloading { menu: menu(), system, progress });
        let expected = serde_json::json!({"mac": "02:00:00:00:00:01", "name": "pc07", "stage": "downloading",
            "system": "a", "done": 5, "total": 9, "peers": 2, "speed": 3});
        assert_eq!(told, expected);
    }

    #[test]
    fn a_long_problem_is_cut_at_a_letter() {
        let problem = Problem::internal("ü".repeat(4000));
        let told = json(&Journey::Stopped { menu: None, system: None, problem });
        let text = told["problem"].as_str().expect("a text");
        assert!(text.len() <= TEXT && text.len() > TEXT - 4);
        assert_eq!(told["stage"], "problem");
    }

    #[test]
    fn progress_alone_is_no_change_of_stage() {
        let one = Report { stage: "downloading", done: 1, ..Report::default() };
        assert!(!one.changes_stage(&Report { done: 2, ..one.clone() }));
        assert!(one.changes_stage(&Report { stage: "verifying", ..one.clone() }));
    }
}
