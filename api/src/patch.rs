//! The four patch types. All are pure: a tree and a patch give a new tree.

mod apply;
mod fields;
mod json;
mod managed;
mod merge;
mod set;
mod strategic;
mod typed;

pub use apply::{ApplyError, Conflict, apply, check_applied};
pub use json::json;
pub use managed::{Manager, track_update};
pub use merge::merge;
pub use strategic::strategic;

use serde_json::Value;

use crate::{Reason, Status};

/// Why a patch was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not of its form: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422.
    #[error("{0}")]
    DoesNotApply(String),
    /// The patch is nothing that can be merged, in words that Kubernetes hands on without a reason: 500.
    #[error("{0}")]
    Unmergeable(String),
    /// A bound is exceeded: 413.
    #[error("Request entity too large: {0}")]
    TooLarge(String),
}

impl PatchError {
    pub fn status(&self) -> Status {
        match self {
            PatchError::Malformed(why) => Status::bad_request(why.as_str()),
            PatchError::TooLarge(_) => Status::new(Reason::RequestEntityTooLarge, self.to_string()),
            PatchError::Unmergeable(why) => Status::unknown(why.as_str()),
            // Kubernetes does not say which operation failed, nor why.
            PatchError::DoesNotApply(_) => Status::generic(Reason::Invalid),
        }
    }
}

/// How Go's decoder says that a value is of another type than the patch's.
fn unmarshal(value: &Value, go_type: &str) -> String {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {found} into Go value of type {go_type}")
}

const GO_MAP: &str = "map[string]interface {}";

/// As Go's `%v` prints what was decoded from JSON: `map[a:1 b:[x y]]`.
pub fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_print).collect::<Vec<_>>().join(" "))
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let shown: Vec<String> =
                entries.iter().map(|(key, value)| format!("{key}:{}", go_print(value))).collect();
            format!("map[{}]", shown.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
