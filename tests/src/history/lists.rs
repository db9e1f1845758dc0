//! A list is what was there at its revision, all of it, filtered right.

use std::collections::BTreeMap;

use super::{Change, Listing, State};

pub(super) fn check(listings: &[Listing], changes: &[Change]) -> Vec<String> {
    let mut by_revision: Vec<&Listing> = listings.iter().collect();
    by_revision.sort_by_key(|listing| listing.revision);
    let mut there: BTreeMap<&str, &State> = BTreeMap::new();
    let mut changes = changes.iter().peekable();
    let mut wrong = Vec::new();
    for listing in by_revision {
        while let Some(change) = changes.next_if(|change| change.revision <= listing.revision) {
            match change.gone {
                true => there.remove(&*change.key),
                false => there.insert(&change.key, &change.state),
            };
        }
        let is_listed = |key: &str, state: &State| {
            key.starts_with(&format!("{}/", listing.resource))
                && listing.selection.selects(key, state)
        };
        let wanted = there.iter().map(|(key, state)| (*key, *state));
        let wanted = wanted.filter(|(key, state)| is_listed(key, state));
        if !wanted.eq(listing.items.iter().map(|(key, state)| (&**key, state))) {
            wrong.push(format!("{listing:?}: this was not there at its revision"));
        }
    }
    wrong
}
