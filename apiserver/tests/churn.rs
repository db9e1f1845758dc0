//! A day of a busy cluster, in less than a minute: what is stored stays bounded.

mod support;

use std::path::Path;
use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::{Value, json};
use support::{Client, World};
use warren_process::ManualClock;

const HOURS: usize = 24;
/// With some 30 writes a minute, the history's 20,000 changes are full after 11 hours.
const FULL: usize = 12;
/// Pods that live at a time; each minute the oldest goes and a new one comes.
const PODS: usize = 30;
const EVENTS_A_MINUTE: usize = 8;
/// Kubernetes keeps Events for an hour; they are looked through every minute.
const EVENT_MINUTES: usize = 62;
/// As far as the journal lets its write-ahead log grow before it checkpoints whatever else waits.
const WAL_BYTES: u64 = 64 << 20;

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "churn"}, "annotations": {"why": "x".repeat(1500)}},
           "spec": {"containers": [{"name": "main", "image": "busybox:1"}]}})
}

fn event(minute: usize, number: usize) -> Value {
    json!({
        "metadata": {"name": format!("e-{minute}-{number}")}, "reason": "Churned", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "churn"},
        "message": format!("Minute {minute}: {}", "as it happens, ".repeat(20)),
    })
}

/// Controllers, agents and people in one minute: 10 writes of pods, 8 Events (and as many that expire), 6 of a
/// ConfigMap.
async fn minute(clients: &mut [Client; 3], minute: usize) {
    const PATH: &str = "/api/v1/namespaces/default";
    let [pods, events, maps] = clients;
    let of_pods = async {
        let path = format!("{PATH}/pods");
        pods.post(&path, pod(&format!("p-{minute}"))).await.ok();
        for n in 0..8 {
            let name = minute.saturating_sub(n * PODS / 8);
            let status =
                json!({"status": {"phase": "Running", "message": format!("at minute {minute}")}});
            pods.patch("merge-patch+json", &format!("{path}/p-{name}/status"), status).await.ok();
        }
        if minute >= PODS {
            pods.delete(&format!("{path}/p-{}", minute - PODS)).await.ok();
        }
    };
    let of_events = async {
        for n in 0..EVENTS_A_MINUTE {
            events.post(&format!("{PATH}/events"), event(minute, n)).await.ok();
        }
    };
    let of_maps = async {
        for n in 0..6 {
            let data =
                json!({"data": {"leader": format!("{minute}-{n}"), "record": "y".repeat(500)}});
            maps.patch("merge-patch+json", &format!("{PATH}/configmaps/churn"), data).await.ok();
        }
    };
    tokio::join!(of_pods, of_events, of_maps);
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_leaves_no_more_than_its_bounds() {
    let clock = ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap());
    let world = World::start_with(|config| config.clock = Arc::new(clock.clone())).await;
    let mut clients = [world.admin().await, world.admin().await, world.admin().await];
    let map = json!({"metadata": {"name": "churn"}});
    clients[0].post("/api/v1/namespaces/default/configmaps", map).await.ok();
    let [database, wal] = ["warren.db", "warren.db-wal"].map(|name| world.folder.path().join(name));
    let (mut full, mut shown) = (0, String::new());
    for hour in 0..HOURS {
        for of_hour in 0..60 {
            minute(&mut clients, hour * 60 + of_hour).await;
            clock.advance(SignedDuration::from_secs(60));
        }
        let events = clients[1].get("/api/v1/events?limit=1").await.ok();
        let remaining = events["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
        let (database, wal) = (size(&database), size(&wal));
        let line =
            format!("hour {hour}: database {database} B, WAL {wal} B, Events {}\n", remaining + 1);
        shown.push_str(&line);
        assert!(wal <= WAL_BYTES, "{shown}");
        // The expiry of the last minutes may still be under way.
        let events = EVENTS_A_MINUTE * (EVENT_MINUTES + 10);
        assert!(remaining < events as u64, "{shown}");
        match hour {
            FULL => full = database,
            // What is free is used again; the slack of the history comes and goes.
            hour if hour > FULL => assert!(database <= full + full / 4, "{shown}"),
            _ => {}
        }
    }
    println!("{shown}");
    drop(clients);
    world.stop().await;
}
