//! Core: what a command hands back: one line for people, one JSON object for programs.

use serde_json::{Map, Value, json};

/// How one command went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whether everything it shows held.
    pub ok: bool,
    /// The one line that says what was seen.
    pub line: String,
    /// The figures, for `--json`.
    pub figures: Map<String, Value>,
}

impl Report {
    /// A report without figures.
    pub fn new(ok: bool, line: impl Into<String>) -> Self {
        Self { ok, line: line.into(), figures: Map::new() }
    }

    /// Adds a figure.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.figures.insert(name.into(), value.into());
        self
    }

    /// The JSON object: `ok`, the line, the figures, and how busy the machine was: the load of the
    /// last minute, and the seconds of CPU that the command and all it started have used.
    pub fn to_json(&self, load: f64, cpu_secs: f64) -> Value {
        let mut object = Map::new();
        object.insert("ok".into(), self.ok.into());
        object.insert("seen".into(), self.line.clone().into());
        object.extend(self.figures.clone());
        object.insert("load".into(), json!(load));
        object.insert("cpu".into(), json!(cpu_secs));
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_as_json_holds_verdict_figures_load_and_cpu() {
        let report = Report::new(true, "it boots").with("seconds", 12.5);
        let json = report.to_json(0.5, 3.0);
        assert_eq!(
            json,
            json!({"ok": true, "seen": "it boots", "seconds": 12.5, "load": 0.5, "cpu": 3.0})
        );
    }
}
