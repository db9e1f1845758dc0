//! A RabbitMQ of one's own: real, on random loopback ports, with its own data, cookie and epmd, gone at the end.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ports;

pub use self::cluster::RabbitMqCluster;

mod cluster;

/// Names a program that runs another RabbitMQ's: `tests/rabbitmq4`, which has RabbitMQ 4. It must become what it runs.
const IN: &str = "RABBITMQ_IN";
/// Where Debian's package has the script that runs as whoever calls it; the one in the path changes the user.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
const QUEUES: &str = "/usr/lib/rabbitmq/bin/rabbitmq-queues";
/// Seconds, as a rule; a cold start on two cores with ten processes for each has taken 100 s, and a cluster's nodes start on the
/// same cores. Who waits so long has a broker that does not start.
const STARTS_WITHIN: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(100);

/// A running broker. Dropped, it is killed, and its folder removed.
pub struct RabbitMq {
    folder: TempDir,
    amqp: u16,
    management: u16,
    dist: u16,
    epmd_port: u16,
    /// Not where it uses another's.
    epmd: Option<Child>,
    /// More arguments for Erlang.
    erlang: &'static str,
    server: Option<Child>,
    passwords: BTreeMap<String, String>,
}

impl RabbitMq {
    /// With the accounts `admin` and `server`, which may do everything.
    pub async fn start() -> Result<Self> {
        Self::start_configured("").await
    }

    /// The same, with more lines of `rabbitmq.conf`.
    pub async fn start_configured(more: &str) -> Result<Self> {
        let all = |user: &str| json!({"user": user, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"});
        // "test12", as in RabbitMQ's documentation of its password hashes.
        let user = |name: &str| {
            json!({
                "name": name, "tags": ["administrator"],
                "password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
                "hashing_algorithm": "rabbit_password_hashing_sha256",
            })
        };
        let names = ["admin", "server"];
        let definitions = json!({
            "vhosts": [{"name": "/"}],
            "users": names.map(user),
            "permissions": names.map(all),
        });
        let passwords = names.map(|name| (name.into(), "test12".into()));
        Self::start_alone(&definitions, passwords.into(), more).await
    }

    /// With a definitions file, and the passwords that go with it; one of the accounts must be `admin`.
    pub async fn start_with(
        definitions: &Value,
        passwords: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        Self::start_alone(definitions, passwords.into_iter().collect(), "").await
    }

    async fn start_alone(
        definitions: &Value,
        passwords: BTreeMap<String, String>,
        more: &str,
    ) -> Result<Self> {
        let [amqp, epmd_port] = ports::free();
        let mut broker = Self::prepare(definitions, passwords, amqp, epmd_port, more)?;
        broker.epmd = Some(epmd(epmd_port)?);
        broker.restart().await?;
        Ok(broker)
    }

    /// Its folder, and no process yet. `more` is configuration.
    fn prepare(
        definitions: &Value,
        passwords: BTreeMap<String, String>,
        amqp: u16,
        epmd_port: u16,
        more: &str,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("warren-rabbitmq-").tempdir()?;
        let [management, dist] = ports::free();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("definitions.json"), definitions.to_string())?;
        std::fs::write(at("enabled_plugins"), "[rabbitmq_management].\n")?;
        let config = format!(
            "listeners.tcp.default = 127.0.0.1:{amqp}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {management}\n\
             load_definitions = {}\n\
             disk_free_limit.absolute = 50MB\n\
             collect_statistics_interval = 1000\n\
             log.file.level = info\n\
             {more}",
            at("definitions.json").display()
        );
        std::fs::write(at("rabbitmq.conf"), config)?;
        Ok(Self {
            folder,
            amqp,
            management,
            dist,
            epmd_port,
            epmd: None,
            erlang: "",
            server: None,
            passwords,
        })
    }

    /// `warren-test-<port>@localhost`
    pub fn node_name(&self) -> String {
        node_name(self.amqp)
    }

    /// `amqp://account:password@127.0.0.1:port/%2f`
    ///
    /// # Panics
    /// For an account whose password was not given.
    pub fn amqp_url(&self, account: &str) -> String {
        let password = &self.passwords[account];
        format!("amqp://{account}:{password}@127.0.0.1:{}/%2f", self.amqp)
    }

    /// `http://127.0.0.1:port`; the accounts are the same.
    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.management)
    }

    pub fn amqp_port(&self) -> u16 {
        self.amqp
    }

    pub fn password(&self, account: &str) -> Option<&str> {
        self.passwords.get(account).map(String::as_str)
    }

    /// The broker's folder: data, `log/`, configuration.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Kills it at once. What was confirmed is on disk, as far as RabbitMQ promises.
    pub fn kill9(&mut self) {
        if let Some(mut server) = self.server.take() {
            // Erlang's helpers are in the same group.
            signal_group(&server, "KILL");
            let _ = server.wait();
        }
    }

    /// Ends it as an operator does, and waits until it has.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(server) = &mut self.server {
            signal_group(server, "TERM");
            let start = Instant::now();
            while server.try_wait()?.is_none() {
                if start.elapsed() > STARTS_WITHIN {
                    bail!("rabbitmq-server does not end");
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        self.server = None;
        Ok(())
    }

    /// Stops the process where it stands (`true`), or lets it go on.
    pub fn pause(&self, pause: bool) {
        if let Some(server) = &self.server {
            signal_group(server, if pause { "STOP" } else { "CONT" });
        }
    }

    /// Starts it on its data, where it does not run, and waits until it serves.
    pub async fn restart(&mut self) -> Result<()> {
        if self.server.is_none() {
            self.server = Some(self.spawn()?);
        }
        let start = Instant::now();
        loop {
            let status = self.server.as_mut().and_then(|s| s.try_wait().ok().flatten());
            if let Some(status) = status {
                bail!("rabbitmq-server ended with {status}: {}", self.log_tail());
            }
            // The management page comes first on a busy machine, the listeners of AMQP last.
            if let Ok((StatusCode::OK, _)) = self.http(Method::GET, "/api/vhosts", None).await
                && self.listens().await
            {
                return Ok(());
            }
            if start.elapsed() > STARTS_WITHIN {
                bail!("rabbitmq-server is not ready in {STARTS_WITHIN:?}: {}", self.log_tail());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn listens(&self) -> bool {
        tokio::net::TcpStream::connect(("127.0.0.1", self.amqp)).await.is_ok()
    }

    /// Forgets all data; the next [`RabbitMq::restart`] begins anew, with the definitions.
    pub fn kill9_and_wipe(&mut self) -> Result<()> {
        self.kill9();
        std::fs::remove_dir_all(self.folder.path().join("mnesia"))?;
        Ok(())
    }

    /// A call of the management API as `admin`: `http(Method::DELETE, "/api/queues/%2f/x/contents", None)`.
    pub async fn http(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value)> {
        self.http_as("admin", method, path, body).await
    }

    /// The same as another account.
    pub async fn http_as(
        &self,
        account: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value)> {
        let password = self.password(account).context("unknown account")?;
        let basic = STANDARD.encode(format!("{account}:{password}"));
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.management_url()))
            .header("authorization", format!("Basic {basic}"))
            .header("content-type", "application/json")
            .body(Full::new(bytes::Bytes::from(body.map(|b| b.to_string()).unwrap_or_default())))?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer =
            tokio::time::timeout(Duration::from_secs(10), client.request(request)).await??;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    /// What the page's button "Publish message" does; `exchange` is `amq.default` for a queue's own form. Whether it
    /// was routed.
    pub async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        payload: &str,
        properties: Value,
    ) -> Result<bool> {
        let path = format!("/api/exchanges/%2f/{exchange}/publish");
        let body = json!({
            "properties": properties, "routing_key": routing_key,
            "payload": payload, "payload_encoding": "string",
        });
        let (status, answer) = self.http(Method::POST, &path, Some(body)).await?;
        if status != StatusCode::OK {
            bail!("publish: {status}: {answer}");
        }
        Ok(answer["routed"] == true)
    }

    /// Takes up to `count` messages out of a queue, as the page's button "Get messages" does.
    pub async fn take(&self, queue: &str, count: u32) -> Result<Vec<Value>> {
        let path = format!("/api/queues/%2f/{queue}/get");
        let body = json!({"count": count, "ackmode": "ack_requeue_false", "encoding": "auto"});
        let (status, answer) = self.http(Method::POST, &path, Some(body)).await?;
        match answer {
            Value::Array(messages) if status == StatusCode::OK => Ok(messages),
            other => bail!("get: {status}: {other}"),
        }
    }

    /// `rabbitmqctl` on this broker: `ctl(&["set_vm_memory_high_watermark", "0"])`.
    pub async fn ctl(&self, args: &[&str]) -> Result<String> {
        self.tool(CONTROL, args).await
    }

    /// `rabbitmq-queues` on this broker.
    pub async fn queues(&self, args: &[&str]) -> Result<String> {
        self.tool(QUEUES, args).await
    }

    async fn tool(&self, tool: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command(tool);
        command.args(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        if !output.status.success() {
            bail!("{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn spawn(&self) -> Result<Child> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("server.out"))?;
        self.command(SERVER)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {SERVER}"))
    }

    fn command(&self, program: &str) -> Command {
        let at = |name: &str| self.folder.path().join(name);
        let mut command = self::program(program);
        command
            .env_clear()
            .envs(
                ["RABBITMQ4_TREE", "TMPDIR"]
                    .into_iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/bin".into()),
            )
            .env("HOME", self.folder.path())
            .env("LANG", "C.UTF-8")
            // Makes the script become the broker, so that the child is the broker.
            .env("RUNNING_UNDER_SYSTEMD", "1")
            .env("RABBITMQ_NODENAME", self.node_name())
            .env("RABBITMQ_NODE_PORT", self.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist.to_string())
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq"))
            .env("RABBITMQ_CONF_ENV_FILE", at("no-such-file"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins"))
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                format!("+sbwt none +sbwtdcpu none +sbwtdio none {}", self.erlang),
            )
            .current_dir(self.folder.path());
        command
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("server.out"));
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.kill9();
        if let Some(epmd) = &mut self.epmd {
            let _ = epmd.kill();
            let _ = epmd.wait();
        }
    }
}

fn node_name(amqp: u16) -> String {
    format!("warren-test-{amqp}@localhost")
}

/// In the foreground and by itself, so that it can be ended by its process id.
fn epmd(port: u16) -> Result<Child> {
    program("epmd")
        .args(["-port", &port.to_string(), "-address", "127.0.0.1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start epmd")
}

/// One of RabbitMQ's programs.
fn program(name: &str) -> Command {
    match std::env::var_os(IN).filter(|path| !path.is_empty()) {
        Some(within) => {
            let mut command = Command::new(within);
            command.arg(name);
            command
        }
        None => Command::new(name),
    }
}

fn signal_group(child: &Child, signal: &str) {
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args([&format!("-{signal}"), "--", &group]).status();
}
