//! What runs here and what the API knows of: orphans, and databases that were restored.

use super::*;

/// What the lease says of the list with which all agrees.
fn listed(api: &FakeApi) -> Option<warren_api::Listed> {
    api.lease("n1")?["metadata"]["annotations"][warren_api::LISTED].as_str()?.parse().ok()
}

#[tokio::test(start_paused = true)]
async fn an_orphan_is_ended_only_when_all_is_known() {
    let world = start(|_| {}).await;
    let runtime = world.simulation.node("n1");
    let pod_ref = crate::runtime::PodRef {
        namespace: "default".into(),
        name: "left".into(),
        uid: "left-over".into(),
    };
    let body: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json!({
        "metadata": {"name": "left", "namespace": "default", "uid": "left-over"}}))
    .unwrap();
    let config = crate::pod::execute::sandbox_config(&body, 0);
    assert_eq!(config.pod, pod_ref);
    runtime.create_sandbox(config).await.unwrap();
    world.fabric.relist();
    let mut left = 1;
    while left > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        left = runtime.pods().await.unwrap().len();
    }
}

/// Both restores come to the same revision, as nothing is known of the database in between.
#[tokio::test(start_paused = true)]
async fn a_backup_that_is_restored_again_is_another_database() {
    let world = start(|_| {}).await;
    world.api.restore();
    world.fabric.relist_for(warren_broker::consume::reason::EPOCH);
    world.api.apply(pod(one(json!({})), json!({})));
    world.pod_is("it runs", |pod| phase(pod) == "Running").await;
    world.fabric.relist();
    let of_first =
        |api: &FakeApi| listed(api).filter(|at| at.epoch == 1 && at.revision.0 > 1_000_000_000);
    world.api.until("it has listed more than the backup has", of_first).await;
    let runtime = world.simulation.node("n1");
    world.api.restore();
    world.fabric.relist_for(warren_broker::consume::reason::EPOCH);
    let second = warren_api::Listed { epoch: 2, revision: warren_api::Revision(1_000_000_000) };
    let of_second = |api: &FakeApi| listed(api).filter(|at| at.covers(second));
    world.api.until("the lease says so of the second, which is behind the first", of_second).await;
    assert_eq!(runtime.pods().await.unwrap().len(), 0, "not before the pod has ended");
}

#[tokio::test(start_paused = true)]
async fn a_restored_api_is_told_anew_and_what_it_does_not_know_ends() {
    let world = start(|_| {}).await;
    let before = pod(one(json!({})), json!({}));
    world.api.apply(before);
    world.pod_is("it runs", |pod| phase(pod) == "Running").await;
    world.api.restore();
    world.fabric.relist_for(warren_broker::consume::reason::EPOCH);
    let runtime = world.simulation.node("n1");
    world
        .api
        .until("the lease says that all agrees with the new database", |api| {
            listed(api).filter(|at| (at.epoch, at.revision.0) == (1, 1_000_000_000))
        })
        .await;
    assert_eq!(runtime.pods().await.unwrap().len(), 0, "not before the pod has ended");
    world
        .api
        .until("the node says what it is", |api| {
            let node = api.node_object("n1")?;
            let labelled = node["metadata"]["labels"]["kubernetes.io/os"] == "linux";
            (labelled && node["status"]["conditions"].is_array()).then_some(())
        })
        .await;
}

/// The backup knows nothing of the deletion: the pod is there, and runs again. The old database had heard that nothing was
/// left of it, and the new one came before anybody said that it had gone.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_a_restore_undoes() {
    let world = start(|_| {}).await;
    let runtime = world.simulation.node("n1");
    let mut spec = one(json!({}));
    spec["terminationGracePeriodSeconds"] = 1.into();
    world.api.apply(pod(spec, json!({})));
    let backup = world.pod_is("it runs", |pod| phase(pod) == "Running").await;
    world.api.delete_gracefully("default", "web", 1);
    // What is told of it from now on is not heard.
    *world.api.on_pod.lock() = None;
    let gone = |api: &FakeApi| api.get("default", "web").is_none().then_some(());
    world.api.until("it is gone", gone).await;
    assert_eq!(runtime.pods().await.unwrap().len(), 0);
    world.api.restore_with(std::slice::from_ref(&backup));
    world.fabric.relist_for(warren_broker::consume::reason::EPOCH);
    let runs = |_: &FakeApi| {
        let entry = world.index.by_name("default", "web")?;
        entry.observed.container("c").filter(|c| c.is_running()).map(drop)
    };
    world.api.until("it runs again", runs).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let there = world.api.get("default", "web").expect("nobody has deleted it");
    assert_eq!((phase(&there), &there["metadata"]["uid"]), ("Running", &backup["metadata"]["uid"]));
}
