//! Core: what a command hands back: one line for people, one JSON object for programs.

use serde_json::{Map, Value, json};

/// How one command went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether everything it shows held.
    pub ok: bool,
    /// The one line that says what was seen.
    pub line: String,
    /// The figures, for `--json`.
    pub figures: Map<String, Value>,
}

impl Outcome {
    /// An outcome without figures.
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

/// The middle one of an odd number of figures; NaN of none.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A number of runs as a word of the command line. Of an even number, no figure would be the median.
pub fn odd_runs(word: &str) -> Result<u32, String> {
    match word.parse() {
        Ok(runs @ 1..=99) if runs % 2 == 1 => Ok(runs),
        _ => Err("expected an odd number from 1 to 99, so that one run is the median".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_figure() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![7.0]), 7.0);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn only_an_odd_number_of_runs_has_a_median() {
        assert_eq!(odd_runs("3"), Ok(3));
        for word in ["0", "2", "-1", "100", "three"] {
            assert!(odd_runs(word).is_err(), "{word}");
        }
    }

    #[test]
    fn an_outcome_as_json_holds_verdict_figures_load_and_cpu() {
        let outcome = Outcome::new(true, "it boots").with("seconds", 12.5);
        let json = outcome.to_json(0.5, 3.0);
        assert_eq!(
            json,
            json!({"ok": true, "seen": "it boots", "seconds": 12.5, "load": 0.5, "cpu": 3.0})
        );
    }
}
