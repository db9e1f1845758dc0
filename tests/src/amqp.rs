//! A program that asks the API by way of the broker, as any with an AMQP client does.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    PublisherConfirm,
};
use serde_json::Value;

const DIRECT: &str = "amq.rabbitmq.reply-to";
/// More than a busy server needs.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// One account's connection.
pub struct Asker {
    _connection: Connection,
    pub channel: Channel,
    answers: Consumer,
    account: String,
    asked: u64,
}

/// What is said beside method and path.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub content_type: Option<String>,
    pub body: Vec<u8>,
    pub message_id: Option<String>,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self { method: "GET".to_owned(), path: path.to_owned(), ..Self::default() }
    }

    /// `post`, `put`, `patch` (a merge patch), `delete`.
    pub fn with(method: &str, path: &str, body: &Value) -> Self {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            content_type: Some(kind.to_owned()),
            body: body.to_string().into(),
            ..Self::default()
        }
    }

    pub fn id(self, id: &str) -> Self {
        Self { message_id: Some(id.to_owned()), ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub code: i64,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
    pub user_id: Option<String>,
}

impl Answer {
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Asker {
    /// `url` names account and password.
    pub async fn connect(url: &str, account: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let answers =
            channel.basic_consume(DIRECT.into(), "".into(), options, FieldTable::default()).await?;
        Ok(Self {
            _connection: connection,
            channel,
            answers,
            account: account.to_owned(),
            asked: 0,
        })
    }

    /// Publishes without waiting for the answer; says what the broker said of it.
    pub async fn send(&mut self, request: &Request) -> Result<Confirmation> {
        Ok(self.publish(request).await?.await?)
    }

    /// The same without waiting for what the broker says.
    pub async fn publish(&mut self, request: &Request) -> Result<PublisherConfirm> {
        let mut headers = FieldTable::default();
        let text = |text: &str| AMQPValue::LongString(text.into());
        headers.insert("method".into(), text(&request.method));
        headers.insert("path".into(), text(&request.path));
        for (name, value) in &request.headers {
            headers.insert(name.as_str().into(), text(value));
        }
        self.asked += 1;
        let mut properties = BasicProperties::default()
            .with_headers(headers)
            .with_user_id(self.account.as_str().into())
            .with_reply_to(DIRECT.into())
            .with_expiration("30000".into())
            .with_correlation_id(self.asked.to_string().into());
        if let Some(kind) = &request.content_type {
            properties = properties.with_content_type(kind.as_str().into());
        }
        if let Some(id) = &request.message_id {
            properties = properties.with_message_id(id.as_str().into());
        }
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let (exchange, key) = ("warren.api".into(), "".into());
        let sent = self.channel.basic_publish(exchange, key, options, &request.body, properties);
        Ok(sent.await?)
    }

    /// The number of the last request.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// The next answer, with the number of its request.
    pub async fn next(&mut self) -> Result<(u64, Answer)> {
        let next = tokio::time::timeout(ANSWERS_WITHIN, self.answers.next()).await;
        let message = next.context("no answer")?.context("the channel is closed")??;
        let properties = &message.properties;
        let id = properties.correlation_id().as_ref().context("no correlation_id")?;
        let mut code = 0;
        let mut headers = BTreeMap::new();
        for (name, value) in properties.headers().as_ref().context("no headers")?.inner() {
            match value {
                AMQPValue::LongInt(number) if name.as_str() == "code" => code = (*number).into(),
                AMQPValue::LongString(text) => {
                    headers.insert(name.to_string(), text.to_string());
                }
                _ => {}
            }
        }
        let body = serde_json::from_slice(&message.data).unwrap_or_default();
        let user_id = properties.user_id().as_ref().map(ToString::to_string);
        Ok((id.as_str().parse()?, Answer { code, headers, body, user_id }))
    }

    /// Asks, and waits for the answer; again where the queue was full.
    pub async fn ask(&mut self, request: &Request) -> Result<Answer> {
        loop {
            match self.send(request).await? {
                Confirmation::Ack(None) => break,
                Confirmation::Nack(None) => tokio::task::yield_now().await,
                other => bail!("not taken: {other:?}"),
            }
        }
        loop {
            let (number, answer) = self.next().await?;
            if number == self.asked {
                return Ok(answer);
            }
        }
    }
}
