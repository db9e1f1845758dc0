//! Without server and broker: an agent is killed, containers are gone as after a reboot, and all is there again.

use std::collections::BTreeSet;

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::docker::Container;
use warren_tests::space::{is_ready, status};
use warren_tests::{Cluster, Options, Role, Runtime, until, until_some};

const OBJECTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: red}
---
apiVersion: v1
kind: Secret
metadata: {name: secrets}
stringData: {password: s3cret}
";

/// `lost` loses its containers, `rebooted` finds them stopped.
const FULL: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: settings, configMap: {name: settings}}
  - {name: secrets, secret: {secretName: secrets}}
  containers:
  - name: c
    image: warren/busybox:1
    command: [sh, -c, 'echo start >>/disk/starts; echo start >>/memory/starts; exec sleep 3600']
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: secrets, key: password}}}
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
    - {name: settings, mountPath: /settings}
    - {name: secrets, mountPath: /secrets}
";

const PLAIN: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  restartPolicy: POLICY
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: 'warren/busybox:1', command: [sleep, '3600']}]
";

/// In the order in which they end; not that of their names, nor the one in which they were made.
const ENDING: [&str; 3] = ["ends-b", "ends-c", "ends-a"];

fn agent() -> Role {
    Role::Agent("node-1".into())
}

/// All that there is of a pod, what holds its namespaces too.
fn all_of(cluster: &Cluster, pod: &str) -> Vec<Container> {
    cluster.containers().into_iter().filter(|c| c.pod == pod).collect()
}

fn running(cluster: &Cluster, pod: &str) -> Option<Container> {
    let mut all = all_of(cluster, pod).into_iter();
    all.find(|c| c.running && c.name.as_deref() == Some("c"))
}

fn says(cluster: &Cluster, pod: &str, script: &str) -> Option<String> {
    let container = running(cluster, pod)?;
    let output = cluster.docker(&["exec", &container.id, "sh", "-c", script]);
    output.succeeded().then(|| output.stdout.trim().to_owned())
}

/// Ids and starts of what runs.
fn ids(cluster: &Cluster) -> BTreeSet<(String, String)> {
    let all = cluster.containers().into_iter().filter(|c| c.running);
    all.map(|c| (c.id, c.started_at)).collect()
}

/// Whether the agent has kept a status of this pod. What is in the database and not yet in its file is beside it.
fn is_kept(cluster: &Cluster, pod: &str) -> bool {
    let dir = cluster.data_dir().join("agents/node-1");
    let wanted = format!(r#""namespace":"default","name":"{pod}","status":{{"#);
    ["agent.db", "agent.db-wal"].iter().any(|file| {
        let bytes = std::fs::read(dir.join(file)).unwrap_or_default();
        bytes.windows(wanted.len()).any(|part| part == wanted.as_bytes())
    })
}

fn revision(pod: &Value) -> u64 {
    pod["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_starts_alone_and_tells_in_order() {
    let options = Options {
        runtime: Runtime::Docker,
        agents: vec!["--autonomous".to_owned()],
        ..Options::default()
    };
    let (mut cluster, mut rabbit) = Cluster::on_rabbitmq(options).await;
    let node = cluster.object("node", "", "node-1").unwrap();
    assert_eq!(node["metadata"]["annotations"]["warren.dev/autonomous"], "true");
    cluster.kubectl_with(["apply", "-f", "-"], OBJECTS).ok();
    let full = ["lost", "rebooted"].map(|name| FULL.replace("NAME", name));
    let plain =
        [("goes-on", "Always"), ("ends-a", "Never"), ("ends-b", "Never"), ("ends-c", "Never")];
    let plain = plain.map(|(name, policy)| PLAIN.replace("NAME", name).replace("POLICY", policy));
    for pod in full.iter().chain(&plain) {
        cluster.kubectl_with(["apply", "-f", "-"], pod).ok();
    }
    let names = ["lost", "rebooted", "goes-on", "ends-a", "ends-b", "ends-c"];
    let uids = names.map(|name| {
        let pod = cluster.wait_object("pod", "default", name, is_ready);
        pod["metadata"]["uid"].clone()
    });
    let goes_on = running(&cluster, "goes-on").unwrap();

    for role in [Role::Apiserver, Role::Controllers] {
        cluster.kill9(&role);
    }
    rabbit.kill9();
    for pod in ENDING {
        let container = running(&cluster, pod).unwrap();
        cluster.docker(&["kill", &container.id]).ok();
        until("what became of it is on disk", SOON, || is_kept(&cluster, pod));
    }
    cluster.kill9(&agent());
    let remove = |pod: &str| {
        for container in all_of(&cluster, pod) {
            cluster.docker(&["rm", "-f", "-v", &container.id]).ok();
        }
    };
    remove("lost");
    // One that has ended, and of which nothing but the agent's word is left.
    remove(ENDING[0]);
    for container in all_of(&cluster, "rebooted") {
        cluster.docker(&["kill", &container.id]).ok();
    }
    // A reboot empties what is in memory.
    let pods = cluster.data_dir().join("agents/node-1/pods");
    for uid in &uids[..2] {
        let memory = pods.join(uid.as_str().unwrap()).join("volumes/empty-dir/memory");
        let status = std::process::Command::new("umount").arg(&memory).status().unwrap();
        assert!(status.success(), "{}", memory.display());
    }

    cluster.start(&agent());
    let script = "[ -e /memory/starts ] || exit 1; cat /settings/colour /secrets/password; echo $COLOUR $PASSWORD; \
                  wc -l </disk/starts; wc -l </memory/starts";
    for pod in ["lost", "rebooted"] {
        let said = until_some("it runs again", SOON, || says(&cluster, pod, script));
        assert_eq!(
            said.split_whitespace().collect::<Vec<_>>(),
            ["reds3cretred", "s3cret", "2", "1"],
            "{pod}"
        );
        assert_eq!(running(&cluster, pod).unwrap().attempt, 1, "{pod}");
    }
    assert_eq!(running(&cluster, "goes-on"), Some(goes_on.clone()));
    let alone = ids(&cluster);

    // All come back.
    rabbit.restart().await.unwrap();
    cluster.start(&Role::Apiserver);
    cluster.start(&Role::Controllers);
    let ended = ENDING.map(|name| {
        cluster.wait_object("pod", "default", name, |pod| pod["status"]["phase"] == "Failed")
    });
    let told = ended.each_ref().map(revision);
    assert!(told.is_sorted(), "in the order in which they ended: {told:?}");
    for name in ["lost", "rebooted"] {
        let again = |pod: &Value| is_ready(pod) && status(pod, "c")["restartCount"] == 1;
        cluster.wait_object("pod", "default", name, again);
    }
    cluster.wait_ready();
    cluster.wait_consumers(&rabbit).await;
    let now = names.map(|name| {
        let pod = cluster.object("pod", "default", name).unwrap();
        assert!(pod["metadata"]["deletionTimestamp"].is_null(), "{name}");
        pod["metadata"]["uid"].clone()
    });
    assert_eq!(now, uids);
    assert_eq!(
        status(&cluster.object("pod", "default", "goes-on").unwrap(), "c")["restartCount"],
        0
    );
    assert_eq!(ids(&cluster), alone, "nothing was started again, and nothing ended");

    // What is changed and deleted while the agent alone is away.
    cluster.kill9(&agent());
    cluster.kubectl(["delete", "pod", "rebooted", "--wait=false"]).ok();
    let blue = r#"{"data":{"colour":"blue"}}"#;
    cluster.kubectl(["patch", "configmap", "settings", "-p", blue]).ok();
    cluster.start(&agent());
    until("it is gone", SOON, || {
        cluster.object("pod", "default", "rebooted").is_none()
            && all_of(&cluster, "rebooted").is_empty()
    });
    until("it is changed", SOON, || {
        says(&cluster, "lost", "cat /settings/colour").as_deref() == Some("blue")
    });
    assert_eq!(running(&cluster, "goes-on"), Some(goes_on));
    assert!(ids(&cluster).is_subset(&alone));
}
