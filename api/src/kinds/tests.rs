//! Tests over all kinds.

use std::collections::HashSet;

use crate::{ErrorList, Kind, Registry};

/// Errors, one a line.
pub(crate) fn show(errors: &ErrorList) -> String {
    errors.0.iter().map(|e| format!("{}: {}\n", e.field, e.message)).collect()
}

#[test]
fn names_are_unique_and_sorted() {
    let kinds: Vec<&dyn Kind> = Registry::builtin().iter().collect();
    let mut seen = HashSet::new();
    for kind in &kinds {
        assert!(seen.insert((kind.group(), kind.plural())), "{} twice", kind.resource());
        assert_eq!(kind.plural(), kind.plural().to_lowercase());
        assert_eq!(kind.singular(), kind.kind().to_lowercase());
    }
    // Short names are looked up without a group.
    let mut short = HashSet::new();
    for name in kinds.iter().flat_map(|k| k.short_names()) {
        assert!(short.insert(*name), "short name {name} twice");
    }
    assert!(kinds.is_sorted_by_key(|k| (k.group(), k.plural())));
}
