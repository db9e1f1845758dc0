//! What several rings know of one subject, as one story. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Step;

/// A hop as it is told. Times are microseconds since 1970, by the clock of the machine where it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub time: i64,
    pub component: String,
    pub instance: String,
    pub step: Step,
    pub uid: String,
    /// 0 where the change has none, or none that is known.
    pub revision: u64,
    pub detail: String,
}

/// What one ring knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub component: String,
    pub instance: String,
    /// By its clock, when it said so.
    pub now: i64,
    /// The oldest hop of the ring; what was before is forgotten. Nothing was forgotten where there is none.
    pub since: Option<i64>,
    pub hops: Vec<Record>,
}

/// A report, and when it was asked for and had, by the clock of who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    pub report: Report,
    pub asked: i64,
    pub had: i64,
}

/// Who was not asked, or has not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub who: String,
    pub why: String,
}

/// All that is known of a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    pub reports: Vec<Answered>,
    pub missing: Vec<Missing>,
}

/// A hop in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<'a> {
    pub hop: &'a Record,
    /// Microseconds since the hop before.
    pub after: i64,
}

impl Answered {
    /// How far its clock is ahead of the asker's, in microseconds, and by how much that may be wrong: it said its time at
    /// some moment between question and answer.
    pub fn skew(&self) -> (i64, i64) {
        let span = self.had.saturating_sub(self.asked).max(0);
        (self.report.now.saturating_sub(self.asked.saturating_add(span / 2)), span / 2 + 1)
    }
}

impl Story {
    /// All hops by their times; in the same microsecond in the order of their steps. Clocks that differ are not corrected.
    pub fn told(&self) -> Vec<Told<'_>> {
        let mut hops: Vec<&Record> =
            self.reports.iter().flat_map(|answered| &answered.report.hops).collect();
        hops.sort_by_key(|hop| (hop.time, hop.revision, hop.step));
        hops.dedup();
        let mut before = hops.first().map_or(0, |hop| hop.time);
        let mut told = Vec::with_capacity(hops.len());
        for hop in hops {
            told.push(Told { hop, after: hop.time.saturating_sub(before) });
            before = hop.time;
        }
        told
    }

    /// What the reader must know besides: who is missing, whose clock is another, what is forgotten.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for Missing { who, why } in &self.missing {
            notes.push(format!("not here: {who}: {why}"));
        }
        for answered in &self.reports {
            let (skew, error) = answered.skew();
            let who = format!("{} {}", answered.report.component, answered.report.instance);
            // A millisecond is less than a reader would take for an order.
            if skew.abs() > error.saturating_add(1_000) {
                let (ahead, error) = (milliseconds(skew), milliseconds(error));
                notes.push(format!(
                    "clocks differ: {who} is {ahead} ms ahead of the server (give or take {error}); its times stand as it told \
                     them"
                ));
            }
            if let Some(since) = answered.report.since {
                notes.push(format!("{who} remembers nothing before {}", clock(since)));
            }
        }
        notes
    }
}

impl Told<'_> {
    /// Time, since the hop before, who, what, which revision, and more.
    pub fn row(&self) -> Vec<String> {
        let Record { time, component, instance, step, revision, detail, .. } = self.hop;
        let revision = if *revision == 0 { "-".to_owned() } else { revision.to_string() };
        vec![
            clock(*time),
            format!("+{}", milliseconds(self.after)),
            format!("{component} {instance}"),
            step.name().to_owned(),
            revision,
            detail.clone(),
        ]
    }
}

/// `12:03:04.000123`, UTC.
fn clock(micros: i64) -> String {
    let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    let text = format!("{time:.6}");
    text.split_once('T')
        .map_or(text.as_str(), |(_, of_day)| of_day)
        .trim_end_matches('Z')
        .to_owned()
}

/// `1.234`
fn milliseconds(micros: i64) -> String {
    let mut text = String::new();
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.unsigned_abs();
    let _ = write!(text, "{sign}{}.{:03}", micros / 1000, micros % 1000);
    text
}
