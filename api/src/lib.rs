//! What an object is: kinds, schemas, selectors, quantities, patches, validation, manifests.
//!
//! No I/O, no async, no clock: every function here is a pure function of its arguments, so that the server, the
//! agents, the command line and the tests share one meaning of an object. An object is a JSON tree ([`Object`]) plus
//! a schema ([`Kind::schema_type`]); nothing unknown is silently lost.

mod conversion;
pub mod duration;
mod encode;
mod fence;
mod key;
mod kind;
pub mod kinds;
mod lease;
pub mod manifest;
mod object;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
mod status;
mod suffix;
mod tree;
pub mod validation;
pub mod yaml;

pub use conversion::Conversion;
pub use fence::{FENCE_HEADER, Fence};
pub use key::{GroupResource, NodeName, ObjectKey, Revision, Shard, Uid};
pub use kind::{BuiltIn, Column, ColumnType, Kind, Registry, Scope, Subresource};
pub use lease::{LEADER_QUEUE, LISTED, Listed};
pub use object::Object;
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector};
pub use status::{Cause, Details, ErrorList, FieldError, Reason, Status};
pub use suffix::{letters, suffix};
