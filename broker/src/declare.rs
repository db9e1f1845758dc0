//! Declares what a [`Topology`] lists. What is there with other arguments [`crate::replace`] sees to.

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
    bind(live, channel, topology).await
}

async fn bind(live: &Live, channel: &Channel, topology: &Topology) -> Result<(), BrokerError> {
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

/// What all share. A queue that is there with other arguments is left as it is, its bindings too: its reader replaces it.
pub(crate) async fn declare_shared(live: &Live, topology: &Topology) -> Result<(), BrokerError> {
    let exchanges = Topology { exchanges: topology.exchanges.clone(), ..Topology::default() };
    declare(live, &exchanges).await?;
    for queue in &topology.queues {
        match declare(live, &topology.only(&queue.name)).await {
            Err(error) if error.is_other() => {
                let error = error.report();
                tracing::debug!(queue = %queue.name, %error, "to be replaced");
            }
            other => other?,
        }
    }
    Ok(())
}

/// From now on nothing is routed to it but by its name. What is not bound is no error: RabbitMQ answers so.
pub(crate) async fn unbind(live: &Live, topology: &Topology) -> Result<(), BrokerError> {
    let channel = live.channel().await?;
    for binding in &topology.bindings {
        let unbind = channel.queue_unbind(
            binding.queue.as_str().into(),
            binding.exchange.into(),
            binding.key.as_str().into(),
            binding.arguments.clone(),
        );
        live.call("unbind the queue", &binding.queue, unbind).await?;
    }
    let _ = channel.close(200, "".into()).await;
    Ok(())
}

/// A queue that is not there is no error: RabbitMQ answers so.
pub(crate) async fn delete(live: &Live, queue: &str) -> Result<(), BrokerError> {
    delete_with(live, queue, QueueDeleteOptions::default()).await
}

/// Only where nothing waits in it; not for quorum queues.
pub(crate) async fn delete_if_empty(live: &Live, queue: &str) -> Result<(), BrokerError> {
    delete_with(live, queue, QueueDeleteOptions { if_empty: true, ..Default::default() }).await
}

async fn delete_with(
    live: &Live,
    queue: &str,
    options: QueueDeleteOptions,
) -> Result<(), BrokerError> {
    let channel = live.channel().await?;
    let delete = channel.queue_delete(queue.into(), options);
    live.call("delete the queue", queue, delete).await.map(|_| ())
}
