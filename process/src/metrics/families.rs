//! Metrics that somebody keeps in a way of their own, with labels and histograms, and their two text forms.

use std::borrow::Cow;
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
    /// Each sample of a family has the same.
    pub labels: Vec<(&'static str, String)>,
    pub number: Number,
}

/// A metric with all its values: one without labels, or any number with them. The name is without the process's prefix and,
/// for a counter, without `_total`.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub name: Cow<'static, str>,
    pub help: &'static str,
    pub kind: FamilyKind,
    pub samples: Vec<Sample>,
}

impl Family {
    /// What only grows.
    pub fn counter(name: impl Into<Cow<'static, str>>, help: &'static str) -> Self {
        Self::new(name, help, FamilyKind::Counter)
    }

    pub fn gauge(name: impl Into<Cow<'static, str>>, help: &'static str) -> Self {
        Self::new(name, help, FamilyKind::Gauge)
    }

    pub fn histogram(name: impl Into<Cow<'static, str>>, help: &'static str) -> Self {
        Self::new(name, help, FamilyKind::Histogram)
    }

    fn new(name: impl Into<Cow<'static, str>>, help: &'static str, kind: FamilyKind) -> Self {
        Self { name: name.into(), help, kind, samples: Vec::new() }
    }

    #[must_use]
    pub fn of(self, count: u64) -> Self {
        self.at(&[], count)
    }

    #[must_use]
    pub fn amount(self, amount: f64) -> Self {
        self.sample(&[], Number::Amount(amount))
    }

    #[must_use]
    pub fn at(self, labels: &[(&'static str, &str)], count: u64) -> Self {
        self.sample(labels, Number::Count(count))
    }

    #[must_use]
    pub fn took(self, labels: &[(&'static str, &str)], values: &Buckets) -> Self {
        self.sample(labels, values.read())
    }

    fn sample(mut self, labels: &[(&'static str, &str)], number: Number) -> Self {
        let labels = labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect();
        self.samples.push(Sample { labels, number });
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
            |(value, count)| Sample { labels: vec![(label, value)], number: Number::Count(count) };
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
            let mut metric = encoder.encode_descriptor(&name, help, None, type_)?;
            // One value without labels, or any number with them.
            if let [Sample { labels, number }] = samples.as_slice()
                && labels.is_empty()
            {
                encode(kind, number, metric)?;
                continue;
            }
            for Sample { labels, number } in &samples {
                let labels: Vec<_> =
                    labels.iter().map(|(label, value)| (*label, escaped(value))).collect();
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
    for Sample { labels, number } in samples {
        let all: Vec<_> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = all.join(",");
        let own = if all.is_empty() { String::new() } else { format!("{{{labels}}}") };
        match number {
            Number::Count(count) => writeln!(out, "{name}{own} {count}")?,
            Number::Amount(amount) => writeln!(out, "{name}{own} {amount}")?,
            Number::Buckets { bounds, counts, sum } => {
                let comma = if all.is_empty() { "" } else { "," };
                let mut below = 0;
                for (bound, count) in bounds.iter().zip(counts) {
                    below += count;
                    writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}")?;
                }
                let all: u64 = counts.iter().sum();
                writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {all}")?;
                writeln!(out, "{name}_sum{own} {sum}\n{name}_count{own} {all}")?;
            }
        }
    }
    Ok(())
}
