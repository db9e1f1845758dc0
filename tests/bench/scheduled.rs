//! How many pods a second get a node: all of them wait, the nodes are there, and then the control plane starts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::Scale;
use crate::api::{IN_FLIGHT, creates};
use crate::figure::{Figure, Sample, median};
use crate::load::Client;
use crate::pod;
use crate::server::{Server, knows};

const WATCH: &str = "/api/v1/namespaces/default/pods?watch=true&resourceVersion=";
const IN_TIME: Duration = Duration::from_secs(120);

pub async fn scheduled(scale: &Scale) -> Result<Vec<Figure>> {
    if !knows("up", "--nodes")? {
        return Ok(vec![Figure::skipped("scheduled", "this `warren up` has no --nodes")]);
    }
    let mut runs = Vec::new();
    let mut events = Vec::new();
    for _ in 0..scale.runs {
        let (bound, seconds) = run(scale).await?;
        runs.push(bound);
        events.push(seconds);
    }
    let what = format!("pods scheduled, {} nodes, embedded, durable", scale.nodes);
    let note = format!(
        "{} pods; the last of their Events {:.1} s after the first binding",
        scale.simulated_pods,
        median(&events)
    );
    Ok(vec![Figure::of_rates("scheduled", what, "1/s", &runs).note(note)])
}

/// The bindings, and the seconds until all Events that tell of them were stored.
async fn run(scale: &Scale) -> Result<(Sample, f64)> {
    let mut server = Server::start(&["apiserver"]).await?;
    let before = {
        let client = server.client(8).await?;
        let nodes = (0..scale.nodes).map(|n| client.post("/api/v1/nodes", node(n))).collect();
        client.closed_loop(nodes, IN_FLIGHT).await?;
        let pods = creates(&client, "s-", scale.simulated_pods, |_| None);
        client.closed_loop(pods, IN_FLIGHT).await?;
        client.metric("warren_revision").await? as u64
    };
    server.run_as(&["up", "--runtime", "simulated", "--nodes", "0"]).await?;
    let client = server.client(1).await?;
    let mut body = client.start(client.get(&format!("{WATCH}{before}"))).await?.into_body();
    // Nothing else changes a pod: nobody stands behind the nodes.
    let (mut bound, mut first, mut last) = (0_usize, None, Instant::now());
    let watching = async {
        while bound < scale.simulated_pods {
            let frame = body.frame().await.context("the watch ended")?;
            let Ok(data) = frame?.into_data() else { continue };
            last = Instant::now();
            first.get_or_insert(last);
            bound += data.iter().filter(|byte| **byte == b'\n').count();
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(IN_TIME, watching).await.context("not all pods got a node")??;
    let started = first.context("there are pods")?;
    let sample = Sample { count: bound, took: last - started, latencies: vec![], bytes: 0 };
    while events(&client).await? < scale.simulated_pods {
        ensure!(started.elapsed() < IN_TIME, "not all Events were written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(client);
    server.stop().await?;
    Ok((sample, seconds))
}

async fn events(client: &Client) -> Result<usize> {
    let path = "/api/v1/namespaces/default/events?limit=1";
    let list: Value = serde_json::from_str(&client.ok(client.get(path)).await?)?;
    let more = list["metadata"]["remainingItemCount"].as_u64().unwrap_or_default() as usize;
    Ok(more + list["items"].as_array().map_or(0, Vec::len))
}

/// One that nobody stands behind: it is Ready until its lease is missed, which takes longer than this.
fn node(number: usize) -> Bytes {
    let name = pod::name("n-", number);
    let resources = json!({"cpu": "32", "memory": "256Gi", "pods": "110"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "capacity": resources, "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    })
    .to_string()
    .into()
}
