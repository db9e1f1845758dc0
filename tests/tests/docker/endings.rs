//! How containers end, what is started again, and what is waited for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use warren_tests::cluster::SOON;
use warren_tests::space::status;
use warren_tests::{Space, until};

/// A pod of one container that runs a shell script.
fn pod(name: &str, policy: &str, script: &str, more: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: {policy}
  volumes: [{{name: out, emptyDir: {{}}}}]
{more}
  containers:
  - name: c
    image: warren/busybox:1
    command: [sh, -c, '{script}']
    volumeMounts: [{{name: out, mountPath: /out}}]
    terminationMessagePolicy: FallbackToLogsOnError
"
    )
}

fn terminated(pod: &Value) -> &Value {
    &status(pod, "c")["state"]["terminated"]
}

#[test]
fn exit_codes_and_restart_policies() {
    let space = Space::on_docker("exits");
    let again = "echo try; echo x >>/out/tries; [ $(wc -l </out/tries) -ge 2 ]";
    let forever = "echo run; echo ended >/dev/termination-log; exit 5";
    let failing =
        "  initContainers: [{name: first, image: warren/busybox:1, command: [sh, -c, exit 6]}]";
    let short = "  activeDeadlineSeconds: 1\n  terminationGracePeriodSeconds: 1";
    let pods = [
        pod("good", "Never", "echo fine", ""),
        pod("bad", "Never", "echo the reason >&2; exit 3", ""),
        pod("told", "Never", "printf told >/dev/termination-log; exit 42", ""),
        pod("again", "OnFailure", again, ""),
        pod("init-fails", "Never", "true", failing),
        pod("too-long", "Never", "sleep 3600", short),
        pod("forever", "Always", forever, ""),
        pod("nothing", "Never", "true", "").replace("[sh, -c, 'true']", "[/no/such/program]"),
    ];
    space.apply(&pods.concat());

    let good = space.ended("good");
    assert_eq!(good["status"]["phase"], "Succeeded");
    let end = terminated(&good);
    assert_eq!((&end["exitCode"], &end["reason"]), (&0.into(), &"Completed".into()));
    assert!(end["startedAt"].as_str() <= end["finishedAt"].as_str(), "{end}");
    assert!(end["containerID"].as_str().unwrap().starts_with("docker://"), "{end}");

    let bad = space.ended("bad");
    assert_eq!(bad["status"]["phase"], "Failed");
    let end = terminated(&bad);
    assert_eq!((&end["exitCode"], &end["reason"]), (&3.into(), &"Error".into()));
    assert_eq!(end["message"], "the reason\n", "the end of its log");

    let told = space.ended("told");
    let end = terminated(&told);
    assert_eq!((&end["exitCode"], &end["message"]), (&42.into(), &"told".into()));

    let again = space.ended("again");
    assert_eq!(again["status"]["phase"], "Succeeded");
    let c = status(&again, "c");
    assert_eq!((&c["restartCount"], &c["ready"]), (&1.into(), &false.into()));
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(space.line("logs again --previous").ok(), "try\n");

    let fails = space.ended("init-fails");
    assert_eq!(fails["status"]["phase"], "Failed");
    assert_eq!(status(&fails, "first")["state"]["terminated"]["exitCode"], 6);
    assert_eq!(status(&fails, "c")["state"]["waiting"]["reason"], "PodInitializing");
    let row = space.line("get pod init-fails --no-headers");
    assert!(row.ok().contains("Init:Error"), "{}", row.told());

    let long = space.ended("too-long");
    assert_eq!(
        (&long["status"]["phase"], &long["status"]["reason"]),
        (&"Failed".into(), &"DeadlineExceeded".into())
    );

    let nothing = space.ended("nothing");
    assert_eq!(nothing["status"]["phase"], "Failed");
    let end = terminated(&nothing);
    assert!(matches!(end["exitCode"].as_i64(), Some(127 | 128)), "{end}");
    assert!(end["message"].as_str().unwrap().contains("/no/such/program"), "{end}");

    // The first restart comes at once, the second after ten seconds.
    let forever = space
        .pod("forever", |pod| status(pod, "c")["state"]["waiting"]["reason"] == "CrashLoopBackOff");
    assert_eq!(forever["status"]["phase"], "Running");
    let c = status(&forever, "c");
    assert_eq!(c["restartCount"], 1);
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 5);
    assert_eq!(c["lastState"]["terminated"]["message"], "ended\n");
    let message = c["state"]["waiting"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("back-off 10s restarting failed container=c pod=forever_exits("),
        "{message}"
    );
    space.event("forever", "BackOff", "Back-off restarting failed container c in pod forever");
    assert_eq!(space.line("logs forever --previous").ok(), "run\n");
    let forever = space.pod("forever", |pod| status(pod, "c")["restartCount"] == 2);
    let all = space.cluster.containers_of(forever["metadata"]["uid"].as_str().unwrap());
    let starts: Vec<Timestamp> = all.iter().map(|c| c.started_at.parse().unwrap()).collect();
    let [.., before, last] = starts[..] else { panic!("{all:#?}") };
    assert!(last.duration_since(before).as_secs_f64() >= 10.0, "{all:#?}");
}

#[test]
fn init_containers_come_first() {
    let space = Space::on_docker("init");
    space.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: steps}
spec:
  restartPolicy: OnFailure
  volumes: [{name: out, emptyDir: {}}]
  initContainers:
  - name: first
    image: warren/busybox:1
    # Fails once.
    command: [sh, -c, 'echo first >>/out/log; [ $(wc -l </out/log) -ge 2 ]']
    volumeMounts: [{name: out, mountPath: /out}]
  - name: beside
    image: warren/busybox:1
    restartPolicy: Always
    command: [sh, -c, 'echo beside >>/out/log; echo I am here >/var/www/index.html; exec httpd -f -p 8080 -h /var/www']
    startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
    volumeMounts: [{name: out, mountPath: /out}]
  - name: second
    image: warren/busybox:1
    command: [sh, -c, 'wget -qO- http://127.0.0.1:8080/ >>/out/log']
    volumeMounts: [{name: out, mountPath: /out}]
  containers:
  - name: main
    image: warren/busybox:1
    command: [sh, -c, 'echo main >>/out/log; cat /out/log; wget -qO- http://127.0.0.1:8080/']
    volumeMounts: [{name: out, mountPath: /out}]
",
    );
    let pod = space.ended("steps");
    assert_eq!(pod["status"]["phase"], "Succeeded", "{:#}", pod["status"]);
    assert_eq!(
        space.line("logs steps -c main").ok(),
        "first\nfirst\nbeside\nI am here\nmain\nI am here\n"
    );
    assert_eq!(status(&pod, "first")["restartCount"], 1);
    assert_eq!(status(&pod, "second")["state"]["terminated"]["reason"], "Completed");
    until("what ran beside has ended too", SOON, || {
        let pod = space.object("pod", "steps").unwrap();
        status(&pod, "beside")["state"]["terminated"].is_object()
    });
}

/// Counts the requests that come to a port of this machine, by path.
struct Counted {
    port: u16,
    seen: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Counted {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let counts = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                *counts.lock().unwrap().entry(path).or_default() += 1;
                let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
        Self { port, seen }
    }

    fn seen(&self) -> BTreeMap<String, usize> {
        self.seen.lock().unwrap().clone()
    }
}

#[test]
fn each_end_is_begun_once() {
    let space = Space::on_docker("once");
    let counted = Counted::new();
    let port = counted.port;
    let mut manifest = "
apiVersion: v1
kind: Pod
metadata: {name: six}
spec:
  hostNetwork: true
  containers:"
        .to_owned();
    for n in 1..=6 {
        manifest += &format!(
            "
  - name: c{n}
    image: warren/busybox:1
    command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 0.1; done']
    lifecycle: {{preStop: {{httpGet: {{host: 127.0.0.1, port: {port}, path: /c{n}}}}}}}"
        );
    }
    space.apply(&manifest);
    space.ready("six");
    space.line("delete pod six --timeout=60s").ok();
    let once = |prefix: &str| -> BTreeMap<String, usize> {
        (1..=6).map(|n| (format!("{prefix}{n}"), 1)).collect()
    };
    assert_eq!(counted.seen(), once("/c"));
    // Its Events come after it.
    let told = || -> BTreeMap<String, usize> {
        let events = space.cluster.objects("events", &space.name);
        let killing = events.iter().filter(|e| e["reason"] == "Killing");
        let count = |e: &Value| usize::try_from(e["count"].as_u64().unwrap()).unwrap();
        killing.map(|e| (e["message"].as_str().unwrap().to_owned(), count(e))).collect()
    };
    until("all are told", SOON, || told().len() == 6);
    assert_eq!(told(), once("Stopping container c"));

    // A shorter grace hurries what is under way, and begins nothing anew.
    let host = tempfile::tempdir().unwrap();
    let out = format!("  volumes: [{{name: out, hostPath: {{path: {}}}}}]", host.path().display());
    let hook =
        "lifecycle: {preStop: {exec: {command: [sh, -c, echo hook >>/out/hooks; sleep 3600]}}}
    terminationMessagePolicy";
    let script = "trap \"\" TERM; while :; do sleep 0.1; done";
    let slow = pod("slow", "Always", script, "  terminationGracePeriodSeconds: 3600")
        .replace("  volumes: [{name: out, emptyDir: {}}]", &out)
        .replace("terminationMessagePolicy", hook);
    space.apply(&slow);
    space.ready("slow");
    space.line("delete pod slow --wait=false").ok();
    let hooks = || std::fs::read_to_string(host.path().join("hooks")).unwrap_or_default();
    until("the hook runs", SOON, || hooks() == "hook\n");
    let start = Instant::now();
    space.line("delete pod slow --grace-period=2 --timeout=60s").ok();
    let took = start.elapsed();
    assert!((2.0..20.0).contains(&took.as_secs_f64()), "{took:?}");
    assert_eq!(hooks(), "hook\n");
    space.event("slow", "FailedPreStopHook", "it did not end in time");
    assert_eq!(space.events("slow", "Killing"), ["Stopping container c"]);
}

/// Deletes and waits until it is gone; answers how long that took and the exit code that was told last.
fn delete(space: &Space, name: &str, more: &str) -> (Duration, String) {
    let code = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}{\"\\n\"}";
    let watch = space.going_on(&["get", "pod", name, "-w", "-o", code]);
    until("the watch has begun", SOON, || !watch.output().is_empty());
    let start = Instant::now();
    space.line(&format!("delete pod {name} --timeout=60s {more}")).ok();
    let took = start.elapsed();
    let last = || watch.output().lines().rfind(|line| !line.is_empty()).map(str::to_owned);
    until("the exit code is told", SOON, || last().is_some());
    (took, last().unwrap())
}

#[test]
fn pods_end_with_grace() {
    let space = Space::on_docker("grace");
    let host = tempfile::tempdir().unwrap();
    let out = format!("  volumes: [{{name: out, hostPath: {{path: {}}}}}]", host.path().display());
    let with_grace = |name: &str, script: &str, seconds: u32| {
        let grace = format!("  terminationGracePeriodSeconds: {seconds}");
        pod(name, "Always", script, &grace).replace("  volumes: [{name: out, emptyDir: {}}]", &out)
    };
    let polite = "trap \"echo bye >>/out/log; sleep 1; echo done >>/out/log; exit 0\" TERM; while :; do sleep 0.1; done";
    let stubborn = "trap \"\" TERM; while :; do sleep 0.1; done";
    let hooked = "trap \"echo term >>/out/hooks; exit 4\" TERM; while :; do sleep 0.1; done";
    let hooks = "lifecycle:
      postStart: {exec: {command: [sh, -c, echo begins >>/out/hooks]}}
      preStop: {exec: {command: [sh, -c, echo ends >>/out/hooks]}}
    terminationMessagePolicy";
    let pods = [
        with_grace("polite", polite, 30),
        with_grace("stubborn", stubborn, 3),
        with_grace("hurried", stubborn, 300),
        with_grace("forced", stubborn, 300),
        with_grace("hooked", hooked, 30).replace("terminationMessagePolicy", hooks),
    ];
    space.apply(&pods.concat());
    for name in ["polite", "stubborn", "hurried", "forced", "hooked"] {
        space.ready(name);
    }
    let read = |name: &str| std::fs::read_to_string(host.path().join(name)).unwrap();

    let (took, code) = delete(&space, "polite", "");
    assert_eq!((code.as_str(), read("log").as_str()), ("0", "bye\ndone\n"), "it ended by itself");
    assert!(took < Duration::from_secs(20), "{took:?}");

    let (took, code) = delete(&space, "stubborn", "");
    assert_eq!(code, "137");
    assert!((3.0..20.0).contains(&took.as_secs_f64()), "it had its three seconds: {took:?}");
    space.event("stubborn", "Killing", "Stopping container c");

    let (took, code) = delete(&space, "hurried", "--grace-period=1");
    assert_eq!(code, "137");
    assert!(took < Duration::from_secs(20), "{took:?}");

    let (_, code) = delete(&space, "hooked", "");
    assert_eq!((code.as_str(), read("hooks").as_str()), ("4", "begins\nends\nterm\n"));

    let uid = space.object("pod", "forced").unwrap()["metadata"]["uid"].clone();
    space.line("delete pod forced --force --grace-period=0 --timeout=60s").ok();
    until("its containers are gone", SOON, || {
        space.cluster.containers().iter().all(|c| c.uid != uid)
    });
}
