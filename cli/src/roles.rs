//! The roles of a cluster: all in one process, or each alone.

pub(crate) mod agent;
pub(crate) mod apiserver;
pub(crate) mod controllers;
pub(crate) mod up;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use warren_apiserver::{AddressRange, Server};
use warren_broker::QueueType;
use warren_process::{Backoff, LogFormat, Tasks};

use crate::files::{DataDir, Lock};

/// From the first signal until what still runs is left behind.
const GRACE: Duration = Duration::from_secs(20);

/// What every role is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CommonArgs {
    /// The data folder: keys, passwords, the database.
    #[arg(long, env = "WARREN_DATA_DIR", value_name = "DIR", default_value_os_t = DataDir::default_path())]
    pub(crate) data_dir: PathBuf,
    /// How log lines look; what is logged is chosen by WARREN_LOG (e.g. `info,warren_agent=debug`).
    #[arg(long, env = "WARREN_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogStyle,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogStyle {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct QueuesArgs {
    /// What the queues of nodes, commands, requests, answers, dead letters and leaders are: quorum for a RabbitMQ cluster.
    /// The same for the API server and for controllers. A queue that is there and is something else is replaced; what is in
    /// it is read first.
    #[arg(
        long,
        env = "WARREN_BROKER_QUEUES",
        value_name = "TYPE",
        value_enum,
        default_value = "classic"
    )]
    broker_queues: BrokerQueues,
}

impl QueuesArgs {
    pub(crate) fn queue_type(self) -> QueueType {
        match self.broker_queues {
            BrokerQueues::Classic => QueueType::Classic,
            BrokerQueues::Quorum => QueueType::Quorum,
        }
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum BrokerQueues {
    /// On one node of the broker.
    Classic,
    /// Replicated in a RabbitMQ cluster.
    Quorum,
}

/// Runs a role until a signal or until a part of it ends that must not end.
///
/// `start` answers when everything is started; the server that it gives back is closed last, and then what it holds
/// is let go.
pub(crate) fn run<T>(
    common: &CommonArgs,
    start: impl AsyncFnOnce(Tasks) -> Result<(Option<Server>, T)>,
) -> Result<()> {
    let format = match common.log_format {
        LogStyle::Text => LogFormat::Text,
        LogStyle::Json => LogFormat::Json,
    };
    warren_process::init_telemetry(format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("starting the runtime")?.block_on(async {
        let tasks = Tasks::new();
        warren_process::shutdown_on_signals(tasks.shutdown().clone()).context("signals")?;
        let (server, held) = tokio::select! {
            started = start(tasks.clone()) => match started {
                Ok((server, held)) => (server, Some(held)),
                Err(error) => {
                    tasks.shutdown().trigger();
                    return Err(error);
                }
            },
            // Somebody ends what still waits for something.
            () = tasks.shutdown().draining() => (None, None),
        };
        let ended = tasks.wait(GRACE).await;
        if let Some(server) = server {
            server.close().await;
        }
        drop(held);
        Ok(ended?)
    })
}

/// A client for a part that runs alone. Where the kubeconfig is not there yet, it is waited for: in a cluster that starts,
/// nobody is first. The API itself need not answer yet.
pub(crate) async fn client(path: &Path, server: Option<&str>) -> Result<kube::Client> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    while !path.exists() {
        let path = path.display();
        if backoff.attempts() == 0 {
            tracing::warn!(%path, "the kubeconfig is not there; waiting. `warren init` makes it, with --node NAME for a node");
        }
        backoff.wait().await;
    }
    let broken = || format!("kubeconfig {}", path.display());
    let kubeconfig = Kubeconfig::read_from(path).with_context(broken)?;
    let options = KubeConfigOptions::default();
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(broken)?;
    if let Some(server) = server {
        config.cluster_url = server.parse().with_context(|| format!("--server {server:?}"))?;
    }
    // Watches may be silent for as long as they like.
    config.read_timeout = None;
    kube::Client::try_from(config).with_context(broken)
}

/// One process per data folder and role; a second one is told who is in its way.
pub(crate) fn claim(data: &DataDir, role: &str) -> Result<Lock> {
    let path = data.run().join(format!("{role}.lock"));
    Lock::try_now(&path).with_context(|| {
        format!(
            "another process runs as {role} in {}; stop it, or name another --data-dir",
            data.path().display()
        )
    })
}

fn service_range(text: &str) -> Result<AddressRange, String> {
    AddressRange::parse(text)
        .ok_or_else(|| "must be a range as 10.96.0.0/16, between /12 and /28".to_owned())
}

/// What to do where a port cannot be had; `option` names another address.
pub(crate) fn cannot_listen(error: &std::io::Error, option: &str) -> String {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable};
    let why = match error.kind() {
        AddrInUse => "another process has the port; ",
        AddrNotAvailable => "this machine has no such address; ",
        _ => "",
    };
    format!("{why}name another with {option}")
}

/// The URL under which clients on this machine reach a server that listens there.
pub(crate) fn url_of(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    format!("https://{}", SocketAddr::new(ip, address.port()))
}

/// The addresses of an API that listens there, for its certificate.
pub(crate) fn names_of(address: SocketAddr, extra: &[String]) -> Vec<String> {
    let ip = address.ip();
    let own = (!ip.is_unspecified() && !ip.is_loopback()).then(|| ip.to_string());
    own.into_iter().chain(extra.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_urls() {
        for (address, url) in [
            ("127.0.0.1:6443", "https://127.0.0.1:6443"),
            ("0.0.0.0:6443", "https://127.0.0.1:6443"),
            ("[::1]:1", "https://[::1]:1"),
            ("192.0.2.1:6443", "https://192.0.2.1:6443"),
        ] {
            assert_eq!(url_of(address.parse().unwrap()), url);
        }
        let names = |address: &str| names_of(address.parse().unwrap(), &["x".to_owned()]);
        assert_eq!(names("127.0.0.1:1"), ["x"]);
        assert_eq!(names("192.0.2.1:1"), ["192.0.2.1", "x"]);
    }
}
