//! What a pod is: one place for its containers, with a way in and with limits.

use warren_tests::cluster::{SOON, free_port};
use warren_tests::docker::PAUSE;
use warren_tests::space::{is_ready, status};
use warren_tests::{Space, until, until_some};

use super::net::get;

const PAIR: &str = "
apiVersion: v1
kind: Pod
metadata: {name: pair}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: warren/busybox:1
    command: [sh, -c, 'echo from the web >/var/www/index.html; exec httpd -f -p 8080 -h /var/www']
  - name: side
    image: warren/busybox:1
    command: [sleep, '3600']
";

#[test]
fn containers_of_a_pod_meet_on_localhost() {
    let space = Space::on_docker("pair");
    space.apply(PAIR);
    let pod = space.ready("pair");
    let address = pod["status"]["podIP"].as_str().unwrap().to_owned();
    assert_eq!(pod["status"]["podIPs"][0]["ip"], *address);
    assert_eq!(pod["status"]["hostIP"], "127.0.0.1");
    let serves = |address: &str| {
        until_some("the web answers", SOON, || {
            get(&format!("{address}:8080")).ok().filter(|body| body == "from the web")
        });
    };
    serves(&address);
    let from_side = space.sh("pair -c side", "wget -qO- http://127.0.0.1:8080/; hostname -i");
    assert_eq!(from_side.ok(), format!("from the web\n{address}\n"));
    assert_eq!(space.sh("pair -c side", "hostname").ok(), "pair\n");

    // One container holds the namespaces, the others join it.
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let all = || {
        let mut all = space.cluster.containers();
        all.retain(|c| c.uid == uid && c.running);
        all
    };
    let first = all();
    let (holder, others): (Vec<_>, Vec<_>) = first.iter().partition(|c| c.name.is_none());
    assert_eq!((holder.len(), others.len()), (1, 2), "{first:#?}");
    assert_eq!(holder[0].image, PAUSE);
    assert!(others.iter().all(|c| c.network == format!("container:{}", holder[0].id)));

    // A container that is killed comes back alone, in the same place.
    let of = |name: &str| first.iter().find(|c| c.name.as_deref() == Some(name)).unwrap();
    space.cluster.docker(&["kill", &of("web").id]).ok();
    let pod = space.pod("pair", |pod| is_ready(pod) && status(pod, "web")["restartCount"] == 1);
    assert_eq!(status(&pod, "web")["lastState"]["terminated"]["exitCode"], 137);
    assert_eq!(status(&pod, "side")["restartCount"], 0);
    assert_eq!(pod["status"]["podIP"], *address);
    assert!(all().iter().any(|c| c == of("side")), "the other one was left alone");

    // Without what holds the namespaces all of the pod is made anew.
    space.cluster.docker(&["kill", &holder[0].id]).ok();
    until_some("a new place", SOON, || {
        let now = all();
        let new = |c: &&_| !first.contains(c);
        (now.len() == 3 && now.iter().filter(new).count() == 3).then_some(())
    });
    let pod = space.pod("pair", |pod| is_ready(pod) && status(pod, "side")["restartCount"] == 1);
    let address = pod["status"]["podIP"].as_str().unwrap();
    serves(address);
    assert_eq!(space.sh("pair -c side", "wget -qO- http://127.0.0.1:8080/").ok(), "from the web\n");
}

#[test]
fn ports_of_the_host() {
    let space = Space::on_docker("ports");
    let (mapped, own) = (free_port(), free_port());
    let pod = |name: &str, more: &str, port: u16, ports: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
{more}
  containers:
  - name: web
    image: warren/busybox:1
    command: [sh, -c, 'echo {name} >/var/www/index.html; exec httpd -f -p {port} -h /var/www']
    ports: [{ports}]
"
        )
    };
    let through = format!("{{containerPort: 8080, hostPort: {mapped}}}");
    space.apply(&pod("mapped", "", 8080, &through));
    let on_host = format!("{{containerPort: {own}}}");
    space.apply(&pod("on-host", "  hostNetwork: true", own, &on_host));
    space.ready("mapped");
    let reached = |name: &str, port: u16| {
        until_some(&format!("{name} at {port}"), SOON, || {
            get(&format!("127.0.0.1:{port}")).ok().filter(|body| body == name)
        });
    };
    reached("mapped", mapped);
    let found = space.ready("on-host");
    assert_eq!(found["status"]["podIP"], found["status"]["hostIP"]);
    assert_eq!(found["spec"]["containers"][0]["ports"][0]["hostPort"], own);
    reached("on-host", own);
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(space.sh("on-host", "hostname").ok(), hostname);

    // Two of them do not fit on one node.
    space.apply(&pod("second", "", 8080, &through));
    space.event("second", "FailedScheduling", "didn't have free ports");
    space.line("delete pod mapped on-host --timeout=60s").ok();
    space.ready("second");
    reached("second", mapped);
    assert!(get(&format!("127.0.0.1:{own}")).is_err(), "its port is closed");
}

#[test]
fn limits_are_those_of_the_cgroup() {
    let space = Space::on_docker("limits");
    space.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: small}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    command: [sleep, '3600']
    resources:
      requests: {cpu: 100m, memory: 16Mi}
      limits: {cpu: 250m, memory: 64Mi}
",
    );
    let pod = space.ready("small");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    // cgroup v2, else v1.
    let memory = "cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    assert_eq!(space.sh("small", memory).ok().trim(), (64 << 20).to_string());
    let cpu = "cat /sys/fs/cgroup/cpu.max || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us";
    let output = space.sh("small", cpu);
    assert_eq!(output.ok().split_whitespace().collect::<Vec<_>>(), ["25000", "100000"]);

    // Who takes more than the limit is killed, and it says so.
    space.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: warren/busybox:1
    command: [dd, if=/dev/zero, of=/dev/null, bs=256M, count=1]
    resources: {limits: {memory: 32Mi}}
",
    );
    let pod = space.ended("greedy");
    assert_eq!(pod["status"]["phase"], "Failed");
    let ended = &status(&pod, "c")["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&"OOMKilled".into(), &137.into()));
}

#[test]
fn images_that_are_not_there() {
    let space = Space::on_docker("images");
    let pod = |name: &str, image: &str, policy: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: c, image: '{image}', imagePullPolicy: {policy}, command: [sleep, '3600']}}
"
        )
    };
    // Each status passes by, however short it is shown.
    let reasons = "{.metadata.name}={.status.containerStatuses[0].state.waiting.reason}{\"\\n\"}";
    let watch = space.going_on(&["get", "pods", "-w", "-o", &format!("jsonpath={reasons}")]);
    space.apply(&pod("never", "warren/missing:1", "Never"));
    // Nobody listens at port 1.
    space.apply(&pod("missing", "127.0.0.1:1/missing:1", "IfNotPresent"));
    space.apply(&pod("nonsense", "Not/An/Image", "IfNotPresent"));
    space.apply(&pod("always", "warren/busybox:1", "Always"));
    for expected in [
        "never=ErrImageNeverPull\n",
        "missing=ErrImagePull\n",
        "missing=ImagePullBackOff\n",
        "nonsense=InvalidImageName\n",
    ] {
        until(expected.trim(), SOON, || watch.output().contains(expected));
    }
    space.event("never", "ErrImageNeverPull", "is not present with pull policy of Never");
    space.event("missing", "Failed", "Failed to pull image \"127.0.0.1:1/missing:1\"");
    space.event("missing", "BackOff", "Back-off pulling image \"127.0.0.1:1/missing:1\"");
    space.event("missing", "Pulling", "Pulling image \"127.0.0.1:1/missing:1\"");
    space.event("missing", "Failed", "Error: ErrImagePull");
    space.event("missing", "Failed", "Error: ImagePullBackOff");
    space.event("never", "Failed", "Error: ErrImageNeverPull");
    space.event("nonsense", "InspectFailed", "couldn't parse image name");
    let pod = space.object("pod", "missing").unwrap();
    assert_eq!(pod["status"]["phase"], "Pending");
    let message = status(&pod, "c")["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("127.0.0.1:1/missing:1"), "{message}");
    // Built on this machine, there is nothing to pull.
    space.ready("always");
    space.event("always", "Pulled", "already present on machine");
    assert!(space.events("always", "Pulling").is_empty());

    // Mended, it runs.
    space.line("set image pod/missing c=warren/busybox:1").ok();
    space.ready("missing");
    // A running container whose image changes is replaced.
    let renamed = format!("warren/busybox:renamed-{}", std::process::id());
    space.cluster.docker(&["tag", "warren/busybox:1", &renamed]).ok();
    space.kubectl(&["set", "image", "pod/missing", &format!("c={renamed}")]).ok();
    let pod = space.pod("missing", |pod| is_ready(pod) && status(pod, "c")["image"] == *renamed);
    assert_eq!(status(&pod, "c")["restartCount"], 1);
    space.line("delete pod missing --timeout=60s").ok();
    space.cluster.docker(&["rmi", &renamed]).ok();
}
