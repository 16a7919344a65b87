//! Core: the one-line records that a node and its system write to the serial console.
//!
//! A node writes `bt-node: step=<word> uptime=<s.ss> key=value …`; a value with spaces stands in
//! double quotes, with `\"` and `\\` inside. The sample system writes
//! `bt-sample: started cmdline=<everything to the end of the line>`.

use std::collections::BTreeMap;
use std::time::Duration;

/// One step of a node, and when the lab saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// `init`, `modules`, `network`, `catalog`, `menu`, `chosen`, `download`, …
    pub word: String,
    /// The other values of the line, `uptime` among them.
    pub fields: BTreeMap<String, String>,
    /// Since power-on, by the lab's clock.
    pub seen: Duration,
}

impl Step {
    /// Reads a step from a serial line, wherever in the line it stands.
    pub fn parse(line: &str, seen: Duration) -> Option<Self> {
        let record = line.split_once("bt-node: ")?.1;
        let mut fields = parse_fields(record);
        let word = fields.remove("step")?;
        Some(Self { word, fields, seen })
    }

    /// One value of the line, empty when it is not there.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

/// Reads the kernel command line from the sample system's record.
pub fn parse_started(line: &str) -> Option<&str> {
    line.split_once("bt-sample: started cmdline=").map(|(_, cmdline)| cmdline.trim_end())
}

/// Splits `key=value key="two words"` into its pairs; what is no pair is passed over.
fn parse_fields(record: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut rest = record.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.rsplit(' ').next().unwrap_or(key);
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => take_quoted(quoted),
            None => {
                let (value, left) = after.split_once(' ').unwrap_or((after, ""));
                (value.to_owned(), left)
            }
        };
        fields.insert(key.to_owned(), value);
        rest = left.trim_start();
    }
    fields
}

/// Takes text up to the closing quote and undoes its escapes; a missing quote ends at the line's end.
fn take_quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            _ => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(line: &str) -> Option<Step> {
        Step::parse(line, Duration::from_secs(1))
    }

    #[test]
    fn a_step_has_a_word_and_its_values() {
        let step = step("bt-node: step=menu uptime=4.20 systems=4").expect("a step");
        assert_eq!(step.word, "menu");
        assert_eq!(step.field("uptime"), "4.20");
        assert_eq!(step.field("systems"), "4");
        assert_eq!(step.field("absent"), "");
    }

    #[test]
    fn kernel_words_before_a_step_do_not_hide_it() {
        let found = step("[    3.1] usb 1-1: bt-node: step=network uptime=3.10 ip=10.77.0.50");
        assert_eq!(found.expect("a step").field("ip"), "10.77.0.50");
    }

    #[test]
    fn quoted_text_keeps_its_spaces_and_quotes() {
        let found = step(r#"bt-node: step=problem text="the \"lab\" is a=b" kind=NoServer"#);
        let found = found.expect("a step");
        assert_eq!(found.field("text"), r#"the "lab" is a=b"#);
        assert_eq!(found.field("kind"), "NoServer");
    }

    #[test]
    fn a_quote_that_never_ends_takes_the_rest_of_the_line() {
        let found = step(r#"bt-node: step=problem text="cut off"#).expect("a step");
        assert_eq!(found.field("text"), "cut off");
    }

    #[test]
    fn other_lines_are_no_steps() {
        assert_eq!(step("Linux version 6.1.0"), None);
        assert_eq!(step("bt-node: hello"), None);
    }

    #[test]
    fn the_started_system_reports_its_complete_command_line() {
        let line = "bt-sample: started cmdline=console=tty0 console=ttyS0 quiet\r";
        assert_eq!(parse_started(line), Some("console=tty0 console=ttyS0 quiet"));
    }
}
