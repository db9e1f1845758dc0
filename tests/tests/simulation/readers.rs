//! What readers do: connect, take deliveries one after another, list, acknowledge.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use warren_agent::desired::Effect;
use warren_api::{GroupResource, NodeName};
use warren_broker::{Event, EventType};

use super::broker::Delivery;
use super::process::{Heard, resources};
use super::session::Item;
use super::world::{Happens, List, Listing, World};

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
            let keys = session.keys.clone();
            self.broker.declare(&session.queue, keys, true, self.bound);
        }
        there = there && self.broker.consume(&session.queue, session.generation + 1);
        if !there {
            let later = self.rng.range(100, 2_000);
            return self.after(later, Happens::Connect(reader));
        }
        session.connect();
        let queue = session.queue.clone();
        self.say(|| format!("reader {reader} consumes {queue}"));
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
    }

    pub fn delivered(&mut self, reader: usize, generation: u64, delivery: &Delivery) {
        let run = self.run_of(reader);
        let session = &mut self.readers[reader].session;
        if !session.connected || session.generation != generation {
            return;
        }
        if session.delivered(delivery) {
            let (queue, tag) = (session.queue.clone(), delivery.tag);
            let later = self.rng.range(1, 6);
            self.after(later, Happens::Settle { queue, generation, tag });
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
            Item::Relist(relist) => {
                let first = !std::mem::replace(&mut this.listed_once, true);
                let node = self.process_of(reader).is_none();
                let mut wanted: Vec<GroupResource> =
                    relist.streams.iter().map(|stream| stream.resource.clone()).collect();
                if node {
                    wanted = vec![GroupResource::new("", "pods")];
                } else if wanted.is_empty() {
                    wanted = resources();
                }
                let (reason, at_least) = (relist.reason, relist.at_least);
                self.say(|| format!("reader {reader} lists: {reason}, at least {at_least}"));
                self.count("relists");
                let this = &mut self.readers[reader];
                let pending = wanted.iter().cloned().collect();
                let at = warren_api::Revision(u64::MAX);
                this.listing = Some(Listing { relist, pending, at, attempt: 0 });
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
        let answered = self.server.up && !self.readers[reader].cut_off && !self.rng.chance(20);
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
                self.agents[reader].complete(list.revision, &self.machines[reader], now);
                self.carry_out(reader);
            }
            Some(process) => {
                let bodies: Vec<_> = list.items.iter().map(|stored| stored.body.clone()).collect();
                self.processes[process].replace(&list.resource, list.revision, &bodies);
                self.hear(reader, process, None, list.epoch);
            }
        }
        let Some(listing) = &mut self.readers[reader].listing else { return };
        listing.at = listing.at.min(list.revision);
        listing.pending.remove(&list.resource);
        if !listing.pending.is_empty() {
            return;
        }
        let Some(Listing { relist, at, .. }) = self.readers[reader].listing.take() else { return };
        if self.process_of(reader).is_none() {
            self.readers[reader].session.listed(&relist.streams, at);
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
        if &*event.key.resource.resource != "pods" {
            return;
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
}
