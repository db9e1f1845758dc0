//! `core/v1` PodSpec, as it stands in pods and in the templates of what makes pods.

pub(crate) mod defaults;
pub(crate) mod qos;
