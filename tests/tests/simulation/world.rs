//! The world: one thread, virtual time, and everything that will happen in the order of time. What happens at the same
//! moment happens in the order in which it was decided.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use warren_api::{GroupResource, NodeName, Revision};
use warren_broker::consume::{Interest, Relist};
use warren_broker::relay::Core;
use warren_broker::topology;

use super::agent::Agent;
use super::broker::Broker;
use super::check::{Shadow, Told};
use super::faults::Fault;
use super::happens::Happens;
use super::leading::Candidate;
use super::machine::Machine;
use super::process::{Process, resources};
use super::relay::Relay;
use super::rng::Rng;
use super::server::{Disk, Server};
use super::session::Session;

/// How often the server declares all nodes' queues anew.
const HEAL_EVERY: u64 = 60_000;
/// What of the trace is kept.
const TRACE: usize = 400;

pub struct List {
    pub resource: GroupResource,
    pub epoch: u64,
    pub revision: Revision,
    pub items: Vec<super::server::Stored>,
}

pub struct Listing {
    pub relist: Relist,
    pub pending: BTreeSet<GroupResource>,
    pub at: Vec<(GroupResource, Revision)>,
    pub attempt: u32,
}

pub struct Reader {
    pub session: Session,
    pub busy: bool,
    pub listing: Option<Listing>,
    /// The API and the broker are out of reach.
    pub cut_off: bool,
    pub shadow: Shadow,
    pub listed_once: bool,
    /// Counts what is asked about the streams: the last one counts.
    pub ask: u64,
}

pub struct World {
    pub rng: Rng,
    pub now: u64,
    sequence: u64,
    /// Boxed, as what happens is moved about here.
    future: BTreeMap<(u64, u64), Box<Happens>>,
    pub server: Server,
    pub relay: Relay,
    pub broker: Broker,
    pub readers: Vec<Reader>,
    pub machines: Vec<Machine>,
    pub agents: Vec<Agent>,
    pub processes: Vec<Process>,
    pub candidates: Vec<Candidate>,
    /// Which processes consume the leader's queue: the first is the active consumer.
    pub line: Vec<usize>,
    pub backup: Option<Disk>,
    /// When something was committed last.
    pub wrote_at: u64,
    /// Until then there are people and accidents.
    pub calm_at: u64,
    pub enabled: Vec<Fault>,
    pub nacks: bool,
    pub takes: bool,
    pub disk_errors: bool,
    /// History is given up before the relay is back.
    pub compacts: bool,
    pub counts: BTreeMap<&'static str, u64>,
    pub names: u64,
    pub bound: usize,
    tracing: bool,
    pub trace: VecDeque<String>,
    pub violation: Option<String>,
}

pub fn timestamp(ms: u64) -> Timestamp {
    let base = Timestamp::from_second(1_767_225_600).expect("2026 is a year");
    base + SignedDuration::from_millis(ms as i64)
}

impl World {
    pub fn new(seed: u64, tracing: bool) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = rng.range(1, 4) as usize;
        let bound = if rng.chance(300) { rng.range(4, 40) as usize } else { 10_000 };
        let mut readers = Vec::new();
        let (mut machines, mut agents) = (Vec::new(), Vec::new());
        for n in 0..nodes {
            let name = format!("n{n}");
            let node = NodeName(name.as_str().into());
            let (queue, keys) = (topology::node_queue(&node), topology::node_keys(&node));
            readers.push(Reader::new(Session::new(queue, keys, false, Interest::Node(node))));
            machines.push(Machine::default());
            agents.push(Agent::new(&name, 0));
        }
        let processes = vec![Process::new(0), Process::new(0)];
        for n in 0..processes.len() {
            let queue = topology::controller_queue("controllers", &n.to_string());
            let keys = topology::controller_keys(&resources());
            let interest = Interest::Resources(resources());
            readers.push(Reader::new(Session::new(queue, keys, true, interest)));
        }
        let relay = Relay {
            core: Core::new("server", Revision(0)),
            generation: 0,
            connected: false,
            run: 0,
            pipe_until: (0, 0),
            waiting: None,
            arrival: 0,
            pumping: false,
            told: Told::default(),
        };
        let calm_at = rng.range(5_000, 30_000);
        let mut world = Self {
            rng,
            now: 0,
            sequence: 0,
            future: BTreeMap::new(),
            server: Server::new(),
            relay,
            broker: Broker::new(),
            readers,
            machines,
            agents,
            candidates: (0..processes.len()).map(|p| Candidate::new(p, 0, 0, 0)).collect(),
            processes,
            line: Vec::new(),
            backup: None,
            wrote_at: 0,
            calm_at,
            enabled: Vec::new(),
            nacks: false,
            takes: false,
            disk_errors: false,
            compacts: false,
            counts: BTreeMap::new(),
            names: 0,
            bound,
            tracing,
            trace: VecDeque::new(),
            violation: None,
        };
        world.choose_faults();
        world.after(1, Happens::RelayConnects);
        for reader in 0..world.readers.len() {
            let at = world.rng.range(5, 500);
            world.after(at, Happens::Connect(reader));
        }
        for node in 0..nodes {
            let now = world.node_time(node);
            world.agents[node].start(&world.machines[node], now);
            world.after(10 + node as u64, Happens::Beat { node, run: 0, beat: 0 });
            world.after(60_000, Happens::Look { node, run: 0 });
        }
        (0..world.processes.len()).for_each(|process| world.stand(process));
        world.after(HEAL_EVERY, Happens::Heals { run: 0 });
        world.after(600, Happens::People);
        world.after(1_500, Happens::Accident);
        world
    }

    pub fn after(&mut self, ms: u64, what: Happens) {
        self.at(self.now + ms, what);
    }

    pub fn at(&mut self, at: u64, what: Happens) {
        self.sequence += 1;
        self.future.insert((at.max(self.now), self.sequence), Box::new(what));
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn say(&mut self, what: impl FnOnce() -> String) {
        if self.tracing {
            if self.trace.len() >= TRACE {
                self.trace.pop_front();
            }
            self.trace.push_back(format!("{:>9.3}s {}", self.now as f64 / 1000.0, what()));
        }
    }

    pub fn violate(&mut self, what: String) {
        self.say(|| format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    pub fn node_time(&self, node: usize) -> Timestamp {
        timestamp(0) + SignedDuration::from_millis(self.now as i64 + self.machines[node].skew)
    }

    pub fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    /// One thing happens. `false` where it would be later than `until`.
    pub fn step(&mut self, until: u64) -> bool {
        let Some((&(at, sequence), _)) = self.future.first_key_value() else { return false };
        if at > until || self.violation.is_some() {
            return false;
        }
        let Some(what) = self.future.remove(&(at, sequence)) else { return false };
        self.now = at;
        *self.counts.entry("steps").or_default() += 1;
        self.happens(*what);
        true
    }

    fn happens(&mut self, what: Happens) {
        match what {
            Happens::Pump => self.pump(),
            Happens::RelayConnects => self.relay_connects(),
            Happens::Publish { generation, tag, message } => {
                self.arrives_at_broker(generation, tag, &message);
            }
            Happens::Confirm { generation, tag, acked } => self.confirmed(generation, tag, acked),
            Happens::Retry { generation } => self.retries(generation),
            Happens::Read { run, after, limit } => self.read(run, after, limit),
            Happens::CursorOnDisk { run } => {
                if run == self.relay.run && self.server.up {
                    self.server.disk.cursor = self.server.cursor;
                }
            }
            Happens::Connect(reader) => self.connect(reader),
            Happens::Deliver { reader, generation, delivery } => {
                self.delivered(reader, generation, &delivery);
            }
            Happens::Settle { queue, generation, tag } => {
                if self.broker.up {
                    self.broker.settle(&queue, generation, tag);
                    self.push(&queue);
                }
            }
            Happens::Work { reader, run } => self.work(reader, run),
            Happens::Worked { reader, run, event, generation, tag } => {
                self.worked(reader, run, &event, generation, tag);
            }
            Happens::List { reader, run, resource } => self.list(reader, run, resource),
            Happens::Listed { reader, run, list } => self.listed(reader, run, &list),
            Happens::Asks { reader, run, ask } => self.asks(reader, run, ask),
            Happens::Told { reader, run, ask, heads } => self.told(reader, run, ask, heads),
            Happens::NodeTold { node, run } => self.node_told(node, run),
            Happens::LooksAtHeads { reader, generation } => {
                self.looks_at_heads(reader, generation);
            }
            Happens::Rebinds { reader, generation } => self.rebinds(reader, generation),
            Happens::LooksAt(name) => {
                let node = self.agents.iter().position(|agent| *agent.node == *name.0);
                node.into_iter().for_each(|node| self.declare_node(node));
            }
            Happens::Heals { run } => {
                if run == self.relay.run {
                    self.declare_nodes();
                    self.after(HEAL_EVERY, Happens::Heals { run });
                }
            }
            Happens::Arrives { caller, run, fence, request, token } => {
                self.arrives(caller, run, fence, request, token);
            }
            Happens::Answered { caller, run, request, token, answer } => {
                self.answered(caller, run, &request, token, &answer);
            }
            Happens::Runtime { node, boot, run, epoch, uid, op } => {
                self.runtime(node, boot, run, epoch, &uid, &op)
            }
            Happens::Ends { node, boot, uid, id, code } => self.ends(node, boot, &uid, &id, code),
            Happens::Wake { node, run, uid } => {
                if self.is_agent(node, run) {
                    self.step_pod(node, &uid);
                }
            }
            Happens::Beat { node, run, beat } => self.beat(node, run, beat),
            Happens::WriteStatus { node, run } => {
                if self.is_agent(node, run) {
                    self.write_status(node);
                }
            }
            Happens::Look { node, run } => {
                if self.is_agent(node, run) {
                    let now = self.node_time(node);
                    self.agents[node].look(&self.machines[node], now);
                    self.carry_out(node);
                    self.after(60_000, Happens::Look { node, run });
                }
            }
            Happens::Decide { process, run } => self.decide(process, run),
            Happens::Again { process, run, work } => {
                if self.processes[process].run == run {
                    self.processes[process].mark(work);
                    self.decide(process, run);
                }
            }
            Happens::Tick { process, run } => self.tick(process, run),
            Happens::Queues { process, run, generation } => self.queues(process, run, generation),
            Happens::Word { to, word } => self.word(to.as_deref(), word),
            Happens::Missed { process, run } => {
                if self.processes[process].stopped && self.processes[process].run == run {
                    self.leave_line(process);
                }
            }
            Happens::People => self.people(),
            Happens::Accident => self.accident(),
            Happens::Restores(step) => self.restores(step),
            Happens::Mended(fault) => self.mended(fault),
        }
    }

    pub fn is_agent(&self, node: usize, run: u64) -> bool {
        self.agents[node].up && self.agents[node].run == run
    }

    /// The process of a reader, as long as it is that one.
    pub fn is_run(&self, reader: usize, run: u64) -> bool {
        match self.process_of(reader) {
            None => self.is_agent(reader, run),
            Some(process) => self.processes[process].up && self.processes[process].run == run,
        }
    }

    pub fn run_of(&self, reader: usize) -> u64 {
        match self.process_of(reader) {
            None => self.agents[reader].run,
            Some(process) => self.processes[process].run,
        }
    }

    pub fn process_of(&self, reader: usize) -> Option<usize> {
        reader.checked_sub(self.agents.len())
    }

    /// Sends what may be sent.
    pub fn push(&mut self, queue: &str) {
        let Some(reader) = self.readers.iter().position(|r| r.session.queue == queue) else {
            return;
        };
        while let Some((generation, delivery)) = self.broker.deliver(queue) {
            let at = self.now + self.rng.range(0, 8);
            let session = &mut self.readers[reader].session;
            session.arrival = session.arrival.max(at);
            let at = session.arrival;
            self.at(at, Happens::Deliver { reader, generation, delivery });
        }
    }
}

impl Reader {
    fn new(session: Session) -> Self {
        Self {
            session,
            busy: false,
            listing: None,
            cut_off: false,
            shadow: Shadow::default(),
            listed_once: false,
            ask: 0,
        }
    }
}
