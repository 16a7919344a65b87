//! Core: `manifest.toml` as a checked list; nothing half-valid gets out.
//!
//! The manifest says which files, links, devices and kernel modules the image holds. Reading the
//! files and finding out what the modules depend on is `build.rs`'s work.

use std::collections::BTreeSet;

use serde::Deserialize;
use toml::Spanned;

/// The image of a node, as this package was built with it.
pub const NODE: &str = include_str!("../manifest.toml");

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
#[error("manifest line {line}: {cause}")]
pub struct ManifestError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong there, and what is right.
    pub cause: String,
}

/// A checked manifest.
#[derive(Debug)]
pub struct Manifest {
    /// Folders, each after the one it is in.
    pub folders: Vec<String>,
    /// Regular files in the manifest's order.
    pub files: Vec<File>,
    /// Symbolic links: path and target.
    pub links: Vec<(String, String)>,
    /// Character devices.
    pub devices: Vec<Device>,
    /// Kernel modules, in groups.
    pub modules: Vec<ModuleGroup>,
    /// Kernel modules that must not get in, not even as a dependency.
    pub never: Vec<String>,
}

/// A regular file of the image.
#[derive(Debug)]
pub struct File {
    /// The line of the size table it counts for.
    pub group: String,
    /// Absolute path in the image.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Where its bytes come from.
    pub source: Source,
}

/// Where a file's bytes come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Source {
    /// An input of the build, named without braces: `node`.
    Input(String),
    /// A file in an input that is a folder: input and file name.
    InFolder(String, String),
    /// A file kept with this package.
    Kept(String),
    /// These words, with placeholders.
    Text(String),
}

/// A character device node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Absolute path in the image.
    pub path: String,
    #[serde(deserialize_with = "octal")]
    /// Permission bits.
    pub mode: u32,
    /// Which driver.
    pub major: u32,
    /// Which of the driver's devices.
    pub minor: u32,
}

/// Kernel modules that belong together.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleGroup {
    /// The line of the size table they count for.
    pub group: String,
    /// Module names.
    #[serde(default)]
    pub names: Vec<String>,
    /// Folders below `lib/modules/VERSION`, with all that is in them.
    #[serde(default)]
    pub folders: Vec<String>,
    /// What to leave out of the folders.
    #[serde(default)]
    pub except: Vec<String>,
    /// Whether their firmware is taken along where the building machine has it.
    #[serde(default)]
    pub firmware: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    folders: Vec<Spanned<String>>,
    files: Vec<Spanned<RawFile>>,
    devices: Vec<Spanned<Device>>,
    links: Vec<Links>,
    #[serde(default)]
    modules: Vec<ModuleGroup>,
    #[serde(default)]
    never: Never,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    group: String,
    path: String,
    #[serde(deserialize_with = "octal")]
    mode: u32,
    from: Option<String>,
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Links {
    folder: String,
    to: String,
    names: Vec<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Never {
    names: Vec<String>,
}

fn octal<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let text = String::deserialize(from)?;
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| {
        serde::de::Error::custom(format!(
            "`{text}` is not a file mode: write octal digits, as in \"0755\""
        ))
    })
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let raw: RawManifest = toml::from_str(text).map_err(|e| {
            refuse(text, e.span().map_or(0, |span| span.start), e.message().to_owned())
        })?;
        let mut seen = Seen { text, paths: BTreeSet::new(), folders: BTreeSet::from(["".into()]) };
        for folder in &raw.folders {
            seen.take(folder.get_ref(), folder.span().start)?;
            seen.folders.insert(folder.get_ref().clone());
        }
        let mut files = Vec::new();
        for file in raw.files {
            let at = file.span().start;
            files.push(seen.file(file.into_inner(), at)?);
        }
        let mut devices = Vec::new();
        for device in raw.devices {
            seen.take(&device.get_ref().path, device.span().start)?;
            devices.push(device.into_inner());
        }
        let mut links = Vec::new();
        for Links { folder, to, names } in raw.links {
            for name in names {
                let path = format!("{folder}/{}", name.get_ref());
                seen.take(&path, name.span().start)?;
                links.push((path, to.clone()));
            }
        }
        let folders = raw.folders.into_iter().map(Spanned::into_inner).collect();
        let never = raw.never.names;
        Ok(Self { folders, files, links, devices, modules: raw.modules, never })
    }

    /// The module group of this name.
    pub fn module_group(&self, group: &str) -> Option<&ModuleGroup> {
        self.modules.iter().find(|g| g.group == group)
    }
}

/// What the manifest has named so far.
struct Seen<'a> {
    text: &'a str,
    paths: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl Seen<'_> {
    /// Takes one more path: absolute, plain, new, and in a folder that is already there.
    fn take(&mut self, path: &str, at: usize) -> Result<(), ManifestError> {
        let Some((folder, name)) = path.rsplit_once('/') else {
            return Err(refuse(self.text, at, format!("`{path}` must begin with a slash")));
        };
        if name.is_empty() || path.split('/').any(|part| part == "." || part == "..") {
            return Err(refuse(self.text, at, format!("`{path}` is not a plain path")));
        }
        if !self.folders.contains(folder) {
            let cause = format!("`{path}` is in `{folder}`, which `folders` does not name before");
            return Err(refuse(self.text, at, cause));
        }
        if !self.paths.insert(path.to_owned()) {
            return Err(refuse(self.text, at, format!("`{path}` is there twice")));
        }
        Ok(())
    }

    fn file(&mut self, raw: RawFile, at: usize) -> Result<File, ManifestError> {
        self.take(&raw.path, at)?;
        let source = match (raw.from, raw.text) {
            (Some(from), None) => self.source(&from, at)?,
            (None, Some(text)) => Source::Text(text),
            _ => {
                let cause = format!("`{}` needs either `from` or `text`", raw.path);
                return Err(refuse(self.text, at, cause));
            }
        };
        Ok(File { group: raw.group, path: raw.path, mode: raw.mode, source })
    }

    fn source(&self, from: &str, at: usize) -> Result<Source, ManifestError> {
        let parts = from.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        match parts {
            Some((input, "")) => Ok(Source::Input(input.to_owned())),
            Some((input, rest)) if rest.starts_with('/') && !rest[1..].contains('/') => {
                let name = rest[1..].to_owned();
                Ok(if input == "files" {
                    Source::Kept(name)
                } else {
                    Source::InFolder(input.to_owned(), name)
                })
            }
            _ => {
                let cause = format!("`{from}` is neither {{input}} nor {{input}}/file");
                Err(refuse(self.text, at, cause))
            }
        }
    }
}

fn refuse(text: &str, at: usize, cause: String) -> ManifestError {
    ManifestError { line: bt_catalog::position(text, at).0, cause }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A small manifest with this line among its files, which is line 3.
    fn with_file(line: &str) -> String {
        format!(
            "folders = [\"/bin\"]\nfiles = [\n{line}\n]\ndevices = []\n[[links]]\nfolder = \"/bin\"\n\
             to = \"busybox\"\nnames = [\"sh\"]\n[[modules]]\ngroup = \"input\"\n\
             names = [\"evdev\"]\n[never]\nnames = []\n"
        )
    }

    fn refused(file: &str, line: usize, part: &str) {
        let error = Manifest::parse(&with_file(file)).expect_err("must be refused");
        assert_eq!(error.line, line, "{error}");
        assert!(error.cause.contains(part), "{error}");
    }

    #[test]
    fn the_nodes_manifest_is_good() {
        let manifest = Manifest::parse(NODE).expect("the manifest of this package");
        assert!(manifest.files.iter().any(|f| f.path == "/init" && f.mode == 0o755));
        assert!(manifest.links.contains(&("/bin/modprobe".into(), "busybox".into())));
        assert!(manifest.module_group("network").is_some_and(|g| g.firmware));
        assert!(manifest.never.iter().any(|name| name == "amdgpu"));
    }

    #[test]
    fn each_error_names_its_line() {
        refused(r#"{ group = "a", path = "init", mode = "0755", from = "{node}" }"#, 3, "slash");
        refused(r#"{ group = "a", path = "/x/a", mode = "0755", from = "{node}" }"#, 3, "`/x`");
        refused(
            r#"{ group = "a", path = "/bin/../a", mode = "0755", from = "{node}" }"#,
            3,
            "plain",
        );
        refused(r#"{ group = "a", path = "/bin", mode = "0755", from = "{node}" }"#, 3, "twice");
        refused(r#"{ group = "a", path = "/a", mode = "888", from = "{node}" }"#, 3, "octal");
        refused(r#"{ group = "a", path = "/a", mode = "0755" }"#, 3, "either");
        refused(r#"{ group = "a", path = "/a", mode = "0755", from = "node" }"#, 3, "{input}");
        refused(r#"{ group = "a", path = "/a", mode = "0755", form = "{node}" }"#, 3, "form");
        refused(r#"{ group = "a", path = "/bin/sh", mode = "0755", text = "" }"#, 9, "twice");
    }

    #[test]
    fn a_source_is_an_input_a_file_in_one_or_a_kept_file() {
        let parse = |from: &str| {
            let line = format!(r#"{{ group = "a", path = "/a", mode = "0644", from = "{from}" }}"#);
            Manifest::parse(&with_file(&line)).map(|mut m| m.files.remove(0).source)
        };
        assert_eq!(parse("{node}").expect("good"), Source::Input("node".into()));
        let regular = Source::InFolder("font".into(), "I.otf".into());
        assert_eq!(parse("{font}/I.otf").expect("good"), regular);
        assert_eq!(parse("{files}/s").expect("good"), Source::Kept("s".into()));
        assert!(parse("{font}/../I.otf").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[\\[\\]{}=\"a-z/\n ]{0,60}") {
            prop_assert!(Manifest::parse(&text).is_err());
        }

        #[test]
        fn a_cut_manifest_is_refused_within_its_lines(cut in 0..NODE.len()) {
            let Some(text) = NODE.get(..cut) else { return Ok(()) };
            if let Err(error) = Manifest::parse(text) {
                prop_assert!(error.line >= 1 && error.line <= text.lines().count() + 1);
            }
        }
    }
}
