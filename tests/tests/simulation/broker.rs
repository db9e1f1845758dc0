//! RabbitMQ as far as events go: a topic exchange, queues with a bound, deliveries that are acknowledged or come again.

use std::collections::BTreeMap;
use std::sync::Arc;

use lapin::types::AMQPValue;
use warren_broker::envelope::Message;

/// What becomes of a message at a queue.
#[derive(Clone, Copy)]
pub enum Fate {
    Kept,
    Refused,
    /// Somebody takes it off the queue.
    Taken,
}

/// Deliveries that a consumer has and has not settled.
const PREFETCH: usize = 16;

struct Queue {
    bindings: Vec<String>,
    /// The words of each.
    patterns: Vec<Vec<String>>,
    /// By the order of publication, which is also where a delivery goes that comes back.
    ready: BTreeMap<u64, Arc<Message>>,
    bound: usize,
    consumer: Option<Consumer>,
    /// Goes with its connection.
    exclusive: bool,
}

struct Consumer {
    generation: u64,
    unacked: BTreeMap<u64, (u64, Arc<Message>)>,
    next_tag: u64,
}

pub struct Delivery {
    pub tag: u64,
    pub message: Arc<Message>,
}

#[derive(Default)]
pub struct Broker {
    pub up: bool,
    queues: BTreeMap<String, Queue>,
    sequence: u64,
    /// Messages that were published, and that a queue's bound has cost.
    pub published: u64,
    pub overflowed: u64,
    pub taken: u64,
}

impl Broker {
    pub fn new() -> Self {
        Self { up: true, ..Self::default() }
    }

    /// Declares a queue and its bindings, or mends them.
    pub fn declare(&mut self, name: &str, keys: &[String], exclusive: bool, bound: usize) {
        let made = || Queue {
            bindings: Vec::new(),
            patterns: Vec::new(),
            ready: BTreeMap::new(),
            bound,
            consumer: None,
            exclusive,
        };
        if !self.queues.contains_key(name) {
            self.queues.insert(name.to_owned(), made());
        }
        if let Some(queue) = self.queues.get_mut(name)
            && queue.bindings != keys
        {
            let words = |key: &String| key.split('.').map(str::to_owned).collect();
            queue.patterns = keys.iter().map(words).collect();
            queue.bindings = keys.to_vec();
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.queues.contains_key(name)
    }

    pub fn delete(&mut self, name: &str) -> Option<u64> {
        self.queues.remove(name)?.consumer.map(|consumer| consumer.generation)
    }

    pub fn names(&self) -> Vec<String> {
        self.queues.keys().cloned().collect()
    }

    pub fn purge(&mut self, name: &str) -> usize {
        let queue = self.queues.get_mut(name);
        queue.map_or(0, |queue| std::mem::take(&mut queue.ready).len())
    }

    pub fn unbind(&mut self, name: &str) {
        if let Some(queue) = self.queues.get_mut(name) {
            queue.bindings.clear();
            queue.patterns.clear();
        }
    }

    /// `false` where there is no such queue.
    pub fn consume(&mut self, name: &str, generation: u64) -> bool {
        let Some(queue) = self.queues.get_mut(name) else { return false };
        queue.consumer = Some(Consumer { generation, unacked: BTreeMap::new(), next_tag: 1 });
        true
    }

    /// Puts a message on every queue that wants it. `false` where one refused it.
    pub fn publish(&mut self, message: &Arc<Message>, mut fate: impl FnMut() -> Fate) -> bool {
        let mut keys = vec![message.routing_key.clone()];
        keys.extend(copies(message));
        let keys: Vec<Vec<&str>> = keys.iter().map(|key| key.split('.').collect()).collect();
        self.published += 1;
        let mut whole = true;
        for queue in self.queues.values_mut() {
            if !queue.patterns.iter().any(|p| keys.iter().any(|key| matches(p, key))) {
                continue;
            }
            match fate() {
                Fate::Kept => {}
                Fate::Refused => {
                    whole = false;
                    continue;
                }
                Fate::Taken => {
                    self.taken += 1;
                    continue;
                }
            }
            self.sequence += 1;
            queue.ready.insert(self.sequence, Arc::clone(message));
            while queue.ready.len() > queue.bound {
                queue.ready.pop_first();
                self.overflowed += 1;
            }
        }
        whole
    }

    /// What may be sent to the consumer now.
    pub fn deliver(&mut self, name: &str) -> Option<(u64, Delivery)> {
        let queue = self.queues.get_mut(name)?;
        let consumer = queue.consumer.as_mut()?;
        if consumer.unacked.len() >= PREFETCH {
            return None;
        }
        let (sequence, message) = queue.ready.pop_first()?;
        let tag = consumer.next_tag;
        consumer.next_tag += 1;
        consumer.unacked.insert(tag, (sequence, Arc::clone(&message)));
        Some((consumer.generation, Delivery { tag, message }))
    }

    pub fn settle(&mut self, name: &str, generation: u64, tag: u64) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        let consumer = queue.consumer.as_mut().filter(|c| c.generation == generation);
        consumer.and_then(|consumer| consumer.unacked.remove(&tag));
    }

    /// The consumer's connection is gone: what it had comes again.
    pub fn lost(&mut self, name: &str, generation: u64) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        if queue.consumer.as_ref().is_none_or(|consumer| consumer.generation != generation) {
            return;
        }
        if queue.exclusive {
            self.queues.remove(name);
            return;
        }
        let unacked = queue.consumer.take().map(|c| c.unacked).unwrap_or_default();
        queue.ready.extend(unacked.into_values());
    }
}

fn copies(message: &Message) -> Vec<String> {
    let headers = message.properties.headers().as_ref();
    let Some(AMQPValue::FieldArray(keys)) = headers.and_then(|h| h.inner().get("CC")) else {
        return Vec::new();
    };
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    };
    keys.as_slice().iter().filter_map(text).collect()
}

/// AMQP's topic rule: `*` is one word, `#` any number.
fn matches(binding: &[String], key: &[&str]) -> bool {
    match (binding.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((word, rest)), _) if word == "#" => {
            matches(rest, key) || key.split_first().is_some_and(|(_, key)| matches(binding, key))
        }
        (Some((word, rest)), Some((first, key))) => {
            (word == "*" || word == first) && matches(rest, key)
        }
        _ => false,
    }
}
