//! What of the fabric is degraded, and how far the backlog is: for `/readyz?verbose` and `warren status`. [`reports`] is pure;
//! [`Facts::gather`] asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use warren_broker::topology::{DEAD_QUEUE_MESSAGES, NODE_QUEUE_MESSAGES};
use warren_broker::{Depths, FabricStatus, QueueDepth};
use warren_process::{CheckReport, CheckState};

use crate::api::Api;
use crate::fabric::Waiting;
use crate::readers::Reader;

pub(crate) use leaders::Leader;

mod leaders;

/// What the broker said of its queues counts for so long: whoever asks often asks it once.
const DEPTHS_LAST: Duration = Duration::from_secs(2);
/// A tenth of what a node's queue holds: in an idle cluster it is empty, in a busy one it holds some tens.
const BEHIND: u32 = NODE_QUEUE_MESSAGES / 10;
/// Of the outbox's bound, in percent; at 100 history is given up, and who missed it lists.
const NEAR_BOUND: u64 = 80;
/// Of the dead letters' queue's bound, in percent; at 100 the oldest are dropped.
const NEAR_FULL: u32 = 90;
/// A Lease is renewed every two seconds at least where the leader's queue is not read.
const RENEWED_WITHIN: Duration = Duration::from_secs(10);
/// Names in one line.
const NAMED: usize = 5;

/// What is known of the fabric at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub broker: Option<Link>,
    pub readers: Vec<(Reader, Duration)>,
    pub leaders: Vec<Leader>,
}

/// Of a server that has a broker.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub publishes: FabricStatus,
    pub reads: FabricStatus,
    pub waiting: Waiting,
    /// What the journal holds for the broker at most.
    pub bound: u64,
    pub now_ms: i64,
    /// `None` where the broker did not say.
    pub depths: Option<Arc<Depths>>,
}

/// What the broker said last.
#[derive(Debug, Default)]
pub(crate) struct Looked(tokio::sync::Mutex<Option<(Instant, Option<Arc<Depths>>)>>);

impl Looked {
    /// Two seconds at most.
    pub(crate) async fn depths(&self, api: &Api, leaders: &[Leader]) -> Option<Arc<Depths>> {
        let broker = api.broker.get()?;
        let mut last = self.0.lock().await;
        if let Some((at, depths)) = &*last
            && at.elapsed() < DEPTHS_LAST
        {
            return depths.clone();
        }
        let queues: Vec<String> = leaders.iter().filter_map(|one| one.queue.clone()).collect();
        let depths = match broker.depths(&queues).await {
            Ok(depths) => Some(Arc::new(depths)),
            Err(error) => {
                tracing::debug!(%error, "the broker does not tell of its queues");
                None
            }
        };
        *last = Some((Instant::now(), depths.clone()));
        depths
    }
}

impl Facts {
    pub(crate) async fn gather(api: &Api) -> Self {
        let leaders = leaders::all(&api.cache, api.clock.now());
        let depths = api.looked.depths(api, &leaders).await;
        Self { broker: link(api, depths), readers: api.readers.all(), leaders }
    }
}

/// Without a word to the broker, unless its answer is given.
pub(crate) fn link(api: &Api, depths: Option<Arc<Depths>>) -> Option<Link> {
    let broker = api.broker.get()?;
    Some(Link {
        publishes: broker.status(),
        reads: broker.reads_status(),
        waiting: api.waiting(),
        bound: api.settings.outbox_bytes,
        now_ms: api.clock.now().as_millisecond(),
        depths,
    })
}

/// A line each, the broker's first; nothing of what there is not.
pub(crate) fn reports(facts: &Facts) -> Vec<CheckReport> {
    let mut all = Vec::new();
    let mut add = |name, state| all.push(CheckReport { name, state });
    if let Some(link) = &facts.broker {
        add("broker", broker(link));
        add("outbox", outbox(link));
    }
    let (mut nodes, mut informers) = (Vec::new(), Vec::new());
    for (reader, since) in &facts.readers {
        let (list, name) = match reader {
            Reader::Node(name) => (&mut nodes, name),
            Reader::Informers(name) => (&mut informers, name),
        };
        list.push(format!("{name} (for {})", time(*since)));
    }
    for (name, one, many, list) in
        [("informers", "process", "processes", informers), ("agents", "node", "nodes", nodes)]
    {
        if !list.is_empty() {
            let what = if list.len() == 1 { one } else { many };
            let text = format!("{} {what} on HTTP watch: {}", list.len(), some(&list));
            add(name, CheckState::Degraded(text));
        }
    }
    let depths = facts.broker.as_ref().and_then(|link| link.depths.as_deref());
    for one in &facts.leaders {
        add("leader", leader(one, depths));
    }
    if let Some(depths) = depths {
        add("node-queues", node_queues(depths));
        add("dead-letters", dead_letters(depths.dead_letters));
    }
    all
}

/// The connections; `connected for 12s`, or what is wrong with them.
pub(crate) fn broker(link: &Link) -> CheckState {
    let Link { publishes, reads, .. } = link;
    let mut status = publishes.clone();
    if publishes.connected && !reads.connected {
        // The one that publishes learns later of a broker that hangs: it is not asked.
        status = reads.clone();
        (status.cursor, status.blocked) = (publishes.cursor, publishes.blocked.clone());
    }
    // The outbox has a line of its own.
    status.backlog = None;
    match status.connected && status.blocked.is_none() {
        true => CheckState::Ready,
        false => CheckState::Degraded(status.to_string()),
    }
}

fn outbox(link: &Link) -> CheckState {
    let Link { waiting, bound, now_ms, .. } = link;
    let Some(oldest) = waiting.oldest_ms else { return CheckState::Ready };
    let age = Duration::from_millis(u64::try_from(now_ms - oldest).unwrap_or(0));
    let share = waiting.bytes.saturating_mul(100) / (*bound).max(1);
    let word = if waiting.events == 1 { "event waits" } else { "events wait" };
    let text = format!(
        "{} {word}, {} of {} ({share}%), the oldest for {}",
        waiting.events,
        bytes(waiting.bytes),
        bytes(*bound),
        time(age)
    );
    let well = link.publishes.connected && link.publishes.blocked.is_none();
    match share {
        NEAR_BOUND.. => CheckState::Degraded(format!("{text}; history is given up at its bound")),
        // On their way, all the time.
        _ if well => CheckState::Told(text),
        _ => CheckState::Degraded(text),
    }
}

fn leader(one: &Leader, depths: Option<&Depths>) -> CheckState {
    let Leader { lease, holder, term, renewed, queue } = one;
    let Some(holder) = holder else {
        return CheckState::Degraded(format!("{lease}: nobody leads; the last term was {term}"));
    };
    let leads = format!("{lease}: {holder} leads, term {term}");
    let depth = queue.as_ref().zip(depths).map(|(queue, depths)| depths.leaders.get(queue));
    match depth {
        // A leader that is not heard by the queue renews the Lease, twice a second.
        Some(Some(Some(QueueDepth { consumers: 0, .. }) | None)) if *renewed > RENEWED_WITHIN => {
            CheckState::Degraded(format!("{leads}, and nobody reads the leader's queue"))
        }
        Some(Some(Some(QueueDepth { consumers: 0, .. }) | None)) => {
            CheckState::Told(format!("{leads}, by the Lease: nobody reads the leader's queue"))
        }
        Some(Some(Some(QueueDepth { consumers, .. }))) => {
            let standbys = consumers - 1;
            CheckState::Told(format!("{leads}, {standbys} standing by"))
        }
        _ if *renewed > RENEWED_WITHIN => {
            CheckState::Degraded(format!("{leads}, not renewed for {}", time(*renewed)))
        }
        _ => CheckState::Told(leads),
    }
}

/// Why a node's queue is not as it should be.
pub(crate) fn behind(depth: Option<QueueDepth>) -> Option<String> {
    match depth {
        None => Some("has no queue".to_owned()),
        Some(QueueDepth { messages, consumers: 0 }) if messages > 0 => {
            Some(format!("{}, nobody reads", waits(messages)))
        }
        Some(QueueDepth { messages, .. }) if messages >= BEHIND => Some(waits(messages)),
        _ => None,
    }
}

fn waits(messages: u32) -> String {
    if messages == 1 { "1 message waits".to_owned() } else { format!("{messages} messages wait") }
}

fn node_queues(depths: &Depths) -> CheckState {
    let found = depths.nodes.iter().filter_map(|(node, depth)| {
        let messages = depth.map_or(u32::MAX, |depth| depth.messages);
        Some((messages, format!("{node} ({})", behind(*depth)?)))
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|(messages, _)| std::cmp::Reverse(*messages));
    let found: Vec<String> = found.into_iter().map(|(_, text)| text).collect();
    let all = depths.nodes.len() + depths.left_out;
    let left_out = match depths.left_out {
        0 => String::new(),
        n => format!("; {n} were not looked at"),
    };
    match found.len() {
        0 if depths.left_out == 0 => CheckState::Ready,
        0 => CheckState::Told(format!("{} of {all} nodes keep up{left_out}", depths.nodes.len())),
        n => CheckState::Degraded(format!("{n} of {all} nodes behind: {}{left_out}", some(&found))),
    }
}

/// A letter is somebody's mistake and no fault of the cluster, until there is no room for the next.
fn dead_letters(depth: Option<QueueDepth>) -> CheckState {
    let Some(QueueDepth { messages, .. }) = depth else {
        return CheckState::Degraded("the queue warren.dead is not there".to_owned());
    };
    match messages {
        0 => CheckState::Ready,
        1 => {
            CheckState::Noted("1 in the queue warren.dead; its header x-reason says why".to_owned())
        }
        n if n >= DEAD_QUEUE_MESSAGES / 100 * NEAR_FULL => CheckState::Degraded(format!(
            "{n} of at most {DEAD_QUEUE_MESSAGES} in the queue warren.dead, which drops the oldest"
        )),
        n => CheckState::Noted(format!(
            "{n} in the queue warren.dead; their header x-reason says why"
        )),
    }
}

fn some(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}

/// `12s`, `5m`, `3h`, `2d`
fn time(duration: Duration) -> String {
    match duration.as_secs() {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..1_024 => format!("{n} B"),
        1_024..1_048_576 => format!("{} KiB", n >> 10),
        _ => format!("{} MiB", n >> 20),
    }
}

#[cfg(test)]
mod tests;
