//! `batch/v1` Job.

use super::BASE;
use crate::{BuiltIn, Object, Subresource};

pub static JOB: BuiltIn = BuiltIn {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    subresources: &[Subresource::Status],
    schema_type: "batch/v1.Job",
    selectable_fields: &["status.successful"],
    field: Some(field),
    has_generation: true,
    ..BASE
};

/// `status.successful` is the selector's old name of `status.succeeded`.
fn field(job: &Object, path: &str) -> Option<String> {
    (path == "status.successful").then(|| {
        job.at(&["status", "succeeded"]).and_then(|v| v.as_i64()).unwrap_or_default().to_string()
    })
}
