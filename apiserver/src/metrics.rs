//! Counters, with Kubernetes' names where they exist.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use warren_process::{Buckets, Family, prometheus};

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
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Upper bounds in seconds.
const LATENCY: [f64; 9] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

#[derive(Debug)]
pub(crate) struct Metrics {
    /// By method and by class of status code.
    requests: [[Counter; CLASSES.len()]; METHODS.len()],
    latency: [Buckets; METHODS.len()],
    watches: Arc<AtomicU64>,
    pub lost_races: Counter,
    pub fenced_writes: Counter,
    pub heads_told: Counter,
    pub connections: Counter,
    pub refused_connections: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Default::default(),
            latency: std::array::from_fn(|_| Buckets::new(&LATENCY)),
            watches: Arc::default(),
            lost_races: Counter::default(),
            fenced_writes: Counter::default(),
            heads_told: Counter::default(),
            connections: Counter::default(),
            refused_connections: Counter::default(),
        }
    }
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
        self.latency[index].observe(took);
    }

    /// In Prometheus' text format: those that Kubernetes has under its names, and ours.
    pub(crate) fn render(&self, api: &Api, facts: &Facts) -> String {
        let mut out = prometheus("apiserver", &self.of_kubernetes(api));
        out.push_str(&prometheus("warren", &self.own(api)));
        out.push_str(&prometheus("warren", &api.trace.families("apiserver")));
        out.push_str(&prometheus("warren", &fabric::families(api, facts)));
        out
    }

    fn of_kubernetes(&self, api: &Api) -> Vec<Family> {
        let mut requests =
            Family::counter("request", "Requests, by verb and class of the answer's code.");
        let mut latency = Family::histogram(
            "request_duration_seconds",
            "From a request to its answer; of a watch, until it begins.",
        );
        for (n, verb) in METHODS.into_iter().enumerate() {
            for (code, counter) in
                CLASSES.iter().zip(&self.requests[n]).filter(|(_, c)| c.get() > 0)
            {
                requests = requests.at(&[("verb", verb), ("code", code)], counter.get());
            }
            latency = latency.took(&[("verb", verb)], &self.latency[n]);
        }
        let (reading, mutating) = api.flow.in_flight();
        let watches = self.watches.load(Ordering::Relaxed);
        let objects = stored(api).map(|(resource, (count, _))| (resource, count as u64));
        vec![
            requests,
            latency,
            Family::gauge("current_inflight_requests", "Requests that are being answered.")
                .at(&[("request_kind", "readOnly")], reading as u64)
                .at(&[("request_kind", "mutating")], mutating as u64),
            Family::gauge("storage_objects", "Objects that are stored.").with("resource", objects),
            Family::gauge("longrunning_requests", "Watches that are open.").of(watches),
            Family::gauge("storage_size_bytes", "Of the database's file.")
                .of(api.journal.stats().database_bytes),
        ]
    }

    fn own(&self, api: &Api) -> Vec<Family> {
        let stats = api.journal.stats();
        let bytes = stored(api).map(|(resource, (_, bytes))| (resource, bytes as u64));
        let counter = |name: &'static str, help, value| Family::counter(name, help).of(value);
        let gauge = |name: &'static str, help, value| Family::gauge(name, help).of(value);
        vec![
            Family::gauge("cache_bytes", "Of the objects in memory.").with("resource", bytes),
            counter(
                "lost_races",
                "Writes prepared again since another was faster.",
                self.lost_races.get(),
            ),
            counter("fenced_writes", "Writes of a term that was over.", self.fenced_writes.get()),
            gauge("held_pods", "Pods that wait for nodes since a restore.", api.held.pods()),
            counter("heads_told", "Answers to who asks for heads.", self.heads_told.get()),
            counter("connections", "Connections that were taken.", self.connections.get()),
            counter(
                "refused_connections",
                "Connections closed at once: too many without a credential.",
                self.refused_connections.get(),
            ),
            gauge("revision", "The newest revision.", api.cache.revision().0),
            gauge("epoch", "The incarnation of the database.", api.journal.epoch()),
            gauge("relay_cursor", "Up to here all is confirmed.", api.journal.relay_cursor().0),
            gauge("journal_floor", "The oldest that is kept.", api.journal.floor().0),
            counter("journal_transactions", "Transactions.", stats.transactions),
            counter("journal_changes", "Changes that were committed.", stats.changes),
            gauge("journal_waiting", "Items that wait for the writer.", stats.waiting),
            gauge("journal_history_changes", "Changes in the history.", stats.history_changes),
            gauge("journal_history_bytes", "Their bytes.", stats.history_bytes),
            gauge("journal_wal_bytes", "Of the write-ahead log.", stats.wal_bytes),
            counter("journal_failures", "Attempts to write that failed.", stats.failures),
        ]
    }
}

/// Of each kind that is stored: how many objects, and their bytes.
fn stored(api: &Api) -> impl Iterator<Item = (String, (usize, usize))> {
    let kinds = api.registry.iter().filter(|kind| kind.conversion().is_none());
    kinds.map(|kind| (kind.resource().to_string(), api.cache.resource(&kind.resource()).size()))
}
