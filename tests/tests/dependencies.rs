//! Which crate may use which: the walls of docs/architecture.md section 3, held by `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Only these members may depend on the crate, in any section.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("lapin", &["warren-broker", "warren-tests", "warren-fuzz"]),
    ("rusqlite", &["warren-store"]),
    ("bollard", &["warren-agent", "warren-tests"]),
    ("serde_yaml", &["warren-api"]),
    ("flate2", &["warren-spdy"]),
    // Two crates' own tests make certificates.
    ("rcgen", &["warren", "warren-apiserver", "warren-controllers"]),
];

/// These members never depend on these, neither themselves nor through others. (Members' own tests may.)
const NEVER: &[(&str, &[&str])] = &[
    ("warren-api", &["tokio", "kube", "hyper", "rusqlite", "lapin", "k8s-openapi"]),
    ("warren-store", &["kube", "hyper", "lapin"]),
    ("warren-broker", &["kube", "hyper", "rusqlite"]),
    ("warren-process", &["kube", "hyper", "rusqlite", "lapin", "warren-api"]),
    ("warren-spdy", &["tokio", "kube", "hyper", "warren-api", "warren-process"]),
    ("warren-client", &["rusqlite", "bollard", "warren-store", "warren-apiserver"]),
    ("warren-controllers", &["rusqlite", "bollard", "warren-apiserver", "warren-store"]),
    ("warren-agent", &["warren-apiserver", "warren-controllers"]),
    ("warren-apiserver", &["bollard", "warren-agent", "warren-controllers"]),
    ("warren-tests", &["warren-api", "warren-store", "warren-apiserver", "warren-agent"]),
];

/// Nowhere in what the binary is made of.
const NOWHERE: &[&str] =
    &["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys", "async-std"];

/// What the project is built for; other platforms' dependencies do not count.
const TARGET: &str = "x86_64-unknown-linux-gnu";

#[derive(Clone, Copy, PartialEq)]
enum Section {
    Normal,
    Any,
}

struct Graph {
    names: BTreeMap<String, String>,
    /// Package id → (dependency's id, whether it is a normal or build dependency).
    edges: BTreeMap<String, Vec<(String, bool)>>,
    members: BTreeSet<String>,
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform"])
        .arg(TARGET)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

impl Graph {
    fn read() -> Self {
        let metadata = metadata();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let items = |value: &Value| value.as_array().expect("a list").clone();
        let names =
            items(&metadata["packages"]).into_iter().map(|p| (text(&p["id"]), text(&p["name"])));
        let edges = items(&metadata["resolve"]["nodes"]).into_iter().map(|node| {
            let dependencies = items(&node["deps"])
                .iter()
                .map(|dependency| {
                    let kinds = items(&dependency["dep_kinds"]);
                    (text(&dependency["pkg"]), kinds.iter().any(|kind| kind["kind"] != "dev"))
                })
                .collect();
            (text(&node["id"]), dependencies)
        });
        let members = items(&metadata["workspace_members"]).iter().map(text).collect();
        Self { names: names.collect(), edges: edges.collect(), members }
    }

    fn member(&self, name: &str) -> &str {
        let found = self.members.iter().find(|id| self.names[*id] == name);
        found.unwrap_or_else(|| panic!("no member {name}"))
    }

    fn direct(&self, id: &str, section: Section) -> impl Iterator<Item = &str> {
        let edges = self.edges[id].iter();
        edges
            .filter(move |(_, normal)| section == Section::Any || *normal)
            .map(|(id, _)| id.as_str())
    }

    /// The names of all that a member is made of.
    fn closure(&self, member: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut stack = vec![self.member(member)];
        while let Some(id) = stack.pop() {
            if seen.insert(id) {
                stack.extend(self.direct(id, Section::Normal));
            }
        }
        seen.into_iter().map(|id| self.names[id].as_str()).collect()
    }
}

#[test]
fn each_library_has_its_place() {
    let graph = Graph::read();
    for (library, allowed) in ONLY_IN {
        for member in &graph.members {
            let name = graph.names[member].as_str();
            let uses = graph.direct(member, Section::Any).any(|id| graph.names[id] == *library);
            assert!(
                !uses || allowed.contains(&name),
                "{name} must not use {library}; only {allowed:?}"
            );
        }
    }
}

#[test]
fn walls_between_the_crates_stand() {
    let graph = Graph::read();
    for (member, forbidden) in NEVER {
        let closure = graph.closure(member);
        for name in *forbidden {
            assert!(
                !closure.contains(name),
                "{member} must not depend on {name}, not even through others"
            );
        }
    }
}

#[test]
fn one_way_of_cryptography() {
    let graph = Graph::read();
    let closure = graph.closure("warren");
    for name in NOWHERE {
        assert!(
            !closure.contains(name),
            "{name} is in the binary; `cargo tree -i {name}` tells why"
        );
    }
}

/// As the README has it.
#[test]
fn cargo_run_is_warren() {
    let metadata = metadata();
    let is_default = |package: &&Value| {
        metadata["workspace_default_members"].as_array().expect("a list").contains(&package["id"])
    };
    let packages = metadata["packages"].as_array().expect("a list").iter().filter(is_default);
    let targets = packages.flat_map(|package| package["targets"].as_array().expect("a list"));
    let binaries = targets.filter(|target| target["kind"] == serde_json::json!(["bin"]));
    let names: Vec<_> = binaries.map(|binary| &binary["name"]).collect();
    assert_eq!(names, ["warren"]);
}
