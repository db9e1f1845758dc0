//! Plumbing of a process: supervised tasks, shutdown, clock. Knows no Kubernetes.

mod clock;
mod tasks;

pub use clock::{Clock, ManualClock, SystemClock};
pub use tasks::{Shutdown, TaskError, Tasks};
