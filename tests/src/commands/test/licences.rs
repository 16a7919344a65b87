//! Core: whether every dependency's licence is on the list of `deny.toml`.
//!
//! The file is cargo-deny's own, so whoever has that tool may run it as well. Only its sections
//! `[graph]` and `[licenses]` are read here, and a setting there that this check does not know is
//! refused, lest it be believed to count.

use serde::Deserialize;
use spdx::{Expression, Licensee, ParseMode};

/// What `deny.toml` says about licences.
#[derive(Debug)]
pub struct Policy {
    /// The targets whose dependencies count.
    pub targets: Vec<String>,
    allowed: Vec<Licensee>,
    /// Licences that one package alone may have.
    exceptions: Vec<(String, Vec<Licensee>)>,
}

#[derive(Deserialize)]
struct DenyToml {
    graph: Graph,
    licenses: Licenses,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Graph {
    targets: Vec<String>,
    #[serde(rename = "all-features")]
    all_features: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Licenses {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
    /// Of cargo-deny alone, which also guesses at the text of licence files.
    #[serde(rename = "confidence-threshold")]
    _confidence_threshold: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

/// A package, as `cargo metadata` describes it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

impl Policy {
    /// Reads `deny.toml`.
    ///
    /// # Errors
    /// When it is no TOML, or says something about licences that is not understood here.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: DenyToml = toml::from_str(text).map_err(|error| error.to_string())?;
        if !file.graph.all_features {
            return Err(
                "`all-features` must be true, or some dependencies are not checked".to_owned()
            );
        }
        let exceptions = file.licenses.exceptions;
        Ok(Self {
            targets: file.graph.targets,
            allowed: licensees(&file.licenses.allow)?,
            exceptions: exceptions
                .into_iter()
                .map(|it| Ok((it.name, licensees(&it.allow)?)))
                .collect::<Result<_, String>>()?,
        })
    }

    /// Every package whose licence is not allowed, one line each; and exceptions for none.
    pub fn violations(&self, packages: &[Package]) -> Vec<String> {
        let mut found: Vec<String> =
            packages.iter().filter_map(|package| self.violation(package)).collect();
        let is_used = |name: &str| packages.iter().any(|package| package.name == name);
        let idle = self.exceptions.iter().filter(|(name, _)| !is_used(name));
        found.extend(
            idle.map(|(name, _)| format!("{name} has an exception but is not a dependency")),
        );
        found
    }

    fn violation(&self, package: &Package) -> Option<String> {
        let Package { name, version, license } = package;
        let Some(license) = license else {
            return Some(format!("{name} {version} has no licence field"));
        };
        // Older packages still write `MIT/Apache-2.0`.
        let expression = match Expression::parse_mode(license, ParseMode::LAX) {
            Ok(expression) => expression,
            Err(error) => return Some(format!("{name} {version}: `{license}`: {}", error.reason)),
        };
        let own = self.exceptions.iter().filter(|(of, _)| of == name).flat_map(|(_, own)| own);
        let allowed: Vec<&Licensee> = self.allowed.iter().chain(own).collect();
        let is_allowed =
            expression.evaluate(|wanted| allowed.iter().any(|licensee| licensee.satisfies(wanted)));
        (!is_allowed).then(|| format!("{name} {version} is under {license}"))
    }
}

fn licensees(words: &[String]) -> Result<Vec<Licensee>, String> {
    words
        .iter()
        .map(|word| Licensee::parse(word).map_err(|error| format!("`{word}`: {}", error.reason)))
        .collect()
}

/// Reads the packages from what `cargo metadata` prints.
///
/// # Errors
/// When it is not what `cargo metadata` prints.
pub fn packages(metadata: &[u8]) -> Result<Vec<Package>, String> {
    let metadata: Metadata = serde_json::from_slice(metadata).map_err(|error| error.to_string())?;
    Ok(metadata.packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str = "[graph]\ntargets = [\"x86_64-unknown-linux-gnu\"]\nall-features = true\n\
                        [licenses]\nallow = [\"MIT\", \"GPL-3.0-or-later\"]\n\
                        exceptions = [{ crate = \"odd\", allow = [\"MPL-2.0\"] }]\n\
                        [bans]\nmultiple-versions = \"allow\"\n";

    fn check(name: &str, license: Option<&str>, expected: &[&str]) {
        let policy = Policy::parse(DENY).expect("it is cargo-deny's format");
        let package = |name: &str, license: Option<&str>| Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(str::to_owned),
        };
        let used = package("odd", Some("MIT"));
        assert_eq!(policy.violations(&[used, package(name, license)]), expected, "{license:?}");
    }

    #[test]
    fn what_is_on_the_list_passes() {
        check("a", Some("MIT"), &[]);
        check("a", Some("MIT OR Apache-2.0"), &[]);
        check("a", Some("MIT/Apache-2.0"), &[]);
        check("a", Some("GPL-3.0-or-later"), &[]);
    }

    #[test]
    fn everything_else_is_named() {
        check("a", Some("AGPL-3.0-only"), &["a 1.0.0 is under AGPL-3.0-only"]);
        check("a", Some("MIT AND BSD-3-Clause"), &["a 1.0.0 is under MIT AND BSD-3-Clause"]);
        check("a", None, &["a 1.0.0 has no licence field"]);
        let policy = Policy::parse(DENY).expect("it is cargo-deny's format");
        let nonsense = Package {
            name: "a".into(),
            version: "1.0.0".into(),
            license: Some("as you like".into()),
        };
        assert_eq!(policy.violations(&[nonsense]).len(), 2);
    }

    #[test]
    fn an_exception_is_for_one_package() {
        check("odd", Some("MPL-2.0"), &[]);
        check("a", Some("MPL-2.0"), &["a 1.0.0 is under MPL-2.0"]);
        let policy = Policy::parse(DENY).expect("it is cargo-deny's format");
        assert_eq!(policy.violations(&[]), ["odd has an exception but is not a dependency"]);
    }

    #[test]
    fn a_setting_that_would_not_count_is_refused() {
        let more = DENY.replace("[bans]", "private = { ignore = true }\n[bans]");
        assert!(Policy::parse(&more).is_err());
        assert!(Policy::parse(&DENY.replace("= true", "= false")).is_err());
        assert!(Policy::parse(&DENY.replace("MPL-2.0", "as you like")).is_err());
    }

    #[test]
    fn the_projects_own_policy_is_understood() {
        Policy::parse(include_str!("../../../../deny.toml")).expect("it is cargo-deny's format");
    }

    #[test]
    fn cargos_metadata_is_read() {
        let text =
            br#"{"packages": [{"name": "a", "version": "1.0.0", "license": "MIT", "id": "x"},
                        {"name": "b", "version": "2.0.0", "license": null}], "resolve": null}"#;
        let packages = packages(text).expect("it is understood");
        assert_eq!(packages[0].license.as_deref(), Some("MIT"));
        assert_eq!(packages[1].license, None);
        assert!(super::packages(b"{}").is_err());
    }
}
