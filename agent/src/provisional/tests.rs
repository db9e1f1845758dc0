use proptest::prelude::*;

use super::*;

const UID: &str = "00000000-0000-8000-8000-000000000001";

fn object(value: Value) -> Box<Object> {
    Box::new(Object::try_from(value).unwrap())
}

fn apply(metadata: Value, spec: Value) -> Wish {
    Wish::Apply(object(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec,
    })))
}

fn one(image: &str) -> Value {
    json!({"nodeName": "n1", "containers": [{"name": "c", "image": image}]})
}

fn web() -> Value {
    json!({"name": "web", "namespace": "default"})
}

fn delete(uid: Option<&str>) -> Wish {
    let uid = uid.map(str::to_owned);
    Wish::Delete { namespace: "default".into(), name: "web".into(), uid }
}

fn decide(wish: &Wish, known: &Known) -> Result<Acted, Status> {
    let registry = Registry::builtin();
    let now = Timestamp::UNIX_EPOCH;
    super::decide(&Birth { registry: &registry, now, uid: UID, suffix: "abcde" }, wish, known)
}

fn begun(wish: &Wish) -> Box<Object> {
    match decide(wish, &Known::Nothing) {
        Ok(Acted::Began(pod)) => pod,
        other => panic!("{other:?}"),
    }
}

fn known(pod: &Object) -> Known {
    Known::pod(&typed(pod).unwrap())
}

#[test]
fn a_pod_is_begun_as_the_api_would_make_it() {
    let pod = begun(&apply(web(), one("i:1")));
    assert_eq!(uid_of(&pod), UID);
    assert_eq!(pod.str_at(&["metadata", "creationTimestamp"]), "1970-01-01T00:00:00Z");
    assert_eq!(pod.at(&["metadata", "generation"]), Some(&json!(1)));
    assert_eq!(pod.str_at(&["spec", "restartPolicy"]), "Always", "defaults");
    let any = begun(&apply(json!({"generateName": "any-", "namespace": "default"}), one("i:1")));
    assert_eq!(any.name(), "any-abcde");
}

#[test]
fn what_a_command_does_here() {
    let mine = begun(&apply(web(), one("i:1")));
    let mut filed = mine.clone();
    filed.set_at(&["metadata", "annotations", mirror::HASH], "x");
    let env = |from: Value| {
        let mut spec = one("i:1");
        spec["containers"][0]["env"] = json!([{"name": "A", "valueFrom": from}]);
        apply(web(), spec)
    };
    let secret = env(json!({"secretKeyRef": {"name": "s", "key": "k"}}));
    let map = env(json!({"configMapKeyRef": {"name": "s", "key": "k"}}));
    for (wish, there, expected) in [
        (&apply(web(), one("i:1")), Known::Nothing, "Began"),
        (&map, Known::Nothing, "Began"),
        (&secret, Known::Nothing, "Nothing"),
        (&apply(web(), one("i:1")), known(&mine), "Nothing"),
        (&apply(web(), one("i:2")), known(&mine), "Changed"),
        (&apply(web(), one("i:2")), known(&filed), "Nothing"),
        (&delete(None), Known::Nothing, "Nothing"),
        (&delete(None), known(&mine), "Ended"),
        (&delete(Some(UID)), known(&mine), "Ended"),
        (&delete(Some("another")), known(&mine), "Nothing"),
        (&delete(None), known(&filed), "Stopped"),
    ] {
        let acted = format!("{:?}", decide(wish, &there).unwrap());
        assert!(acted.starts_with(expected), "{wish:?} where there is {there:?}: {acted}");
    }
}

#[test]
fn what_is_wrong_is_refused_at_once_and_names_the_field() {
    let mine = begun(&apply(web(), one("i:1")));
    let mut moved = one("i:1");
    moved["containers"][0]["command"] = json!(["true"]);
    for (wish, there, field) in [
        (apply(web(), json!({"containers": []})), Known::Nothing, "spec.containers"),
        (
            apply(json!({"name": "No Name", "namespace": "default"}), one("i")),
            Known::Nothing,
            "metadata.name",
        ),
        (apply(web(), moved), known(&mine), "spec: Forbidden"),
    ] {
        let status = decide(&wish, &there).unwrap_err();
        assert_eq!(status.reason.code(), 422, "{status:?}");
        assert!(status.message.contains(field), "{}", status.message);
    }
}

#[test]
fn a_change_counts_generations_and_keeps_the_pods_identity() {
    let mine = begun(&apply(web(), one("i:1")));
    let Ok(Acted::Changed(new)) = decide(&apply(web(), one("i:2")), &known(&mine)) else {
        panic!("not changed")
    };
    assert_eq!(uid_of(&new), UID);
    assert_eq!(new.at(&["metadata", "generation"]), Some(&json!(2)));
    assert_eq!(new.at(&["spec", "containers"]).unwrap()[0]["image"], "i:2");
}

fn record(sequence: u64, acted: Acted) -> Record {
    let content = format!("content-{sequence}");
    Record { sequence, publisher: None, content, wish: delete(None), acted, reply: None }
}

fn pod(uid: &str, version: u64) -> Box<Object> {
    object(json!({"metadata": {"uid": uid, "generation": version}}))
}

#[test]
fn the_newest_record_of_a_pod_counts() {
    let mut log = Log::default();
    assert_eq!(log.since("a"), None);
    for (n, acted) in [
        Acted::Began(pod("a", 1)),
        Acted::Changed(pod("a", 2)),
        Acted::Began(pod("b", 1)),
        Acted::Changed(pod("api", 7)),
        Acted::Ended("b".into()),
        Acted::Ended("api-2".into()),
        Acted::Stopped("filed-n1".into()),
        Acted::Nothing,
    ]
    .into_iter()
    .enumerate()
    {
        log.push(record(n as u64 + 1, acted), 10);
    }
    assert_eq!(log.since("a"), Some(Since::Is(pod("a", 2))));
    assert_eq!(log.since("b"), Some(Since::Ended));
    assert_eq!(log.since("api"), Some(Since::Is(pod("api", 7))));
    assert_eq!(log.since("api-2"), Some(Since::Ended));
    assert_eq!(log.begun(), [(pod("a", 2), true), (pod("b", 1), false)]);
    assert_eq!(log.stopped(None).len(), 1);
    assert_eq!((log.stopped(Some("filed-n1")).len(), log.stopped(Some("x")).len()), (1, 0));
    assert!(log.knows("content-3") && !log.knows("content-9"));
    // The first is heard of by the API, which has its pod now; the change of it still waits.
    log.remove(1);
    assert_eq!(log.since("a"), Some(Since::Is(pod("a", 2))));
    assert_eq!(log.first().unwrap().sequence, 2);
    assert_eq!(log.next_sequence(), 9);
}

#[test]
fn the_log_is_bounded_in_number_and_bytes() {
    for (size, fits) in [(1, RECORDS), (BYTES / 4, 4)] {
        let mut log = Log::default();
        for n in 1..=fits {
            assert!(!log.is_full(), "{n} of {size}");
            log.push(record(n as u64, Acted::Nothing), size);
        }
        assert!(log.is_full());
        log.remove(1);
        assert!(!log.is_full(), "room again");
    }
}

proptest! {
    /// What a start reads from disk is what the agent before it had.
    #[test]
    fn records_are_read_as_they_were_written(
        publisher in proptest::option::of("[a-z]{1,8}"), version in 1_u64..9, kind in 0..5_u8,
        reply in proptest::option::of(("[a-z]{1,8}", proptest::option::of("[a-z]{1,8}"))),
    ) {
        let acted = match kind {
            0 => Acted::Nothing,
            1 => Acted::Began(pod("a", version)),
            2 => Acted::Changed(pod("a", version)),
            3 => Acted::Ended("a".into()),
            _ => Acted::Stopped("a".into()),
        };
        let before = Record { publisher, reply, ..record(version, acted) };
        let bytes = serde_json::to_vec(&before).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Record>(&bytes).unwrap(), before);
    }
}

#[test]
fn the_records_of_all_nodes_are_counted() {
    let logs = Logs::default();
    let (one, other) = (logs.add(), logs.add());
    one.lock().push(record(1, Acted::Nothing), 100);
    other.lock().push(record(1, Acted::Nothing), 20);
    other.lock().push(record(2, Acted::Nothing), 3);
    assert_eq!(logs.counts(), (3, 123));
    // What an agent finds on disk takes the place of an empty log.
    *one.lock() = Log::default();
    other.lock().remove(1);
    assert_eq!(logs.counts(), (1, 3));
}
