//! Processes, an API and a broker in one thread, with a seed: loss, delay, kills, stops, outages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::*;
use super::ms;

/// How far time moves in a turn.
const TURN: u64 = 10;
/// Until an operation whose answer is lost counts as failed.
const GIVES_UP: u64 = 1_000;

struct Process {
    id: String,
    election: Election,
    /// Stopped: takes nothing in and does nothing.
    stopped: bool,
    inbox: VecDeque<(u64, Input)>,
    ticked: u64,
}

enum Call {
    Lease(Action),
    /// A write of a controller, of a term.
    Write(u64),
}

struct World {
    rng: StdRng,
    now: u64,
    processes: BTreeMap<usize, Process>,
    made: usize,
    /// The Lease as the API has it; the version counts.
    lease: Lease,
    version: u64,
    api_up: bool,
    broker_up: bool,
    /// Of a hundred messages and answers, so many are lost.
    loss: u32,
    /// Who consumes, in order: the first is the active consumer.
    line: Vec<usize>,
    /// Calls on their way to the API.
    calls: Vec<(u64, usize, Call)>,
    /// Accepted writes: when, who, term.
    accepted: Vec<(u64, String, u64)>,
    refused: u64,
    renewals: u64,
}

impl World {
    fn new(seed: u64, processes: usize) -> Self {
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            processes: BTreeMap::new(),
            made: 0,
            lease: Lease::default(),
            version: 0,
            api_up: true,
            broker_up: true,
            loss: 0,
            line: Vec::new(),
            calls: Vec::new(),
            accepted: Vec::new(),
            refused: 0,
            renewals: 0,
        };
        for _ in 0..processes {
            world.start();
        }
        world
    }

    fn start(&mut self) -> usize {
        let at = self.made;
        self.made += 1;
        let id = format!("p{at}");
        let jitter = ms(self.rng.random_range(0..100));
        let election = Election::new(id.clone(), Timing::BROKER, jitter, ms(self.now));
        let mut process =
            Process { id, election, stopped: false, inbox: VecDeque::new(), ticked: self.now };
        if self.broker_up {
            self.line.push(at);
            process.inbox.push_back((self.now + 20, Input::Joined));
        }
        self.processes.insert(at, process);
        at
    }

    fn kill(&mut self, at: usize) {
        self.processes.remove(&at);
        self.line.retain(|other| *other != at);
    }

    fn broker(&mut self, up: bool) {
        self.broker_up = up;
        self.line.clear();
        for at in self.processes.keys().copied().collect::<Vec<_>>() {
            if up {
                // They come back one by one.
                let delay = self.rng.random_range(0..1_500);
                self.tell(at, delay, Input::Joined);
            } else {
                self.tell(at, 0, Input::Parted);
            }
        }
    }

    fn tell(&mut self, at: usize, delay: u64, input: Input) {
        let due = self.now + delay;
        if let Some(process) = self.processes.get_mut(&at) {
            // What was sent first comes first, as on a connection.
            let due = process.inbox.back().map_or(due, |(last, _)| due.max(*last));
            process.inbox.push_back((due, input));
        }
    }

    fn is_lost(&mut self) -> bool {
        self.rng.random_range(0..100) < self.loss
    }

    fn delay(&mut self) -> u64 {
        self.rng.random_range(1..40)
    }

    fn turn(&mut self) {
        self.now += TURN;
        for at in self.processes.keys().copied().collect::<Vec<_>>() {
            self.run(at);
        }
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.calls).into_iter().partition(|(when, ..)| *when <= now);
        self.calls = later;
        for (_, at, call) in due {
            self.api(at, call);
        }
    }

    fn run(&mut self, at: usize) {
        let mut inputs = Vec::new();
        let mut writes = None;
        {
            let now = self.now;
            let Some(process) = self.processes.get_mut(&at) else { return };
            if process.stopped {
                return;
            }
            while process.inbox.front().is_some_and(|(due, _)| *due <= now) {
                inputs.extend(process.inbox.pop_front().map(|(_, input)| input));
            }
            if now >= process.ticked + 100 {
                process.ticked = now;
                inputs.push(Input::Tick);
                writes = process.election.leading();
            }
        }
        for input in inputs {
            if input == Input::Joined && self.broker_up && !self.line.contains(&at) {
                self.line.push(at);
            }
            let now = ms(self.now);
            let Some(process) = self.processes.get_mut(&at) else { return };
            for action in process.election.step(now, input) {
                self.act(at, action);
            }
        }
        if let Some(term) = writes {
            let when = self.now + self.delay();
            self.calls.push((when, at, Call::Write(term)));
        }
    }

    fn act(&mut self, at: usize, action: Action) {
        let delay = self.delay();
        match action {
            Action::Ping(word) => {
                if self.line.contains(&at)
                    && !self.is_lost()
                    && let Some(active) = self.line.first().copied()
                {
                    self.tell(active, delay, Input::Ping(word));
                }
            }
            Action::Pong { to, word } => {
                let found = self.processes.iter().find(|(_, process)| process.id == to);
                if let Some(to) = found.map(|(to, _)| *to)
                    && self.line.contains(&at)
                    && !self.is_lost()
                {
                    self.tell(to, delay, Input::Pong(word));
                }
            }
            Action::Rejoin => {
                if self.line.contains(&at) {
                    self.line.retain(|other| *other != at);
                    self.line.push(at);
                }
            }
            Action::Lead(_) | Action::StepDown | Action::Done => {}
            operation => self.calls.push((self.now + delay, at, Call::Lease(operation))),
        }
    }

    fn api(&mut self, at: usize, call: Call) {
        let Some(id) = self.processes.get(&at).map(|process| process.id.clone()) else { return };
        if !self.api_up {
            if matches!(call, Call::Lease(_)) {
                self.tell(at, 20, Input::Failed);
            }
            return;
        }
        match call {
            Call::Write(term) => {
                if self.lease.holder.as_ref() == Some(&id) && self.lease.term == term {
                    self.accepted.push((self.now, id, term));
                } else {
                    self.refused += 1;
                    let delay = self.delay();
                    self.tell(at, delay, Input::Fenced(term));
                }
            }
            Call::Lease(action) => {
                let is_renewal = matches!(action, Action::Renew(_));
                let answer = match action {
                    Action::Read => Input::Lease(self.lease.clone()),
                    Action::Take(wanted) | Action::Renew(wanted) | Action::Release(wanted) => {
                        if wanted.version == self.lease.version {
                            self.version += 1;
                            self.renewals += u64::from(is_renewal);
                            self.lease = Lease { version: self.version.to_string(), ..wanted };
                            Input::Lease(self.lease.clone())
                        } else {
                            Input::Conflict
                        }
                    }
                    other => panic!("{other:?} is no call"),
                };
                match self.is_lost() {
                    true => self.tell(at, GIVES_UP, Input::Failed),
                    false => {
                        let delay = self.delay();
                        self.tell(at, delay, answer);
                    }
                }
            }
        }
    }

    fn run_for(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            self.turn();
        }
    }

    /// How long until a process other than `than` has a write accepted.
    fn until_another(&mut self, than: &str, limit: u64) -> u64 {
        let (start, before) = (self.now, self.accepted.len());
        while self.now < start + limit {
            self.turn();
            if let Some((at, ..)) = self.accepted[before..].iter().find(|(_, id, _)| id != than) {
                return at - start;
            }
        }
        panic!("nobody but {than} writes after {limit} ms; the lease is {:?}", self.lease)
    }

    fn leader(&self) -> usize {
        let holder = self.lease.holder.as_ref();
        let found = self.processes.iter().find(|(_, process)| Some(&process.id) == holder);
        *found.expect("somebody leads").0
    }

    /// Who has written in a term has it for itself, and a term that is over never comes back.
    fn check(&self) {
        let mut over = BTreeSet::new();
        let mut last = None;
        for (at, id, term) in &self.accepted {
            if last != Some((id, term)) {
                over.extend(last);
                last = Some((id, term));
            }
            assert!(!over.contains(&(id, term)), "{id} writes in term {term} again at {at}");
        }
    }
}

const SEEDS: u64 = 300;

#[test]
fn while_all_is_well_one_leads_and_writes_nothing_of_it() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, 3);
        world.run_for(3_000);
        let (version, leader) = (world.version, world.leader());
        world.run_for(60_000);
        assert_eq!((world.version, world.leader()), (version, leader), "seed {seed}");
        assert_eq!((world.lease.term, world.refused), (1, 0), "seed {seed}");
        world.check();
    }
}

#[test]
fn a_leader_that_is_killed_or_stopped_is_replaced_within_two_seconds() {
    let mut longest = [0; 2];
    for seed in 0..SEEDS {
        let mut world = World::new(seed, 2);
        world.run_for(3_000);
        for round in 0..6 {
            let leader = world.leader();
            let id = world.processes[&leader].id.clone();
            let stops = world.rng.random_range(0..2) == 0;
            if stops {
                world.processes.get_mut(&leader).unwrap().stopped = true;
            } else {
                world.kill(leader);
            }
            let took = world.until_another(&id, 5_000);
            assert!(took <= 1_800, "seed {seed}, round {round}: {took} ms (stopped: {stops})");
            let at = usize::from(stops);
            longest[at] = longest[at].max(took);
            if stops {
                let pause = world.rng.random_range(0..4_000);
                world.run_for(pause);
                world.processes.get_mut(&leader).unwrap().stopped = false;
            } else {
                world.start();
            }
            let pause = world.rng.random_range(2_500..6_000);
            world.run_for(pause);
            let leading = world.processes.values().filter(|p| p.election.leading().is_some());
            assert_eq!(leading.count(), 1, "seed {seed}, round {round}");
        }
        assert_eq!(world.lease.term, 7, "seed {seed}: as many takeovers as leaders lost");
        world.check();
    }
    println!("longest: killed {} ms, stopped {} ms", longest[0], longest[1]);
}

#[test]
fn without_the_broker_the_leader_stays_and_its_death_is_noticed() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, 3);
        world.run_for(3_000);
        let leader = world.leader();
        world.broker(false);
        world.run_for(8_000);
        assert_eq!((world.leader(), world.lease.term), (leader, 1), "seed {seed}");
        assert!((10..20).contains(&world.renewals), "seed {seed}: {}", world.renewals);
        let id = world.processes[&leader].id.clone();
        world.kill(leader);
        let took = world.until_another(&id, 5_000);
        assert!(took <= 3_200, "seed {seed}: {took} ms");
        world.run_for(1_000);
        let (leader, term) = (world.leader(), world.lease.term);
        // It is back, and whoever is the first to consume hands the role to the leader.
        world.broker(true);
        world.run_for(10_000);
        assert_eq!((world.leader(), world.lease.term), (leader, term), "seed {seed}");
        assert_eq!(world.line.first(), Some(&leader), "seed {seed}");
        let renewals = world.renewals;
        world.run_for(10_000);
        assert_eq!(world.renewals, renewals, "seed {seed}: idle again");
        world.check();
    }
}

#[test]
fn without_the_api_nobody_takes_anything() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, 3);
        world.run_for(3_000);
        let leader = world.leader();
        world.api_up = false;
        let pause = world.rng.random_range(1_000..20_000);
        world.run_for(pause);
        let broker_too = seed % 2 == 0;
        if broker_too {
            world.broker(false);
            world.run_for(3_000);
        }
        world.api_up = true;
        world.run_for(5_000);
        assert_eq!((world.leader(), world.lease.term), (leader, 1), "seed {seed}");
        world.check();
    }
}

#[test]
fn whatever_happens_no_two_write() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, 3);
        world.loss = world.rng.random_range(0..30);
        for _ in 0..30 {
            let pause = world.rng.random_range(0..3_000);
            world.run_for(pause);
            let all: Vec<usize> = world.processes.keys().copied().collect();
            let one = all[world.rng.random_range(0..all.len())];
            match world.rng.random_range(0..8) {
                0 => {
                    world.kill(one);
                    world.start();
                }
                1 | 2 => {
                    let stopped = &mut world.processes.get_mut(&one).unwrap().stopped;
                    *stopped = !*stopped;
                }
                3 => world.broker(false),
                4 => world.broker(true),
                5 => world.api_up = !world.api_up,
                6 => {
                    // Its connection is cut, and back at once.
                    world.line.retain(|other| *other != one);
                    world.tell(one, 0, Input::Parted);
                    world.tell(one, 300, Input::Joined);
                }
                _ => {
                    // Somebody deletes the Lease.
                    world.lease = Lease::default();
                }
            }
        }
        world.loss = 0;
        world.api_up = true;
        world.processes.values_mut().for_each(|process| process.stopped = false);
        if !world.broker_up {
            world.broker(true);
        }
        world.run_for(15_000);
        world.until_another("", 1_000);
        let leading = world.processes.values().filter(|p| p.election.leading().is_some());
        assert_eq!(leading.count(), 1, "seed {seed}");
        world.check();
    }
}
