//! The glossary's rule: one word for one thing, in every text that a person can meet.

use std::collections::BTreeSet;

use syn::visit::{self, Visit};

use crate::source_tree::SourceTree;

/// One row of the glossary's last table.
#[derive(Debug)]
pub struct Unused {
    word: String,
    instead: String,
    except: Vec<String>,
}

/// The words that are not used, as `docs/glossary.md` lists them.
pub fn unused(glossary: &str) -> Vec<Unused> {
    let (_, table) = glossary.split_once("## Words we do not use").expect("the glossary has them");
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [word, instead, except] = cells[..] else { panic!("three cells: {row}") };
        let except = except.split(',').map(|it| it.trim().to_lowercase());
        Unused {
            word: word.to_lowercase(),
            instead: instead.to_owned(),
            except: except.filter(|it| !it.is_empty()).collect(),
        }
    })
    .collect()
}

impl Unused {
    /// Whether the word stands in `text` where it is not right.
    fn is_in(&self, text: &str) -> bool {
        // A phrase may be broken over lines.
        let text = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        let spared: Vec<(usize, usize)> = self
            .except
            .iter()
            .flat_map(|phrase| text.match_indices(phrase).map(|(at, it)| (at, at + it.len())))
            .collect();
        text.match_indices(&self.word).any(|(at, found)| {
            let end = at + found.len();
            let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let is_word =
                !is_part(text[..at].chars().next_back()) && !is_part(text[end..].chars().next());
            is_word && !spared.iter().any(|(from, to)| *from <= at && end <= *to)
        })
    }
}

/// Every unused word in `text` outside its code spans, as "`word`: write …".
pub fn found_in(text: &str, unused: &[Unused]) -> Vec<String> {
    let prose = text.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    // A placeholder's name is a name of the code.
    let without_names = prose.split('{').map(|part| match part.split_once('}') {
        Some((_, after)) => format!(" {after}"),
        None => part.to_owned(),
    });
    let text = without_names.collect::<String>();
    let found = unused.iter().filter(|it| it.is_in(&text));
    found.map(|it| format!("`{}`: write {}", it.word, it.instead)).collect()
}

/// Whether a literal is a text for people, and not a name that programs agreed on.
fn is_text(literal: &str) -> bool {
    !literal.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-./".contains(c))
}

/// Texts in the shipped code, with file and line.
pub fn literals(tree: &SourceTree) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for file in &tree.files {
        let parsed = syn::parse_file(&file.text).expect("it parsed before");
        let mut literals = Literals::default();
        for item in parsed.items.iter().filter(|item| !crate::source_tree::is_test_code(item)) {
            literals.visit_item(item);
        }
        let texts = literals.found.into_iter().filter(|(_, text)| is_text(text));
        all.extend(texts.map(|(line, text)| (format!("{}:{line}", file.path.display()), text)));
    }
    all
}

#[derive(Default)]
struct Literals {
    found: BTreeSet<(usize, String)>,
}

impl Literals {
    fn help(&mut self, attributes: &[syn::Attribute]) {
        use syn::spanned::Spanned;
        for attribute in attributes.iter().filter(|it| it.path().is_ident("doc")) {
            if let syn::Meta::NameValue(pair) = &attribute.meta
                && let syn::Expr::Lit(literal) = &pair.value
                && let syn::Lit::Str(text) = &literal.lit
            {
                self.found.insert((attribute.span().start().line, text.value()));
            }
        }
    }

    fn tokens(&mut self, tokens: proc_macro2::TokenStream) {
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Group(group) => self.tokens(group.stream()),
                proc_macro2::TokenTree::Literal(literal) => {
                    let line = literal.span().start().line;
                    if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                        self.found.insert((line, text.value()));
                    }
                }
                _ => {}
            }
        }
    }
}

/// Whether clap makes a command of this type, and its `--help` of the doc comments.
fn is_command(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().filter(|it| it.path().is_ident("derive")).any(|it| {
        let derived = it.meta.require_list().map(|list| list.tokens.to_string());
        let derived = derived.unwrap_or_default();
        ["Parser", "Args", "Subcommand", "ValueEnum"].iter().any(|name| derived.contains(name))
    })
}

impl<'ast> Visit<'ast> for Literals {
    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.found.insert((text.span().start().line, text.value()));
    }

    fn visit_macro(&mut self, it: &'ast syn::Macro) {
        self.tokens(it.tokens.clone());
    }

    /// `#[error("…")]` is a message, `#[arg(help = "…")]` too.
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if !attribute.path().is_ident("doc")
            && !attribute.path().is_ident("expect")
            && let syn::Meta::List(list) = &attribute.meta
        {
            self.tokens(list.tokens.clone());
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        if is_command(&item.attrs) {
            self.help(&item.attrs);
            item.fields.iter().for_each(|field| self.help(&field.attrs));
        }
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        if is_command(&item.attrs) {
            self.help(&item.attrs);
            for variant in &item.variants {
                self.help(&variant.attrs);
                variant.fields.iter().for_each(|field| self.help(&field.attrs));
            }
        }
        visit::visit_item_enum(self, item);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !crate::source_tree::is_test_only(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }
}

/// A page's prose: without blocks of code, which shows what a program reads or prints.
pub fn prose(page: &str) -> Vec<(usize, String)> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(page.lines()) {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            lines.push((number, line.to_owned()));
        }
    }
    lines
}

/// Texts in a file whose strings stand in double quotes (`.slint`, `.js`), outside comments.
pub fn quoted_texts(source: &str) -> Vec<(usize, String)> {
    let mut texts = Vec::new();
    for (number, line) in (1..).zip(source.lines()) {
        let code = line.split("//").next().unwrap_or(line);
        texts.extend(code.split('"').skip(1).step_by(2).map(|text| (number, text.to_owned())));
    }
    texts
}

/// A page's prose in paragraphs, each with the number of its first line: a phrase may be broken over
/// lines.
pub fn paragraphs(page: &str) -> Vec<(usize, String)> {
    let mut paragraphs: Vec<(usize, String)> = Vec::new();
    let mut last = 0;
    for (number, line) in prose(page) {
        let is_new = line.trim().is_empty() || line.starts_with('|') || number != last + 1;
        match paragraphs.last_mut() {
            Some((_, text)) if !is_new => {
                text.push('\n');
                text.push_str(&line);
            }
            _ => paragraphs.push((number, line)),
        }
        last = number;
    }
    paragraphs
}
