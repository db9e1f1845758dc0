//! A runtime without machines: states, delays and faults on a clock.
//!
//! One [`Simulation`] serves all simulated nodes of a process: one map, one timer heap, one task. A container costs its
//! record and nothing else.
//!
//! What a container does follows from its command where that is simple ([`script`]: `sleep`, `echo`, `exit`, …), else it
//! runs until it is stopped. Annotations of the pod override it; each may carry `.<container>` behind its name:
//!
//! | `simulated.warren.dev/…` | |
//! |---|---|
//! | `pull-delay`, `start-delay`, `stop-delay` | how long that takes: `500ms`, `2s`, `1m` |
//! | `run-for` | the container ends after that |
//! | `exit-code` | with that code |
//! | `pull-error`, `start-error` | it fails with that text |
//! | `ready` | `false`: probes fail |
//! | `ready-after` | probes fail until the container ran for that long |
//! | `listen` | ports, of the pod: `8080,9090`; while one of its containers runs, what is sent there comes back |

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use warren_process::{Clock, Tasks};

use super::{
    Channel, Connection, Container, ContainerConfig, ContainerStats, EVENT_BUFFER, ExecOptions,
    Exit, Id, Image, Input, LogOptions, Observed, Output, OutputStream, PodRef, PullPolicy, Pulled,
    Result, Runtime, RuntimeError, RuntimeEvent, STREAM_BUFFER, Sandbox, SandboxConfig, Session,
    State, Version,
};
use crate::pod::memory::{later, until};

mod node;
mod script;

const ANNOTATION: &str = "simulated.warren.dev/";
/// Lines of log that a container keeps.
const LOG_LINES: usize = 100;

/// The shared engine. Clones share it.
#[derive(Clone)]
pub struct Simulation(Arc<Engine>);

struct Engine {
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    state: Mutex<Shared>,
    /// Something may be due earlier than the timer task knows.
    sooner: Notify,
}

#[derive(Default)]
struct Shared {
    nodes: HashMap<Arc<str>, Node>,
    /// Where a sandbox or container is: its node and its pod.
    ids: HashMap<Id, (Arc<str>, Arc<str>)>,
    due: BinaryHeap<Reverse<(Timestamp, u64, Id)>>,
    next: u64,
}

#[derive(Default)]
struct Node {
    pods: HashMap<Arc<str>, SimPod>,
    events: Option<mpsc::Sender<RuntimeEvent>>,
    overflowed: bool,
    /// Every call fails while this is set.
    down: bool,
}

struct SimPod {
    pod: PodRef,
    listens: Vec<u16>,
    /// Ends the connections to the newest sandbox.
    ended: CancellationToken,
    sandboxes: Vec<Sandbox>,
    containers: Vec<SimContainer>,
}

struct SimContainer {
    view: Container,
    behaviour: Behaviour,
    log: Vec<(Timestamp, String)>,
    changed: Arc<Notify>,
}

#[derive(Clone, Debug, Default)]
struct Behaviour {
    start_delay: Duration,
    stop_delay: Duration,
    run_for: Option<Duration>,
    exit_code: i32,
    start_error: Option<String>,
    ready: Option<bool>,
    ready_after: Duration,
    says: Vec<String>,
}

impl Simulation {
    /// Starts the one timer task.
    pub fn new(clock: Arc<dyn Clock>, tasks: &Tasks) -> Self {
        let engine = Arc::new(Engine {
            clock,
            tasks: tasks.clone(),
            state: Mutex::default(),
            sooner: Notify::new(),
        });
        let (timer, shutdown) = (Arc::clone(&engine), tasks.shutdown().clone());
        tasks.spawn("simulated-runtime", async move {
            tokio::select! {
                () = timer.run() => {}
                () = shutdown.draining() => {}
            }
        });
        Self(engine)
    }

    /// The runtime of one node.
    pub fn node(&self, name: &str) -> Arc<dyn Runtime> {
        self.0.state.lock().nodes.entry(name.into()).or_default();
        Arc::new(node::SimulatedRuntime { engine: Arc::clone(&self.0), node: name.into() })
    }

    /// Ends a running container, as a fault would.
    pub fn kill(&self, node: &str, uid: &str, container: &str, code: i32) {
        let now = self.0.clock.now();
        let mut state = self.0.state.lock();
        let found = state
            .nodes
            .get_mut(node)
            .and_then(|n| n.pods.get_mut(uid))
            .and_then(|p| p.containers.iter_mut().rev().find(|c| *c.view.name == *container));
        if found.is_some_and(|c| c.exit(code, now)) {
            state.tell(node, uid);
        }
    }

    /// Ends a pod's sandbox, as a fault would.
    pub fn kill_sandbox(&self, node: &str, uid: &str) {
        let mut state = self.0.state.lock();
        let pod = state.nodes.get_mut(node).and_then(|n| n.pods.get_mut(uid));
        if let Some(pod) = pod {
            pod.ended.cancel();
            pod.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false);
        }
        state.tell(node, uid);
    }

    /// Makes every call of a node fail, or work again.
    pub fn set_down(&self, node: &str, down: bool) {
        let mut state = self.0.state.lock();
        let Some(node) = state.nodes.get_mut(node) else { return };
        node.down = down;
        let event = if down {
            RuntimeEvent::Down("the simulated runtime is down".into())
        } else {
            RuntimeEvent::Relist
        };
        node.send(event);
    }
}

impl Engine {
    /// Ends what is due, then sleeps until the next.
    async fn run(&self) {
        loop {
            let next = {
                let now = self.clock.now();
                let mut state = self.state.lock();
                while let Some(Reverse((at, _, _))) = state.due.peek() {
                    if *at > now {
                        break;
                    }
                    let Some(Reverse((_, _, id))) = state.due.pop() else { break };
                    state.end(&id, now);
                }
                state.due.peek().map(|Reverse((at, _, _))| until(now, *at))
            };
            match next {
                Some(wait) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
                        () = self.sooner.notified() => {}
                    }
                }
                None => self.sooner.notified().await,
            }
        }
    }
}

impl Shared {
    fn id(&mut self, node: &Arc<str>, uid: &Arc<str>) -> Id {
        self.next += 1;
        let id: Id = format!("{:064x}", u128::from(self.next) << 64).into();
        self.ids.insert(id.clone(), (node.clone(), uid.clone()));
        id
    }

    fn pod(&mut self, id: &str) -> Option<&mut SimPod> {
        let (node, uid) = self.ids.get(id)?;
        self.nodes.get_mut(node)?.pods.get_mut(uid)
    }

    fn container(&mut self, id: &str) -> Result<&mut SimContainer> {
        let found = self.pod(id).and_then(|p| p.containers.iter_mut().find(|c| *c.view.id == *id));
        found.ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.to_owned() })
    }

    /// A container's time is over.
    fn end(&mut self, id: &str, now: Timestamp) {
        let Ok(container) = self.container(id) else { return };
        let code = container.behaviour.exit_code;
        if container.exit(code, now) {
            self.tell_of(id);
        }
    }

    fn tell_of(&mut self, id: &str) {
        if let Some((node, uid)) = self.ids.get(id).cloned() {
            self.tell(&node, &uid);
        }
    }

    fn tell(&mut self, node: &str, uid: &str) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.send(RuntimeEvent::Pod(uid.into()));
        }
    }
}

impl Node {
    fn send(&mut self, event: RuntimeEvent) {
        let Some(events) = &self.events else { return };
        if self.overflowed {
            self.overflowed = events.try_send(RuntimeEvent::Relist).is_err();
        } else {
            self.overflowed = events.try_send(event).is_err();
        }
    }
}

impl SimContainer {
    /// False where it does not run.
    fn exit(&mut self, code: i32, now: Timestamp) -> bool {
        let State::Running { started_at } = self.view.state else { return false };
        self.view.state = State::Exited(Exit {
            code,
            reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: None,
            started_at: Some(started_at),
            finished_at: now.max(started_at),
        });
        self.changed.notify_waiters();
        true
    }

    fn say(&mut self, now: Timestamp, line: String) {
        if self.log.len() < LOG_LINES {
            self.log.push((now, line));
        }
    }
}

impl Behaviour {
    fn new(config: &ContainerConfig) -> Self {
        let get = |key: &str| lookup(&config.annotations, key, &config.name);
        let time = |key: &str| get(key).and_then(parse_duration);
        let script = script::read(&config.command, &config.args);
        Self {
            start_delay: time("start-delay").unwrap_or_default(),
            stop_delay: time("stop-delay").unwrap_or_default(),
            run_for: time("run-for").or(script.ends_after),
            exit_code: get("exit-code").and_then(|c| c.parse().ok()).unwrap_or(script.exit_code),
            start_error: get("start-error").map(str::to_owned),
            ready: get("ready").map(|r| r != "false"),
            ready_after: time("ready-after").unwrap_or_default(),
            says: script.says,
        }
    }
}

fn lookup<'a>(
    annotations: &'a BTreeMap<String, String>,
    key: &str,
    container: &str,
) -> Option<&'a str> {
    if annotations.is_empty() {
        return None;
    }
    let own = annotations.get(&format!("{ANNOTATION}{key}.{container}"));
    own.or_else(|| annotations.get(&format!("{ANNOTATION}{key}"))).map(String::as_str)
}

/// `250ms`, `3s`, `1.5m`, `2h`; a bare number is seconds.
fn parse_duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()
}

#[cfg(test)]
mod tests;
