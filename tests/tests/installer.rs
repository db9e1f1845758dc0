//! `installer.sh`, as somebody runs it: install, run again, upgrade, kill, take down, install again, purge.
//!
//! The cluster has a data folder, ports and a prefix of its own, and shares the machine's Docker daemon with whatever
//! else is there. What needs a machine of its own (packages, starting dockerd, systemd) is not tried here.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use warren_tests::{until, until_some};

use self::world::{Foreign, Installation, docker, http, path_without, sh};

#[path = "installer/world.rs"]
mod world;

/// For one part to come back, or one change to have its effects, in a debug build on a busy machine.
const SOON: Duration = Duration::from_secs(90);

#[test]
fn the_life_of_a_cluster() {
    let foreign = Foreign::start();
    let mut installation = Installation::new();
    let this = &mut installation;

    let said = this.install(&[]);
    assert!(said.contains("[9/9]") && said.contains("The cluster is up."), "{said}");
    this.is_ready_now();
    the_next_three_commands_work(this, &said);
    the_printed_addresses_are_right(this, &said);
    rabbitmqctl_works(this);
    identities_are_private(this);
    ports_are_on_loopback(this);
    a_file_in_the_folder_runs(this);

    let begin = Instant::now();
    let told = |what: &str| println!("{:>6.1} s: {what}", begin.elapsed().as_secs_f64());
    a_second_run_changes_nothing(this);
    told("a second run");
    everything_that_is_killed_comes_back(this);
    told("deaths");
    rules_that_others_flush_come_back(this);
    told("rules");
    an_upgrade_lets_pods_run(this);
    told("an upgrade");
    down_and_up_again_is_the_same_cluster(this);
    told("down and up again");

    let image = this.image();
    let said = this.run(&["--purge"]).ok().to_owned();
    assert!(said.contains(&format!("removed image {image}")), "{said}");
    assert!(docker(&["image", "inspect", &image]).is_err(), "its image is gone");
    this.nothing_runs();
    for path in [this.data(), this.prefix().join("warren")] {
        assert!(!path.exists(), "{} is left: {said}", path.display());
    }
    assert!(this.own_manifest().exists(), "what a person put there stays");
    assert!(this.run(&["--purge"]).ok().contains("nothing was put up"));
    foreign.is_untouched();
}

fn the_next_three_commands_work(this: &Installation, said: &str) {
    let commands: Vec<&str> = said
        .lines()
        .skip_while(|line| !line.contains("Try next"))
        .skip(1)
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(3)
        .collect();
    let output = sh(&commands.join("\n"), &this.path());
    let printed = output.ok();
    for pod in ["apiserver", "broker", "controllers"] {
        let name = format!("{pod}-{}", this.node());
        let line = printed.lines().find(|line| line.contains(&name));
        assert!(line.is_some_and(|l| l.contains("1/1") && l.contains("Running")), "{printed}");
    }
    let configured = |kind: &str| {
        let mut lines = printed.lines();
        lines.any(|l| {
            l.contains(kind) && ["created", "unchanged", "configured"].iter().any(|w| l.contains(w))
        })
    };
    assert!(configured("deployment"), "{printed}");
    this.wait_available(3);
    let page = until_some("the Service answers", SOON, || {
        let address =
            this.kubectl(&["get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}"]);
        http(&format!("{}:80", address.ok().trim())).ok().filter(|page| page.contains("Hello"))
    });
    assert!(page.contains("200 OK") && page.contains("Hello from the warren."), "{page}");
    until("the node port answers", SOON, || {
        http("127.0.0.1:30080").is_ok_and(|page| page.contains("Hello from the warren."))
    });
}

fn the_printed_addresses_are_right(this: &Installation, said: &str) {
    let line = said.lines().find(|line| line.starts_with("management page")).unwrap();
    assert!(line.contains(&format!("http://127.0.0.1:{}", this.ports.management)), "{line}");
    let password = line.rsplit(' ').next().unwrap();
    assert!(Path::new(password).is_file(), "{line}");
    let overview = this.management("admin", &std::fs::read_to_string(password).unwrap());
    assert_eq!(overview, 200, "the page takes the password that is printed");
    assert_eq!(this.management("guest", "guest"), 401, "there is no guest");
}

/// As docs/events.md names it.
fn rabbitmqctl_works(this: &Installation) {
    let kubeconfig = this.data().join("kubeconfig/admin.conf");
    let rabbitmqctl = |arguments: &str| {
        let script = format!(
            "KUBECONFIG={} kubectl exec -n kube-system broker-{} -- rabbitmqctl {arguments}",
            kubeconfig.display(),
            this.node()
        );
        sh(&script, &this.path()).ok().to_owned()
    };
    rabbitmqctl("import_definitions /etc/warren/rabbitmq/definitions.json");
    let users = rabbitmqctl("list_users --silent");
    for account in ["server", "controllers", "admin", &format!("node-{}", this.node())] {
        let mut names = users.lines().filter_map(|line| line.split_whitespace().next());
        assert!(names.any(|name| name == account), "{account}: {users}");
    }
}

fn identities_are_private(this: &Installation) {
    let private =
        ["broker/admin.password", "broker/server.password", "pki/ca.key", "kubeconfig/admin.conf"];
    let node = format!("broker/node-{}.password", this.node());
    for path in private.into_iter().chain([&*node]) {
        let path = this.data().join(path);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
    assert_eq!(std::fs::metadata(this.data()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(this.anonymous(Method::GET, "/api/v1/nodes"), 401);
}

fn ports_are_on_loopback(this: &Installation) {
    let listeners = sh("ss -Hltn | awk '{ print $4 }'", &this.path()).ok().to_owned();
    for port in this.ports.all() {
        let end = format!(":{port}");
        let mut there = listeners.lines().filter(|address| address.ends_with(&end)).peekable();
        assert!(there.peek().is_some(), "nobody listens on {port}");
        there.for_each(|a| assert!(a.starts_with("127.0.0.1:") || a.starts_with("[::1]:"), "{a}"));
    }
}

fn a_file_in_the_folder_runs(this: &Installation) {
    std::fs::write(this.own_manifest(), world::OWN_MANIFEST).unwrap();
    until("the file's pod runs", SOON, || this.own_pod_runs());
}

/// No container is another one: neither of pods nor of the control plane.
fn a_second_run_changes_nothing(this: &Installation) {
    let before = this.containers();
    let (binary, node) = (this.binary.clone(), this.node_uid());
    let said = this.install_binary(&binary, &this.path());
    assert!(said.contains("is up to date"), "{said}");
    this.is_ready_now();
    assert_eq!(this.containers(), before, "{said}");
    assert_eq!(this.node_uid(), node);
}

fn everything_that_is_killed_comes_back(this: &Installation) {
    let pods = this.pod_containers();
    let victims = ["agent", "supervisor", "apiserver", "controllers", "broker"];
    for (victim, replicas) in victims.iter().zip(4..) {
        let begin = Instant::now();
        let pid = this.pid_of(victim);
        sh(&format!("kill -9 {pid}"), &this.path()).ok();
        until(&format!("another {victim} runs"), SOON, || {
            this.find_pid(victim).is_some_and(|now| now != pid)
        });
        // Through the API, the controllers, the broker and the agent, and back.
        this.wait_scaled(replicas);
        until("the control plane is ready", SOON, || this.control_plane().is_some());
        println!("{victim} was killed; all is well after {:?}", begin.elapsed());
    }
    assert!(this.pod_containers().is_superset(&pods), "pods run through");
}

/// Docker drops what arrives from outside for a pod, but for these rules; whoever writes the chain anew forgets them.
fn rules_that_others_flush_come_back(this: &Installation) {
    // Those of this cluster; others on the machine may have other ranges.
    let count = "iptables -w 5 -S DOCKER-USER | grep 'warren services' | \
                 grep -cE -- '--ctorigdst 10.96.0.0/16 |--ctorigdstport 30000:32767 '";
    let has_two = || sh(count, &this.path()).stdout.trim() == "2";
    until("Docker lets Services pass", SOON, has_two);
    let remove = "iptables -w 5 -S DOCKER-USER | grep 'warren services' | \
                  while read -r r; do eval \"iptables -w 5 ${r/#-A/-D}\"; done";
    sh(remove, &this.path()).ok();
    let table = std::fs::read_to_string(this.data().join("nft-table")).unwrap();
    sh(&format!("nft delete table ip {table}"), &this.path()).ok();
    until("Services are back", SOON, || {
        sh(&format!("nft list map ip {table} nodeports | grep -q 30080"), &this.path()).succeeded()
    });
    until("Docker lets Services pass again", SOON, has_two);
}

fn an_upgrade_lets_pods_run(this: &mut Installation) {
    let (pods, node, old) = (this.pod_containers(), this.node_uid(), this.image());
    let new = this.another_build();
    let said = this.install_binary(&new, &this.path());
    this.is_ready_now();
    let image = this.image();
    assert_ne!(image, old, "{said}");
    for (name, pod) in this.control_plane().unwrap() {
        let runs = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
        assert!(name == "broker" || runs == image, "{name} runs {runs}, not {image}");
    }
    assert_eq!(this.pod_containers(), pods, "pods run through");
    assert_eq!(this.node_uid(), node);
    this.wait_scaled(9);
    assert!(docker(&["image", "inspect", &old]).is_err(), "{old} of before is gone: {said}");
}

fn down_and_up_again_is_the_same_cluster(this: &mut Installation) {
    let node = this.node_uid();
    let password = std::fs::read_to_string(this.data().join("broker/admin.password")).unwrap();
    this.run(&["--down"]).ok();
    this.nothing_runs();
    assert!(this.own_manifest().exists(), "what a person put there stays");

    // And who has no kubectl is told commands that work as well.
    let path = path_without(&this.root().join("without-kubectl"), &["kubectl"]);
    let said = this.install_binary(&this.binary.clone(), &path);
    this.is_ready_now();
    assert!(said.contains("warren get pods -A") && !said.contains("kubectl "), "{said}");
    // kubectl scaled it and would be in conflict with another manager's apply.
    let hello = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples/hello.yaml");
    let kubeconfig = this.data().join("kubeconfig/admin.conf");
    let delete =
        format!("warren delete -f {} --kubeconfig {}", hello.display(), kubeconfig.display());
    assert!(sh(&delete, &this.path()).ok().contains("deleted"));
    until("its pods have ended", SOON, || this.pod_containers().len() == 1);
    the_next_three_commands_work(this, &said);
    assert_eq!(this.node_uid(), node, "the same cluster");
    let now = std::fs::read_to_string(this.data().join("broker/admin.password")).unwrap();
    assert_eq!(now, password);
    until("the file's pod runs", SOON, || this.own_pod_runs());
}

/// Each names itself, its log and the remedy, and leaves nothing running.
#[test]
fn a_step_that_fails_says_what_to_do() {
    let this = Installation::new();
    let fails = |command: &str, wanted: &[&str]| {
        let output = sh(command, &this.path());
        for wanted in wanted.iter().chain(&["FAILED", "Log:", "Remedy:"]) {
            assert!(output.err().contains(wanted), "no {wanted:?} in {}", output.told());
        }
    };
    let (installer, data) =
        (this.command(&["--binary", this.binary.to_str().unwrap()]), this.data());
    let data = data.display();

    fails(
        &format!(
            "unshare -m sh -c 'mkdir -p {data}; mount -t tmpfs -o ro none {data}; {installer}'"
        ),
        &["data folder", "Read-only file system"],
    );
    fails(
        &format!(
            "unshare -m sh -c 'mkdir -p {data}; mount -t tmpfs -o size=1m none {data}; {installer}'"
        ),
        &["data folder", "MB are free"],
    );
    std::fs::create_dir_all(this.data().join("letters")).unwrap();
    fails(&installer, &["data folder", "not Warren's"]);
    std::fs::remove_dir(this.data().join("letters")).unwrap();

    let taken = std::net::TcpListener::bind(("127.0.0.1", this.ports.api)).unwrap();
    let port = format!("port {} is taken", this.ports.api);
    fails(&installer, &["step 2 of 9: ports", &port, "--api-port"]);
    drop(taken);

    let path = path_without(&this.root().join("without-cargo"), &["cargo"]);
    fails(
        &format!("SUDO_USER=nobody PATH={path} {}", this.command(&[])),
        &["the warren binary", "cargo is not there", "https://rustup.rs"],
    );

    // A daemon that does not come up, in place of the machine's, which others use.
    let broken = this.root().join("broken");
    std::fs::create_dir(&broken).unwrap();
    let script = "#!/bin/sh\necho 'failed to start daemon: no space left on device'\nexit 1\n";
    std::fs::write(broken.join("dockerd"), script).unwrap();
    std::fs::set_permissions(broken.join("dockerd"), PermissionsExt::from_mode(0o755)).unwrap();
    let broken = broken.display();
    if !Path::new("/run/systemd/system").exists() {
        fails(
            &format!("DOCKER_HOST=unix://{broken}/none.sock PATH={broken}:$PATH {installer}"),
            &["step 4 of 9: dockerd", "no space left on device"],
        );
    }
    this.nothing_runs();

    for (arguments, wanted) in BTreeMap::from([
        ("--api-port many", "a port is a number"),
        ("--data-dir '/tmp/a b'", "a path may hold"),
        ("--sideways", "unknown option"),
    ]) {
        let output = sh(&format!("{} {arguments}", this.command(&[])), &this.path());
        assert_eq!(output.code, 2, "{}", output.told());
        assert!(output.err().contains(wanted), "{}", output.told());
    }
}
