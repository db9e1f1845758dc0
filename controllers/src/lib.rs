//! Controllers and the scheduler: `decide` is pure, `execute` has no choices left.
