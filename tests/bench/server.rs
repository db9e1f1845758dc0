//! The server that is measured: the release build of the real binary, as a child.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use warren_tests::cluster::free_port;

use crate::load::Client;
use crate::process;

const STARTS_WITHIN: Duration = Duration::from_secs(60);
const ENDS_WITHIN: Duration = Duration::from_secs(20);

pub struct Server {
    arguments: Vec<String>,
    dir: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Server {
    /// `warren <arguments> --data-dir … --bind …`, and the API ready.
    pub async fn start(arguments: &[&str]) -> Result<Self> {
        // Not /tmp, which may be memory: what is answered must be on a disk.
        let dir = tempfile::Builder::new().prefix("warren-bench-").tempdir_in(target_dir()?)?;
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { arguments, dir, port: free_port(), process: None };
        server.restart().await?;
        Ok(server)
    }

    /// Starts it on its data, and answers how long it took from the start of the process until the API was ready.
    pub async fn restart(&mut self) -> Result<Duration> {
        self.stop().await?;
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(warren()?);
        command
            .args(&self.arguments)
            .arg("--data-dir")
            .arg(self.data())
            .args(["--bind", &format!("127.0.0.1:{}", self.port)])
            .env_remove("KUBECONFIG")
            .env("WARREN_LOG", std::env::var("WARREN_LOG").unwrap_or_else(|_| "warn".into()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let started = Instant::now();
        self.process = Some(command.spawn().context("start warren")?);
        while !self.is_ready().await {
            if let Some(status) = self.process.as_mut().and_then(|p| p.try_wait().ok().flatten()) {
                bail!("warren {:?} ended with {status}: {}", self.arguments, self.log_tail());
            }
            if started.elapsed() > STARTS_WITHIN {
                bail!("warren {:?} is not ready: {}", self.arguments, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(started.elapsed())
    }

    /// Starts it again on its data, in another role.
    pub async fn run_as(&mut self, arguments: &[&str]) -> Result<Duration> {
        self.stop().await?;
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self.restart().await
    }

    async fn is_ready(&self) -> bool {
        let Ok(client) = Client::tls(&self.data(), self.port, 1).await else { return false };
        client.text(client.get("/readyz")).await.is_ok_and(|(status, _)| status.is_success())
    }

    pub async fn client(&self, connections: usize) -> Result<Client> {
        let client = Client::tls(&self.data(), self.port, connections).await?;
        // On each of them: the server ends a connection on which nothing is asked for half a minute, and some rows wait for longer.
        for _ in 0..connections {
            client.text(client.get("/readyz")).await?;
        }
        Ok(client)
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Ends it as a supervisor does.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        Command::new("kill").arg(process.id().to_string()).status()?;
        let asked = Instant::now();
        while process.try_wait()?.is_none() {
            if asked.elapsed() > ENDS_WITHIN {
                process.kill()?;
                process.wait()?;
                bail!("warren did not end in {ENDS_WITHIN:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("no process")?.id())
    }

    /// (RSS, PSS) in MB.
    pub fn memory(&self) -> Result<(f64, f64)> {
        process::memory(self.pid()?)
    }

    /// Seconds of CPU that the process has used.
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.pid()?)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Where release builds are.
pub fn target_dir() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("the binary has a folder")?.to_owned())
}

/// $WARREN, else the release build beside this one; [`build`] makes it.
pub fn warren() -> Result<PathBuf> {
    match std::env::var_os("WARREN").filter(|path| !path.is_empty()) {
        Some(path) => Ok(path.into()),
        None => Ok(target_dir()?.join("warren")),
    }
}

/// Builds what is measured, so that the figures are of the code that is here.
pub fn build(package: &[&str]) -> Result<()> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--manifest-path"])
        .arg(manifest)
        .args(package)
        .status()?;
    if !status.success() {
        bail!("cargo build --release {}: {status}", package.join(" "));
    }
    Ok(())
}

/// Whether `warren <role>` knows an option.
pub fn knows(role: &str, option: &str) -> Result<bool> {
    let output = Command::new(warren()?).args([role, "--help"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().any(|line| line.trim_start().starts_with(option)))
}
