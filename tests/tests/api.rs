//! The stock kubectl against the API: what the README shows, and the forms in which people use it.

use serde_json::json;
use warren_tests::cluster::SOON;
use warren_tests::{Cluster, until};

const CONFIG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: web}}
data: {colour: red, size: '3'}
";

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: 'example/web:1'}
";

#[test]
fn objects_are_made_changed_and_deleted() {
    let cluster = Cluster::simulated();
    let out = cluster.kubectl_with(["apply", "-f", "-"], CONFIG);
    assert_eq!(out.ok().trim(), "configmap/settings created");
    let out = cluster.kubectl_with(["apply", "-f", "-"], CONFIG);
    assert_eq!(out.ok().trim(), "configmap/settings unchanged");
    let changed = CONFIG.replace("red", "blue");
    let out = cluster.kubectl_with(["apply", "-f", "-"], &changed);
    assert_eq!(out.ok().trim(), "configmap/settings configured");
    let object = cluster.object("configmap", "default", "settings").unwrap();
    assert_eq!(object["data"], json!({"colour": "blue", "size": "3"}));

    // Apply takes away what the file no longer has, and leaves what others added.
    cluster.kubectl(["label", "configmap", "settings", "mine=yes"]).ok();
    let out = cluster.kubectl_with(["apply", "-f", "-"], &changed.replace(", size: '3'", ""));
    out.ok();
    let object = cluster.object("configmap", "default", "settings").unwrap();
    assert_eq!(object["data"], json!({"colour": "blue"}));
    assert_eq!(object["metadata"]["labels"], json!({"app": "web", "mine": "yes"}));

    for (kind, patch) in [
        ("merge", r#"{"data":{"a":"1"}}"#),
        ("strategic", r#"{"data":{"b":"2"}}"#),
        ("json", r#"[{"op":"add","path":"/data/c","value":"3"}]"#),
    ] {
        cluster.kubectl(["patch", "configmap", "settings", "--type", kind, "-p", patch]).ok();
    }
    let object = cluster.object("configmap", "default", "settings").unwrap();
    assert_eq!(object["data"], json!({"colour": "blue", "a": "1", "b": "2", "c": "3"}));

    cluster.kubectl(["annotate", "configmap", "settings", "note=x"]).ok();
    cluster.kubectl(["label", "configmap", "settings", "mine-"]).ok();
    let object = cluster.object("configmap", "default", "settings").unwrap();
    assert_eq!(object["metadata"]["annotations"]["note"], "x");
    assert_eq!(object["metadata"]["labels"], json!({"app": "web"}));

    let out = cluster.kubectl(["delete", "configmap", "settings"]);
    assert!(out.ok().contains("\"settings\" deleted"), "{}", out.told());
    let out = cluster.kubectl(["get", "configmap", "settings"]);
    assert!(out.err().contains("Error from server (NotFound): configmaps \"settings\" not found"));
}

#[test]
fn server_side_apply_keeps_owners_apart() {
    let cluster = Cluster::simulated();
    let apply = |manager: &str, text: &str, force: bool| {
        let force = if force { "--force-conflicts=true" } else { "--force-conflicts=false" };
        let manager = format!("--field-manager={manager}");
        cluster.kubectl_with(["apply", "--server-side", &manager, force, "-f", "-"], text)
    };
    apply("a", CONFIG, false).ok();
    let other = CONFIG.replace("red", "green");
    let refused = apply("b", &other, false);
    assert!(refused.err().contains("conflict"), "{}", refused.told());
    assert!(refused.err().contains(".data.colour"), "{}", refused.told());
    apply("b", &other, true).ok();
    let object = cluster.object("configmap", "default", "settings").unwrap();
    assert_eq!(object["data"]["colour"], "green");
}

#[test]
fn outputs_have_the_forms_that_people_pipe() {
    let cluster = Cluster::simulated();
    cluster.kubectl_with(["apply", "-f", "-"], CONFIG).ok();
    let get = |format: &str| {
        let out = cluster.kubectl(["get", "configmap", "settings", "-o", format]);
        out.ok().trim().to_owned()
    };
    assert_eq!(get("name"), "configmap/settings");
    assert_eq!(get("jsonpath={.data.colour}"), "red");
    assert_eq!(
        get("custom-columns=N:.metadata.name,C:.data.colour"),
        "N          C\nsettings   red"
    );
    assert_eq!(get("go-template={{.data.size}}"), "3");
    assert!(get("yaml").contains("colour: red"));
    let table = get("wide");
    let header: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["NAME", "DATA", "AGE"]);
    let list = cluster.kubectl(["get", "cm", "-l", "app=web", "-o", "json"]).json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let list = cluster.kubectl(["get", "cm", "-l", "app!=web", "-o", "name"]);
    assert!(!list.ok().contains("settings"));
    let out =
        cluster.kubectl(["get", "cm", "--field-selector", "metadata.name=settings", "-o", "name"]);
    assert_eq!(out.ok().trim(), "configmap/settings");
    let out = cluster.kubectl(["get", "cm", "-A"]);
    assert!(out.ok().lines().next().unwrap().starts_with("NAMESPACE"));
    let out = cluster.kubectl(["get", "nodes"]);
    assert!(
        out.ok()
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .eq(["NAME", "STATUS", "ROLES", "AGE", "VERSION"])
    );
    let out = cluster.kubectl(["get", "pods"]);
    assert!(out.ok().is_empty() && out.stderr.contains("No resources found in default namespace."));
}

#[test]
fn kubectl_finds_what_there_is() {
    let cluster = Cluster::simulated();
    let out = cluster.kubectl(["api-resources", "--no-headers"]);
    for kind in [
        "ConfigMap",
        "Deployment",
        "Endpoints",
        "EndpointSlice",
        "Event",
        "Job",
        "Lease",
        "Namespace",
        "Node",
        "Pod",
        "ReplicaSet",
        "Secret",
        "Service",
        "ServiceAccount",
    ] {
        let there = out.ok().lines().any(|line| line.split_whitespace().last() == Some(kind));
        assert!(there, "{kind} is missing in:\n{}", out.stdout);
    }
    let out = cluster.kubectl(["api-versions"]);
    for version in ["v1", "apps/v1", "batch/v1", "discovery.k8s.io/v1", "coordination.k8s.io/v1"] {
        assert!(out.ok().lines().any(|line| line == version), "{version}: {}", out.stdout);
    }
    cluster.kubectl(["version"]).ok();
    cluster.kubectl(["cluster-info"]).ok();
}

/// In both forms, by OpenAPI v3 and v2: what the kind is, and each of its fields.
#[test]
fn kubectl_explains_every_kind() {
    let cluster = Cluster::simulated();
    // What is only asked or measured is not in OpenAPI.
    let out = cluster.kubectl(["api-resources", "--verbs=create,list", "-o", "name"]);
    let resources: Vec<&str> = out.ok().lines().collect();
    assert!(resources.len() >= 14, "{resources:?}");
    for resource in resources {
        for form in ["plaintext", "plaintext-openapiv2"] {
            // apps/v1's deployments, not those of another group.
            let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
            let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
            let version = format!("--api-version={version}");
            let out = cluster.kubectl(["explain", plural, "--output", form, &version]);
            let (head, fields) = out.ok().split_once("FIELDS:").expect("fields");
            let (_, text) = head.split_once("DESCRIPTION:").expect("a description");
            assert!(text.trim().ends_with('.'), "{resource} in {form}: {}", out.stdout);
            let names: Vec<&str> = fields.lines().filter_map(field_name).collect();
            assert!(names.contains(&"metadata"), "{resource} in {form}: {names:?}");
            for name in names {
                let text = text_of_field(fields, name);
                assert!(text.ends_with('.'), "{resource}.{name} in {form}: {text:?}");
            }
        }
    }
}

/// The name in a line of a field: `  spec\t<PodSpec>`; its description stands deeper.
fn field_name(line: &str) -> Option<&str> {
    let rest = line.trim_start();
    let depth = line.len() - rest.len();
    let (name, kind) = rest.split_once('\t')?;
    (depth < 4 && kind.starts_with('<')).then_some(name.trim())
}

/// The lines that follow a field's own, up to the next field.
fn text_of_field(fields: &str, name: &str) -> String {
    let mut lines = fields.lines().skip_while(|line| field_name(line) != Some(name));
    lines.next();
    let text = lines.take_while(|line| field_name(line).is_none());
    text.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

#[test]
fn watches_show_changes_in_order() {
    let cluster = Cluster::simulated();
    let watch = cluster.kubectl_going_on([
        "get",
        "cm",
        "-w",
        "--output-watch-events",
        "--no-headers",
        "--field-selector",
        "metadata.name=settings",
    ]);
    cluster.kubectl_with(["create", "-f", "-"], CONFIG).ok();
    until("ADDED is seen", SOON, || watch.output().contains("ADDED"));
    cluster
        .kubectl(["patch", "cm", "settings", "--type", "merge", "-p", r#"{"data":{"x":"1"}}"#])
        .ok();
    cluster.kubectl(["delete", "cm", "settings"]).ok();
    until("DELETED is seen", SOON, || watch.output().contains("DELETED"));
    let output = watch.output();
    let seen: Vec<_> = output.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(seen, ["ADDED", "MODIFIED", "DELETED"]);
}

#[test]
fn workloads_answer_to_the_usual_commands() {
    let cluster = Cluster::simulated();
    let out =
        cluster.kubectl(["create", "deployment", "made", "--image=example/a:1", "--replicas=2"]);
    assert_eq!(out.ok().trim(), "deployment.apps/made created");
    cluster.kubectl(["wait", "--for=condition=Available", "deploy/made", "--timeout=60s"]).ok();
    cluster.kubectl(["scale", "deploy/made", "--replicas=3"]).ok();
    cluster.kubectl(["rollout", "status", "deploy/made", "--timeout=60s"]).ok();
    assert_eq!(cluster.objects("pods", "default").len(), 3);
    let out = cluster.kubectl(["describe", "deploy", "made"]);
    assert!(out.ok().contains("3 desired") && out.ok().contains("3 available"), "{}", out.told());
    let out = cluster.kubectl(["describe", "node", "node-1"]);
    assert!(out.ok().contains("Allocated resources"), "{}", out.told());
    cluster.kubectl(["expose", "deploy", "made", "--port=80", "--target-port=8080"]).ok();
    let service = cluster.object("service", "default", "made").unwrap();
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    assert!(address.starts_with("10.96."), "{address}");
    cluster.kubectl(["run", "lone", "--image=example/b:1"]).ok();
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/lone", "--timeout=60s"]).ok();
    cluster.kubectl(["get", "all"]).ok();
    cluster.kubectl(["delete", "deploy,svc,pod", "--all", "--timeout=60s"]).ok();
    until("all pods are gone", SOON, || cluster.objects("pods", "default").is_empty());
}

#[test]
fn edit_changes_what_is_stored() {
    let cluster = Cluster::simulated();
    cluster.kubectl_with(["apply", "-f", "-"], CONFIG).ok();
    let path = cluster.kubeconfig();
    let mut command = std::process::Command::new(warren_tests::kubectl::program());
    command
        .env("KUBECONFIG", path)
        .env("KUBE_EDITOR", "sed -i s/red/violet/")
        .args(["edit", "cm", "settings"]);
    warren_tests::kubectl::run(command, None).ok();
    let object = cluster.object("cm", "default", "settings").unwrap();
    assert_eq!(object["data"]["colour"], "violet");
}

#[test]
fn namespaces_hold_and_release() {
    let cluster = Cluster::simulated();
    cluster.kubectl(["create", "namespace", "shop"]).ok();
    cluster.wait_object("serviceaccount", "shop", "default", |_| true);
    cluster.kubectl_with(["apply", "-n", "shop", "-f", "-"], DEPLOYMENT).ok();
    cluster.kubectl(["rollout", "status", "deploy/web", "-n", "shop", "--timeout=60s"]).ok();
    cluster.kubectl(["delete", "namespace", "shop", "--timeout=60s"]).ok();
    assert!(cluster.object("namespace", "", "shop").is_none());
    let out = cluster.kubectl_with(["apply", "-n", "shop", "-f", "-"], DEPLOYMENT);
    assert!(out.err().contains("namespaces \"shop\" not found"), "{}", out.told());
}

#[test]
fn dry_runs_and_diffs_store_nothing() {
    let cluster = Cluster::simulated();
    cluster.kubectl_with(["apply", "--dry-run=server", "-f", "-"], CONFIG).ok();
    assert!(cluster.object("cm", "default", "settings").is_none());
    cluster.kubectl_with(["apply", "-f", "-"], CONFIG).ok();
    let out = cluster.kubectl_with(["diff", "-f", "-"], &CONFIG.replace("red", "blue"));
    assert_eq!(out.code, 1, "{}", out.told());
    assert!(out.stdout.contains("+  colour: blue"), "{}", out.told());
    assert_eq!(cluster.object("cm", "default", "settings").unwrap()["data"]["colour"], "red");
}

#[test]
fn the_verbs_of_warren_do_what_kubectl_does() {
    let cluster = Cluster::simulated();
    let file = cluster.data_dir().join("settings.yaml");
    std::fs::write(&file, CONFIG).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(cluster.warren(["apply", "-f", file]).ok().trim(), "configmap/settings created");
    assert_eq!(cluster.warren(["apply", "-f", file]).ok().trim(), "configmap/settings unchanged");
    let out = cluster.warren(["get", "cm", "settings"]);
    assert!(out.ok().starts_with("NAME"), "{}", out.told());
    assert_eq!(
        cluster.warren(["get", "cm", "settings", "-o", "name"]).ok().trim(),
        "configmap/settings"
    );
    assert!(cluster.warren(["get", "cm", "settings", "-o", "yaml"]).ok().contains("colour: red"));
    assert_eq!(cluster.warren(["get", "cm/settings", "-o", "json"]).json()["data"]["size"], "3");
    assert!(cluster.warren(["get", "nodes"]).ok().contains("Ready"));
    let status = cluster.warren(["status"]);
    assert!(
        status.ok().lines().any(|line| line == "ok    nodes         1 of 1 ready"),
        "{}",
        status.ok()
    );
    let out = cluster.warren(["get", "cm", "nothing"]);
    assert!(out.err().contains("Error from server (NotFound)"), "{}", out.told());
    let out = cluster.warren(["get", "nonsense"]);
    assert!(out.err().contains("doesn't have a resource type"), "{}", out.told());
    let out = cluster.warren(["delete", "-f", file]);
    assert!(out.ok().contains("deleted"), "{}", out.told());
    assert!(cluster.object("cm", "default", "settings").is_none());
}

#[test]
fn stored_objects_are_there_after_a_restart() {
    let mut cluster = Cluster::simulated();
    cluster.kubectl_with(["apply", "-f", "-"], CONFIG).ok();
    let before = cluster.object("cm", "default", "settings").unwrap();
    cluster.kill9(&warren_tests::Role::Up);
    cluster.start_all();
    cluster.wait_ready();
    assert_eq!(cluster.object("cm", "default", "settings").unwrap(), before);
    assert_eq!(cluster.stop(&warren_tests::Role::Up), Some(0), "ends cleanly");
}
