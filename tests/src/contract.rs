//! docs/contract.md names a test for each promise of the fabric: each must be there.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// All texts between backticks that read `file.rs::function`.
fn named(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.split('`').skip(1).step_by(2).filter_map(|text| text.split_once(".rs::"))
}

/// A call or a mention is none.
fn defines(source: &str, function: &str) -> bool {
    let begins = format!("fn {function}");
    source.match_indices(&begins).any(|(at, _)| {
        source[at + begins.len()..].starts_with(['(', '<'])
            && !source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn each_promise_names_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/contract.md")).expect("the page");
    let mut sources = BTreeMap::new();
    let mut missing = Vec::new();
    for (path, function) in named(&page) {
        let source = sources.entry(path).or_insert_with(|| {
            fs::read_to_string(root.join(format!("{path}.rs"))).unwrap_or_default()
        });
        if !defines(source, function) {
            missing.push(format!("{path}.rs::{function}"));
        }
    }
    assert!(sources.len() > 20, "{} files", sources.len());
    assert!(missing.is_empty(), "no such function: {missing:#?}");
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"));
    let without: Vec<_> = rows.filter(|row| named(row).next().is_none()).collect();
    assert!(without.is_empty(), "no test is named: {without:#?}");
}

/// Else they are one promise.
#[test]
fn no_two_promises_name_the_same_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/contract.md")).expect("the page");
    let mut rows = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let tests: BTreeSet<_> = named(row).collect();
        if let Some(other) = rows.insert(tests, row).filter(|other| named(other).next().is_some()) {
            panic!("{row}\n{other}");
        }
    }
    assert!(rows.len() > 20, "{} rows", rows.len());
}

#[test]
fn a_definition_is_told_from_a_mention() {
    assert!(defines("async fn held(&self)", "held") && defines("fn held<T>()", "held"));
    assert!(!defines("fn held_by()", "held") && !defines("held()", "held"));
}
