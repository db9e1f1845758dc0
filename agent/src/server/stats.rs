//! `/stats/summary`: what the node and its pods use, in the kubelet's form.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::route::{self, Body, Refusal, Service};
use crate::pod::index::PodEntry;
use crate::runtime::ContainerStats;

/// A rate needs two samples. An older one than this says nothing about now.
const OLDEST: Duration = Duration::from_secs(120);
/// The time between two samples where there is no older one.
const APART: Duration = Duration::from_millis(500);
/// Containers that are asked at the same time.
const CONCURRENT: usize = 32;

/// The last sample of each container, and of the machine (under the empty id). Samples older than [`OLDEST`] go at every
/// summary, so there are no more than containers.
#[derive(Default)]
pub(super) struct Rates(Mutex<HashMap<String, Sample>>);

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    cpu_nanos: u64,
}

impl Rates {
    /// Nanoseconds of cpu a second since the last sample, which this one replaces.
    fn rate(&self, id: &str, now: Instant, cpu_nanos: u64) -> Option<u64> {
        let mut samples = self.0.lock();
        let old = samples.get(id).copied();
        let age = old.map(|old| now.duration_since(old.at));
        if age.is_some_and(|age| age < APART / 2) {
            // Too close to tell; the older sample stays.
            let (old, age) = (old?, age?);
            return per_second(cpu_nanos.checked_sub(old.cpu_nanos)?, age);
        }
        samples.insert(id.to_owned(), Sample { at: now, cpu_nanos });
        let (old, age) = (old?, age?);
        if age > OLDEST {
            return None;
        }
        per_second(cpu_nanos.checked_sub(old.cpu_nanos)?, age)
    }

    fn forget_old(&self, now: Instant) {
        self.0.lock().retain(|_, sample| now.duration_since(sample.at) <= OLDEST);
    }
}

fn per_second(nanos: u64, over: Duration) -> Option<u64> {
    let over = over.as_nanos();
    (over > 0).then(|| (u128::from(nanos) * 1_000_000_000 / over) as u64)
}

/// Of one node, or of all nodes of the process where it is empty.
pub(super) async fn summary(service: &Service, node: &str) -> Result<Response<Body>, Refusal> {
    let entries = service.pods.pods((!node.is_empty()).then_some(node));
    let mut rows = sample(service, &entries).await;
    let mut machine = machine(service, Instant::now());
    if rows.iter().any(|row| row.rate.is_none()) || machine.as_ref().is_some_and(|m| m.0.is_none())
    {
        tokio::time::sleep(APART).await;
        rows = sample(service, &entries).await;
        machine = self::machine(service, Instant::now());
    }
    service.stats.forget_old(Instant::now());
    let now = Timestamp::now().to_string();
    let mut pods: Vec<Value> = Vec::new();
    let (mut cpu, mut memory) = (0, 0);
    for entry in &entries {
        let of_pod: Vec<&Row> = rows.iter().filter(|row| row.uid == entry.uid()).collect();
        if of_pod.is_empty() {
            continue;
        }
        let containers: Vec<Value> = of_pod
            .iter()
            .map(|row| json!({"name": row.name, "cpu": usage_cpu(&now, row), "memory": usage_memory(&now, row)}))
            .collect();
        cpu += of_pod.iter().filter_map(|row| row.rate).sum::<u64>();
        memory += of_pod.iter().map(|row| row.stats.memory_working_set).sum::<u64>();
        let meta = &entry.pod.metadata;
        pods.push(json!({
            "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": entry.uid()},
            "containers": containers,
        }));
    }
    if let Some((rate, used)) = machine {
        (cpu, memory) = (rate.unwrap_or(0), used);
    }
    let value = json!({
        "node": {
            "nodeName": node,
            "cpu": {"time": now, "usageNanoCores": cpu},
            "memory": {"time": now, "workingSetBytes": memory, "usageBytes": memory},
        },
        "pods": pods,
    });
    Ok(route::plain(StatusCode::OK, "application/json", value.to_string().into()))
}

struct Row {
    uid: String,
    name: String,
    stats: ContainerStats,
    rate: Option<u64>,
}

fn usage_cpu(now: &str, row: &Row) -> Value {
    json!({"time": now, "usageNanoCores": row.rate.unwrap_or(0), "usageCoreNanoSeconds": row.stats.cpu_nanos})
}

fn usage_memory(now: &str, row: &Row) -> Value {
    json!({"time": now, "workingSetBytes": row.stats.memory_working_set, "usageBytes": row.stats.memory_usage})
}

async fn sample(service: &Service, entries: &[PodEntry]) -> Vec<Row> {
    let running: Vec<_> = entries
        .iter()
        .flat_map(|entry| {
            let containers = entry.observed.containers.iter().filter(|c| c.is_running());
            containers.map(move |container| (entry, container))
        })
        .collect();
    let mut rows = Vec::with_capacity(running.len());
    for some in running.chunks(CONCURRENT) {
        let asked = some.iter().map(|(entry, container)| async move {
            let stats = entry.runtime.stats(&container.id).await.ok()?;
            let rate = service.stats.rate(&container.id, Instant::now(), stats.cpu_nanos);
            let (uid, name) = (entry.uid().to_owned(), container.name.to_string());
            Some(Row { uid, name, stats, rate })
        });
        rows.extend(futures::future::join_all(asked).await.into_iter().flatten());
    }
    rows
}

/// The machine's cpu rate (where it is known yet) and its used memory in bytes. A simulated node has none.
fn machine(service: &Service, now: Instant) -> Option<(Option<u64>, u64)> {
    if service.simulated {
        return None;
    }
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let memory = std::fs::read_to_string("/proc/meminfo").ok()?;
    let busy = busy_nanos(&stat)?;
    Some((service.stats.rate("", now, busy), used_bytes(&memory)?))
}

/// From the line `cpu  user nice system idle iowait irq softirq steal …`, in hundredths of a second (USER_HZ is 100 on
/// every Linux).
fn busy_nanos(stat: &str) -> Option<u64> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((ticks.iter().take(8).sum::<u64>() - idle) * 10_000_000)
}

fn used_bytes(meminfo: &str) -> Option<u64> {
    let kib = |key: &str| -> Option<u64> {
        let line = meminfo.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some((kib("MemTotal:")? - kib("MemAvailable:")?) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_samples_of_some_distance() {
        let rates = Rates::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(rates.rate("c", at(0), 1_000_000_000), None);
        assert_eq!(rates.rate("c", at(1000), 1_500_000_000), Some(500_000_000));
        // Close to the last one: measured against it, and it stays.
        assert_eq!(rates.rate("c", at(1100), 1_550_000_000), Some(500_000_000));
        assert_eq!(rates.rate("c", at(2000), 1_500_000_000), Some(0));
        // A restarted counter.
        assert_eq!(rates.rate("c", at(3000), 5), None);
        // Too old.
        assert_eq!(rates.rate("c", at(1_000_000), 10), None);
    }

    #[test]
    fn the_machine() {
        assert_eq!(busy_nanos("cpu  10 0 5 100 7 1 1 0 0 0\ncpu0 1"), Some(170_000_000));
        assert_eq!(
            used_bytes("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\n"),
            Some(400 << 10)
        );
    }
}
