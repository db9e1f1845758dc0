//! What an agent is told.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::pod::memory::Backoffs;

/// Everything has a default but the names.
#[derive(Clone, Debug)]
pub struct Config {
    pub node: String,
    /// Stands in the labels of containers, so that two clusters may share one daemon.
    pub cluster: String,
    /// The agent's own folder, `<data>/agents/<node>`. `None`: nothing is kept on disk (simulated nodes).
    pub dir: Option<PathBuf>,
    /// The manifests folder, where this node has one.
    pub manifests: Option<PathBuf>,
    /// The node's `InternalIP`, and `hostIP` of its pods.
    pub address: IpAddr,
    /// Where the node's own port listens: `daemonEndpoints.kubeletEndpoint`. 0: there is none.
    pub port: u16,
    /// Beside those that every node has.
    pub labels: std::collections::BTreeMap<String, String>,
    /// The node goes on alone: it is marked so, and nothing is evicted from it while nobody hears of it.
    pub autonomous: bool,
    pub capacity: Capacity,
    /// The node has no machine: there is nothing to measure, and no volumes.
    pub simulated: bool,
    /// Another process may be this node (a copied folder, a cloned machine), so that the lease is looked at before
    /// anything starts. Not where the API is in the same process: a copy has an API of its own.
    pub contested: bool,
    /// Events about what goes well (Pulled, Created, Started). Off for crowds of simulated nodes.
    pub normal_events: bool,
    pub heartbeat: Duration,
    pub lease_seconds: i32,
    /// The node's whole status is written this often though nothing changed.
    pub status_every: Duration,
    /// The runtime is listed this often, as a net under lost events.
    pub relist_every: Duration,
    /// The objects behind volumes are looked at this often, as a net under lost events.
    pub volumes_every: Duration,
    pub backoffs: Backoffs,
}

/// What the node offers; `None` is measured on the machine.
#[derive(Clone, Debug)]
pub struct Capacity {
    pub cpu_millis: Option<i64>,
    pub memory_bytes: Option<i64>,
    pub ephemeral_storage_bytes: Option<i64>,
    pub pods: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { cpu_millis: None, memory_bytes: None, ephemeral_storage_bytes: None, pods: 110 }
    }
}

impl Config {
    pub fn new(cluster: &str, node: &str) -> Self {
        Self {
            node: node.to_owned(),
            cluster: cluster.to_owned(),
            dir: None,
            manifests: None,
            address: IpAddr::from([127, 0, 0, 1]),
            port: 10250,
            labels: std::collections::BTreeMap::new(),
            autonomous: false,
            capacity: Capacity::default(),
            simulated: false,
            contested: true,
            normal_events: true,
            heartbeat: Duration::from_secs(10),
            lease_seconds: 40,
            status_every: Duration::from_secs(300),
            relist_every: Duration::from_secs(300),
            volumes_every: Duration::from_secs(60),
            backoffs: Backoffs::default(),
        }
    }

    /// A node without a machine: large, quiet, nothing on disk.
    pub fn simulated(cluster: &str, node: &str) -> Self {
        Self {
            simulated: true,
            contested: false,
            normal_events: false,
            capacity: Capacity {
                cpu_millis: Some(32_000),
                memory_bytes: Some(256 << 30),
                ephemeral_storage_bytes: Some(1 << 40),
                pods: 110,
            },
            ..Self::new(cluster, node)
        }
    }
}
