//! The paths of kinds and what can be done there.

use serde_json::{Map, Value, json};

use super::{Dialect, gvk, kind_gvk, prefix, reference};
use crate::{Kind, Subresource};

const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const MEDIA_TYPES: [&str; 2] = ["application/json", "application/yaml"];

/// Parameters of a write that are the same everywhere.
const WRITE: [(&str, &str); 3] =
    [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: [(&str, &str); 4] = [
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
];
const LIST: [(&str, &str); 10] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE: [(&str, &str); 4] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

/// The methods that a proxy hands on.
const PROXIED: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

const STATUS: &str = "meta/v1.Status";
const DELETE_OPTIONS: &str = "meta/v1.DeleteOptions";
const PATCH_BODY: &str = "meta/v1.Patch";

/// The types that subresources send and take.
pub(super) fn types(kinds: &[&'static dyn Kind]) -> Vec<String> {
    let all = kinds.iter().flat_map(|kind| kind.subresources());
    all.filter_map(|subresource| own_type(*subresource)).map(|(name, _)| name.to_owned()).collect()
}

fn own_type(subresource: Subresource) -> Option<(&'static str, Value)> {
    match subresource {
        Subresource::Scale => Some(("autoscaling/v1.Scale", gvk("autoscaling", "v1", "Scale"))),
        Subresource::Binding => Some(("core/v1.Binding", gvk("", "v1", "Binding"))),
        Subresource::Eviction => Some(("policy/v1.Eviction", gvk("policy", "v1", "Eviction"))),
        _ => None,
    }
}

/// What connects is about its options: kubectl takes any PATCH of a kind's own for a write of its objects, and looks
/// there whether the server validates fields.
fn options_of(kind: &dyn Kind, subresource: Subresource) -> Option<Value> {
    let connects = match subresource {
        Subresource::Exec => "Exec",
        Subresource::Attach => "Attach",
        Subresource::PortForward => "PortForward",
        Subresource::Proxy => "Proxy",
        _ => return None,
    };
    Some(gvk("", "v1", &format!("{}{connects}Options", kind.kind())))
}

pub(super) fn of_kinds(kinds: &[&'static dyn Kind], dialect: Dialect) -> Value {
    let mut paths = Map::new();
    for kind in kinds {
        of_kind(*kind, dialect, &mut paths);
    }
    Value::Object(paths)
}

fn of_kind(kind: &dyn Kind, dialect: Dialect, paths: &mut Map<String, Value>) {
    let root = prefix(kind.group(), kind.version());
    let plural = kind.plural();
    let own =
        Operations { dialect, kind, sent: kind.schema_type().to_owned(), gvk: kind_gvk(kind) };
    let list = format!("{}List", kind.schema_type());
    let (collection, mut around) = if kind.is_namespaced() {
        let every =
            path_item(dialect, [("get", own.read("list", "ForAllNamespaces", &list, &LIST))], &[]);
        paths.insert(format!("{root}/{plural}"), every);
        (format!("{root}/namespaces/{{namespace}}/{plural}"), vec!["namespace"])
    } else {
        (format!("{root}/{plural}"), Vec::new())
    };
    let operations = [
        ("get", own.read("list", "", &list, &LIST)),
        ("post", own.write("post", "", &WRITE)),
        ("delete", own.delete("deletecollection", &LIST)),
    ];
    paths.insert(collection.clone(), path_item(dialect, operations, &around));
    around.push("name");
    let item = format!("{collection}/{{name}}");
    let operations = [
        ("get", own.read("get", "", kind.schema_type(), &[])),
        ("put", own.write("put", "", &WRITE)),
        ("patch", own.patch("")),
        ("delete", own.delete("delete", &DELETE)),
    ];
    paths.insert(item.clone(), path_item(dialect, operations, &around));
    for &subresource in kind.subresources() {
        let suffix = subresource.name();
        let sub = match own_type(subresource) {
            Some((sent, gvk)) => Operations { dialect, kind, sent: sent.to_owned(), gvk },
            None => {
                let gvk = options_of(kind, subresource).unwrap_or_else(|| own.gvk.clone());
                Operations { dialect, kind, sent: own.sent.clone(), gvk }
            }
        };
        let operations = match subresource {
            Subresource::Status | Subresource::Scale | Subresource::EphemeralContainers => vec![
                ("get", sub.read("get", suffix, &sub.sent, &[])),
                ("put", sub.write("put", suffix, &WRITE)),
                ("patch", sub.patch(suffix)),
            ],
            Subresource::Binding | Subresource::Eviction => {
                vec![("post", sub.write("post", suffix, &WRITE))]
            }
            Subresource::Finalize => vec![("put", sub.write("put", suffix, &WRITE))],
            Subresource::Log => vec![("get", sub.connect("get", suffix))],
            Subresource::Exec | Subresource::Attach | Subresource::PortForward => {
                vec![
                    ("get", sub.connect("connect", suffix)),
                    ("post", sub.connect("connect", suffix)),
                ]
            }
            Subresource::Proxy => {
                let operations = || PROXIED.map(|method| (method, sub.connect("connect", suffix)));
                let further: Vec<&str> = around.iter().copied().chain(["path"]).collect();
                let rest = path_item(dialect, operations(), &further);
                paths.insert(format!("{item}/{suffix}/{{path}}"), rest);
                operations().to_vec()
            }
        };
        paths.insert(format!("{item}/{suffix}"), path_item(dialect, operations, &around));
    }
}

fn path_item(
    dialect: Dialect,
    operations: impl IntoIterator<Item = (&'static str, Value)>,
    path_parameters: &[&str],
) -> Value {
    let mut item: Map<String, Value> =
        operations.into_iter().map(|(method, operation)| (method.to_owned(), operation)).collect();
    let parameters: Vec<Value> = path_parameters
        .iter()
        .map(|name| parameter(dialect, "path", name, "string"))
        .chain([parameter(dialect, "query", "pretty", "string")])
        .collect();
    item.insert("parameters".to_owned(), parameters.into());
    Value::Object(item)
}

fn parameter(dialect: Dialect, place: &str, name: &str, kind: &str) -> Value {
    let mut made = json!({"name": name, "in": place, "uniqueItems": true});
    if place == "path" {
        made["required"] = true.into();
    }
    match dialect {
        Dialect::V2 => made["type"] = kind.into(),
        Dialect::V3 => made["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    if dialect == Dialect::V3 {
        made.as_object_mut().map(|made| made.remove("uniqueItems"));
    }
    made
}

struct Operations<'k> {
    dialect: Dialect,
    kind: &'k dyn Kind,
    /// The type of the body.
    sent: String,
    gvk: Value,
}

impl Operations<'_> {
    fn read(&self, action: &str, suffix: &str, answer: &str, query: &[(&str, &str)]) -> Value {
        self.operation(action, suffix, None, Some(answer), query)
    }

    fn write(&self, action: &str, suffix: &str, query: &[(&str, &str)]) -> Value {
        self.operation(action, suffix, Some((&self.sent, &MEDIA_TYPES)), Some(&self.sent), query)
    }

    fn patch(&self, suffix: &str) -> Value {
        self.operation("patch", suffix, Some((PATCH_BODY, &PATCH_TYPES)), Some(&self.sent), &PATCH)
    }

    fn delete(&self, action: &str, query: &[(&str, &str)]) -> Value {
        self.operation(action, "", Some((DELETE_OPTIONS, &MEDIA_TYPES)), Some(STATUS), query)
    }

    fn connect(&self, action: &str, suffix: &str) -> Value {
        self.operation(action, suffix, None, None, &[])
    }

    fn operation(
        &self,
        action: &str,
        suffix: &str,
        body: Option<(&str, &[&str])>,
        answer: Option<&str>,
        query: &[(&str, &str)],
    ) -> Value {
        let dialect = self.dialect;
        let mut parameters: Vec<Value> =
            query.iter().map(|(name, kind)| parameter(dialect, "query", name, kind)).collect();
        let answer =
            answer.map_or_else(|| json!({"type": "string"}), |name| reference(dialect, name));
        let group = self.kind.group().split('.').next().unwrap_or_default();
        let mut made = json!({
            "operationId": camel(&[action, if group.is_empty() { "core" } else { group }, self.kind.version(), self.kind.kind(), suffix]),
            "tags": [format!("{}_{}", if group.is_empty() { "core" } else { group }, self.kind.version())],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.gvk,
        });
        match dialect {
            Dialect::V2 => {
                if let Some((name, media_types)) = body {
                    let schema = reference(dialect, name);
                    parameters.push(json!({"name": "body", "in": "body", "required": name != DELETE_OPTIONS, "schema": schema}));
                    made["consumes"] = media_types.into();
                }
                made["produces"] = MEDIA_TYPES.as_slice().into();
                made["responses"] = json!({"200": {"description": "OK", "schema": answer}});
            }
            Dialect::V3 => {
                let content = |types: &[&str], schema: &Value| -> Map<String, Value> {
                    types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect()
                };
                if let Some((name, media_types)) = body {
                    made["requestBody"] = json!({
                        "content": content(media_types, &reference(dialect, name)),
                        "required": name != DELETE_OPTIONS,
                    });
                }
                made["responses"] = json!({"200": {"description": "OK", "content": content(&MEDIA_TYPES, &answer)}});
            }
        }
        made["parameters"] = parameters.into();
        made
    }
}

fn camel(words: &[&str]) -> String {
    let mut name = words[0].to_owned();
    for word in &words[1..] {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}
