//! Rules on the text of files: sizes, first lines, names, forbidden words, links, and a page for every error code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;

const LINES_MAX: usize = 800;
const BANNED_NAMES: &[&str] = &["util", "utils", "common", "helpers", "misc", "base", "impl", "types"];
/// Split so that this file does not find itself.
const BANNED_WORDS: &[(&str, &str)] = &[
    (concat!("#[", "ignore"), "a test that does not run is no test"),
    (concat!("#[should_", "panic"), "assert the error instead"),
    (concat!("FIX", "ME"), "mend it before it is merged"),
    (concat!("todo", "!("), "build it or leave it out"),
    (concat!("unimplemented", "!("), "build it or leave it out"),
    (concat!("../sh", "ared"), "a clone stands alone"),
    (concat!("/wo", "rk/"), "no machine paths"),
];

/// Checks every tracked text file.
pub fn check(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for path in files {
        let is_data = path.starts_with("testdata") && path.extension().is_some_and(|e| e != "md");
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        if !is_data && path != Path::new("LICENSE") && path != Path::new("Cargo.lock") {
            findings.extend(check_text(path, &text));
        }
        if path.extension().is_some_and(|extension| extension == "md") {
            let directory = root.join(path).parent().context("a file lies in a directory")?.to_owned();
            findings.extend(broken_links(path, &text, |link| directory.join(link).exists()));
        }
    }
    Ok(findings)
}

fn check_text(path: &Path, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let name = path.display();
    for (number, line) in text.lines().enumerate() {
        for (word, reason) in BANNED_WORDS.iter().filter(|(word, _)| line.contains(word)) {
            findings.push(format!("{name}:{}: '{word}': {reason}", number + 1));
        }
    }
    if path.extension().is_some_and(|extension| extension == "rs") {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            findings.push(format!("{name}: {lines} lines; at most {LINES_MAX}"));
        }
        if !text.starts_with("//!") {
            findings.push(format!("{name}: does not open with //! (what it is, who calls it, what it must not know)"));
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if BANNED_NAMES.contains(&stem) {
            findings.push(format!("{name}: '{stem}' says nothing; name the noun the file holds"));
        }
    }
    findings
}

/// Relative links of a Markdown file that lead nowhere.
fn broken_links(path: &Path, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for part in text.split("](").skip(1) {
        let link = part.split([')', ' ']).next().unwrap_or_default();
        let file = link.split('#').next().unwrap_or_default();
        let is_relative = !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:");
        if is_relative && !exists(file) {
            findings.push(format!("{}: link to '{link}' leads nowhere", path.display()));
        }
    }
    findings
}

/// Every error code in the code has a page in `docs/errors`, and every page a code.
pub fn check_error_pages(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let pages: BTreeSet<String> = files
        .iter()
        .filter(|path| path.parent() == Some(Path::new("docs/errors")))
        .filter_map(|path| path.file_stem()?.to_str().map(str::to_owned))
        .filter(|stem| stem != "README")
        .collect();
    let mut used = BTreeSet::new();
    let mut code_text = String::new();
    for path in files {
        let is_product = path.extension().is_some_and(|e| e == "rs")
            && !path.starts_with("tests")
            && !path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "examples")
            && !path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.ends_with("tests"));
        if is_product && !path.starts_with("crates/xtask") && !path.starts_with("crates/testkit") {
            let text = std::fs::read_to_string(root.join(path)).with_context(|| format!("read {}", path.display()))?;
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            used.extend(codes(product));
            code_text.push_str(product);
        }
    }
    let missing = used.difference(&pages).map(|code| format!("docs/errors/{code}.md is missing: the code is used"));
    let unused = pages
        .iter()
        .filter(|page| !code_text.contains(&format!("\"{page}\"")))
        .map(|page| format!("docs/errors/{page}.md: no such code is used"));
    Ok(missing.chain(unused).collect())
}

/// Error codes spelled in a source text: first arguments of error constructors, values of `code` fields, and constants
/// of codes.
fn codes(text: &str) -> BTreeSet<String> {
    const MARKS: &[&str] =
        &["OperatorError::user(", "OperatorError::external(", "code: \"", "CODE: &str = ", "BadRecord::new("];
    let mut found = BTreeSet::new();
    for mark in MARKS {
        for part in text.split(mark).skip(1) {
            let part = if mark.ends_with('"') { part } else { part.trim_start().strip_prefix('"').unwrap_or("") };
            let code = part.split('"').next().unwrap_or_default();
            let is_code = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if !code.is_empty() && code.chars().all(is_code) {
                found.insert(code.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_files_are_found() {
        let long = "//! x\n".repeat(LINES_MAX + 1);
        let marked = format!("//! x\n#[{}]\nfn f() {{ {}!() }}\n", concat!("ig", "nore"), "todo");
        assert_eq!(check_text(Path::new("a/good.rs"), "//! fine\n"), Vec::<String>::new());
        assert_eq!(check_text(Path::new("a/long.rs"), &long).len(), 1);
        assert_eq!(check_text(Path::new("a/bare.rs"), "fn f() {}\n").len(), 1);
        assert_eq!(check_text(Path::new("a/utils.rs"), "//! x\n").len(), 1);
        assert_eq!(check_text(Path::new("a/marked.rs"), &marked).len(), 2);
    }

    #[test]
    fn broken_links_are_found() {
        let text = "[a](there.md) [b](gone.md#x) [c](https://example.org) [d](#here)";
        assert_eq!(broken_links(Path::new("x.md"), text, |link| link == "there.md").len(), 1);
    }

    #[test]
    fn codes_are_read_from_constructors_and_fields() {
        let text = r#"OperatorError::user("file-not-found", x) code: "bad-record-json", OperatorError::external(
            "sink-io", x) const CODE: &str = "late-x"; code: "Not A Code""#;
        let found: Vec<String> = codes(text).into_iter().collect();
        assert_eq!(found, ["bad-record-json", "file-not-found", "late-x", "sink-io"]);
    }
}
