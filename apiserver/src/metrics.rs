//! Counters, with Kubernetes' names where they exist.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};

use crate::api::Api;
use crate::degraded::Facts;

mod fabric;

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
/// Upper bounds in milliseconds.
const BUCKETS: [u64; 9] = [1, 5, 10, 25, 50, 100, 500, 1000, 5000];

#[derive(Debug, Default)]
struct Latency {
    buckets: [Counter; BUCKETS.len()],
    count: Counter,
    micros: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By method and by class of status code.
    requests: [[Counter; 5]; METHODS.len()],
    latency: [Latency; METHODS.len()],
    watches: Arc<AtomicU64>,
    pub lost_races: Counter,
    pub fenced_writes: Counter,
    pub heads_told: Counter,
    pub connections: Counter,
    pub refused_connections: Counter,
}

/// A watch that runs; it is over when this is dropped.
#[derive(Debug)]
pub(crate) struct WatchCount(Arc<AtomicU64>);

impl Drop for WatchCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn count_watch(&self) -> WatchCount {
        self.watches.fetch_add(1, Ordering::Relaxed);
        WatchCount(Arc::clone(&self.watches))
    }

    pub(crate) fn observe(&self, method: &Method, code: StatusCode, took: Duration) {
        let Some(index) = METHODS.iter().position(|m| *m == method.as_str()) else { return };
        let class = usize::from(code.as_u16() / 100).clamp(1, 5) - 1;
        self.requests[index][class].inc();
        let latency = &self.latency[index];
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for (bound, bucket) in BUCKETS.iter().zip(&latency.buckets) {
            if micros <= bound * 1000 {
                bucket.inc();
            }
        }
        latency.count.inc();
        latency.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// In Prometheus' text format.
    pub(crate) fn render(&self, api: &Api, facts: &Facts) -> String {
        let mut out = String::new();
        let head = |out: &mut String, name: &str, kind: &str| {
            let _ = writeln!(out, "# TYPE {name} {kind}");
        };
        head(&mut out, "apiserver_request_total", "counter");
        for (method, classes) in METHODS.iter().zip(&self.requests) {
            for (class, counter) in classes.iter().enumerate().filter(|(_, c)| c.get() > 0) {
                let _ = writeln!(
                    out,
                    "apiserver_request_total{{verb=\"{method}\",code=\"{}xx\"}} {}",
                    class + 1,
                    counter.get()
                );
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(&mut out, name, "histogram");
        for (method, latency) in METHODS.iter().zip(&self.latency) {
            for (bound, bucket) in BUCKETS.iter().zip(&latency.buckets) {
                let le = *bound as f64 / 1000.0;
                let _ = writeln!(
                    out,
                    "{name}_bucket{{verb=\"{method}\",le=\"{le}\"}} {}",
                    bucket.get()
                );
            }
            let count = latency.count.get();
            let sum = latency.micros.load(Ordering::Relaxed) as f64 / 1e6;
            let _ = writeln!(out, "{name}_bucket{{verb=\"{method}\",le=\"+Inf\"}} {count}");
            let _ = writeln!(out, "{name}_sum{{verb=\"{method}\"}} {sum}");
            let _ = writeln!(out, "{name}_count{{verb=\"{method}\"}} {count}");
        }
        let (reading, mutating) = api.flow.in_flight();
        head(&mut out, "apiserver_current_inflight_requests", "gauge");
        let inflight = "apiserver_current_inflight_requests";
        let _ = writeln!(out, "{inflight}{{request_kind=\"readOnly\"}} {reading}");
        let _ = writeln!(out, "{inflight}{{request_kind=\"mutating\"}} {mutating}");
        let mut cached = String::new();
        head(&mut out, "apiserver_storage_objects", "gauge");
        head(&mut cached, "warren_cache_bytes", "gauge");
        for kind in api.registry.iter().filter(|kind| kind.conversion().is_none()) {
            let resource = kind.resource();
            let (count, bytes) = api.cache.resource(&resource).size();
            let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}");
            let _ = writeln!(cached, "warren_cache_bytes{{resource=\"{resource}\"}} {bytes}");
        }
        out.push_str(&cached);
        let stats = api.journal.stats();
        for (name, kind, value) in [
            ("apiserver_longrunning_requests", "gauge", self.watches.load(Ordering::Relaxed)),
            ("warren_lost_races_total", "counter", self.lost_races.get()),
            ("warren_fenced_writes_total", "counter", self.fenced_writes.get()),
            ("warren_held_pods", "gauge", api.held.pods()),
            ("warren_heads_told_total", "counter", self.heads_told.get()),
            ("warren_connections_total", "counter", self.connections.get()),
            ("warren_refused_connections_total", "counter", self.refused_connections.get()),
            ("warren_revision", "gauge", api.cache.revision().0),
            ("warren_epoch", "gauge", api.journal.epoch()),
            ("warren_relay_cursor", "gauge", api.journal.relay_cursor().0),
            ("warren_journal_floor", "gauge", api.journal.floor().0),
            ("warren_journal_transactions_total", "counter", stats.transactions),
            ("warren_journal_changes_total", "counter", stats.changes),
            ("warren_journal_waiting", "gauge", stats.waiting),
            ("warren_journal_history_changes", "gauge", stats.history_changes),
            ("warren_journal_history_bytes", "gauge", stats.history_bytes),
            ("warren_journal_wal_bytes", "gauge", stats.wal_bytes),
            ("apiserver_storage_size_bytes", "gauge", stats.database_bytes),
            ("warren_journal_failures_total", "counter", stats.failures),
        ] {
            head(&mut out, name, kind);
            let _ = writeln!(out, "{name} {value}");
        }
        for (name, is_gauge, _, value) in api.trace.counts() {
            let (kind, suffix) = if is_gauge { ("gauge", "") } else { ("counter", "_total") };
            let name = format!("warren_apiserver_{name}{suffix}");
            head(&mut out, &name, kind);
            let _ = writeln!(out, "{name} {value}");
        }
        out.push_str(&warren_process::prometheus("warren", &fabric::families(api, facts)));
        out
    }
}
