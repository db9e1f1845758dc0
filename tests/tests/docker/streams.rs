//! What goes in and out of containers: logs, exec, attach, run, cp.

use std::process::Command;

use warren_tests::cluster::SOON;
use warren_tests::kubectl::Output;
use warren_tests::space::status;
use warren_tests::{Space, kubectl, until};

const TALKER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: first
    image: warren/busybox:1
    command: [sh, -c, 'for i in 1 2 3; do echo line $i; done; echo to stderr >&2;
      until [ -e /tmp/more ]; do sleep 0.1; done; echo more;
      until [ -e /tmp/end ]; do sleep 0.1; done; echo last; exit 1']
  - name: second
    image: warren/busybox:1
    command: [sh, -c, 'echo second; exec sleep 3600']
";

#[test]
fn logs_are_read_and_followed() {
    let space = Space::on_docker("logs");
    space.apply(TALKER);
    space.ready("talker");
    let written = || space.line("logs talker").stdout.contains("to stderr");
    until("it has written", SOON, written);
    // The first container is the one that is meant, and it says so.
    let output = space.line("logs talker");
    assert_eq!(output.ok().lines().filter(|l| l.starts_with("line")).count(), 3);
    assert!(output.stderr.contains("Defaulted container \"first\" out of: first, second"));
    assert_eq!(space.line("logs talker -c second").ok(), "second\n");
    assert_eq!(space.line("logs talker -c second --tail=0").ok(), "");
    assert_eq!(space.line("logs talker -c second --limit-bytes=4").ok(), "seco");
    let tail = space.line("logs talker -c first --tail=2");
    assert_eq!(tail.ok().lines().count(), 2);
    let stamped = space.line("logs talker -c second --timestamps");
    let (time, text) = stamped.ok().trim().split_once(' ').unwrap();
    assert!(time.parse::<k8s_openapi::jiff::Timestamp>().is_ok() && text == "second", "{time}");
    let all = space.line("logs -l app=talker --all-containers --prefix");
    assert!(all.ok().contains("[pod/talker/first] line 3"), "{}", all.told());
    assert!(all.stdout.contains("[pod/talker/second] second"), "{}", all.told());
    let out = space.line("logs talker -c third");
    assert!(out.err().contains("container third is not valid for pod talker"), "{}", out.told());
    let out = space.line("logs talker -c first --previous");
    assert!(out.err().contains("previous terminated container \"first\""), "{}", out.told());

    let mut follower = space.going_on(&["logs", "-f", "talker", "-c", "first"]);
    until("the past is shown", SOON, || follower.output().contains("line 3"));
    assert!(!follower.output().contains("more"));
    space.sh("talker -c first", "touch /tmp/more").ok();
    until("what comes is shown", SOON, || follower.output().contains("more\n"));
    space.sh("talker -c first", "touch /tmp/end").ok();
    until("the follower ends with the container", SOON, || follower.has_ended());
    assert!(follower.output().ends_with("last\n"), "{}", follower.output());

    space.pod("talker", |pod| status(pod, "first")["restartCount"] == 1);
    let before = space.line("logs talker -c first --previous");
    assert!(
        before.ok().contains("line 1") && before.stdout.ends_with("last\n"),
        "{}",
        before.told()
    );
    until("the new one writes", SOON, written);
    assert!(!space.line("logs talker -c first").ok().contains("more"));
}

/// What a `kubectl` of a terminal of 31 rows and 97 columns shows, while somebody types.
fn on_a_terminal(space: &Space, words: &[&str], typed: &str) -> Output {
    let command = space.command(words);
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    let line: Vec<String> =
        [kubectl::program()].into_iter().chain(words).map(|w| format!("'{w}'")).collect();
    let mut terminal = Command::new("script");
    let inner = format!("stty rows 31 cols 97; {}", line.join(" "));
    terminal.args(["--quiet", "--return", "--flush", "--command", &inner, "/dev/null"]);
    for (name, value) in command.get_envs() {
        terminal.env(name, value.unwrap_or_default());
    }
    kubectl::run(terminal, Some(typed))
}

#[test]
fn the_first_command_knows_its_terminal() {
    let space = Space::on_docker("sizes");
    space.line("run box --image=warren/busybox:1 --restart=Always -- sleep 3600").ok();
    space.ready("box");
    let api = space.cluster.docker(&["version", "--format", "{{.Server.APIVersion}}"]);
    // An older daemon sets the size when the process runs: what is typed comes after it, its first breath may not.
    let whole = api.ok().trim().split_once('.').unwrap().1.parse::<u32>().unwrap() >= 42;
    for _ in 0..5 {
        let typed = "stty size; exit\n";
        let out = on_a_terminal(&space, &["exec", "-it", "box", "--", "sh"], typed);
        assert!(out.stdout.contains("\n31 97\r\n"), "{}", out.told());
        if whole {
            let words = ["exec", "-it", "box", "--", "stty", "size"];
            assert_eq!(on_a_terminal(&space, &words, "").ok(), "31 97\r\n");
        }
    }
}

#[test]
fn commands_run_in_containers() {
    let space = Space::on_docker("exec");
    space.line("run box --image=warren/busybox:1 --restart=Always -- sleep 3600").ok();
    space.ready("box");
    assert_eq!(space.sh("box", "echo out; echo err >&2; exit 7").code, 7);
    let both = space.sh("box", "echo out; echo err >&2");
    assert_eq!((both.ok(), both.stderr.as_str()), ("out\n", "err\n"));
    let out = space.kubectl(&["exec", "box", "--", "/no/such/program"]);
    assert!(!out.succeeded() && out.told().contains("no such file"), "{}", out.told());
    let out = space.kubectl(&["exec", "nobody", "--", "true"]);
    assert!(out.err().contains("pods \"nobody\" not found"), "{}", out.told());

    let out = space.kubectl_with(&["exec", "-i", "box", "--", "cat"], "in and out");
    assert_eq!(out.ok(), "in and out");
    // More than any buffer holds, each byte once.
    let much: String = (0..200_000).map(|n| format!("{n:06}\n")).collect();
    let out = space.kubectl_with(&["exec", "-i", "box", "--", "sh", "-c", "cat; exit 3"], &much);
    assert_eq!(out.code, 3);
    assert!(out.stdout == much, "{} of {} bytes", out.stdout.len(), much.len());
    let out = space.kubectl_with(&["exec", "-i", "box", "--", "md5sum"], &much);
    let same = space.sh("box", "seq -w 0 199999 | md5sum");
    assert_eq!(out.ok(), same.ok());
    let many = ["word"; 3000];
    let out =
        space.kubectl(&[&["exec", "box", "--", "sh", "-c", "echo $#", "sh"][..], &many].concat());
    assert_eq!(out.ok(), "3000\n");

    // On a terminal: one is there, both streams are one, and what is typed is echoed.
    let script =
        "test -t 0 && test -t 2 && echo terminal; read word; echo got-$word >&2; stty size; exit 9";
    let out = on_a_terminal(&space, &["exec", "-it", "box", "--", "sh", "-c", script], "typed\n");
    assert_eq!(out.code, 9, "{}", out.told());
    for expected in ["terminal\r\n", "got-typed\r\n", "31 97\r\n"] {
        assert!(out.stdout.contains(expected), "no {expected:?}: {}", out.told());
    }

    // Files, by tar in the container.
    let here = tempfile::tempdir().unwrap();
    let (there, back) = (here.path().join("there"), here.path().join("back"));
    std::fs::write(&there, &much).unwrap();
    space.kubectl(&["cp", there.to_str().unwrap(), "box:/tmp/copied"]).ok();
    space.kubectl(&["cp", "box:/tmp/copied", back.to_str().unwrap()]).ok();
    assert!(std::fs::read_to_string(back).unwrap() == much);
}

#[test]
fn containers_are_talked_to() {
    let space = Space::on_docker("attach");
    // What is typed reaches the container; its exit code is kubectl's.
    let run =
        "run talk --image=warren/busybox:1 --restart=Never -i --rm --quiet --command -- sh -c";
    let mut arguments: Vec<&str> = run.split_whitespace().collect();
    arguments.push("read a; echo first $a; cat; exit 6");
    let out = space.kubectl_with(&arguments, "one\ntwo\n");
    assert_eq!((out.code, out.stdout.as_str()), (6, "first one\ntwo\n"), "{}", out.told());
    assert!(space.object("pod", "talk").is_none(), "--rm takes it away");

    let once = "run once --image=warren/busybox:1 --restart=Never --env=A=b --labels=a=b -- sh -c";
    let mut arguments: Vec<&str> = once.split_whitespace().collect();
    arguments.push("echo $A; exit 4");
    assert!(space.kubectl(&arguments).ok().contains("pod/once created"));
    let pod = space.ended("once");
    assert_eq!(status(&pod, "once")["state"]["terminated"]["exitCode"], 4);
    assert_eq!(space.line("logs once").ok(), "b\n");

    // Attached later, one sees what comes from then on, and the container survives it.
    space.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: 'warren/busybox:1', stdin: true, command: [sh, -c, 'while read a; do echo heard $a; done']}
",
    );
    space.ready("echo");
    for word in ["first", "second"] {
        let mut attached = space.talking(&["attach", "-i", "echo"]);
        attached.say(&format!("{word}\n"));
        let heard = format!("heard {word}\n");
        until(heard.trim(), SOON, || attached.output().contains(&heard));
    }
    let pod = space.object("pod", "echo").unwrap();
    assert_eq!(status(&pod, "c")["restartCount"], 0);
}
