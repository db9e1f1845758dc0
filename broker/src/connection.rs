//! The one place that connects and reconnects. A [`Link`] is a connection that is always being mended; lapin's own
//! recovery stays off.
//!
//! A link opens, replays what its owner declares, and is up; whoever uses it opens channels of its own on what is up now
//! ([`Live`]), and does so again (confirm, qos, declare, bind, consume) when the next one is.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Future, StreamExt};
use lapin::options::{BasicQosOptions, ConfirmSelectOptions};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use warren_process::Tasks;

pub use self::url::BrokerUrl;
use crate::error::{BrokerError, Context};
use crate::status::{Connected, Metrics, StatusCell, add};
use crate::topology::QueueType;

mod url;

/// For TCP, TLS and AMQP's handshake together, and for each call after it.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Both sides give up a connection after two of these without a byte.
pub(crate) const HEARTBEAT_SECONDS: u16 = 10;
/// A reader's connection that answers nothing for so long is lost: readers are told within 1.5 seconds, also of a broker
/// that hangs or is cut off, where TCP says nothing. One small call each time, and only where nothing else comes. How slow a
/// broker may be is the timeout alone.
const PROBE_INTERVAL: Duration = Duration::from_millis(600);
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);
/// Half of it is jitter. A broker that was restarted sees its clients within a few seconds of being back.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(3);
/// What stays away is told at first and then so often: about every minute, at 3 s between the tries.
pub(crate) const TOLD_EVERY: u32 = 20;
/// How long links stay up for the last acknowledgements when the process shuts down.
const DRAIN: Duration = Duration::from_secs(1);

/// Where the broker is and who we are.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    pub url: BrokerUrl,
    /// What the shared queues are that this process declares.
    pub queues: QueueType,
    /// Shown in the management page, with what the connection is for: `agent rabbit-1`.
    pub name: String,
}

type Replayed = Pin<Box<dyn Future<Output = Result<(), BrokerError>> + Send>>;
/// What a link's owner does on each new connection before others see it.
pub(crate) type Replay = Arc<dyn Fn(Arc<Live>) -> Replayed + Send + Sync>;

#[derive(Clone)]
pub(crate) enum State {
    /// For the first time.
    Connecting,
    Down(Arc<str>),
    Up(Arc<Live>),
}

/// A connection that is always being mended. Clones share it; the last one that goes closes it.
#[derive(Clone)]
pub(crate) struct Link {
    state: watch::Receiver<State>,
    _stop: Arc<DropGuard>,
}

/// What a link is for.
pub(crate) struct Purpose {
    pub(crate) what: &'static str,
    /// Whether to find out actively that the broker is gone. Not where we publish: a broker that blocks publishers does
    /// not answer them.
    pub(crate) probe: bool,
    pub(crate) replay: Option<Replay>,
}

impl Link {
    pub(crate) fn start(
        config: BrokerConfig,
        purpose: Purpose,
        tasks: &Tasks,
        status: StatusCell,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (sender, state) = watch::channel(State::Connecting);
        let stop = CancellationToken::new();
        let told = metrics.wants(purpose.what);
        let stops = stop.clone();
        let mender = Mender { config, purpose, state: sender, stop: stops, status, metrics, told };
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("broker connection", async move {
            let drained = async {
                shutdown.draining().await;
                tokio::time::sleep(DRAIN).await;
            };
            tokio::select! {
                () = Box::pin(mender.run()) => {}
                () = drained => {}
            }
            mender.state.send_replace(State::Down("shutting down".into()));
        });
        Self { state, _stop: Arc::new(stop.drop_guard()) }
    }

    /// The connection that is up, as soon as one is. Cancellation safe.
    pub(crate) async fn live(&self) -> Arc<Live> {
        let mut state = self.state.clone();
        loop {
            if let State::Up(live) = &*state.borrow_and_update()
                && !live.is_ended()
            {
                return Arc::clone(live);
            }
            if state.changed().await.is_err() {
                // Shutting down: there will be none any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Why it is down, after a failed attempt; pends while it is up or being connected for the first time.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The connection that is up now.
    pub(crate) fn now(&self) -> Result<Arc<Live>, BrokerError> {
        match &*self.state.borrow() {
            State::Up(live) if !live.is_ended() => Ok(Arc::clone(live)),
            State::Up(_) => Err(BrokerError::Disconnected("the connection has just ended".into())),
            State::Connecting => Err(BrokerError::Disconnected("not connected yet".into())),
            State::Down(reason) => Err(BrokerError::Disconnected(reason.to_string())),
        }
    }
}

/// A connection that is up, until it is not.
pub(crate) struct Live {
    connection: Connection,
    socket: Option<std::net::TcpStream>,
    blocked: watch::Receiver<Option<String>>,
    ended: CancellationToken,
    reason: parking_lot::Mutex<Option<String>>,
    /// When something came last, in milliseconds of `started`.
    heard: AtomicU64,
    started: tokio::time::Instant,
    pub(crate) metrics: Arc<Metrics>,
}

impl Live {
    pub(crate) async fn channel(&self) -> Result<Channel, BrokerError> {
        self.call("open a channel", "", self.connection.create_channel()).await
    }

    pub(crate) async fn confirming_channel(&self) -> Result<Channel, BrokerError> {
        let channel = self.channel().await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        self.call("ask for confirms", "", select).await?;
        Ok(channel)
    }

    /// Bounds a call in time; a broker that does not answer is lost.
    pub(crate) async fn call<T>(
        &self,
        operation: &'static str,
        subject: &str,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        tokio::select! {
            answer = call => answer.context(operation, subject),
            () = tokio::time::sleep(CALL_TIMEOUT) => {
                let seconds = CALL_TIMEOUT.as_secs();
                let error = BrokerError::Timeout { operation, seconds };
                self.fail(error.to_string());
                Err(error)
            }
            () = self.ended() => Err(BrokerError::Disconnected(self.reason())),
        }
    }

    /// Something came: the broker lives.
    pub(crate) fn heard(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    /// For how long nothing has come.
    pub(crate) fn silent(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(heard)
    }

    /// Whoever notices that this connection is of no use any more says so.
    pub(crate) fn fail(&self, reason: String) {
        self.reason.lock().get_or_insert(reason);
        self.ended.cancel();
    }

    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    pub(crate) fn reason(&self) -> String {
        self.reason.lock().clone().unwrap_or_else(|| "the connection has ended".to_owned())
    }

    /// Why publishes have to wait, if they have.
    pub(crate) fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.blocked.clone()
    }
}

/// lapin's thread for this connection ends with its socket, also where the broker does not answer.
impl Drop for Live {
    fn drop(&mut self) {
        if self.is_ended()
            && let Some(socket) = &self.socket
        {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

struct Mender {
    config: BrokerConfig,
    purpose: Purpose,
    state: watch::Sender<State>,
    stop: CancellationToken,
    status: StatusCell,
    metrics: Arc<Metrics>,
    told: Arc<Connected>,
}

impl Mender {
    async fn run(&self) {
        let mut attempt = 0;
        // Clients spread over the nodes of a cluster, and go on to the next where one fails.
        let nodes = self.config.url.addresses();
        let mut node = rand::random_range(0..nodes.max(1));
        loop {
            let broker = &self.config.url.nth(node);
            let reason = tokio::select! {
                reason = self.once(broker, &mut attempt) => reason,
                () = self.stop.cancelled() => return,
            };
            node = node.wrapping_add(1);
            self.told.up.store(false, Ordering::Relaxed);
            self.told.blocked.store(false, Ordering::Relaxed);
            add(&self.metrics.disconnects, 1);
            self.status.disconnected(&reason);
            let wait = backoff(round(attempt, nodes), rand::random());
            let connection = self.purpose.what;
            let retry_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            if attempt.is_multiple_of(TOLD_EVERY) {
                tracing::warn!(%broker, connection, %reason, retry_ms, "no connection to the broker");
            } else {
                tracing::debug!(%broker, connection, %reason, retry_ms, "still no connection");
            }
            attempt += 1;
            self.state.send_replace(State::Down(reason.into()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// One connection from its beginning to the reason for its end.
    async fn once(&self, broker: &BrokerUrl, attempt: &mut u32) -> String {
        let (blocked_sender, blocked) = watch::channel(None);
        let live = match self.connect(broker, blocked).await {
            Ok(live) => Arc::new(live),
            Err(error) => return with_remedy(error.report()),
        };
        // Whatever comes next, and also where this is dropped: nobody keeps what is not watched any more.
        let _end = live.ended.clone().drop_guard();
        let mut events = Box::pin(live.connection.events_listener());
        if let Some(replay) = &self.purpose.replay
            && let Err(error) = replay(Arc::clone(&live)).await
        {
            let reason = error.report();
            live.fail(reason.clone());
            return reason;
        }
        tracing::info!(%broker, connection = self.purpose.what, "connected to the broker");
        add(&self.metrics.connects, 1);
        *attempt = 0;
        self.told.up.store(true, Ordering::Relaxed);
        self.status.connected();
        self.state.send_replace(State::Up(Arc::clone(&live)));
        let reason = tokio::select! {
            () = live.ended() => live.reason(),
            reason = self.watch_events(&mut events, &live, &blocked_sender) => reason,
            reason = watch_status(&live) => reason,
            reason = probe(&live), if self.purpose.probe => reason,
        };
        live.fail(reason.clone());
        reason
    }

    async fn watch_events(
        &self,
        events: &mut (impl futures::Stream<Item = Event> + Unpin),
        live: &Live,
        blocked: &watch::Sender<Option<String>>,
    ) -> String {
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(reason) => {
                    tracing::warn!(%reason, "the broker takes no publishes: it is short of memory or of disk");
                    self.told.blocked.store(true, Ordering::Relaxed);
                    self.status.blocked(Some(reason.clone()));
                    blocked.send_replace(Some(reason));
                }
                Event::ConnectionUnblocked => {
                    tracing::info!("the broker takes publishes again");
                    self.told.blocked.store(false, Ordering::Relaxed);
                    self.status.blocked(None);
                    blocked.send_replace(None);
                }
                // Also what ends a single channel comes this way; that is its user's affair.
                Event::Error(error) if !live.connection.status().connected() => {
                    return error.to_string();
                }
                _ => {}
            }
        }
        "the connection has ended".to_owned()
    }

    async fn connect(
        &self,
        broker: &BrokerUrl,
        blocked: watch::Receiver<Option<String>>,
    ) -> Result<Live, BrokerError> {
        let runtime = lapin::runtime::default_runtime().context("start", "the client")?;
        let name = format!("{} ({})", self.config.name, self.purpose.what);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        // A second handle to the socket ends lapin's thread where the broker accepts and then says nothing.
        let handle: Arc<parking_lot::Mutex<Option<std::net::TcpStream>>> = Arc::default();
        let keep = Arc::clone(&handle);
        let uri = broker.first();
        let connect = Connection::connector(
            uri,
            runtime,
            async move |uri: AMQPUri, runtime| {
                let connect = uri.connect_async(&runtime);
                let connected = tokio::time::timeout(CALL_TIMEOUT, connect).await;
                let stream =
                    connected.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
                if let AsyncTcpStream::Plain(tcp) = &stream {
                    let socket =
                        std::net::TcpStream::from(tcp.get_ref().as_fd().try_clone_to_owned()?);
                    socket.set_nodelay(true)?;
                    *keep.lock() = Some(socket);
                }
                Ok(stream)
            },
            properties,
        );
        match tokio::time::timeout(CALL_TIMEOUT, connect).await {
            Ok(connection) => Ok(Live {
                connection: connection.context("connect to", &broker.to_string())?,
                socket: handle.lock().take(),
                blocked,
                ended: CancellationToken::new(),
                reason: parking_lot::Mutex::new(None),
                heard: AtomicU64::new(0),
                started: tokio::time::Instant::now(),
                metrics: Arc::clone(&self.metrics),
            }),
            Err(_) => {
                if let Some(socket) = handle.lock().take() {
                    let _ = socket.shutdown(Shutdown::Both);
                }
                Err(BrokerError::Timeout { operation: "connect", seconds: CALL_TIMEOUT.as_secs() })
            }
        }
    }
}

/// The broker says that it let nobody in, not why.
fn with_remedy(reason: String) -> String {
    if !reason.contains("Login was refused") {
        return reason;
    }
    format!(
        "{reason}. It has no such account, or with another password: let it load broker/rabbitmq/definitions.json of the \
         data folder (rabbitmqctl import_definitions FILE)"
    )
}

/// Not every end of a connection is an event: a close that the broker asks for is only a state.
async fn watch_status(live: &Live) -> String {
    const INTERVAL: Duration = Duration::from_millis(200);
    while live.connection.status().connected() {
        tokio::time::sleep(INTERVAL).await;
    }
    let word = if live.connection.status().errored() { "failed" } else { "was closed" };
    format!("the connection {word}")
}

async fn probe(live: &Live) -> String {
    let channel = match live.channel().await {
        Ok(channel) => channel,
        Err(error) => return error.report(),
    };
    loop {
        let left = PROBE_INTERVAL.saturating_sub(live.silent());
        if !left.is_zero() {
            tokio::time::sleep(left).await;
            continue;
        }
        let ask = channel.basic_qos(1, BasicQosOptions::default());
        match tokio::time::timeout(PROBE_TIMEOUT, ask).await {
            Ok(Ok(())) => live.heard(),
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "the broker does not answer".to_owned(),
        }
    }
}

/// All nodes are tried before the wait grows.
fn round(attempt: u32, nodes: usize) -> u32 {
    attempt / u32::try_from(nodes.max(1)).unwrap_or(u32::MAX)
}

/// Grows from 100 ms to 3 s; `random` spreads it over its upper half.
pub(crate) fn backoff(attempt: u32, random: u32) -> Duration {
    let full = FIRST_BACKOFF.saturating_mul(1 << attempt.min(10)).min(MAX_BACKOFF);
    full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_over_when_all_nodes_were_tried() {
        assert_eq!([0, 1, 2, 3, 6].map(|attempt| round(attempt, 3)), [0, 0, 0, 1, 2]);
        assert_eq!([0, 1, 2].map(|attempt| round(attempt, 1)), [0, 1, 2]);
    }

    #[test]
    fn the_backoff_grows_and_is_bounded() {
        assert_eq!(backoff(0, 0), FIRST_BACKOFF / 2);
        assert_eq!(backoff(0, u32::MAX), FIRST_BACKOFF);
        assert_eq!(backoff(1_000, u32::MAX), MAX_BACKOFF);
        assert!((0..20).all(|n| backoff(n, 7) <= backoff(n + 1, 7)));
    }
}
