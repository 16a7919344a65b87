//! Core: what the doctor has seen, as text and as JSON.

use serde::Serialize;

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// PCs boot, but something is worth knowing.
    Warn,
    /// PCs do not boot.
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Observation {
    /// Which part of the way: `link`, `dhcp`, `tftp`.
    pub part: &'static str,
    /// How good it is.
    pub verdict: Verdict,
    /// What was seen.
    pub what: String,
    /// What helps; absent where nothing is wrong.
    pub remedy: Option<String>,
}

/// Everything that was looked at, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    observations: Vec<Observation>,
}

impl Diagnosis {
    /// Something is as it should be.
    pub fn good(&mut self, part: &'static str, what: String) {
        self.observations.push(Observation { part, verdict: Verdict::Ok, what, remedy: None });
    }

    /// Something is worth knowing.
    pub fn warn(&mut self, part: &'static str, what: String, remedy: impl Into<String>) {
        self.add(part, Verdict::Warn, what, remedy.into());
    }

    /// Something keeps PCs from booting.
    pub fn fail(&mut self, part: &'static str, what: String, remedy: impl Into<String>) {
        self.add(part, Verdict::Fail, what, remedy.into());
    }

    /// Takes a step of the way: what was seen, or why it failed; the value goes on to the next step.
    pub fn step<T>(
        &mut self,
        part: &'static str,
        remedy: &str,
        step: Result<(T, String), String>,
    ) -> Option<T> {
        match step {
            Ok((value, what)) => {
                self.good(part, what);
                Some(value)
            }
            Err(why) => {
                self.fail(part, why, remedy);
                None
            }
        }
    }

    fn add(&mut self, part: &'static str, verdict: Verdict, what: String, remedy: String) {
        self.observations.push(Observation { part, verdict, what, remedy: Some(remedy) });
    }

    /// What was seen, in order.
    pub fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// Whether nothing was found that keeps a PC from booting.
    pub fn boots(&self) -> bool {
        self.count(Verdict::Fail) == 0
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.observations.iter().filter(|it| it.verdict == verdict).count()
    }

    /// One line for each observation, its remedy below it, and the result.
    pub fn text(&self) -> String {
        let width = self.observations.iter().map(|it| it.part.len()).max().unwrap_or(0);
        let mut lines = Vec::new();
        for Observation { part, verdict, what, remedy } in &self.observations {
            let mut parts = what.lines();
            let first = parts.next().unwrap_or_default();
            lines.push(format!("{:4}  {part:width$}  {first}", verdict.word()));
            let indent = " ".repeat(4 + 2 + width + 2);
            lines.extend(parts.map(|line| format!("{indent}{line}")));
            lines.extend(remedy.iter().map(|remedy| format!("{indent}-> {remedy}")));
        }
        let result = match (self.count(Verdict::Fail), self.count(Verdict::Warn)) {
            (0, 0) => "all good: nothing was found that keeps a PC from booting".to_owned(),
            (0, warnings) => {
                format!("nothing was found that keeps a PC from booting; warnings: {warnings}")
            }
            (1, _) => "1 finding keeps PCs from booting".to_owned(),
            (failures, _) => format!("{failures} findings keep PCs from booting"),
        };
        lines.push(result);
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis() -> Diagnosis {
        let mut found = Diagnosis::default();
        found.good("link", "eth0 is up".to_owned());
        found.fail("http", "no answer".to_owned(), "`bt-server start`");
        found
    }

    #[test]
    fn words_stand_in_columns_and_remedies_below() {
        let expected = "ok    link  eth0 is up\n\
            FAIL  http  no answer\n            -> `bt-server start`\n\
            1 finding keeps PCs from booting";
        assert_eq!(diagnosis().text(), expected);
    }

    #[test]
    fn one_failure_is_enough_and_a_warning_is_none() {
        assert!(!diagnosis().boots());
        let mut found = Diagnosis::default();
        found.warn("disk", "nearly full".to_owned(), "make room");
        assert!(found.boots() && found.text().ends_with("warnings: 1"));
    }

    #[test]
    fn a_step_passes_its_value_on_or_says_what_helps() {
        let mut found = Diagnosis::default();
        assert_eq!(found.step("tftp", "look", Ok((7, "fetched".to_owned()))), Some(7));
        assert_eq!(found.step::<u8>("tftp", "look", Err("silence".to_owned())), None);
        assert_eq!(found.observations()[1].remedy.as_deref(), Some("look"));
        let json = serde_json::to_value(&found).expect("plain data");
        assert_eq!(json["observations"][1]["verdict"], "fail");
    }
}
