//! Probes: what is not ready gets no traffic, what is not alive is started again.

use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::space::{is_ready, status};
use warren_tests::{Space, until};

/// Ready and alive as the files `/tmp/ready` and `/tmp/alive` say; a server may be told to come and go.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: by-exec, labels: {app: probed}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    command: [sh, -c, 'touch /tmp/alive; exec httpd -f -p 8080']
    readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
    livenessProbe: {exec: {command: [cat, /tmp/alive]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: by-http, labels: {app: probed}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    command: [sh, -c, 'touch /var/www/alive; exec httpd -f -p 8080 -h /var/www']
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /ready, port: web}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
    livenessProbe: {httpGet: {path: /alive, port: 8080}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: by-tcp, labels: {app: probed}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    command: [sh, -c, 'httpd -p 8081; exec sleep 3600']
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
    livenessProbe: {tcpSocket: {port: 8081}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}
---
apiVersion: v1
kind: Service
metadata: {name: probed}
spec:
  selector: {app: probed}
  ports: [{port: 80, targetPort: 8080}]
";

struct Kind {
    pod: &'static str,
    /// What makes it ready, and what takes that away.
    up: &'static str,
    down: &'static str,
    unready: &'static str,
    /// What a liveness probe does not survive.
    kill: &'static str,
    dead: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind {
        pod: "by-exec",
        up: "touch /tmp/ready",
        down: "rm /tmp/ready",
        unready: "Readiness probe failed: cat: can't open '/tmp/ready'",
        kill: "rm /tmp/alive",
        dead: "Liveness probe failed: cat: can't open '/tmp/alive'",
    },
    Kind {
        pod: "by-http",
        up: "touch /var/www/ready",
        down: "rm /var/www/ready",
        unready: "Readiness probe failed: HTTP probe failed with statuscode: 404",
        kill: "rm /var/www/alive",
        dead: "Liveness probe failed: HTTP probe failed with statuscode: 404",
    },
    Kind {
        pod: "by-tcp",
        up: "httpd -f -p 8080 </dev/null >/dev/null 2>&1 & echo $! >/tmp/server",
        down: "kill $(cat /tmp/server)",
        unready: "Readiness probe failed: dial tcp",
        kill: "killall httpd",
        dead: "Liveness probe failed: dial tcp",
    },
];

/// The pods of an Endpoints object that are ready, and that are not.
fn endpoints(space: &Space) -> (Vec<String>, Vec<String>) {
    let object = space.object("endpoints", "probed").unwrap_or_default();
    let names = |field: &str| -> Vec<String> {
        let subsets = object["subsets"].as_array().into_iter().flatten();
        let addresses = subsets.filter_map(|s| s[field].as_array()).flatten();
        let name = |a: &Value| a["targetRef"]["name"].as_str().unwrap_or_default().to_owned();
        let mut names: Vec<_> = addresses.map(name).collect();
        names.sort();
        names
    };
    (names("addresses"), names("notReadyAddresses"))
}

#[test]
fn readiness_decides_about_traffic_and_liveness_about_life() {
    let space = Space::on_docker("probes");
    space.apply(PODS);
    let all = ["by-exec", "by-http", "by-tcp"].map(str::to_owned);
    let mut addresses = vec![];
    for kind in &KINDS {
        let pod = space.pod(kind.pod, |pod| !status(pod, "c")["state"]["running"].is_null());
        assert!(!is_ready(&pod), "{:#}", pod["status"]);
        addresses.push(pod["status"]["podIP"].as_str().unwrap().to_owned());
        space.event(kind.pod, "Unhealthy", kind.unready);
    }
    until("all are told, none is ready", SOON, || endpoints(&space) == (vec![], all.to_vec()));
    let slices =
        space.line("get endpointslices -l kubernetes.io/service-name=probed -o json").json();
    let conditions =
        |e: &Value| (e["conditions"]["ready"].clone(), e["conditions"]["serving"].clone());
    for endpoint in slices["items"][0]["endpoints"].as_array().unwrap() {
        assert_eq!(conditions(endpoint), (false.into(), false.into()), "{endpoint}");
    }
    let in_rules =
        |address: &String| space.cluster.service_rules().contains(&format!(": {address} . 8080"));

    for kind in &KINDS {
        space.sh(kind.pod, kind.up).ok();
    }
    for (kind, address) in KINDS.iter().zip(&addresses) {
        space.ready(kind.pod);
        until(&format!("traffic for {}", kind.pod), SOON, || in_rules(address));
    }
    until("all are ready", SOON, || endpoints(&space) == (all.to_vec(), vec![]));
    for kind in &KINDS {
        space.sh(kind.pod, kind.down).ok();
    }
    for (kind, address) in KINDS.iter().zip(&addresses) {
        let pod = space.pod(kind.pod, |pod| !is_ready(pod));
        assert_eq!(status(&pod, "c")["restartCount"], 0, "{:#}", pod["status"]);
        until(&format!("no traffic for {}", kind.pod), SOON, || !in_rules(address));
    }
    until("none is ready", SOON, || endpoints(&space) == (vec![], all.to_vec()));

    for kind in &KINDS {
        space.sh(kind.pod, kind.kill).ok();
    }
    for kind in &KINDS {
        space.pod(kind.pod, |pod| {
            let c = status(pod, "c");
            c["restartCount"] == 1 && !c["state"]["running"].is_null()
        });
        space.event(kind.pod, "Unhealthy", kind.dead);
        space.event(kind.pod, "Killing", "Container c failed liveness probe, will be restarted");
    }
    space.event("by-tcp", "Unhealthy", ":8080: connect: connection refused");
}

#[test]
fn a_startup_probe_holds_back_the_others() {
    let space = Space::on_docker("startup");
    let pod = |name: &str, failures: u32| {
        format!(
            "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    command: [sleep, '3600']
    startupProbe: {{exec: {{command: [cat, /tmp/started]}}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: {failures}}}
    livenessProbe: {{exec: {{command: [cat, /tmp/alive]}}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}}
"
        )
    };
    space.apply(&[pod("slow", 600), pod("stuck", 2)].concat());
    space.event("slow", "Unhealthy", "Startup probe failed");
    // A liveness probe would have ended this one by now.
    space.event("stuck", "Killing", "Container c failed startup probe, will be restarted");
    let slow = space.object("pod", "slow").unwrap();
    let c = status(&slow, "c");
    assert_eq!(
        (&c["restartCount"], &c["started"], &c["ready"]),
        (&0.into(), &false.into(), &false.into())
    );
    space.sh("slow", "touch /tmp/alive /tmp/started").ok();
    let slow = space.ready("slow");
    assert_eq!(status(&slow, "c")["restartCount"], 0);
    assert!(space.events("slow", "Unhealthy").iter().all(|e| e.starts_with("Startup")));
    space.sh("slow", "rm /tmp/alive").ok();
    space.event("slow", "Killing", "Container c failed liveness probe, will be restarted");
}
