//! Tests over all kinds.

mod validation;

use std::collections::HashSet;

use serde_json::json;

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
    for name in kinds.iter().flat_map(|k| k.short_names()) {
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
