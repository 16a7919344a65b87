//! Core: which steps and scenarios the words of `--only` name.

use std::fmt::Write;

/// A part of the tests that is no scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Formatting.
    Format,
    /// Lints, documentation, licences.
    Lints,
    /// Unit tests and tests of one package.
    Unit,
}

impl Step {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 3] = [Self::Format, Self::Lints, Self::Unit];

    /// As `--only` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Lints => "lints",
            Self::Unit => "unit",
        }
    }

    /// What holds when it passes.
    pub fn what(self) -> &'static str {
        match self {
            Self::Format => "the code is formatted with rustfmt",
            Self::Lints => {
                "clippy and rustdoc report no warnings; every dependency's licence is allowed"
            }
            Self::Unit => "the tests of all packages pass",
        }
    }
}

/// What is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Steps, in their order.
    pub steps: Vec<Step>,
    /// Names of scenarios, in their order.
    pub scenarios: Vec<&'static str>,
}

impl Choice {
    /// Of no words, everything. Each word is the name of a step, or a part of a scenario's name.
    ///
    /// # Errors
    /// When a word names nothing; the message names what is spelt alike.
    pub fn of(words: &[String], scenarios: &[&'static str]) -> Result<Self, String> {
        if words.is_empty() {
            return Ok(Self { steps: Step::ALL.into(), scenarios: scenarios.into() });
        }
        let is_step = |step: Step, word: &String| step.name() == word;
        let is_scenario = |name: &str, word: &String| !word.is_empty() && name.contains(&**word);
        for word in words {
            let is_known = Step::ALL.into_iter().any(|step| is_step(step, word))
                || scenarios.iter().any(|name| is_scenario(name, word));
            if !is_known {
                return Err(unknown(word, scenarios));
            }
        }
        // The name of a step is not meant as a part of a scenario's.
        let parts: Vec<&String> = words
            .iter()
            .filter(|word| !Step::ALL.into_iter().any(|step| is_step(step, word)))
            .collect();
        let steps = Step::ALL.into_iter().filter(|step| words.iter().any(|it| is_step(*step, it)));
        let scenarios =
            scenarios.iter().filter(|name| parts.iter().any(|it| is_scenario(name, it)));
        Ok(Self { steps: steps.collect(), scenarios: scenarios.copied().collect() })
    }
}

/// At most so many names are suggested.
const SUGGESTIONS: usize = 4;
/// From here on two words count as spelt alike (Jaro and Winkler's measure, 0 to 1); clap asks 0.7 of
/// its commands, but many of our names begin alike.
const ALIKE: f64 = 0.85;

fn unknown(word: &str, scenarios: &[&str]) -> String {
    let names = Step::ALL.iter().map(|step| step.name()).chain(scenarios.iter().copied());
    let mut near: Vec<(f64, &str)> =
        names.map(|name| (likeness(word, name), name)).filter(|it| it.0 >= ALIKE).collect();
    near.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut text = format!("unknown step or scenario `{word}`");
    if !near.is_empty() {
        let near: Vec<&str> = near.iter().take(SUGGESTIONS).map(|it| it.1).collect();
        write!(text, "; did you mean {}?", near.join(", ")).expect("a String takes everything");
    }
    text + "; `cargo lab test --list` lists all names"
}

/// How much a word is like a name or one of its parts.
fn likeness(word: &str, name: &str) -> f64 {
    let parts = name.split('-').chain([name]);
    parts.map(|part| strsim::jaro_winkler(word, part)).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["daemon", "boot-bios", "boot-uefi", "boot-uefi-proxy", "minisign"];

    fn check(words: &[&str], steps: &[Step], scenarios: &[&str]) {
        let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
        let choice = Choice::of(&words, NAMES).expect("the names are known");
        assert_eq!((&choice.steps[..], &choice.scenarios[..]), (steps, scenarios), "{words:?}");
    }

    #[test]
    fn without_a_word_everything_runs() {
        check(&[], &Step::ALL, NAMES);
    }

    #[test]
    fn a_word_is_a_step_or_a_part_of_a_scenarios_name() {
        check(&["unit"], &[Step::Unit], &[]);
        check(&["boot-uefi"], &[], &["boot-uefi", "boot-uefi-proxy"]);
        check(&["boot"], &[], &["boot-bios", "boot-uefi", "boot-uefi-proxy"]);
        check(
            &["minisign", "lints", "daemon", "format"],
            &[Step::Format, Step::Lints],
            &["daemon", "minisign"],
        );
    }

    fn refusal(word: &str) -> String {
        Choice::of(&["unit".into(), word.into()], NAMES).expect_err("nothing is called so")
    }

    #[test]
    fn an_unknown_word_is_refused_with_the_names_that_are_spelt_alike() {
        assert!(refusal("lint").contains("did you mean lints?"), "{}", refusal("lint"));
        assert!(refusal("minsign").contains("did you mean minisign?"), "{}", refusal("minsign"));
        assert!(refusal("boot-uefy").contains("boot-uefi"), "{}", refusal("boot-uefy"));
        assert!(refusal("deamon").contains("daemon"), "{}", refusal("deamon"));
    }

    #[test]
    fn a_word_that_is_like_nothing_is_refused_without_a_guess() {
        let text = refusal("xylophone");
        assert!(text.contains("`xylophone`") && !text.contains("did you mean"), "{text}");
        assert!(!refusal("").is_empty());
    }
}
