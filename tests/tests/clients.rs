//! Clients of other languages, as their users install them: what works against Kubernetes works here.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use warren_tests::cluster::Options;
use warren_tests::kubectl::{self, Output};
use warren_tests::{Cluster, document};

#[path = "clients/kube_rs.rs"]
mod kube_rs;

/// Scripts and what they need: tests/clients.
fn scripts(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(language)
}

fn run(program: &Path, arguments: &[&str], folder: &Path, kubeconfig: Option<PathBuf>) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(kubeconfig) = kubeconfig {
        command.env("KUBECONFIG", kubeconfig);
    }
    kubectl::run(command, None)
}

/// A folder below target/ with what a file of needs says, made by `make` where that file has changed since.
fn installed(language: &str, needs: &str, make: impl FnOnce(&Path, &Path)) -> PathBuf {
    // Two tests of one language must not install at once.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let needs = scripts(language).join(needs);
    let binary = warren_tests::cluster::binary();
    let target = binary.ancestors().nth(2).unwrap();
    let folder = target.join("clients").join(language);
    let wanted = std::fs::read_to_string(&needs).unwrap();
    let stamp = folder.join("made-for");
    if std::fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        make(&folder, &needs);
        std::fs::write(stamp, wanted).unwrap();
    }
    folder
}

/// An interpreter with the packages of requirements.txt.
fn python() -> PathBuf {
    let folder = installed("python", "requirements.txt", |folder, needs| {
        let environment = folder.display().to_string();
        run(Path::new("python3"), &["-m", "venv", &environment], folder, None).ok();
        let pip = folder.join("bin/pip");
        run(&pip, &["install", "--quiet", "-r", needs.to_str().unwrap()], folder, None).ok();
    });
    folder.join("bin/python")
}

fn two_nodes() -> Cluster {
    Cluster::up(Options { nodes: 2, ..Options::default() })
}

#[test]
fn the_official_python_client() {
    let (python, cluster) = (python(), two_nodes());
    let out = run(&python, &["official.py"], &scripts("python"), Some(cluster.kubeconfig()));
    assert!(out.succeeded() && out.stderr.contains("\nOK"), "{}", out.told());
    document::client("Python", &document::features(&out.stdout));
}

#[test]
fn an_operator_of_kopf() {
    let (python, cluster) = (python(), two_nodes());
    let out = run(&python, &["with_kopf.py"], &scripts("python"), Some(cluster.kubeconfig()));
    assert!(out.ok().contains("Deletion is processed"), "{}", out.told());
    document::client("kopf", &document::features(&out.stdout));
}

#[test]
fn the_official_javascript_client() {
    let folder = installed("javascript", "package.json", |folder, needs| {
        std::fs::copy(needs, folder.join("package.json")).unwrap();
        let npm = ["install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"];
        run(Path::new("npm"), &npm, folder, None).ok();
    });
    // Modules are looked for beside the script.
    let script = scripts("javascript").join("official.mjs");
    std::fs::copy(script, folder.join("official.mjs")).unwrap();
    let cluster = two_nodes();
    let arguments = ["--test", "official.mjs"];
    let out = run(Path::new("node"), &arguments, &folder, Some(cluster.kubeconfig()));
    assert!(out.ok().contains("# fail 0"), "{}", out.told());
    assert!(!out.stdout.contains("# pass 0"), "{}", out.told());
    document::client("JavaScript", &document::features(&out.stdout));
}
