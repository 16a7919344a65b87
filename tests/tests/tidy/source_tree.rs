//! What every package's source files define, import and name: the ground of the layout's rules.
//!
//! Files are read as the compiler reads them: from `lib.rs` and `main.rs` along every `mod`, with
//! all code seen but that below `#[cfg(test)]`. A name is followed through imports and re-exports to
//! the file that defines it, or to its full path in another crate (`fs::read` after `use std::fs` is
//! `std::fs::read`). What only a compiler can know is left out: methods, and names that macros make.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

/// Where a name of one file leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Into a file of the workspace, by its index.
    File(usize),
    /// Out of the workspace: the full path.
    Foreign(String),
}

/// One name that a file imports or writes out.
#[derive(Debug, Clone)]
pub struct Mention {
    pub line: usize,
    pub target: Target,
    /// Whether it only hands a name of its own descendants on (`pub use` in a face).
    pub is_face: bool,
}

/// One source file.
#[derive(Debug)]
pub struct SourceFile {
    /// From the workspace's folder.
    pub path: PathBuf,
    pub package: usize,
    pub text: String,
    pub mentions: Vec<Mention>,
    /// Names of methods that are called, with their lines.
    pub methods: Vec<(usize, String)>,
    /// Lines of code: not blank, not only a comment, not below `#[cfg(test)]`.
    pub code_lines: usize,
    /// Lines where `#[cfg(test)]` stands before code that is no test.
    pub early_tests: Vec<usize>,
}

impl SourceFile {
    pub fn is_core(&self) -> bool {
        self.text.starts_with("//! Core:")
    }

    pub fn is_shell(&self) -> bool {
        self.text.starts_with("//! Shell:")
    }
}

/// All packages of a workspace.
#[derive(Debug, Default)]
pub struct SourceTree {
    pub files: Vec<SourceFile>,
    /// Files below a `src` folder that no `mod` leads to, tests included.
    pub orphans: Vec<PathBuf>,
}

/// A module: its file, and every name in it.
#[derive(Debug)]
struct Module {
    file: usize,
    path: Vec<String>,
    names: BTreeMap<String, Name>,
    globs: Vec<Vec<String>>,
}

#[derive(Debug, Clone)]
enum Name {
    /// A module, by its index.
    Module(usize),
    /// Something that this very module's file defines.
    Defined,
    /// An import's path, as it is written.
    Import(Vec<String>),
}

/// A path as it is written in one module.
struct Written {
    module: usize,
    line: usize,
    segments: Vec<String>,
    is_import: bool,
    is_public: bool,
}

#[derive(Default)]
struct Reader {
    root: PathBuf,
    package: usize,
    files: Vec<SourceFile>,
    modules: Vec<Module>,
    written: Vec<Written>,
    seen: Vec<PathBuf>,
    /// Crate name, as code writes it, to the module of its `lib.rs`.
    crates: BTreeMap<String, usize>,
}

/// Whether `#[cfg(..)]` leaves an item to tests.
pub fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .filter(|it| it.path().is_ident("cfg"))
        .any(|it| it.parse_args::<syn::Meta>().is_ok_and(|condition| needs_test(&condition)))
}

/// Whether a condition holds in tests only: `test` itself, or an `all(..)` with such a member.
fn needs_test(condition: &syn::Meta) -> bool {
    match condition {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("all") => list
            .parse_args_with(Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated)
            .is_ok_and(|members| members.iter().any(needs_test)),
        _ => false,
    }
}

pub fn is_test_code(item: &Item) -> bool {
    let attributes = match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => return false,
    };
    is_test_only(attributes)
}

impl SourceTree {
    /// Reads every package whose folder holds a `Cargo.toml` and a `src`, below `root`.
    pub fn read(root: &Path) -> Self {
        let mut reader = Reader { root: root.to_owned(), ..Reader::default() };
        let mut packages: Vec<PathBuf> = walkdir::WalkDir::new(root)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(|entry| !is_left_out(entry.path(), root))
            .map(|entry| entry.expect("the checkout is readable"))
            .filter(|entry| {
                entry.file_name() == "Cargo.toml" && entry.path() != root.join("Cargo.toml")
            })
            .map(|entry| entry.path().parent().expect("a file has a folder").to_owned())
            .filter(|folder| folder.join("src").is_dir())
            .collect();
        // Inner packages first, so that the outer one's orphans are not theirs.
        packages.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
        let mut orphans = Vec::new();
        for folder in &packages {
            reader.package += 1;
            let manifest =
                fs::read_to_string(folder.join("Cargo.toml")).expect("it was just there");
            let name = package_name(&manifest);
            for start in ["lib.rs", "main.rs"] {
                let file = folder.join("src").join(start);
                if file.is_file() {
                    let module = reader.file(&file, Vec::new(), &folder.join("src"));
                    if start == "lib.rs" {
                        reader.crates.insert(name.clone(), module);
                    }
                }
            }
            for entry in walkdir::WalkDir::new(folder.join("src")).sort_by_file_name() {
                let entry = entry.expect("the checkout is readable");
                let path = entry.path();
                let is_source = path.extension().is_some_and(|it| it == "rs");
                if is_source && !reader.seen.iter().any(|seen| seen == path) {
                    orphans.push(path.strip_prefix(root).expect("it lies inside").to_owned());
                }
            }
        }
        let mentions = reader.resolve_all();
        let mut files = reader.files;
        for (file, mention) in mentions {
            files[file].mentions.push(mention);
        }
        Self { files, orphans }
    }
}

fn is_left_out(path: &Path, root: &Path) -> bool {
    let inner = path.strip_prefix(root).expect("it lies inside");
    inner.starts_with("target") || inner.starts_with(".git") || inner.ends_with("node_modules")
}

fn package_name(manifest: &str) -> String {
    let table: toml::Table = manifest.parse().expect("cargo reads it too");
    let name = table["package"]["name"].as_str().expect("a package has a name");
    name.replace('-', "_")
}

impl Reader {
    /// Reads a file and all modules that it declares; returns its module.
    fn file(&mut self, path: &Path, module_path: Vec<String>, children: &Path) -> usize {
        let text = fs::read_to_string(path).expect("source files are text");
        let parsed = syn::parse_file(&text)
            .unwrap_or_else(|error| panic!("{} does not parse: {error}", path.display()));
        self.seen.push(path.to_owned());
        let file = self.files.len();
        self.files.push(SourceFile {
            path: path.strip_prefix(&self.root).expect("it lies inside").to_owned(),
            package: self.package,
            code_lines: 0,
            early_tests: Vec::new(),
            text,
            mentions: Vec::new(),
            methods: Vec::new(),
        });
        self.count_lines(file, &parsed.items);
        self.module(file, module_path, parsed.items, children)
    }

    fn count_lines(&mut self, file: usize, items: &[Item]) {
        use syn::spanned::Spanned;
        let source = &mut self.files[file];
        let mut is_test = vec![false; source.text.lines().count() + 2];
        let mut last_code = 0;
        for item in items {
            let span = item.span();
            if is_test_code(item) {
                is_test[span.start().line..=span.end().line].fill(true);
                // Imports for tests may stand beside the others.
                if !matches!(item, Item::Use(_)) {
                    source.early_tests.push(span.start().line);
                }
            } else {
                last_code = last_code.max(span.start().line);
            }
        }
        source.early_tests.retain(|line| *line < last_code);
        let is_code = |(number, line): &(usize, &str)| {
            let line = line.trim();
            !is_test[*number] && !line.is_empty() && !line.starts_with("//")
        };
        source.code_lines = (1..).zip(source.text.lines()).filter(is_code).count();
    }

    fn module(
        &mut self,
        file: usize,
        path: Vec<String>,
        items: Vec<Item>,
        children: &Path,
    ) -> usize {
        let module = self.modules.len();
        self.modules.push(Module {
            file,
            path: path.clone(),
            names: BTreeMap::new(),
            globs: Vec::new(),
        });
        for item in &items {
            if is_test_code(item) {
                self.note_test_files(item, children);
                continue;
            }
            if let Item::Mod(inner) = item {
                let name = inner.ident.to_string();
                let mut inner_path = path.clone();
                inner_path.push(name.clone());
                let folder = children.join(&name);
                let index = match &inner.content {
                    Some((_, items)) => self.module(file, inner_path, items.clone(), &folder),
                    None => {
                        let found = module_file(children, &name, &inner.attrs);
                        self.file(&found, inner_path, &folder)
                    }
                };
                self.modules[module].names.insert(name, Name::Module(index));
                continue;
            }
            if let Item::Use(import) = item {
                let is_public = !matches!(import.vis, Visibility::Inherited);
                let mut leaves = Vec::new();
                flatten(&import.tree, &mut Vec::new(), &mut leaves);
                for (segments, name, line) in leaves {
                    match name {
                        Some(name) => {
                            self.define(module, name, Name::Import(segments.clone()));
                        }
                        None => self.modules[module].globs.push(segments.clone()),
                    }
                    let written = Written { module, line, segments, is_import: true, is_public };
                    self.written.push(written);
                }
                continue;
            }
            // Another name for a type or a crate is like an import of it.
            match item {
                Item::Type(alias) => {
                    if let syn::Type::Path(of) = &*alias.ty {
                        let import = Name::Import(segments_of(&of.path));
                        self.define(module, alias.ident.to_string(), import);
                    }
                }
                Item::ExternCrate(it) => {
                    let name = it.rename.as_ref().map_or(&it.ident, |(_, name)| name).to_string();
                    self.define(module, name, Name::Import(vec![it.ident.to_string()]));
                }
                _ => {}
            }
            for name in defined_names(item) {
                self.define(module, name, Name::Defined);
            }
            let mut bodies = Bodies { reader: self, module };
            bodies.visit_item(item);
        }
        module
    }

    /// A module stays one where a function or an import has its name too, and a type's alias leads on
    /// to the type: paths begin with modules and types, not with functions.
    fn define(&mut self, module: usize, name: String, what: Name) {
        let names = &mut self.modules[module].names;
        let is_kept = matches!(
            (names.get(&name), &what),
            (Some(Name::Module(_)), _) | (Some(Name::Import(_)), Name::Defined)
        );
        if !is_kept {
            names.insert(name, what);
        }
    }

    /// Test files are no part of what is judged, but they are no orphans either.
    fn note_test_files(&mut self, item: &Item, children: &Path) {
        if let Item::Mod(inner) = item {
            let name = inner.ident.to_string();
            let folder = children.join(&name);
            match &inner.content {
                Some((_, items)) => {
                    items.iter().for_each(|item| self.note_test_files(item, &folder));
                }
                None => {
                    let found = module_file(children, &name, &inner.attrs);
                    let text = fs::read_to_string(&found).expect("source files are text");
                    let parsed = syn::parse_file(&text).expect("test files parse");
                    self.seen.push(found);
                    parsed.items.iter().for_each(|item| self.note_test_files(item, &folder));
                }
            }
        }
    }

    fn resolve_all(&self) -> Vec<(usize, Mention)> {
        let mut mentions = Vec::new();
        for written in &self.written {
            let module = &self.modules[written.module];
            // A name that is not known here may come by a glob: each that leads somewhere counts.
            let first = written.segments[0].as_str();
            let is_unknown = !written.is_import
                && !module.names.contains_key(first)
                && !["crate", "self", "super"].contains(&first);
            for glob in module.globs.iter().filter(|_| is_unknown) {
                let mut path = glob.clone();
                path.extend_from_slice(&written.segments);
                if let Some((target, _)) = self.resolve(written.module, &path, 0)
                    && target != Target::File(module.file)
                {
                    let mention = Mention { line: written.line, target, is_face: false };
                    mentions.push((module.file, mention));
                }
            }
            let Some((target, at)) = self.resolve(written.module, &written.segments, 0) else {
                continue;
            };
            if target == Target::File(module.file) {
                continue;
            }
            let file = &self.files[module.file].path;
            let can_be_face = file.ends_with("mod.rs") || file.ends_with("lib.rs");
            let hands_on = written.is_import && written.is_public && can_be_face;
            let is_face =
                hands_on && at.is_some_and(|at| self.modules[at].path.starts_with(&module.path));
            mentions.push((module.file, Mention { line: written.line, target, is_face }));
        }
        mentions
    }

    /// Where a path leads that is written in `module`, and the module that defines it; `None` for
    /// what is no path to an item (a local, a method, a primitive type).
    fn resolve(
        &self,
        module: usize,
        segments: &[String],
        depth: usize,
    ) -> Option<(Target, Option<usize>)> {
        if depth > 16 {
            return None;
        }
        let first = segments.first()?;
        let rest = &segments[1..];
        match first.as_str() {
            "crate" => return self.descend(self.root_of(module), rest, depth),
            "self" => return self.descend(module, rest, depth),
            "super" => return self.descend(self.parent_of(module)?, rest, depth),
            _ => {}
        }
        match self.modules[module].names.get(first) {
            Some(Name::Module(inner)) => self.descend(*inner, rest, depth),
            Some(Name::Defined) => Some((Target::File(self.modules[module].file), Some(module))),
            // `use x;` of a crate would lead to itself.
            Some(Name::Import(path)) if path.first() != Some(first) || path.len() > 1 => {
                let mut whole = path.clone();
                whole.extend_from_slice(rest);
                if whole.first() == Some(first) {
                    return self.outside(&whole, depth);
                }
                self.resolve(module, &whole, depth + 1)
            }
            _ => self.outside(segments, depth),
        }
    }

    /// A path that begins with the name of a crate.
    fn outside(&self, segments: &[String], depth: usize) -> Option<(Target, Option<usize>)> {
        let first = segments.first()?;
        if let Some(root) = self.crates.get(first) {
            return self.descend(*root, &segments[1..], depth);
        }
        // Types of the prelude and locals begin no path to an item of ours.
        (segments.len() > 1).then(|| (Target::Foreign(segments.join("::")), None))
    }

    fn descend(
        &self,
        module: usize,
        segments: &[String],
        depth: usize,
    ) -> Option<(Target, Option<usize>)> {
        let here = Some((Target::File(self.modules[module].file), Some(module)));
        let Some(first) = segments.first() else { return here };
        match first.as_str() {
            "super" => return self.descend(self.parent_of(module)?, &segments[1..], depth),
            "self" => return self.descend(module, &segments[1..], depth),
            _ => {}
        }
        match self.modules[module].names.get(first) {
            Some(Name::Module(inner)) => self.descend(*inner, &segments[1..], depth),
            Some(Name::Import(path)) => {
                let mut whole = path.clone();
                whole.extend_from_slice(&segments[1..]);
                self.resolve(module, &whole, depth + 1)
            }
            Some(Name::Defined) => here,
            None => {
                let through = |glob: &Vec<String>| {
                    let mut whole = glob.clone();
                    whole.extend_from_slice(segments);
                    self.resolve(module, &whole, depth + 1)
                };
                let globs = &self.modules[module].globs;
                globs.iter().find_map(through).or(here)
            }
        }
    }

    fn root_of(&self, module: usize) -> usize {
        // Modules are stored parents first: the last root before this one is its crate's.
        (0..=module)
            .rev()
            .find(|at| self.modules[*at].path.is_empty())
            .expect("every crate has a root")
    }

    fn parent_of(&self, module: usize) -> Option<usize> {
        let path = &self.modules[module].path;
        let parent = &path[..path.len().checked_sub(1)?];
        (0..module).rev().find(|at| self.modules[*at].path == parent)
    }
}

fn module_file(children: &Path, name: &str, attributes: &[Attribute]) -> PathBuf {
    for attribute in attributes.iter().filter(|it| it.path().is_ident("path")) {
        if let syn::Meta::NameValue(pair) = &attribute.meta
            && let syn::Expr::Lit(literal) = &pair.value
            && let syn::Lit::Str(path) = &literal.lit
        {
            return children.join(path.value());
        }
    }
    let flat = children.join(format!("{name}.rs"));
    if flat.is_file() { flat } else { children.join(name).join("mod.rs") }
}

type Leaf = (Vec<String>, Option<String>, usize);

/// Every name that one `use` brings, with its path; `None` for a glob.
fn flatten(tree: &UseTree, path: &mut Vec<String>, leaves: &mut Vec<Leaf>) {
    match tree {
        UseTree::Path(it) => {
            path.push(it.ident.to_string());
            flatten(&it.tree, path, leaves);
            path.pop();
        }
        UseTree::Name(it) => {
            let line = it.ident.span().start().line;
            let mut whole = path.clone();
            if it.ident != "self" {
                whole.push(it.ident.to_string());
            }
            let name = whole.last().cloned();
            leaves.push((whole, name, line));
        }
        UseTree::Rename(it) => {
            let mut whole = path.clone();
            if it.ident != "self" {
                whole.push(it.ident.to_string());
            }
            leaves.push((whole, Some(it.rename.to_string()), it.ident.span().start().line));
        }
        UseTree::Glob(it) => {
            let line = it.star_token.spans[0].start().line;
            leaves.push((path.clone(), None, line));
        }
        UseTree::Group(it) => it.items.iter().for_each(|tree| flatten(tree, path, leaves)),
    }
}

fn defined_names(item: &Item) -> Vec<String> {
    let name = match item {
        Item::Const(it) => &it.ident,
        Item::Enum(it) => &it.ident,
        Item::Fn(it) => &it.sig.ident,
        Item::Static(it) => &it.ident,
        Item::Struct(it) => &it.ident,
        Item::Trait(it) => &it.ident,
        Item::Type(it) => &it.ident,
        Item::Union(it) => &it.ident,
        Item::Macro(it) => match &it.ident {
            Some(ident) => ident,
            None => return Vec::new(),
        },
        _ => return Vec::new(),
    };
    vec![name.to_string()]
}

/// Collects every path and method name in the bodies of one module.
struct Bodies<'a> {
    reader: &'a mut Reader,
    module: usize,
}

impl Bodies<'_> {
    fn note(&mut self, segments: Vec<String>, line: usize) {
        let here = &self.reader.modules[self.module];
        if segments.len() > 1 || !here.globs.is_empty() || here.names.contains_key(&segments[0]) {
            let (module, is_import, is_public) = (self.module, false, false);
            self.reader.written.push(Written { module, line, segments, is_import, is_public });
        }
    }

    fn note_method(&mut self, name: String, line: usize) {
        let file = self.reader.modules[self.module].file;
        self.reader.files[file].methods.push((line, name));
    }

    /// Macros are opaque: every `a::b::c` and `a!` among their words counts.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(ident) => {
                    let line = ident.span().start().line;
                    let is_method = at > 0 && is_punct(&tokens[at - 1], '.');
                    let mut segments = vec![ident.to_string()];
                    while let [a, b, TokenTree::Ident(next), ..] = &tokens[at + 1..]
                        && is_punct(a, ':')
                        && is_punct(b, ':')
                    {
                        segments.push(next.to_string());
                        at += 3;
                    }
                    if is_method {
                        self.note_method(segments[0].clone(), line);
                    } else if tokens.get(at + 1).is_some_and(|it| is_punct(it, '!')) {
                        self.note_macro(segments, line);
                    } else {
                        self.note(segments, line);
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// A macro by its bare name is the standard library's, unless it was imported.
    fn note_macro(&mut self, segments: Vec<String>, line: usize) {
        if segments.len() > 1 || self.reader.modules[self.module].names.contains_key(&segments[0]) {
            self.note(segments, line);
        } else {
            self.note(vec!["std".into(), segments[0].clone()], line);
        }
    }
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

fn segments_of(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

fn line_of(path: &syn::Path) -> usize {
    path.segments.first().map_or(0, |segment| segment.ident.span().start().line)
}

impl<'ast> Visit<'ast> for Bodies<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.note(segments_of(path), line_of(path));
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, it: &'ast syn::Macro) {
        self.note_macro(segments_of(&it.path), line_of(&it.path));
        self.tokens(it.tokens.clone());
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.note_method(call.method.to_string(), call.method.span().start().line);
        visit::visit_expr_method_call(self, call);
    }

    /// Imports inside a function count like those of its file.
    fn visit_item_use(&mut self, import: &'ast syn::ItemUse) {
        let mut leaves = Vec::new();
        flatten(&import.tree, &mut Vec::new(), &mut leaves);
        for (segments, name, line) in leaves {
            let (module, is_public) = (self.module, false);
            match name {
                Some(name) => {
                    if !self.reader.modules[module].names.contains_key(&name) {
                        self.reader.define(module, name, Name::Import(segments.clone()));
                    }
                }
                None => self.reader.modules[module].globs.push(segments.clone()),
            }
            self.reader.written.push(Written {
                module,
                line,
                segments,
                is_import: true,
                is_public,
            });
        }
    }

    /// `#[cfg(test)]` on a method or a statement's block.
    fn visit_impl_item_fn(&mut self, it: &'ast syn::ImplItemFn) {
        if !is_test_only(&it.attrs) {
            visit::visit_impl_item_fn(self, it);
        }
    }

    /// Attributes name traits and formats, not files.
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}
