use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::builtin;

fn patched(type_name: &str, target: Value, patch: Value) -> Result<Value, String> {
    strategic(builtin(), type_name, target, &patch).map_err(|error| error.to_string())
}

fn pod(target: Value, patch: Value, result: Value) {
    assert_eq!(
        patched("core/v1.Pod", json!({"spec": target}), json!({"spec": patch})),
        Ok(json!({"spec": result}))
    );
}

/// As `validatePatchWithSetOrderList` of k8s.io/apimachinery.
#[test]
fn what_a_patch_sets_stands_in_its_order() {
    let order = |containers: Value, order: Value| {
        let patch =
            json!({"spec": {"containers": containers, "$setElementOrder/containers": order}});
        patched(
            "core/v1.Pod",
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            patch,
        )
    };
    let names = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Value>();
    for (set, of, fits) in [
        (names(&[]), names(&["a"]), true),
        (names(&["b"]), names(&["a", "b"]), true),
        (names(&["a", "b"]), names(&["a", "x", "b"]), true),
        (names(&["b", "a"]), names(&["a", "b"]), false),
        (names(&["z"]), names(&["a", "b"]), false),
        (json!([{"name": "z", "$patch": "delete"}, {"name": "b"}]), names(&["b"]), true),
    ] {
        assert_eq!(order(set.clone(), of.clone()).is_ok(), fits, "{set} in {of}");
    }
    assert_eq!(
        order(names(&["z"]), names(&["x"])).unwrap_err(),
        "The order in patch list:\n[map[name:z]]\n doesn't match $setElementOrder list:\n[map[name:x]]\n"
    );
}

/// The examples of the Kubernetes task page on patching.
#[test]
fn the_documented_cases() {
    // A second container comes first.
    let target = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "patch-demo-ctr", "image": "nginx"}],
        "tolerations": [{"effect": "NoSchedule", "key": "dedicated", "value": "test-team"}]}}}});
    let result = patched(
        "apps/v1.Deployment",
        target.clone(),
        json!({"spec": {"template": {"spec": {"containers": [{"name": "patch-demo-ctr-2", "image": "redis"}]}}}}),
    );
    assert_eq!(
        result.unwrap()["spec"]["template"]["spec"],
        json!({"containers": [{"name": "patch-demo-ctr-2", "image": "redis"}, {"name": "patch-demo-ctr", "image": "nginx"}],
               "tolerations": [{"effect": "NoSchedule", "key": "dedicated", "value": "test-team"}]})
    );
    // Tolerations have no merge key: they are replaced.
    let result = patched(
        "apps/v1.Deployment",
        target,
        json!({"spec": {"template": {"spec": {"tolerations": [{"effect": "NoSchedule", "key": "disktype", "value": "ssd"}]}}}}),
    );
    assert_eq!(
        result.unwrap()["spec"]["template"]["spec"]["tolerations"],
        json!([{"effect": "NoSchedule", "key": "disktype", "value": "ssd"}])
    );
    // retainKeys: another strategy takes away what belonged to the old one.
    let result = patched(
        "apps/v1.Deployment",
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
    );
    assert_eq!(result.unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn directives() {
    let both = json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "x", "value": "1"}]}, {"name": "b", "image": "2"}]});
    pod(
        both.clone(),
        json!({"containers": [{"name": "b", "$patch": "delete"}]}),
        json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "x", "value": "1"}]}]}),
    );
    pod(
        both.clone(),
        json!({"containers": [{"$patch": "replace"}, {"name": "c", "image": "3"}]}),
        json!({"containers": [{"name": "c", "image": "3"}]}),
    );
    pod(
        both.clone(),
        json!({"containers": [{"name": "a", "image": null, "env": [{"name": "x", "$patch": "delete"}, {"name": "y", "value": "2"}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "y", "value": "2"}]}, {"name": "b", "image": "2"}]}),
    );
    pod(
        both,
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "9"}]}),
        json!({"containers": [{"name": "b", "image": "2"}, {"name": "a", "image": "9", "env": [{"name": "x", "value": "1"}]}]}),
    );
    pod(
        json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}, "hostname": "x"}),
        json!({"securityContext": {"$patch": "replace", "runAsUser": 3}, "hostname": null}),
        json!({"securityContext": {"runAsUser": 3}}),
    );
    pod(
        json!({"securityContext": {"runAsUser": 1}}),
        json!({"securityContext": {"$patch": "delete"}}),
        json!({"securityContext": {}}),
    );
    // volumes: merge with retainKeys, as kubectl apply sends them when a source changes.
    pod(
        json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]}),
        json!({"$setElementOrder/volumes": [{"name": "v"}, {"name": "w"}],
               "volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}, {"name": "w", "emptyDir": {}}]}),
    );
    // New items and maps come in without their directives and nulls.
    pod(
        json!({}),
        json!({"volumes": [{"$retainKeys": ["name"], "name": "v", "emptyDir": null}, {"name": "w", "$patch": "delete"}],
               "securityContext": {"$patch": "replace", "fsGroup": 1}, "nodeSelector": null}),
        json!({"volumes": [{"name": "v"}], "securityContext": {"fsGroup": 1}}),
    );
}

#[test]
fn lists_of_scalars_and_maps_of_strings() {
    let meta = |meta: Value| json!({"metadata": meta});
    for (target, patch, result) in [
        (
            json!({"finalizers": ["a", "b"]}),
            json!({"finalizers": ["b", "c"]}),
            json!({"finalizers": ["a", "b", "c"]}),
        ),
        (
            json!({"finalizers": ["a", "b", "c"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["b"]}),
            json!({"finalizers": ["a", "c"]}),
        ),
        (
            json!({"finalizers": ["a", "b", "c"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["c", "d", "a"], "finalizers": ["d"]}),
            json!({"finalizers": ["c", "d", "a"]}),
        ),
        (
            json!({"labels": {"a": "1", "b": "2"}}),
            json!({"labels": {"a": null, "c": "3"}, "annotations": {"x": "y", "z": null}}),
            json!({"labels": {"b": "2", "c": "3"}, "annotations": {"x": "y"}}),
        ),
    ] {
        assert_eq!(patched("core/v1.Pod", meta(target), meta(patch)), Ok(meta(result)));
    }
}

#[test]
fn a_type_that_the_table_does_not_have_is_merged_by_keys_only() {
    let result =
        patched("x/v1.Y", json!({"a": {"b": 1}, "l": [1]}), json!({"a": {"c": 2}, "l": [2]}));
    assert_eq!(result, Ok(json!({"a": {"b": 1, "c": 2}, "l": [2]})));
}

#[test]
fn what_is_refused() {
    for (patch, message) in [
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (json!({"spec": {"$patch": "explode"}}), "unknown patch type found: \"explode\""),
        (
            json!({"spec": {"containers": ["x"]}}),
            "an item of the list containers is not a map: \"x\"",
        ),
        (
            json!({"spec": {"$retainKeys": ["a"], "b": 1}}),
            "$retainKeys does not name \"b\", which the patch sets",
        ),
        (
            json!({"spec": {"$setElementOrder/containers": [{"image": "x"}]}}),
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (
            json!(["x"]),
            "json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
    ] {
        let target = json!({"spec": {"containers": [{"name": "a"}]}});
        assert_eq!(patched("core/v1.Pod", target, patch), Err(message.to_owned()));
    }
}

proptest! {
    /// Merging a list of containers with itself, or with nothing, changes nothing.
    #[test]
    fn nothing_new_changes_nothing(names in prop::collection::hash_set("[a-z]{1,3}", 0..6)) {
        let list: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "x"})).collect();
        let target = json!({"spec": {"containers": list}});
        prop_assert_eq!(patched("core/v1.Pod", target.clone(), target.clone()).unwrap(), target.clone());
        prop_assert_eq!(patched("core/v1.Pod", target.clone(), json!({})).unwrap(), target);
    }
}
