//! A dead letter: what was sent, with the reason why nobody could use it.

use lapin::types::{AMQPValue, LongString, ShortString};

use super::*;

pub(super) struct Letter {
    pub(super) body: Bytes,
    properties: lapin::BasicProperties,
    exchange: String,
    routing_key: String,
    count: u32,
}

/// Where a session writes what its reader could not use, with the reason; where it cannot, the broker moves the message,
/// without.
pub(crate) struct DeadLetters {
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) exchange: &'static str,
    pub(crate) key: String,
    /// Whose words the reason is; the broker vouches for it.
    pub(crate) account: String,
}

impl Letter {
    /// `body` is the message's, or the start of it.
    pub(super) fn new(message: &Message, body: Bytes, count: u32) -> Self {
        Self {
            body,
            properties: message.properties.clone(),
            exchange: message.exchange.as_str().to_owned(),
            routing_key: message.routing_key.as_str().to_owned(),
            count,
        }
    }

    /// The sender's, with the reason, where it was, and how often it was tried.
    pub(super) fn properties(
        &self,
        queue: &str,
        reason: &str,
        account: &str,
    ) -> lapin::BasicProperties {
        let text = |s: &str| AMQPValue::LongString(LongString::from(s));
        let mut headers = self.properties.headers().clone().unwrap_or_default().inner().clone();
        // Ours alone to say.
        headers.remove("x-user-id");
        let mut headers = FieldTable::from(headers);
        // A cut on a character's border: the header must stay small and readable.
        let reason: String = reason.chars().take(1_000).collect();
        headers.insert("x-reason".into(), text(&reason));
        headers.insert("x-origin".into(), text(queue));
        headers.insert("x-origin-exchange".into(), text(&self.exchange));
        headers.insert("x-origin-key".into(), text(&self.routing_key));
        headers.insert("x-count".into(), AMQPValue::LongLongInt(self.count.into()));
        if let Some(user) = self.properties.user_id() {
            // Ours goes into the property, or the broker refuses the message.
            headers.insert("x-user-id".into(), text(user.as_str()));
        }
        let mut letter =
            lapin::BasicProperties::default().with_headers(headers).with_delivery_mode(2);
        if let Ok(account) = ShortString::try_new(account) {
            letter = letter.with_user_id(account);
        }
        if let Some(id) = self.properties.message_id() {
            letter = letter.with_message_id(id.clone());
        }
        if let Some(kind) = self.properties.content_type() {
            letter = letter.with_content_type(kind.clone());
        }
        letter
    }
}
