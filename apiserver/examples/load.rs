//! How fast one server is, over TLS on loopback, with client and server in one process:
//! `cargo run --release -p warren-apiserver --example load -- [pods]`. 32 connections, one request in flight on each.

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Client, World};

const IN_FLIGHT: usize = 32;
const PODS: &str = "/api/v1/namespaces/default/pods";

/// About 2.8 KB when it is stored.
fn pod(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "load"}, "annotations": {"note": "n".repeat(1100)}},
        "spec": {"containers": [{"name": "main", "image": "busybox", "env": (0..8).map(|n| {
            json!({"name": format!("VARIABLE_{n}"), "value": "some value of it"})
        }).collect::<Vec<_>>()}]},
    })
    .to_string()
}

#[tokio::main]
async fn main() {
    let pods: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(5000);
    let world = World::start().await;
    let json = [("content-type", "application/json")];

    let mut one = world.admin().await;
    let made = one.call("POST", PODS, &json, pod("sample")).await;
    let stored = made.body.len();
    run(&world, "create", pods, move |client, n| {
        Box::pin(async move {
            let answer = client.call("POST", PODS, &json, pod(&format!("pod-{n:06}"))).await;
            assert_eq!(answer.code.as_u16(), 201);
        })
    })
    .await;
    run(&world, "patch a label", pods.min(1000), move |client, n| {
        Box::pin(async move {
            let patch = json!({"metadata": {"labels": {"n": n.to_string()}}});
            let path = format!("{PODS}/pod-{n:06}");
            assert!(client.patch("merge-patch+json", &path, patch).await.code.is_success());
        })
    })
    .await;
    run(&world, "get", pods * 4, move |client, n| {
        Box::pin(async move {
            let path = format!("{PODS}/pod-{:06}", n % pods);
            assert!(client.get(&path).await.code.is_success());
        })
    })
    .await;
    let (started, mut bytes, lists) = (Instant::now(), 0, 20);
    for _ in 0..lists {
        bytes += one.get(PODS).await.body.len();
    }
    let took = started.elapsed();
    let rate = bytes as f64 / took.as_secs_f64() / 1e6;
    print(&format!(
        "list {pods}: {:.1}/s, {:.1} MB each, {rate:.0} MB/s",
        f64::from(lists) / took.as_secs_f64(),
        bytes as f64 / f64::from(lists) / 1e6,
    ));
    let mut watch = world
        .admin()
        .await
        .watch(&format!("{PODS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"))
        .await;
    let mut delays = Vec::new();
    for n in 0..300 {
        let at = Instant::now();
        let patch = json!({"metadata": {"labels": {"w": n.to_string()}}});
        let (_, _) = tokio::join!(
            one.patch("merge-patch+json", "/api/v1/namespaces/default/pods/sample", patch),
            async {
                watch.next().await;
                delays.push(at.elapsed());
            }
        );
    }
    delays.sort_unstable();
    print(&format!(
        "write to watcher: p50 {:?}, p99 {:?}; a stored pod has {stored} bytes",
        delays[150], delays[297]
    ));
    let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in memory.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"))
    {
        print(line);
    }
    drop((one, watch));
    world.stop().await;
}

type Step<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

async fn run(
    world: &World,
    what: &str,
    total: usize,
    step: impl for<'a> Fn(&'a mut Client, usize) -> Step<'a> + Send + Sync + Copy + 'static,
) {
    let mut clients = Vec::new();
    for _ in 0..IN_FLIGHT {
        clients.push(world.admin().await);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(IN_FLIGHT);
    for mut client in clients {
        let (next, sender) = (Arc::clone(&next), sender.clone());
        world.tasks.spawn("load", async move {
            let mut delays: Vec<Duration> = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= total {
                    break;
                }
                let at = Instant::now();
                step(&mut client, n).await;
                delays.push(at.elapsed());
            }
            let _ = sender.send(delays).await;
        });
    }
    drop(sender);
    let mut delays = Vec::new();
    while let Some(some) = receiver.recv().await {
        delays.extend(some);
    }
    let took = started.elapsed();
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    print(&format!(
        "{what}: {:.0}/s, p50 {:?}, p99 {:?}",
        total as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.99)
    ));
}

#[expect(clippy::print_stdout, reason = "what the example is for")]
fn print(line: &str) {
    println!("{line}");
}
