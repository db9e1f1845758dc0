//! Single messages with a confirm each: dead letters, replies, commands. Not for events, which the relay publishes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Mutex;

use crate::connection::{Link, Live};
use crate::error::BrokerError;

type Start = Box<dyn FnOnce() -> Link + Send>;

/// Publishes one message after another, mandatory, and waits for the confirm.
pub(crate) struct Publisher {
    link: LazyLock<Link, Start>,
    /// How long a connection is waited for.
    patience: Duration,
    channel: Mutex<Option<(Arc<Live>, Channel)>>,
}

impl Publisher {
    pub(crate) fn new(link: Link) -> Self {
        let link: Start = Box::new(move || link);
        Self { link: LazyLock::new(link), patience: Duration::ZERO, channel: Mutex::new(None) }
    }

    /// With a connection of its own that is made when there is something to say, which for most nodes is never.
    pub(crate) fn lazy(start: impl FnOnce() -> Link + Send + 'static, patience: Duration) -> Self {
        let link: Start = Box::new(start);
        Self { link: LazyLock::new(link), patience, channel: Mutex::new(None) }
    }

    async fn live(&self) -> Result<Arc<Live>, BrokerError> {
        match tokio::time::timeout(self.patience, self.link.live()).await {
            Ok(live) => Ok(live),
            Err(_) => self.link.now(),
        }
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
                let live = self.live().await?;
                let channel = live.confirming_channel().await?;
                (live, channel)
            }
        };
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let publish = async {
            channel.basic_publish(exchange_name, key_name, options, body, properties).await?.await
        };
        let confirmation = live.call("publish to", exchange, publish).await?;
        // A channel that was opened while a quorum queue lost its leader goes on to refuse (RabbitMQ 3.10).
        if !matches!(confirmation, Confirmation::Nack(None)) {
            *held = Some((live, channel));
        }
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
