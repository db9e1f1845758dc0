//! Names: of exchanges, queues, accounts, and the words of routing keys. Pure.
//!
//! A routing key is `group.resource.namespace.shard.verb`. A word holds letters, digits, `-`, `~` and `_` only: a dot
//! (which parts words) and everything else becomes `_`, which no Kubernetes name carries, so that different names stay
//! different words. The core group is the word `core`; where there is no namespace, and for the shard of what no node
//! needs, the word is `-`. Full names stand in the message's headers.

use lapin::ExchangeKind;
use lapin::types::{AMQPValue, FieldTable};
use sha2::{Digest, Sha256};
use warren_api::{GroupResource, NodeName, ObjectKey, Revision, Shard};

use crate::envelope::text;
use crate::{Event, EventType};

/// Every change of every object; topic.
pub const EVENTS: &str = "warren.events";
/// What people and programs ask for; the routing key is a node's name, or `apply`. An exchange and a queue.
pub const COMMANDS: &str = "warren.commands";
/// What nobody could use, with the reason. An exchange and a queue.
pub const DEAD: &str = "warren.dead";
/// Requests to the API over AMQP. An exchange and a queue; the routing key is empty.
pub const API: &str = "warren.api";
/// What nodes have to say, which may write nowhere else; topic, the first word of the key is the account's, the second
/// what it is ([`REFUSED`], [`ANSWER`]). An exchange, and a queue for the answers, which the server hands on.
pub const REPLIES: &str = "warren.replies";
/// A message that a node could not use, with the reason: goes to the queue [`DEAD`].
pub const REFUSED: &str = "refused";
/// A node's answer to a command.
pub const ANSWER: &str = "answer";

/// What processes that could lead say to each other; direct. Under a name that the controllers' account may write to.
pub const LEADER: &str = "controllers.leader";

/// The broker's account whose messages are events.
pub const SERVER_ACCOUNT: &str = "server";

/// The routing key of a floor, which every reader's queue is bound to.
pub const FLOOR_KEY: &str = "warren.floor.-.all.floor";

/// AMQP's bound for names and routing keys.
pub const MAX_NAME_BYTES: usize = 255;
/// Five words of 48 bytes and four dots are 244 bytes, below AMQP's 255.
pub const MAX_WORD_BYTES: usize = 48;

/// A node's queue keeps what the node misses while it is away: some hours of a node's changes. What is dropped at the
/// head is noticed by the stream's `prev` and listed again.
pub const NODE_QUEUE_MESSAGES: u32 = 10_000;
pub const NODE_QUEUE_BYTES: u32 = 32 << 20;
/// A controller reads all nodes' changes; its queue lives only as long as its process does.
pub const CONTROLLER_QUEUE_MESSAGES: u32 = 100_000;
pub const CONTROLLER_QUEUE_BYTES: u32 = 256 << 20;
/// Commands are people's and programs' wishes: when the server is away for long, publishers are told (a nack), and
/// nothing accepted is dropped.
pub const COMMAND_QUEUE_MESSAGES: u32 = 10_000;
pub const COMMAND_QUEUE_BYTES: u32 = 64 << 20;
/// Requests wait here for a moment only; who asks is told when the queue is full (a nack), and gives up after a while.
pub const API_QUEUE_MESSAGES: u32 = 10_000;
pub const API_QUEUE_BYTES: u32 = 64 << 20;
/// Nobody waits longer, whatever a message's own `expiration` says.
pub const API_QUEUE_TTL_MS: u32 = 60_000;
/// Answers are Statuses of a few hundred bytes, handed on at once; whoever waited for an old one has given up.
pub const ANSWER_QUEUE_MESSAGES: u32 = 10_000;
pub const ANSWER_QUEUE_BYTES: u32 = 32 << 20;
/// A ping is good for a moment: whoever becomes the active consumer hears no old ones.
pub const LEADER_QUEUE_MESSAGES: u32 = 100;
pub const LEADER_QUEUE_BYTES: u32 = 256 << 10;
pub const LEADER_MESSAGE_MILLIS: u32 = 1_000;
/// A quorum queue counts how often a message came back, and RabbitMQ 4 gives up after 20 where nothing is said. A reader
/// that cannot store returns one four times a second: this is 40 minutes of a full disk. Then it is a dead letter.
pub const DELIVERY_LIMIT: u32 = 10_000;
/// Dead letters are for people to look at; the oldest go first.
pub const DEAD_QUEUE_MESSAGES: u32 = 10_000;
pub const DEAD_QUEUE_BYTES: u32 = 32 << 20;

/// What keeps the messages of the queues that are shared: node queues, the queues of commands, requests, answers and dead
/// letters, the leader's. Queues of one connection are classic by their nature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueType {
    /// On one node of the broker.
    #[default]
    Classic,
    /// Replicated by Raft to (three) nodes of a RabbitMQ cluster.
    Quorum,
}

impl QueueType {
    /// RabbitMQ's word.
    pub fn name(self) -> &'static str {
        match self {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    pub name: &'static str,
    pub kind: ExchangeKind,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    pub name: String,
    /// Lives and dies with the connection that declares it; others are durable.
    pub exclusive: bool,
    pub arguments: FieldTable,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    pub queue: String,
    pub exchange: &'static str,
    pub key: String,
    pub arguments: FieldTable,
}

/// What somebody declares. Exchanges are durable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    pub exchanges: Vec<Exchange>,
    pub queues: Vec<Queue>,
    pub bindings: Vec<Binding>,
}

impl Topology {
    /// One of its queues, with what is bound to it.
    pub fn only(&self, queue: &str) -> Topology {
        Topology {
            exchanges: Vec::new(),
            queues: self.queues.iter().filter(|q| q.name == queue).cloned().collect(),
            bindings: self.bindings.iter().filter(|b| b.queue == queue).cloned().collect(),
        }
    }

    /// The same queues and bindings under other names: what takes the messages while those are replaced.
    pub fn in_between(&self) -> Topology {
        let mut other = self.clone();
        other.exchanges.clear();
        for queue in &mut other.queues {
            queue.name = in_between(&queue.name);
        }
        for binding in &mut other.bindings {
            binding.queue = in_between(&binding.queue);
        }
        other
    }
}

/// `warren.commands.moving`
fn in_between(queue: &str) -> String {
    bounded(format!("{queue}.moving"))
}

/// What all share; the server declares it.
pub fn shared(queues: QueueType) -> Topology {
    let exchange = |name, kind| Exchange { name, kind };
    let binding = |queue: &str, exchange, key: &str, arguments| Binding {
        queue: queue.to_owned(),
        exchange,
        key: key.to_owned(),
        arguments,
    };
    let of_nodes =
        |queue, what| binding(queue, REPLIES, &format!("*.{what}"), FieldTable::default());
    let mut commands =
        bounds(queues, COMMAND_QUEUE_MESSAGES, COMMAND_QUEUE_BYTES, "reject-publish");
    dead_letter_to(&mut commands, queues, "at-least-once");
    let mut api = bounds(queues, API_QUEUE_MESSAGES, API_QUEUE_BYTES, "reject-publish");
    api.insert("x-message-ttl".into(), AMQPValue::LongLongInt(API_QUEUE_TTL_MS.into()));
    // What overflows a node's queue is dead-lettered by the broker as well, and must not drown what people should see:
    // all else goes on to the queue, or `at-least-once` would keep it where it was.
    let died = |reason: &str| {
        let mut of = FieldTable::default();
        of.insert("x-match".into(), text("any-with-x"));
        of.insert("x-first-death-reason".into(), text(reason));
        of
    };
    let mut refused = died("rejected");
    refused.insert("x-reason".into(), AMQPValue::Void);
    let queue =
        |name: &str, arguments| Queue { name: name.to_owned(), exclusive: false, arguments };
    Topology {
        exchanges: vec![
            exchange(EVENTS, ExchangeKind::Topic),
            exchange(COMMANDS, ExchangeKind::Topic),
            exchange(DEAD, ExchangeKind::Headers),
            exchange(API, ExchangeKind::Direct),
            exchange(REPLIES, ExchangeKind::Topic),
        ],
        queues: vec![
            queue(COMMANDS, commands),
            queue(DEAD, bounds(queues, DEAD_QUEUE_MESSAGES, DEAD_QUEUE_BYTES, "drop-head")),
            queue(REPLIES, bounds(queues, ANSWER_QUEUE_MESSAGES, ANSWER_QUEUE_BYTES, "drop-head")),
            queue(API, api),
        ],
        bindings: vec![
            binding(COMMANDS, COMMANDS, "#", FieldTable::default()),
            binding(DEAD, DEAD, "", refused),
            binding(DEAD, DEAD, "", died("delivery_limit")),
            binding(DEAD, DEAD, "", died("expired")),
            of_nodes(DEAD, REFUSED),
            of_nodes(REPLIES, ANSWER),
            binding(API, API, "", FieldTable::default()),
        ],
    }
}

/// A node's queue; the server declares it when the Node is created.
pub fn node(node: &NodeName, queues: QueueType) -> Topology {
    let name = node_queue(node);
    let mut arguments = bounds(queues, NODE_QUEUE_MESSAGES, NODE_QUEUE_BYTES, "drop-head");
    dead_letter_to(&mut arguments, queues, "at-most-once");
    Topology {
        exchanges: Vec::new(),
        bindings: bind(&name, node_keys(node)),
        queues: vec![Queue { name, exclusive: false, arguments }],
    }
}

/// A controller process' queue; the process declares it.
pub fn controller(queue: String, resources: &[GroupResource]) -> Topology {
    let arguments =
        bounds(QueueType::Classic, CONTROLLER_QUEUE_MESSAGES, CONTROLLER_QUEUE_BYTES, "drop-head");
    Topology {
        exchanges: Vec::new(),
        bindings: bind(&queue, controller_keys(resources)),
        queues: vec![Queue { name: queue, exclusive: true, arguments }],
    }
}

/// The queue by which processes of a name find out who leads; each of them declares it.
pub fn leader(name: &str, queues: QueueType) -> Topology {
    let queue = leader_queue(name);
    let mut arguments = leader_bounds(queues);
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    let binding = Binding {
        queue: queue.clone(),
        exchange: LEADER,
        key: queue.clone(),
        arguments: FieldTable::default(),
    };
    Topology {
        exchanges: vec![Exchange { name: LEADER, kind: ExchangeKind::Direct }],
        queues: vec![Queue { name: queue, exclusive: false, arguments }],
        bindings: vec![binding],
    }
}

/// Where one of them gets its answers, on its `generation`-th connection.
pub fn leader_replies(name: &str, me: &str, generation: u64) -> Topology {
    let key = leader_reply_key(name, me);
    let queue = bounded(format!("{key}~{generation}"));
    let binding =
        Binding { queue: queue.clone(), exchange: LEADER, key, arguments: FieldTable::default() };
    Topology {
        exchanges: Vec::new(),
        queues: vec![Queue {
            name: queue,
            exclusive: true,
            arguments: leader_bounds(QueueType::Classic),
        }],
        bindings: vec![binding],
    }
}

fn leader_bounds(queues: QueueType) -> FieldTable {
    let mut arguments = bounds(queues, LEADER_QUEUE_MESSAGES, LEADER_QUEUE_BYTES, "drop-head");
    let millis = AMQPValue::LongLongInt(LEADER_MESSAGE_MILLIS.into());
    arguments.insert("x-message-ttl".into(), millis);
    arguments
}

fn bind(queue: &str, keys: Vec<String>) -> Vec<Binding> {
    let binding = |key| Binding {
        queue: queue.to_owned(),
        exchange: EVENTS,
        key,
        arguments: FieldTable::default(),
    };
    keys.into_iter().map(binding).collect()
}

fn bounds(queues: QueueType, messages: u32, bytes: u32, overflow: &str) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text(queues.name()));
    if queues == QueueType::Quorum {
        let limit = AMQPValue::LongLongInt(DELIVERY_LIMIT.into());
        arguments.insert("x-delivery-limit".into(), limit);
    }
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(messages.into()));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes.into()));
    arguments.insert("x-overflow".into(), text(overflow));
    arguments
}

/// `strategy` is a quorum queue's; `at-least-once` needs an overflow that rejects.
fn dead_letter_to(arguments: &mut FieldTable, queues: QueueType, strategy: &str) {
    arguments.insert("x-dead-letter-exchange".into(), text(DEAD));
    if queues == QueueType::Quorum {
        arguments.insert("x-dead-letter-strategy".into(), text(strategy));
    }
}

/// `node.<name>`; shortened like a word where it exceeds AMQP's 255 bytes.
pub fn node_queue(node: &NodeName) -> String {
    bounded(format!("node.{node}"))
}

/// `controllers.<name>.<instance>`
pub fn controller_queue(name: &str, instance: &str) -> String {
    bounded(format!("controllers.{name}.{instance}"))
}

/// `controllers.<name>.leader`
pub fn leader_queue(name: &str) -> String {
    bounded(format!("controllers.{name}.leader"))
}

/// `controllers.<name>.leader.<process>`
pub fn leader_reply_key(name: &str, me: &str) -> String {
    bounded(format!("controllers.{name}.leader.{me}"))
}

/// `node-<name>`: the broker's account of a node.
pub fn node_account(node: &NodeName) -> String {
    bounded(format!("node-{node}"))
}

/// The key on [`REPLIES`] of what an account says: its word, and [`REFUSED`] or [`ANSWER`].
pub fn reply_key(account: &str, what: &str) -> String {
    format!("{}.{what}", word(account))
}

/// Whether a queue's name is one of ours, so that nobody may make the server write to it by naming it as the place
/// for a reply.
pub fn is_reserved(queue: &str) -> bool {
    ["node.", "controllers.", "warren."].iter().any(|prefix| queue.starts_with(prefix))
}

fn bounded(name: String) -> String {
    shorten(&name, &name, MAX_NAME_BYTES)
}

/// A word of a routing key. At most [`MAX_WORD_BYTES`]: a longer one becomes its first 31 bytes, `~` and the first 16
/// hex digits of the SHA-256 of the full text.
pub fn word(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '~' | '_');
    let clean: String = text.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    shorten(&clean, text, MAX_WORD_BYTES)
}

fn shorten(shown: &str, full: &str, max: usize) -> String {
    if shown.len() <= max {
        return shown.to_owned();
    }
    let mut end = max - 17;
    while !shown.is_char_boundary(end) {
        end -= 1;
    }
    let hash: String =
        Sha256::digest(full.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("{}~{hash}", &shown[..end])
}

fn group_word(group: &str) -> String {
    if group.is_empty() { "core".to_owned() } else { word(group) }
}

pub fn verb(event_type: EventType) -> &'static str {
    match event_type {
        EventType::Added => "added",
        EventType::Modified => "modified",
        EventType::Deleted => "deleted",
    }
}

/// The keys that an event is published with, the object's own shard first; the others stand in `CC`. The stream of all
/// shards has none: who wants it binds the others' keys.
pub fn event_keys(event: &Event) -> Vec<String> {
    let resource = &event.key.resource;
    let head = format!(
        "{}.{}.{}",
        group_word(&resource.group),
        word(&resource.resource),
        word(&event.key.namespace)
    );
    let key = |shard: &Shard| format!("{head}.{}.{}", word(&shard.word()), verb(event.event_type));
    routed(event).map(|(shard, _)| key(shard)).collect()
}

/// The key of what a node's pods refer to, as it is: no change of a resource, so it does not begin with one's group.
pub fn present_key(key: &ObjectKey, node: &NodeName) -> String {
    let (namespace, shard) = (word(&key.namespace), word(&ref_word(node)));
    format!("warren.present.{namespace}.{shard}.{}", word(&key.resource.resource))
}

fn ref_word(node: &NodeName) -> String {
    format!("ref~{node}")
}

/// The shards of an event that have a key of their own, with what precedes it there.
pub(crate) fn routed(event: &Event) -> impl Iterator<Item = &(Shard, Revision)> {
    event.shards.iter().filter(|(shard, _)| *shard != Shard::Every)
}

/// What a node's queue is bound to: its own shard, what every node needs, what its pods refer to, and floors.
pub fn node_keys(node: &NodeName) -> Vec<String> {
    let shards = [Shard::Node(node.clone()).word(), Shard::All.word(), ref_word(node)];
    let mut keys: Vec<String> = shards.iter().map(|s| format!("*.*.*.{}.*", word(s))).collect();
    keys.push(FLOOR_KEY.to_owned());
    keys
}

/// What a controller's queue is bound to: all shards of its resources, and floors.
pub fn controller_keys(resources: &[GroupResource]) -> Vec<String> {
    let key = |r: &GroupResource| format!("{}.{}.*.*.*", group_word(&r.group), word(&r.resource));
    let mut keys: Vec<String> = resources.iter().map(key).collect();
    keys.push(FLOOR_KEY.to_owned());
    keys
}

#[cfg(test)]
mod tests;
