//! Nothing left over: no unfinished work, no test switched off, no `unsafe` without its reason.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;
use super::repository::{File, Repository};

/// Macros that stand for work not done or a trace not taken out.
const MACROS: &[&str] = &["todo", "unimplemented", "dbg"];

/// Marks of unfinished work. Written in two halves, so that this file does not report itself.
const MARKS: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X")];

/// What was left over in any file.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &repository.files {
        findings.extend(marks(file));
        if let Some(syntax) = file.rust() {
            let mut left = Left {
                file,
                lines: file.lines(),
                findings: Vec::new(),
            };
            left.visit_file(syntax);
            findings.append(&mut left.findings);
        }
    }
    findings
}

fn marks(file: &File) -> impl Iterator<Item = Finding> {
    file.text.lines().enumerate().filter_map(|(index, line)| {
        let mark = MARKS.iter().find(|mark| has_word(line, mark))?;
        Some(Finding {
            path: file.path.clone(),
            line: index + 1,
            what: format!("`{mark}`"),
            why: "what is in the repository is finished",
            fix: "do it, or write an issue".into(),
        })
    })
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        ![before, after]
            .into_iter()
            .flatten()
            .any(|c| c.is_alphanumeric() || c == '_')
    })
}

struct Left<'a> {
    file: &'a File,
    lines: Vec<&'a str>,
    findings: Vec<Finding>,
}

impl Left<'_> {
    fn add(&mut self, line: usize, what: String, why: &'static str, fix: &str) {
        self.findings.push(Finding {
            path: self.file.path.clone(),
            line,
            what,
            why,
            fix: fix.into(),
        });
    }

    fn check_unsafe(&mut self, line: usize) {
        let here = self.lines.get(line - 1).copied().unwrap_or_default();
        // The comment may stand above the statement that the block is part of, with attributes between.
        let above = self.lines[..line - 1].iter().rev().take_while(|line| {
            let line = line.trim();
            line.starts_with("//")
                || line.starts_with("#[")
                || line.ends_with(['=', '(', ','])
                || line.starts_with("let ")
        });
        if !std::iter::once(&here)
            .chain(above)
            .any(|line| line.contains("// SAFETY:"))
        {
            self.add(
                line,
                "`unsafe` without its reason".into(),
                "the reader must be able to check it",
                "say `// SAFETY: why` above",
            );
        }
    }
}

impl<'ast> Visit<'ast> for Left<'_> {
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if let Some(name) = call.path.segments.last().map(|last| last.ident.to_string())
            && MACROS.contains(&name.as_str())
        {
            let what = format!("`{name}!`");
            self.add(
                call.span().start().line,
                what,
                "what is in the repository is finished",
                "do it, or take it out",
            );
        }
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("ignore") {
            self.add(
                attribute.span().start().line,
                "a test that is switched off".into(),
                "it proves nothing and looks as if it did",
                "mend it, or skip at run time as CONTRIBUTING.md says",
            );
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.check_unsafe(block.unsafe_token.span.start().line);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, block: &'ast syn::ItemImpl) {
        if let Some(token) = &block.unsafety {
            self.check_unsafe(token.span.start().line);
        }
        visit::visit_item_impl(self, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(source: &str) -> Vec<String> {
        check(&Repository::sample(&[("crates/a/src/lib.rs", source)]))
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn macros_of_unfinished_work_are_reported() {
        for name in MACROS {
            assert_eq!(
                reported(&format!("fn f() {{ {name}!(); }}")),
                [format!("`{name}!`")]
            );
        }
    }

    #[test]
    fn marks_are_reported_in_any_file() {
        for mark in MARKS {
            let repository = Repository::sample(&[("docs/x.md", &format!("one\n{mark} later\n"))]);
            assert_eq!(check(&repository)[0].line, 2);
        }
    }

    #[test]
    fn a_mark_inside_a_longer_word_is_none() {
        assert_eq!(reported(&format!("// {}Y", MARKS[1])), Vec::<String>::new());
    }

    #[test]
    fn a_test_that_is_switched_off_is_reported() {
        let source = format!("#[test]\n#[{}]\nfn f() {{}}", "ignore");

        assert_eq!(reported(&source), ["a test that is switched off"]);
    }

    #[test]
    fn unsafe_without_a_reason_is_reported() {
        assert_eq!(
            reported("fn f() {\n    unsafe { g() }\n}"),
            ["`unsafe` without its reason"]
        );
    }

    #[test]
    fn unsafe_with_a_reason_is_fine() {
        let source = "fn f() {\n    // SAFETY: g has no preconditions.\n    let a =\n        unsafe { g() };\n}";

        assert_eq!(reported(source), Vec::<String>::new());
    }
}
