//! Bare lapin: a publisher with confirms and a consumer, without Warren.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ExchangeKind};
use warren_tests::RabbitMq;

use super::PREFIX;
use super::consumer::{Consumer, From, connect};
use crate::Scale;
use crate::figure::Figure;
use crate::pod;

/// Where bare publishers publish to: as `warren.events` is.
pub(super) const EXCHANGE: &str = "bench.events";
/// Unconfirmed messages; the relay's window is of this kind.
const WINDOW: usize = 1024;
const PERSISTENT: u8 = 2;

#[derive(Clone)]
pub(super) struct Message {
    /// Empty for the queue that the key names.
    pub(super) exchange: &'static str,
    pub(super) key: String,
    pub(super) body: Bytes,
    pub(super) properties: BasicProperties,
}

impl Message {
    /// As a pod's event, in size.
    pub(super) fn pod(number: usize, node: &str) -> Self {
        let body = [&pod::pod(&pod::name(PREFIX, number), None)[..], &[b' '; 1500]].concat();
        Self {
            exchange: EXCHANGE,
            key: format!("core.pods.default.{node}.added"),
            body: body.into(),
            properties: BasicProperties::default().with_delivery_mode(PERSISTENT),
        }
    }
}

pub(super) struct Publisher {
    connection: Connection,
    pub(super) channel: Channel,
}

impl Publisher {
    /// With [`EXCHANGE`] declared.
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let connection = connect(url).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let none = FieldTable::default();
        channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, options, none).await?;
        Ok(Self { connection, channel })
    }

    /// As many messages at a rate, or (infinite) as fast as the window allows; until all are confirmed.
    pub(super) async fn send(
        &self,
        count: usize,
        per_second: f64,
        mut message: impl FnMut(usize) -> Message,
    ) -> Result<()> {
        let started = Instant::now();
        let mut waiting = FuturesUnordered::new();
        for n in 0..count {
            while waiting.len() >= WINDOW {
                waiting.next().await.context("a confirm")??;
            }
            if per_second.is_finite() {
                let due = started + Duration::from_secs_f64(n as f64 / per_second);
                let due = tokio::time::sleep_until(due.into());
                tokio::pin!(due);
                loop {
                    tokio::select! {
                        () = &mut due => break,
                        Some(done) = waiting.next() => done?,
                    }
                }
            }
            waiting.push(self.publish(message(n)));
        }
        while let Some(done) = waiting.next().await {
            done?;
        }
        Ok(())
    }

    async fn publish(&self, message: Message) -> Result<()> {
        let Message { exchange, key, body, properties } = message;
        let (key, options) = (key.as_str().into(), BasicPublishOptions::default());
        let sent = self.channel.basic_publish(exchange.into(), key, options, &body, properties);
        sent.await?.await?;
        Ok(())
    }

    pub(super) async fn end(self) -> Result<()> {
        Ok(self.connection.close(200, "".into()).await?)
    }
}

pub(super) async fn rows(scale: &Scale, rabbit: &RabbitMq) -> Result<Vec<Figure>> {
    let url = rabbit.amqp_url("server");
    let publisher = Publisher::connect(&url).await?;
    let consumer = Consumer::start(url, From::Everything { exchange: EXCHANGE }).await?;
    let arrivals = &consumer.arrivals;
    let messages = |from: usize, count: usize| -> Vec<_> {
        (from..from + count).map(|n| Message::pod(n, "-")).collect()
    };

    let paced = messages(0, scale.writes);
    let mut sent = Vec::with_capacity(scale.writes);
    let next = |n: usize| {
        sent.push(arrivals.now());
        paced[n].clone()
    };
    publisher.send(scale.writes, scale.per_second, next).await?;
    arrivals.wait(scale.writes).await?;
    let times = sent
        .iter()
        .zip(&arrivals.at)
        .map(|(sent, at)| Duration::from_nanos(at.load(Ordering::Relaxed).saturating_sub(*sent)));
    let what = format!("bare lapin, publish → consume, {:.0}/s", scale.per_second);
    let latency = Figure::of_times("lapin", what, times.collect());

    let burst = messages(scale.writes, scale.burst);
    let started = Instant::now();
    publisher.send(scale.burst, f64::INFINITY, |n| burst[n].clone()).await?;
    arrivals.wait(scale.writes + scale.burst).await?;
    let rate = scale.burst as f64 / started.elapsed().as_secs_f64();
    publisher.end().await?;
    consumer.end()?;
    let what = "bare lapin, publish (confirmed) and consume, one queue";
    Ok(vec![latency, Figure::new("lapin", what, rate, "1/s")])
}
