//! Plumbing of a process: supervised tasks, signals, readiness, clock, back-off, telemetry, metrics,
//! hops of changes. Knows no Kubernetes.

mod backoff;
mod clock;
mod metrics;
mod page;
mod readiness;
mod secret;
mod seldom;
mod signals;
mod tasks;
mod telemetry;
pub mod trace;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SystemClock};
pub use metrics::{
    Buckets, Family, FamilyKind, METRICS_CONTENT_TYPE, Metrics, Number, Sample, prometheus,
};
pub use page::serve_metrics;
/// For the types of metrics and labels that [`Metrics`] registers.
pub use prometheus_client;
pub use readiness::{CheckHandle, CheckReport, CheckState, Readiness};
pub use secret::Secret;
pub use seldom::Seldom;
pub use signals::shutdown_on_signals;
pub use tasks::{Shutdown, TaskError, Tasks};
pub use telemetry::{LOG_ENV, LogFormat, TelemetryError, init_telemetry};
