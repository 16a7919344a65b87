//! Core: a node's journey as a `bt_catalog::Report`.

use bt_catalog::{Mac, Report};

use crate::journey::Journey;

/// The report of this state.
#[must_use]
pub fn report_of(journey: &Journey, mac: Mac, name: Option<&str>) -> Report {
    let mut report = Report::new(mac, journey.stage());
    report.name = name.map(str::to_owned);
    match journey {
        Journey::Downloading { system, progress, .. } => {
            report.system = Some(system.to_string());
            report.done = progress.done;
            report.total = progress.total;
            report.peers = u32::try_from(progress.peers).unwrap_or(u32::MAX);
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
            report.problem = Some(problem.to_string());
        }
        Journey::Connecting { .. } | Journey::Menu { .. } | Journey::Leaving { .. } => {}
    }
    report
}

/// Whether `later` is to be sent at once, and not with the next progress.
#[must_use]
pub fn changes_stage(earlier: &Report, later: &Report) -> bool {
    let key = |report: &Report| (report.stage, report.system.clone(), report.problem.clone());
    key(earlier) != key(later)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bt_catalog::NodeStage;

    use super::*;
    use crate::journey::{DownloadProgress, Menu, Problem};

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

    fn report(journey: &Journey) -> Report {
        report_of(journey, MAC, Some("pc07"))
    }

    #[test]
    fn a_download_is_reported_with_its_figures() {
        let progress = DownloadProgress {
            done: 5,
            total: 9,
            speed: 3,
            peers: 2,
            ..DownloadProgress::default()
        };
        let system = "a".parse().expect("an id");
        let sent = report(&Journey::Downloading { menu: menu(), system, progress });
        let expected = Report {
            name: Some("pc07".into()),
            system: Some("a".into()),
            done: 5,
            total: 9,
            peers: 2,
            speed: 3,
            ..Report::new(MAC, NodeStage::Downloading)
        };
        assert_eq!(sent, expected);
    }

    #[test]
    fn a_problem_is_reported_with_its_text() {
        let problem = Problem::internal("broken");
        let text = problem.to_string();
        let sent = report(&Journey::Stopped { menu: None, system: None, problem });
        assert_eq!((sent.stage, sent.problem), (Some(NodeStage::Problem), Some(text)));
    }

    #[test]
    fn progress_alone_is_no_change_of_stage() {
        let one = Report { done: 1, ..Report::new(MAC, NodeStage::Downloading) };
        assert!(!changes_stage(&one, &Report { done: 2, ..one.clone() }));
        assert!(changes_stage(&one, &Report { stage: Some(NodeStage::Verifying), ..one.clone() }));
    }
}
