//! The layout's rules on small packages with one planted fault each: a rule that finds nothing is
//! only worth something if it would.

use std::fs;

use crate::layout;
use crate::source_tree::SourceTree;

/// Reads a package `planted` of these files; `lib.rs` declares what is needed.
fn tree(files: &[(&str, &str)]) -> SourceTree {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let package = folder.path().join("planted");
    for (name, text) in files {
        let file = package.join("src").join(name);
        fs::create_dir_all(file.parent().expect("a file has a folder")).expect("it can be made");
        fs::write(file, text).expect("it can be written");
    }
    fs::write(package.join("Cargo.toml"), "[package]\nname = \"planted\"\n").expect("written");
    SourceTree::read(folder.path())
}

/// Asserts that one rule finds exactly one fault, which names this.
fn check(found: &[String], named: &str) {
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains(named), "{found:#?}");
}

const SHELL: (&str, &str) =
    ("disk.rs", "//! Shell: the disk.\npub fn read() {}\npub struct Disk;\n");

#[test]
fn a_sound_package_breaks_no_rule() {
    let tree = tree(&[
        ("lib.rs", "//! A package.\nmod disk;\npub mod rules;\n"),
        SHELL,
        (
            "rules/mod.rs",
            "//! Core: rules.\nmod one;\npub use one::One;\nuse std::time::Instant;\npub fn f(_: Instant) {}\n",
        ),
        (
            "rules/one.rs",
            "//! Core: one rule.\nuse super::two::Two;\npub struct One(Two);\n#[cfg(test)]\nmod tests {\n    use crate::disk::Disk;\n}\n",
        ),
    ]);
    // `two` is missing on purpose: a name that leads nowhere is the compiler's business.
    for rule in [
        layout::unmarked,
        layout::orphans,
        layout::cores_with_input_or_output,
        layout::cores_on_shells,
        layout::circles,
        layout::long_files,
        layout::early_tests,
        layout::modules_beside_their_folder,
        layout::nested_imports,
    ] {
        assert_eq!(rule(&tree), Vec::<String>::new());
    }
}

#[test]
fn a_circle_of_three_files_is_found_through_a_re_export() {
    let tree = tree(&[
        ("lib.rs", "//! A package.\nmod a;\nmod b;\nmod c;\n"),
        ("a.rs", "//! Core: a.\nuse crate::b::B;\npub struct A(B);\n"),
        ("b.rs", "//! Core: b.\npub struct B;\nfn f() { crate::c::again(); }\n"),
        ("c/mod.rs", "//! Core: c.\nmod inner;\npub use inner::again;\n"),
        ("c/inner.rs", "//! Core: inside.\npub fn again() -> crate::a::A { loop {} }\n"),
    ]);
    check(&layout::circles(&tree), "circle of 3 files");
}

#[test]
fn a_parent_and_a_child_that_import_each_other_are_a_circle() {
    let tree = tree(&[
        ("lib.rs", "//! A package.\nmod a;\n"),
        ("a/mod.rs", "//! Core: a.\nmod b;\npub struct A;\nfn f(_: b::B) {}\n"),
        ("a/b.rs", "//! Core: b.\npub struct B(super::A);\n"),
    ]);
    check(&layout::circles(&tree), "circle of 2 files");
}

#[test]
fn a_core_on_a_shell_is_found_also_by_an_inline_path_and_in_a_macro() {
    let lib = ("lib.rs", "//! A package.\nmod disk;\nmod rule;\n");
    for code in [
        "use crate::disk::Disk;\npub struct A(Disk);\n",
        "pub fn f() { super::disk::read() }\n",
        "use crate::disk;\npub fn f() { disk::read() }\n",
        "pub fn f() { assert!({ crate::disk::read(); true }) }\n",
        "pub fn f() { use crate::disk::read; }\n",
    ] {
        let tree = tree(&[lib, SHELL, ("rule.rs", &format!("//! Core: a rule.\n{code}"))]);
        let found = layout::cores_on_shells(&tree);
        assert!(!found.is_empty(), "{code}");
        assert!(found[0].contains("disk.rs"), "{found:?}");
    }
}

#[test]
fn a_core_on_a_shell_is_found_through_a_glob_and_a_module_that_shares_its_name() {
    let lib = "//! A package.\nmod face;\nmod rule;\n";
    let face = "//! Core: a face.\nmod disk;\npub use disk::{disk, read};\n";
    let disk = "//! Shell: the disk.\npub fn disk() {}\npub fn read() {}\npub struct Disk;\n";
    for code in [
        "use crate::face::*;\npub fn f() { read() }\n",
        "use crate::face::disk::Disk;\npub struct A(Disk);\n",
        "use crate as all;\npub fn f() { all::face::read() }\n",
    ] {
        let rule = format!("//! Core: a rule.\n{code}");
        let tree = tree(&[
            ("lib.rs", lib),
            ("face/mod.rs", face),
            ("face/disk.rs", disk),
            ("rule.rs", &rule),
        ]);
        let found = layout::cores_on_shells(&tree);
        assert!(found.iter().any(|it| it.contains("rule.rs")), "{code}: {found:?}");
    }
}

#[test]
fn a_file_that_is_both_core_and_shell_is_found() {
    let tree = tree(&[
        ("lib.rs", "//! A package.\nmod both;\nmod none;\n"),
        ("both.rs", "//! Core: [`A`].\n//!\n//! Shell: [`B`].\n"),
        ("none.rs", "//! A file.\n"),
    ]);
    let found = layout::unmarked(&tree);
    assert_eq!(found, ["planted/src/both.rs says both", "planted/src/none.rs says neither"]);
}

#[test]
fn input_and_output_in_a_core_is_found_whatever_way_it_is_imported() {
    for code in [
        "use std::fs;\npub fn f() { let _ = fs::read(\"x\"); }\n",
        "use std::fs::read as look;\npub fn f() { let _ = look(\"x\"); }\n",
        "use std as system;\npub fn f() { let _ = system::fs::read(\"x\"); }\n",
        "use std::time::Instant;\npub fn f() -> Instant { Instant::now() }\n",
        "use std::time::Instant as Clock;\npub fn f() -> Clock { Clock::now() }\n",
        "pub fn f() { println!(\"x\"); }\n",
        "use tracing::info;\npub fn f() { info!(\"x\"); }\n",
        "pub fn f(at: std::time::Instant) { at.elapsed(); }\n",
        "pub fn f() { assert!(std::fs::exists(\"x\").is_ok()); }\n",
        "mod inner { pub fn f() { std::thread::yield_now(); } }\n",
        "use std::*;\npub fn f() { let _ = fs::read(\"x\"); }\n",
        "use std::time::*;\npub fn f() { SystemTime::now(); }\n",
        "pub fn f() { use std::time::SystemTime; SystemTime::now(); }\n",
        "pub fn f() { use std::io; io::stdout(); }\n",
        "type Clock = std::time::Instant;\npub fn f() { Clock::now(); }\n",
        "extern crate std as system;\npub fn f() { let _ = system::fs::read(\"x\"); }\n",
        "#[cfg(not(test))]\npub fn f() { println!(\"x\"); }\n",
        "#[cfg(all(unix, not(test)))]\npub fn f() { println!(\"x\"); }\n",
        "#[cfg(feature = \"latest\")]\npub fn f() { println!(\"x\"); }\n",
        "pub fn f(path: &std::path::Path) -> bool { path.exists() }\n",
        "pub fn f(at: &std::time::Instant) { std::time::Instant::elapsed(at); }\n",
    ] {
        let lib = ("lib.rs", "//! A package.\nmod rule;\n");
        let tree = tree(&[lib, ("rule.rs", &format!("//! Core: a rule.\n{code}"))]);
        assert!(!layout::cores_with_input_or_output(&tree).is_empty(), "{code}");
    }
}

#[test]
fn code_after_a_test_module_is_seen_and_the_early_test_module_too() {
    let tree = tree(&[
        ("lib.rs", "//! A package.\nmod rule;\n"),
        (
            "rule.rs",
            "//! Core: a rule.\n#[cfg(test)]\nmod tests;\npub fn f() { println!(\"x\"); }\n",
        ),
        ("rule/tests.rs", "fn helper() { println!(\"x\"); }\n"),
    ]);
    check(&layout::early_tests(&tree), "rule.rs:2");
    check(&layout::cores_with_input_or_output(&tree), "rule.rs:4");
}

#[test]
fn a_file_that_no_module_names_is_found() {
    let tree = tree(&[("lib.rs", "//! A package.\n"), ("lost.rs", "//! Core: lost.\n")]);
    check(&layout::orphans(&tree), "lost.rs");
}

#[test]
fn long_files_nested_imports_and_the_other_module_style_are_found() {
    let long = format!("//! Core: long.\n{}", "pub fn f() {}\n// a comment\n\n".repeat(601));
    let tree = tree(&[
        ("lib.rs", "//! A package.\nmod long;\nmod style;\n"),
        ("long.rs", &long),
        ("style.rs", "//! Core: style.\nmod child;\nuse std::{fmt, io::Read};\n"),
        ("style/child.rs", "//! Core: a child.\n"),
    ]);
    check(&layout::long_files(&tree), "601 lines");
    check(&layout::nested_imports(&tree), "style.rs:3");
    check(&layout::modules_beside_their_folder(&tree), "style.rs");
}
