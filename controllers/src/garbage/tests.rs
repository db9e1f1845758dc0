use super::*;
use crate::plan::Step;

fn meta(json: serde_json::Value) -> ObjectMeta {
    serde_json::from_value(json).unwrap()
}

fn owned_by(uid: &str, all: &[ObjectMeta]) -> Vec<(Address, Arc<MetaObject>)> {
    let owned =
        |meta: &&ObjectMeta| meta.owner_references.iter().flatten().any(|owner| owner.uid == uid);
    let object = |meta: &ObjectMeta| {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta});
        (Address::of(0, meta), Arc::new(serde_json::from_value(object).unwrap()))
    };
    all.iter().filter(owned).map(object).collect()
}

fn short(meta: &ObjectMeta, owners: &[Owner], dependents: &[ObjectMeta]) -> Vec<String> {
    let resource = Resource { api_version: "v1".into(), plural: "pods".into() };
    let dependents: Vec<_> =
        dependents.iter().map(|meta| (resource.clone(), meta.clone())).collect();
    let all: Vec<_> =
        dependents.iter().map(|(_, meta)| meta.clone()).chain([meta.clone()]).collect();
    let behind = &wait_for(meta.uid.as_deref().unwrap(), |uid| owned_by(uid, &all));
    let plan = decide(&Snapshot { resource, meta, owners, dependents: &dependents, behind });
    let line = |step: &Step| match &step.write {
        Write::Delete { target, propagation, .. } => {
            format!("delete {} {}", target.name, propagation.unwrap_or_default())
        }
        Write::Patch { target, patch, .. } => format!("{} {}", target.name, patch["metadata"]),
        _ => unreachable!(),
    };
    plan.steps.iter().map(line).collect()
}

#[test]
fn each_case() {
    let owner = |uid: &str, block: bool| {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": uid,
            "blockOwnerDeletion": block})
    };
    let owned = meta(json!({"name": "p", "uid": "p", "ownerReferences": [owner("1", true)]}));
    let twice = meta(json!({"name": "p", "uid": "p",
        "ownerReferences": [owner("1", true), owner("2", false)]}));
    let own =
        |block| meta(json!({"name": "d", "uid": "d", "ownerReferences": [owner("p", block)]}));
    let going = |finalizer: &str| {
        meta(json!({"name": "p", "uid": "p", "finalizers": [finalizer, "mine"],
            "deletionTimestamp": "2026-01-01T00:00:00Z"}))
    };
    use Owner::*;
    assert!(short(&owned, &[Solid], &[]).is_empty());
    assert_eq!(short(&owned, &[Absent], &[]), ["delete p Background"]);
    assert_eq!(short(&owned, &[Waiting], &[]), ["delete p Background"]);
    assert_eq!(short(&owned, &[Waiting], &[own(true)]), ["delete p Foreground"]);
    let kept = short(&twice, &[Absent, Solid], &[]);
    assert!(kept.len() == 1 && kept[0].contains(r#""uid":"2""#), "{kept:?}");
    assert!(short(&going(FOREGROUND), &[], &[own(true)]).is_empty());
    let last = [r#"p {"finalizers":["mine"]}"#];
    assert_eq!(short(&going(FOREGROUND), &[], &[own(false)]), last);
    assert_eq!(short(&going(FOREGROUND), &[], &[]), last);
    let orphaned = [r#"d {"ownerReferences":[]}"#, last[0]];
    assert_eq!(short(&going(ORPHAN), &[], &[own(true)]), orphaned);
}

/// Objects that own each other: what becomes of them when the first of them is deleted in the foreground, whatever the order
/// in which they are looked at.
#[test]
fn circles_end() {
    // Of `ab` the first owns the second.
    let gone = |owns: &[&str], order: &str| {
        let mut objects: Vec<ObjectMeta> = Vec::new();
        for name in order.chars() {
            let owners = owns.iter().filter(|pair| pair.ends_with(name)).map(|pair| {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "name": pair[..1], "uid": pair[..1],
                    "blockOwnerDeletion": true})
            });
            let owners: Vec<_> = owners.collect();
            objects.push(meta(json!({"name": name, "uid": name, "ownerReferences": owners})));
        }
        let going = |object: &mut ObjectMeta| {
            object.deletion_timestamp =
                serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
            object.finalizers = Some(vec![FOREGROUND.to_owned()]);
        };
        let first = objects.iter_mut().find(|object| object.name.as_deref() == Some("a"));
        going(first.unwrap());
        let mut ends = String::new();
        for _ in 0..10 {
            for name in order.chars().map(String::from) {
                let of = |uid: &str| objects.iter().find(|o| o.uid.as_deref() == Some(uid));
                let Some(object) = of(&name) else { continue };
                let owners = object.owner_references.iter().flatten();
                let owners: Vec<_> = owners
                    .map(|owner| match of(&owner.uid) {
                        None => Owner::Absent,
                        Some(owner) if waits(owner) => Owner::Waiting,
                        Some(_) => Owner::Solid,
                    })
                    .collect();
                let dependents: Vec<_> = owned_by(&name, &objects)
                    .into_iter()
                    .map(|(_, object)| {
                        let plural = "configmaps".into();
                        (Resource { api_version: "v1".into(), plural }, object.metadata.clone())
                    })
                    .collect();
                let resource = Resource { api_version: "v1".into(), plural: "configmaps".into() };
                let behind = &wait_for(&name, |uid| owned_by(uid, &objects));
                let (meta, dependents) = (object, dependents.as_slice());
                let snapshot = Snapshot { resource, meta, owners: &owners, dependents, behind };
                for step in decide(&snapshot).steps {
                    let at = objects.iter().position(|o| o.uid.as_deref() == Some(&name)).unwrap();
                    match step.write {
                        Write::Delete { propagation: Some("Foreground"), .. } => {
                            going(&mut objects[at])
                        }
                        Write::Delete { .. } => {
                            objects.remove(at);
                            ends += &name;
                        }
                        Write::Patch { patch, .. }
                            if patch["metadata"]["finalizers"].is_array() =>
                        {
                            objects.remove(at);
                            ends += &name;
                        }
                        Write::Patch { patch, .. } => {
                            let owners = patch["metadata"]["ownerReferences"].clone();
                            objects[at].owner_references = serde_json::from_value(owners).unwrap();
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        assert!(objects.iter().all(|object| !waits(object)), "{owns:?} {order}: {objects:?}");
        ends
    };
    for order in ["ab", "ba"] {
        assert_eq!(gone(&["ab", "ba"], order).len(), 2);
    }
    for order in ["abc", "acb", "bac", "bca", "cab", "cba"] {
        assert_eq!(gone(&["ab", "bc", "ca"], order).len(), 3);
        assert_eq!(gone(&["ab", "bc", "cb"], order), "a", "those two keep each other");
        assert_eq!(gone(&["ab", "bc"], order), "cba", "no circle: owners wait");
        assert_eq!(gone(&["ab", "ac", "bc"], order), "cba", "no circle: two ways");
    }
    assert_eq!(gone(&["aa"], "a"), "a");
}

/// Two that a user has deleted in the foreground, one as the other.
#[test]
fn a_circle_that_waits_is_opened() {
    let of = |name: &str, owner: &str| {
        meta(json!({"name": name, "uid": name, "finalizers": [FOREGROUND],
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": owner,
                "blockOwnerDeletion": true}]}))
    };
    let (a, b) = (of("a", "b"), of("b", "a"));
    let opened = short(&a, &[], &[b]);
    assert!(opened.len() == 1 && opened[0].contains(r#""blockOwnerDeletion":false"#), "{opened:?}");
    assert!(
        short(&a, &[], &[of("c", "a")]).is_empty(),
        "what waits for nobody above it ends first"
    );
}
