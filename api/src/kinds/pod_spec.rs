//! `core/v1` PodSpec, as it stands in pods and in the templates of what makes pods.

mod affinity;
mod containers;
pub(crate) mod defaults;
mod env;
mod probes;
pub(crate) mod qos;
pub(crate) mod validate;
mod volumes;
pub(crate) mod warnings;

pub(crate) use containers::amount;
pub(crate) use probes::port;
