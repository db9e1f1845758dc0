//! What a watch tells, and from when on.

use super::*;

#[tokio::test]
async fn watches() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let first = c.post(MAPS, map("a")).await.ok();
    let url = |query: &str| format!("{MAPS}?watch=1&{query}");
    let mut all = world.admin().await.watch(&url("")).await;
    assert_eq!(all.take(1).await, ["ADDED a"]);
    let mut labelled = world.admin().await.watch(&url("labelSelector=x%3Dy")).await;
    let mut since =
        world.admin().await.watch(&url(&format!("resourceVersion={}", rv(&first)))).await;
    let path = format!("{MAPS}/a");
    c.patch("merge-patch+json", &path, json!({"metadata": {"labels": {"x": "y"}}})).await.ok();
    c.patch("merge-patch+json", &path, json!({"data": {"a": "z"}})).await.ok();
    c.patch("merge-patch+json", &path, json!({"metadata": {"labels": {"x": "n"}}})).await.ok();
    c.delete(&path).await.ok();
    assert_eq!(all.take(4).await, ["MODIFIED a", "MODIFIED a", "MODIFIED a", "DELETED a"]);
    assert_eq!(since.take(4).await, ["MODIFIED a", "MODIFIED a", "MODIFIED a", "DELETED a"]);
    assert_eq!(labelled.take(3).await, ["ADDED a", "MODIFIED a", "DELETED a"]);

    c.post(MAPS, map("b")).await.ok();
    let initial =
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut listing = world.admin().await.watch(&url(initial)).await;
    assert_eq!(listing.take(1).await, ["ADDED b"]);
    let bookmark = listing.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");

    let mut short = world.admin().await.watch(&url("timeoutSeconds=1&resourceVersion=1")).await;
    while let Some(event) = short.next().await {
        assert_ne!(event["type"], "ERROR");
    }
    // Where a selective watch was when it ended is where the next goes on.
    let last = c.post(MAPS, map("c")).await.ok();
    let nothing = "labelSelector=x%3Dz&allowWatchBookmarks=true&resourceVersion=1";
    let mut short = world.admin().await.watch(&url(&format!("{nothing}&timeoutSeconds=3"))).await;
    let bookmark = short.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(rv(&bookmark["object"]), rv(&last));
    assert_eq!(short.next().await, None);
    c.delete(&format!("{MAPS}/c")).await.ok();
    // Draining ends watches; nothing hangs.
    let mut open = world.admin().await.watch(&url("")).await;
    assert_eq!(open.take(1).await, ["ADDED b"]);
    world.stop().await;
    assert_eq!(open.next().await, None);
}

#[tokio::test]
async fn history_that_is_gone_is_410() {
    let world = World::start_with(|config| {
        config.journal.history_revisions = 10;
    })
    .await;
    let mut c = world.admin().await;
    let first = c.post(MAPS, map("a")).await.ok();
    // More than the ring's bytes, so that the journal is asked.
    for n in 0..100 {
        let patch = json!({"data": {"a": n.to_string().repeat(100_000)}});
        c.patch("merge-patch+json", &format!("{MAPS}/a"), patch).await.ok();
    }
    // Compaction follows in the background; until then history answers.
    let path = format!("{MAPS}?watch=1&resourceVersion={}", rv(&first));
    let (mut watch, event) = loop {
        let mut watch = world.admin().await.watch(&path).await;
        let event = watch.next().await.expect("an event");
        if event["type"] != "MODIFIED" {
            break (watch, event);
        }
    };
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    assert_eq!(watch.next().await, None);
    world.stop().await;
}
