//! Shell: the style guide's rules that a machine can check, over every tracked file.

mod layout;
mod planted_faults;
mod source_tree;
mod words;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use source_tree::SourceTree;

/// This workspace, read once.
static TREE: LazyLock<SourceTree> = LazyLock::new(|| SourceTree::read(&workspace()));

/// The workspace's folder.
fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the package lies in the workspace's folder").to_owned()
}

/// Every source file below a package's `src` folder, its name from the workspace, and its text.
fn sources(extension: &str) -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for entry in walkdir::WalkDir::new(workspace()).sort_by_file_name() {
        let entry = entry.expect("the checkout is readable");
        let path = entry.path().strip_prefix(workspace()).expect("it lies inside");
        let is_ours = !path.starts_with("target") && !path.starts_with(".git");
        if is_ours && path.extension().is_some_and(|it| it == extension) {
            let text = std::fs::read_to_string(entry.path()).expect("source files are text");
            sources.push((path.display().to_string(), text));
        }
    }
    assert!(!sources.is_empty(), "no .{extension} file was found");
    sources
}

/// Fails with every place that breaks a rule, one per line.
fn assert_none(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

#[test]
fn every_module_says_whether_it_is_core_or_shell() {
    let rule = "begin each file with `//! Core:` or `//! Shell:`, and divide what is both";
    assert_none(rule, layout::unmarked(&TREE));
}

#[test]
fn every_source_file_belongs_to_a_module() {
    assert_none("no `mod` leads to these files", layout::orphans(&TREE));
}

#[test]
fn cores_do_no_input_or_output() {
    let rule = "a core has no clock, files, network, threads or log";
    assert_none(rule, layout::cores_with_input_or_output(&TREE));
}

#[test]
fn cores_stand_on_cores() {
    let rule = "a core imports no shell: move what it needs into a core of its own";
    assert_none(rule, layout::cores_on_shells(&TREE));
}

#[test]
fn no_files_of_a_package_import_each_other_in_a_circle() {
    let rule = "open each circle: move what both need into a file below them";
    assert_none(rule, layout::circles(&TREE));
}

#[test]
fn no_file_is_longer_than_one_idea() {
    let rule = format!("more than {} lines of code without tests", layout::MAX_CODE_LINES);
    assert_none(&rule, layout::long_files(&TREE));
}

#[test]
fn tests_stand_at_the_end_of_a_file() {
    assert_none("move `#[cfg(test)]` to the end", layout::early_tests(&TREE));
}

#[test]
fn modules_with_children_are_called_mod_rs() {
    let rule = "move the file into its folder as `mod.rs`";
    assert_none(rule, layout::modules_beside_their_folder(&TREE));
}

#[test]
fn an_import_names_one_module() {
    let rule = "write one module's path a line; braces list names only";
    assert_none(rule, layout::nested_imports(&TREE));
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let mut broken = Vec::new();
    for file in &TREE.files {
        for (line, _) in file.methods.iter().filter(|(_, method)| method == "unwrap") {
            broken.push(format!("{}:{line}", file.path.display()));
        }
    }
    assert_none("say with `expect` why it cannot fail, or handle it", broken);
}

/// Every unused word of these texts, each with its place.
fn unused_words(texts: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let glossary = std::fs::read_to_string(workspace().join("docs/glossary.md"));
    let unused = words::unused(&glossary.expect("the glossary is there"));
    assert!(unused.len() > 20, "the glossary lists the words that are not used");
    let mut broken = Vec::new();
    for (place, text) in texts {
        let found = words::found_in(&text, &unused);
        broken.extend(found.iter().map(|word| format!("{place}: {word} in {:?}", text.trim())));
    }
    broken
}

#[test]
fn messages_use_the_words_of_the_glossary() {
    assert_none("see docs/glossary.md", unused_words(words::literals(&TREE)));
}

#[test]
fn screens_use_the_words_of_the_glossary() {
    let texts = sources("slint").into_iter().flat_map(|(name, source)| {
        let texts = words::quoted_texts(&source).into_iter();
        texts.map(move |(line, text)| (format!("{name}:{line}"), text)).collect::<Vec<_>>()
    });
    let scripts = sources("js").into_iter().flat_map(|(name, source)| {
        let texts = words::quoted_texts(&source).into_iter();
        texts.map(move |(line, text)| (format!("{name}:{line}"), text)).collect::<Vec<_>>()
    });
    let pages = sources("html").into_iter();
    assert_none("see docs/glossary.md", unused_words(texts.chain(scripts).chain(pages)));
}

#[test]
fn pages_use_the_words_of_the_glossary() {
    let pages = sources("md").into_iter().filter(|(name, _)| !name.ends_with("glossary.md"));
    let texts = pages.flat_map(|(name, page)| {
        let paragraphs = words::paragraphs(&page).into_iter();
        paragraphs.map(move |(line, text)| (format!("{name}:{line}"), text)).collect::<Vec<_>>()
    });
    assert_none("see docs/glossary.md", unused_words(texts));
}

#[test]
fn files_of_a_new_lab_use_the_words_of_the_glossary() {
    let folder = workspace().join("server/src/commands/init");
    let files = std::fs::read_dir(folder).expect("init brings its texts");
    let files = files.map(|file| file.expect("readable").path());
    let texts: Vec<(String, String)> = files
        .filter(|path| path.extension().is_none_or(|it| it != "rs"))
        .flat_map(|path| {
            let text = std::fs::read_to_string(&path).expect("text");
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let lines: Vec<(usize, String)> = (1..).zip(text.lines().map(str::to_owned)).collect();
            lines.into_iter().map(move |(line, text)| (format!("{name}:{line}"), text))
        })
        .collect();
    assert!(texts.len() > 50, "init's texts were found");
    assert_none("see docs/glossary.md", unused_words(texts));
}

#[test]
fn unused_words_are_found_and_their_exceptions_are_not() {
    let glossary = "## Words we do not use\n\n| not | but | except in |\n|---|---|---|\n\
                    | tell | show | tell your supervisor |\n| small Linux | netboot image | |\n";
    let unused = words::unused(glossary);
    let check = |text: &str, count: usize| {
        assert_eq!(words::found_in(text, &unused).len(), count, "{text}");
    };
    check("Tell them of the small linux", 2);
    check("If this keeps happening, tell your supervisor. A teller foretells.", 0);
    check("tell your supervisor, and tell us", 1);
    check("the key `tell` of `small Linux`", 0);
}

#[test]
fn prose_is_wrapped_so_that_a_change_shows_a_sentence() {
    const MOST: usize = 120;
    let mut broken = Vec::new();
    for (name, page) in sources("md") {
        for (number, line) in words::prose(&page) {
            // A table's row cannot be wrapped, and a link's address neither.
            if line.chars().count() > MOST && !line.starts_with('|') && !line.contains("](") {
                broken.push(format!("{name}:{number}: {} columns", line.chars().count()));
            }
        }
    }
    assert_none(&format!("wrap these at 100 columns, {MOST} at the most"), broken);
}

#[test]
fn files_that_a_page_names_exist() {
    let folders = ["catalog/", "docs/", "initramfs/", "node-gui/", "server/", "swarm/", "tests/"];
    let is_path = |span: &&str| {
        folders.iter().any(|folder| span.starts_with(folder))
            && span
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "/._-".contains(c))
    };
    // A page about one package names its files from there.
    let starts = ["", "swarm/src"].map(|start| workspace().join(start));
    let mut broken = Vec::new();
    for (name, page) in sources("md") {
        for (number, line) in words::prose(&page) {
            for span in line.split('`').skip(1).step_by(2).filter(is_path) {
                if !starts.iter().any(|start| start.join(span).exists()) {
                    broken.push(format!("{name}:{number}: {span}"));
                }
            }
        }
    }
    assert_none("these were moved; name the new place", broken);
}

#[test]
fn nothing_is_left_to_do_and_no_test_is_switched_off() {
    // In two parts, so that this file does not find itself.
    let forbidden =
        [["to", "do!("].concat(), ["unimple", "mented!("].concat(), ["#[ig", "nore"].concat()];
    let mut broken = Vec::new();
    for (name, text) in sources("rs") {
        for (number, line) in (1..).zip(text.lines()) {
            if forbidden.iter().any(|word| line.contains(word)) {
                broken.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    assert_none("finish these", broken);
}

#[test]
fn colours_stand_only_in_the_theme() {
    let is_colour = |line: &str| {
        line.split('#').skip(1).any(|after| {
            let digits = after.chars().take_while(char::is_ascii_hexdigit).count();
            matches!(digits, 3 | 4 | 6 | 8)
        })
    };
    let mut broken = Vec::new();
    for (name, text) in sources("slint") {
        if name.ends_with("theme.slint") {
            continue;
        }
        for (number, line) in (1..).zip(text.lines()) {
            if is_colour(line.split("//").next().unwrap_or(line)) {
                broken.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    assert_none("give the colour a name in theme.slint", broken);
}

#[test]
fn no_tracked_file_names_a_folder_of_somebodys_machine() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(workspace()).output();
    let listed = listed.expect("git is there, it fetched the checkout").stdout;
    let listed = String::from_utf8(listed).expect("file names are text");
    let mut broken = Vec::new();
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        // Pictures and captures are no text; a tracked file may just have been deleted.
        let Ok(text) = std::fs::read_to_string(workspace().join(name)) else { continue };
        for (number, line) in (1..).zip(text.lines()) {
            if names_a_private_folder(line) {
                broken.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    assert_none("these paths exist on one machine only", broken);
}

/// Whether a line holds `/home/<name>`, `/Users/<name>` or `/root/<file>`.
fn names_a_private_folder(line: &str) -> bool {
    ["/home/", "/Users/", "/root/"].iter().any(|folder| {
        line.match_indices(folder).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + folder.len()..].chars().next();
            let begins_a_path = before.is_none_or(|it| !it.is_alphanumeric() && it != '.');
            begins_a_path && after.is_some_and(|it| it.is_ascii_alphanumeric() || it == '.')
        })
    })
}

#[test]
fn private_folders_are_recognised() {
    assert!(names_a_private_folder(&["see /ho", "me/eve/x"].concat()));
    assert!(!names_a_private_folder("https://example.org/home/page"));
    assert!(!names_a_private_folder("/home/*/lab"));
}

/// These packages are no members of the workspace, so nothing else notices when one goes stale.
fn assert_lock_file_is_up_to_date(folder: &str) {
    let manifest = workspace().join(folder).join("Cargo.toml");
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--locked", "--format-version", "1"]);
    // Crates for other systems need not be fetched for it.
    metadata.args(["--filter-platform", "x86_64-unknown-linux-gnu", "--manifest-path"]);
    let output = metadata.arg(manifest).output().expect("cargo runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`cargo update --workspace` in {folder} mends it:\n{words}");
}

#[test]
fn the_fuzz_targets_lock_file_is_up_to_date() {
    assert_lock_file_is_up_to_date("server/fuzz");
}

#[test]
fn the_librqbit_peers_lock_file_is_up_to_date() {
    assert_lock_file_is_up_to_date("tests/librqbit");
}
