//! `kill -9` of Warren and of dockerd: containers go on, are found again, and none is started twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::docker::Container;
use warren_tests::space::{condition, is_ready, status};
use warren_tests::{Cluster, Dockerd, Options, Role, Runtime, until, until_some};

use super::net::get;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: warren/busybox:1
        command: [sh, -c, 'hostname >/var/www/index.html; exec httpd -f -p 8080 -h /var/www']
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
      - {name: beside, image: 'warren/busybox:1', command: [sleep, '3600']}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

/// One that was started again once, one that is asked by commands, one that has ended, and one to be killed.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: out, emptyDir: {}}]
  containers:
  - name: c
    image: warren/busybox:1
    command: [sh, -c, '[ -e /out/x ] || { touch /out/x; exit 1; }; exec sleep 3600']
    volumeMounts: [{name: out, mountPath: /out}]
---
apiVersion: v1
kind: Pod
metadata: {name: asked}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    command: [sleep, '3600']
    readinessProbe: {exec: {command: ['true']}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
    livenessProbe: {exec: {command: ['true']}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: ended}
spec:
  restartPolicy: Never
  containers: [{name: c, image: 'warren/busybox:1', command: ['true']}]
---
apiVersion: v1
kind: Pod
metadata: {name: victim}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: 'warren/busybox:1', command: [sleep, '3600']}]
";

const STATIC: &str = "
apiVersion: v1
kind: Pod
metadata: {name: still}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: 'warren/busybox:1', command: [sleep, '3600']}]
";

fn cluster(docker_host: Option<String>) -> Cluster {
    let options = Options { runtime: Runtime::Docker, docker_host, ..Options::default() };
    let cluster = Cluster::up(options);
    std::fs::write(cluster.manifests_dir().join("still.yaml"), STATIC).unwrap();
    cluster.kubectl_with(["apply", "-f", "-"], WEB).ok();
    cluster.kubectl_with(["apply", "-f", "-"], PODS).ok();
    cluster.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    let pod = |name: &str, wished: &dyn Fn(&Value) -> bool| {
        cluster.wait_object("pod", "default", name, wished);
    };
    pod("again", &|pod| is_ready(pod) && status(pod, "c")["restartCount"] == 1);
    pod("asked", &is_ready);
    pod("victim", &is_ready);
    pod("still-node-1", &is_ready);
    pod("ended", &|pod| pod["status"]["phase"] == "Succeeded");
    cluster
}

fn running(cluster: &Cluster) -> BTreeSet<Container> {
    cluster.containers().into_iter().filter(|c| c.running).collect()
}

fn pods(cluster: &Cluster) -> Vec<Value> {
    let mut pods = cluster.objects("pods", "default");
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods
}

fn container(cluster: &Cluster, pod: &str, name: &str) -> Container {
    let all = running(cluster).into_iter();
    let mut found = all.filter(|c| c.pod == pod && c.name.as_deref() == Some(name));
    found.next_back().unwrap_or_else(|| panic!("no container {name} of {pod}"))
}

fn restarts(cluster: &Cluster) -> BTreeMap<String, u64> {
    let all = pods(cluster);
    let count = |pod: &Value| {
        let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        statuses.map(|s| s["restartCount"].as_u64().unwrap_or_default()).sum()
    };
    all.iter().map(|p| (p["metadata"]["name"].as_str().unwrap().to_owned(), count(p))).collect()
}

/// So many replicas are ready, and of each pod of the API there runs each container once, and nothing else.
#[track_caller]
fn converged(cluster: &Cluster, replicas: u64) {
    let wanted = || -> BTreeSet<(String, Option<String>)> {
        let live = pods(cluster).into_iter().filter(|p| p["status"]["phase"] == "Running");
        let of = |pod: Value| {
            let (uid, from_file) = (
                pod["metadata"]["uid"].as_str().unwrap().to_owned(),
                pod["metadata"]["annotations"]["kubernetes.io/config.hash"].clone(),
            );
            // The containers of a static pod carry the uid that stands in its mirror's annotation.
            let uid = from_file.as_str().map_or(uid, str::to_owned);
            let names = pod["spec"]["containers"].as_array().unwrap().iter();
            let names = names.map(|c| Some(c["name"].as_str().unwrap().to_owned()));
            names.chain([None]).map(|name| (uid.clone(), name)).collect::<Vec<_>>()
        };
        live.flat_map(of).collect()
    };
    let mut seen = (vec![], BTreeSet::new());
    let start = std::time::Instant::now();
    loop {
        let deployment = cluster.object("deployment", "default", "web").unwrap_or_default();
        if deployment["status"]["readyReplicas"].as_u64().unwrap_or_default() == replicas
            && deployment["status"]["replicas"] == replicas
            && deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
        {
            let mut there: Vec<_> = running(cluster).into_iter().map(|c| (c.uid, c.name)).collect();
            there.sort();
            seen = (there, wanted());
            if seen.0.iter().eq(seen.1.iter()) {
                return;
            }
        }
        if start.elapsed() > SOON {
            for what in ["nodes", "deployments,pods", "events"] {
                eprintln!("{}", cluster.kubectl(["get", what, "-o", "wide"]).told());
            }
            panic!("there is {:#?}, wanted {:#?}", seen.0, seen.1);
        }
        std::thread::yield_now();
    }
}

/// Scales, and waits until the first container is made or ended for it.
fn begins(cluster: &Cluster, replicas: u64) {
    let before = cluster.containers();
    cluster.kubectl(["scale", "deploy/web", &format!("--replicas={replicas}")]).ok();
    until("it has begun", SOON, || cluster.containers() != before);
}

#[test]
fn warren_is_killed() {
    let mut cluster = cluster(None);
    let service = cluster.object("service", "default", "web").unwrap();
    let node_port = format!("127.0.0.1:{}", service["spec"]["ports"][0]["nodePort"]);
    until_some("the service answers", SOON, || get(&node_port).ok());
    let (before, counts) = (running(&cluster), restarts(&cluster));
    assert_eq!((counts["again"], counts["asked"]), (1, 0));

    cluster.kill9(&Role::Up);
    assert_eq!(running(&cluster), before, "they go on");
    get(&node_port).unwrap();
    let victim = container(&cluster, "victim", "c");
    cluster.docker(&["kill", &victim.id]).ok();
    cluster.start(&Role::Up);
    cluster.wait_ready();
    cluster.wait_object("pod", "default", "victim", |pod| {
        is_ready(pod) && status(pod, "c")["restartCount"] == 1
    });
    converged(&cluster, 2);
    let others = |all: BTreeSet<Container>| -> BTreeSet<Container> {
        all.into_iter().filter(|c| c.pod != "victim").collect()
    };
    assert_eq!(others(running(&cluster)), others(before), "found again");
    let mut now = restarts(&cluster);
    assert_eq!(now.insert("victim".into(), 0), Some(1));
    assert_eq!(now, counts);
    let ended = cluster.object("pod", "default", "ended").unwrap();
    assert_eq!(ended["status"]["phase"], "Succeeded");
    get(&node_port).unwrap();

    // In the middle of making and of ending containers.
    for replicas in [5, 1, 6, 2] {
        begins(&cluster, replicas);
        cluster.kill9(&Role::Up);
        cluster.start(&Role::Up);
        cluster.wait_ready();
        converged(&cluster, replicas);
        let again: Vec<_> = restarts(&cluster)
            .into_iter()
            .filter(|(n, c)| n.starts_with("web") && *c > 0)
            .collect();
        assert!(again.is_empty(), "none of them was started again: {again:?}");
    }
}

#[test]
fn dockerd_comes_later_than_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let host = format!("unix://{}/docker.sock", folder.path().display());
    let options =
        Options { runtime: Runtime::Docker, docker_host: Some(host), ..Options::default() };
    let mut cluster = Cluster::prepare(options);
    cluster.start_all();
    until("the API answers", SOON, || {
        cluster.kubeconfig().exists() && cluster.kubectl(["get", "nodes"]).succeeded()
    });
    let node = cluster.wait_object("node", "", "node-1", |n| condition(n, "Ready") == "False");
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|c| c["type"] == "Ready").unwrap();
    let message = ready["message"].as_str().unwrap();
    assert!(
        message.contains("container runtime is down") && message.contains("docker.sock"),
        "{ready}"
    );

    let dockerd = Dockerd::start();
    let socket = dockerd.host().replace("unix://", "");
    std::os::unix::fs::symlink(socket, folder.path().join("docker.sock")).unwrap();
    cluster.wait_ready();
    cluster.kubectl_with(["apply", "-f", "-"], STATIC).ok();
    cluster.wait_object("pod", "default", "still", is_ready);
    // Before the daemon that its containers are on.
    drop(cluster);
}

/// A daemon of the test's own, with live-restore.
#[test]
fn dockerd_is_killed() {
    let mut dockerd = Dockerd::start();
    let mut cluster = cluster(Some(dockerd.host()));
    let (before, counts) = (running(&cluster), restarts(&cluster));
    let victim = container(&cluster, "victim", "c");
    let addresses: Vec<String> = pods(&cluster)
        .iter()
        .filter(|pod| pod["metadata"]["labels"]["app"] == "web")
        .map(|pod| format!("{}:8080", pod["status"]["podIP"].as_str().unwrap()))
        .collect();

    dockerd.kill9();
    let node = cluster.wait_object("node", "", "node-1", |n| condition(n, "Ready") == "False");
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|c| c["type"] == "Ready").unwrap();
    assert!(ready["message"].as_str().unwrap().contains("container runtime is down"), "{ready}");
    for container in &before {
        assert!(Path::new(&format!("/proc/{}", container.pid)).exists(), "{container:?} goes on");
    }
    for address in &addresses {
        get(address).unwrap();
    }
    // What happens and is asked for meanwhile.
    let status_of_kill = Command::new("kill").args(["-9", &victim.pid.to_string()]).status();
    assert!(status_of_kill.unwrap().success());
    cluster.kubectl(["scale", "deploy/web", "--replicas=3"]).ok();
    cluster.kubectl(["delete", "pod", "asked", "--wait=false"]).ok();

    dockerd.restart();
    cluster.wait_ready();
    cluster.wait_object("pod", "default", "victim", |pod| {
        is_ready(pod) && status(pod, "c")["restartCount"] == 1
    });
    until("what was deleted is gone", SOON, || cluster.object("pod", "default", "asked").is_none());
    converged(&cluster, 3);
    let now = running(&cluster);
    let untouched = before.iter().filter(|c| c.pod != "asked" && c.id != victim.id);
    for pod in ["again", "still-node-1"] {
        cluster.wait_object("pod", "default", pod, is_ready);
    }
    let lost: Vec<_> = untouched.filter(|c| !now.contains(c)).collect();
    assert!(lost.is_empty(), "they went on, and still do: {lost:#?}\n{now:#?}");
    let counts_now = restarts(&cluster);
    let differ = |(pod, count): &(&String, &u64)| {
        !matches!(pod.as_str(), "asked" | "victim") && counts_now.get(*pod) != Some(count)
    };
    assert_eq!(counts.iter().filter(differ).count(), 0, "{counts:?} {counts_now:?}");

    // In the middle of making containers, and once together with Warren.
    for (replicas, both) in [(6, false), (2, false), (5, true)] {
        begins(&cluster, replicas);
        dockerd.kill9();
        if both {
            cluster.kill9(&Role::Up);
            cluster.start(&Role::Up);
        }
        dockerd.restart();
        cluster.wait_ready();
        converged(&cluster, replicas);
    }
}
