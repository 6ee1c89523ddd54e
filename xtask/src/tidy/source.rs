//! Rust source as rules want it: without its tests, `use` trees written out, the rest as paths with their lines.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};

use super::Finding;
use super::repository::{File, Repository};

/// Files that do not parse: every other rule passes them over, so this one must not.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    repository
        .files
        .iter()
        .filter_map(|file| match file.syntax.as_ref()? {
            Ok(_) => None,
            Err(error) => Some(Finding {
                path: file.path.clone(),
                line: error.span().start().line,
                what: format!("not valid Rust ({error})"),
                why: "no rule can be checked here",
                fix: "mend the syntax".into(),
            }),
        })
        .collect()
}

/// A name with its segments, such as `std::fs::read`, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    pub(super) place: Place,
}

/// In what position a [`Name`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Imported by a `use`.
    Import,
    /// Imported by a `use … as …`, or `use …::*`.
    Renamed,
    /// After a dot: a method or a field.
    Member,
    /// Anywhere else.
    Code,
}

impl Name {
    /// The segments joined by `::`.
    pub(super) fn text(&self) -> String {
        self.segments.join("::")
    }

    /// True if `needle` stands anywhere in the name, segment by segment.
    pub(super) fn contains(&self, needle: &[&str]) -> bool {
        self.segments
            .windows(needle.len())
            .any(|window| window == needle)
    }
}

/// Every name in the file outside its tests, those inside macro calls included.
pub(super) fn names_outside_tests(file: &syn::File) -> Vec<Name> {
    let mut strip = Strip::default();
    let mut file = file.clone();
    strip.visit_file_mut(&mut file);
    let mut names = strip.imports;
    let mut tokens = Vec::new();
    for item in &file.items {
        flatten(item.to_token_stream(), &mut tokens);
    }
    names.extend(paths(&tokens));
    names
}

/// The files that belong to `#[cfg(test)] mod name;` declarations: `name.rs`, or a folder ending in `/`.
pub(super) fn test_modules(repository: &Repository) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in &repository.files {
        let Some(syntax) = file.rust() else { continue };
        let folder = module_folder(&file.path);
        for item in &syntax.items {
            if let syn::Item::Mod(module) = item
                && module.content.is_none()
                && module.attrs.iter().any(is_test_only)
            {
                found.insert(format!("{folder}{}.rs", module.ident));
                found.insert(format!("{folder}{}/", module.ident));
            }
        }
    }
    found
}

/// True if the file is one of [`test_modules`], or lies inside one.
pub(super) fn is_test_module(file: &File, test_modules: &BTreeSet<String>) -> bool {
    test_modules.iter().any(|module| {
        file.path == *module || module.ends_with('/') && file.path.starts_with(module)
    })
}

/// Where a file's child modules lie, with a `/` at the end.
fn module_folder(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name {
        "lib.rs" | "main.rs" | "mod.rs" => format!("{folder}/"),
        _ => format!("{folder}/{}/", name.trim_end_matches(".rs")),
    }
}

/// `#[test]`, `#[tokio::test]`, `#[cfg(test)]`, `#[cfg(all(test, …))]`.
pub(super) fn is_test_only(attribute: &syn::Attribute) -> bool {
    let path = attribute.path();
    if path
        .segments
        .last()
        .is_some_and(|last| last.ident == "test")
    {
        return true;
    }
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    let condition = list.tokens.to_string().replace(' ', "");
    path.is_ident("cfg") && (condition == "test" || condition.starts_with("all(test,"))
}

fn item_attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Takes tests out of a file, and `use` items into [`Strip::imports`].
#[derive(Default)]
pub(super) struct Strip {
    imports: Vec<Name>,
}

impl Strip {
    /// The file without its tests and imports.
    pub(super) fn tests(file: &syn::File) -> syn::File {
        let mut file = file.clone();
        Self::default().visit_file_mut(&mut file);
        file
    }

    fn keeps(&mut self, item: &syn::Item) -> bool {
        if item_attributes(item).iter().any(is_test_only) {
            return false;
        }
        if let syn::Item::Use(import) = item {
            expand(&import.tree, &mut Vec::new(), &mut self.imports);
            return false;
        }
        true
    }
}

impl VisitMut for Strip {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        file.items.retain(|item| self.keeps(item));
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(|item| self.keeps(item));
        }
        visit_mut::visit_item_mod_mut(self, module);
    }

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        block.items.retain(|item| match item {
            syn::ImplItem::Fn(function) => !function.attrs.iter().any(is_test_only),
            _ => true,
        });
        visit_mut::visit_item_impl_mut(self, block);
    }

    fn visit_block_mut(&mut self, block: &mut syn::Block) {
        block.stmts.retain(|statement| match statement {
            syn::Stmt::Item(item) => self.keeps(item),
            _ => true,
        });
        visit_mut::visit_block_mut(self, block);
    }
}

fn expand(tree: &syn::UseTree, before: &mut Vec<String>, names: &mut Vec<Name>) {
    let mut name = |before: &[String], last: Option<String>, line, place| {
        let segments = before.iter().cloned().chain(last).collect();
        names.push(Name {
            segments,
            line,
            place,
        });
    };
    match tree {
        syn::UseTree::Path(path) => {
            before.push(path.ident.to_string());
            expand(&path.tree, before, names);
            before.pop();
        }
        syn::UseTree::Name(last) => {
            // `use std::fs::{self}` imports `std::fs`.
            let text = Some(last.ident.to_string()).filter(|text| text != "self");
            name(before, text, last.span().start().line, Place::Import);
        }
        syn::UseTree::Rename(last) => {
            name(
                before,
                Some(last.ident.to_string()),
                last.span().start().line,
                Place::Renamed,
            );
        }
        syn::UseTree::Glob(star) => name(
            before,
            Some("*".into()),
            star.span().start().line,
            Place::Renamed,
        ),
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                expand(tree, before, names);
            }
        }
    }
}

/// A token with its line; `::` is one token, a group's brackets are tokens of their own.
struct Token {
    text: String,
    line: usize,
    is_name: bool,
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    let mut half_colon = false;
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(Token {
                    text: open.into(),
                    line,
                    is_name: false,
                });
                flatten(group.stream(), tokens);
                tokens.push(Token {
                    text: close.into(),
                    line: group.span_close().start().line,
                    is_name: false,
                });
                half_colon = false;
            }
            TokenTree::Ident(ident) => {
                let text = ident.to_string();
                tokens.push(Token {
                    text,
                    line,
                    is_name: true,
                });
                half_colon = false;
            }
            TokenTree::Punct(punct) if half_colon && punct.as_char() == ':' => {
                if let Some(last) = tokens.last_mut() {
                    last.text.push(':');
                }
                half_colon = false;
            }
            TokenTree::Punct(punct) => {
                tokens.push(Token {
                    text: punct.as_char().to_string(),
                    line,
                    is_name: false,
                });
                half_colon = punct.as_char() == ':' && punct.spacing() == Spacing::Joint;
            }
            TokenTree::Literal(_) => {
                tokens.push(Token {
                    text: "literal".into(),
                    line,
                    is_name: false,
                });
                half_colon = false;
            }
        }
    }
}

fn paths(tokens: &[Token]) -> Vec<Name> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !tokens[at].is_name {
            at += 1;
            continue;
        }
        let place = match at.checked_sub(1).map(|before| tokens[before].text.as_str()) {
            Some(".") => Place::Member,
            _ => Place::Code,
        };
        let line = tokens[at].line;
        let mut segments = vec![tokens[at].text.clone()];
        at += 1;
        while at + 1 < tokens.len() && tokens[at].text == "::" && tokens[at + 1].is_name {
            segments.push(tokens[at + 1].text.clone());
            at += 2;
        }
        names.push(Name {
            segments,
            line,
            place,
        });
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        names_outside_tests(&syn::parse_file(source).unwrap())
            .iter()
            .map(Name::text)
            .collect()
    }

    #[test]
    fn imports_are_written_out() {
        let found = texts("use std::{fs::{self, File}, net::TcpStream as S};");

        assert_eq!(found, ["std::fs", "std::fs::File", "std::net::TcpStream"]);
    }

    #[test]
    fn names_inside_macro_calls_are_seen() {
        assert!(texts("fn f() { x!(a => tokio::spawn(b)) }").contains(&"tokio::spawn".to_owned()));
    }

    #[test]
    fn tests_are_left_out() {
        let found = texts(
            "#[cfg(test)] mod tests { use std::fs; } #[cfg(test)] fn g() { std::env::args(); }",
        );

        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn the_line_is_that_of_the_name() {
        let file = syn::parse_file("fn f() {\n\n    std::fs::read(p);\n}").unwrap();

        let name = names_outside_tests(&file)
            .into_iter()
            .find(|name| name.contains(&["std", "fs"]))
            .unwrap();

        assert_eq!((name.line, name.place), (3, Place::Code));
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_known() {
        let repository = Repository::sample(&[
            ("crates/a/src/store.rs", "#[cfg(test)] mod tests;"),
            ("crates/a/src/store/tests.rs", ""),
            ("crates/a/src/store/index.rs", ""),
        ]);

        let modules = test_modules(&repository);

        let inside: Vec<bool> = repository
            .files
            .iter()
            .map(|file| is_test_module(file, &modules))
            .collect();
        assert_eq!(inside, [false, true, false]);
    }

    #[test]
    fn a_file_that_does_not_parse_is_reported() {
        let repository = Repository::sample(&[("crates/a/src/lib.rs", "fn f( {")]);

        assert_eq!(check(&repository).len(), 1);
    }
}
