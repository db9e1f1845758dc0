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

const UNSCHEDULED: &str =
    "/api/v1/namespaces/default/pods?watch=true&fieldSelector=spec.nodeName%3D";
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
    {
        let client = server.client(8).await?;
        let nodes = (0..scale.nodes).map(|n| client.post("/api/v1/nodes", node(n))).collect();
        client.closed_loop(nodes, IN_FLIGHT).await?;
        let pods = creates(&client, "s-", scale.simulated_pods, |_| None);
        client.closed_loop(pods, IN_FLIGHT).await?;
    }
    server.run_as(&["up", "--runtime", "simulated", "--nodes", "0"]).await?;
    let client = server.client(1).await?;
    // What was bound before the watch began is not counted, nor is its time.
    let mut body = client.start(client.get(UNSCHEDULED)).await?.into_body();
    let started = Instant::now();
    let (mut waiting, mut bound, mut line) = (0_usize, 0_usize, Vec::new());
    let watching = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            line.extend_from_slice(&data);
            while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                if line.starts_with(br#"{"type":"ADDED""#) {
                    waiting += 1;
                } else if line.starts_with(br#"{"type":"DELETED""#) {
                    bound += 1;
                }
                line.drain(..=end);
            }
            if waiting > 0 && bound == waiting {
                return Ok(());
            }
        }
        anyhow::bail!("the watch ended after {bound} bindings")
    };
    tokio::time::timeout(IN_TIME, watching).await.context("not all pods got a node")??;
    let sample = Sample { count: bound, took: started.elapsed(), latencies: vec![], bytes: 0 };
    ensure!(bound * 2 > scale.simulated_pods, "only {bound} bindings were seen");
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
