//! The stock kubectl against the server; skipped where there is none (`KUBECTL` or `kubectl` in PATH).
#![expect(clippy::unwrap_used, reason = "a test fails where anything is not as it should be")]

mod support;

use std::path::Path;
use std::process::Stdio;

use support::World;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

fn kubectl() -> Option<String> {
    let name = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let found = std::process::Command::new(&name).args(["version", "--client"]).output();
    found.ok().filter(|o| o.status.success()).map(|_| name)
}

async fn run(kubectl: &str, kubeconfig: &Path, args: &str, input: &str) -> (bool, String) {
    let mut command = Command::new(kubectl)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--cache-dir")
        .arg(kubeconfig.with_extension("cache"))
        .args(args.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    command.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output =
        tokio::time::timeout(std::time::Duration::from_secs(60), command.wait_with_output())
            .await
            .expect("kubectl in time")
            .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.success(), text)
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels: {app: web}\n\
                   spec:\n  containers:\n  - name: main\n    image: busybox\n";

#[tokio::test]
async fn kubectl_does_its_work() {
    let Some(kubectl) = kubectl() else {
        eprintln!("skipped: no kubectl");
        return;
    };
    let world = World::start().await;
    let config = world.kubeconfig();
    for (args, input, expected) in [
        ("get namespaces", "", "kube-system"),
        ("api-resources", "", "deployments"),
        ("apply -f -", POD, "pod/web created"),
        ("apply -f -", POD, "pod/web unchanged"),
        ("get pods", "", "Pending"),
        ("get pods -o wide", "", "NOMINATED NODE"),
        ("get pod web -o yaml", "", "image: busybox"),
        ("get pods -l app=web -o name", "", "pod/web"),
        ("label pod web x=y", "", "pod/web labeled"),
        ("annotate pod web x=y", "", "pod/web annotate"),
        ("patch pod web -p {\"metadata\":{\"labels\":{\"x\":\"z\"}}}", "", "pod/web patched"),
        ("apply --server-side --force-conflicts -f -", POD, "pod/web serverside-applied"),
        ("diff -f -", POD, ""),
        ("describe pod web", "", "busybox"),
        ("create configmap cm --from-literal=a=b", "", "configmap/cm created"),
        ("create deployment d --image=x --replicas=2", "", "deployment.apps/d created"),
        ("scale deployment d --replicas=3", "", "deployment.apps/d scaled"),
        ("create service clusterip s --tcp=80:80", "", "service/s created"),
        ("get all", "", "deployment.apps/d"),
        ("explain pod.spec.containers", "", "FIELD: containers"),
        ("auth can-i create pods", "", "yes"),
        ("auth whoami", "", "admin"),
        ("wait --for=jsonpath={.status.phase}=Pending pod/web", "", "condition met"),
        ("delete pod web", "", "pod \"web\" deleted"),
        ("delete configmap cm", "", "configmap \"cm\" deleted"),
        ("run other --image=busybox", "", "pod/other created"),
        ("delete pods --all", "", "pod \"other\" deleted"),
    ] {
        let (ok, text) = run(&kubectl, &config, args, input).await;
        assert!(ok && text.contains(expected), "kubectl {args}\n{text}");
    }
    let (ok, text) = run(&kubectl, &config, "get pod nope", "").await;
    assert!(!ok && text.contains("pods \"nope\" not found"), "{text}");
    let (ok, text) = run(&kubectl, &config, "apply -f -", &POD.replace("image", "imag")).await;
    assert!(!ok && text.contains("unknown field \"spec.containers[0].imag\""), "{text}");
    world.stop().await;
}
