//! Core: what the doctor has seen, as text and as JSON.

use serde::Serialize;

/// A line is broken before it gets longer than this.
const WIDTH: usize = 100;
/// Parts are written in a column of this width.
const PART: usize = 12;

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

    /// Select Graphic Rendition (ECMA-48 §8.3.117): green, yellow, bold red.
    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "32",
            Self::Warn => "33",
            Self::Fail => "1;31",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Observation {
    /// Under which heading: `this machine`.
    pub section: &'static str,
    /// Which part: `link`, `dhcp`, `UEFI`.
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
    #[serde(skip)]
    section: &'static str,
    #[serde(skip)]
    card: Option<String>,
    observations: Vec<Observation>,
}

impl Diagnosis {
    /// What follows belongs under this heading.
    pub fn section(&mut self, name: &'static str) {
        self.section = name;
    }

    /// What follows was seen at this network card, which each finding then names.
    pub fn at_card(&mut self, name: Option<&str>) {
        self.card = name.map(str::to_owned);
    }

    /// Something is as it should be.
    pub fn good(&mut self, part: &'static str, what: String) {
        self.add(part, Verdict::Ok, what, None);
    }

    /// Something is worth knowing.
    pub fn warn(&mut self, part: &'static str, what: String, remedy: impl Into<String>) {
        self.add(part, Verdict::Warn, what, Some(remedy.into()));
    }

    /// Something keeps PCs from booting.
    pub fn fail(&mut self, part: &'static str, what: String, remedy: impl Into<String>) {
        self.add(part, Verdict::Fail, what, Some(remedy.into()));
    }

    fn add(&mut self, part: &'static str, verdict: Verdict, what: String, remedy: Option<String>) {
        let what = match &self.card {
            Some(card) => format!("{card}: {what}"),
            None => what,
        };
        self.observations.push(Observation { section: self.section, part, verdict, what, remedy });
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

    /// A heading for each section, one line for each observation, its remedy below it, and the
    /// result. Colours only repeat what the words say.
    pub fn text(&self, has_colour: bool) -> String {
        let paint = |code: &str, text: &str| match has_colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        };
        let mut lines = Vec::new();
        let mut section = "";
        for it in &self.observations {
            if it.section != section {
                section = it.section;
                lines.push(paint("1", section));
            }
            let verdict = paint(it.verdict.colour(), &format!("{:4}", it.verdict.word()));
            let indent = 2 + 4 + 2 + PART + 1;
            let mut broken = it.what.lines().flat_map(|line| wrapped(line, WIDTH - indent));
            let first = broken.next().unwrap_or_default();
            lines.push(format!("  {verdict}  {:PART$} {first}", it.part));
            lines.extend(broken.map(|line| format!("{:indent$}{line}", "")));
            let remedy = it.remedy.iter().flat_map(|text| wrapped(text, WIDTH - indent - 3));
            lines.extend(remedy.enumerate().map(|(at, line)| {
                format!("{:indent$}{} {line}", "", if at == 0 { "->" } else { "  " })
            }));
        }
        let (failures, warnings) = (self.count(Verdict::Fail), self.count(Verdict::Warn));
        let (verdict, result) = match (failures, warnings) {
            (0, 0) => {
                (Verdict::Ok, "All good: nothing was found that prevents a PC from booting".into())
            }
            (0, warnings) => (
                Verdict::Warn,
                format!("Nothing was found that prevents a PC from booting; warnings: {warnings}"),
            ),
            (1, _) => (Verdict::Fail, "1 finding prevents PCs from booting".to_owned()),
            (failures, _) => {
                (Verdict::Fail, format!("{failures} findings prevent PCs from booting"))
            }
        };
        lines.push(paint(verdict.colour(), &result));
        lines.join("\n")
    }
}

/// Breaks a text between words; a word longer than `width` stays whole, so that it can be copied.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis() -> Diagnosis {
        let mut found = Diagnosis::default();
        found.section("this machine");
        found.good("link", "eth0 is up".to_owned());
        found.section("the server");
        found.fail("http", "no answer".to_owned(), "`bt-server start`");
        found
    }

    #[test]
    fn words_stand_in_columns_below_headings_and_remedies_below_them() {
        let expected = "this machine\n  ok    link         eth0 is up\n\
            the server\n  FAIL  http         no answer\n                     -> `bt-server start`\n\
            1 finding prevents PCs from booting";
        assert_eq!(diagnosis().text(false), expected);
    }

    #[test]
    fn colours_change_no_word() {
        let mut plain = String::new();
        let coloured = diagnosis().text(true);
        for (at, part) in coloured.split('\x1b').enumerate() {
            plain.push_str(if at == 0 { part } else { part.split_once('m').expect("a code").1 });
        }
        assert_eq!(plain, diagnosis().text(false));
    }

    #[test]
    fn long_texts_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("a-word-that-is-too-long x", 8), ["a-word-that-is-too-long", "x"]);
        let mut found = Diagnosis::default();
        found.warn("x", "word ".repeat(60), "help ".repeat(60));
        assert!(found.text(false).lines().all(|line| line.len() <= WIDTH), "{}", found.text(false));
    }

    #[test]
    fn findings_name_their_card_where_there_are_several() {
        let mut found = Diagnosis::default();
        found.at_card(Some("eth1"));
        found.fail("UEFI", "no answer".to_owned(), "look");
        found.at_card(None);
        found.good("clock", "noon".to_owned());
        let what: Vec<_> = found.observations().iter().map(|it| it.what.as_str()).collect();
        assert_eq!(what, ["eth1: no answer", "noon"]);
    }

    #[test]
    fn one_failure_is_enough_and_a_warning_is_none() {
        assert!(!diagnosis().boots());
        let mut found = Diagnosis::default();
        found.warn("disk", "nearly full".to_owned(), "make room");
        assert!(found.boots() && found.text(false).ends_with("warnings: 1"));
        let json = serde_json::to_value(diagnosis()).expect("plain data");
        assert_eq!(json["observations"][1]["verdict"], "fail");
        assert_eq!(json["observations"][1]["section"], "the server");
    }
}
