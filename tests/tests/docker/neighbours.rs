//! Nodes that share a Docker daemon, with each other and with others.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::docker::{BUSYBOX, Container, docker};
use warren_tests::{Cluster, Options, Role, Runtime, Space, until};

/// A container that is not of this cluster; removed when dropped.
struct Foreign {
    id: String,
    before: String,
}

impl Foreign {
    fn start(labels: &[&str]) -> Self {
        let labels: Vec<String> = labels.iter().map(|label| format!("--label={label}")).collect();
        let mut arguments = vec!["run", "-d", "--network=none"];
        arguments.extend(labels.iter().map(String::as_str));
        arguments.extend([BUSYBOX, "sleep", "3600"]);
        let id = docker(None, &arguments).ok().trim().to_owned();
        let before = Self::state(&id);
        Self { id, before }
    }

    fn state(id: &str) -> String {
        let format = "{{.State.Status}} {{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}";
        docker(None, &["inspect", "--format", format, id]).ok().to_owned()
    }

    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!(Self::state(&self.id), self.before);
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        docker(None, &["rm", "-f", &self.id]);
    }
}

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: 'warren/busybox:1', command: [httpd, -f, -p, '8080']}
";

fn pods(cluster: &Cluster) -> Vec<Value> {
    let mut pods = cluster.objects("pods", "default");
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods
}

fn of_node(cluster: &Cluster, node: &str) -> Vec<Container> {
    let mut all = cluster.containers();
    all.retain(|c| c.node == node && c.running);
    all
}

#[test]
fn two_nodes_on_one_daemon_do_not_touch_each_other() {
    let plain = Foreign::start(&[]);
    let options = Options { nodes: 2, runtime: Runtime::Docker, split: true, ..Options::default() };
    let mut cluster = Cluster::prepare(options);
    cluster.start_all();
    cluster.wait_ready();
    let id = std::fs::read_to_string(cluster.data_dir().join("cluster-id")).unwrap();
    let (ours, pod) = (format!("io.warren.cluster={}", id.trim()), "io.warren.pod.uid=nobody");
    // All the labels of an orphan, but of another cluster, or of another node.
    let about =
        [pod, "io.warren.pod.name=p", "io.warren.pod.namespace=default", "io.warren.attempt=0"];
    let of_cluster = Foreign::start(
        &[&["io.warren.cluster=other", "io.warren.node=node-1"][..], &about].concat(),
    );
    let of_node_3 = Foreign::start(&[&[&*ours, "io.warren.node=node-3"][..], &about].concat());
    // This one is an orphan of node-1, and goes: that the others stay says something.
    let orphan = Foreign::start(&[&[&*ours, "io.warren.node=node-1"][..], &about].concat());

    cluster.kubectl_with(["apply", "-f", "-"], WEB).ok();
    cluster.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    let on = |cluster: &Cluster, node: &str| {
        pods(cluster).iter().filter(|pod| pod["spec"]["nodeName"] == node).count()
    };
    assert_eq!((on(&cluster, "node-1"), on(&cluster, "node-2")), (2, 2));
    let (first, second) = (of_node(&cluster, "node-1"), of_node(&cluster, "node-2"));
    assert_eq!(second.len(), 4, "two of each pod: {second:#?}");

    // An agent dies and comes back: what runs is what ran, on both.
    let agent = Role::Agent("node-1".into());
    cluster.kill9(&agent);
    assert!(first.iter().all(|c| of_node(&cluster, "node-1").contains(c)), "they go on");
    cluster.start(&agent);
    until("the orphan is ended", SOON, || !docker(None, &["inspect", &orphan.id]).succeeded());
    let pods_of_1: BTreeSet<_> = first.iter().filter(|c| c.uid != "nobody").collect();
    assert_eq!(of_node(&cluster, "node-1").iter().collect::<BTreeSet<_>>(), pods_of_1);
    assert_eq!(of_node(&cluster, "node-2"), second);

    // A node is emptied: its containers go, the other's stay.
    cluster.kubectl(["cordon", "node-1"]).ok();
    let nodes = cluster.kubectl(["get", "nodes"]);
    assert!(nodes.ok().contains("Ready,SchedulingDisabled"), "{}", nodes.told());
    assert_eq!(of_node(&cluster, "node-1").len(), 4, "a cordon ends nothing");
    cluster.kubectl(["drain", "node-1", "--timeout=60s"]).ok();
    until("all run on the other node", SOON, || {
        on(&cluster, "node-2") == 4 && of_node(&cluster, "node-2").len() == 8
    });
    until("no container of it is left", SOON, || {
        cluster.containers().iter().all(|c| c.node != "node-1")
    });
    assert!(second.iter().all(|c| of_node(&cluster, "node-2").contains(c)));
    cluster.kubectl(["uncordon", "node-1"]).ok();
    cluster.kubectl(["scale", "deploy/web", "--replicas=6"]).ok();
    until("the node is used again", SOON, || on(&cluster, "node-1") == 2);

    cluster.kubectl(["delete", "deploy", "web", "--timeout=60s"]).ok();
    until("nothing of the pods is left", SOON, || {
        cluster.containers().iter().all(|c| c.uid == "nobody")
    });
    for foreign in [&plain, &of_cluster, &of_node_3] {
        foreign.is_untouched();
    }
}

/// The addresses of both nodes' pods are of one network, and services lead to both.
#[test]
fn a_service_reaches_both_nodes() {
    let options = Options { nodes: 2, runtime: Runtime::Docker, ..Options::default() };
    let space = Space::of(Arc::new(Cluster::up(options)), "both");
    let web = WEB.replace("[httpd, -f, -p, '8080']", "[sh, -c, 'echo $NODE >/var/www/index.html; exec httpd -f -p 8080 -h /var/www'], env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]");
    space.apply(&web);
    space.line("expose deployment web --port=80 --target-port=8080 --type=NodePort").ok();
    space.line("rollout status deploy/web --timeout=60s").ok();
    let service = space.object("service", "web").unwrap();
    let port = &service["spec"]["ports"][0]["nodePort"];
    let both = BTreeSet::from(["node-1".to_owned(), "node-2".to_owned()]);
    let mut seen = BTreeSet::new();
    until("pods of both nodes answer", SOON, || {
        seen.extend(super::net::get(&format!("127.0.0.1:{port}")));
        seen == both
    });
    let ip = service["spec"]["clusterIP"].as_str().unwrap();
    let list = space.line("get pods -o jsonpath={.items[0].metadata.name}");
    let ask = format!("for i in $(seq 30); do wget -qO- http://{ip}/; done | sort -u");
    assert_eq!(space.sh(list.ok(), &ask).ok(), "node-1\nnode-2\n");
}
