//! Tables of docs/compatibility.md that tests write: a test fails where the page says other things than it saw, and
//! rewrites it with `UPDATE_DOCS=1`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

/// Clients with a column, in its order.
pub const CLIENTS: [&str; 11] = [
    "kubectl 1.27",
    "kubectl 1.28",
    "kubectl 1.29",
    "kubectl 1.30",
    "kubectl 1.31",
    "kubectl 1.32",
    "kubectl 1.33",
    "kube-rs",
    "Python",
    "kopf",
    "JavaScript",
];

/// What clients do, in the order of its rows.
pub const FEATURES: [&str; 30] = [
    "discovery",
    "objects: create, get, update, delete",
    "refusals with reason and causes",
    "generated names",
    "dry run",
    "field validation",
    "JSON patch",
    "merge patch",
    "strategic merge patch",
    "server-side apply",
    "label and field selectors",
    "pages",
    "delete collection",
    "preconditions",
    "tables",
    "metadata lists",
    "watch",
    "streaming list",
    "informer, controller",
    "scale",
    "status",
    "eviction, drain",
    "finalizers, owners",
    "Events",
    "logs",
    "exec",
    "attach",
    "port-forward",
    "usage (metrics.k8s.io)",
    "explain",
];

const YES: &str = "yes";
const UNVERIFIED: &str = "unverified";
/// Tests of one binary write the page one after the other.
static ONE: Mutex<()> = Mutex::new(());

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/compatibility.md")
}

/// Holds the page to a text between `<!-- generated: NAME -->` and `<!-- end of NAME -->`.
///
/// # Panics
/// Where it says something else.
#[track_caller]
pub fn generated(name: &str, text: &str) {
    let _one = ONE.lock();
    let whole = std::fs::read_to_string(page()).expect("the page");
    let (before, old, after) = parts(&whole, name);
    settle(name, before, old, &format!("\n\n{}\n\n", text.trim()), after);
}

/// Holds a client's column to the features that its tests went through.
///
/// # Panics
/// Where the page says something else; where a feature or the client has no place in it.
#[track_caller]
pub fn client(client: &str, seen: &BTreeSet<String>) {
    const NAME: &str = "clients";
    assert!(CLIENTS.contains(&client), "{client} has no column");
    let unknown: Vec<_> = seen.iter().filter(|f| !FEATURES.contains(&f.as_str())).collect();
    assert!(unknown.is_empty(), "{client}: features without a row: {unknown:?}");
    let _one = ONE.lock();
    let whole = std::fs::read_to_string(page()).expect("the page");
    let (before, old, after) = parts(&whole, NAME);
    let mut cells = cells(old);
    for feature in FEATURES {
        let word = if seen.contains(feature) { YES } else { UNVERIFIED };
        cells.insert((feature.to_owned(), client.to_owned()), word.to_owned());
    }
    let mut text =
        format!("| feature | {} |\n|---{}|\n", CLIENTS.join(" | "), "|---".repeat(CLIENTS.len()));
    for feature in FEATURES {
        let row = CLIENTS.map(|client| {
            let cell = cells.get(&(feature.to_owned(), client.to_owned()));
            cell.map_or(UNVERIFIED, String::as_str)
        });
        text += &format!("| {feature} | {} |\n", row.join(" | "));
    }
    settle(NAME, before, old, &format!("\n\n{}\n\n", text.trim()), after);
}

/// The features that a program's output tells of, in lines `feature: NAME ok`.
pub fn features(output: &str) -> BTreeSet<String> {
    let told = |line: &str| {
        let (_, rest) = line.split_once("feature: ")?;
        Some(rest.trim().strip_suffix(" ok")?.to_owned())
    };
    output.lines().filter_map(told).collect()
}

#[track_caller]
fn parts<'t>(whole: &'t str, name: &str) -> (&'t str, &'t str, &'t str) {
    let (begin, end) = (format!("<!-- generated: {name} -->"), format!("<!-- end of {name} -->"));
    let from = whole.find(&begin).unwrap_or_else(|| panic!("no {begin} in the page")) + begin.len();
    let to = whole.find(&end).unwrap_or_else(|| panic!("no {end} in the page"));
    (&whole[..from], &whole[from..to], &whole[to..])
}

#[track_caller]
fn settle(name: &str, before: &str, old: &str, new: &str, after: &str) {
    if old == new {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page(), format!("{before}{new}{after}")).expect("the page can be written");
        return;
    }
    let has = |text: &str, line: &&str| !text.lines().any(|other| other == *line);
    let gone: Vec<&str> = old.lines().filter(|line| has(new, line)).collect();
    let come: Vec<&str> = new.lines().filter(|line| has(old, line)).collect();
    panic!(
        "docs/compatibility.md, {name}: run again with UPDATE_DOCS=1 if this is right.\n\
         it says\n{}\nseen was\n{}",
        gone.join("\n"),
        come.join("\n")
    );
}

fn cells(table: &str) -> BTreeMap<(String, String), String> {
    let words = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|word| word.trim().to_owned()).collect()
    };
    let mut lines = table.lines().filter(|line| line.starts_with('|'));
    let head = lines.next().map(words).unwrap_or_default();
    let mut cells = BTreeMap::new();
    for row in lines.skip(1).map(words) {
        for (client, cell) in head.iter().zip(&row).skip(1) {
            cells.insert((row[0].clone(), client.clone()), cell.clone());
        }
    }
    cells
}
