//! Single messages with a confirm each: dead letters, replies, commands. Not for events, which the relay publishes.

use std::sync::Arc;

use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Mutex;

use crate::connection::{Link, Live};
use crate::error::BrokerError;

/// Publishes one message after another, mandatory, and waits for the confirm.
pub(crate) struct Publisher {
    link: Link,
    channel: Mutex<Option<(Arc<Live>, Channel)>>,
}

impl Publisher {
    pub(crate) fn new(link: Link) -> Self {
        Self { link, channel: Mutex::new(None) }
    }

    /// An error where the broker is away, refuses, or has no queue for it. No retries.
    pub(crate) async fn publish(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), BrokerError> {
        let failed = |reason: String| BrokerError::Publish {
            exchange: exchange.to_owned(),
            key: key.chars().take(255).collect(),
            reason,
        };
        let name = |s: &str| ShortString::try_new(s).map_err(|error| failed(error.to_string()));
        let (exchange_name, key_name) = (name(exchange)?, name(key)?);
        let mut held = self.channel.lock().await;
        let (live, channel) = match held.take() {
            Some((live, channel)) if !live.is_ended() && channel.status().connected() => {
                (live, channel)
            }
            _ => {
                let live = self.link.now()?;
                let channel = live.confirming_channel().await?;
                (live, channel)
            }
        };
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let publish = async {
            channel.basic_publish(exchange_name, key_name, options, body, properties).await?.await
        };
        let confirmation = live.call("publish to", exchange, publish).await?;
        *held = Some((live, channel));
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(back)) | Confirmation::Nack(Some(back)) => {
                Err(failed(back.reply_text.to_string()))
            }
            Confirmation::Nack(None) => Err(failed("refused; the queue is full".to_owned())),
            Confirmation::NotRequested => Err(failed("not confirmed".to_owned())),
        }
    }
}
