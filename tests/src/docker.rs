//! Docker as a test sees it: the containers of a cluster, and a daemon of a test's own.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{Cluster, terminate};
use crate::kubectl::{self, Output};

/// What every container of a cluster carries.
const CLUSTER: &str = "io.warren.cluster";
/// What the pods of the tests run, and what holds their namespaces; `images/build.sh` makes both.
pub const BUSYBOX: &str = "warren/busybox:1";
pub const PAUSE: &str = "warren/pause:1";

/// A daemon of its own starts, or starts again, within this on a busy machine.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const DIES_WITHIN: Duration = Duration::from_secs(20);

/// The `docker` command; without a host it talks to the daemon that the environment names.
pub fn docker(host: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new("docker");
    if let Some(host) = host {
        command.args(["--host", host]);
    }
    command.args(arguments);
    kubectl::run(command, None)
}

/// A container as the daemon describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    pub node: String,
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    /// `None`: it holds the pod's namespaces.
    pub name: Option<String>,
    pub attempt: u32,
    pub id: String,
    pub image: String,
    pub network: String,
    pub running: bool,
    pub started_at: String,
    /// On the host; 0 where it does not run.
    pub pid: u64,
}

impl Container {
    fn of(found: &Value) -> Self {
        let label = |name: &str| {
            let label = &found["Config"]["Labels"][format!("io.warren.{name}")];
            label.as_str().unwrap_or_default().to_owned()
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            node: label("node"),
            namespace: label("pod.namespace"),
            pod: label("pod.name"),
            uid: label("pod.uid"),
            name: Some(label("container.name")).filter(|name| !name.is_empty()),
            attempt: label("attempt").parse().unwrap_or_default(),
            id: text(&found["Id"]),
            image: text(&found["Config"]["Image"]),
            network: text(&found["HostConfig"]["NetworkMode"]),
            running: found["State"]["Running"] == true,
            started_at: text(&found["State"]["StartedAt"]),
            pid: found["State"]["Pid"].as_u64().unwrap_or_default(),
        }
    }
}

impl Cluster {
    /// The `docker` command on the daemon that runs this cluster's pods.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        docker(self.docker_host(), arguments)
    }

    /// All containers of this cluster, dead ones too, sorted.
    #[track_caller]
    pub fn containers(&self) -> Vec<Container> {
        let filter = filter(&self.data_dir());
        let ids = self.docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
        let ids: Vec<&str> = ids.ok().split_whitespace().collect();
        if ids.is_empty() {
            return vec![];
        }
        // One that goes meanwhile makes the command fail, but the others are described.
        let found = self.docker(&[&["inspect"][..], &ids].concat());
        let found: Value = serde_json::from_str(&found.stdout).unwrap_or_default();
        let mut all: Vec<_> = found.as_array().into_iter().flatten().map(Container::of).collect();
        all.sort();
        all
    }

    /// The containers of one pod, without those that hold namespaces.
    #[track_caller]
    pub fn containers_of(&self, uid: &str) -> Vec<Container> {
        let mut all = self.containers();
        all.retain(|c| c.uid == uid && c.name.is_some());
        all
    }

    /// The rules of this cluster's services, as nft prints them.
    #[track_caller]
    pub fn service_rules(&self) -> String {
        let table = std::fs::read_to_string(self.data_dir().join("nft-table")).unwrap_or_default();
        let mut command = Command::new("nft");
        command.args(["list", "table", "ip", table.trim()]);
        kubectl::run(command, None).ok().to_owned()
    }
}

fn filter(data: &Path) -> String {
    let cluster = std::fs::read_to_string(data.join("cluster-id")).unwrap_or_default();
    // Without an id the filter must match nothing, never everything.
    format!("label={CLUSTER}={}", Some(cluster.trim()).filter(|id| !id.is_empty()).unwrap_or("-"))
}

/// Containers, networks and rules of the cluster of this data folder, and no others.
pub fn remove_all(host: Option<&str>, data: &Path) {
    let filter = filter(data);
    let ids = |arguments: &[&str]| -> Vec<String> {
        let listed = docker(host, arguments);
        listed.stdout.split_whitespace().map(str::to_owned).collect()
    };
    let containers = ids(&["ps", "-aq", "--filter", &filter]);
    if !containers.is_empty() {
        let containers = containers.iter().map(String::as_str);
        docker(host, &["rm", "-f", "-v"].into_iter().chain(containers).collect::<Vec<_>>());
    }
    for id in ids(&["network", "ls", "-q", "--filter", &filter]) {
        docker(host, &["network", "rm", &id]);
    }
    if let Ok(table) = std::fs::read_to_string(data.join("nft-table")) {
        let _ = Command::new("nft").args(["delete", "table", "ip", table.trim()]).output();
    }
    unmount_below(data);
}

/// What was left mounted would stand in the way of a folder's removal.
fn unmount_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let folder = folder.to_string_lossy();
    for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if mount.starts_with(&*folder) {
            let _ = Command::new("umount").args(["-l", mount]).output();
        }
    }
}

/// The shims of containers that a killed containerd has lost: nobody else ends them.
fn kill_below(folder: &Path) {
    let folder = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let name = process.file_name();
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let is_number = name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        if is_number && String::from_utf8_lossy(&command).contains(&folder) {
            let _ = Command::new("kill").arg("-9").arg(name).output();
        }
    }
}

/// A daemon that a test may kill: folders, socket and addresses of its own, and no rules in the host's tables.
pub struct Dockerd {
    folder: TempDir,
    process: Child,
    bridge: Bridge,
}

/// A daemon without a default bridge of its own (`--bridge=none`) removes `docker0`, which is another's.
struct Bridge(String);

impl Bridge {
    fn make() -> Self {
        let this = Self(format!("wtd-{:08x}", rand::random::<u32>()));
        let address = format!("10.230.{}.1/24", rand::random::<u8>());
        for arguments in [
            &["link", "add", &this.0, "type", "bridge"][..],
            &["address", "add", &address, "dev", &this.0],
            &["link", "set", &this.0, "up"],
        ] {
            let made = Command::new("ip").args(arguments).status();
            assert!(made.is_ok_and(|status| status.success()), "ip {arguments:?} (root may do it)");
        }
        this
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.0]).output();
    }
}

impl Dockerd {
    /// With the images that the tests run, taken from the daemon that everybody uses.
    ///
    /// # Panics
    /// Where it does not start, with its log.
    pub fn start() -> Self {
        let folder = TempDir::with_prefix("warren-dockerd-").expect("a folder for the daemon");
        std::fs::write(folder.path().join("daemon.json"), "{}").expect("an empty configuration");
        let bridge = Bridge::make();
        let process = spawn(folder.path(), &bridge);
        let mut daemon = Self { folder, process, bridge };
        daemon.answers().unwrap_or_else(|why| panic!("{why}"));
        let mut save = Command::new("docker")
            .args(["save", PAUSE, BUSYBOX])
            .stdout(Stdio::piped())
            .spawn()
            .expect("docker can be started");
        let images = save.stdout.take().expect("its output is piped");
        let mut load = Command::new("docker");
        load.args(["--host", &daemon.host(), "load"]).stdin(images).stdout(Stdio::null());
        let loaded = load.status().expect("docker can be started").success();
        let saved = save.wait().expect("it was started").success();
        assert!(loaded && saved, "images are loaded");
        daemon
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }

    /// Returns when what dies with it is gone too: a daemon that starts before that takes its dying containerd for a
    /// running one.
    pub fn kill9(&mut self) {
        let pid = self.folder.path().join("exec/containerd/containerd.pid");
        let containerd = std::fs::read_to_string(&pid).unwrap_or_default();
        let _ = self.process.kill();
        let _ = self.process.wait();
        let process = format!("/proc/{}", containerd.trim());
        let start = Instant::now();
        while !containerd.is_empty()
            && Path::new(&process).exists()
            && start.elapsed() < DIES_WITHIN
        {
            crate::wait::nap();
        }
        // It is there still where nobody waits for orphans that have ended (a container without an init).
        let _ = std::fs::remove_file(pid);
    }

    /// As a supervisor does.
    ///
    /// # Panics
    /// Where it does not start, with its log.
    pub fn restart(&mut self) {
        self.process = spawn(self.folder.path(), &self.bridge);
        self.answers().unwrap_or_else(|why| panic!("{why}"));
    }

    fn answers(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while !docker(Some(&self.host()), &["info"]).succeeded() {
            let ended = self.process.try_wait().ok().flatten();
            if ended.is_some() || start.elapsed() > STARTS_WITHIN {
                let log = std::fs::read_to_string(log_of(self.folder.path())).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(20)..].join("\n");
                return Err(format!("dockerd does not answer, {ended:?}\n{last}"));
            }
            crate::wait::nap();
        }
        Ok(())
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // Only a daemon can take its containers down.
        if !matches!(self.process.try_wait(), Ok(None)) {
            self.process = spawn(self.folder.path(), &self.bridge);
            let _ = self.answers();
        }
        let host = self.host();
        let all = docker(Some(&host), &["ps", "-aq"]);
        for id in all.stdout.split_whitespace() {
            docker(Some(&host), &["rm", "-f", "-v", id]);
        }
        terminate(&self.process);
        let start = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && start.elapsed() < DIES_WITHIN {
            crate::wait::nap();
        }
        self.kill9();
        kill_below(self.folder.path());
        unmount_below(self.folder.path());
    }
}

fn log_of(folder: &Path) -> PathBuf {
    folder.join("dockerd.log")
}

fn spawn(folder: &Path, bridge: &Bridge) -> Child {
    let log = File::options().append(true).create(true).open(log_of(folder)).expect("a log");
    let path = |name: &str| folder.join(name).display().to_string();
    Command::new("dockerd")
        .args(["--config-file", &path("daemon.json"), "--data-root", &path("data")])
        .args(["--exec-root", &path("exec"), "--pidfile", &path("dockerd.pid")])
        .args(["--host", &format!("unix://{}", path("docker.sock"))])
        .args(["--bridge", &bridge.0, "--iptables=false", "--live-restore"])
        .arg("--default-address-pool=base=10.231.0.0/16,size=24")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log can be shared"))
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("dockerd can be started")
}
