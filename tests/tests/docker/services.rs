//! Services on one node: their addresses lead to ready pods, and follow them.

use std::collections::BTreeSet;

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::{Space, until, until_some};

use super::net::get;

/// Each says who it is.
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
        command: [sh, -c, 'hostname >/var/www/index.html; exec httpd -f -p 8080 -h /var/www']
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {exec: {command: [test, '!', -e, /tmp/away]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  selector: {app: web}
  sessionAffinity: ClientIP
  ports: [{port: 8000, targetPort: 8080}]
";

/// So many answers, that one of three who answer is missed once in 10^10 runs.
const ASKED: usize = 60;

/// Who answers; all must.
#[track_caller]
fn answers(address: &str) -> BTreeSet<String> {
    (0..ASKED).map(|_| get(address).unwrap()).collect()
}

fn pods(space: &Space) -> Vec<Value> {
    let list = space.line("get pods -l app=web -o json").json();
    let mut pods = list["items"].as_array().unwrap().clone();
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}

fn names(space: &Space) -> BTreeSet<String> {
    pods(space).iter().map(name).collect()
}

#[test]
fn addresses_lead_to_ready_pods_and_follow_them() {
    let space = Space::on_docker("services");
    space.apply(WEB);
    space.line("rollout status deploy/web --timeout=60s").ok();
    let service = space.object("service", "web").unwrap();
    let cluster_ip = format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap());
    let node_port = format!("127.0.0.1:{}", service["spec"]["ports"][0]["nodePort"]);
    let both = [&cluster_ip, &node_port];
    let address = |pod: &Value| pod["status"]["podIP"].as_str().unwrap().to_owned();
    let in_rules = |address: &str| {
        let rules = space.cluster.service_rules();
        rules.split([' ', ',', '\n']).any(|word| word == address)
    };
    until("the rules name all pods", SOON, || pods(&space).iter().all(|p| in_rules(&address(p))));
    for way in both {
        assert_eq!(answers(way), names(&space), "{way}");
    }
    // From within, also when a pod meets itself.
    let one = name(&pods(&space)[0]);
    let ask = format!("for i in $(seq {ASKED}); do wget -qO- http://{cluster_ip}/; done | sort -u");
    let inside = space.sh(&one, &ask);
    assert_eq!(inside.ok().lines().map(str::to_owned).collect::<BTreeSet<_>>(), names(&space));
    // One client stays with one pod.
    let sticky = space.object("service", "sticky").unwrap();
    let sticky = format!("{}:8000", sticky["spec"]["clusterIP"].as_str().unwrap());
    let same = until_some("the second service has pods", SOON, || get(&sticky).ok());
    assert_eq!(answers(&sticky), BTreeSet::from([same]));

    // One that is not ready gets nothing, until it is.
    let away = pods(&space).remove(0);
    let (its_name, its_address) = (name(&away), address(&away));
    space.sh(&its_name, "touch /tmp/away").ok();
    until("it is taken out", SOON, || !in_rules(&its_address));
    for way in both {
        let answered = answers(way);
        assert!(answered.len() == 2 && !answered.contains(&its_name), "{way}: {answered:?}");
    }
    space.sh(&its_name, "rm /tmp/away").ok();
    until("it is taken in", SOON, || in_rules(&its_address));
    assert_eq!(answers(&cluster_ip), names(&space));

    // One that goes is replaced.
    space.kubectl(&["delete", "pod", &its_name, "--timeout=60s"]).ok();
    until("its address is out of the rules", SOON, || {
        !in_rules(&its_address)
            || pods(&space).iter().any(|pod| pod["status"]["podIP"] == *its_address)
    });
    space.line("rollout status deploy/web --timeout=60s").ok();
    until("the new one answers", SOON, || {
        let now = names(&space);
        now.len() == 3 && !now.contains(&its_name) && answers(&node_port) == now
    });

    space.line("scale deploy/web --replicas=1").ok();
    until("one is left", SOON, || names(&space).len() == 1);
    until("it is the only one that answers", SOON, || {
        (0..ASKED).map(|_| get(&node_port)).collect::<Result<BTreeSet<_>, _>>() == Ok(names(&space))
    });
    // Without pods connections are refused, and do not hang.
    space.line("scale deploy/web --replicas=0").ok();
    // One that ends serves until it has ended.
    until("all have ended", SOON, || {
        space.line("get pods -l app=web -o json").json()["items"].as_array().unwrap().is_empty()
    });
    until("connections are refused", SOON, || {
        both.iter().all(|way| get(way).is_err_and(|error| error.contains("refused")))
    });
    space.line("delete service web").ok();
    let ip = cluster_ip.trim_end_matches(":80");
    until("nothing of it is in the rules", SOON, || !in_rules(ip));
}
