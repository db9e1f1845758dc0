//! What is in the reader's hands, and how it leaves them: acknowledged, given back, or among the dead letters.

use std::collections::BTreeSet;

use lapin::options::{BasicAckOptions, BasicNackOptions};

use super::*;

/// What the subscriber's handle tells its task.
pub(crate) enum Tell {
    Settle { generation: u64, tag: u64, how: How },
    Listed { streams: Vec<Stream>, at: Revision },
    Heads { connection: u64, heads: Option<Heads> },
}

pub(crate) enum How {
    Ack,
    Return,
    Reject(String),
}

struct RabbitAck {
    generation: u64,
    tag: u64,
    tell: Option<mpsc::UnboundedSender<Tell>>,
}

impl RabbitAck {
    fn settle(&mut self, how: How) {
        if let Some(tell) = self.tell.take() {
            let (generation, tag) = (self.generation, self.tag);
            // The session may have ended; the broker then gives the message to the next one.
            let _ = tell.send(Tell::Settle { generation, tag, how });
        }
    }
}

#[async_trait]
impl Ack for RabbitAck {
    async fn ack(mut self: Box<Self>) {
        self.settle(How::Ack);
    }

    async fn reject(mut self: Box<Self>, reason: String) {
        self.settle(How::Reject(reason));
    }
}

impl Drop for RabbitAck {
    fn drop(&mut self) {
        self.settle(How::Return);
    }
}

/// What is in the reader's hands.
#[derive(Default)]
pub(super) struct Held {
    pub(super) revision: Option<Revision>,
    pub(super) content: Option<Fingerprint>,
    /// Known for commands only: what a dead letter is made of.
    pub(super) letter: Option<Box<Letter>>,
    /// Over what is read.
    pub(super) too_large: bool,
}

impl Session {
    pub(super) fn hold(&mut self, tag: u64, held: Held) -> Box<dyn Ack> {
        self.held.insert(tag, held);
        self.tell_open();
        Box::new(RabbitAck { generation: self.generation, tag, tell: Some(self.tell.clone()) })
    }

    pub(super) async fn told(
        &mut self,
        channel: &Channel,
        queue: &str,
        tell: Tell,
    ) -> Result<(), End> {
        let mut acked = BTreeSet::new();
        let mut next = Some(tell);
        while let Some(tell) = next {
            match tell {
                Tell::Listed { streams, at } => {
                    let relist = self.reader.as_mut().and_then(|r| r.listed(&streams, at));
                    if let Some(relist) = relist {
                        add(&self.metrics.gaps, 1);
                        self.relist(relist).await?;
                    }
                }
                Tell::Heads { connection, heads } if connection == self.connection => {
                    self.heads_told(heads).await?;
                }
                Tell::Heads { .. } => {}
                Tell::Settle { generation, tag, how } if generation == self.generation => {
                    match (how, self.held.get(&tag)) {
                        (_, None) => {}
                        (How::Ack, Some(held)) => {
                            if let (Some(revision), Some(reader)) =
                                (held.revision, &mut self.reader)
                            {
                                reader.confirmed(revision);
                            }
                            if let Some(content) = &held.content {
                                self.counts.remove(content);
                            }
                            acked.insert(tag);
                        }
                        (How::Return, Some(_)) => self.give_back(tag),
                        (How::Reject(reason), Some(_)) => {
                            self.reject(channel, queue, tag, reason).await?;
                        }
                    }
                }
                // Of a connection that is no more: the broker gives it again, and the rule knows it.
                Tell::Settle { .. } => {}
            }
            next = self.told.try_recv().ok();
        }
        // One frame for all that are the oldest; what waits to be given back is held as well, so never among them.
        let mut up_to = None;
        while let (Some((oldest, _)), Some(first)) = (self.held.first_key_value(), acked.first())
            && oldest == first
        {
            up_to = acked.pop_first();
            self.held.pop_first();
        }
        if let Some(tag) = up_to {
            channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
        }
        for tag in acked {
            self.held.remove(&tag);
            self.acknowledge(channel, tag).await?;
        }
        self.tell_open();
        Ok(())
    }

    /// Without a connection nothing is to be settled, and heads say nothing of what was lost with it.
    pub(super) fn told_away(&mut self, tell: Tell) {
        if let (Tell::Listed { streams, at }, Some(reader)) = (tell, &mut self.reader) {
            reader.listed_away(&streams, at);
        }
    }

    pub(super) fn give_back(&mut self, tag: u64) {
        add(&self.metrics.returned, 1);
        self.returning.push(tag);
        let Some(held) = self.held.get(&tag) else { return };
        if let (Some(revision), Some(reader)) = (held.revision, &mut self.reader) {
            reader.returned(revision);
        }
        if let Some(content) = held.content {
            self.seen.forget(&content);
            if self.counts.len() >= MAX_COUNTED {
                self.counts.clear();
            }
            *self.counts.entry(content).or_default() += 1;
        }
    }

    /// What was given back goes back to its queue.
    pub(super) async fn returned(&mut self, channel: &Channel) -> Result<(), End> {
        for tag in std::mem::take(&mut self.returning) {
            self.held.remove(&tag);
            let options = BasicNackOptions { requeue: true, ..Default::default() };
            channel.basic_nack(tag, options).await?;
        }
        self.tell_open();
        Ok(())
    }

    /// The connection is gone; the broker gives all of it again.
    pub(super) fn forget_held(&mut self) {
        for held in std::mem::take(&mut self.held).into_values() {
            if let Some(content) = held.content {
                self.seen.forget(&content);
            }
        }
        self.returning.clear();
        self.tell_open();
    }

    /// The gauge is the sum of all readers of the process.
    pub(super) fn tell_open(&mut self) {
        let now = self.held.len() as u64;
        let told = std::mem::replace(&mut self.told_open, now);
        add(&self.metrics.open_deliveries, now);
        sub(&self.metrics.open_deliveries, told);
    }

    pub(super) async fn acknowledge(&self, channel: &Channel, tag: u64) -> Result<(), End> {
        channel.basic_ack(tag, BasicAckOptions::default()).await.map_err(End::from)
    }

    /// What the reader could not use.
    pub(super) async fn reject(
        &mut self,
        channel: &Channel,
        queue: &str,
        tag: u64,
        reason: String,
    ) -> Result<(), End> {
        let Some(held) = self.held.remove(&tag) else { return Ok(()) };
        if let (Some(revision), Some(reader)) = (held.revision, &mut self.reader) {
            reader.confirmed(revision);
        }
        if let Some(content) = &held.content {
            self.counts.remove(content);
            // Nothing came of it; what stood in its way may be gone when it is said again.
            self.seen.forget(content);
        }
        let why = if held.too_large { Dead::TooLarge } else { Dead::Refused };
        self.bury(channel, queue, tag, held.letter.as_deref(), why, &reason).await
    }

    /// To the dead letters, with the reason where a letter is given and can be sent.
    pub(super) async fn bury(
        &self,
        channel: &Channel,
        queue: &str,
        tag: u64,
        letter: Option<&Letter>,
        why: Dead,
        reason: &str,
    ) -> Result<(), End> {
        self.metrics.buried(why);
        if let Some(left_out) = self.log.pass("cannot be used") {
            tracing::warn!(queue, reason, left_out, "a message that cannot be used");
        }
        if let (Some(letter), Some(to)) = (letter, &self.dead_letters) {
            let properties = letter.properties(queue, reason, &to.account);
            match to.publisher.publish(to.exchange, &to.key, &letter.body, properties).await {
                Ok(()) => return self.acknowledge(channel, tag).await,
                Err(error) => {
                    if let Some(left_out) = self.log.pass("left to the broker") {
                        let error = error.report();
                        tracing::warn!(%error, left_out, "leaving a dead letter to the broker");
                    }
                }
            }
        }
        add(&self.metrics.bare_dead_letters, 1);
        let options = BasicNackOptions { requeue: false, ..Default::default() };
        channel.basic_nack(tag, options).await.map_err(End::from)
    }
}
