//! `warren supervise`, and `warren init`.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::process::Command;
use std::time::Duration;

use warren_tests::cluster::binary;
use warren_tests::kubectl::{self, Output};
use warren_tests::{until, until_some};

const SOON: Duration = Duration::from_secs(30);

struct Supervised {
    dir: tempfile::TempDir,
    child: std::process::Child,
}

impl Supervised {
    /// A program that says its pid and `bye` when it is told to end.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo started $$; trap 'echo bye; exit 0' TERM; trap 'echo hup' HUP; while :; do sleep 0.05; done";
        let mut command = Command::new(binary());
        command.args(["supervise", "--name", "x", "--data-dir"]).arg(dir.path());
        let child = command.args(["--", "sh", "-c", script]).spawn().unwrap();
        let this = Self { dir, child };
        until("the program runs", SOON, || this.log().contains("started"));
        this
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log/x.log")).unwrap_or_default()
    }

    fn pids(&self) -> Vec<String> {
        let log = self.log();
        let started = log.lines().filter_map(|line| line.strip_prefix("started "));
        started.map(str::to_owned).collect()
    }

    /// The supervisor that the pid file names.
    fn supervisor(&self) -> String {
        let path = self.dir.path().join("run/x.pid");
        let content = std::fs::read_to_string(path).unwrap_or_default();
        content.lines().next().unwrap_or_default().to_owned()
    }

    /// The child of the supervisor that takes its place when it is killed.
    fn guard(&self) -> Option<String> {
        let supervisor = self.supervisor();
        let children = format!("/proc/{supervisor}/task/{supervisor}/children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let mut children = children.split_whitespace().map(str::to_owned);
        children.find(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("--guard-of")
        })
    }

    fn verb(&self, verb: &str) -> Output {
        let mut command = Command::new(binary());
        command.args(["supervise", "--name", "x", verb, "--data-dir"]).arg(self.dir.path());
        kubectl::run(command, None)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Killed, it would come back.
        self.verb("--stop");
        let _ = self.child.wait();
    }
}

fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
}

/// Whether a process has not ended, also where nobody waits for orphans.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_program_that_ends_is_started_again() {
    let supervised = Supervised::start();
    signal("-9", &supervised.pids()[0]);
    until("a second one runs", SOON, || supervised.pids().len() == 2);
    assert!(supervised.log().contains("ended by signal 9"), "{}", supervised.log());
}

#[test]
fn signals_are_passed_on_and_stop_ends_both() {
    let supervised = Supervised::start();
    signal("-HUP", &supervised.child.id().to_string());
    until("the program gets it", SOON, || supervised.log().contains("hup"));
    assert_eq!(supervised.verb("--status").code, 0);
    supervised.verb("--stop").ok();
    assert!(supervised.log().contains("bye"), "{}", supervised.log());
    assert!(!runs(&supervised.pids()[0]));
    assert_eq!(supervised.verb("--status").code, 3);
    supervised.verb("--stop").ok();
}

#[test]
fn there_is_one_supervisor_of_a_name() {
    let supervised = Supervised::start();
    let mut command = Command::new(binary());
    command.args(["supervise", "--name", "x", "--data-dir"]).arg(supervised.dir.path());
    let out = kubectl::run(
        {
            command.args(["--", "true"]);
            command
        },
        None,
    );
    assert!(out.err().contains("runs already"), "{}", out.told());
    assert_eq!(supervised.verb("--status").code, 0, "the first is untouched");
}

#[test]
fn a_supervisor_that_is_killed_comes_back_and_its_guard_too() {
    let mut supervised = Supervised::start();
    for round in 1..=2 {
        let guard = until_some("there is a guard", SOON, || supervised.guard());
        signal("-9", &guard);
        until_some("there is another", SOON, || supervised.guard().filter(|now| *now != guard));
        let before = supervised.supervisor();
        let program = supervised.pids().pop().unwrap();
        signal("-9", &before);
        if round == 1 {
            supervised.child.wait().unwrap();
        }
        until("the program goes with it", SOON, || !runs(&program));
        until("another supervisor runs", SOON, || {
            supervised.verb("--status").code == 0 && supervised.supervisor() != before
        });
        until("the program runs again", SOON, || supervised.pids().len() == round + 1);
    }
    let (supervisor, guard) = (supervised.supervisor(), supervised.guard().unwrap());
    supervised.verb("--stop").ok();
    for pid in [supervisor, guard, supervised.pids().pop().unwrap()] {
        until("an orderly end is one", SOON, || !runs(&pid));
    }
    assert_eq!(supervised.verb("--status").code, 3);
}

#[test]
fn a_pid_that_another_process_has_now_is_not_touched() {
    let supervised = Supervised::start();
    supervised.verb("--stop").ok();
    let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
    let path = supervised.dir.path().join("run/x.pid");
    std::fs::write(path, format!("{}\n1\n", bystander.id())).unwrap();
    supervised.verb("--stop").ok();
    assert!(bystander.try_wait().unwrap().is_none(), "it lives");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn wrong_arguments_are_no_reason_to_try_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.args(["supervise", "--name", "x", "--data-dir"]).arg(dir.path());
    command.args(["--", "sh", "-c", "exit 2"]);
    let out = kubectl::run(command, None);
    assert!(out.err().contains("arguments are wrong"), "{}", out.told());
}

#[test]
fn init_is_idempotent_and_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let init = || {
        let mut command = Command::new(binary());
        command.args(["init", "--node", "n1", "--data-dir"]).arg(dir.path());
        kubectl::run(command, None).ok().to_owned()
    };
    let read = |path: &str| std::fs::read_to_string(dir.path().join(path)).unwrap();
    init();
    let files = [
        "pki/ca.key",
        "pki/admin.key",
        "kubeconfig/admin.conf",
        "broker/admin.password",
        "broker/node-n1.password",
    ];
    let before: Vec<_> = files.iter().map(|path| read(path)).collect();
    let definitions = read("broker/rabbitmq/definitions.json");
    assert!(!definitions.contains("\"guest\"") && definitions.contains("\"node-n1\""));
    assert!(!definitions.contains(before[3].trim()), "hashes only");
    assert!(init().lines().all(|line| !line.contains("made")));
    let after: Vec<_> = files.iter().map(|path| read(path)).collect();
    assert_eq!(before, after);
    assert_eq!(definitions, read("broker/rabbitmq/definitions.json"));
    for path in files {
        let mode = std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path}");
    }
}
