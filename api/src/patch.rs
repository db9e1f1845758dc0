//! The four patch types. All are pure: a tree and a patch give a new tree.

mod apply;
mod fields;
mod json;
mod managed;
mod merge;
mod set;
mod strategic;

pub use apply::{ApplyError, Conflict, apply};
pub use json::json;
pub use managed::{Manager, track_update};
pub use merge::merge;
pub use strategic::strategic;

use crate::{Cause, Details, FieldError, Reason, Status};

/// Why a patch was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not of its form: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422.
    #[error("{0}")]
    DoesNotApply(String),
    /// A bound is exceeded: 413.
    #[error("{0}")]
    TooLarge(String),
}

impl PatchError {
    pub fn status(&self) -> Status {
        match self {
            PatchError::Malformed(why) => Status::bad_request(why.as_str()),
            PatchError::TooLarge(why) => Status::new(Reason::RequestEntityTooLarge, why.as_str()),
            PatchError::DoesNotApply(why) => Status {
                reason: Reason::Invalid,
                message: format!(
                    "the server rejected our request due to an error in our request: {why}"
                ),
                details: Some(Box::new(Details {
                    causes: vec![FieldError {
                        kind: Cause::UnexpectedServerResponse,
                        field: String::new(),
                        message: why.clone(),
                    }],
                    ..Details::default()
                })),
            },
        }
    }
}

#[cfg(test)]
mod tests;
