//! The metrics of a process.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

pub use families::{Buckets, Family, FamilyKind, Number, Sample, prometheus};

mod families;

/// Of [`Metrics::text`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One registry a process; clones share it. Every name gets the prefix `warren_`, and counters the suffix `_total`.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix("warren"))))
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers any metric (a `Family` with labels, say) and hands it back. `help` ends without a full stop.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.0.lock().register(name, help, metric.clone());
        metric
    }

    /// Only grows.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// `bounds`: the upper bounds of the buckets, rising.
    pub fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> Histogram {
        self.register(name, help, Histogram::new(bounds.iter().copied()))
    }

    /// Values that are asked for when somebody reads the metrics.
    pub fn collector(&self, collector: impl Collector) {
        self.0.lock().register_collector(Box::new(collector));
    }

    /// What somebody counts in a way of their own.
    pub fn families(&self, read: impl Fn() -> Vec<Family> + Send + Sync + 'static) {
        self.collector(families::Read(Box::new(read)));
    }

    /// In the OpenMetrics text form, see [`METRICS_CONTENT_TYPE`].
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.0.lock()) {
            tracing::error!(%error, "a metric cannot be encoded");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_of_others() {
        let metrics = Metrics::new();
        let took = Arc::new(Buckets::new(&[0.001, 0.5]));
        let read = Arc::clone(&took);
        metrics.families(move || {
            vec![
                Family::counter("fabric_relists", "Lists.")
                    .with("reason", [("gap".to_owned(), 2), ("no \"position\"".to_owned(), 0)]),
                Family::gauge("fabric_up", "Whether.").of(1),
                Family::histogram("fabric_confirm_seconds", "How long.").took(&[], &read),
                Family::histogram("took_seconds", "How long each.").took(&[("verb", "GET")], &read),
                Family::counter("asked", "Requests.").at(&[("verb", "GET"), ("code", "2xx")], 4),
            ]
        });
        for micros in [400, 1_000, 700_000] {
            took.observe(std::time::Duration::from_micros(micros));
        }
        let body = "warren_fabric_relists_total{reason=\"gap\"} 2
warren_fabric_relists_total{reason=\"no \\\"position\\\"\"} 0
# HELP warren_fabric_up Whether.
# TYPE warren_fabric_up gauge
warren_fabric_up 1
# HELP warren_fabric_confirm_seconds How long.
# TYPE warren_fabric_confirm_seconds histogram
";
        let open = format!(
            "# HELP warren_fabric_relists Lists.\n# TYPE warren_fabric_relists counter\n{body}\
             warren_fabric_confirm_seconds_sum 0.7014\n\
             warren_fabric_confirm_seconds_count 3\n\
             warren_fabric_confirm_seconds_bucket{{le=\"0.001\"}} 2\n\
             warren_fabric_confirm_seconds_bucket{{le=\"0.5\"}} 2\n\
             warren_fabric_confirm_seconds_bucket{{le=\"+Inf\"}} 3\n\
             # HELP warren_took_seconds How long each.\n# TYPE warren_took_seconds histogram\n\
             warren_took_seconds_sum{{verb=\"GET\"}} 0.7014\n\
             warren_took_seconds_count{{verb=\"GET\"}} 3\n\
             warren_took_seconds_bucket{{le=\"0.001\",verb=\"GET\"}} 2\n\
             warren_took_seconds_bucket{{le=\"0.5\",verb=\"GET\"}} 2\n\
             warren_took_seconds_bucket{{le=\"+Inf\",verb=\"GET\"}} 3\n\
             # HELP warren_asked Requests.\n# TYPE warren_asked counter\n\
             warren_asked_total{{verb=\"GET\",code=\"2xx\"}} 4\n# EOF\n"
        );
        assert_eq!(metrics.text(), open);
        let families = vec![
            Family::counter("fabric_relists", "Lists.")
                .with("reason", [("gap".to_owned(), 2), ("no \"position\"".to_owned(), 0)]),
            Family::gauge("fabric_up", "Whether.").of(1),
            Family::histogram("fabric_confirm_seconds", "How long.").took(&[], &took),
            Family::histogram("took_seconds", "How long each.").took(&[("verb", "GET")], &took),
            Family::counter("asked", "Requests.").at(&[("verb", "GET"), ("code", "2xx")], 4),
        ];
        // Prometheus' older form names a counter with its suffix, and ends without a word.
        let older = format!(
            "# HELP warren_fabric_relists_total Lists.\n# TYPE warren_fabric_relists_total counter\n{body}\
             warren_fabric_confirm_seconds_bucket{{le=\"0.001\"}} 2\n\
             warren_fabric_confirm_seconds_bucket{{le=\"0.5\"}} 2\n\
             warren_fabric_confirm_seconds_bucket{{le=\"+Inf\"}} 3\n\
             warren_fabric_confirm_seconds_sum 0.7014\n\
             warren_fabric_confirm_seconds_count 3\n\
             # HELP warren_took_seconds How long each.\n# TYPE warren_took_seconds histogram\n\
             warren_took_seconds_bucket{{verb=\"GET\",le=\"0.001\"}} 2\n\
             warren_took_seconds_bucket{{verb=\"GET\",le=\"0.5\"}} 2\n\
             warren_took_seconds_bucket{{verb=\"GET\",le=\"+Inf\"}} 3\n\
             warren_took_seconds_sum{{verb=\"GET\"}} 0.7014\n\
             warren_took_seconds_count{{verb=\"GET\"}} 3\n\
             # HELP warren_asked_total Requests.\n# TYPE warren_asked_total counter\n\
             warren_asked_total{{verb=\"GET\",code=\"2xx\"}} 4\n"
        );
        assert_eq!(prometheus("warren", &families), older);
    }

    #[test]
    fn the_text_form() {
        let metrics = Metrics::new();
        metrics.counter("commits", "Committed items").inc_by(3);
        metrics.clone().gauge("waiting", "Items that wait").set(2);
        metrics.histogram("batch_items", "Items in a transaction", &[1.0, 8.0]).observe(4.0);
        let wanted = "# HELP warren_commits Committed items.
# TYPE warren_commits counter
warren_commits_total 3
# HELP warren_waiting Items that wait.
# TYPE warren_waiting gauge
warren_waiting 2
# HELP warren_batch_items Items in a transaction.
# TYPE warren_batch_items histogram
warren_batch_items_sum 4.0
warren_batch_items_count 1
warren_batch_items_bucket{le=\"1.0\"} 0
warren_batch_items_bucket{le=\"8.0\"} 1
warren_batch_items_bucket{le=\"+Inf\"} 1
# EOF
";
        assert_eq!(metrics.text(), wanted);
    }
}
