//! The layout's rules: cores stand on cores, no circles, one style of modules and imports.
//!
//! Each rule takes a [`SourceTree`] and gives the places that break it, so that the rules can be
//! tried on planted faults as well as on this workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::source_tree::{SourceFile, SourceTree, Target};

/// The most lines of code in a file, without its tests; past this there is a second idea in it.
pub const MAX_CODE_LINES: usize = 600;

/// What a core must not use, by its full path and everything below. A path that ends in `::` forbids
/// only what is below it.
const INPUT_OUTPUT: &[&str] = &[
    "axum::Router",
    "axum::serve",
    "evdev::Device",
    "evdev::enumerate",
    "evdev::uinput",
    "hyper",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "libc",
    "log",
    "nix::fcntl",
    "nix::ifaddrs",
    "nix::mount",
    "nix::net",
    "nix::poll",
    "nix::sched",
    "nix::sys",
    "nix::time",
    "nix::unistd",
    "notify",
    "rand::random",
    "rand::rng",
    "rand::thread_rng",
    "reqwest",
    "slint",
    "socket2",
    "std::dbg",
    "std::env::",
    "std::eprint",
    "std::eprintln",
    "std::fs",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::fd",
    "std::os::unix",
    "std::print",
    "std::println",
    "std::process",
    "std::thread",
    "std::time::Instant::elapsed",
    "std::time::Instant::now",
    "std::time::SystemTime::elapsed",
    "std::time::SystemTime::now",
    "tempfile",
    "tokio",
    "tracing",
    "walkdir",
];

/// Methods that read a clock, a disk or a resolver without naming it.
const METHODS: &[&str] = &[
    "canonicalize",
    "elapsed",
    "exists",
    "metadata",
    "read_dir",
    "read_link",
    "symlink_metadata",
    "to_socket_addrs",
    "try_exists",
];

fn place(file: &SourceFile, line: usize) -> String {
    format!("{}:{line}", file.path.display())
}

/// Files that are neither core nor shell, or both.
pub fn unmarked(tree: &SourceTree) -> Vec<String> {
    let has_mark = |file: &&SourceFile| !file.path.ends_with("src/lib.rs");
    let mut broken = Vec::new();
    for file in tree.files.iter().filter(has_mark) {
        let header: Vec<&str> =
            file.text.lines().take_while(|line| line.starts_with("//!")).collect();
        let header = header.join("\n");
        let name = file.path.display();
        match (file.is_core(), file.is_shell()) {
            (false, false) => broken.push(format!("{name} says neither")),
            (true, _) if header.contains("Shell:") => broken.push(format!("{name} says both")),
            (_, true) if header.contains("Core:") => broken.push(format!("{name} says both")),
            _ => {}
        }
    }
    broken
}

/// Source files that no `mod` leads to: no rule would see them.
pub fn orphans(tree: &SourceTree) -> Vec<String> {
    tree.orphans.iter().map(|path| path.display().to_string()).collect()
}

/// Places where a core imports a shell, of its own package or another.
pub fn cores_on_shells(tree: &SourceTree) -> Vec<String> {
    let mut broken = BTreeSet::new();
    for file in tree.files.iter().filter(|file| file.is_core()) {
        for mention in &file.mentions {
            let Target::File(target) = mention.target else { continue };
            let target = &tree.files[target];
            if target.is_shell() && !mention.is_face {
                let target = target.path.display();
                broken.insert(format!("{} imports {target}", place(file, mention.line)));
            }
        }
    }
    broken.into_iter().collect()
}

/// Places where a core reads a clock, a file, a socket, or writes a log.
pub fn cores_with_input_or_output(tree: &SourceTree) -> Vec<String> {
    let is_forbidden = |path: &str| {
        INPUT_OUTPUT.iter().any(|word| match word.strip_suffix("::") {
            Some(_) => path.starts_with(word),
            None => path.strip_prefix(word).is_some_and(|it| it.is_empty() || it.starts_with("::")),
        })
    };
    let mut broken = BTreeSet::new();
    for file in tree.files.iter().filter(|file| file.is_core()) {
        for mention in &file.mentions {
            if let Target::Foreign(path) = &mention.target
                && is_forbidden(path)
            {
                broken.insert(format!("{} uses {path}", place(file, mention.line)));
            }
        }
        for (line, method) in &file.methods {
            if METHODS.contains(&method.as_str()) {
                broken.insert(format!("{} calls .{method}()", place(file, *line)));
            }
        }
    }
    broken.into_iter().collect()
}

/// Circles of imports between the files of one package, each told by one way round.
pub fn circles(tree: &SourceTree) -> Vec<String> {
    let mut arrows: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
    for (from, file) in tree.files.iter().enumerate() {
        for mention in file.mentions.iter().filter(|mention| !mention.is_face) {
            let Target::File(to) = mention.target else { continue };
            if tree.files[to].package == file.package {
                arrows.entry(from).or_default().entry(to).or_insert(mention.line);
            }
        }
    }
    let mut broken = Vec::new();
    let mut told = BTreeSet::new();
    for start in 0..tree.files.len() {
        if told.contains(&start) {
            continue;
        }
        if let Some(round) = shortest_way_back(&arrows, start) {
            told.extend(round.iter().copied());
            let steps = round.iter().zip(round.iter().cycle().skip(1)).map(|(from, to)| {
                format!(
                    "  {} -> {}",
                    place(&tree.files[*from], arrows[from][to]),
                    tree.files[*to].path.display()
                )
            });
            broken.push(format!(
                "circle of {} files:\n{}",
                round.len(),
                steps.collect::<Vec<_>>().join("\n")
            ));
        }
    }
    broken
}

/// The files of the shortest circle through `start`, in order.
fn shortest_way_back(
    arrows: &BTreeMap<usize, BTreeMap<usize, usize>>,
    start: usize,
) -> Option<Vec<usize>> {
    let mut came_from = BTreeMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for next in arrows.get(&at).into_iter().flat_map(BTreeMap::keys) {
            if *next == start {
                let mut round = vec![at];
                while round[round.len() - 1] != start {
                    round.push(came_from[&round[round.len() - 1]]);
                }
                round.reverse();
                return Some(round);
            }
            if !came_from.contains_key(next) {
                came_from.insert(*next, at);
                queue.push_back(*next);
            }
        }
    }
    None
}

/// Files with more code than one idea needs.
pub fn long_files(tree: &SourceTree) -> Vec<String> {
    let is_long = |file: &&SourceFile| file.code_lines > MAX_CODE_LINES;
    let files = tree.files.iter().filter(is_long);
    files.map(|file| format!("{}: {} lines", file.path.display(), file.code_lines)).collect()
}

/// Tests that stand before code: they belong at the end of a file.
pub fn early_tests(tree: &SourceTree) -> Vec<String> {
    let lines = tree
        .files
        .iter()
        .flat_map(|file| file.early_tests.iter().map(move |line| place(file, *line)));
    lines.collect()
}

/// Modules whose file stands beside their folder instead of in it.
pub fn modules_beside_their_folder(tree: &SourceTree) -> Vec<String> {
    let has_folder = |path: &Path| {
        let folder = path.with_extension("");
        tree.files.iter().any(|file| file.path.starts_with(&folder))
            || tree.orphans.iter().any(|file| file.starts_with(&folder))
    };
    let files = tree.files.iter().filter(|file| has_folder(&file.path));
    files.map(|file| file.path.display().to_string()).collect()
}

/// Imports that nest paths in braces: one module's path stands on one line, the braces list names.
pub fn nested_imports(tree: &SourceTree) -> Vec<String> {
    let mut broken = Vec::new();
    for file in &tree.files {
        let parsed = syn::parse_file(&file.text).expect("it parsed before");
        for item in parsed.items {
            if let syn::Item::Use(import) = item
                && is_nested(&import.tree, false)
            {
                let span = import.use_token.span.start().line;
                broken.push(place(file, span));
            }
        }
    }
    broken
}

fn is_nested(tree: &syn::UseTree, in_braces: bool) -> bool {
    match tree {
        syn::UseTree::Path(it) => in_braces || is_nested(&it.tree, in_braces),
        syn::UseTree::Group(it) => it.items.iter().any(|tree| is_nested(tree, true)),
        _ => false,
    }
}
