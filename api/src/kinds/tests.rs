//! Tests over all kinds.

mod columns;
mod fuzz;
mod validation;

use std::collections::HashSet;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::schema::{self, FieldValidation};
use crate::{ErrorList, Kind, Object, Registry};

/// Errors, one a line.
pub(crate) fn show(errors: &ErrorList) -> String {
    errors.0.iter().map(|e| format!("{}: {}\n", e.field, e.message)).collect()
}

#[test]
fn names_are_unique_and_sorted() {
    let kinds: Vec<&dyn Kind> = Registry::builtin().iter().collect();
    let mut seen = HashSet::new();
    for kind in &kinds {
        assert!(seen.insert((kind.group(), kind.plural())), "{} twice", kind.resource());
        assert_eq!(kind.plural(), kind.plural().to_lowercase());
        assert_eq!(kind.singular(), kind.kind().to_lowercase());
    }
    // Short names are looked up without a group.
    let mut short = HashSet::new();
    let stored = kinds.iter().filter(|kind| kind.conversion().is_none());
    for name in stored.flat_map(|k| k.short_names()) {
        assert!(short.insert(*name), "short name {name} twice");
    }
    assert!(kinds.is_sorted_by_key(|k| (k.group(), k.plural())));
}

#[test]
fn defaults_are_idempotent() {
    for kind in Registry::builtin().iter() {
        let mut object = minimal(kind);
        kind.on_create(&mut object);
        kind.default(&mut object);
        let once = object.clone();
        kind.default(&mut object);
        assert_eq!(once, object, "{}", kind.resource());
        let mut updated = once.clone();
        kind.on_update(&mut updated, &once);
        kind.default(&mut updated);
        assert_eq!(once, updated, "{}", kind.resource());
    }
}

/// The least that a user would write.
fn minimal(kind: &dyn Kind) -> Object {
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "nginx"}], "restartPolicy": "Always"},
    });
    let selector = json!({"matchLabels": {"app": "web"}});
    let mut object = match kind.kind() {
        "Pod" => template,
        "Deployment" | "ReplicaSet" => {
            json!({"spec": {"selector": selector, "template": template}})
        }
        "Job" => {
            let mut template = template;
            template["spec"]["restartPolicy"] = "Never".into();
            json!({"spec": {"template": template}})
        }
        "Service" => json!({"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        "Secret" => json!({"stringData": {"a": "b"}}),
        "Endpoints" => {
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]})
        }
        "EndpointSlice" => json!({
            "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}],
        }),
        "Event" if kind.conversion().is_some() => {
            json!({"eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
                   "regarding": {"kind": "Pod", "namespace": "default", "name": "web"}})
        }
        "Event" => {
            json!({"involvedObject": {"kind": "Pod", "namespace": "default", "name": "web"}})
        }
        "Lease" => json!({"spec": {"holderIdentity": "me"}}),
        _ => json!({}),
    };
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind().into();
    object["metadata"]["name"] = "web".into();
    object["metadata"]["uid"] = "01234567-89ab-cdef-0123-456789abcdef".into();
    if kind.is_namespaced() {
        object["metadata"]["namespace"] = "default".into();
    }
    Object::try_from(object).unwrap()
}

#[test]
fn defaults_of_minimal_objects() {
    let mut shown = String::new();
    for name in ["Namespace", "Pod", "Secret", "Service", "Deployment", "Job"] {
        let kind = Registry::builtin().iter().find(|k| k.kind() == name).unwrap();
        let mut object = minimal(kind);
        kind.on_create(&mut object);
        kind.default(&mut object);
        shown += &crate::yaml::to_string(&object.into()).unwrap();
        shown += "---\n";
    }
    expect_test::expect_file!["defaults.yaml"].assert_eq(&shown);
}

/// What a kind fills in, the table of types knows, and reading it again changes nothing.
#[test]
fn defaulted_objects_read_back_whole() {
    for kind in Registry::builtin().iter() {
        let mut object = minimal(kind);
        kind.on_create(&mut object);
        schema::apply_defaults(schema::builtin(), kind.schema_type(), &mut object.0);
        kind.default(&mut object);
        let (read, warnings) = schema::decode(
            schema::builtin(),
            kind.schema_type(),
            object.clone().into(),
            FieldValidation::Strict,
        )
        .unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(read, object, "{}", kind.resource());
        schema::apply_defaults(schema::builtin(), kind.schema_type(), &mut object.0);
        assert_eq!(read, object, "{}", kind.resource());
    }
}

#[test]
fn types_are_in_the_table() {
    for kind in Registry::builtin().iter() {
        let found = schema::builtin().named(kind.schema_type());
        let found = found.unwrap_or_else(|| panic!("{} is not there", kind.schema_type()));
        assert!(found.is_kind, "{}", kind.schema_type());
        assert_eq!(found.short_name(), kind.kind());
        assert_eq!(found.cluster_scoped, !kind.is_namespaced(), "{}", kind.schema_type());
        for path in kind.selectable_fields() {
            let first = path.split('.').next().unwrap_or_default();
            assert!(found.field(first).is_some(), "{}: {path}", kind.resource());
        }
    }
}

/// Fully populated samples, which hold nonsense: nothing of them is lost, and nothing panics.
#[test]
fn samples_survive() {
    let folder = match std::env::var_os("SAMPLES") {
        Some(folder) => PathBuf::from(folder),
        None => {
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/kubernetes-v1.34/samples")
        }
    };
    if !folder.is_dir() {
        eprintln!("skipped: no samples in {}; set SAMPLES to their folder", folder.display());
        return;
    }
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    for kind in Registry::builtin().iter() {
        let group = if kind.group().is_empty() { "core" } else { kind.group() };
        let path = folder.join(format!("{group}.{}.{}.json", kind.version(), kind.kind()));
        let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (sample, _) = schema::decode_slice(
            schema::builtin(),
            kind.schema_type(),
            &text,
            FieldValidation::Strict,
        )
        .unwrap();
        let mut object = sample.clone();
        kind.default(&mut object);
        let mut lost = Vec::new();
        missing(&sample.clone().into(), &object.clone().into(), "", &mut lost);
        // `stringData` is read as `data` from then on; `serviceAccount` is the old name of `serviceAccountName`.
        lost.retain(|path| path != ".stringData" && !path.ends_with("spec.serviceAccount"));
        assert_eq!(lost, Vec::<String>::new(), "{}", kind.resource());
        let mut errors = ErrorList::default();
        kind.validate(&object, &mut errors);
        kind.validate_update(&object, &sample, &mut errors);
        for column in kind.columns() {
            let cell = (column.cell)(&object, now);
            assert!(cell.is_string() || cell.is_number(), "{}: {}", kind.resource(), column.name);
        }
        for field in kind.selectable_fields() {
            kind.field(&object, field);
        }
    }
}

/// What the first has and the second has not, or has otherwise.
fn missing(a: &Value, b: &Value, path: &str, lost: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                missing(value, b.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}"), lost);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for (i, value) in a.iter().enumerate() {
                missing(value, b.get(i).unwrap_or(&Value::Null), &format!("{path}[{i}]"), lost);
            }
        }
        (a, b) if a == b => {}
        _ => lost.push(path.to_owned()),
    }
}
