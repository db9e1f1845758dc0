//! Three RabbitMQ nodes that are one cluster, on one host.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Result;
use serde_json::Value;

use super::{RabbitMq, epmd, free_ports, node_name};

/// A node that says nothing for so long is lost to the others; RabbitMQ's own default is a minute.
const TICK: &str = "-kernel net_ticktime 5";
const COOKIE: &[u8] = b"warren-tests";

/// Dropped, all are killed.
pub struct RabbitMqCluster {
    pub nodes: Vec<RabbitMq>,
}

impl RabbitMqCluster {
    /// As [`RabbitMq::start_with`]; a minority pauses.
    pub async fn start_with(
        definitions: &Value,
        passwords: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let passwords: BTreeMap<String, String> = passwords.into_iter().collect();
        let [epmd_port, ports @ ..]: [u16; 4] = free_ports()?;
        let mut config = "cluster_partition_handling = pause_minority\n\
                          cluster_formation.peer_discovery_backend = classic_config\n"
            .to_owned();
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
        for node in &mut nodes {
            node.restart().await?;
        }
        Ok(Self { nodes })
    }

    /// `amqp://127.0.0.1:port` of each, with commas between.
    pub fn addresses(&self) -> String {
        let address = |node: &RabbitMq| format!("amqp://127.0.0.1:{}", node.amqp_port());
        self.nodes.iter().map(address).collect::<Vec<_>>().join(",")
    }

    /// A node is lost for ever; another joins in its place, and takes its part of the quorum queues.
    pub async fn replace(&mut self, n: usize) -> Result<()> {
        let name = self.nodes[n].node_name();
        self.nodes[n].kill9_and_wipe()?;
        let other = (n + 1) % self.nodes.len();
        // Of the node's quorum queues as well; RabbitMQ 3.10 refuses while it believes the node to run.
        let mut tries = 0;
        while let Err(error) = self.nodes[other].ctl(&["forget_cluster_node", &name]).await {
            tries += 1;
            anyhow::ensure!(tries < 10, error);
            tokio::time::sleep(super::LOOK * 10).await;
        }
        self.nodes[n].restart().await?;
        self.nodes[other].queues(&["grow", &name, "all"]).await.map(drop)
    }
}
