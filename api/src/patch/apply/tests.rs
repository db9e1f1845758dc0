use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::patch::track_update;
use crate::schema::builtin;

fn manager(name: &str, seconds: i64) -> Manager {
    Manager {
        name: name.to_owned(),
        subresource: String::new(),
        api_version: "v1".to_owned(),
        time: Timestamp::from_second(seconds).unwrap(),
    }
}

fn object(value: Value) -> Object {
    Object::try_from(value).unwrap()
}

const POD: &str = "core/v1.Pod";

fn applied(
    live: Option<&Object>,
    config: Value,
    who: &str,
    force: bool,
) -> Result<Object, ApplyError> {
    let (config, _) =
        schema::decode_keeping_zeros(builtin(), POD, config, FieldValidation::Strict).unwrap();
    apply(builtin(), POD, live, &config, &manager(who, 10), force)
}

fn without_managers(object: &Object) -> Value {
    let mut object = object.clone();
    object.remove_at(&["metadata", "managedFields"]);
    object.into()
}

/// The fields of each entry by `manager operation`.
fn owners(object: &Object) -> Value {
    let entries = object.at(&["metadata", "managedFields"]).and_then(Value::as_array).cloned();
    let owners = entries.unwrap_or_default().into_iter().map(|entry| {
        let name = format!(
            "{} {}",
            entry["manager"].as_str().unwrap(),
            entry["operation"].as_str().unwrap()
        );
        (name, entry["fieldsV1"].clone())
    });
    Value::Object(owners.collect())
}

fn pod(meta: Value, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec});
    pod["metadata"]["name"] = "x".into();
    pod
}

#[test]
fn a_first_apply_owns_what_it_names() {
    let config = pod(
        json!({"labels": {"app": "web"}, "finalizers": ["a/b"]}),
        json!({"hostNetwork": false, "nodeSelector": {}, "containers": [{"name": "c", "image": "i", "resources": {},
            "ports": [{"containerPort": 80}], "args": ["a"], "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}),
    );
    let live = applied(None, config, "me", false).unwrap();
    assert_eq!(
        owners(&live),
        json!({"me Apply": {
            "f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {"v:\"a/b\"": {}}},
            "f:spec": {
                "f:hostNetwork": {}, "f:nodeSelector": {},
                "f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:name": {}, "f:image": {}, "f:resources": {}, "f:args": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    "f:env": {"k:{\"name\":\"E\"}": {".": {}, "f:name": {}, "f:valueFrom": {"f:fieldRef": {}}}}
                }}
            }
        }})
    );
    assert_eq!(live.at(&["spec", "hostNetwork"]), None);
    let entry = &live["metadata"]["managedFields"][0];
    assert_eq!(
        (&entry["time"], &entry["apiVersion"]),
        (&json!("1970-01-01T00:00:10Z"), &json!("v1"))
    );
}

#[test]
fn what_is_left_out_goes_unless_somebody_else_owns_it() {
    let first = pod(
        json!({"labels": {"a": "1", "b": "2", "c": "3"}}),
        json!({"securityContext": {"fsGroup": 1}, "containers": [{"name": "x", "image": "i"}, {"name": "y", "image": "i"}]}),
    );
    let mut live = applied(None, first, "me", false).unwrap();
    // A default that nobody owns, and an updater's field.
    live["spec"]["containers"][1]["imagePullPolicy"] = "Always".into();
    let old = live.clone();
    live["metadata"]["labels"]["b"] = "changed".into();
    live["metadata"]["labels"]["d"] = "4".into();
    track_update(builtin(), POD, Some(&old), &mut live, &manager("editor", 20));
    let second =
        pod(json!({"labels": {"a": "1"}}), json!({"containers": [{"name": "x", "image": "j"}]}));
    let live = applied(Some(&live), second, "me", false).unwrap();
    assert_eq!(
        without_managers(&live),
        pod(
            json!({"labels": {"a": "1", "b": "changed", "d": "4"}}),
            json!({"containers": [{"name": "x", "image": "j"}]})
        )
    );
    assert_eq!(
        owners(&live),
        json!({
            "me Apply": {
                "f:metadata": {"f:labels": {"f:a": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}, "f:image": {}}}}},
            "editor Update": {"f:metadata": {"f:labels": {"f:b": {}, "f:d": {}}}},
        })
    );
}

#[test]
fn nothing_applied_leaves_name_and_kind() {
    let live =
        applied(None, pod(json!({"labels": {"a": "1"}}), json!({"hostname": "h"})), "me", false)
            .unwrap();
    let config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}});
    let live = applied(Some(&live), config.clone(), "me", false).unwrap();
    assert_eq!(Value::from(live), config);
}

#[test]
fn conflicts_name_manager_and_field() {
    let live = applied(
        None,
        pod(
            json!({"labels": {"a": "1"}}),
            json!({"containers": [{"name": "x", "image": "i"}], "hostname": "h"}),
        ),
        "one",
        false,
    )
    .unwrap();
    // The same value is shared.
    let shared =
        applied(Some(&live), pod(json!({"labels": {"a": "1"}}), json!({})), "two", false).unwrap();
    assert_eq!(
        owners(&shared)["two Apply"],
        json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {}})
    );

    let error = applied(Some(&live), pod(json!({"labels": {"a": "2"}}), json!({})), "two", false)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"one\": .metadata.labels.a"
    );
    let config =
        pod(json!({"labels": {"a": "2"}}), json!({"containers": [{"name": "x", "image": "j"}]}));
    let error = applied(Some(&live), config.clone(), "two", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .metadata.labels.a\n- .spec.containers[name=\"x\"].image"
    );
    let status = error.status().to_json();
    assert_eq!(status["code"], 409);
    assert_eq!(status["reason"], "Conflict");
    assert_eq!(
        status["details"]["causes"][1],
        json!({"reason": "FieldManagerConflict", "field": ".spec.containers[name=\"x\"].image", "message": "conflict with \"one\""})
    );

    let forced = applied(Some(&live), config, "two", true).unwrap();
    assert_eq!(forced.label("a"), Some("2"));
    assert_eq!(
        owners(&forced)["one Apply"],
        json!({"f:spec": {"f:hostname": {}, "f:containers": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}}}}})
    );

    let mut updated = live.clone();
    updated["spec"]["hostname"] = "other".into();
    let editor = Manager { subresource: "status".to_owned(), ..manager("editor", 20) };
    track_update(builtin(), POD, Some(&live), &mut updated, &editor);
    let error = applied(Some(&updated), pod(json!({}), json!({"hostname": "mine"})), "two", false)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"editor\" with subresource \"status\" using v1: .spec.hostname"
    );
}

#[test]
fn lists_keep_their_order() {
    let containers = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|n| json!({"name": n, "image": "i"})).collect();
        pod(json!({}), json!({"containers": list}))
    };
    let names = |object: &Object| -> Vec<String> {
        let list = object["spec"]["containers"].as_array().unwrap();
        list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let live = applied(None, containers(&["a", "b", "c"]), "one", false).unwrap();
    for (config, expected) in [
        (vec!["d"], vec!["a", "b", "c", "d"]),
        (vec!["d", "b"], vec!["a", "d", "b", "c"]),
        (vec!["c", "a"], vec!["c", "a", "b"]),
        (vec!["b", "d"], vec!["a", "b", "c", "d"]),
    ] {
        let found = applied(Some(&live), containers(&config), "two", false).unwrap();
        let again = applied(Some(&found), containers(&config), "two", false).unwrap();
        assert_eq!(found, again, "{config:?}");
        assert_eq!(names(&found), expected, "{config:?}");
    }
}

#[test]
fn what_cannot_be_applied() {
    for (config, message) in [
        (
            pod(json!({"managedFields": [{"manager": "x"}]}), json!({})),
            "metadata.managedFields must be nil",
        ),
        (
            pod(json!({}), json!({"containers": [{"name": "a"}, {"name": "a"}]})),
            ".spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (
            pod(json!({}), json!({"containers": [{"image": "a"}]})),
            ".spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
        ),
        (
            pod(json!({"finalizers": ["a", "a"]}), json!({})),
            ".metadata.finalizers: duplicate entries for key [=\"a\"]",
        ),
    ] {
        let error = applied(None, config, "me", true).unwrap_err();
        let shown = error.to_string();
        let head = "failed to create typed patch object (/x; /v1, Kind=Pod): ";
        assert_eq!(shown.strip_prefix(head).unwrap_or(&shown), message);
    }
}

#[test]
fn an_object_from_before_managed_fields() {
    let live = object(pod(json!({"labels": {"a": "1"}}), json!({"hostname": "h"})));
    let found =
        applied(Some(&live), pod(json!({"labels": {"b": "2"}}), json!({})), "me", false).unwrap();
    assert_eq!(
        owners(&found)["before-first-apply Update"],
        json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:hostname": {}}})
    );
    let error = applied(Some(&live), pod(json!({"labels": {"a": "2"}}), json!({})), "me", false)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .metadata.labels.a"
    );
}

#[test]
fn updates_are_tracked() {
    let mut created = object(pod(
        json!({"uid": "u", "generation": 1, "creationTimestamp": "2024-01-01T00:00:00Z", "labels": {"run": "nginx"}, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "o"}]}),
        json!({"containers": [{"name": "nginx", "image": "nginx", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
               "dnsPolicy": "ClusterFirst", "securityContext": {}}),
    ));
    track_update(builtin(), POD, None, &mut created, &manager("kubectl-run", 1));
    // As `kubectl run nginx --image=nginx --port=80` leaves it on Kubernetes.
    assert_eq!(
        owners(&created),
        json!({"kubectl-run Update": {
            "f:metadata": {"f:labels": {".": {}, "f:run": {}}, "f:ownerReferences": {".": {}, "k:{\"uid\":\"o\"}": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"nginx\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}}}},
                "f:dnsPolicy": {}, "f:securityContext": {}}
        }})
    );
    // A write that changes nothing, or only what nobody owns, leaves the entries alone.
    let mut same = created.clone();
    same.set_at(&["metadata", "generation"], 2);
    same.remove_at(&["metadata", "managedFields"]);
    track_update(builtin(), POD, Some(&created), &mut same, &manager("other", 2));
    assert_eq!(same["metadata"]["managedFields"], created["metadata"]["managedFields"]);

    let mut changed = created.clone();
    changed.set_at(&["metadata", "labels", "run"], "caddy");
    changed["spec"]["containers"][0].as_object_mut().unwrap().remove("ports");
    track_update(builtin(), POD, Some(&created), &mut changed, &manager("editor", 3));
    assert_eq!(
        owners(&changed)["editor Update"],
        json!({"f:metadata": {"f:labels": {"f:run": {}}}})
    );
    assert_eq!(
        owners(&changed)["kubectl-run Update"]["f:spec"]["f:containers"]["k:{\"name\":\"nginx\"}"],
        json!({".": {}, "f:image": {}, "f:name": {}, "f:resources": {}})
    );
    assert_eq!(owners(&changed)["kubectl-run Update"]["f:metadata"]["f:labels"], json!({}));

    let mut reset = changed.clone();
    reset.set_at(&["metadata", "managedFields"], json!([{}]));
    track_update(builtin(), POD, Some(&changed), &mut reset, &manager("editor", 4));
    assert_eq!(owners(&reset), json!({}));
    let mut rewritten = changed.clone();
    rewritten["metadata"]["managedFields"][0]["manager"] = "renamed".into();
    track_update(builtin(), POD, Some(&changed), &mut rewritten, &manager("editor", 4));
    assert!(owners(&rewritten).get("renamed Update").is_some());
    let mut broken = changed.clone();
    broken.set_at(&["metadata", "managedFields"], json!([{"manager": "x"}]));
    track_update(builtin(), POD, Some(&changed), &mut broken, &manager("editor", 4));
    assert_eq!(owners(&broken), owners(&changed));
}

#[test]
fn the_number_of_updaters_is_bounded() {
    let mut live = object(pod(json!({}), json!({})));
    for n in 0..50 {
        let old = live.clone();
        live.set_at(&["metadata", "labels", &format!("l{n}")], "x");
        track_update(builtin(), POD, Some(&old), &mut live, &manager(&format!("m{n}"), n));
    }
    let owners = owners(&live);
    let owners = owners.as_object().unwrap();
    assert_eq!(owners.len(), 10);
    let all: usize = owners
        .values()
        .map(|set| {
            set["f:metadata"]["f:labels"].as_object().unwrap().keys().filter(|k| *k != ".").count()
        })
        .sum();
    assert_eq!(all, 50);
    assert!(owners.contains_key("ancient-changes Update"));
    assert!(owners.contains_key("m49 Update"));
}

#[test]
fn names_of_managers() {
    assert_eq!(Manager::name_of("me", "kubectl/v1.30"), "me");
    assert_eq!(Manager::name_of("", "kubectl/v1.30 (linux)"), "kubectl");
    assert_eq!(Manager::name_of("", ""), "unknown");
    assert_eq!(Manager::name_of("", &"ä".repeat(100)).len(), 128);
}

fn config() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[a-d]", "[xy]", 0..4);
    let containers = prop::collection::btree_map("[a-c]", prop::option::of("[ij]"), 0..3);
    (labels, containers, any::<bool>(), prop::option::of("[hg]")).prop_map(
        |(labels, containers, reversed, hostname)| {
            let mut list: Vec<Value> = containers
                .into_iter()
                .map(|(name, image)| match image {
                    Some(image) => json!({"name": name, "image": image}),
                    None => json!({"name": name, "ports": [{"containerPort": 80}]}),
                })
                .collect();
            if reversed {
                list.reverse();
            }
            let mut spec = json!({"containers": list});
            if let Some(hostname) = hostname {
                spec["hostname"] = hostname.into();
            }
            pod(json!({"labels": labels}), spec)
        },
    )
}

/// With one look through the list for each item of it, this takes half a minute.
#[test]
fn long_lists_are_merged_in_one_go() {
    const MANY: usize = 30_000;
    let config = |value: &str, from: usize| {
        let variable = |n: usize| json!({"name": format!("E{n}"), "value": value});
        let env: Vec<Value> = (from..from + MANY).rev().map(variable).collect();
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "x"},
            "spec": {"containers": [{"name": "c", "image": "i", "env": env}]},
        })
    };
    let live = applied(None, config("old", 0), "one", false).unwrap();
    let started = std::time::Instant::now();
    let merged = applied(Some(&live), config("new", MANY / 2), "two", true).unwrap();
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
    let env = merged.at(&["spec", "containers"]).unwrap()[0]["env"].as_array().unwrap();
    let names: Vec<&str> = env.iter().map(|item| item["name"].as_str().unwrap()).collect();
    let last = format!("E{}", MANY + MANY / 2 - 1);
    assert_eq!((names.len(), names[0]), (MANY + MANY / 2, last.as_str()));
    assert_eq!(names.last(), Some(&"E0"), "what was not applied keeps its place");
}

proptest! {
    #[test]
    fn twice_is_once(first in config(), second in config(), third in config()) {
        let live = applied(None, first, "one", true).unwrap();
        let live = applied(Some(&live), second, "two", true).unwrap();
        let live = applied(Some(&live), third.clone(), "one", true).unwrap();
        let again = applied(Some(&live), third, "one", false).unwrap();
        prop_assert_eq!(live, again);
    }

    /// Whoever applies gets what it asked for, and what nobody asks for any more is gone.
    #[test]
    fn the_last_one_wins_and_leaves_no_rest(first in config(), second in config()) {
        let live = applied(None, first, "one", true).unwrap();
        let live = applied(Some(&live), second.clone(), "one", true).unwrap();
        let fresh = applied(None, second, "one", true).unwrap();
        prop_assert_eq!(owners(&live), owners(&fresh));
        prop_assert_eq!(&live["metadata"]["labels"], &fresh["metadata"]["labels"]);
        prop_assert_eq!(&live["spec"], &fresh["spec"]);
    }

    #[test]
    fn managers_of_different_fields_commute(a in prop::collection::btree_map("[a-d]", "[xy]", 1..4), b in prop::collection::btree_map("[e-h]", "[xy]", 1..4)) {
        let (a, b) = (pod(json!({"labels": a}), json!({})), pod(json!({"labels": b}), json!({})));
        let one = applied(Some(&applied(None, a.clone(), "one", false).unwrap()), b.clone(), "two", false).unwrap();
        let other = applied(Some(&applied(None, b, "two", false).unwrap()), a, "one", false).unwrap();
        prop_assert_eq!(one, other);
    }

    /// Every field of an object made by updates has exactly one owner.
    #[test]
    fn updates_leave_one_owner(steps in prop::collection::vec(config(), 1..6)) {
        let mut live: Option<Object> = None;
        for (n, step) in steps.into_iter().enumerate() {
            let mut new = object(step);
            track_update(builtin(), POD, live.as_ref(), &mut new, &manager(&format!("m{}", n % 3), n as i64));
            live = Some(new);
        }
        let live = live.unwrap();
        let of = builtin().named(POD).unwrap();
        let all = fields::all(builtin(), of, &live.0, Purpose::Added);
        let mut seen: Vec<String> = owners(&live).as_object().unwrap().values().flat_map(|set| set::paths(set.as_object().unwrap())).collect();
        let count = seen.len();
        seen.sort();
        seen.dedup();
        prop_assert_eq!(seen.len(), count, "two owners");
        let leaves: Vec<String> = set::paths(&all).into_iter().filter(|p| !p.ends_with("labels") && !p.ends_with("ports") && !p.ends_with("containers")).collect();
        for path in leaves {
            prop_assert!(seen.contains(&path), "{} has no owner in {:?}", path, seen);
        }
    }
}

/// A stored item would have no key, and the next apply would add it once more.
#[test]
fn a_key_that_is_not_written_is_no_key() {
    let secrets = json!({"metadata": {"name": "x"}, "secrets": [{"name": "", "fieldPath": "a"}]});
    let config: Object = serde_json::from_value(secrets).unwrap();
    let name = "core/v1.ServiceAccount";
    let error = apply(builtin(), name, None, &config, &manager("me", 10), true).unwrap_err();
    let ApplyError::Untyped(message) = error else { panic!("{error:?}") };
    assert!(message.contains("): .secrets: element 0: "), "{message}");
    // An empty key that has a default is that.
    let ports = |protocol: &str| {
        let port = json!({"containerPort": 80, "protocol": protocol});
        pod(json!({}), json!({"containers": [{"name": "a", "ports": [port]}]}))
    };
    let once = applied(None, ports(""), "me", true).unwrap();
    let again = applied(Some(&once), ports("TCP"), "me", false).unwrap();
    let found = again["spec"]["containers"][0]["ports"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
}
