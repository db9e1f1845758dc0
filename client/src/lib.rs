//! How components talk to the API: a kube-rs client, and informers that the event fabric feeds.
//!
//! A process makes one [`Connection`], declares the resources it needs on one [`InformerSet`] (one subscription, shared
//! by all), and reads kube-rs' ordinary [`kube::runtime::reflector::Store`]s. Where there is no broker, or while it is
//! away, [`HttpFabric`] feeds the same informers from HTTP watch; [`Fallback`] changes over by itself.

mod amqp;
mod connect;
mod fallback;
mod hops;
mod http_fabric;
mod informer;
mod leader;
mod meta;
mod raw;
mod set;
pub mod testing;

pub use amqp::over_amqp;
pub use connect::{ConnectError, from_kubeconfig, in_process};
pub use fallback::Fallback;
pub use hops::answer_questions;
pub use http_fabric::HttpFabric;
pub use informer::{Cached, Change, Index, Informer};
#[doc(hidden)]
pub use leader::lease;
pub use leader::{Campaign, Leadership, Place, Turn};
pub use meta::MetaObject;
pub use set::InformerSet;

use std::sync::Arc;

use warren_broker::{Fabric, RabbitFabric};

/// The way to the API: requests through the client, changes through the fabric. Clones share both.
#[derive(Clone)]
pub struct Connection {
    pub client: kube::Client,
    pub fabric: Arc<dyn Fabric>,
    /// Whether the client can watch; else what the fabric does not bring is looked at now and then.
    pub watches: bool,
}

impl Connection {
    pub fn new(client: kube::Client, fabric: Arc<dyn Fabric>) -> Self {
        Self { client, fabric, watches: true }
    }

    /// Nothing but a broker: requests go by it as well, and there is no other way while it is away.
    pub fn over_amqp(broker: RabbitFabric) -> Self {
        let client = over_amqp(broker.api());
        Self { client, fabric: Arc::new(broker), watches: false }
    }

    /// Without a broker: changes come by HTTP watch.
    pub fn over_http(client: kube::Client) -> Self {
        let fabric = Arc::new(HttpFabric::new(client.clone()));
        Self { client, fabric, watches: true }
    }

    /// Changes come from the broker, and by HTTP watch while it is out of reach.
    pub fn with_fallback(client: kube::Client, broker: Arc<dyn Fabric>) -> Self {
        let fabric = Arc::new(Fallback::new(broker, HttpFabric::new(client.clone())));
        Self { client, fabric, watches: true }
    }
}

#[cfg(test)]
mod tests;
