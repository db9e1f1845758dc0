//! A dead letter: what was sent, with the reason why nobody could use it.

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery as Message;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::envelope::text;
use crate::publish::Publisher;

pub(crate) struct Letter {
    pub(crate) body: Bytes,
    properties: BasicProperties,
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
    pub(crate) fn new(message: &Message, body: Bytes, count: u32) -> Self {
        Self {
            body,
            properties: message.properties.clone(),
            exchange: message.exchange.as_str().to_owned(),
            routing_key: message.routing_key.as_str().to_owned(),
            count,
        }
    }

    /// The sender's, with the reason, where it was, and how often it was tried.
    pub(crate) fn properties(&self, queue: &str, reason: &str, account: &str) -> BasicProperties {
        let mut headers = signed(&self.properties);
        // A cut on a character's border: the header must stay small and readable.
        let reason: String = reason.chars().take(1_000).collect();
        headers.insert("x-reason".into(), text(&reason));
        headers.insert("x-origin".into(), text(queue));
        headers.insert("x-origin-exchange".into(), text(&self.exchange));
        headers.insert("x-origin-key".into(), text(&self.routing_key));
        headers.insert("x-count".into(), AMQPValue::LongLongInt(self.count.into()));
        let letter = of(&self.properties, headers);
        match ShortString::try_new(account) {
            Ok(account) => letter.with_user_id(account),
            Err(_) => letter,
        }
    }

    /// Of what is among the dead letters, to move it to another queue. A letter that gives a reason says already who wrote
    /// the message.
    pub(crate) fn moved(properties: &BasicProperties) -> BasicProperties {
        let headers = properties.headers().clone().unwrap_or_default();
        let is_letter = headers.inner().contains_key("x-reason");
        of(properties, if is_letter { headers } else { signed(properties) })
    }
}

/// Whom the broker vouched for moves into a header, which nobody else may have set: the property can only be our own account.
fn signed(properties: &BasicProperties) -> FieldTable {
    let mut headers = properties.headers().clone().unwrap_or_default().inner().clone();
    headers.remove("x-user-id");
    if let Some(user) = properties.user_id() {
        headers.insert("x-user-id".into(), text(user.as_str()));
    }
    FieldTable::from(headers)
}

fn of(properties: &BasicProperties, headers: FieldTable) -> BasicProperties {
    let mut letter = BasicProperties::default().with_headers(headers).with_delivery_mode(2);
    if let Some(id) = properties.message_id() {
        letter = letter.with_message_id(id.clone());
    }
    if let Some(kind) = properties.content_type() {
        letter = letter.with_content_type(kind.clone());
    }
    letter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_says_who_wrote_the_message_and_nobody_else_does() {
        let user = |letter: &BasicProperties| {
            let headers = letter.headers().clone().unwrap_or_default();
            headers.inner().get("x-user-id").cloned()
        };
        let letter = |sent: &BasicProperties| {
            let letter = Letter {
                body: Bytes::new(),
                properties: sent.clone(),
                exchange: "e".to_owned(),
                routing_key: "k".to_owned(),
                count: 0,
            };
            letter.properties("q", "why", "server")
        };
        let mut forged = FieldTable::default();
        forged.insert("x-user-id".into(), text("admin"));
        forged.insert("x-reason".into(), text("mine"));
        let sent = BasicProperties::default().with_headers(forged);
        let signed = sent.clone().with_user_id("eve".into());
        assert_eq!(user(&letter(&sent)), None);
        assert_eq!(user(&letter(&signed)), Some(text("eve")));
        assert_eq!(letter(&signed).user_id().as_ref().map(ShortString::as_str), Some("server"));
        // What has the server's or a node's reason already.
        assert_eq!(user(&Letter::moved(&letter(&signed))), Some(text("eve")));
        assert!(Letter::moved(&letter(&signed)).user_id().is_none());
        // What the broker moved, without one.
        let mut bare = FieldTable::default();
        bare.insert("x-user-id".into(), text("admin"));
        let bare = BasicProperties::default().with_headers(bare);
        assert_eq!(user(&Letter::moved(&bare)), None);
        let signed = bare.with_user_id("eve".into());
        assert_eq!(user(&Letter::moved(&signed)), Some(text("eve")));
    }
}
