//! What people do to workloads: describe, top, rollout, scale, wait.

use std::collections::BTreeSet;

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::space::condition;
use warren_tests::{Space, until, until_some};

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: warren/busybox:1
        command: [sh, -c, 'echo $VERSION >/var/www/index.html; exec httpd -f -p 8080 -h /var/www']
        env: [{name: VERSION, value: one}]
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
";

fn pods(space: &Space) -> Vec<Value> {
    let list = space.line("get pods -l app=web -o json").json();
    let mut pods = list["items"].as_array().unwrap().clone();
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods
}

fn names(space: &Space) -> BTreeSet<String> {
    pods(space).iter().map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// What the pods serve by now, as their containers see it.
fn versions(space: &Space) -> BTreeSet<String> {
    let served = |name: &String| space.sh(name, "wget -qO- http://127.0.0.1:8080/").stdout;
    names(space).iter().map(|name| served(name).trim().to_owned()).collect()
}

#[test]
fn a_deployment_of_containers_rolls() {
    let space = Space::on_docker("rolls");
    let only = |version: &str| BTreeSet::from([version.to_owned()]);
    space.apply(WEB);
    let status = space.line("rollout status deploy/web --timeout=60s");
    assert!(status.ok().contains("deployment \"web\" successfully rolled out"));
    assert_eq!(versions(&space), only("one"));

    // Two of three serve at any time while the third is replaced.
    let slices = "get endpointslices -l kubernetes.io/service-name=web -w -o jsonpath={.endpoints[*].conditions.ready}{\"\\n\"}";
    space.line("expose deployment web --port=80 --target-port=8080").ok();
    let watch = space.going_on(&slices.split(' ').collect::<Vec<_>>());
    until("three are ready", SOON, || watch.output().contains("true true true"));
    space.line("set env deploy/web VERSION=two").ok();
    space.line("rollout status deploy/web --timeout=60s").ok();
    until("all are of the second version", SOON, || versions(&space) == only("two"));
    let seen = watch.output();
    let full = seen.lines().skip_while(|line| *line != "true true true");
    let least = full.map(|line| line.matches("true").count()).min();
    assert!(least >= Some(2), "{seen}");

    let history = space.line("rollout history deploy/web");
    let revisions = history.ok().lines().filter(|l| l.starts_with(['1', '2'])).count();
    assert_eq!(revisions, 2, "{}", history.told());
    let second = space.line("rollout history deploy/web --revision=2");
    assert!(second.ok().contains("two"), "{}", second.told());
    space.line("rollout undo deploy/web").ok();
    space.line("rollout status deploy/web --timeout=60s").ok();
    until("all are of the first version", SOON, || versions(&space) == only("one"));

    let before = names(&space);
    space.line("rollout restart deploy/web").ok();
    space.line("rollout status deploy/web --timeout=60s").ok();
    until("every pod is another", SOON, || {
        let now = names(&space);
        now.len() == 3 && now.is_disjoint(&before)
    });

    // A version that never becomes ready replaces nothing that works.
    space.line("set image deploy/web c=warren/missing:1").ok();
    let out = space.line("rollout status deploy/web --timeout=3s");
    assert!(out.err().contains("timed out waiting"), "{}", out.told());
    let ready = || pods(&space).iter().filter(|p| condition(p, "Ready") == "True").count();
    assert!(ready() >= 2);
    space.line("rollout undo deploy/web").ok();
    space.line("rollout status deploy/web --timeout=60s").ok();

    space.line("scale deploy/web --replicas=5").ok();
    space.line("wait deploy/web --for=jsonpath={.status.readyReplicas}=5 --timeout=60s").ok();
    space.line("wait deploy/web --for=condition=Available --timeout=60s").ok();
    assert_eq!(names(&space).len(), 5);
    space.line("scale deploy/web --replicas=1").ok();
    until("one is left", SOON, || names(&space).len() == 1);
    until("its containers are the only ones", SOON, || {
        let all = space.cluster.containers();
        all.iter().filter(|c| c.namespace == "rolls" && c.running).count() == 2
    });
    space.line("delete deploy web --timeout=60s").ok();
    until("no container is left", SOON, || {
        space.cluster.containers().iter().all(|c| c.namespace != "rolls")
    });
}

#[test]
fn what_runs_is_described_and_measured() {
    let space = Space::on_docker("described");
    space.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: busy}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    # A tenth of a cpu, and some memory.
    command: [sh, -c, 'x=$(head -c 8000000 /dev/zero | tr \"\\0\" x); while :; do :; done']
    resources: {limits: {cpu: 100m, memory: 128Mi}}
    livenessProbe: {exec: {command: ['true']}, periodSeconds: 1, timeoutSeconds: 20}
",
    );
    space.line("wait pod/busy --for=condition=Ready --timeout=60s").ok();
    space.event("busy", "Started", "Started container c");
    let pod = space.object("pod", "busy").unwrap();
    let described = space.line("describe pod busy");
    for expected in [
        "Status:           Running",
        pod["status"]["podIP"].as_str().unwrap(),
        "Node:             node-1/127.0.0.1",
        "Container ID:  docker://",
        "State:          Running",
        "cpu:     100m",
        "Liveness:     exec [true] delay=0s timeout=20s period=1s #success=1 #failure=3",
        "Successfully assigned described/busy to node-1",
        "Container image \"warren/busybox:1\" already present on machine",
        "Created container: c",
        "Started container c",
    ] {
        assert!(described.ok().contains(expected), "no {expected:?}: {}", described.told());
    }
    let node = space.line("describe node node-1");
    for expected in ["Container Runtime Version:  docker://", "described", "busy", "Allocatable:"] {
        assert!(node.ok().contains(expected), "no {expected:?}: {}", node.told());
    }

    // `12m`, `34Mi`
    let number = |word: &str| word.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u64>();
    let row = |what: &str, name: &str| -> Option<(u64, u64)> {
        let output = space.line(what);
        let line = output.stdout.lines().find(|line| line.starts_with(name))?.to_owned();
        let mut words = line.split_whitespace().skip(1);
        let cpu = number(words.next()?).ok()?;
        // A node's row has a percentage between the two.
        let memory = words.find(|word| word.ends_with("Mi"))?;
        Some((cpu, number(memory).ok()?))
    };
    until_some("the pod's figures are what it uses", SOON, || {
        let (cpu, memory) = row("top pod busy", "busy")?;
        ((50..=150).contains(&cpu) && (8..=128).contains(&memory)).then_some(())
    });
    let containers = space.line("top pod busy --containers");
    assert!(containers.ok().lines().any(|l| l.split_whitespace().take(2).eq(["busy", "c"])));
    let (cpu, memory) = row("top node", "node-1").unwrap();
    assert!(cpu >= 50 && memory >= 100, "{cpu}m {memory}Mi");
}
