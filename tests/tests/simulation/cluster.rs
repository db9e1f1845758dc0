//! Requests on their way, agents and their runtimes, controllers and who of them leads.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use warren_api::{Fence, GroupResource, NodeName, ObjectKey};
use warren_broker::heads::Asked;
use warren_controllers::plan::{Resource, Target, Write};

use super::agent::Todo;
use super::happens::{Caller, Happens, Token};
use super::machine::Op;
use super::process::{Process, Sent};
use super::server::{Answer, OVER, Request};
use super::world::World;

/// Nodes that say that their queues lost something are collected for so long.
const LOST_PAUSE: u64 = 250;
/// Where a broker comes back, many want to know.
const ASK_JITTER: u64 = 500;

impl World {
    fn is_cut_off(&self, caller: Caller) -> bool {
        match caller {
            Caller::Node(node) => self.readers[node].cut_off,
            Caller::Process(process) => self.readers[self.agents.len() + process].cut_off,
            Caller::Person => false,
        }
    }

    pub fn ask(&mut self, caller: Caller, request: Request, token: Token, fence: Option<Fence>) {
        let run = match caller {
            Caller::Node(node) => self.agents[node].run,
            Caller::Process(process) => self.processes[process].run,
            Caller::Person => 0,
        };
        let mut later = self.rng.range(1, 10);
        if fence.is_some() && self.now < self.calm_at && self.rng.chance(10) {
            // Long enough for another to lead by then.
            later += self.rng.range(500, 6_000);
            self.count("writes of a leader that come late");
        }
        self.after(later, Happens::Arrives { caller, run, fence, request, token });
    }

    /// What a leader has decided.
    fn send(&mut self, process: usize, sent: Sent) {
        let Sent { work, plan, term, request } = sent;
        // Reads are not fenced.
        let writes = !matches!(request, Request::Get(_));
        let fence = writes.then(|| self.candidates[process].fence(term));
        self.ask(Caller::Process(process), request, Token::Step { work, plan, term }, fence);
    }

    pub fn arrives(
        &mut self,
        caller: Caller,
        run: u64,
        fence: Option<Fence>,
        request: Request,
        token: Token,
    ) {
        let mut answer = Answer::Nobody;
        let mut later = self.rng.range(20, 1_000);
        if self.server.up && !self.is_cut_off(caller) {
            let now = super::world::timestamp(self.now);
            let before = self.server.disk.last;
            answer = self.server.handle(&request, fence.as_ref(), now);
            for uid in std::mem::take(&mut self.server.rebound) {
                // It has ended where it was, and may run there again.
                for machine in &mut self.machines {
                    machine.over.remove(&*uid);
                }
                self.readers.iter_mut().for_each(|reader| reader.shadow.begins(&uid));
            }
            if let Some(wrong) = self.server.wrong.take() {
                self.violate(wrong);
            }
            later = self.rng.range(1, 10);
            self.count("requests");
            if self.server.disk.last > before {
                let at = self.server.disk.last;
                self.wrote_at = self.now;
                self.say(|| format!("{at}: {caller:?} {}", told(&request)));
                self.declare_nodes();
                self.wake_relay();
            } else if let Answer::Refused { code, message } = &answer {
                let text = format!("refused with {code} {message}: {caller:?} {}", told(&request));
                self.say(|| text);
            }
            if let Request::Beat { node, asked } = &request {
                if let Some(Asked::Node { name, lost: true }) =
                    asked.as_ref().and_then(|asked| Asked::parse(asked).ok())
                {
                    self.after(LOST_PAUSE, Happens::LooksAt(name));
                }
                for process in 0..self.processes.len() {
                    if !self.is_cut_off(Caller::Process(process))
                        && !self.processes[process].stopped
                    {
                        self.processes[process].beats.insert(node.clone(), self.now);
                    }
                }
            }
            if self.rng.chance(8) && self.now < self.calm_at {
                self.count("answers lost");
                answer = Answer::Nobody;
            }
        }
        self.after(later, Happens::Answered { caller, run, request, token, answer });
    }

    pub fn answered(
        &mut self,
        caller: Caller,
        run: u64,
        request: &Request,
        token: Token,
        answer: &Answer,
    ) {
        match caller {
            Caller::Person => {}
            Caller::Node(node) if self.is_agent(node, run) => {
                self.node_answered(node, request, token, answer);
            }
            Caller::Process(process) if self.processes[process].run == run => {
                if self.processes[process].stopped {
                    // It reads the answer when it wakes up.
                    let (request, answer) = (request.clone(), answer.clone());
                    return self
                        .after(100, Happens::Answered { caller, run, request, token, answer });
                }
                self.process_answered(process, token, answer);
            }
            _ => {}
        }
    }

    fn node_answered(&mut self, node: usize, request: &Request, token: Token, answer: &Answer) {
        let run = self.agents[node].run;
        match (token, answer) {
            (Token::Status { uid, delete }, answer) => {
                self.agents[node].writing = false;
                let mut pause = 0;
                let again = matches!(answer, Answer::Nobody)
                    || matches!(answer, Answer::Refused { code, .. } if *code >= 500);
                if again {
                    self.agents[node].again(&uid, delete);
                    pause = self.rng.range(300, 1_000);
                }
                self.after(pause, Happens::WriteStatus { node, run });
            }
            (Token::Beat { .. }, Answer::Told(heads)) => {
                if let Some(heads) = heads {
                    self.agents[node].told = Some(heads.clone());
                    self.after(0, Happens::NodeTold { node, run });
                }
                self.beats_again(node, true);
                if !self.agents[node].registered {
                    self.register(node);
                } else if std::mem::take(&mut self.agents[node].silent) {
                    self.ready(node);
                }
            }
            (Token::Beat { lost }, _) => {
                self.agents[node].silent = true;
                self.agents[node].lost |= lost;
                self.beats_again(node, false);
            }
            (Token::Register, Answer::Done { .. }) => {
                self.agents[node].registered = true;
                self.agents[node].silent = false;
            }
            (Token::Register, Answer::Refused { code: 409, .. }) => {
                self.agents[node].registered = true;
                self.ready(node);
            }
            (Token::Ready, Answer::Refused { code: 404, .. }) => {
                self.agents[node].registered = false;
                self.register(node);
            }
            (Token::Ready, Answer::Nobody) => self.agents[node].silent = true,
            _ => {}
        }
        let _ = request;
    }

    fn conditions(&self, node: usize) -> serde_json::Value {
        let now = self.node_time(node).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        json!([{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now}])
    }

    fn register(&mut self, node: usize) {
        let amounts = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let object = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.agents[node].node},
            "status": {"capacity": amounts, "allocatable": amounts,
                "conditions": self.conditions(node)}});
        let resource = Resource::of::<Node>();
        let write = Write::Create { resource, namespace: String::new(), object };
        self.ask(Caller::Node(node), Request::Write(write), Token::Register, None);
    }

    /// The node's own word for its condition.
    pub fn ready(&mut self, node: usize) {
        let target = Target {
            resource: Resource::of::<Node>(),
            namespace: String::new(),
            name: self.agents[node].node.clone(),
            uid: String::new(),
        };
        let patch = json!({"status": {"conditions": self.conditions(node)}});
        let write =
            Write::Patch { target, subresource: Some("status"), resource_version: None, patch };
        self.ask(Caller::Node(node), Request::Write(write), Token::Ready, None);
    }

    pub fn beat(&mut self, node: usize, run: u64, beat: u64) {
        if !self.is_agent(node, run) || self.agents[node].beat != beat {
            return;
        }
        let name = self.agents[node].node.clone();
        let agreed = self.agents[node].agreed;
        if self.server.up && !self.readers[node].cut_off {
            let lease = self.server.disk.leases.entry(name.clone()).or_default();
            // A process that has listed nothing yet leaves what the one before it said.
            *lease = agreed.or(*lease);
        }
        let key = ObjectKey::new(GroupResource::new("", "nodes"), "", name.as_str());
        // As a lease whose owner is gone is not there either.
        if self.agents[node].registered && self.server.up && !self.readers[node].cut_off {
            self.agents[node].registered = self.server.disk.objects.contains_key(&key);
        }
        let agent = &mut self.agents[node];
        let lost = std::mem::take(&mut agent.lost);
        agent.beating = true;
        let asked = Asked::Node { name: NodeName(name.as_str().into()), lost };
        let wanted = self.readers[node].session.up || lost;
        let asked = wanted.then(|| asked.to_string());
        let request = Request::Beat { node: name, asked };
        self.ask(Caller::Node(node), request, Token::Beat { lost }, None);
    }

    fn beats_again(&mut self, node: usize, answered: bool) {
        let pause = match (std::mem::take(&mut self.agents[node].soon), answered) {
            (true, _) => self.rng.range(0, ASK_JITTER),
            (_, true) => self.rng.range(9_500, 10_000),
            // A fifth of the heartbeat.
            (_, false) => 2_000,
        };
        let agent = &mut self.agents[node];
        (agent.beating, agent.beat) = (false, agent.beat + 1);
        let (run, beat) = (agent.run, agent.beat);
        self.after(pause, Happens::Beat { node, run, beat });
    }

    /// The node wants to know where its streams stand, with its next heartbeat and that now. `lost`: the server looks at
    /// its queue.
    pub fn ask_soon(&mut self, node: usize, lost: bool) {
        let agent = &mut self.agents[node];
        agent.lost |= lost;
        agent.told = None;
        agent.soon = true;
        if !agent.beating && agent.up {
            self.beats_again(node, true);
        }
    }

    /// Carries out what the agent has decided.
    pub fn carry_out(&mut self, node: usize) {
        let run = self.agents[node].run;
        let todo = std::mem::take(&mut self.agents[node].todo);
        for todo in todo {
            match todo {
                Todo::Run { uid, op, until } => {
                    let mut takes = match &op {
                        Op::CreateSandbox { .. } | Op::Start { .. } => self.rng.range(20, 900),
                        Op::Stop { .. } => self.rng.range(10, 12_000),
                        _ => self.rng.range(5, 200),
                    };
                    if let Some(until) = until {
                        let left = until.duration_since(self.node_time(node)).as_millis();
                        takes = takes.min(u64::try_from(left).unwrap_or(0));
                    }
                    let (boot, epoch) = (self.machines[node].boot, self.machines[node].epoch());
                    self.say(|| format!("n{node} will {} for {uid} in {takes} ms", told_op(&op)));
                    self.after(takes, Happens::Runtime { node, boot, run, epoch, uid, op });
                }
                Todo::Wake { uid, at } => {
                    let after = at.duration_since(self.node_time(node)).as_millis();
                    let after = u64::try_from(after).unwrap_or(0) + 1;
                    self.after(after, Happens::Wake { node, run, uid });
                }
            }
        }
        if self.agents[node].has_updates() {
            self.after(1, Happens::WriteStatus { node, run });
        }
    }

    pub fn write_status(&mut self, node: usize) {
        if let Some((uid, request)) = self.agents[node].take() {
            let delete = matches!(request, Request::Status { delete: true, .. });
            self.ask(Caller::Node(node), request, Token::Status { uid, delete }, None);
        }
    }

    pub fn step_pod(&mut self, node: usize, uid: &Arc<str>) {
        let now = self.node_time(node);
        self.agents[node].step(uid, &self.machines[node], now);
        self.carry_out(node);
    }

    /// The runtime does what it was told, whether or not the agent is still there that told it.
    pub fn runtime(
        &mut self,
        node: usize,
        boot: u64,
        run: u64,
        epoch: u64,
        uid: &Arc<str>,
        op: &Op,
    ) {
        if self.machines[node].boot != boot {
            return;
        }
        let now = self.node_time(node);
        let lives = self.is_agent(node, run);
        let cancelled = lives && self.agents[node].is_cancelled(uid, op);
        let result = match op {
            _ if cancelled => Err("cancelled".to_owned()),
            Op::CreateSandbox { .. } | Op::Start { .. } if self.rng.chance(10) => {
                self.count("failures of a runtime");
                Err("the runtime failed".to_owned())
            }
            op => self.machines[node].run(uid, op, now),
        };
        self.count("runtime operations");
        let outcome = result.as_ref().err().cloned().unwrap_or_default();
        self.say(|| format!("n{node} {} for {uid}: {outcome}", told_op(op)));
        if let (Op::Start { pod, .. }, Ok(Some(id))) = (op, &result) {
            self.plan_end(node, boot, uid, id, pod);
        }
        if matches!(op, Op::CleanUp) && result.is_ok() {
            self.machines[node].cleaned_up(uid, epoch);
        }
        self.check_runs(node, uid);
        if lives {
            self.agents[node].done(uid, op, result, &self.machines[node], now);
            self.carry_out(node);
        }
    }

    /// The containers of Jobs end; others do now and then.
    fn plan_end(&mut self, node: usize, boot: u64, uid: &Arc<str>, id: &Arc<str>, pod: &Arc<Pod>) {
        let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let job = policy == Some("Never") || policy == Some("OnFailure");
        let (uid, id) = (uid.clone(), id.clone());
        if job {
            let takes = self.rng.range(200, 8_000);
            self.after(takes, Happens::Ends { node, boot, uid, id, code: 0 });
        } else if self.now < self.calm_at && self.rng.chance(50) {
            let takes = self.rng.range(200, 20_000);
            self.after(takes, Happens::Ends { node, boot, uid, id, code: 1 });
        }
    }

    pub fn ends(&mut self, node: usize, boot: u64, uid: &Arc<str>, id: &Arc<str>, code: i32) {
        let now = self.node_time(node);
        if self.machines[node].boot != boot || !self.machines[node].end(uid, id, code, now) {
            return;
        }
        self.say(|| format!("n{node} a container of {uid} ends with {code}"));
        if self.agents[node].up {
            self.step_pod(node, uid);
        }
    }

    // Controllers.

    pub fn decide(&mut self, process: usize, run: u64) {
        if self.processes[process].run != run || !self.processes[process].acts() {
            return;
        }
        if self.processes[process].beats_since.is_none() {
            self.processes[process].beats_since = Some(self.now);
        }
        let (now, ms) = (super::world::timestamp(self.now), self.now);
        let (send, again) = self.processes[process].decide(now, ms);
        for sent in send {
            self.send(process, sent);
        }
        for (work, after) in again {
            self.after(after.max(1), Happens::Again { process, run, work });
        }
    }

    fn process_answered(&mut self, process: usize, token: Token, answer: &Answer) {
        let run = self.processes[process].run;
        match token {
            Token::Lease { is_read } => self.lease_answered(process, is_read, answer),
            Token::Heads { ask } => {
                self.heads_answered(self.agents.len() + process, run, ask, answer);
            }
            Token::Step { work, plan, term } => {
                if matches!(answer, Answer::Refused { message, .. } if message == OVER) {
                    self.term_is_over(process, term);
                }
                let (next, again) =
                    self.processes[process].answered((&work, plan), answer, self.now);
                if let Some(sent) = next {
                    self.send(process, sent);
                }
                if let Some(after) = again {
                    let after = after + self.rng.range(0, 20);
                    self.after(after, Happens::Again { process, run, work });
                } else {
                    self.after(1, Happens::Decide { process, run });
                }
            }
            _ => {}
        }
    }

    /// Another process in its place.
    pub fn restart_process(&mut self, process: usize) {
        let reader = self.agents.len() + process;
        let run = self.processes[process].run + 1;
        self.processes[process] = Process::new(run);
        self.forget(reader);
        self.stand(process);
        self.after(1, Happens::Connect(reader));
    }

    pub fn forget(&mut self, reader: usize) {
        let this = &mut self.readers[reader];
        this.session.restart();
        this.busy = false;
        this.listing = None;
        this.listed_once = false;
        this.ask += 1;
        this.shadow.forget();
    }
}

fn told(request: &Request) -> String {
    match request {
        Request::Write(write) => warren_controllers::simulation::describe(write),
        Request::Status { target, delete, .. } => {
            let word = if *delete { "ends" } else { "tells the status of" };
            format!("{word} {}/{} {}", target.namespace, target.name, target.uid)
        }
        Request::Bind { target, node } => format!("binds {} to {node}", target.name),
        other => format!("{other:?}"),
    }
}

fn told_op(op: &Op) -> String {
    match op {
        Op::CreateSandbox { attempt, .. } => format!("create sandbox {attempt}"),
        Op::Start { name, attempt, .. } => format!("start {name} {attempt}"),
        other => format!("{other:?}"),
    }
}
