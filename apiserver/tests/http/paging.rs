//! Pages, tokens, and what a limit means for the verbs that take one.

use super::*;

async fn maps(c: &mut Client, namespace: &str, names: &[&str]) -> String {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    if namespace != "default" {
        let body = json!({"metadata": {"name": namespace}});
        c.post("/api/v1/namespaces", body).await.ok();
    }
    for name in names {
        let mut body = map(name);
        body["metadata"]["labels"] = json!({"page": "yes"});
        c.post(&path, body).await.ok();
    }
    path
}

fn token(list: &Value) -> String {
    list["metadata"]["continue"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_token_means_its_own_list_only() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let here = maps(&mut c, "here", &["a", "b", "c"]).await;
    let there = maps(&mut c, "there", &["a", "b", "c"]).await;
    let first = token(&c.get(&format!("{here}?limit=1")).await.ok());
    let same = token(&c.get(&format!("{here}?limit=1")).await.ok());
    assert_eq!(first, same, "a list that is kept already is not kept again");
    let rest = c.get(&format!("{here}?limit=2&continue={first}")).await.ok();
    assert_eq!((names(&rest), token(&rest).as_str()), (vec!["b", "c"], ""));
    // Another list, and the same with another selection, are other lists.
    for (path, next) in [
        (format!("{there}?limit=1"), "a"),
        (format!("{here}?limit=1&labelSelector=page%3Dyes"), "b"),
    ] {
        let other = c.get(&format!("{path}&continue={first}")).await;
        assert_eq!(other.code, StatusCode::GONE, "{path}");
        let fresh = token(&other.json());
        let rest = c.get(&format!("{path}&continue={fresh}")).await.ok();
        assert_eq!(names(&rest), [next], "{path}");
    }

    // Lists of the next process are other lists as well, though it begins at the same revision.
    let (folder, authority) = world.stop().await;
    let world = World::start_in(folder, authority, |_| {}).await;
    let mut c = world.admin().await;
    for path in [&there, &here] {
        c.get(&format!("{path}?limit=1")).await.ok();
    }
    let old = c.get(&format!("{here}?limit=2&continue={first}")).await;
    assert_eq!(old.code, StatusCode::GONE);
    world.stop().await;
}

#[tokio::test]
async fn nobody_pushes_out_the_pages_of_others() {
    let world = World::start().await;
    let (mut admin, mut other) =
        (world.admin().await, world.client("other", &["system:masters"]).await);
    let path = maps(&mut admin, "default", &["a", "b", "c"]).await;
    let first = token(&admin.get(&format!("{path}?limit=1")).await.ok());
    for n in 0..100 {
        let selector = format!("fieldSelector=metadata.name%21%3Dx{n}");
        assert!(!token(&other.get(&format!("{path}?limit=1&{selector}")).await.ok()).is_empty());
    }
    let rest = admin.get(&format!("{path}?continue={first}")).await.ok();
    assert_eq!(names(&rest), ["b", "c"]);
    world.stop().await;
}

#[tokio::test]
async fn a_collection_is_deleted_a_page_at_a_time() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let path = maps(&mut c, "default", &["a", "b", "c"]).await;
    let selected = format!("{path}?labelSelector=page%3Dyes&limit=2");
    let deleted = c.delete(&selected).await.ok();
    assert_eq!(names(&deleted), ["a", "b"]);
    let next = token(&deleted);
    assert!(!next.is_empty());
    assert_eq!(names(&c.get(&path).await.ok()), ["c"]);
    let deleted = c.delete(&format!("{selected}&continue={next}")).await.ok();
    assert_eq!((names(&deleted), token(&deleted).as_str()), (vec!["c"], ""));
    let bad = c.delete(&format!("{path}?resourceVersionMatch=Exact")).await;
    assert_eq!(bad.code, StatusCode::UNPROCESSABLE_ENTITY, "{}", bad.error());
    world.stop().await;
}
