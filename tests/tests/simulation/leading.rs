//! Who leads: the real election of each process of controllers, the queue by which they hear of each other, and their
//! operations on the Lease.

use std::collections::VecDeque;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use warren_api::Fence;
use warren_broker::election::{Action, Election, Input, Timing, Word};
use warren_client::lease;

use super::faults::Fault;
use super::happens::{Caller, Happens, Token};
use super::server::{Answer, LEASE, Request};
use super::world::{World, timestamp};

/// Between two ticks of an election.
const TICK: u64 = 100;
/// Where a process hears API and broker, one leads within this: a second of silence, a take-over whose answer is lost, and
/// the same again.
const LED_WITHIN: u64 = 6_000;

/// A process' part in the election.
pub struct Candidate {
    pub id: String,
    election: Election,
    /// What came while the process was stopped.
    inbox: VecDeque<Input>,
    /// Counts its places in the line.
    generation: u64,
    /// It was told to end, and has given the Lease back.
    pub leaving: bool,
    leaves: bool,
    /// Since when it could lead, and nobody does.
    unled: u64,
}

impl Candidate {
    pub fn new(process: usize, run: u64, jitter: u64, now: u64) -> Self {
        let id = format!("p{process}-{run}");
        let (jitter, since) = (Duration::from_millis(jitter), Duration::from_millis(now));
        Self {
            election: Election::new(id.clone(), Timing::BROKER, jitter, since),
            id,
            inbox: VecDeque::new(),
            generation: 0,
            leaving: false,
            leaves: false,
            unled: now,
        }
    }

    pub fn fence(&self, term: u64) -> Fence {
        let (namespace, name) = LEASE;
        Fence { namespace: namespace.into(), name: name.into(), term, holder: self.id.clone() }
    }
}

impl World {
    /// A process begins to take part.
    pub fn stand(&mut self, process: usize) {
        let run = self.processes[process].run;
        let jitter = self.rng.range(0, 100);
        self.candidates[process] = Candidate::new(process, run, jitter, self.now);
        let (tick, line) = (self.rng.range(0, TICK), self.rng.range(5, 300));
        self.after(tick, Happens::Tick { process, run });
        self.after(line, Happens::Queues { process, run, generation: 0 });
    }

    fn is_process(&self, process: usize, run: u64) -> bool {
        self.processes[process].up && self.processes[process].run == run
    }

    pub fn tick(&mut self, process: usize, run: u64) {
        if !self.is_process(process, run) {
            return;
        }
        if !self.processes[process].stopped {
            self.inform(process, run, Input::Tick);
        }
        self.check_led(process);
        self.after(TICK, Happens::Tick { process, run });
    }

    /// A leader that is gone has a successor soon.
    fn check_led(&mut self, process: usize) {
        let works = |at: usize| {
            let reader = self.agents.len() + at;
            let of = &self.processes[at];
            of.up && !of.stopped && !self.readers[reader].cut_off
        };
        let led =
            (0..self.processes.len()).any(|at| works(at) && self.processes[at].term.is_some());
        let could = self.server.up
            && works(process)
            && self.is_in_line(process)
            && !self.candidates[process].leaving;
        let now = self.now;
        let candidate = &mut self.candidates[process];
        if led || !could {
            candidate.unled = now;
        } else if now - candidate.unled > LED_WITHIN {
            self.violate(format!(
                "process {process} could lead for {LED_WITHIN} ms, and nobody did"
            ));
        }
    }

    /// The process hears something, or will when it runs again.
    pub fn inform(&mut self, process: usize, run: u64, input: Input) {
        if !self.is_process(process, run) {
            return;
        }
        if self.processes[process].stopped {
            return self.candidates[process].inbox.push_back(input);
        }
        let now = Duration::from_millis(self.now);
        for action in self.candidates[process].election.step(now, input) {
            self.act(process, action);
        }
    }

    /// A stopped process runs again.
    pub fn wakes(&mut self, process: usize) {
        let run = self.processes[process].run;
        while let Some(input) = self.candidates[process].inbox.pop_front() {
            self.inform(process, run, input);
        }
    }

    fn act(&mut self, process: usize, action: Action) {
        let run = self.processes[process].run;
        match action {
            Action::Ping(word) => self.says(process, None, word),
            Action::Pong { to, word } => self.says(process, Some(to), word),
            Action::Rejoin => {
                self.line.retain(|of| *of != process);
                self.queues_again(process, 5, 40);
            }
            Action::Lead(term) => {
                self.count("terms");
                self.say(|| format!("process {process} leads with term {term}"));
                self.processes[process].lead(term);
                self.after(1, Happens::Decide { process, run });
            }
            Action::StepDown => {
                self.say(|| format!("process {process} leads no more"));
                self.processes[process].step_down();
            }
            Action::Done if std::mem::replace(&mut self.candidates[process].leaves, true) => {}
            Action::Done => {
                self.end_process(process);
                let later = self.rng.range(50, 5_000);
                self.after(later, Happens::Mended(Fault::ControllersKilled(process)));
            }
            operation => {
                let now = timestamp(self.now).strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
                let change = lease::change(&operation, &now);
                let token = Token::Lease { is_read: change.is_none() };
                self.ask(Caller::Process(process), Request::Lease(change), token, None);
            }
        }
    }

    fn is_in_line(&self, process: usize) -> bool {
        let reader = self.agents.len() + process;
        self.broker.up && !self.readers[reader].cut_off && self.line.contains(&process)
    }

    fn says(&mut self, process: usize, to: Option<String>, word: Word) {
        if self.is_in_line(process) && !(self.now < self.calm_at && self.rng.chance(10)) {
            let later = self.rng.range(1, 20);
            self.after(later, Happens::Word { to, word });
        }
    }

    /// The broker hands a word on: to the active consumer, which is the first in the line, or to who asked.
    pub fn word(&mut self, to: Option<&str>, word: Word) {
        let found = match to {
            None => self.line.first().copied(),
            Some(id) => self.candidates.iter().position(|candidate| candidate.id == id),
        };
        let Some(process) = found.filter(|process| self.is_in_line(*process)) else { return };
        let input = if to.is_none() { Input::Ping(word) } else { Input::Pong(word) };
        self.inform(process, self.processes[process].run, input);
    }

    /// Goes to the end of the line, as soon as there is one.
    pub fn queues(&mut self, process: usize, run: u64, generation: u64) {
        if !self.is_process(process, run) || self.candidates[process].generation != generation {
            return;
        }
        let reader = self.agents.len() + process;
        let there = self.broker.up && !self.readers[reader].cut_off;
        if !there || self.processes[process].stopped || self.line.contains(&process) {
            return self.queues_again(process, 250, 1_500);
        }
        self.line.push(process);
        self.inform(process, run, Input::Joined);
    }

    fn queues_again(&mut self, process: usize, low: u64, high: u64) {
        let candidate = &mut self.candidates[process];
        candidate.generation += 1;
        let (generation, run) = (candidate.generation, self.processes[process].run);
        let later = self.rng.range(low, high);
        self.after(later, Happens::Queues { process, run, generation });
    }

    /// The connection to the leader's queue is gone.
    pub fn leave_line(&mut self, process: usize) {
        if !self.line.contains(&process) {
            return;
        }
        self.line.retain(|of| *of != process);
        self.inform(process, self.processes[process].run, Input::Parted);
        self.queues_again(process, 250, 1_500);
    }

    /// An operation on the Lease was answered.
    pub fn lease_answered(&mut self, process: usize, is_read: bool, answer: &Answer) {
        let input = match answer {
            Answer::Object(body) => {
                let object: LeaseObject = serde_json::from_slice(body).expect("a Lease");
                Input::Lease(lease::read(object))
            }
            Answer::Refused { code, .. } => lease::refused(*code, is_read),
            _ => Input::Failed,
        };
        self.inform(process, self.processes[process].run, input);
    }

    /// A write of a term was refused.
    pub fn term_is_over(&mut self, process: usize, term: u64) {
        if self.processes[process].term == Some(term) {
            self.processes[process].step_down();
        }
        self.inform(process, self.processes[process].run, Input::Fenced(term));
    }

    /// A process is gone, with its connections.
    pub fn end_process(&mut self, process: usize) {
        self.processes[process].up = false;
        self.lose_connection(self.agents.len() + process);
        self.line.retain(|of| *of != process);
    }
}
