//! `scale`: who owns the number of replicas, and what a Scale says of its object.

use super::*;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SCALE: &str = "/apis/apps/v1/namespaces/default/deployments/d/scale";

async fn deployed(c: &mut Client) {
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": pod("d")["spec"]}}});
    c.post(&format!("{DEPLOYMENTS}?fieldManager=creator"), deployment).await.ok();
}

/// (manager, operation, subresource, apiVersion) of whoever owns `spec.replicas`.
async fn owners(c: &mut Client) -> Vec<[String; 4]> {
    let object = c.get(&format!("{DEPLOYMENTS}/d")).await.ok();
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let owns = |entry: &&Value| entry["fieldsV1"]["f:spec"].get("f:replicas").is_some();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or("-").to_owned();
    let of =
        |entry| ["manager", "operation", "subresource", "apiVersion"].map(|key| text(entry, key));
    entries.iter().filter(owns).map(of).collect()
}

fn scale(replicas: i64) -> Value {
    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"},
           "spec": {"replicas": replicas}})
}

async fn apply(c: &mut Client, query: &str, body: Value) -> support::Answer {
    c.patch("apply-patch+yaml", &format!("{SCALE}?{query}"), body).await
}

#[tokio::test]
async fn who_scales_owns_the_replicas() {
    let world = World::start().await;
    let mut c = world.admin().await;
    deployed(&mut c).await;
    let path = format!("{SCALE}?fieldManager=scaler");
    c.patch("merge-patch+json", &path, json!({"spec": {"replicas": 4}})).await.ok();
    assert_eq!(owners(&mut c).await, [["scaler", "Update", "scale", "apps/v1"]]);

    let conflict = apply(&mut c, "fieldManager=applier", scale(7)).await;
    assert_eq!(conflict.code, StatusCode::CONFLICT);
    let status = conflict.json();
    let cause = &status["details"]["causes"][0];
    assert_eq!(
        (&cause["field"], &cause["reason"]),
        (&json!(".spec.replicas"), &json!("FieldManagerConflict"))
    );
    let applied = apply(&mut c, "fieldManager=applier&force=true", scale(7)).await.ok();
    assert_eq!((&applied["kind"], &applied["spec"]["replicas"]), (&json!("Scale"), &json!(7)));
    assert_eq!(owners(&mut c).await, [["applier", "Apply", "scale", "apps/v1"]]);
    let before = rv(&c.get(SCALE).await.ok());
    let again = apply(&mut c, "fieldManager=applier", scale(7)).await.ok();
    assert_eq!(rv(&again), before, "applied twice is applied once");
    // The same value is no conflict: both own it.
    apply(&mut c, "fieldManager=second", scale(7)).await.ok();
    assert_eq!(owners(&mut c).await.len(), 2);
    assert_eq!(apply(&mut c, "fieldManager=second", scale(0)).await.code, StatusCode::CONFLICT);
    world.stop().await;
}

#[tokio::test]
async fn a_scale_is_of_its_object() {
    let world = World::start().await;
    let mut c = world.admin().await;
    deployed(&mut c).await;
    let refused = async |c: &mut Client, field: &str, value: &str| {
        let mut wrong = scale(9);
        wrong["metadata"][field] = value.into();
        c.put(SCALE, wrong).await.error()
    };
    assert!(
        refused(&mut c, "uid", "other")
            .await
            .starts_with("409 Conflict: Operation cannot be fulfilled")
    );
    assert!(
        refused(&mut c, "namespace", "other").await.starts_with("400 BadRequest: the namespace of")
    );
    assert!(
        refused(&mut c, "name", "other")
            .await
            .starts_with("400 BadRequest: the name of the object")
    );
    let mut other = scale(9);
    other["apiVersion"] = "apps/v1".into();
    let version = apply(&mut c, "fieldManager=a", other).await;
    assert_eq!(version.code, StatusCode::BAD_REQUEST, "{}", version.error());
    assert_eq!(
        apply(&mut c, "fieldManager=a", scale(-1)).await.code,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert_eq!(
        apply(&mut c, "", scale(1)).await.code,
        StatusCode::UNPROCESSABLE_ENTITY,
        "a manager must be named"
    );
    assert_eq!(c.get(SCALE).await.ok()["spec"]["replicas"], 1);
    world.stop().await;
}

#[tokio::test]
async fn a_scale_has_a_table() {
    let world = World::start().await;
    let mut c = world.admin().await;
    deployed(&mut c).await;
    let accept = |form: &str| format!("application/json;as={form};g=meta.k8s.io;v=v1");
    let table = c.call("GET", SCALE, &[("accept", &accept("Table"))], "").await.ok();
    let columns = table["columnDefinitions"].as_array().unwrap();
    let columns: Vec<_> = columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Desired", "Available", "Age"]);
    let row = &table["rows"][0];
    assert_eq!(row["cells"].as_array().unwrap()[..3], [json!("d"), json!(1), json!(0)]);
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    let accept = accept("PartialObjectMetadata");
    let metadata = c.call("GET", SCALE, &[("accept", &accept)], "").await.ok();
    assert_eq!(metadata, row["object"]);
    world.stop().await;
}
