//! The asker's side: one connection, on which RabbitMQ's direct reply-to brings the answers, so that no queue is
//! declared and an account needs no right but to write to `warren.api`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Consumer};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use warren_process::Tasks;

use super::codec::{Envelope, of_request, read_answer};
use super::{ApiAnswer, ApiRequest};
use crate::connection::{BrokerConfig, Link, Live, Purpose, State, TOLD_EVERY, backoff};
use crate::error::{BrokerError, NOT_FOUND, code};
use crate::status::{Metrics, StatusCell, add};
use crate::topology;

/// RabbitMQ's own: answers come to the channel that asked.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// Requests of one process on their way; below half of what the server allows an account. Policy: others wait.
const MAX_IN_FLIGHT: usize = 48;
/// How long the first connection is waited for.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
/// How long a lost connection is waited for by who was waiting for an answer.
const RECONNECTS_WITHIN: Duration = Duration::from_secs(3);
/// How often a request is said again after a lost connection.
const REPEATS: u32 = 3;
/// After the queue was full.
const FULL_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    /// It was not sent.
    #[error("the broker is away: {0}")]
    Away(String),
    /// It was sent, perhaps; what came of it is not known.
    #[error("the connection to the broker was lost while the answer was waited for: {0}")]
    Lost(String),
    #[error("no answer from the API server within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("no API server reads requests from this broker: {0}")]
    NoServer(String),
    #[error("the queue {} is full: the API server does not keep up", topology::API)]
    Full,
}

/// Asks the API by way of the broker. Clones share the connection; it goes with the last of them.
#[derive(Clone)]
pub struct ApiLink(Arc<Inner>);

struct Inner {
    account: String,
    link: Link,
    session: watch::Receiver<Option<Arc<Session>>>,
    turns: Semaphore,
    metrics: Arc<Metrics>,
    _stop: tokio_util::sync::DropGuard,
}

/// What one channel waits for.
struct Session {
    live: Arc<Live>,
    channel: Channel,
    waiting: Mutex<HashMap<String, oneshot::Sender<ApiAnswer>>>,
    ended: CancellationToken,
}

/// What one try came to.
enum Try {
    Answer(ApiAnswer),
    Lost(String),
    Full,
    Failed(AskError),
}

impl ApiLink {
    pub(crate) fn start(config: BrokerConfig, tasks: &Tasks, metrics: Arc<Metrics>) -> Self {
        let account = config.url.account().to_owned();
        // A broker that blocks publishers answers no probe; each request has its own time.
        let purpose = Purpose { what: "api", probe: false, replay: None };
        let link = Link::start(config, purpose, tasks, StatusCell::new(), Arc::clone(&metrics));
        let (sender, session) = watch::channel(None);
        let stop = CancellationToken::new();
        let (reads, stopped, shutdown) = (link.clone(), stop.clone(), tasks.shutdown().clone());
        tasks.spawn("broker api", async move {
            tokio::select! {
                () = keep_open(&reads, &sender) => {}
                () = stopped.cancelled() => {}
                () = shutdown.aborting() => {}
            }
            sender.send_replace(None);
        });
        Self(Arc::new(Inner {
            account,
            link,
            session,
            turns: Semaphore::new(MAX_IN_FLIGHT),
            metrics,
            _stop: stop.drop_guard(),
        }))
    }

    /// Asks, and asks again with the same id where the connection is lost meanwhile: the server knows what it has done
    /// for an id. Fails at once while the broker is away. Dropped, it leaves open what comes of the request.
    pub async fn ask(&self, request: &ApiRequest, within: Duration) -> Result<ApiAnswer, AskError> {
        let until = Instant::now() + within;
        let Inner { turns, metrics, .. } = &*self.0;
        let answer = async {
            let _turn = turns.acquire().await;
            add(&metrics.api_asked, 1);
            self.ask_until(request, until, within).await
        };
        let answer = timeout_at(until, answer).await.unwrap_or(Err(AskError::Timeout(within)));
        if answer.is_err() {
            add(&metrics.api_unanswered, 1);
        }
        answer
    }

    async fn ask_until(
        &self,
        request: &ApiRequest,
        until: Instant,
        within: Duration,
    ) -> Result<ApiAnswer, AskError> {
        let id = format!("{:032x}", rand::random::<u128>());
        let mut session = self.session().await?;
        let mut repeats = 0;
        loop {
            match session.once(self, request, &id, repeats > 0, until, within).await {
                Try::Answer(answer) => return Ok(answer),
                Try::Failed(error) => return Err(error),
                // It was not taken: nothing came of it.
                Try::Full => {
                    if until.saturating_duration_since(Instant::now()) < 2 * FULL_PAUSE {
                        return Err(AskError::Full);
                    }
                    tokio::time::sleep(FULL_PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
                }
                Try::Lost(reason) if repeats == REPEATS => return Err(AskError::Lost(reason)),
                Try::Lost(reason) => {
                    repeats += 1;
                    add(&self.0.metrics.api_asked_again, 1);
                    let next = tokio::time::timeout(RECONNECTS_WITHIN, self.next(&session)).await;
                    session = next.map_err(|_| AskError::Lost(reason))?;
                }
            }
        }
    }

    /// What is open now; only the first connection is waited for.
    async fn session(&self) -> Result<Arc<Session>, AskError> {
        let mut sessions = self.0.session.clone();
        let mut state = self.0.link.state();
        let find = async {
            loop {
                if let Some(session) = &*sessions.borrow_and_update()
                    && !session.ended.is_cancelled()
                {
                    return Ok(Arc::clone(session));
                }
                if let State::Down(reason) = &*state.borrow_and_update() {
                    return Err(AskError::Away(reason.to_string()));
                }
                tokio::select! {
                    changed = sessions.changed() => if changed.is_err() {
                        return Err(AskError::Away("shutting down".to_owned()));
                    },
                    _ = state.changed() => {}
                }
            }
        };
        let found = tokio::time::timeout(CONNECTS_WITHIN, find).await;
        found.unwrap_or_else(|_| Err(AskError::Away("not connected yet".to_owned())))
    }

    async fn next(&self, after: &Arc<Session>) -> Arc<Session> {
        let mut sessions = self.0.session.clone();
        loop {
            if let Some(session) = &*sessions.borrow_and_update()
                && !Arc::ptr_eq(session, after)
                && !session.ended.is_cancelled()
            {
                return Arc::clone(session);
            }
            if sessions.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Session {
    async fn once(
        &self,
        link: &ApiLink,
        request: &ApiRequest,
        id: &str,
        again: bool,
        until: Instant,
        within: Duration,
    ) -> Try {
        if let Some(reason) = &*self.live.blocked().borrow() {
            let why = format!("it takes no messages for now: {reason}");
            return Try::Failed(AskError::Away(why));
        }
        // One of its own for each try: a late answer to an earlier one says the same, and finds nobody.
        let correlation = format!("{:016x}", rand::random::<u64>());
        let (tell, told) = oneshot::channel();
        self.waiting.lock().insert(correlation.clone(), tell);
        let _forget = Forget { session: self, correlation: &correlation };
        let envelope = Envelope {
            account: &link.0.account,
            id,
            reply_to: REPLY_TO,
            correlation_id: &correlation,
            expires: until.saturating_duration_since(Instant::now()),
            again,
        };
        let properties = of_request(request, &envelope);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let publish = self.channel.basic_publish(
            topology::API.into(),
            "".into(),
            options,
            &request.body,
            properties,
        );
        let confirmed = async { publish.await?.await };
        let confirmation = tokio::select! {
            confirmation = confirmed => confirmation,
            () = self.ended.cancelled() => return Try::Lost(self.live.reason()),
            () = tokio::time::sleep_until(until) => {
                return Try::Failed(AskError::Timeout(within));
            }
        };
        match confirmation {
            Ok(Confirmation::Ack(None)) => {}
            Ok(Confirmation::Ack(Some(back)) | Confirmation::Nack(Some(back))) => {
                return Try::Failed(AskError::NoServer(back.reply_text.to_string()));
            }
            Ok(Confirmation::Nack(None)) => return Try::Full,
            Ok(Confirmation::NotRequested) => return Try::Lost("not confirmed".to_owned()),
            Err(error) => {
                return match code(&error) {
                    Some(NOT_FOUND) => Try::Failed(AskError::NoServer(error.to_string())),
                    Some(_) if !self.live.is_ended() => {
                        Try::Failed(AskError::Away(error.to_string()))
                    }
                    _ => Try::Lost(error.to_string()),
                };
            }
        }
        tokio::select! {
            biased;
            answer = told => match answer {
                Ok(answer) => Try::Answer(answer),
                Err(_) => Try::Lost(self.live.reason()),
            },
            () = self.ended.cancelled() => Try::Lost(self.live.reason()),
            () = tokio::time::sleep_until(until) => Try::Failed(AskError::Timeout(within)),
        }
    }
}

struct Forget<'a> {
    session: &'a Session,
    correlation: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.session.waiting.lock().remove(self.correlation);
    }
}

/// Opens a channel on whatever connection is up, and hands on the answers that come there. Never ends.
async fn keep_open(link: &Link, sessions: &watch::Sender<Option<Arc<Session>>>) {
    let mut attempt: u32 = 0;
    loop {
        let live = link.live().await;
        match open(&live).await {
            Ok((channel, mut consumer)) => {
                let session = Arc::new(Session {
                    live: Arc::clone(&live),
                    channel,
                    waiting: Mutex::default(),
                    ended: CancellationToken::new(),
                });
                let ended = session.ended.clone().drop_guard();
                sessions.send_replace(Some(Arc::clone(&session)));
                loop {
                    let message = tokio::select! {
                        message = consumer.next() => message,
                        () = live.ended() => break,
                    };
                    let Some(Ok(message)) = message else { break };
                    attempt = 0;
                    let Some(id) = message.properties.correlation_id() else { continue };
                    let Some(tell) = session.waiting.lock().remove(id.as_str()) else { continue };
                    if let Some(answer) =
                        read_answer(&message.properties, Bytes::from(message.data))
                    {
                        let _ = tell.send(answer);
                    }
                }
                drop(ended);
            }
            Err(error) if attempt.is_multiple_of(TOLD_EVERY) => {
                tracing::warn!(error = %error.report(), "no channel for requests over AMQP");
            }
            Err(_) => {}
        }
        if !live.is_ended() {
            tokio::time::sleep(backoff(attempt, rand::random())).await;
        }
        attempt = attempt.saturating_add(1);
    }
}

async fn open(live: &Live) -> Result<(Channel, Consumer), BrokerError> {
    let channel = live.confirming_channel().await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let consume = channel.basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default());
    let consumer = live.call("consume", REPLY_TO, consume).await?;
    Ok((channel, consumer))
}
