//! Every kubectl that is found (`kubectl` and `kubectl.1.NN`) against one cluster. They differ in what they send and
//! read: JSON or protobuf, OpenAPI v2 or v3, validation by the client or the server.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use warren_tests::cluster::SOON;
use warren_tests::forwarded::{Forwarded, noise};
use warren_tests::kubectl::{self, Output};
use warren_tests::{Cluster, document, until, until_some};

const CONFIG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: web}}
data: {colour: red}
";

/// What `kubectl explain` says of a path, line breaks apart: of the field, and of its type.
const EXPLAINED: &[(&str, &[&str])] = &[
    ("pod", &["with one address and shared volumes.", "What runs, as the node reports it."]),
    (
        "pod.spec.containers.livenessProbe.httpGet",
        &["Asks by a GET.", "a code from 200 to 399 is success.", "Defaults to HTTP."],
    ),
    (
        "pod.spec.containers.livenessProbe.httpGet.port",
        &["FIELD: port", "the name of a port of the container.", "A whole number, or a string"],
    ),
    (
        "deploy.spec.template.spec.volumes.projected.sources.configMap.items.mode",
        &["mode <integer>", "from 0 to 0777 in octal"],
    ),
    ("svc.metadata.ownerReferences.controller", &["At most one owner does."]),
];

struct Kubectl<'a> {
    cluster: &'a Cluster,
    version: &'a str,
    program: &'a Path,
    kubeconfig: PathBuf,
    namespace: String,
}

impl Kubectl<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(self.program);
        let cache = self.kubeconfig.with_file_name(format!("cache-{}", self.version));
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", cache)
            .env("KUBE_EDITOR", "sed -i s/red/violet/")
            .args(["-n", &self.namespace])
            .args(line.split_whitespace());
        command
    }

    /// Words are separated by blanks.
    fn run(&self, line: &str) -> Output {
        kubectl::run(self.command(line), None)
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let out = self.run(line);
        assert!(out.succeeded(), "{}: {}", self.version, out.told());
        out.stdout
    }

    #[track_caller]
    fn shows(&self, line: &str, expected: &[&str]) {
        let out = self.ok(line);
        for expected in expected {
            assert!(out.contains(expected), "{}: {line}: no {expected:?} in\n{out}", self.version);
        }
    }

    fn with(&self, line: &str, input: &str) -> Output {
        kubectl::run(self.command(line), Some(input))
    }

    fn creates(&self) {
        for (line, made) in [
            ("create configmap cm --from-literal=a=1", "configmap/cm"),
            ("create secret generic sec --from-literal=p=q", "secret/sec"),
            ("create serviceaccount sa", "serviceaccount/sa"),
            (
                "create deployment web --image=example/web:1 --replicas=2 --port=80",
                "deployment.apps/web",
            ),
            ("create job once --image=example/job:1 -- true", "job.batch/once"),
            ("create service clusterip svc --tcp=80:8080", "service/svc"),
            ("create deployment dry --image=x --dry-run=server", "deployment.apps/dry"),
            ("run lone --image=example/a:1 --labels=a=b --env=X=1 --port=80", "pod/lone"),
        ] {
            self.shows(line, &[made, " created"]);
        }
        assert!(!self.run("get deployment dry").succeeded(), "a dry run stores nothing");
        self.shows("expose deployment web --port=80 --name=webx", &["service/webx exposed"]);
        assert_eq!(self.ok("get secret sec -o jsonpath={.data.p}"), "cQ==");
        assert_eq!(self.ok("get svc svc -o jsonpath={.spec.ports[0].targetPort}"), "8080");
        assert_eq!(self.ok("get job once -o jsonpath={..containers[0].command[0]}"), "true");
    }

    fn rolls_out(&self) {
        self.ok("wait --for=condition=Available deploy/web --timeout=60s");
        self.ok("wait --for=jsonpath={.status.phase}=Running pod/lone --timeout=60s");
        self.ok("scale deploy/web --replicas=3");
        self.ok("scale deploy/web --current-replicas=3 --replicas=2");
        self.ok("set image deploy/web web=example/web:2");
        self.shows("rollout history deploy/web", &["REVISION"]);
        until_some("a second revision", SOON, || {
            let out = self.run("rollout history deploy/web --revision=2");
            out.stdout.contains("example/web:2").then_some(())
        });
        self.ok("rollout undo deploy/web");
        self.ok("rollout restart deploy/web");
        self.ok("rollout status deploy/web --timeout=60s");
        assert_eq!(self.ok("get deploy web -o jsonpath={..image}"), "example/web:1");
    }

    fn talks_to_containers(&self) {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: talker}\nspec: {containers: \
                   [{name: c, image: any, command: [sh, -c, 'echo here I am; sleep 3600']}]}\n";
        self.with("apply -f -", pod).ok();
        self.ok("wait --for=condition=Ready pod/talker --timeout=60s");
        self.shows("logs talker", &["here I am"]);
        // Over SPDY up to 1.29, over WebSocket since.
        assert_eq!(self.with("exec -i talker -- cat", "in and out").ok(), "in and out");
        assert_eq!(self.ok("exec talker -- echo said"), "said\n");
        assert_eq!(self.run("exec talker -- false").code, 1);
        let out = self.run("exec talker -- nothing");
        assert!(out.code == 127 && out.stderr.contains("it has no programs"), "{}", out.told());
        let out = self.run("exec talker -c other -- true");
        assert!(out.err().contains("container other is not valid"), "{}", out.told());
        let attached = self.cluster.going_on(self.command("attach talker"));
        until("it is attached", SOON, || attached.output().contains("here I am"));
        until_some("usage is measured", SOON, || {
            let out = self.run("top pod talker");
            (out.succeeded() && out.stdout.contains("talker")).then_some(())
        });
    }

    fn forwards_ports(&self) {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: echo, annotations: \
                   {simulated.warren.dev/listen: '7000'}}\nspec: {containers: [{name: c, image: any}]}\n";
        self.with("apply -f -", pod).ok();
        self.ok("wait --for=condition=Ready pod/echo --timeout=60s");
        let forward = || self.command("port-forward pod/echo");
        let forwarded = Forwarded::start(self.cluster, forward(), &[7000, 7001]);
        assert_eq!(forwarded.ask(7000, b"there and back"), b"there and back", "{}", self.version);
        let sent = noise(2 << 20);
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| assert!(forwarded.ask(7000, &sent) == sent, "{}", self.version));
            }
        });
        assert_eq!(forwarded.ask(7001, b"anybody?"), b"", "{}", self.version);
        until("the reason is told", SOON, || forwarded.output().contains("connection refused"));

        let service = "create service clusterip echo --tcp=80:7000";
        self.ok(service);
        self.ok("set selector service/echo app=echo");
        self.ok("label pod echo app=echo");
        let forwarded =
            Forwarded::start(self.cluster, self.command("port-forward svc/echo"), &[80]);
        assert_eq!(forwarded.ask(80, b"by its service"), b"by its service", "{}", self.version);
        let out = self.run("port-forward pod/nobody :80");
        assert!(out.err().contains("pods \"nobody\" not found"), "{}", out.told());
    }

    fn applies_and_edits(&self) {
        assert!(self.with("apply -f -", CONFIG).ok().contains("created"));
        assert!(self.with("apply -f -", CONFIG).ok().contains("unchanged"));
        let blue = CONFIG.replace("red", "blue");
        let out = self.with("diff -f -", &blue);
        assert!(out.code == 1 && out.stdout.contains("+  colour: blue"), "{}", out.told());
        assert!(self.with("apply -f -", &blue).ok().contains("configured"));
        self.with("apply --server-side --force-conflicts -f -", CONFIG).ok();
        let out = self.with("apply --validate=strict -f -", &CONFIG.replace("\ndata", "\ndatum"));
        assert!(out.err().contains("unknown field \"datum\""), "{}", out.told());
        self.ok("edit cm settings");
        assert_eq!(self.ok("get cm settings -o jsonpath={.data.colour}"), "violet");
        self.with("replace -f -", CONFIG).ok();
        self.ok(r#"patch cm settings --type merge -p {"data":{"a":"1"}}"#);
        self.ok(r#"patch cm settings -p {"data":{"b":"2"}}"#);
        self.ok(r#"patch cm settings --type json -p [{"op":"add","path":"/data/c","value":"3"}]"#);
        self.ok("label cm settings mine=yes");
        self.ok("annotate cm settings note=x");
        self.shows(
            "get cm settings -o json",
            &[
                "\"a\": \"1\"",
                "\"b\": \"2\"",
                "\"c\": \"3\"",
                "\"mine\": \"yes\"",
                "\"note\": \"x\"",
            ],
        );
        self.shows("label cm settings mine-", &["unlabeled"]);
    }

    fn shows_what_there_is(&self) {
        for kind in [
            "pods",
            "deploy",
            "rs",
            "job",
            "svc",
            "ep",
            "endpointslices",
            "cm",
            "secret",
            "sa",
            "events",
            "leases",
            "nodes",
            "ns",
            "all",
        ] {
            self.ok(&format!("get {kind}"));
            self.ok(&format!("get {kind} -A -o wide --show-labels"));
        }
        self.shows("get pods --sort-by=.metadata.name -o name", &["pod/lone"]);
        self.shows("get pods --field-selector spec.nodeName=node-1,metadata.name=lone", &["lone"]);
        self.shows("get pods -l a=b --chunk-size=1 -o custom-columns=N:.metadata.name", &["lone"]);
        self.shows("get deploy web --subresource=scale", &["web"]);
        for (object, expected) in [
            ("deploy/web", "desired"),
            ("pod/lone", "Containers:"),
            ("svc/svc", "TargetPort"),
            ("cm/settings", "colour"),
            ("job/once", "Pod Template"),
            ("node/node-1", "Allocated resources"),
        ] {
            self.shows(&format!("describe {object}"), &[expected]);
        }
        self.shows("api-resources -o wide", &["deployments", "configmaps"]);
        self.shows("auth can-i create pods", &["yes"]);
        // 1.27 asks for a beta version of the question.
        if self.version != "1.27" {
            self.shows("auth whoami", &["Username"]);
        }
        self.ok("version");
    }

    /// At every depth, by OpenAPI v3, which all releases take by themselves, and v2.
    fn explains(&self) {
        for (path, expected) in EXPLAINED {
            for form in ["", " --output plaintext-openapiv2"] {
                let line = format!("explain {path}{form}");
                let out = self.ok(&line);
                // Long lines are broken.
                let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
                for expected in *expected {
                    let version = self.version;
                    assert!(
                        words.contains(expected),
                        "{version}: {line}: no {expected:?} in\n{out}"
                    );
                }
                assert!(!out.contains("<empty>"), "{}: {line}:\n{out}", self.version);
            }
        }
        for form in ["plaintext", "plaintext-openapiv2"] {
            let line = format!("explain pod.spec.containers --recursive --output {form}");
            let expected = ["livenessProbe", "httpHeaders", "<string>", "One program with its own"];
            self.shows(&line, &expected);
        }
        // Only v3 knows the names of the types that are one thing or another.
        self.shows(
            "explain deploy.spec.strategy.rollingUpdate --output plaintext",
            &["maxSurge\t<IntOrString>"],
        );
        self.shows("explain pod.spec --output plaintext", &["overhead\t<map[string]Quantity>"]);
        let out = self.run("explain pod.spec.nonsense");
        assert!(out.err().contains("nonsense"), "{}", out.told());
    }

    fn watches(&self) {
        let mut command = self.command(
            "get cm -w --output-watch-events --no-headers --field-selector metadata.name=seen",
        );
        let file = self.kubeconfig.with_file_name(format!("watch-{}", self.version));
        command.stdout(std::fs::File::create(&file).expect("a file for the output"));
        let mut child = command.spawn().expect("kubectl starts");
        self.ok("create configmap seen --from-literal=a=1");
        let read = || std::fs::read_to_string(&file).unwrap_or_default();
        until("ADDED is seen", SOON, || read().contains("ADDED"));
        self.ok("delete configmap seen");
        until("DELETED is seen", SOON, || read().contains("DELETED"));
        let _ = child.kill();
        let _ = child.wait();
    }

    /// What all this went through, for docs/compatibility.md.
    fn features(&self) -> BTreeSet<String> {
        let features = [
            "discovery",
            "objects: create, get, update, delete",
            "dry run",
            "field validation",
            "JSON patch",
            "merge patch",
            "strategic merge patch",
            "server-side apply",
            "label and field selectors",
            "pages",
            "tables",
            "watch",
            "scale",
            "status",
            "eviction, drain",
            "finalizers, owners",
            "Events",
            "logs",
            "exec",
            "attach",
            "port-forward",
            "usage (metrics.k8s.io)",
            "explain",
        ];
        features.into_iter().map(str::to_owned).collect()
    }

    fn deletes(&self) {
        self.ok("delete pod lone --now --timeout=60s");
        self.ok("delete deploy web --cascade=foreground --timeout=60s");
        self.ok("delete job once --cascade=background");
        self.ok("delete cm -l app=web");
        self.ok("delete all --all --timeout=60s");
        self.ok(&format!("delete namespace {} --timeout=60s", self.namespace));
    }
}

#[test]
fn every_kubectl_does_the_usual_things() {
    let cluster = Cluster::simulated();
    let programs = kubectl::programs();
    assert!(!programs.is_empty(), "no kubectl is found");
    let all: Vec<_> = programs
        .iter()
        .map(|(version, program)| Kubectl {
            cluster: &cluster,
            version,
            program,
            kubeconfig: cluster.kubeconfig(),
            namespace: format!("with-{}", version.replace('.', "-")),
        })
        .collect();
    std::thread::scope(|scope| {
        for kubectl in &all {
            scope.spawn(move || {
                kubectl.ok(&format!("create namespace {}", kubectl.namespace));
                kubectl.creates();
                kubectl.rolls_out();
                kubectl.talks_to_containers();
                kubectl.forwards_ports();
                kubectl.applies_and_edits();
                kubectl.shows_what_there_is();
                kubectl.explains();
                kubectl.watches();
                kubectl.deletes();
            });
        }
    });
    // One after the other: the others would miss the node.
    for kubectl in &all {
        kubectl.ok("cordon node-1");
        kubectl.shows("get node node-1", &["SchedulingDisabled"]);
        kubectl.ok("drain node-1 --ignore-daemonsets --force --timeout=60s");
        kubectl.ok("uncordon node-1");
        let column = format!("kubectl {}", kubectl.version);
        if document::CLIENTS.contains(&column.as_str()) {
            document::client(&column, &kubectl.features());
        }
    }
}
