//! What ended before another began is not newer, over all keys: a write has a higher revision than all that was told
//! before it began, a list is of no lower one.

use std::fmt::Debug;

use super::answers::Versions;
use super::{Listing, Op, Outcome, Record, Time};

#[derive(Clone, Copy, PartialEq)]
enum What {
    Write,
    List,
    /// Tells of its own key only, which may be old: whether it is fresh is said there.
    Get,
}

struct Span<'a> {
    what: What,
    start: Time,
    end: Time,
    revision: u64,
    told: &'a dyn Debug,
}

pub(super) fn check(
    records: &[Record],
    listings: &[Listing],
    versions: &Versions<'_>,
) -> Vec<String> {
    let made = versions.keys.values().flatten().filter(|version| version.revision > 0);
    let made = made.map(|version| Span {
        what: What::Write,
        start: version.start,
        end: version.end,
        revision: version.revision,
        told: version,
    });
    let read = records.iter().filter_map(|record| match (&record.op, &record.outcome) {
        (Op::Get, Outcome::Is(state)) => Some(Span {
            what: What::Get,
            start: record.start,
            end: record.end,
            revision: state.revision,
            told: record,
        }),
        _ => None,
    });
    let listed = listings.iter().map(|listing| Span {
        what: What::List,
        start: listing.start,
        end: listing.end,
        revision: listing.revision,
        told: listing,
    });
    let mut by_start: Vec<Span<'_>> = made.chain(read).chain(listed).collect();
    by_start.sort_by_key(|span| span.start);
    let mut by_end: Vec<&Span<'_>> = by_start.iter().collect();
    by_end.sort_by_key(|span| span.end);

    let mut over = by_end.into_iter().peekable();
    let mut newest: Option<&Span<'_>> = None;
    let mut wrong = Vec::new();
    for span in by_start.iter().filter(|span| span.what != What::Get) {
        while let Some(ended) = over.next_if(|other| other.end < span.start) {
            if newest.is_none_or(|newest| ended.revision > newest.revision) {
                newest = Some(ended);
            }
        }
        let Some(newest) = newest else { continue };
        let is_wrong = match span.what {
            What::Write => newest.revision >= span.revision,
            _ => newest.revision > span.revision,
        };
        if is_wrong {
            wrong.push(format!("{:?} began after {:?} had ended", span.told, newest.told));
        }
    }
    wrong
}
