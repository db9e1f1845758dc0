//! Where the streams stand is told with any answer, to whom it concerns.

use warren_broker::Heads;
use warren_broker::heads::{ASK, TOLD};

use super::support::{Client, World};
use super::{MAPS, PODS, map, pod, rv};

async fn ask(c: &mut Client, asked: &str) -> (u16, Option<Heads>) {
    let answer = c.call("GET", "/version", &[(ASK, asked)], "").await;
    let told = answer.headers.get(TOLD).map(|told| Heads::parse(told.to_str().unwrap()).unwrap());
    (answer.code.as_u16(), told)
}

fn streams(heads: &Heads) -> Vec<String> {
    heads.streams.iter().map(|(s, at)| format!("{}/{}={at}", s.resource, s.shard.word())).collect()
}

#[tokio::test]
async fn who_asks_is_told() {
    let world = World::start().await;
    let mut c = world.admin().await;
    let made = rv(&c.post(MAPS, map("a")).await.ok());
    let (code, told) = ask(&mut c, "configmaps,deployments.apps,never.seen.org").await;
    let told = told.unwrap();
    assert_eq!((code, streams(&told)), (200, vec![format!("configmaps/*={made}")]));
    assert!(told.epoch > 0);
    // With a write, what it wrote is told.
    let answer = c.call("POST", PODS, &[(ASK, "pods")], pod("p").to_string()).await;
    let told = Heads::parse(answer.headers[TOLD].to_str().unwrap()).unwrap();
    assert_eq!(streams(&told), [format!("pods/*={}", rv(&answer.json()))]);

    let mut mine = pod("mine");
    mine["spec"]["nodeName"] = "n1".into();
    let of_node = rv(&c.post(PODS, mine).await.ok());
    let mut n1 = world.client("system:node:n1", &["system:nodes"]).await;
    for asked in ["node=n1", "node=n1; lost"] {
        let (_, told) = ask(&mut n1, asked).await;
        let told = streams(&told.unwrap());
        assert!(told.contains(&format!("pods/node~n1={of_node}")), "{told:?}");
        // The Service `kubernetes` is every node's.
        assert!(told.iter().any(|stream| stream.starts_with("services/all=")), "{told:?}");
        assert!(!told.iter().any(|stream| stream.contains('*')), "{told:?}");
    }

    // A wrong header is told, and nothing is done.
    let before = c.get(MAPS).await.ok();
    for (asked, code) in [("node=", 400), ("x y", 400), ("pods,", 400), ("node=n1", 201)] {
        let name = format!("m{code}");
        let answer = c.call("POST", MAPS, &[(ASK, asked)], map(&name).to_string()).await;
        assert_eq!(answer.code.as_u16(), code, "{asked}");
        if code == 400 {
            let message = answer.json()["message"].to_string();
            assert!(message.contains("header warren-streams: Invalid value"), "{message}");
        }
    }
    let after = c.get(MAPS).await.ok();
    let count = |list: &serde_json::Value| list["items"].as_array().unwrap().len();
    assert_eq!(count(&after), count(&before) + 1);
    assert_eq!(ask(&mut n1, "node=n2").await, (403, None));
    assert_eq!(ask(&mut n1, "pods").await, (403, None));
    let mut nobody = world.anonymous().await;
    assert_eq!(ask(&mut nobody, "pods").await, (401, None));
    world.stop().await;
}
