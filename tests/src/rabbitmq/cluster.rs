//! Three RabbitMQ nodes that are one cluster, on one host.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::{RabbitMq, epmd, node_name};
use crate::ports;

/// A node that says nothing for so long (a quarter more or less) is lost to the others; RabbitMQ's own default is a minute.
/// Much less, and a busy machine parts nodes that run.
const TICK: &str = "-kernel net_ticktime 15";
/// As docs/events.md advises: a node that was suspended and wakes up is connected again before it has noticed that it was
/// alone, so `pause_minority` would leave it apart.
const PARTITIONS: &str = "cluster_partition_handling = autoheal\n";
const COOKIE: &[u8] = b"warren-tests";
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(30);

/// Dropped, all are killed.
pub struct RabbitMqCluster {
    pub nodes: Vec<RabbitMq>,
}

impl RabbitMqCluster {
    /// As [`RabbitMq::start_with`].
    pub async fn start_with(
        definitions: &Value,
        passwords: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let passwords: BTreeMap<String, String> = passwords.into_iter().collect();
        let [epmd_port, ports @ ..]: [u16; 4] = ports::free();
        let mut config = PARTITIONS.to_owned();
        writeln!(config, "cluster_formation.peer_discovery_backend = classic_config")?;
        for (n, port) in ports.iter().enumerate() {
            let name = node_name(*port);
            writeln!(config, "cluster_formation.classic_config.nodes.{} = {name}", n + 1)?;
        }
        let mut nodes = Vec::new();
        for port in ports {
            let mut node =
                RabbitMq::prepare(definitions, passwords.clone(), port, epmd_port, &config)?;
            node.erlang = TICK;
            std::io::Write::write_all(
                &mut std::fs::File::options()
                    .write(true)
                    .create_new(true)
                    .mode(0o400)
                    .open(node.folder().join(".erlang.cookie"))?,
                COOKIE,
            )?;
            nodes.push(node);
        }
        if let Some(first) = nodes.first_mut() {
            first.epmd = Some(epmd(epmd_port)?);
        }
        // The first is the cluster, which the others then join.
        if let [first, second, third] = &mut nodes[..] {
            first.restart().await?;
            tokio::try_join!(second.restart(), third.restart())?;
        }
        Ok(Self { nodes })
    }

    /// `amqp://127.0.0.1:port` of each, with commas between.
    pub fn addresses(&self) -> String {
        let address = |node: &RabbitMq| format!("amqp://127.0.0.1:{}", node.amqp_port());
        self.nodes.iter().map(address).collect::<Vec<_>>().join(",")
    }

    /// A node is lost for ever, with its data: the others forget it, and its part of the quorum queues.
    pub async fn lose(&mut self, n: usize) -> Result<()> {
        let name = self.nodes[n].node_name();
        self.nodes[n].kill9_and_wipe()?;
        let other = &self.nodes[(n + 1) % self.nodes.len()];
        let start = Instant::now();
        // Refused while they believe that it runs.
        while let Err(error) = other.ctl(&["forget_cluster_node", &name]).await {
            anyhow::ensure!(start.elapsed() < FORGOTTEN_WITHIN, error);
            tokio::time::sleep(super::LOOK).await;
        }
        Ok(())
    }

    /// Another of the same name joins in its place, and takes its part of the quorum queues.
    pub async fn join(&mut self, n: usize) -> Result<()> {
        self.nodes[n].restart().await?;
        let name = self.nodes[n].node_name();
        let other = &self.nodes[(n + 1) % self.nodes.len()];
        other.queues(&["grow", &name, "all"]).await.map(drop)
    }
}
