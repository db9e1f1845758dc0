//! Commands on the queue of an autonomous node without any API: carried out at once, and put through when there is one.

use serde_json::{Value, json};
use warren_tests::cluster::SOON;
use warren_tests::docker::Container;
use warren_tests::space::is_ready;
use warren_tests::{Cluster, Options, RabbitMq, Role, Runtime, until, until_some};

const QUEUE: &str = "node.node-1";

fn agent() -> Role {
    Role::Agent("node-1".into())
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "warren/busybox:1", "command": ["sleep", "3600"]}],
        },
    })
}

async fn say(rabbit: &RabbitMq, body: &Value, properties: Value) {
    let said = rabbit.publish("amq.default", QUEUE, &body.to_string(), properties).await;
    assert!(said.unwrap(), "nobody declared {QUEUE}");
}

/// What runs of a pod, apart from what holds its namespaces.
fn running(cluster: &Cluster, pod: &str) -> Vec<Container> {
    let mut all = cluster.containers();
    all.retain(|c| c.pod == pod && c.running && c.name.is_some());
    all
}

fn runs(cluster: &Cluster, pod: &str) -> Container {
    until_some(&format!("{pod} runs"), SOON, || {
        let found = running(cluster, pod);
        assert!(found.len() < 2, "{pod} runs twice: {found:#?}");
        found.into_iter().next()
    })
}

fn gone(cluster: &Cluster, pod: &str) {
    until(&format!("nothing is left of {pod}"), SOON, || {
        cluster.containers().iter().all(|c| c.pod != pod)
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_alone_carries_out_commands_and_the_api_adopts_them() {
    let options = Options {
        runtime: Runtime::Docker,
        agents: vec!["--autonomous".to_owned()],
        ..Options::default()
    };
    let (mut cluster, rabbit) = Cluster::on_rabbitmq(options).await;
    cluster.kubectl_with(["apply", "-f", "-"], &pod("known").to_string()).ok();
    let known = cluster.wait_object("pod", "default", "known", is_ready);
    for role in [Role::Apiserver, Role::Controllers] {
        cluster.kill9(&role);
    }

    let by_admin = json!({"user_id": "admin"});
    say(&rabbit, &pod("first"), by_admin.clone()).await;
    let first = runs(&cluster, "first");
    // Killed at any moment, the agent goes on where it was: here while the next command is on its way.
    say(&rabbit, &pod("second"), by_admin.clone()).await;
    cluster.kill9(&agent());
    say(&rabbit, &json!({"action": "delete", "podname": "known"}), by_admin.clone()).await;
    cluster.start(&agent());
    let second = runs(&cluster, "second");
    gone(&cluster, "known");
    assert_eq!(runs(&cluster, "first"), first);
    // And while what it did is on its disk only.
    cluster.kill9(&agent());
    cluster.start(&agent());
    // The API would have none of it: there is no such account.
    let mut refused = pod("refused");
    refused["spec"]["serviceAccountName"] = "nobody".into();
    say(&rabbit, &refused, by_admin.clone()).await;
    runs(&cluster, "refused");
    // Begun and ended, all of it before the API heard.
    say(&rabbit, &pod("short"), by_admin.clone()).await;
    runs(&cluster, "short");
    say(&rabbit, &json!({"action": "delete", "podname": "short"}), by_admin).await;
    gone(&cluster, "short");
    // Dressed as the server's.
    let headers = json!({"epoch": 1, "rv": 1_000_000, "uid": "x", "group": "", "resource": "pods",
        "namespace": "default", "name": "forged", "shards": ["node~node-1"], "prev": [0]});
    let forged = json!({"type": "ADDED", "object": pod("forged")});
    say(&rabbit, &forged, json!({"user_id": "admin", "type": "warren.event", "headers": headers}))
        .await;
    assert_eq!(runs(&cluster, "first"), first);
    assert_eq!(runs(&cluster, "second"), second);

    // The API is back, and the agent is killed while it hands in what it did.
    cluster.start(&Role::Apiserver);
    until("the first is put through", SOON, || cluster.object("pod", "default", "first").is_some());
    cluster.kill9(&agent());
    cluster.start(&agent());
    cluster.start(&Role::Controllers);
    cluster.wait_ready();
    for before in [&first, &second] {
        let pod = cluster.wait_object("pod", "default", &before.pod, is_ready);
        assert_eq!(pod["metadata"]["uid"], before.uid, "the pod that runs is the API's");
        let ids = running(&cluster, &before.pod);
        assert_eq!(ids, std::slice::from_ref(before), "nothing was started again");
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
    for name in ["known", "short"] {
        until(&format!("{name} is gone"), SOON, || {
            cluster.object("pod", "default", name).is_none()
        });
    }
    gone(&cluster, "refused");
    assert!(cluster.object("pod", "default", "refused").is_none());
    assert!(cluster.containers().iter().all(|c| c.pod != "forged"));
    let told = |text: &str| {
        let events = cluster.objects("events", "default");
        events.iter().any(|e| {
            e["reason"] == "CommandRefused" && e["message"].as_str().unwrap_or("").contains(text)
        })
    };
    until("why is told", SOON, || told("serviceaccount \"nobody\" not found"));
    let dead = rabbit.take("warren.dead", 10).await.unwrap();
    let reasons: Vec<_> = dead.iter().map(|d| &d["properties"]["headers"]["x-reason"]).collect();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].as_str().unwrap().contains("form of an event"), "{reasons:?}");
    assert_ne!(known["metadata"]["uid"], first.uid);

    // From here on they are pods as any other.
    cluster.kubectl(["delete", "pod", "first", "--wait=false"]).ok();
    gone(&cluster, "first");
    until("it is gone", SOON, || cluster.object("pod", "default", "first").is_none());
}
