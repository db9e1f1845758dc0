//! Queues that are there with other arguments than ours, another type above all, are replaced without loss.
//!
//! AMQP cannot change or rename a queue, and a message that somebody else published cannot be published again with its
//! `user_id`. So what is shared is replaced by its own reader: another queue takes what comes ([`Topology::in_between`]), the
//! reader empties the old one as it reads ever ([`settle`], [`retire`]), the new one is declared, and the one in between is
//! emptied in turn ([`replace`]). Whatever is killed meanwhile, the next `settle` goes on from what it finds. Nothing is lost; what comes
//! while two queues are bound comes twice, which readers of commands and requests know by its id or content.

use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::time::Instant;

use crate::connection::{HEARTBEAT_SECONDS, Live};
use crate::declare;
use crate::error::BrokerError;
use crate::letter::Letter;
use crate::look::{QueueDepth, depth};
use crate::status::add;
use crate::topology::{self, QueueType, Topology};

/// What a node's queue still held for the node, and an event did not, among the dead letters.
const REPLACED: &str = "the node's queue was replaced before the node had read this; send it again";
/// A queue in use by somebody is looked at again after this.
const IN_USE_PAUSE: Duration = Duration::from_millis(100);
/// What a connection of ours that was killed or cut off reads is read no more within two heartbeats; who reads it still is
/// somebody else.
const IN_USE_WITHIN: Duration = Duration::from_secs(2 * HEARTBEAT_SECONDS as u64);

/// A queue to which nothing is routed any more, but by its name.
#[derive(Debug, PartialEq, Eq)]
struct Old {
    queue: String,
    /// Where its messages belong now.
    into: String,
    is_classic: bool,
    is_in_between: bool,
}

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// As we want it; perhaps we have just made it.
    Ours,
    /// Something else, of a type that only a reply code's text may tell.
    Other { is_classic: bool },
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// All is as it should be.
    Done,
    /// Declare and bind the one in between, unbind the queue, and empty it.
    PutAside { is_classic: bool },
    /// The queue is there and bound: unbind the one in between, and empty it.
    TakeBack,
}

/// Pure.
pub(crate) fn next(found: Found, in_between: bool) -> Step {
    match (found, in_between) {
        (Found::Other { is_classic }, _) => Step::PutAside { is_classic },
        (Found::Ours, true) => Step::TakeBack,
        (Found::Ours, false) => Step::Done,
    }
}

/// Who reads a shared queue, and so replaces it.
pub(crate) trait Empties {
    type Error: From<BrokerError>;

    /// Takes one message after another until none waits, each settled before the next.
    fn empty(
        &mut self,
        live: &Live,
        channel: &Channel,
        queue: &str,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// The queue as it should be; what waits in one of another type is read first.
pub(crate) async fn replace<R: Empties>(
    live: &Live,
    wanted: &Topology,
    queues: QueueType,
    reader: &mut R,
) -> Result<(), R::Error> {
    while let Some(old) = settle(live, wanted, queues).await? {
        // RabbitMQ 3.10 fails on a channel that has known a queue of the same name and another type.
        let channel = live.channel().await?;
        reader.empty(live, &channel, &old.queue).await?;
        let _ = channel.close(200, "".into()).await;
        retire(live, &old).await?;
    }
    Ok(())
}

/// Sees to one queue and its bindings. `Some`: empty that queue, [`retire`] it, and call again.
async fn settle(
    live: &Live,
    wanted: &Topology,
    queues: QueueType,
) -> Result<Option<Old>, BrokerError> {
    let Some(queue) = wanted.queues.first() else { return Ok(None) };
    let other = wanted.in_between();
    let Some(moving) = other.queues.first() else { return Ok(None) };
    let found = match declare::declare(live, wanted).await {
        Ok(()) => Found::Ours,
        Err(error) if error.is_other() => {
            Found::Other { is_classic: says_classic(&error.report()) }
        }
        Err(error) => return Err(error),
    };
    let in_between = depth(live, &moving.name).await?.is_some();
    match next(found, in_between) {
        Step::Done => Ok(None),
        Step::PutAside { is_classic } => {
            tracing::info!(queue = %queue.name, becomes = queues.name(), "replacing a queue");
            match declare::declare(live, &other).await {
                // Left by an attempt with yet other arguments: it takes messages all the same.
                Err(error) if error.is_other() => {
                    let bindings = Topology { queues: Vec::new(), ..other.clone() };
                    declare::declare(live, &bindings).await?;
                }
                other => other?,
            }
            declare::unbind(live, wanted).await?;
            let (queue, into) = (queue.name.clone(), moving.name.clone());
            Ok(Some(Old { queue, into, is_classic, is_in_between: false }))
        }
        Step::TakeBack => {
            declare::unbind(live, &other).await?;
            let is_classic = queues == QueueType::Classic;
            let (queue, into) = (moving.name.clone(), queue.name.clone());
            Ok(Some(Old { queue, into, is_classic, is_in_between: true }))
        }
    }
}

/// What became of a queue that was emptied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Retired {
    Gone,
    /// Something came by its name: empty it again.
    Filled,
    /// Somebody reads it still: what is in that reader's hands would be lost with it.
    InUse,
}

/// Deletes it where nothing is in it and nobody reads it. Of a quorum queue the broker deletes nothing "if empty", so what is
/// put into it by its name between a look and the deletion, about a millisecond, goes with it.
async fn try_retire(live: &Live, old: &Old) -> Result<Retired, BrokerError> {
    let depth = depth(live, &old.queue).await?;
    let verdict = verdict(depth);
    if verdict != Retired::Gone || depth.is_none() {
        return Ok(verdict);
    }
    let deleted = match old.is_classic {
        true => declare::delete_if_empty(live, &old.queue).await,
        false => declare::delete(live, &old.queue).await,
    };
    match deleted {
        Err(error) if error.is_other() => return Ok(Retired::Filled),
        other => other?,
    }
    if !old.is_in_between {
        add(&live.metrics.queues_replaced, 1);
    }
    Ok(Retired::Gone)
}

/// With all that is in it.
async fn delete_other(live: &Live, queue: &str) -> Result<(), BrokerError> {
    declare::delete(live, queue).await?;
    add(&live.metrics.queues_replaced, 1);
    Ok(())
}

fn verdict(depth: Option<QueueDepth>) -> Retired {
    match depth {
        None | Some(QueueDepth { messages: 0, consumers: 0 }) => Retired::Gone,
        Some(QueueDepth { messages: 0, .. }) => Retired::InUse,
        Some(_) => Retired::Filled,
    }
}

/// The same for a queue that nobody should read but ourselves: an earlier connection of ours, perhaps of a process that was
/// killed or cut off, is waited for. Of anybody else it is an error: whoever calls begins anew after a pause.
async fn retire(live: &Live, old: &Old) -> Result<(), BrokerError> {
    let since = Instant::now();
    while try_retire(live, old).await? == Retired::InUse {
        if since.elapsed() >= IN_USE_WITHIN {
            tracing::warn!(queue = %old.queue, "read by somebody else; not replaced until that ends");
            return Err(BrokerError::InUse(old.queue.clone()));
        }
        tokio::time::sleep(IN_USE_PAUSE).await;
    }
    Ok(())
}

fn says_classic(error: &str) -> bool {
    error.contains("current is 'classic'")
}

/// For a queue of dead letters, which nobody reads: whose they are stands in a header.
pub(crate) async fn replace_letters(
    live: &Live,
    wanted: &Topology,
    queues: QueueType,
) -> Result<(), BrokerError> {
    while let Some(old) = settle(live, wanted, queues).await? {
        let channel = live.confirming_channel().await?;
        while let Some(message) = get(live, &channel, &old.queue).await? {
            let properties = Letter::moved(&message.properties);
            put(live, &channel, "", &old.into, &message.data, properties).await?;
            ack(&channel, message.delivery_tag).await?;
        }
        let _ = channel.close(200, "".into()).await;
        // Somebody looks at the letters, and may for long.
        if try_retire(live, &old).await? == Retired::InUse {
            tracing::info!(queue = %old.queue, "not replaced yet: somebody reads it");
            return Ok(());
        }
    }
    Ok(())
}

/// A node's queue. Its events are listed by its reader, which the heads tell what it missed; what people put there by hand, and
/// the node has not read, becomes a dead letter.
pub(crate) async fn declare_node(
    live: &Live,
    topology: &Topology,
    server_account: &str,
) -> Result<(), BrokerError> {
    match declare::declare(live, topology).await {
        Err(error) if error.is_other() => {
            for queue in &topology.queues {
                tracing::info!(queue = %queue.name, why = %error.report(), "replacing a queue");
                rescue(live, &queue.name, server_account).await?;
                delete_other(live, &queue.name).await?;
            }
            declare::declare(live, topology).await
        }
        other => other,
    }
}

async fn rescue(live: &Live, queue: &str, server_account: &str) -> Result<(), BrokerError> {
    let channel = live.confirming_channel().await?;
    while let Some(mut message) = get(live, &channel, queue).await? {
        let user = message.properties.user_id().as_ref().map(|user| user.as_str().to_owned());
        let is_event = message.exchange.as_str() == topology::EVENTS
            && user.as_deref() == Some(server_account);
        if !is_event {
            // It was not tried.
            let body = std::mem::take(&mut message.data).into();
            let letter = Letter::new(&message, body, 0);
            let properties = letter.properties(queue, REPLACED, server_account);
            put(live, &channel, topology::DEAD, "", &letter.body, properties).await?;
        }
        ack(&channel, message.delivery_tag).await?;
    }
    let _ = channel.close(200, "".into()).await;
    Ok(())
}

/// A queue that several processes declare, of which none may take it from the others: replaced where nobody reads it, else
/// taken as it is. What is in it is good for a second only.
pub(crate) async fn declare_yielding(live: &Live, topology: &Topology) -> Result<(), BrokerError> {
    let error = match declare::declare(live, topology).await {
        Err(error) if error.is_other() => error.report(),
        other => return other,
    };
    for queue in &topology.queues {
        let in_use = depth(live, &queue.name).await?.is_some_and(|depth| depth.consumers > 0);
        if in_use {
            tracing::info!(queue = %queue.name, why = %error, "others use this queue as it is");
            let bindings = Topology { queues: Vec::new(), ..topology.clone() };
            return declare::declare(live, &bindings).await;
        }
        tracing::info!(queue = %queue.name, why = %error, "replacing a queue");
        delete_other(live, &queue.name).await?;
    }
    declare::declare(live, topology).await
}

/// The next message that waits, unacknowledged.
pub(crate) async fn get(
    live: &Live,
    channel: &Channel,
    queue: &str,
) -> Result<Option<lapin::message::Delivery>, BrokerError> {
    let get = channel.basic_get(queue.into(), BasicGetOptions::default());
    Ok(live.call("get from", queue, get).await?.map(|message| message.delivery))
}

async fn ack(channel: &Channel, tag: u64) -> Result<(), BrokerError> {
    let acked = channel.basic_ack(tag, BasicAckOptions::default()).await;
    acked.map_err(|error| BrokerError::Disconnected(error.to_string()))
}

/// Waits for the confirm; an error where the broker did not take it.
async fn put(
    live: &Live,
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), BrokerError> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let publish = async {
        channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?.await
    };
    match live.call("move a message to", key, publish).await? {
        Confirmation::Ack(None) => Ok(()),
        _ => Err(BrokerError::Publish {
            exchange: exchange.to_owned(),
            key: key.to_owned(),
            reason: "not taken".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// The steps from each state that a kill can leave.
    #[test]
    fn a_replacement_goes_on_from_wherever_it_was_left() {
        let steps = |mut found: Found, mut in_between: bool| {
            let mut steps = Vec::new();
            loop {
                let step = next(found, in_between);
                match step {
                    Step::Done => return steps,
                    // Emptied and deleted; the next look declares it anew.
                    Step::PutAside { .. } => (found, in_between) = (Found::Ours, true),
                    Step::TakeBack => in_between = false,
                }
                steps.push(step);
            }
        };
        let other = Found::Other { is_classic: true };
        let table = [(Found::Ours, false), (Found::Ours, true), (other, false), (other, true)];
        let shown = table.map(|(found, moving)| format!("{:?}", steps(found, moving)));
        expect![[r#"
            []
            [TakeBack]
            [PutAside { is_classic: true }, TakeBack]
            [PutAside { is_classic: true }, TakeBack]"#]]
        .assert_eq(&shown.join("\n"));
    }

    #[test]
    fn what_somebody_has_in_hand_is_not_deleted() {
        let table = [None, Some((0, 0)), Some((0, 1)), Some((1, 0)), Some((1, 1))];
        let depth = |(messages, consumers)| QueueDepth { messages, consumers };
        let shown = table.map(|counts| format!("{:?}", verdict(counts.map(depth))));
        assert_eq!(shown, ["Gone", "Gone", "InUse", "Filled", "Filled"]);
    }

    #[test]
    fn the_broker_may_tell_the_type() {
        let text = "inequivalent arg 'x-queue-type' for queue 'q': received 'quorum' but current is 'classic'";
        assert!(says_classic(text));
        assert!(!says_classic(
            "inequivalent arg 'x-delivery-limit': received none but current is 3"
        ));
    }
}
