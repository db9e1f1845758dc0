//! One installation, and what stands beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use tempfile::TempDir;
use warren_tests::cluster::binary;
use warren_tests::kubectl::{self, Output, program};
use warren_tests::{until, until_some};

use super::SOON;

pub const OWN_MANIFEST: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: own
spec:
  containers:
  - name: sleeper
    image: warren/busybox:1
    command: [sleep, '3600']
";

pub struct Ports {
    pub api: u16,
    pub node: u16,
    pub amqp: u16,
    pub management: u16,
}

impl Ports {
    /// Below those that the kernel gives to anybody and those of Services, and so that RabbitMQ's own two are as well.
    fn choose() -> Self {
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        until_some("free ports", SOON, || {
            let [api, node, amqp, management] =
                std::array::from_fn(|n| rand::random_range(6000..7000) + 1000 * n as u16);
            let all = [api, node, amqp, management, amqp + 20_000, amqp + 20_001];
            all.into_iter().all(free).then_some(Self { api, node, amqp, management })
        })
    }

    pub fn all(&self) -> [u16; 6] {
        let Self { api, node, amqp, management } = *self;
        [api, node, amqp, management, amqp + 20_000, amqp + 20_001]
    }
}

pub struct Installation {
    root: TempDir,
    pub ports: Ports,
    /// The build that is installed.
    pub binary: PathBuf,
}

impl Installation {
    /// Nothing is installed yet.
    pub fn new() -> Self {
        let root = TempDir::with_prefix("warren-installer-").unwrap();
        let own = root.path().join("build/warren");
        std::fs::create_dir_all(root.path().join("build")).unwrap();
        std::fs::create_dir_all(root.path().join("prefix")).unwrap();
        std::fs::create_dir_all(root.path().join("etc/manifests")).unwrap();
        // Smaller, so that images of it are made sooner.
        let strip = Command::new("strip").arg("-o").arg(&own).arg(binary()).status();
        assert!(strip.is_ok_and(|status| status.success()), "strip (package binutils)");
        let this = Self { root, ports: Ports::choose(), binary: own };
        // Its image is nobody else's.
        this.change_binary();
        this
    }

    /// Another content, the same program: after the end of what the loader reads.
    fn change_binary(&self) {
        let mut file = std::fs::File::options().append(true).open(&self.binary).unwrap();
        file.write_all(&rand::random::<[u8; 16]>()).unwrap();
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    pub fn prefix(&self) -> PathBuf {
        self.root().join("prefix")
    }

    pub fn own_manifest(&self) -> PathBuf {
        self.root().join("etc/manifests/own.yaml")
    }

    pub fn node(&self) -> String {
        format!("inst-{}", self.ports.api)
    }

    /// The path of whoever works with this cluster.
    pub fn path(&self) -> String {
        format!("{}:{}", self.prefix().display(), std::env::var("PATH").unwrap())
    }

    /// The installer's command line for this cluster.
    pub fn command(&self, arguments: &[&str]) -> String {
        let installer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../installer.sh");
        let root = self.root().display();
        let Ports { api, node, amqp, management } = self.ports;
        format!(
            "{} --data-dir {root}/data --manifests-dir {root}/etc/manifests --prefix {root}/prefix --node-name {} \
             --api-port {api} --node-port {node} --amqp-port {amqp} --management-port {management} {}",
            installer.canonicalize().unwrap().display(),
            self.node(),
            arguments.join(" ")
        )
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        sh(&self.command(arguments), &self.path())
    }

    /// Installs this installation's build; answers what was said.
    #[track_caller]
    pub fn install(&self, arguments: &[&str]) -> String {
        let arguments = [&["--binary", self.binary.to_str().unwrap()], arguments].concat();
        self.run(&arguments).ok().to_owned()
    }

    #[track_caller]
    pub fn install_binary(&self, binary: &Path, path: &str) -> String {
        sh(&self.command(&["--binary", binary.to_str().unwrap()]), path).ok().to_owned()
    }

    /// Another build of the same program, which becomes this installation's.
    pub fn another_build(&mut self) -> PathBuf {
        let new = self.root().join("build/warren-2");
        std::fs::copy(&self.binary, &new).unwrap();
        self.binary.clone_from(&new);
        self.change_binary();
        new
    }

    /// The image of the build that is installed.
    pub fn image(&self) -> String {
        let sum = sh(&format!("sha256sum {}/warren", self.prefix().display()), &self.path());
        format!("warren/warren:{}", &sum.ok()[..12])
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.args(arguments).arg("--request-timeout=10s");
        command.env("KUBECONFIG", self.data().join("kubeconfig/admin.conf"));
        command.env("KUBECACHEDIR", self.root().join("cache"));
        kubectl::run(command, None)
    }

    fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let output = self.kubectl(&["get", kind, name, "-n", namespace, "-o", "json"]);
        output.succeeded().then(|| output.json())
    }

    pub fn node_uid(&self) -> String {
        let node = self.object("node", "", &self.node()).expect("the node is there");
        node["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub fn own_pod_runs(&self) -> bool {
        let pod = self.object("pod", "default", &format!("own-{}", self.node()));
        pod.is_some_and(|pod| is_ready(&pod) && self.containers().contains(&container(&pod)))
    }

    /// The three pods of the control plane, where each is ready and its container is one that runs now.
    pub fn control_plane(&self) -> Option<BTreeMap<&'static str, Value>> {
        let running = self.containers();
        let pod = |name| {
            let pod = self.object("pod", "kube-system", &format!("{name}-{}", self.node()))?;
            (is_ready(&pod) && running.contains(&container(&pod))).then_some((name, pod))
        };
        ["apiserver", "broker", "controllers"].into_iter().map(pod).collect()
    }

    /// What the installer's last word means, without any waiting.
    #[track_caller]
    pub fn is_ready_now(&self) {
        let node = self.object("node", "", &self.node()).expect("the API answers");
        assert!(is_ready(&node), "{node:#}");
        let lease = self.object("lease", "kube-node-lease", &self.node()).expect("a lease");
        let renewed = lease["spec"]["renewTime"].as_str().unwrap();
        let renewed = sh(&format!("date -d {renewed} +%s.%N"), &self.path());
        let renewed: f64 = renewed.ok().trim().parse().unwrap();
        assert!(renewed > started(&self.pid_of("agent")), "an old heartbeat: {lease:#}");
        assert!(self.control_plane().is_some(), "{}", self.kubectl(&["get", "pods", "-A"]).told());
    }

    #[track_caller]
    pub fn wait_available(&self, replicas: u64) {
        until(&format!("{replicas} pods of hello"), SOON, || {
            self.object("deployment", "default", "hello").is_some_and(|deployment| {
                let status = &deployment["status"];
                status["availableReplicas"].as_u64() == Some(replicas)
                    && status["replicas"].as_u64() == Some(replicas)
                    && status["observedGeneration"] == deployment["metadata"]["generation"]
            }) && self.hello_pods() == replicas as usize
        });
    }

    fn hello_pods(&self) -> usize {
        let pods = self.kubectl(&["get", "pods", "-l", "app=hello", "-o", "json"]);
        let running = self.containers();
        let pods = if pods.succeeded() { pods.json() } else { Value::Null };
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let good = |pod: &&Value| is_ready(pod) && running.contains(&container(pod));
        if pods.iter().all(|pod| good(&pod)) { pods.len() } else { usize::MAX }
    }

    #[track_caller]
    pub fn wait_scaled(&self, replicas: u64) {
        let to = format!("--replicas={replicas}");
        until("the API takes it", SOON, || {
            self.kubectl(&["scale", "deployment", "hello", &to]).succeeded()
        });
        self.wait_available(replicas);
    }

    /// Running containers of this cluster, but for those that hold namespaces.
    pub fn containers(&self) -> BTreeSet<String> {
        self.listed(&["--filter", "label=io.warren.container.name"])
    }

    /// Of them, those of other pods than the control plane's.
    pub fn pod_containers(&self) -> BTreeSet<String> {
        self.listed(&[
            "--filter",
            "label=io.warren.container.name",
            "--filter",
            "label=io.warren.pod.namespace=default",
        ])
    }

    fn listed(&self, more: &[&str]) -> BTreeSet<String> {
        let Ok(cluster) = std::fs::read_to_string(self.data().join("cluster-id")) else {
            return BTreeSet::new();
        };
        let label = format!("label=io.warren.cluster={}", cluster.trim());
        let list = docker(&[&["ps", "-q", "--no-trunc", "--filter", &label], more].concat());
        list.unwrap().split_whitespace().map(str::to_owned).collect()
    }

    #[track_caller]
    pub fn pid_of(&self, part: &str) -> String {
        until_some(&format!("{part} runs"), SOON, || self.find_pid(part))
    }

    /// The process of a part that runs now.
    pub fn find_pid(&self, part: &str) -> Option<String> {
        match part {
            "agent" => {
                let data = format!("--data-dir={}", self.data().display());
                processes().into_iter().find_map(|(pid, line)| {
                    (line.get(1)? == "agent" && line.contains(&data)).then_some(pid)
                })
            }
            "supervisor" => {
                let file = std::fs::read_to_string(self.data().join("run/agent.pid")).ok()?;
                let pid = file.lines().next()?.to_owned();
                processes().into_iter().any(|(there, _)| there == pid).then_some(pid)
            }
            name => {
                let filter = format!("label=io.warren.container.name={}", container_name(name));
                let id = self.listed(&["--filter", &filter]).pop_first()?;
                let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &id]).ok()?;
                Some(pid.trim().to_owned()).filter(|pid| pid != "0")
            }
        }
    }

    /// No process, container, network or rule of this cluster.
    #[track_caller]
    pub fn nothing_runs(&self) {
        let root = self.root().display().to_string();
        let left: Vec<_> =
            processes().into_iter().filter(|(_, line)| line.join(" ").contains(&root)).collect();
        assert_eq!(left, [], "processes");
        assert_eq!(self.listed(&["-a"]), BTreeSet::new(), "containers");
        let id = std::fs::read_to_string(self.data().join("cluster-id")).unwrap_or_default();
        if !id.trim().is_empty() {
            let name = format!("warren-{}", id.trim());
            assert!(docker(&["network", "inspect", &name]).is_err(), "its network is there");
            let table = sh(&format!("nft list table ip {name}"), &self.path());
            assert!(!table.succeeded(), "its rules are there");
        }
        let manifests = self.root().join("etc/manifests");
        let left = std::fs::read_dir(manifests).unwrap().map(|e| e.unwrap().file_name());
        assert_eq!(left.filter(|name| name != "own.yaml").count(), 0, "manifests");
    }

    /// The status of the management API's overview for an account.
    pub fn management(&self, account: &str, password: &str) -> u16 {
        let url = format!("http://127.0.0.1:{}/api/overview", self.ports.management);
        self.curl(&format!("-u {account}:{} {url}", password.trim()))
    }

    /// The status that the API answers to nobody in particular.
    pub fn anonymous(&self, method: Method, path: &str) -> u16 {
        self.curl(&format!("-k -X {method} https://127.0.0.1:{}{path}", self.ports.api))
    }

    fn curl(&self, arguments: &str) -> u16 {
        let command = format!("curl -s -o /dev/null -w '%{{http_code}}' {arguments}");
        sh(&command, &self.path()).ok().parse().unwrap()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["install.log", "agent.log"] {
                let log = std::fs::read_to_string(self.data().join("log").join(name));
                let log = log.unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let last = lines.len().saturating_sub(80);
                eprintln!("--- {name} (last lines)\n{}", lines[last..].join("\n"));
            }
        }
        self.run(&["--purge"]);
    }
}

/// A container and images that are not this cluster's.
pub struct Foreign(String);

impl Foreign {
    pub fn start() -> Self {
        let name = format!("foreign-{:08x}", rand::random::<u32>());
        let image = format!("warren/busybox:{name}");
        let this = Self(name);
        docker(&["tag", "warren/busybox:1", &image]).expect("images/build.sh busybox");
        let run = ["run", "-d", "--network=none", "--name", &this.0];
        docker(&[&run[..], &["warren/busybox:1", "sleep", "3600"]].concat()).unwrap();
        this
    }

    pub fn is_untouched(&self) {
        let running = docker(&["inspect", "-f", "{{.State.Running}} {{.RestartCount}}", &self.0]);
        assert_eq!(running.as_deref().map(str::trim), Ok("true 0"));
        docker(&["image", "inspect", &format!("warren/busybox:{}", self.0)]).unwrap();
        docker(&["image", "inspect", "warren/busybox:1"]).unwrap();
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = docker(&["rm", "-f", &self.0]);
        let _ = docker(&["rmi", &format!("warren/busybox:{}", self.0)]);
    }
}

fn container_name(pod: &str) -> &str {
    if pod == "broker" { "rabbitmq" } else { pod }
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The id of a pod's first container.
fn container(pod: &Value) -> String {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
    id.trim_start_matches("docker://").to_owned()
}

/// Pids and command lines of what runs; what has ended and waits for its parent has no command line.
fn processes() -> Vec<(String, Vec<String>)> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|e| e.file_name().into_string().ok());
    pids.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            let words: Vec<_> = line.split('\0').map(str::to_owned).collect();
            (words.len() > 1).then_some((pid, words))
        })
        .collect()
}

/// When a process started, in seconds since 1970: proc_pid_stat(5), field 22.
fn started(pid: &str) -> f64 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let stat = read(&format!("/proc/{pid}/stat"));
    let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
    let uptime = read("/proc/uptime");
    let age = uptime.split(' ').next().unwrap().parse::<f64>().unwrap()
        - ticks.parse::<f64>().unwrap() / 100.0;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_secs_f64() - age
}

/// What a person's shell does with it.
pub fn sh(script: &str, path: &str) -> Output {
    let mut command = Command::new("bash");
    command.args(["-e", "-c", script]).env("PATH", path).env_remove("KUBECONFIG");
    kubectl::run(command, None)
}

pub fn docker(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("docker");
    command.args(arguments);
    let output = kubectl::run(command, None);
    if output.succeeded() { Ok(output.stdout) } else { Err(output.stderr) }
}

/// GET / of an address, with the answer's head.
pub fn http(address: &str) -> std::io::Result<String> {
    let address = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: hello\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A path on which all programs are but these.
pub fn path_without(folder: &Path, names: &[&str]) -> String {
    std::fs::create_dir_all(folder).unwrap();
    for dir in std::env::split_paths(&std::env::var_os("PATH").unwrap()) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name();
            if !names.iter().any(|n| name == *n) {
                // The first of a name counts.
                let _ = std::os::unix::fs::symlink(entry.path(), folder.join(name));
            }
        }
    }
    folder.display().to_string()
}
