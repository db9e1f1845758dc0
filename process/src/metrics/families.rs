//! Metrics that somebody keeps in a way of their own, with labels and histograms, and their two text forms.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// Only grows.
    Counter,
    Gauge,
    Histogram,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Number {
    Count(u64),
    /// Seconds, or a share.
    Amount(f64),
    /// What was in each bucket (not in those below it), the last without a bound; and the sum of all.
    Buckets {
        bounds: &'static [f64],
        counts: Vec<u64>,
        sum: f64,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub label: Option<(&'static str, String)>,
    pub number: Number,
}

/// A metric with all its values: one without a label, or any number with one. The name is without the process's prefix and,
/// for a counter, without `_total`.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: FamilyKind,
    pub samples: Vec<Sample>,
}

impl Family {
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: FamilyKind::Counter, samples: Vec::new() }
    }

    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: FamilyKind::Gauge, samples: Vec::new() }
    }

    pub fn histogram(name: &'static str, help: &'static str, values: &Buckets) -> Self {
        let samples = vec![Sample { label: None, number: values.read() }];
        Self { name, help, kind: FamilyKind::Histogram, samples }
    }

    #[must_use]
    pub fn of(self, count: u64) -> Self {
        self.number(Number::Count(count))
    }

    #[must_use]
    pub fn amount(self, amount: f64) -> Self {
        self.number(Number::Amount(amount))
    }

    fn number(mut self, number: Number) -> Self {
        self.samples.push(Sample { label: None, number });
        self
    }

    /// A value for each value of one label.
    #[must_use]
    pub fn with(
        mut self,
        label: &'static str,
        values: impl IntoIterator<Item = (String, u64)>,
    ) -> Self {
        let sample =
            |(value, count)| Sample { label: Some((label, value)), number: Number::Count(count) };
        self.samples.extend(values.into_iter().map(sample));
        self
    }
}

/// A histogram of durations that many may write to.
#[derive(Debug)]
pub struct Buckets {
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    micros: AtomicU64,
}

impl Buckets {
    /// `bounds`: the upper bounds in seconds, rising.
    pub fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, micros: AtomicU64::new(0) }
    }

    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn read(&self) -> Number {
        Number::Buckets {
            bounds: self.bounds,
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.micros.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}

pub(super) struct Read(pub(super) Box<dyn Fn() -> Vec<Family> + Send + Sync>);

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Read")
    }
}

impl Collector for Read {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, kind, samples } in (self.0)() {
            let type_ = match kind {
                FamilyKind::Counter => MetricType::Counter,
                FamilyKind::Gauge => MetricType::Gauge,
                FamilyKind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(name, help, None, type_)?;
            // One value without a label, or any number with one.
            if let [Sample { label: None, number }] = samples.as_slice() {
                encode(kind, number, metric)?;
                continue;
            }
            for Sample { label, number } in &samples {
                let Some((label, value)) = label else { continue };
                let labels = [(*label, escaped(value))];
                encode(kind, number, metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode(kind: FamilyKind, number: &Number, mut metric: MetricEncoder<'_>) -> fmt::Result {
    match (kind, number) {
        (FamilyKind::Counter, Number::Count(count)) => ConstCounter::new(*count).encode(metric),
        (_, Number::Count(count)) => {
            ConstGauge::new(i64::try_from(*count).unwrap_or(i64::MAX)).encode(metric)
        }
        (_, Number::Amount(amount)) => ConstGauge::new(*amount).encode(metric),
        (_, Number::Buckets { bounds, counts, sum }) => {
            let bounds = bounds.iter().copied().chain([f64::MAX]);
            let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
            let all = counts.iter().sum();
            metric.encode_histogram::<NoLabelSet>(*sum, all, &buckets, None)
        }
    }
}

/// A label's value; the encoder leaves it as it is.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// In Prometheus' older text form, which knows nothing of an end: to be appended to.
pub fn prometheus(prefix: &str, families: &[Family]) -> String {
    let mut out = String::new();
    for family in families {
        // Writing into a string does not fail.
        let _ = write(&mut out, prefix, family);
    }
    out
}

fn write(out: &mut String, prefix: &str, family: &Family) -> fmt::Result {
    let Family { name, help, kind, samples } = family;
    let (kind, suffix) = match kind {
        FamilyKind::Counter => ("counter", "_total"),
        FamilyKind::Gauge => ("gauge", ""),
        FamilyKind::Histogram => ("histogram", ""),
    };
    let name = format!("{prefix}_{name}{suffix}");
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
    for Sample { label, number } in samples {
        let label =
            label.as_ref().map(|(label, value)| format!("{{{label}=\"{}\"}}", escaped(value)));
        let label = label.unwrap_or_default();
        match number {
            Number::Count(count) => writeln!(out, "{name}{label} {count}")?,
            Number::Amount(amount) => writeln!(out, "{name}{label} {amount}")?,
            Number::Buckets { bounds, counts, sum } => {
                let mut below = 0;
                for (bound, count) in bounds.iter().zip(counts) {
                    below += count;
                    writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {below}")?;
                }
                let all: u64 = counts.iter().sum();
                writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {all}")?;
                writeln!(out, "{name}_sum {sum}\n{name}_count {all}")?;
            }
        }
    }
    Ok(())
}
