//! The relay's shell: a channel with confirms, and what the core asks for.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures::future::{BoxFuture, OptionFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation};
use warren_api::Revision;
use warren_process::Shutdown;
use warren_process::trace::{Step, Trace};

use super::{Action, Core};
use crate::connection::{Link, Live};
use crate::envelope::Message;
use crate::error::{BrokerError, PRECONDITION_FAILED, code};
use crate::status::{Metrics, StatusCell, add, set};
use crate::{Event, Outbox, topology};

/// Publishes what the outbox holds, and goes on until shutdown. Get one from
/// [`ServerLink::relay`](crate::server::ServerLink::relay).
pub struct Relay {
    pub(crate) link: Link,
    pub(crate) account: String,
    pub(crate) status: StatusCell,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) trace: Option<Trace>,
    pub(crate) started: Instant,
}

struct Confirmed {
    tag: u64,
    since: Instant,
    message: Arc<Message>,
    confirmation: lapin::Result<Confirmation>,
}

type Answer = Result<Vec<Event>, Revision>;

impl Relay {
    /// Remembers there when an event was published and when it was confirmed.
    #[must_use]
    pub fn traced(self, trace: Trace) -> Self {
        Self { trace: Some(trace), ..self }
    }

    /// Ends when draining starts; what is not confirmed by then is published again by the next process.
    pub async fn run(self, outbox: Arc<dyn Outbox>, shutdown: Shutdown) {
        let mut core = Core::new(&self.account, outbox.cursor());
        let mut asked = Asked { outbox: Arc::clone(&outbox), read: None.into(), wait: None.into() };
        self.report(&core, &*outbox);
        loop {
            let live = tokio::select! {
                live = self.link.live() => live,
                () = shutdown.draining() => return,
            };
            let reason = tokio::select! {
                reason = self.session(&live, &mut core, &mut asked) => reason,
                () = live.ended() => live.reason(),
                () = shutdown.draining() => return,
            };
            core.lost();
            live.fail(reason);
            self.report(&core, &*outbox);
        }
    }

    /// Publishes over one connection until it is of no use any more.
    async fn session(&self, live: &Live, core: &mut Core, asked: &mut Asked) -> String {
        let mut channel = match live.confirming_channel().await {
            Ok(channel) => channel,
            Err(error) => return error.report(),
        };
        core.connected();
        let mut blocked = live.blocked();
        let mut confirms: FuturesUnordered<BoxFuture<'static, Confirmed>> = FuturesUnordered::new();
        let mut pause: OptionFuture<BoxFuture<'static, ()>> = None.into();
        loop {
            core.blocked(blocked.borrow_and_update().is_some());
            while let Some(action) = core.poll() {
                match action {
                    Action::Publish { tag, message } => {
                        add(&self.metrics.published, 1);
                        self.hop(Step::Published, &message);
                        let mut publish = publish(channel.clone(), tag, message).boxed();
                        // The first poll hands the frames over; doing it here is what keeps the order.
                        match futures::poll!(&mut publish) {
                            std::task::Poll::Ready(done) => {
                                confirms.push(std::future::ready(done).boxed());
                            }
                            std::task::Poll::Pending => confirms.push(publish),
                        }
                    }
                    Action::Advance(to) => asked.outbox.confirmed(to),
                    Action::Read { after, limit } => {
                        let outbox = Arc::clone(&asked.outbox);
                        let read = async move { outbox.read(after, limit).await };
                        asked.read = Some(read.boxed()).into();
                    }
                    Action::Reopen => {
                        channel = match another(live, &channel).await {
                            Ok(channel) => channel,
                            Err(error) => return error.report(),
                        };
                        confirms.clear();
                        core.reopened();
                    }
                    Action::Pause(time) => {
                        pause = Some(tokio::time::sleep(time).boxed()).into();
                    }
                    Action::Wait { after } => {
                        let outbox = Arc::clone(&asked.outbox);
                        asked.wait = Some(async move { outbox.wait(after).await }.boxed()).into();
                    }
                }
            }
            self.report(core, &*asked.outbox);
            tokio::select! {
                Some(confirmed) = confirms.next() => {
                    let mut next = Some(confirmed);
                    // Whatever else is there, before the core is asked again.
                    while let Some(confirmed) = next {
                        if let Err(error) = self.confirmed(core, confirmed) {
                            let last = self.last_words(core, &mut confirms, error);
                            match live.call("read what is confirmed", "", last.map(Ok)).await {
                                Ok(error) if is_rejection(&error) => self.rejected(core, &error),
                                Ok(error) => return error.to_string(),
                                Err(error) => return error.report(),
                            }
                            break;
                        }
                        next = confirms.next().now_or_never().flatten();
                    }
                }
                Some(()) = &mut pause => {
                    pause = None.into();
                    core.retry(self.started.elapsed());
                }
                Some(answer) = &mut asked.read => {
                    asked.read = None.into();
                    match answer {
                        Ok(events) => core.read(&events, now()),
                        Err(floor) => {
                            tracing::warn!(%floor, "history was compacted before it was published");
                            add(&self.metrics.floors, 1);
                            core.floor(asked.outbox.epoch(), floor, now());
                        }
                    }
                }
                Some(()) = &mut asked.wait => {
                    asked.wait = None.into();
                    core.woken();
                }
                Ok(()) = blocked.changed() => {}
            }
        }
    }

    /// Of a channel that is closed: whatever was confirmed before, and why it was closed.
    async fn last_words(
        &self,
        core: &mut Core,
        confirms: &mut FuturesUnordered<BoxFuture<'static, Confirmed>>,
        first: lapin::Error,
    ) -> lapin::Error {
        let mut reason = first;
        while let Some(confirmed) = confirms.next().await {
            // What was published since fails for the channel's state, which tells nothing.
            if let Err(error) = self.confirmed(core, confirmed)
                && code(&reason).is_none()
            {
                reason = error;
            }
        }
        reason
    }

    /// The broker closed the channel for a message.
    fn rejected(&self, core: &mut Core, error: &lapin::Error) {
        match core.rejected() {
            Some(revision) => {
                add(&self.metrics.abandoned, 1);
                tracing::error!(
                    %revision, %error,
                    "the broker does not take an event, which its readers do without (is it larger than max_message_size?)"
                );
            }
            None => tracing::info!(%error, "the broker takes no more events on this channel"),
        }
    }

    fn confirmed(&self, core: &mut Core, confirmed: Confirmed) -> lapin::Result<()> {
        let Confirmed { tag, since, message, confirmation } = confirmed;
        match confirmation {
            Ok(Confirmation::Ack(_)) => {
                add(&self.metrics.confirmed, 1);
                self.hop(Step::Confirmed, &message);
                self.metrics.confirm.observe(since.elapsed());
                core.acked(tag, false);
                Ok(())
            }
            Ok(Confirmation::Nack(_)) => {
                add(&self.metrics.nacked, 1);
                for revision in core.nacked(tag, false, self.started.elapsed()) {
                    add(&self.metrics.abandoned, 1);
                    tracing::error!(
                        %revision,
                        "the broker refuses an event (a queue bound to it is full and rejects, or its node is lost)"
                    );
                }
                Ok(())
            }
            Ok(Confirmation::NotRequested) => {
                Err(std::io::Error::other("the channel does not confirm").into())
            }
            Err(error) => Err(error),
        }
    }

    fn hop(&self, step: Step, message: &Message) {
        if let (Some(trace), Some(about)) = (&self.trace, &message.about) {
            trace.push(step, about.clone(), "");
        }
    }

    fn report(&self, core: &Core, outbox: &dyn Outbox) {
        let (messages, bytes) = core.window();
        set(&self.metrics.window_messages, messages as u64);
        set(&self.metrics.window_bytes, bytes as u64);
        self.status.progress(core.cursor(), outbox.backlog().unwrap_or(messages as u64));
    }
}

/// What the core asked the outbox for; outlives connections.
struct Asked {
    outbox: Arc<dyn Outbox>,
    read: OptionFuture<BoxFuture<'static, Answer>>,
    wait: OptionFuture<BoxFuture<'static, ()>>,
}

/// Another channel for what is not confirmed.
async fn another(live: &Live, channel: &Channel) -> Result<Channel, BrokerError> {
    if channel.status().connected() {
        tracing::info!("events are refused for long; they are sent again on another channel");
        // What was sent on the old one goes before.
        live.call("close a channel", "", channel.close(200, "".into())).await?;
    }
    live.confirming_channel().await
}

/// Whether the channel was closed for what a message is, as it would be again.
fn is_rejection(error: &lapin::Error) -> bool {
    // Where the server's account goes by another name at the broker, the messages are not to blame.
    code(error) == Some(PRECONDITION_FAILED) && !error.to_string().contains("user_id")
}

async fn publish(channel: Channel, tag: u64, message: Arc<Message>) -> Confirmed {
    let since = Instant::now();
    let sent = channel
        .basic_publish(
            topology::EVENTS.into(),
            message.routing_key.as_str().into(),
            BasicPublishOptions::default(),
            &message.body,
            message.properties.clone(),
        )
        .await;
    let confirmation = match sent {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    Confirmed { tag, since, message, confirmation }
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}
