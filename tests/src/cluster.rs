//! A cluster under test: processes of the real binary, a folder of their own, ports that nobody else has.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::kubectl::{self, Output};
use crate::ports;
use crate::rabbitmq::{RabbitMq, RabbitMqCluster};
use crate::running::Running;
use crate::wait::until_some;

pub use options::{Options, Role, Route, Runtime};

mod options;

/// From the start of the first process until the last node is Ready, in a debug build on a busy machine.
pub const READY: Duration = Duration::from_secs(90);
/// For a change to have its effects in a cluster that is up.
pub const SOON: Duration = Duration::from_secs(60);

pub struct Cluster {
    options: Options,
    routes: BTreeMap<Role, Route>,
    dir: TempDir,
    port: u16,
    processes: BTreeMap<Role, Child>,
}

impl Cluster {
    /// Starts a cluster and waits until all its nodes are Ready.
    ///
    /// # Panics
    /// Where it does not come up, with the processes' logs.
    pub fn up(options: Options) -> Self {
        let mut cluster = Self::prepare(options);
        cluster.start_all();
        cluster.wait_ready();
        cluster
    }

    /// One simulated node, everything in one process.
    pub fn simulated() -> Self {
        Self::up(Options::default())
    }

    /// The folder and the ports, and no process yet.
    pub fn prepare(options: Options) -> Self {
        let dir = TempDir::with_prefix("warren-test-").expect("a folder for the test");
        std::fs::create_dir_all(dir.path().join("logs")).expect("a folder for logs");
        Self {
            options,
            routes: BTreeMap::new(),
            dir,
            port: free_port(),
            processes: BTreeMap::new(),
        }
    }

    /// Each part in a process of its own, on a RabbitMQ with the accounts that `warren init` makes; waits until all
    /// nodes are Ready. Drop the cluster before its broker.
    ///
    /// # Panics
    /// Where it does not come up, with the processes' logs.
    pub async fn on_rabbitmq(options: Options) -> (Self, RabbitMq) {
        Self::with_rabbitmq(Options { split: true, ..options }).await
    }

    /// The same, in as many processes as the options say.
    ///
    /// # Panics
    /// Where it does not come up, with the processes' logs.
    pub async fn with_rabbitmq(options: Options) -> (Self, RabbitMq) {
        let mut cluster = Self::prepare(options);
        let rabbit = cluster.start_rabbitmq().await;
        cluster.start_all();
        cluster.wait_ready();
        cluster.wait_consumers(&rabbit).await;
        (cluster, rabbit)
    }

    /// A RabbitMQ for a cluster that is prepared, with the accounts that `warren init` makes.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start_rabbitmq(&mut self) -> RabbitMq {
        let (definitions, passwords) = self.accounts();
        let rabbit = RabbitMq::start_with(&definitions, passwords).await.expect("RabbitMQ starts");
        self.options.broker = Some(format!("amqp://127.0.0.1:{}", rabbit.amqp_port()));
        rabbit
    }

    /// The same on three nodes of one cluster.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start_rabbitmq_cluster(&mut self) -> RabbitMqCluster {
        let (definitions, passwords) = self.accounts();
        let started = RabbitMqCluster::start_with(&definitions, passwords).await;
        let rabbits = started.expect("the RabbitMQ cluster starts");
        self.options.broker = Some(rabbits.addresses());
        rabbits
    }

    /// The definitions that `warren init` makes, and the passwords.
    fn accounts(&self) -> (Value, Vec<(String, String)>) {
        self.init();
        let broker = self.data_dir().join("broker");
        let read = |path: &Path| std::fs::read_to_string(path).expect("what init made");
        let definitions = read(&broker.join("rabbitmq/definitions.json"));
        let definitions: Value = serde_json::from_str(&definitions).expect("definitions are JSON");
        let users = definitions["users"].as_array().expect("users");
        let passwords = users.iter().map(|user| {
            let name = user["name"].as_str().expect("a name").to_owned();
            let password = read(&broker.join(format!("{name}.password"))).trim().to_owned();
            (name, password)
        });
        let passwords = passwords.collect();
        (definitions, passwords)
    }

    /// From the role's next start on.
    pub fn route(&mut self, role: Role, route: Route) {
        self.routes.insert(role, route);
    }

    /// Waits until all agents, the controllers and the server read from the broker.
    ///
    /// # Panics
    /// Where they do not, with what the broker says of its queues.
    pub async fn wait_consumers(&self, rabbit: &RabbitMq) {
        let start = std::time::Instant::now();
        loop {
            let queues = rabbit.http(hyper::Method::GET, "/api/queues", None).await;
            let queues = queues.map(|(_, queues)| queues).unwrap_or_default();
            let read = |prefix: &str| {
                let all = queues.as_array().map_or(&[][..], Vec::as_slice);
                let named = |q: &&Value| {
                    let name = q["name"].as_str().unwrap_or_default();
                    name.starts_with(prefix) && !name.contains(".leader")
                };
                all.iter().filter(named).filter(|q| q["consumers"].as_u64() == Some(1)).count()
            };
            if read("node.") == self.options.nodes
                && read("controllers.") >= 1
                && read("warren.commands") == 1
            {
                return;
            }
            assert!(start.elapsed() < SOON, "not all read from the broker: {queues:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn start_all(&mut self) {
        if self.options.split {
            self.init();
        }
        for role in self.roles() {
            self.start(&role);
        }
    }

    /// As the installer does, so that every part finds its identity when it starts; idempotent.
    fn init(&self) {
        let mut command = Command::new(binary());
        command.args(["init", "--server", &self.server(), "--data-dir"]).arg(self.data_dir());
        for node in self.node_names() {
            command.args(["--node", &node]);
        }
        kubectl::run(command, None).ok();
    }

    pub fn roles(&self) -> Vec<Role> {
        if !self.options.split {
            return vec![Role::Up];
        }
        let agents = self.node_names().into_iter().map(Role::Agent);
        [Role::Apiserver, Role::Controllers].into_iter().chain(agents).collect()
    }

    pub fn node_names(&self) -> Vec<String> {
        (1..=self.options.nodes).map(|n| format!("node-{n}")).collect()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn manifests_dir(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("kubeconfig/admin.conf")
    }

    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts a role's process; its output goes to a log of its own.
    ///
    /// # Panics
    /// Where the binary cannot be started.
    pub fn start(&mut self, role: &Role) {
        let options = &self.options;
        let arguments = match role {
            Role::Up | Role::Apiserver => options.arguments.clone(),
            Role::Controllers | Role::Standby => options.controllers.clone(),
            Role::Agent(_) => options.agents.clone(),
        };
        self.start_with(role, &arguments);
    }

    /// The same with other arguments than the options say.
    ///
    /// # Panics
    /// Where the binary cannot be started.
    pub fn start_with<T: AsRef<std::ffi::OsStr>>(&mut self, role: &Role, arguments: &[T]) {
        let mut command = Command::new(binary());
        let route = self.routes.get(role).cloned().unwrap_or_default();
        let (mut data, mut broker) = (self.data_dir(), self.options.broker.clone());
        if let Some(port) = route.broker {
            broker = Some(format!("amqp://127.0.0.1:{port}"));
        }
        let address = format!("127.0.0.1:{}", self.port);
        let runtime = match route.runtime.unwrap_or(self.options.runtime) {
            Runtime::Simulated => "simulated",
            Runtime::Docker => "docker",
        };
        match role {
            Role::Up => {
                command.args(["up", "--bind", &address, "--runtime", runtime]);
                command.arg("--nodes").arg(self.options.nodes.to_string());
                command.arg("--node-name-prefix").arg("node-");
                command.arg("--manifests").arg(self.manifests_dir());
            }
            Role::Apiserver => {
                command.args(["apiserver", "--bind", &address]);
            }
            Role::Controllers | Role::Standby => {
                command.arg("controllers").args(self.way_to_the_api(&route));
            }
            Role::Agent(node) => {
                command.args(["agent", "--node-name", node, "--runtime", runtime]);
                command.args(["--bind", "127.0.0.1:0"]).args(self.way_to_the_api(&route));
                command.arg("--manifests").arg(self.manifests_dir().join(node));
            }
        }
        command.args(arguments);
        let account = match role {
            Role::Controllers | Role::Standby => Some("controllers".to_owned()),
            Role::Agent(node) => Some(format!("node-{node}")),
            Role::Up | Role::Apiserver => None,
        };
        if let (true, Some(account)) = (self.is_amqp_only(&route), account) {
            let password = data.join("broker").join(format!("{account}.password"));
            let password = std::fs::read_to_string(password).expect("what init made");
            let named = format!("amqp://{account}:{}@", password.trim());
            broker = broker.map(|url| url.replace("amqp://", &named));
            data = self.own_folder(role);
        }
        command.arg("--data-dir").arg(data);
        if let Some(broker) = broker {
            command.env("WARREN_BROKER", broker);
        }
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.log_path(role))
            .expect("the log can be opened");
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("the log can be shared")).stderr(log);
        command.env_remove("KUBECONFIG");
        if let Some(host) = &self.options.docker_host {
            command.env("DOCKER_HOST", host);
        }
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{}: cannot be started: {error}; build it with `cargo build`",
                binary().display()
            )
        });
        self.processes.insert(role.clone(), child);
    }

    fn is_amqp_only(&self, route: &Route) -> bool {
        self.options.amqp_only || route.amqp_only
    }

    /// The data folder of a role that has nothing but a broker.
    pub fn own_folder(&self, role: &Role) -> PathBuf {
        self.dir.path().join(role.name())
    }

    fn way_to_the_api(&self, route: &Route) -> Vec<String> {
        match self.is_amqp_only(route) {
            true => vec!["--amqp-only".to_owned()],
            false => {
                let server = route.server.map(|port| format!("https://127.0.0.1:{port}"));
                vec!["--server".to_owned(), server.unwrap_or_else(|| self.server())]
            }
        }
    }

    /// Waits until the API answers and all nodes are Ready.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let kubeconfig = self.kubeconfig();
        let nodes = self.options.nodes;
        let mut said = String::new();
        let start = std::time::Instant::now();
        loop {
            for (role, process) in &mut self.processes {
                if let Ok(Some(status)) = process.try_wait() {
                    panic!("{} ended: {status}", role.name());
                }
            }
            if kubeconfig.exists() {
                let output = self.kubectl(["get", "nodes", "-o", "json", "--request-timeout=5s"]);
                said.clone_from(&output.stderr);
                if output.succeeded() && ready_nodes(&output.json()) >= nodes {
                    return;
                }
            }
            assert!(start.elapsed() < READY, "not ready after {READY:?}: {said}");
            crate::wait::nap();
        }
    }

    /// Runs `kubectl`.
    pub fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Output {
        let mut command = kubectl::command(&self.kubeconfig());
        command.args(arguments);
        kubectl::run(command, None)
    }

    /// Runs `kubectl` with something on its standard input, as in `apply -f -`.
    pub fn kubectl_with<const N: usize>(&self, arguments: [&str; N], input: &str) -> Output {
        let mut command = kubectl::command(&self.kubeconfig());
        command.args(arguments);
        kubectl::run(command, Some(input))
    }

    /// A `kubectl` that goes on, as `get -w`; killed when dropped.
    pub fn kubectl_going_on<const N: usize>(&self, arguments: [&str; N]) -> Running {
        let mut command = kubectl::command(&self.kubeconfig());
        command.args(arguments);
        command.stdin(Stdio::null());
        self.going_on(command)
    }

    /// The same of any program; its output goes to a file of this cluster.
    pub fn going_on(&self, mut command: Command) -> Running {
        let path = self.dir.path().join(format!("logs/kubectl-{}.out", free_port()));
        Running::start(&mut command, path)
    }

    /// Runs the `warren` binary's verbs.
    pub fn warren<const N: usize>(&self, arguments: [&str; N]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--kubeconfig").arg(self.kubeconfig());
        kubectl::run(command, None)
    }

    /// An object as JSON, `None` where it is not there.
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let output = self.kubectl(["get", kind, name, "-n", namespace, "-o", "json"]);
        output.succeeded().then(|| output.json())
    }

    /// What a node says of what runs on it, at its own port, as the API server asks.
    pub fn summary(&self, node: &str) -> Result<Output, String> {
        let object = self.object("node", "", node).ok_or("no such node")?;
        let port = &object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
        let pki = self.data_dir().join("pki");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "10"]);
        for (option, file) in [
            ("--cacert", "ca.crt"),
            ("--cert", "apiserver-node.crt"),
            ("--key", "apiserver-node.key"),
        ] {
            curl.arg(option).arg(pki.join(file));
        }
        curl.arg(format!("https://127.0.0.1:{port}/stats/summary?node={node}"));
        let output = kubectl::run(curl, None);
        if output.succeeded() { Ok(output) } else { Err(output.told()) }
    }

    /// The objects of a kind.
    #[track_caller]
    pub fn objects(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let list = self.kubectl(["get", kind, "-n", namespace, "-o", "json"]).json();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until an object is as wished, and answers it.
    #[track_caller]
    pub fn wait_object(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        mut wished: impl FnMut(&Value) -> bool,
    ) -> Value {
        until_some(&format!("{kind} {namespace}/{name} as wished"), SOON, || {
            self.object(kind, namespace, name).filter(|object| wished(object))
        })
    }

    /// A client for the API with the administrator's identity.
    pub async fn client(&self) -> kube::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::config::Kubeconfig::read_from(self.kubeconfig()).expect("a kubeconfig");
        let options = kube::config::KubeConfigOptions::default();
        let config =
            kube::Config::from_custom_kubeconfig(config, &options).await.expect("a kubeconfig");
        kube::Client::try_from(config).expect("a client")
    }

    /// Kills a role's process as `kill -9` does, and waits until it is gone.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill9(&mut self, role: &Role) {
        let mut process = self.processes.remove(role).expect("the role runs");
        process.kill().expect("the process can be killed");
        process.wait().expect("the process can be waited for");
    }

    /// Ends a role's process as a supervisor does, and answers its exit code.
    ///
    /// # Panics
    /// Where it does not run, or does not end in time.
    pub fn stop(&mut self, role: &Role) -> Option<i32> {
        let mut process = self.processes.remove(role).expect("the role runs");
        terminate(&process);
        let status = until_some("the process ends", SOON, || {
            process.try_wait().expect("it can be waited for")
        });
        status.code()
    }

    /// Roles whose processes have ended by themselves; they count as not started from now on.
    pub fn ended(&mut self) -> Vec<(Role, std::process::ExitStatus)> {
        let ended = self
            .processes
            .iter_mut()
            .filter_map(|(role, process)| Some((role.clone(), process.try_wait().ok().flatten()?)));
        let ended: Vec<_> = ended.collect();
        for (role, _) in &ended {
            self.processes.remove(role);
        }
        ended
    }

    /// Stops a role's process where it stands (`true`), or lets it go on.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn pause(&self, role: &Role, pause: bool) {
        let pid = self.pid(role).expect("the role runs").to_string();
        let signal = if pause { "-STOP" } else { "-CONT" };
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "{signal} {}", role.name());
    }

    /// The pid of a role's process.
    pub fn pid(&self, role: &Role) -> Option<u32> {
        self.processes.get(role).map(Child::id)
    }

    pub(crate) fn docker_host(&self) -> Option<&str> {
        self.options.docker_host.as_deref()
    }

    pub fn log(&self, role: &Role) -> String {
        std::fs::read_to_string(self.log_path(role)).unwrap_or_default()
    }

    fn log_path(&self, role: &Role) -> PathBuf {
        self.dir.path().join(format!("logs/{}.log", role.name()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.processes.values() {
            terminate(process);
        }
        for process in self.processes.values_mut() {
            let ended = |process: &mut Child| !matches!(process.try_wait(), Ok(None));
            let start = std::time::Instant::now();
            while !ended(process) && start.elapsed() < Duration::from_secs(10) {
                crate::wait::nap();
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        let docker = |route: &Route| route.runtime == Some(Runtime::Docker);
        if self.options.runtime == Runtime::Docker || self.routes.values().any(docker) {
            crate::docker::remove_all(self.docker_host(), &self.data_dir());
        }
        if std::thread::panicking() {
            for role in self.roles().into_iter().chain([Role::Standby]) {
                let log = self.log(&role);
                if log.is_empty() {
                    continue;
                }
                let lines: Vec<_> = log.lines().collect();
                let last = lines.len().saturating_sub(80);
                eprintln!("--- {} (last lines)\n{}", role.name(), lines[last..].join("\n"));
            }
        }
    }
}

/// The binary under test: $WARREN, else what `cargo build` made beside the tests.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("WARREN").filter(|path| !path.is_empty()) {
        return path.into();
    }
    // …/target/<profile>/deps/<test>
    let own = std::env::current_exe().expect("the test's own path");
    own.ancestors()
        .map(|dir| dir.join("warren"))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("no `warren` above {}; run `cargo build` first", own.display()))
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let [port] = ports::free();
    port
}

fn ready_nodes(list: &Value) -> usize {
    let ready = |node: &&Value| {
        node["status"]["conditions"].as_array().is_some_and(|conditions| {
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
    };
    list["items"].as_array().map_or(0, |nodes| nodes.iter().filter(ready).count())
}

pub(crate) fn terminate(process: &Child) {
    let _ = Command::new("kill").arg(process.id().to_string()).stderr(Stdio::null()).status();
}
