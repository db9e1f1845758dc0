//! What is measured, and how it is shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub row: &'static str,
    pub what: String,
    /// Median of the runs.
    pub value: f64,
    pub unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    pub runs: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Numbers that the note tells people, for programs; the unit is in the name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<&'static str, f64>,
}

impl Figure {
    pub fn new(row: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            row,
            what: what.into(),
            value,
            unit,
            p50_ms: None,
            p99_ms: None,
            runs: 1,
            note: String::new(),
            also: BTreeMap::new(),
        }
    }

    /// Where something is not there to be measured.
    pub fn skipped(row: &'static str, why: impl Into<String>) -> Self {
        let mut figure = Self::new(row, "skipped", 0.0, "-");
        figure.note = why.into();
        figure.runs = 0;
        figure
    }

    /// The median of several runs, and the latencies of all of them together.
    pub fn of_rates(
        row: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        runs: &[Sample],
    ) -> Self {
        let rates: Vec<f64> = runs.iter().map(Sample::rate).collect();
        let all = runs.iter().flat_map(|run| run.latencies.iter().copied()).collect();
        let mut figure = Self::new(row, what, median(&rates), unit).latency(all);
        figure.runs = runs.len();
        figure
    }

    /// Where the time itself is the figure: its median.
    pub fn of_times(row: &'static str, what: impl Into<String>, times: Vec<Duration>) -> Self {
        let mut figure = Self::new(row, what, 0.0, "ms p50");
        figure.runs = times.len();
        figure = figure.latency(times);
        figure.value = figure.p50_ms.unwrap_or_default();
        figure
    }

    pub fn latency(mut self, mut times: Vec<Duration>) -> Self {
        if !times.is_empty() {
            times.sort_unstable();
            self.p50_ms = Some(millis(percentile(&times, 50.0)));
            self.p99_ms = Some(millis(percentile(&times, 99.0)));
        }
        self
    }

    pub fn also(mut self, name: &'static str, value: f64) -> Self {
        self.also.insert(name, value);
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// One run.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub count: usize,
    pub took: Duration,
    pub latencies: Vec<Duration>,
    pub bytes: u64,
}

impl Sample {
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }

    pub fn gigabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e9 / self.took.as_secs_f64()
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The nearest rank of sorted times.
fn percentile(sorted: &[Duration], percent: f64) -> Duration {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn table(figures: &[Figure]) -> String {
    let header = ["row", "what", "median", "unit", "p50 ms", "p99 ms", "runs", "note"];
    let mut lines = vec![header.map(str::to_owned)];
    let ms = |value: Option<f64>| value.map(number).unwrap_or_default();
    lines.extend(figures.iter().map(|f| {
        let value = if f.runs == 0 { "-".to_owned() } else { number(f.value) };
        let (p50, p99) = (ms(f.p50_ms), ms(f.p99_ms));
        let (what, unit, runs) = (f.what.clone(), f.unit.to_owned(), f.runs.to_string());
        [f.row.to_owned(), what, value, unit, p50, p99, runs, f.note.clone()]
    }));
    let width = |i: usize| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let mut out = String::new();
    for line in &lines {
        for (i, cell) in line.iter().enumerate() {
            let width = widths[i];
            let _ = match i {
                2 | 4..=6 => write!(out, "{cell:>width$}  "),
                7 => write!(out, "{cell}"),
                _ => write!(out, "{cell:<width$}  "),
            };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50.0), Duration::from_millis(100));
        assert_eq!(percentile(&times, 99.0), Duration::from_millis(198));
        assert_eq!(percentile(&times[..1], 99.0), Duration::from_millis(1));
    }
}
