use tempfile::TempDir;

use super::*;

fn open(dir: &TempDir) -> KeyValue {
    KeyValue::open(&dir.path().join("agent.db")).unwrap()
}

fn keys(queued: &[Queued]) -> Vec<&str> {
    queued.iter().map(|q| q.key.as_str()).collect()
}

#[tokio::test]
async fn tables() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.put("pods", "b", "2").await.unwrap();
    store
        .commit(Changes::new().put("pods", "a", "1").put("pods", "c", "3").put("x", "a", "9"))
        .await
        .unwrap();
    store.put("pods", "b", "two").await.unwrap();
    assert_eq!(store.get("pods", "b").await.unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(store.get("pods", "z").await.unwrap(), None);
    let page = store.list("pods", None, 2).await.unwrap();
    assert_eq!(page, [("a".into(), "1".into()), ("b".into(), "two".into())]);
    assert_eq!(store.list("pods", Some("b"), 2).await.unwrap(), [("c".into(), "3".into())]);
    store.delete("pods", "a").await.unwrap();
    store.commit(Changes::new().clear("x")).await.unwrap();
    store.close().await;
    assert_eq!(store.get("pods", "b").await, Err(KeyValueError::Closed));

    let store = open(&dir);
    let left = store.list("pods", None, 10).await.unwrap();
    assert_eq!(left, [("b".into(), "two".into()), ("c".into(), "3".into())]);
    assert!(store.list("x", None, 10).await.unwrap().is_empty());
    assert!(store.integrity_problems().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_queue_keeps_the_newest_of_each_key_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2")] {
        store.push("status", key, value).await.unwrap();
    }
    let first = store.peek("status", 10).await.unwrap();
    assert_eq!(keys(&first), ["b", "a"]);
    assert_eq!(first[1].value, "2");
    // A newer state came while the older was sent: removing the older leaves it.
    store.push("status", "b", "2").await.unwrap();
    store.commit(Changes::new().remove("status", first[0].sequence)).await.unwrap();
    assert_eq!(keys(&store.peek("status", 10).await.unwrap()), ["a", "b"]);
    drop(store);
    let store = open(&dir);
    let rest = store.peek("status", 10).await.unwrap();
    assert_eq!(keys(&rest), ["a", "b"]);
    store
        .commit(
            Changes::new().remove("status", rest[0].sequence).remove("status", rest[1].sequence),
        )
        .await
        .unwrap();
    store.push("status", "c", "1").await.unwrap();
    assert!(store.peek("status", 1).await.unwrap()[0].sequence > rest[1].sequence);
}

#[tokio::test]
async fn a_full_queue_refuses_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let fill = (0..MAX_QUEUE_ENTRIES).fold(Changes::new(), |c, n| c.push("q", n.to_string(), "x"));
    store.commit(fill).await.unwrap();
    let beyond = Changes::new().put("t", "k", "v").push("q", "one more", "x");
    assert_eq!(store.commit(beyond).await, Err(KeyValueError::QueueFull("q".into())));
    assert_eq!(store.get("t", "k").await.unwrap(), None);
    // A key that waits already takes no more room.
    store.push("q", "7", "newer").await.unwrap();
}

#[tokio::test]
async fn bad_names_and_values_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let long = "x".repeat(MAX_KEY_BYTES + 1);
    for changes in [
        Changes::new().put("", "k", "v"),
        Changes::new().put("t", "", "v"),
        Changes::new().push("q", long, "v"),
        Changes::new().put("t", "k", vec![0; MAX_VALUE_BYTES + 1]),
    ] {
        let error = store.commit(changes).await.unwrap_err();
        assert!(matches!(error, KeyValueError::Invalid(_)), "{error}");
    }
}

#[tokio::test]
async fn a_journal_is_not_an_agents_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.db");
    open(&dir).close().await;
    let error = crate::Journal::open(&path, crate::Options::default(), |_| {}).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn damage_is_said_at_the_start_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.db");
    let store = open(&dir);
    for n in 0..64 {
        store.put("pods", &format!("default/{n}"), vec![b'x'; 2_000]).await.unwrap();
    }
    store.close().await;
    open(&dir).close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    // The header, which is looked at anyway, stays whole.
    bytes[4_096..12_288].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let error = KeyValue::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
}
