//! Core: the journey as single lines, for a console where no picture can be shown.

use crate::journey::{Connecting, Journey, Leaving};

/// What to print for this state; equal lines need not be printed again.
#[must_use]
pub fn line(journey: &Journey) -> String {
    match journey {
        Journey::Connecting { what, detail } => {
            let what = match what {
                Connecting::Drivers => "Starting",
                Connecting::Network => "Connecting to the network",
                Connecting::Catalog => "Fetching the list of systems",
            };
            if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
        }
        Journey::Menu { menu, countdown } => match countdown {
            Some(countdown) => format!("{} will start automatically", countdown.system),
            None => format!(
                "{}: {} systems, but no screen to choose one on. Ask your supervisor to set a preset.",
                menu.lab_name,
                menu.systems.len()
            ),
        },
        Journey::Downloading { system, progress, .. } => {
            // Steps of five percent, so that a slow console is not flooded.
            let percent = progress.done.saturating_mul(100) / progress.total.max(1) / 5 * 5;
            format!("Downloading {system}: {percent} %")
        }
        Journey::Verifying { system, .. } => format!("Verifying {system}"),
        Journey::Starting { system, .. } => format!("Starting {system}"),
        Journey::Stopped { problem, .. } => format!(
            "{}\n  {}\n  {}\n  ({})",
            problem.what, problem.why, problem.next_step, problem.detail
        ),
        Journey::Leaving { how: Leaving::PowerOff } => "Powering off".to_owned(),
        Journey::Leaving { how: Leaving::Restart } => "Restarting".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journey::problem::Problem;

    #[test]
    fn a_problem_is_shown_with_its_cause_and_next_step() {
        let journey =
            Journey::Stopped { menu: None, system: None, problem: Problem::internal("errno 5") };
        let text = line(&journey);
        assert!(
            text.contains("went wrong") && text.contains("Try again") && text.contains("errno 5")
        );
    }

    #[test]
    fn waiting_says_for_what() {
        let detail = "Waiting for the network cable at eth0 (3 s).".to_owned();
        let journey = Journey::Connecting { what: Connecting::Network, detail };
        assert!(line(&journey).ends_with("eth0 (3 s)."));
        assert_eq!(line(&Journey::begin()), "Starting");
    }
}
