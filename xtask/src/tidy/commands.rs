//! The commands people can type, read from where they are declared: the clap types of the `warren` binary and of
//! this one. So the docs are checked against the source, with no binary that might be stale.

use std::collections::{BTreeMap, BTreeSet};

use syn::punctuated::Punctuated;
use syn::{Attribute, Field, Fields, Item, Token, Type};

use super::repository::Repository;

/// The command lines of both programs.
pub(super) struct Commands {
    warren: Program,
    xtask: Program,
}

/// One program's subcommands.
#[derive(Default)]
struct Program {
    /// Subcommand enums by their name; the first level is [`Program::root`].
    levels: BTreeMap<String, Level>,
    root: String,
    /// Long options, without dashes, that take a value.
    valued: BTreeSet<String>,
}

/// Subcommand by name, with the enum of its own subcommands where it has some.
type Level = BTreeMap<String, Option<String>>;

impl Commands {
    /// Reads both programs' declarations.
    pub(super) fn read(repository: &Repository) -> Self {
        Self {
            warren: Program::read(repository, "crates/cli/src/"),
            xtask: Program::read(repository, "xtask/src/"),
        }
    }

    /// The commands in a line of shell that neither program knows. Other programs are none of our business.
    pub(super) fn unknown(&self, line: &str) -> Vec<String> {
        let line = line
            .trim_start()
            .trim_start_matches("$ ")
            .split(" #")
            .next()
            .unwrap_or_default();
        line.split(['|', ';', '(', ')'])
            .flat_map(|part| part.split("&&"))
            .filter_map(|part| {
                let words: Vec<&str> = part
                    .split_whitespace()
                    .skip_while(|word| is_prefix(word))
                    .collect();
                match words.as_slice() {
                    ["cargo", "xtask", rest @ ..] => self.xtask.unknown("cargo xtask", rest),
                    ["cargo", "run", rest @ ..]
                        if !rest.contains(&"-p") && !rest.contains(&"--package") =>
                    {
                        let at = rest.iter().position(|word| *word == "--")?;
                        self.warren.unknown("warren", &rest[at + 1..])
                    }
                    [program, rest @ ..]
                        if program.rsplit('/').next() == Some("warren")
                            && *program != "/warren" =>
                    {
                        self.warren.unknown("warren", rest)
                    }
                    _ => None,
                }
            })
            .collect()
    }
}

/// `sudo`, and variables set for one command.
fn is_prefix(word: &str) -> bool {
    word == "sudo"
        || word
            .split_once('=')
            .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
}

impl Program {
    fn read(repository: &Repository, folder: &str) -> Self {
        let mut program = Self::default();
        let items = repository
            .files
            .iter()
            .filter(|file| file.path.starts_with(folder))
            .filter_map(|file| file.rust())
            .flat_map(|syntax| &syntax.items);
        for item in items {
            match item {
                Item::Enum(item) if derives(&item.attrs, "Subcommand") => {
                    let level = item
                        .variants
                        .iter()
                        .map(|variant| (variant_name(variant), subcommand_type(variant)));
                    program
                        .levels
                        .insert(item.ident.to_string(), level.collect());
                }
                Item::Struct(item)
                    if derives(&item.attrs, "Parser") || derives(&item.attrs, "Args") =>
                {
                    for field in &item.fields {
                        if derives(&item.attrs, "Parser")
                            && says(&field.attrs, "command", "subcommand")
                        {
                            program.root = type_name(&field.ty);
                        } else if says(&field.attrs, "arg", "long")
                            && type_name(&field.ty) != "bool"
                        {
                            let name = field.ident.as_ref().map(|ident| kebab(&ident.to_string()));
                            program.valued.extend(name);
                        }
                    }
                }
                _ => {}
            }
        }
        program
    }

    /// The command that `words` name, if there is none such. Placeholders in capitals end the command.
    fn unknown(&self, program: &str, words: &[&str]) -> Option<String> {
        let mut level = self.levels.get(&self.root)?;
        let mut name = program.to_owned();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if let Some(option) = word.strip_prefix("--") {
                if self.valued.contains(option) {
                    words.next();
                }
                continue;
            }
            if !word.starts_with(|c: char| c.is_ascii_lowercase()) {
                return None;
            }
            name = format!("{name} {word}");
            if *word == "help" {
                return None;
            }
            match level.get(*word) {
                None => return Some(name),
                Some(None) => return None,
                Some(Some(below)) => level = self.levels.get(below)?,
            }
        }
        None
    }
}

fn derives(attributes: &[Attribute], name: &str) -> bool {
    says(attributes, "derive", name)
}

/// True for `#[list(…, word, …)]`, with or without a value to the word.
fn says(attributes: &[Attribute], list: &str, word: &str) -> bool {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident(list))
        .any(|attribute| {
            attribute
                .parse_args_with(Punctuated::<syn::Expr, Token![,]>::parse_terminated)
                .is_ok_and(|expressions| {
                    expressions
                        .iter()
                        .any(|expression| expression_name(expression) == Some(word.to_owned()))
                })
        })
}

fn expression_name(expression: &syn::Expr) -> Option<String> {
    match expression {
        syn::Expr::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
        syn::Expr::Assign(assign) => expression_name(&assign.left),
        _ => None,
    }
}

/// The name people type: `#[command(name = "…")]`, or the variant's in kebab case.
fn variant_name(variant: &syn::Variant) -> String {
    let mut name = kebab(&variant.ident.to_string());
    for attribute in variant
        .attrs
        .iter()
        .filter(|attribute| attribute.path().is_ident("command"))
    {
        // Settings that are no `name = "…"` are of no interest here, nor is how far the parser got.
        let _ = attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("name") {
                name = meta.value()?.parse::<syn::LitStr>()?.value();
            }
            Ok(())
        });
    }
    name
}

/// The enum of a variant's own subcommands.
fn subcommand_type(variant: &syn::Variant) -> Option<String> {
    let is_level = |field: &&Field| says(&field.attrs, "command", "subcommand");
    match &variant.fields {
        Fields::Unnamed(fields) if says(&variant.attrs, "command", "subcommand") => {
            fields.unnamed.first()
        }
        fields => fields.iter().find(is_level),
    }
    .map(|field| type_name(&field.ty))
}

fn type_name(of: &Type) -> String {
    match of {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .map(|last| last.ident.to_string())
            .unwrap_or_default(),
        _ => String::new(),
    }
}

fn kebab(name: &str) -> String {
    let mut kebab = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(if c == '_' {
            '-'
        } else {
            c.to_ascii_lowercase()
        });
    }
    kebab
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLI: &str = r#"
        #[derive(Debug, Parser)]
        struct Cli { #[command(flatten)] global: Global, #[command(subcommand)] command: Command }
        #[derive(Args)]
        struct Global { #[arg(long, global = true)] config: Vec<PathBuf>, #[arg(long)] json: bool }
        #[derive(Subcommand)]
        enum Command {
            /// Check the NAT
            NatCheck,
            Peerid { #[arg(long)] key: PathBuf },
            #[command(subcommand)]
            Ca(CaCommand),
            #[command(name = "ls")]
            List,
        }
        #[derive(Subcommand)]
        enum CaCommand { Init { #[arg(long)] org: String }, Issue(IssueArgs) }
    "#;

    fn unknown(line: &str) -> Vec<String> {
        Commands::read(&Repository::sample(&[("crates/cli/src/args.rs", CLI)])).unknown(line)
    }

    #[test]
    fn commands_that_exist_are_known() {
        for line in [
            "warren nat-check",
            "$ warren ls --json",
            "sudo warren --config node.yaml peerid --key node.pem",
            "warren ca init --org x && warren ca issue",
            "cargo run --release -- ls",
            "WARREN_CONFIG=x ./target/release/warren ls | jq .",
            "warren --help",
            "warren",
            "warren COMMAND",
            "warren ls # lists",
            "git clone x",
        ] {
            assert_eq!(unknown(line), Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn a_command_that_is_none_is_told_with_its_parents() {
        assert_eq!(
            unknown("warren --config node.yaml ca fly now"),
            ["warren ca fly"]
        );
    }

    #[test]
    fn the_second_command_of_a_line_is_checked_too() {
        assert_eq!(unknown("warren ls && warren fly"), ["warren fly"]);
    }

    #[test]
    fn a_variant_with_a_name_of_its_own_goes_by_it() {
        assert_eq!(unknown("warren list"), ["warren list"]);
    }
}
