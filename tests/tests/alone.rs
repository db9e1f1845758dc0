//! Nodes that nobody hears of: they go on, start again from their own disk, and tell in order what happened.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

mod alone {
    pub mod cold;
    pub mod mark;
    pub mod provisional;
    pub mod stopped;
}
