//! What a session does with a delivery: an event is judged, all else is a command.

use super::*;

/// What of a larger one is kept in its dead letter.
const SHOWN_OF_OVERSIZE: usize = 4 << 10;

impl Session {
    pub(super) async fn delivered(
        &mut self,
        channel: &Channel,
        queue: &str,
        mut message: Message,
    ) -> Result<(), End> {
        if message.redelivered {
            add(&self.metrics.redelivered, 1);
        }
        let tag = message.delivery_tag;
        let user = message.properties.user_id().as_ref().map(|user| user.as_str().to_owned());
        let is_event = message.exchange.as_str() == EVENTS
            && user.as_deref() == Some(self.server_account.as_str());
        if !is_event {
            return self.command(channel, queue, message, user).await;
        }
        let body = Bytes::from(std::mem::take(&mut message.data));
        let Some(reader) = &mut self.reader else {
            let letter = Letter::new(&message, body, 1);
            let reason = "an event, where commands are read";
            return self.bury(channel, queue, tag, Some(&letter), Dead::Unreadable, reason).await;
        };
        match decode(&message.properties, &body) {
            Ok(Incoming::Event(event)) => match reader.event(&event) {
                Verdict::Apply => self.event(event, tag).await,
                Verdict::Relist(relist) => {
                    add(&self.metrics.gaps, u64::from(!relist.streams.is_empty()));
                    self.relist(relist).await?;
                    self.event(event, tag).await
                }
                Verdict::Drop(why) => {
                    add(&self.metrics.dropped, 1);
                    if why == Dropped::NotOurs {
                        let shards = event.shards.iter().map(|(shard, _)| Shard::word(shard));
                        let shards = shards.collect::<Vec<_>>().join(" ");
                        tracing::debug!(key = %event.key, shards, "an event that nobody asked for");
                    }
                    self.acknowledge(channel, tag).await
                }
            },
            Ok(Incoming::Present { epoch, .. }) if reader.is_past(epoch) => {
                add(&self.metrics.dropped, 1);
                self.acknowledge(channel, tag).await
            }
            Ok(Incoming::Present { present, .. }) => {
                let ack = self.hold(tag, Held::default());
                self.send(Delivery::Present(present, ack)).await.map_err(End::from)
            }
            Ok(Incoming::Floor { epoch, floor }) => {
                let relist = reader.floor(epoch, floor);
                self.acknowledge(channel, tag).await?;
                match relist {
                    Some(relist) => self.relist(relist).await.map_err(End::from),
                    None => Ok(()),
                }
            }
            Err(error) => {
                let relist = reader.unreadable();
                let letter = Letter::new(&message, body, 1);
                let reason = error.to_string();
                self.bury(channel, queue, tag, Some(&letter), Dead::Unreadable, &reason).await?;
                self.relist(relist).await.map_err(End::from)
            }
        }
    }

    async fn event(&mut self, event: crate::Event, tag: u64) -> Result<(), End> {
        let held =
            Held { revision: Some(event.revision), content: None, letter: None, too_large: false };
        let ack = self.hold(tag, held);
        add(&self.metrics.events, 1);
        self.send(Delivery::Event(event, ack)).await.map_err(End::from)
    }

    async fn command(
        &mut self,
        channel: &Channel,
        queue: &str,
        mut message: Message,
        publisher: Option<String>,
    ) -> Result<(), End> {
        let tag = message.delivery_tag;
        let routing_key = message.routing_key.as_str().to_owned();
        if message.data.len() > MAX_COMMAND_BYTES {
            let reason =
                format!("{} bytes; a command has at most {MAX_COMMAND_BYTES}", message.data.len());
            let letter = self.dead_letters.is_some().then(|| {
                // Enough to see what it is; all of it would push other letters out.
                let start = Bytes::copy_from_slice(&message.data[..SHOWN_OF_OVERSIZE]);
                Box::new(Letter::new(&message, start, 1))
            });
            let held = Held { revision: None, content: None, letter, too_large: true };
            self.held.insert(tag, held);
            return self.reject(channel, queue, tag, reason).await;
        }
        let text = |s: &Option<lapin::types::ShortString>| {
            s.as_ref().map(|s| s.as_str().to_owned()).filter(|s| !s.is_empty())
        };
        let message_id = text(message.properties.message_id());
        let said = match &message_id {
            Some(id) => Said::Id(id),
            None => Said::Body(&message.data),
        };
        let content = fingerprint(&routing_key, publisher.as_deref(), said);
        let repeated = !self.seen.is_new(content, Instant::now());
        // Without an id a repetition may be a second wish; what the broker brings again is none.
        if repeated && (message_id.is_some() || message.redelivered) {
            add(&self.metrics.duplicates, 1);
            if let Some(left_out) = self.log.pass("came before") {
                tracing::info!(
                    queue,
                    routing_key,
                    publisher,
                    left_out,
                    "dropped a message that came before within ten minutes"
                );
            }
            return self.acknowledge(channel, tag).await;
        }
        let count = self.counts.get(&content).copied().unwrap_or(0) + 1;
        let body = Bytes::from(std::mem::take(&mut message.data));
        let reply = text(message.properties.reply_to()).map(|queue| ReplyTo {
            queue,
            correlation_id: text(message.properties.correlation_id()),
        });
        let letter = self
            .dead_letters
            .is_some()
            .then(|| Box::new(Letter::new(&message, body.clone(), count)));
        let held = Held { revision: None, content: Some(content), letter, too_large: false };
        let ack = self.hold(tag, held);
        add(&self.metrics.commands, 1);
        // The server alone has something to say there.
        let imitation = is_imitation(&message.properties) || message.exchange.as_str() == EVENTS;
        let command = Delivery::Command {
            body,
            message_id,
            publisher,
            repeated,
            routing_key,
            reply,
            imitation,
            ack,
        };
        self.send(command).await.map_err(End::from)
    }
}
