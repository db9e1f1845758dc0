//! Waiting for a state, the only way in which tests wait.

use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(50);

/// Looks until there is a value.
///
/// # Panics
/// After `limit`, with what was waited for.
#[track_caller]
pub fn until_some<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        nap();
    }
}

/// Looks until it is true.
#[track_caller]
pub fn until(what: &str, limit: Duration, mut look: impl FnMut() -> bool) {
    until_some(what, limit, || look().then_some(()));
}

#[expect(clippy::disallowed_methods, reason = "between two looks at a state")]
pub(crate) fn nap() {
    std::thread::sleep(LOOK);
}
