//! The server's side: takes requests off the queue, has them done, and sends the answers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use lapin::message::Delivery as Message;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Acker, BasicProperties, Channel};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use warren_api::{Details, Reason, Status};
use warren_process::Shutdown;

use super::desk::{Arrival, Desk, Ticket, Verdict};
use super::turns::{LIMITS, Turn, Turns};
use super::{ApiAnswer, ApiHandler, Asked, codec};
use crate::connection::{Link, Live, TOLD_EVERY, backoff};
use crate::error::BrokerError;
use crate::status::{Metrics, add, set};
use crate::topology::QueueType;
use crate::{replace, topology};

/// Requests in our hands, all accounts together; the rest waits in the queue, in its order. As many as ten accounts that
/// flood may have.
const PREFETCH: u16 = 1000;
/// An answer that cannot be sent for so long is dropped: a broker that blocks publishers must not hold up the requests.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// What is being done when the process shuts down has so long to end; the links stay up a little longer.
const DRAIN: Duration = Duration::from_millis(700);

pub(crate) struct Service {
    pub(crate) account: String,
    pub(crate) queues: QueueType,
    /// To read; and to answer, which also declares.
    pub(crate) consume: Link,
    pub(crate) publish: Link,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) handler: Arc<dyn ApiHandler>,
}

/// Where an answer goes, and what is acknowledged then.
struct Waiter {
    reply_to: Option<ShortString>,
    correlation_id: Option<ShortString>,
    acker: Acker,
}

/// What waits for its account's turn.
struct Job {
    ticket: Ticket<Waiter>,
    asked: Asked,
    /// Nobody waits for it after that.
    until: Instant,
}

type Finished = (Turn, Ticket<Waiter>, ApiAnswer);

impl Service {
    /// Until draining starts; then waits for what is being done.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let answers = Arc::new(Answers {
            account: self.account.clone(),
            link: self.publish.clone(),
            channel: Mutex::default(),
        });
        let mut state = State {
            service: &self,
            desk: Desk::default(),
            turns: Turns::new(LIMITS),
            doing: JoinSet::new(),
            sending: JoinSet::new(),
            answers,
        };
        let mut attempt = 0;
        loop {
            let reason = tokio::select! {
                reason = state.session(&mut attempt) => reason,
                () = shutdown.draining() => break,
            };
            let wait = backoff(attempt, rand::random());
            if attempt.is_multiple_of(TOLD_EVERY) {
                tracing::warn!(%reason, "requests over AMQP are not read; tried again");
            }
            attempt += 1;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.draining() => break,
            }
        }
        // The broker brings it to the next server.
        state.forget_waiting();
        let end = async {
            while let Some(done) = state.doing.join_next().await {
                state.finished(done);
            }
            while state.sending.join_next().await.is_some() {}
        };
        let _ = tokio::time::timeout(DRAIN, end).await;
    }
}

struct State<'a> {
    service: &'a Service,
    desk: Desk<Waiter>,
    turns: Turns<Job>,
    doing: JoinSet<Finished>,
    sending: JoinSet<()>,
    answers: Arc<Answers>,
}

impl State<'_> {
    /// Reads over one connection until it is of no use any more, and says why.
    async fn session(&mut self, attempt: &mut u32) -> String {
        // The side that publishes has declared the queue on the broker that is up.
        self.service.publish.live().await;
        let live = self.service.consume.live().await;
        match self.read(&live, attempt).await {
            _ if live.is_ended() => live.reason(),
            Ok(reason) => reason,
            Err(error) => error.report(),
        }
    }

    async fn read(&mut self, live: &Live, attempt: &mut u32) -> Result<String, BrokerError> {
        // Of the connection before; the broker brings it again.
        self.forget_waiting();
        let channel = live.channel().await?;
        let queues = self.service.queues;
        let wanted = topology::shared(queues).only(topology::API);
        replace::replace(live, &wanted, queues, self).await?;
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        live.call("set the prefetch", topology::API, qos).await?;
        let consume = channel.basic_consume(
            topology::API.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut consumer = live.call("consume", topology::API, consume).await?;
        *attempt = 0;
        loop {
            tokio::select! {
                biased;
                () = live.ended() => return Ok(live.reason()),
                Some(done) = self.doing.join_next(), if !self.doing.is_empty() => self.finished(done),
                Some(_) = self.sending.join_next(), if !self.sending.is_empty() => {}
                message = consumer.next() => match message {
                    Some(Ok(message)) => {
                        live.heard();
                        self.arrived(message);
                    }
                    Some(Err(error)) => return Ok(error.to_string()),
                    None => return Ok(format!("the queue {:?} was deleted", topology::API)),
                },
            }
        }
    }

    fn arrived(&mut self, mut message: Message) {
        let now = Instant::now();
        let metrics = &self.service.metrics;
        add(&metrics.api_requests, 1);
        let text = |s: &Option<ShortString>| s.clone().filter(|s| !s.as_str().is_empty());
        let properties = &message.properties;
        let waiter = Waiter {
            reply_to: text(properties.reply_to()),
            correlation_id: text(properties.correlation_id()),
            acker: message.acker.clone(),
        };
        let account = text(properties.user_id()).map(|account| account.as_str().to_owned());
        let id = text(properties.message_id());
        let body = Bytes::from(std::mem::take(&mut message.data));
        let request = match codec::read_request(properties, body) {
            Ok(request) => request,
            Err(status) => {
                add(&metrics.api_refused, 1);
                return self.send(waiter, Arc::new(ApiAnswer::of(&status)));
            }
        };
        let arrival = Arrival {
            account: account.as_deref(),
            id: id.as_ref().map(ShortString::as_str),
            request: &request,
            arrived: now,
            patience: codec::patience(properties),
        };
        match self.desk.arrive(now, &arrival, waiter) {
            Verdict::Do(ticket) => {
                let again = message.redelivered || codec::is_again(properties);
                let (bytes, until) = (request.body.len(), now + arrival.patience);
                let job = Job { ticket, asked: Asked { account, again, request }, until };
                let account = job.asked.account.clone().unwrap_or_default();
                if let Err(job) = self.turns.arrive(&account, bytes, job) {
                    add(&metrics.api_too_many, 1);
                    return self.give_up(job.ticket, &too_many());
                }
                self.start();
            }
            Verdict::Joined => add(&metrics.api_repeated, 1),
            Verdict::Answered(waiter, answer) => {
                add(&metrics.api_repeated, 1);
                self.send(waiter, answer);
            }
            Verdict::Refused(waiter, status) => {
                add(&metrics.api_refused, 1);
                self.send(waiter, Arc::new(ApiAnswer::of(&status)));
            }
            Verdict::Late(waiter) => {
                add(&metrics.api_expired, 1);
                self.send(waiter, Arc::new(ApiAnswer::of(&late())));
            }
        }
    }

    /// Begins what may.
    fn start(&mut self) {
        let metrics = &self.service.metrics;
        while let Some((turn, job)) = self.turns.start() {
            let Job { ticket, asked, until } = job;
            if Instant::now() >= until {
                add(&metrics.api_expired, 1);
                self.turns.done(turn);
                self.give_up(ticket, &late());
                continue;
            }
            let handler = Arc::clone(&self.service.handler);
            self.doing.spawn(async move {
                // A panic is an answer and no loss.
                let answer = AssertUnwindSafe(handler.answer(asked)).catch_unwind().await;
                let failed = |_| {
                    let why = "the request could not be finished";
                    ApiAnswer::of(&Status::new(Reason::InternalError, why))
                };
                (turn, ticket, answer.unwrap_or_else(failed))
            });
        }
        self.tell();
    }

    fn finished(&mut self, done: Result<Finished, tokio::task::JoinError>) {
        let Ok((turn, ticket, answer)) = done else { return };
        let answer = Arc::new(answer);
        self.turns.done(turn);
        for waiter in self.desk.done(Instant::now(), ticket, &answer) {
            self.send(waiter, Arc::clone(&answer));
        }
        self.start();
    }

    fn give_up(&mut self, ticket: Ticket<Waiter>, status: &Status) {
        let answer = Arc::new(ApiAnswer::of(status));
        for waiter in self.desk.abandon(ticket) {
            self.send(waiter, Arc::clone(&answer));
        }
    }

    fn forget_waiting(&mut self) {
        for job in self.turns.forget_waiting() {
            self.desk.abandon(job.ticket);
        }
        self.tell();
    }

    fn tell(&self) {
        let metrics = &self.service.metrics;
        set(&metrics.api_in_flight, self.turns.doing() as u64);
        set(&metrics.api_waiting, self.turns.waiting() as u64);
    }

    /// Sends the answer where there is somebody to hear it, and then lets the broker forget the request. Bounded by the
    /// prefetch.
    fn send(&mut self, waiter: Waiter, answer: Arc<ApiAnswer>) {
        let answers = Arc::clone(&self.answers);
        self.sending.spawn(async move {
            let Waiter { reply_to, correlation_id, acker } = waiter;
            let id = correlation_id.as_ref().map(ShortString::as_str);
            let sent = match &reply_to {
                Some(queue) if topology::is_reserved(queue.as_str()) => {
                    Err(BrokerError::ReservedReply("reply", queue.as_str().to_owned()))
                }
                Some(queue) => answers.send(queue, id, &answer).await,
                None => Ok(()),
            };
            if let Err(error) = sent {
                tracing::debug!(error = %error.report(), "an answer over AMQP was not sent");
            }
            // Of a connection that is no more, the broker brings it again.
            let _ = acker.ack(BasicAckOptions::default()).await;
        });
    }
}

impl replace::Empties for State<'_> {
    type Error = BrokerError;

    async fn empty(
        &mut self,
        live: &Live,
        channel: &Channel,
        queue: &str,
    ) -> Result<(), BrokerError> {
        while let Some(message) = replace::get(live, channel, queue).await? {
            self.arrived(message);
            while !self.doing.is_empty() || !self.sending.is_empty() {
                tokio::select! {
                    () = live.ended() => return Err(BrokerError::Disconnected(live.reason())),
                    Some(done) = self.doing.join_next(), if !self.doing.is_empty() => self.finished(done),
                    Some(_) = self.sending.join_next(), if !self.sending.is_empty() => {}
                }
            }
        }
        Ok(())
    }
}

fn late() -> Status {
    Status::new(Reason::Timeout, "the request's expiration was over before it could be done")
}

fn too_many() -> Status {
    let why = format!(
        "Too many requests: an account has at most {} at a time over AMQP, with bodies of at most {} MiB together",
        LIMITS.of_one,
        LIMITS.bytes_of_one >> 20
    );
    let details = Details { retry_after_seconds: Some(1), ..Details::default() };
    Status { details: Some(Box::new(details)), ..Status::new(Reason::TooManyRequests, why) }
}

/// A channel for answers. Without confirms: who misses an answer asks again, and is known by the message's id.
struct Answers {
    account: String,
    link: Link,
    channel: Mutex<Option<(Arc<Live>, Channel)>>,
}

impl Answers {
    async fn send(
        &self,
        queue: &ShortString,
        id: Option<&str>,
        answer: &ApiAnswer,
    ) -> Result<(), BrokerError> {
        let properties: BasicProperties = codec::of_answer(answer, &self.account, id);
        let failed = |reason: String| BrokerError::Publish {
            exchange: String::new(),
            key: queue.as_str().to_owned(),
            reason,
        };
        let publish = async {
            let channel = self.channel().await?;
            // Not mandatory: the queue of a direct reply is none that a broker would find.
            let options = BasicPublishOptions::default();
            let sent =
                channel.basic_publish("".into(), queue.clone(), options, &answer.body, properties);
            sent.await.map(drop).map_err(|error| failed(error.to_string()))
        };
        let sent = tokio::time::timeout(SEND_WITHIN, publish).await;
        sent.unwrap_or_else(|_| Err(failed("the broker does not take it".to_owned())))
    }

    async fn channel(&self) -> Result<Channel, BrokerError> {
        let mut held = self.channel.lock().await;
        if let Some((live, channel)) = &*held
            && !live.is_ended()
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        let live = self.link.now()?;
        let channel = live.channel().await?;
        *held = Some((live, channel.clone()));
        Ok(channel)
    }
}
