//! Port-forward into real pods, and what older kubectls do over SPDY, with every kubectl that is found.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use warren_tests::cluster::{Role, SOON, free_port};
use warren_tests::forwarded::{Forwarded, exchange, noise};
use warren_tests::{Space, kubectl, until};

/// 8080, on its loopback only, says hello; 9000 sends back what it gets.
const LISTENER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: listener}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    command: [sh, -c, 'mkdir /www; echo hello from the loopback > /www/index.html;
      httpd -p 127.0.0.1:8080 -h /www; exec nc -ll -p 9000 -e cat']
";

const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// A listener that answers.
fn listener(name: &str) -> Space {
    let space = Space::on_docker(name);
    space.apply(LISTENER);
    space.ready("listener");
    let there = "wget -q -O - http://127.0.0.1:8080/ && echo up | nc 127.0.0.1 9000";
    until("it listens", SOON, || space.sh("listener", there).succeeded());
    space
}

/// A command of another kubectl, in the namespace.
fn with(program: &std::path::Path, space: &Space, arguments: &[&str]) -> Command {
    let ours = space.command(arguments);
    let mut command = Command::new(program);
    command.args(ours.get_args());
    for (name, value) in ours.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

#[test]
fn every_kubectl_reaches_into_containers() {
    let space = listener("every-kubectl");
    let much: String = (0..100_000).map(|n| format!("{n:06}\n")).collect();
    let here = tempfile::tempdir().unwrap();
    for (version, program) in kubectl::programs() {
        println!("kubectl {version}");
        let command = |arguments: &[&str]| with(&program, &space, arguments);
        let run = |arguments: &[&str], input| kubectl::run(command(arguments), input);
        let script = "cat; echo err >&2; exit 3";
        let out = run(&["exec", "-i", "listener", "--", "sh", "-c", script], Some(&much));
        assert_eq!((out.code, out.stdout == much), (3, true), "{version}: {}", out.stderr);
        assert!(out.stderr.starts_with("err\n"), "{version}: {}", out.told());
        let out = run(&["exec", "listener", "--", "/no/such/program"], None);
        assert!(!out.succeeded() && out.told().contains("no such file"), "{}", out.told());

        // On a terminal whose size is known.
        let line = command(&["exec", "-it", "listener", "--", "sh", "-c"]);
        let script = "test -t 0 && echo terminal; read word; echo got-$word >&2;
            for i in $(seq 100); do [ \"$(stty size)\" = \"31 97\" ] && break; sleep 0.1; done; stty size; exit 9";
        let words = line.get_args().map(|word| format!("'{}'", word.to_string_lossy()));
        let words = words.collect::<Vec<_>>().join(" ");
        let inner = format!("stty rows 31 cols 97; '{}' {words} '{script}'", program.display());
        let mut terminal = Command::new("script");
        terminal.args(["--quiet", "--return", "--flush", "--command", &inner, "/dev/null"]);
        for (name, value) in line.get_envs() {
            terminal.env(name, value.unwrap_or_default());
        }
        let out = kubectl::run(terminal, Some("typed\n"));
        assert_eq!(out.code, 9, "{version}: {}", out.told());
        for expected in ["terminal\r\n", "got-typed\r\n", "31 97\r\n"] {
            assert!(out.stdout.contains(expected), "{version}: no {expected:?}: {}", out.told());
        }

        let (there, back) = (here.path().join("there"), here.path().join("back"));
        std::fs::write(&there, &much).unwrap();
        run(&["cp", there.to_str().unwrap(), "listener:/tmp/copied"], None).ok();
        run(&["cp", "listener:/tmp/copied", back.to_str().unwrap()], None).ok();
        assert!(std::fs::read_to_string(&back).unwrap() == much, "{version}");

        let forward = command(&["port-forward", "pod/listener"]);
        let forwarded = Forwarded::start(&space.cluster, forward, &[8080, 9000]);
        let answer = String::from_utf8(forwarded.ask(8080, GET)).unwrap();
        assert!(answer.ends_with("hello from the loopback\n"), "{version}: {answer}");
        let sent = noise(5 << 20);
        assert!(forwarded.ask(9000, &sent) == sent, "{version}: what comes back is what went");
    }
}

#[test]
fn many_and_large_transfers() {
    let space = listener("forward-large");
    let forward = space.command(&["port-forward", "pod/listener"]);
    let forwarded = Forwarded::start(&space.cluster, forward, &[9000]);
    let pid = space.cluster.pid(&Role::Up).unwrap();
    let before = resident(pid);
    let sent = noise(100 << 20);
    assert!(forwarded.ask(9000, &sent) == sent);
    let after = resident(pid);
    // A buffer of a connection is 4 MiB at most, and the whole process does other things too.
    assert!(after < before + (48 << 20), "{before} bytes before, {after} after");

    // One by one, for this listener has room for one that waits; then all at once, and none waits for another.
    let mut open: Vec<_> = (0..50).map(|_| opened(&forwarded)).collect();
    for (n, stream) in open.iter_mut().enumerate().rev() {
        said(stream, &format!("connection {n}\n"));
    }
    std::thread::scope(|scope| {
        let sent = &sent[..1 << 20];
        for stream in open.drain(..20) {
            scope.spawn(move || assert!(exchange(stream, sent) == sent));
        }
    });
    open.iter_mut().for_each(|stream| said(stream, "still here\n"));
}

/// A connection that the pod has taken.
fn opened(forwarded: &Forwarded) -> TcpStream {
    let mut stream = forwarded.connect(9000);
    said(&mut stream, "hello\n");
    stream
}

#[track_caller]
fn said(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), text);
}

/// Bytes of a process in memory.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn ports_of_the_host_and_of_nobody() {
    let space = Space::on_docker("forward-host");
    let port = free_port();
    let host = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: host}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: warren/busybox:1
    command: [sh, -c, 'mkdir /www; echo hello from the host > /www/index.html; exec httpd -f -p 127.0.0.1:{port} -h /www']
"
    );
    space.apply(&host);
    space.ready("host");
    let nobodys = free_port();
    let forward = || space.command(&["port-forward", "pod/host"]);
    let forwarded = Forwarded::start(&space.cluster, forward(), &[port, nobodys]);
    until("it answers", SOON, || {
        String::from_utf8_lossy(&forwarded.ask(port, GET)).ends_with("hello from the host\n")
    });
    assert_eq!(forwarded.ask(nobodys, GET), b"");
    until("the reason is told", SOON, || forwarded.output().contains("connection refused"));
    assert!(forwarded.output().contains("pod host, uid "), "{}", forwarded.output());
}

#[test]
fn a_pod_that_goes_ends_its_connections() {
    let space = listener("forward-gone");
    let forward = space.command(&["port-forward", "pod/listener"]);
    let forwarded = Forwarded::start(&space.cluster, forward, &[9000]);
    let mut open = opened(&forwarded);
    space.line("delete pod listener --now --wait").ok();
    let mut rest = Vec::new();
    let _ = open.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    // The next one is told why; kubectl may end then, and that is its own.
    let _ = forwarded.ask(9000, b"anybody?");
    until("the reason is told", SOON, || {
        forwarded.output().contains("the pod is not on this node any more")
    });
}
