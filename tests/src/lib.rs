//! What the black-box suites and the benchmarks share: a cluster under test and its clients.
//!
//! Nothing here knows Warren's insides: clusters are processes of the real binary, talked to over HTTPS and AMQP.

pub mod amqp;
pub mod chaos;
pub mod cluster;
mod contract;
pub mod disk;
pub mod docker;
pub mod document;
pub mod forwarded;
pub mod history;
pub mod http;
pub mod kubectl;
mod ports;
pub mod proxy;
pub mod rabbitmq;
pub mod running;
pub mod space;
mod wait;

pub use cluster::{Cluster, Options, Role, Runtime};
pub use disk::Disk;
pub use docker::Dockerd;
pub use http::Http;
pub use kubectl::Output;
pub use rabbitmq::{RabbitMq, RabbitMqCluster};
pub use space::Space;
pub use wait::{until, until_some};
