//! What readers do: connect, take deliveries one after another, list, acknowledge.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use warren_agent::desired::Effect;
use warren_api::{GroupResource, Listed, NodeName, Shard};
use warren_broker::consume::reason;
use warren_broker::consume::watch::LOOK_EVERY;
use warren_broker::heads::Asked;
use warren_broker::{Event, EventType, Heads, Stream};

use super::broker::Delivery;
use super::happens::{Caller, Happens, Token};
use super::process::{Heard, resources};
use super::server::{Answer, Request};
use super::session::Item;
use super::world::{List, Listing, World};

/// Between two questions of informers where their streams stand.
const ASK_EVERY: u64 = 10_000;
/// Between two declarations of a queue of one's own.
const REBIND_EVERY: u64 = 10_000;

impl World {
    pub fn connect(&mut self, reader: usize) {
        let run = self.run_of(reader);
        if !self.is_run(reader, run) || self.readers[reader].session.connected {
            return;
        }
        let stopped =
            self.process_of(reader).is_some_and(|process| self.processes[process].stopped);
        let mut there = self.broker.up && !self.readers[reader].cut_off && !stopped;
        let session = &mut self.readers[reader].session;
        if there && session.own {
            // A name of its own for each connection, which the broker has not given up yet.
            let base = session.queue.split('~').next().unwrap_or_default().to_owned();
            session.queue = format!("{base}~{}", session.generation + 1);
            self.broker.declare(&session.queue, &session.keys, true, self.bound);
        }
        there = there && self.broker.consume(&session.queue, session.generation + 1);
        if !there {
            let later = self.rng.range(100, 2_000);
            return self.after(later, Happens::Connect(reader));
        }
        let now = Duration::from_millis(self.now);
        session.connect(now);
        let (queue, own, generation) = (session.queue.clone(), session.own, session.generation);
        self.say(|| format!("reader {reader} consumes {queue}"));
        if own {
            self.after(REBIND_EVERY, Happens::Rebinds { reader, generation });
        }
        self.after_heads(reader);
        self.push(&queue);
        self.after(1, Happens::Work { reader, run });
    }

    /// The connection or the queue is gone.
    pub fn lose_connection(&mut self, reader: usize) {
        let session = &mut self.readers[reader].session;
        if !session.connected {
            return;
        }
        self.broker.lost(&session.queue, session.generation);
        session.lost();
        self.count("connections lost");
        let later = self.rng.range(20, 1_500);
        self.after(later, Happens::Connect(reader));
        let run = self.run_of(reader);
        self.after(0, Happens::Work { reader, run });
    }

    pub fn delivered(&mut self, reader: usize, generation: u64, delivery: &Delivery) {
        let (run, now) = (self.run_of(reader), self.elapsed());
        let session = &mut self.readers[reader].session;
        if !session.connected || session.generation != generation {
            return;
        }
        if session.delivered(delivery, now) {
            let (queue, tag) = (session.queue.clone(), delivery.tag);
            let later = self.rng.range(1, 6);
            self.after(later, Happens::Settle { queue, generation, tag });
        }
        if let Some(wrong) = self.readers[reader].session.wrong.take() {
            self.violate(wrong);
        }
        self.count("delivered");
        self.after(0, Happens::Work { reader, run });
    }

    /// Takes the next thing that waits.
    pub fn work(&mut self, reader: usize, run: u64) {
        let stopped =
            self.process_of(reader).is_some_and(|process| self.processes[process].stopped);
        let this = &mut self.readers[reader];
        if this.busy || this.session.inbox.is_empty() || stopped || !self.is_run(reader, run) {
            return;
        }
        let this = &mut self.readers[reader];
        let Some(item) = this.session.inbox.pop_front() else { return };
        this.busy = true;
        match item {
            Item::Event { event, generation, tag } => {
                let takes = self.rng.range(0, 4);
                self.after(takes, Happens::Worked { reader, run, event, generation, tag });
            }
            Item::Down => {
                this.busy = false;
                this.session.up = false;
                if self.process_of(reader).is_none() {
                    // It may be the queue alone that is gone; the server declares it anew.
                    self.ask_soon(reader, true);
                }
                self.after(0, Happens::Work { reader, run });
            }
            Item::Reconnected(connection) => {
                this.busy = false;
                (this.session.known, this.session.up) = (connection, true);
                self.count("reconnections that need no list at once");
                match self.process_of(reader) {
                    None => self.ask_soon(reader, false),
                    // What was asked before says nothing of what this connection missed.
                    Some(_) => self.asks_after(reader, 0, 500),
                }
                self.after(0, Happens::Work { reader, run });
            }
            Item::Relist(relist) => {
                this.session.up = true;
                let first = !std::mem::replace(&mut this.listed_once, true);
                let node = self.process_of(reader).is_none();
                let mut wanted: Vec<GroupResource> =
                    relist.streams.iter().map(|stream| stream.resource.clone()).collect();
                if node {
                    wanted = vec![GroupResource::new("", "pods")];
                } else if wanted.is_empty() {
                    wanted = resources();
                }
                if first && !node {
                    self.asks_after(reader, ASK_EVERY * 4 / 5, ASK_EVERY);
                }
                if node && relist.reason == reason::HEAD {
                    self.ask_soon(reader, true);
                }
                let (reason, at_least) = (relist.reason, relist.at_least);
                self.say(|| format!("reader {reader} lists: {reason}, at least {at_least}"));
                self.count(reason_told(reason));
                let this = &mut self.readers[reader];
                let pending = wanted.iter().cloned().collect();
                this.listing = Some(Listing { relist, pending, at: Vec::new(), attempt: 0 });
                let jitter = if first || node { 0 } else { self.rng.range(0, 500) };
                wanted.sort();
                wanted.dedup();
                for resource in wanted {
                    let later = jitter + self.rng.range(1, 10);
                    self.after(later, Happens::List { reader, run, resource });
                }
            }
        }
    }

    /// A list is asked for: what the server has at this moment arrives later.
    pub fn list(&mut self, reader: usize, run: u64, resource: GroupResource) {
        if !self.is_run(reader, run) {
            return;
        }
        let Some(at_least) = self.readers[reader].listing.as_ref().map(|l| l.relist.at_least)
        else {
            return;
        };
        let old = self.server.disk.last < at_least && self.process_of(reader).is_some();
        let answered =
            self.server.up && !self.readers[reader].cut_off && !self.rng.chance(20) && !old;
        if !answered {
            let Some(listing) = &mut self.readers[reader].listing else { return };
            listing.attempt += 1;
            let wait = (200u64 << listing.attempt.min(6)).min(10_000);
            let wait = self.rng.range(wait / 2, wait);
            return self.after(wait, Happens::List { reader, run, resource });
        }
        let node = self.agents.get(reader).map(|agent| NodeName(agent.node.as_str().into()));
        let items = self.server.list(&resource, node.as_ref());
        let items = items.into_iter().map(|(_, stored)| stored).collect();
        let (epoch, revision) = (self.server.disk.epoch, self.server.disk.last);
        let list = List { resource, epoch, revision, items };
        let later = self.rng.range(1, 40);
        self.after(later, Happens::Listed { reader, run, list });
    }

    pub fn listed(&mut self, reader: usize, run: u64, list: &List) {
        if !self.is_run(reader, run) {
            return;
        }
        self.readers[reader].shadow.epoch(list.epoch);
        match self.process_of(reader) {
            None => {
                self.machines[reader].listed(list.epoch);
                let bodies = list.items.iter();
                let pods: Vec<Pod> = bodies
                    .map(|stored| serde_json::from_slice(&stored.body).expect("a pod"))
                    .collect();
                let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
                let keep =
                    pods.iter().zip(&list.items).map(|(p, stored)| (uid(p), stored.body.clone()));
                self.machines[reader].keep = keep.collect();
                let node = self.agents[reader].node.clone();
                let effects = self.agents[reader].desired.replace(&node, pods, list.revision);
                for effect in effects {
                    self.apply(reader, Some(effect), list.epoch);
                }
                let now = self.node_time(reader);
                let listed = Listed { epoch: list.epoch, revision: list.revision };
                self.agents[reader].complete(listed, &self.machines[reader], now);
                self.carry_out(reader);
            }
            Some(process) => {
                let bodies: Vec<_> = list.items.iter().map(|stored| stored.body.clone()).collect();
                self.processes[process].replace(&list.resource, list.revision, &bodies);
                self.hear(reader, process, None, list.epoch);
            }
        }
        let Some(listing) = &mut self.readers[reader].listing else { return };
        listing.at.push((list.resource.clone(), list.revision));
        listing.pending.remove(&list.resource);
        if !listing.pending.is_empty() {
            return;
        }
        let Some(Listing { relist, at, .. }) = self.readers[reader].listing.take() else { return };
        let node = self.process_of(reader).is_none();
        let session = &mut self.readers[reader].session;
        if node {
            at.iter().for_each(|(_, at)| session.listed(&relist.streams, *at));
        } else {
            let oldest = at.iter().map(|(_, at)| *at).min().filter(|_| relist.streams.is_empty());
            oldest.into_iter().for_each(|at| session.listed(&[], at));
            for (resource, at) in at {
                session.listed(&[Stream { resource, shard: Shard::Every }], at);
            }
        }
        self.readers[reader].busy = false;
        self.after(0, Happens::Work { reader, run });
        if let Some(process) = self.process_of(reader) {
            self.after(5, Happens::Decide { process, run });
        }
    }

    /// A delivery has been worked on.
    pub fn worked(
        &mut self,
        reader: usize,
        run: u64,
        event: &Arc<Event>,
        generation: u64,
        tag: u64,
    ) {
        if !self.is_run(reader, run) {
            return;
        }
        self.readers[reader].busy = false;
        match self.process_of(reader) {
            None if self.disk_errors && self.rng.chance(300) => {
                self.count("disk errors of a node");
                self.readers[reader].busy = true;
                let event = Arc::clone(event);
                let what = Happens::Worked { reader, run, event, generation, tag };
                return self.after(200, what);
            }
            None => self.node_event(reader, event),
            Some(process) => {
                self.processes[process].event(event);
                self.hear(reader, process, Some(event), event.epoch);
                let later = self.rng.range(1, 15);
                self.after(later, Happens::Decide { process, run });
            }
        }
        if self.readers[reader].session.settle(generation, tag) {
            let queue = self.readers[reader].session.queue.clone();
            let later = self.rng.range(1, 8);
            self.after(later, Happens::Settle { queue, generation, tag });
        }
        self.after(0, Happens::Work { reader, run });
    }

    /// As the agent's feed: on disk first, then to the manager.
    fn node_event(&mut self, reader: usize, event: &Arc<Event>) {
        match &*event.key.resource.resource {
            "pods" => {}
            "nodes" => return self.own_node(reader, event),
            _ => return,
        }
        let pod: Pod =
            serde_json::from_slice(&event.object).expect("the server's pods can be read");
        let node = self.agents[reader].node.clone();
        let ours = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&*node);
        let uid = event.uid.0.to_string();
        if self.agents[reader].desired.is_old(&uid, event.revision) {
            return;
        }
        let keep = &mut self.machines[reader].keep;
        if ours && event.event_type != EventType::Deleted {
            keep.insert(uid, event.object.clone());
        } else {
            keep.remove(&uid);
        }
        let desired = &mut self.agents[reader].desired;
        let effect = match event.event_type {
            EventType::Deleted => desired.remove(&event.uid.0, Some(pod)),
            EventType::Added | EventType::Modified => desired.upsert(&node, pod),
        };
        self.apply(reader, effect, event.epoch);
        self.carry_out(reader);
    }

    /// Who is taken for lost says that it is not.
    fn own_node(&mut self, reader: usize, event: &Event) {
        let node: Node =
            serde_json::from_slice(&event.object).expect("the server's nodes can be read");
        let unknown = |c: &NodeCondition| c.type_ == "Ready" && c.status == "Unknown";
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        if *event.key.name == *self.agents[reader].node && conditions.iter().any(unknown) {
            self.ready(reader);
        }
    }

    /// What an agent does with what its desired set says.
    pub fn apply(&mut self, reader: usize, effect: Option<Effect>, epoch: u64) {
        self.readers[reader].shadow.epoch(epoch);
        let wrong = match &effect {
            Some(Effect::Run(pod)) => self.readers[reader].shadow.runs(epoch, pod),
            Some(Effect::End(uid, _)) => {
                self.readers[reader].shadow.ended(epoch, uid);
                None
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.violate(format!("node {}: {wrong}", self.agents[reader].node));
        }
        let now = self.node_time(reader);
        self.agents[reader].apply(effect, &self.machines[reader], now);
    }

    /// What the informers of a process have told.
    fn hear(&mut self, reader: usize, process: usize, event: Option<&Event>, epoch: u64) {
        let heard: Vec<Heard> = std::mem::take(&mut *self.processes[process].heard.lock());
        self.readers[reader].shadow.epoch(epoch);
        for change in heard {
            let wrong = self.readers[reader].shadow.heard(epoch, &change, event);
            if let Some(wrong) = wrong {
                self.violate(format!("process {process}: {wrong}"));
            }
        }
    }

    // Where the streams stand.

    fn asks_after(&mut self, reader: usize, low: u64, high: u64) {
        let later = self.rng.range(low, high);
        let this = &mut self.readers[reader];
        this.ask += 1;
        let (ask, run) = (this.ask, self.run_of(reader));
        self.after(later, Happens::Asks { reader, run, ask });
    }

    /// Informers ask while they wait for a delivery.
    pub fn asks(&mut self, reader: usize, run: u64, ask: u64) {
        let Some(process) = self.process_of(reader) else { return };
        let this = &self.readers[reader];
        if !self.is_run(reader, run) || this.ask != ask {
            return;
        }
        if this.busy || !this.session.up || self.processes[process].stopped {
            return self.after(50, Happens::Asks { reader, run, ask });
        }
        let asked = Asked::Resources(resources()).to_string();
        self.ask(Caller::Process(process), Request::Heads(asked), Token::Heads { ask }, None);
    }

    pub fn heads_answered(&mut self, reader: usize, run: u64, ask: u64, answer: &Answer) {
        match answer {
            Answer::Told(Some(heads)) => self.told(reader, run, ask, heads.clone()),
            _ => {
                let wait = self.rng.range(50, 1_000);
                self.after(wait, Happens::Asks { reader, run, ask });
            }
        }
    }

    /// The answer is read while a delivery is waited for.
    pub fn told(&mut self, reader: usize, run: u64, ask: u64, heads: String) {
        if !self.is_run(reader, run) || self.readers[reader].ask != ask {
            return;
        }
        if self.readers[reader].busy {
            return self.after(5, Happens::Told { reader, run, ask, heads });
        }
        self.heads(reader, &heads);
        self.asks_after(reader, ASK_EVERY * 4 / 5, ASK_EVERY);
    }

    /// As the agent's feed: what came with a heartbeat is read while a delivery is waited for.
    pub fn node_told(&mut self, node: usize, run: u64) {
        if !self.is_agent(node, run) || self.agents[node].told.is_none() {
            return;
        }
        if self.readers[node].busy {
            return self.after(5, Happens::NodeTold { node, run });
        }
        if let Some(heads) = self.agents[node].told.take() {
            self.heads(node, &heads);
        }
    }

    fn heads(&mut self, reader: usize, heads: &str) {
        let heads = Heads::parse(heads).expect("the server tells as readers read it");
        let now = self.elapsed();
        let session = &mut self.readers[reader].session;
        session.heads(session.known, Some(heads), now);
        self.count("heads told");
        self.after_heads(reader);
    }

    /// What the session does after it was told.
    fn after_heads(&mut self, reader: usize) {
        let run = self.run_of(reader);
        let session = &mut self.readers[reader].session;
        let generation = session.generation;
        if std::mem::take(&mut session.rebinds) && session.own {
            self.after(1, Happens::Rebinds { reader, generation });
        }
        let session = &mut self.readers[reader].session;
        if session.waits() && !std::mem::replace(&mut session.looks, true) {
            let later = LOOK_EVERY.as_millis() as u64;
            self.after(later, Happens::LooksAtHeads { reader, generation });
        }
        self.after(0, Happens::Work { reader, run });
    }

    pub fn looks_at_heads(&mut self, reader: usize, generation: u64) {
        let now = self.elapsed();
        let session = &mut self.readers[reader].session;
        session.looks = false;
        if session.waits() && session.generation == generation {
            session.look(now);
        }
        self.after_heads(reader);
    }

    /// A queue of one's own is declared anew, as somebody may have deleted its bindings.
    pub fn rebinds(&mut self, reader: usize, generation: u64) {
        let session = &self.readers[reader].session;
        if session.connected && session.generation == generation && self.broker.has(&session.queue)
        {
            self.broker.declare(&session.queue, &session.keys, true, self.bound);
            self.after(REBIND_EVERY, Happens::Rebinds { reader, generation });
        }
    }
}

fn reason_told(reason: &str) -> &'static str {
    match reason {
        reason::START => "relists: start",
        reason::RECONNECTED => "relists: reconnected",
        reason::GAP => "relists: gap",
        reason::HEAD => "relists: head",
        reason::EPOCH => "relists: newer epoch",
        reason::FLOOR => "relists: floor",
        _ => "relists: other",
    }
}
