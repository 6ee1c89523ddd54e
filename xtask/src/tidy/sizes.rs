//! Rooms one can live in: a file has at most [`MAX_FILE_LINES`] before its tests, a function [`MAX_FUNCTION_LINES`]
//! from its `fn` to its last brace.
//!
//! A function that is long for a good reason (a table, say) has `// long: reason` directly above it.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;
use super::repository::{File, Repository};
use super::source::{Strip, is_test_module, test_modules};

const MAX_FILE_LINES: usize = 800;
const MAX_FUNCTION_LINES: usize = 80;

/// Files and functions of the product that are too long.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let test_modules = test_modules(repository);
    let mut findings = Vec::new();
    for file in &repository.files {
        let Some(syntax) = file.rust() else { continue };
        if file.is_outside_the_product() || is_test_module(file, &test_modules) {
            continue;
        }
        findings.extend(check_file(file));
        let mut functions = Functions {
            file,
            lines: file.lines(),
            findings: Vec::new(),
        };
        functions.visit_file(&Strip::tests(syntax));
        findings.append(&mut functions.findings);
    }
    findings
}

fn check_file(file: &File) -> Option<Finding> {
    let count = file
        .text
        .lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .count();
    (count > MAX_FILE_LINES).then(|| Finding {
        path: file.path.clone(),
        line: MAX_FILE_LINES + 1,
        what: format!("{count} lines before its tests, at most {MAX_FILE_LINES}"),
        why: "a newcomer reads a file in one sitting",
        fix: "split it by idea, not by size".into(),
    })
}

struct Functions<'a> {
    file: &'a File,
    lines: Vec<&'a str>,
    findings: Vec<Finding>,
}

impl Functions<'_> {
    fn measure(
        &mut self,
        attributes: &[syn::Attribute],
        signature: &syn::Signature,
        block: &syn::Block,
    ) {
        let first = signature.span().start().line;
        let count = block.brace_token.span.close().end().line + 1 - first;
        if count <= MAX_FUNCTION_LINES || self.is_excused(attributes, first) {
            return;
        }
        self.findings.push(Finding {
            path: self.file.path.clone(),
            line: first,
            what: format!(
                "function `{}` has {count} lines, at most {MAX_FUNCTION_LINES}",
                signature.ident
            ),
            why: "a function does one thing that its name says",
            fix: "name its parts and move them out, or say `// long: reason` directly above".into(),
        });
    }

    /// Looks for `// long: reason` among the comments that touch the function, above or between its attributes.
    fn is_excused(&self, attributes: &[syn::Attribute], first: usize) -> bool {
        let top = attributes
            .iter()
            .map(|attribute| attribute.span().start().line)
            .min()
            .unwrap_or(first)
            .min(first);
        let above = self.lines[..top - 1]
            .iter()
            .rev()
            .take_while(|line| line.trim_start().starts_with("//"));
        let between = &self.lines[top - 1..first - 1];
        above
            .chain(between)
            .filter_map(|line| line.trim_start().strip_prefix("// long:"))
            .any(|reason| !reason.trim().is_empty())
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.attrs, &function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.attrs, &function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.measure(&function.attrs, &function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
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

    /// A function of `lines` lines in all.
    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn eighty_lines_are_fine() {
        assert_eq!(reported(&function(80)), Vec::<String>::new());
    }

    #[test]
    fn eighty_one_lines_are_reported() {
        assert_eq!(
            reported(&function(81)),
            ["function `long` has 81 lines, at most 80"]
        );
    }

    #[test]
    fn a_long_method_is_reported() {
        let source = format!("struct S;\nimpl S {{\n{}}}\n", function(81));

        assert_eq!(reported(&source).len(), 1);
    }

    #[test]
    fn a_reason_directly_above_excuses() {
        let source = format!(
            "// long: one table\n/// Documented.\n#[inline]\n{}",
            function(90)
        );

        assert_eq!(reported(&source), Vec::<String>::new());
    }

    #[test]
    fn a_reason_elsewhere_does_not_excuse() {
        let source = format!("// long: one table\n\n{}", function(90));

        assert_eq!(reported(&source).len(), 1);
    }

    #[test]
    fn tests_may_be_long() {
        let source = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(900));

        assert_eq!(reported(&source), Vec::<String>::new());
    }

    #[test]
    fn a_file_of_more_than_eight_hundred_lines_is_reported() {
        assert_eq!(
            reported(&"// line\n".repeat(801)),
            ["801 lines before its tests, at most 800"]
        );
    }
}
