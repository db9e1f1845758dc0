//! The broker's fabric, and HTTP watch while that is away.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use warren_api::Revision;
use warren_broker::{
    BrokerError, Delivery, Fabric, Heads, ReplyTo, Stream, Subscriber, Subscription,
};

use crate::HttpFabric;
use crate::http_fabric::HttpSubscriber;

/// A broker of which nothing has come for less than this is waited for; so that HTTP watch is there within two seconds.
const PATIENCE: Duration = Duration::from_millis(1000);
/// Where that is over when it is noticed (a broker that hangs: TCP says nothing), a new connection still has so long.
const AT_LEAST: Duration = Duration::from_millis(200);

fn patience(silent: Duration) -> Duration {
    PATIENCE.saturating_sub(silent).max(AT_LEAST)
}

/// Reads the broker's fabric. While it is down (or has not answered at the start) the same subscription is read by HTTP
/// watch; the broker's first relist ends that.
pub struct Fallback {
    broker: Arc<dyn Fabric>,
    http: HttpFabric,
}

impl Fallback {
    pub fn new(broker: Arc<dyn Fabric>, http: HttpFabric) -> Self {
        Self { broker, http: http.standing_in() }
    }
}

#[async_trait]
impl Fabric for Fallback {
    async fn subscribe(&self, subscription: Subscription) -> Box<dyn Subscriber> {
        let (broker, wanted) = (Arc::clone(&self.broker), subscription.clone());
        Box::new(Both {
            http: self.http.clone(),
            subscription,
            broker: Broker::Subscribing(async move { broker.subscribe(wanted).await }.boxed()),
            standby: Standby::Waiting(Instant::now() + PATIENCE),
        })
    }

    async fn reply(&self, to: &ReplyTo, status: &serde_json::Value) -> Result<(), BrokerError> {
        self.broker.reply(to, status).await
    }
}

enum Broker {
    Subscribing(BoxFuture<'static, Box<dyn Subscriber>>),
    Subscribed(Box<dyn Subscriber>),
}

enum Standby {
    /// The broker delivers.
    Idle,
    /// The broker is away; HTTP watch begins then.
    Waiting(Instant),
    Active(Box<HttpSubscriber>),
}

impl Both {
    fn broker(&mut self) -> Option<&mut dyn Subscriber> {
        match &mut self.broker {
            Broker::Subscribed(subscriber) => Some(&mut **subscriber),
            Broker::Subscribing(_) => None,
        }
    }
}

struct Both {
    http: HttpFabric,
    subscription: Subscription,
    broker: Broker,
    standby: Standby,
}

#[async_trait]
impl Subscriber for Both {
    /// A list is as good where HTTP watch asked for it.
    fn listed(&mut self, streams: &[Stream], at: Revision) {
        if let Some(broker) = self.broker() {
            broker.listed(streams, at);
        }
    }

    fn wants_heads(&self) -> bool {
        match (&self.broker, &self.standby) {
            (Broker::Subscribed(broker), Standby::Idle) => broker.wants_heads(),
            _ => false,
        }
    }

    fn heads(&mut self, heads: Option<Heads>) {
        if let Some(broker) = self.broker() {
            broker.heads(heads);
        }
    }

    async fn next(&mut self) -> Delivery {
        loop {
            let from_broker = async {
                if let Broker::Subscribing(subscribing) = &mut self.broker {
                    self.broker = Broker::Subscribed(subscribing.await);
                }
                match &mut self.broker {
                    Broker::Subscribed(subscriber) => subscriber.next().await,
                    Broker::Subscribing(_) => std::future::pending().await,
                }
            };
            let from_standby = async {
                match &mut self.standby {
                    Standby::Idle => std::future::pending().await,
                    Standby::Waiting(until) => {
                        sleep_until(*until).await;
                        None
                    }
                    Standby::Active(http) => Some(http.next().await),
                }
            };
            // The broker goes first: what it says ends the standby.
            tokio::select! {
                biased;
                delivery = from_broker => match &delivery {
                    Delivery::Down { reason, silent } => {
                        let already = !matches!(self.standby, Standby::Idle);
                        if !already {
                            // It may be there: the reader's queue alone can be gone.
                            tracing::warn!(%reason, "no events come by the broker");
                            self.standby = Standby::Waiting(Instant::now() + patience(*silent));
                            return delivery;
                        }
                    }
                    Delivery::Relist { .. } | Delivery::Reconnected { .. } => {
                        if matches!(self.standby, Standby::Active(_)) {
                            tracing::info!("events come by the broker again; HTTP watch ends");
                        }
                        self.standby = Standby::Idle;
                        return delivery;
                    }
                    _ => return delivery,
                },
                delivery = from_standby => match delivery {
                    Some(delivery) => return delivery,
                    None => {
                        tracing::warn!("reading events by HTTP watch until they come by the broker again");
                        let watch = self.http.watch(&self.subscription);
                        self.standby = Standby::Active(Box::new(watch));
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_silent_is_waited_for_the_less() {
        for (silent, wanted) in [(0, 1000), (300, 700), (800, 200), (900, 200), (60_000, 200)] {
            let waited = patience(Duration::from_millis(silent));
            assert_eq!(waited, Duration::from_millis(wanted), "{silent} ms");
        }
    }
}
