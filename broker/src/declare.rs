//! Declares what a [`Topology`] lists.

use futures::{StreamExt, TryStreamExt};
use lapin::Channel;
use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};

use crate::connection::Live;
use crate::error::BrokerError;
use crate::topology::{Queue, Topology};

/// Calls under way at once on one channel.
const CONCURRENCY: usize = 8;
/// AMQP's PRECONDITION_FAILED: it is there with other arguments.
const PRECONDITION_FAILED: u16 = 406;

/// Idempotent. A failed call closes its channel, so it takes one of its own.
pub(crate) async fn declare(live: &Live, topology: &Topology) -> Result<(), BrokerError> {
    let channel = live.channel().await?;
    declare_on(live, &channel, topology).await
}

/// The same on a channel that goes on: exclusive queues belong to the connection anyway.
pub(crate) async fn declare_on(
    live: &Live,
    channel: &Channel,
    topology: &Topology,
) -> Result<(), BrokerError> {
    for exchange in &topology.exchanges {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let declare = channel.exchange_declare(
            exchange.name.into(),
            exchange.kind.clone(),
            options,
            Default::default(),
        );
        live.call("declare the exchange", exchange.name, declare).await?;
    }
    for queue in &topology.queues {
        declare_queue(live, channel, queue).await?;
    }
    futures::stream::iter(&topology.bindings)
        .map(Ok)
        .try_for_each_concurrent(CONCURRENCY, |binding| {
            let bind = channel.queue_bind(
                binding.queue.as_str().into(),
                binding.exchange.into(),
                binding.key.as_str().into(),
                QueueBindOptions::default(),
                binding.arguments.clone(),
            );
            live.call("bind the queue", &binding.queue, bind)
        })
        .await
}

async fn declare_queue(live: &Live, channel: &Channel, queue: &Queue) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions {
        durable: !queue.exclusive,
        exclusive: queue.exclusive,
        ..Default::default()
    };
    let declare =
        channel.queue_declare(queue.name.as_str().into(), options, queue.arguments.clone());
    live.call("declare the queue", &queue.name, declare).await.map(|_| ())
}

/// Declares queues that hold only what readers can list again, replacing one that is there with other arguments (an
/// earlier release's, or somebody's own).
pub(crate) async fn declare_replacing(live: &Live, topology: &Topology) -> Result<(), BrokerError> {
    match declare(live, topology).await {
        Err(error) if error.code() == Some(PRECONDITION_FAILED) => {
            for queue in &topology.queues {
                tracing::warn!(queue = %queue.name, error = %error.report(), "replacing a queue");
                delete(live, &queue.name).await?;
            }
            declare(live, topology).await
        }
        other => other,
    }
}

/// Shared queues may hold what nothing can bring back, so other arguments than ours are borne, and told.
pub(crate) async fn declare_bearing(live: &Live, topology: &Topology) -> Result<(), BrokerError> {
    let exchanges = Topology { exchanges: topology.exchanges.clone(), ..Topology::default() };
    declare(live, &exchanges).await?;
    for queue in &topology.queues {
        let one = Topology { queues: vec![queue.clone()], ..Topology::default() };
        match declare(live, &one).await {
            Err(error) if error.code() == Some(PRECONDITION_FAILED) => {
                let error = error.report();
                tracing::warn!(queue = %queue.name, %error, "a queue has other bounds than ours");
            }
            other => other?,
        }
    }
    let bindings = Topology { bindings: topology.bindings.clone(), ..Topology::default() };
    declare(live, &bindings).await
}

/// A queue that is not there is no error: RabbitMQ answers so.
pub(crate) async fn delete(live: &Live, queue: &str) -> Result<(), BrokerError> {
    let channel = live.channel().await?;
    let delete = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
    live.call("delete the queue", queue, delete).await.map(|_| ())
}
