//! What people do with a cluster, for whoever has no `kubectl`.

pub(crate) mod apply;
pub(crate) mod connection;
pub(crate) mod delete;
mod discovery;
pub(crate) mod events;
mod files;
pub(crate) mod get;
pub(crate) mod logs;
pub(crate) mod replay;
pub(crate) mod status;
pub(crate) mod trace;

pub(crate) use connection::{Connection, ConnectionArgs, Failure};
