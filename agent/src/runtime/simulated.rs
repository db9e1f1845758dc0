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
use warren_process::{Clock, Tasks};

use super::{
    Channel, Container, ContainerConfig, ContainerStats, EVENT_BUFFER, ExecOptions, Exit, Id,
    Image, Input, LogOptions, Observed, Output, OutputStream, PodRef, PullPolicy, Pulled, Result,
    Runtime, RuntimeError, RuntimeEvent, STREAM_BUFFER, Sandbox, SandboxConfig, Session, State,
    Version,
};
use crate::pod::memory::{later, until};

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
        Arc::new(SimulatedRuntime { engine: Arc::clone(&self.0), node: name.into() })
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
        for sandbox in pod.into_iter().flat_map(|p| &mut p.sandboxes) {
            sandbox.ready = false;
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

struct SimulatedRuntime {
    engine: Arc<Engine>,
    node: Arc<str>,
}

impl SimulatedRuntime {
    fn up(&self) -> Result<parking_lot::MutexGuard<'_, Shared>> {
        let state = self.engine.state.lock();
        match state.nodes.get(&self.node) {
            Some(node) if node.down => {
                Err(RuntimeError::Unreachable("the simulated runtime is down".into()))
            }
            _ => Ok(state),
        }
    }

    fn observed(pod: &SimPod) -> Observed {
        Observed {
            sandboxes: pod.sandboxes.clone(),
            containers: pod.containers.iter().map(|c| c.view.clone()).collect(),
        }
    }
}

#[async_trait]
impl Runtime for SimulatedRuntime {
    async fn version(&self) -> Result<Version> {
        drop(self.up()?);
        Ok(Version { name: "simulated".into(), version: env!("CARGO_PKG_VERSION").into() })
    }

    async fn pods(&self) -> Result<Vec<(PodRef, Observed)>> {
        let state = self.up()?;
        let pods = state.nodes.get(&self.node).into_iter().flat_map(|n| n.pods.values());
        Ok(pods.map(|p| (p.pod.clone(), Self::observed(p))).collect())
    }

    async fn pod(&self, uid: &str) -> Result<Observed> {
        let state = self.up()?;
        let pod = state.nodes.get(&self.node).and_then(|n| n.pods.get(uid));
        Ok(pod.map(Self::observed).unwrap_or_default())
    }

    async fn create_sandbox(&self, config: SandboxConfig) -> Result<Sandbox> {
        let mut state = self.up()?;
        let uid = config.pod.uid.clone();
        let id = state.id(&self.node, &uid);
        let number = u32::try_from(state.next % (1 << 22)).unwrap_or_default();
        let node = state.nodes.entry(self.node.clone()).or_default();
        let pod = node.pods.entry(uid.clone()).or_insert_with(|| SimPod {
            pod: config.pod.clone(),
            sandboxes: Vec::new(),
            containers: Vec::new(),
        });
        let there = pod.sandboxes.iter().find(|s| s.attempt == config.attempt && s.ready).cloned();
        if let Some(there) = there {
            state.ids.remove(&id);
            return Ok(there);
        }
        // 10.64.0.0/10: 4 M addresses, given out in turn.
        let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 0, 0).to_bits() + number);
        let sandbox = Sandbox {
            id,
            attempt: config.attempt,
            ready: true,
            ip: (!config.host_network).then_some(IpAddr::V4(ip)),
            created_at: self.engine.clock.now(),
        };
        pod.sandboxes.push(sandbox.clone());
        state.tell(&self.node, &uid);
        Ok(sandbox)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let now = self.engine.clock.now();
        let mut state = self.up()?;
        let Some((node, uid)) = state.ids.remove(id) else { return Ok(()) };
        if let Some(pods) = state.nodes.get_mut(&node).map(|n| &mut n.pods)
            && let Some(pod) = pods.get_mut(&uid)
        {
            pod.sandboxes.retain(|s| *s.id != *id);
            for container in pod.containers.iter_mut().filter(|c| *c.view.sandbox == *id) {
                container.exit(137, now);
            }
            if pod.sandboxes.is_empty() && pod.containers.is_empty() {
                pods.remove(&uid);
            }
        }
        state.tell(&node, &uid);
        Ok(())
    }

    async fn ensure_image(&self, image: &str, policy: PullPolicy) -> Result<Pulled> {
        drop(self.up()?);
        if image.is_empty() || image.contains(char::is_whitespace) || image.contains("//") {
            return Err(RuntimeError::InvalidImageName(format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
            )));
        }
        // Names that say so are missing, so that failures can be played without annotations.
        if image.contains("missing.invalid/") {
            return Err(match policy {
                PullPolicy::Never => RuntimeError::ImageNeverPull(image.to_owned()),
                _ => {
                    RuntimeError::ImagePull { image: image.to_owned(), reason: "not found".into() }
                }
            });
        }
        let image = Image {
            id: format!("simulated://{image}"),
            names: vec![image.to_owned()],
            size_bytes: 0,
            user: String::new(),
        };
        Ok(Pulled { image, took: None })
    }

    async fn images(&self) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }

    async fn create_container(
        &self,
        sandbox: &Sandbox,
        _host_network: bool,
        config: ContainerConfig,
    ) -> Result<Id> {
        if let Some(error) = lookup(&config.annotations, "pull-error", &config.name) {
            return Err(RuntimeError::ImagePull {
                image: config.image.to_string(),
                reason: error.to_owned(),
            });
        }
        let delay =
            lookup(&config.annotations, "pull-delay", &config.name).and_then(parse_duration);
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let now = self.engine.clock.now();
        let mut state = self.up()?;
        let uid = config.pod.uid.clone();
        if let Some(pod) = state.pod(&sandbox.id) {
            let same = |c: &&SimContainer| {
                *c.view.name == *config.name && c.view.attempt == config.attempt
            };
            if let Some(there) = pod.containers.iter().find(same) {
                return Ok(there.view.id.clone());
            }
        } else {
            return Err(RuntimeError::NotFound { what: "sandbox", id: sandbox.id.to_string() });
        }
        let id = state.id(&self.node, &uid);
        let view = Container {
            id: id.clone(),
            name: config.name.clone(),
            sandbox: sandbox.id.clone(),
            attempt: config.attempt,
            image_id: format!("simulated://{}", config.image).into(),
            image: config.image.clone(),
            hash: config.hash,
            created_at: now,
            state: State::Created,
        };
        let behaviour = Behaviour::new(&config);
        if let Some(pod) = state.pod(&sandbox.id) {
            pod.containers.push(SimContainer {
                view,
                behaviour,
                log: Vec::new(),
                changed: Arc::new(Notify::new()),
            });
        }
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let delay = self.up()?.container(id)?.behaviour.start_delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let now = self.engine.clock.now();
        let mut state = self.up()?;
        let container = state.container(id)?;
        if container.view.state != State::Created {
            return Ok(());
        }
        if let Some(error) = container.behaviour.start_error.clone() {
            container.view.state = State::Exited(Exit {
                code: 128,
                reason: "StartError".into(),
                message: Some(error.clone()),
                started_at: None,
                finished_at: now,
            });
            state.tell_of(id);
            return Err(RuntimeError::Start(error));
        }
        container.view.state = State::Running { started_at: now };
        for line in std::mem::take(&mut container.behaviour.says) {
            container.say(now, line);
        }
        match container.behaviour.run_for {
            Some(time) if time.is_zero() => state.end(id, now),
            Some(time) => {
                state.next += 1;
                let entry = (later(now, time), state.next, id.into());
                state.due.push(Reverse(entry));
                self.engine.sooner.notify_one();
                state.tell_of(id);
            }
            None => state.tell_of(id),
        }
        Ok(())
    }

    async fn stop_container(&self, id: &str, signal: Option<&str>, grace: Duration) -> Result<()> {
        let delay = match self.up()?.container(id) {
            Ok(container) if container.view.is_running() => container.behaviour.stop_delay,
            _ => return Ok(()),
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay.min(grace)).await;
        }
        let code = match signal {
            _ if delay > grace => 137,
            Some("KILL" | "SIGKILL") => 137,
            _ => 143,
        };
        let now = self.engine.clock.now();
        let mut state = self.up()?;
        if state.container(id).is_ok_and(|c| c.exit(code, now)) {
            state.tell_of(id);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let mut state = self.up()?;
        let Some((node, uid)) = state.ids.remove(id) else { return Ok(()) };
        if let Some(pods) = state.nodes.get_mut(&node).map(|n| &mut n.pods)
            && let Some(pod) = pods.get_mut(&uid)
        {
            pod.containers.retain(|c| {
                c.changed.notify_waiters();
                *c.view.id != *id
            });
            if pod.sandboxes.is_empty() && pod.containers.is_empty() {
                pods.remove(&uid);
            }
        }
        state.tell(&node, &uid);
        Ok(())
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        let (send, receive) = mpsc::channel(EVENT_BUFFER);
        let mut state = self.engine.state.lock();
        let node = state.nodes.entry(self.node.clone()).or_default();
        node.overflowed = false;
        node.events = Some(send);
        receive
    }

    async fn logs(&self, id: &str, options: LogOptions) -> Result<OutputStream> {
        self.up()?.container(id)?;
        let (send, receive) = mpsc::channel(STREAM_BUFFER);
        let (engine, id) = (Arc::clone(&self.engine), id.to_owned());
        self.engine.tasks.spawn("simulated-logs", async move {
            let mut seen = 0;
            let mut left = options.limit_bytes.unwrap_or(u64::MAX);
            let mut first = true;
            loop {
                let (lines, running, changed) = {
                    let mut state = engine.state.lock();
                    let Ok(container) = state.container(&id) else { return };
                    let lines: Vec<_> = container.log.iter().skip(seen).cloned().collect();
                    seen += lines.len();
                    (lines, container.view.is_running(), Arc::clone(&container.changed))
                };
                let notified = changed.notified();
                let tail = options.tail_lines.filter(|_| first);
                let skip = tail.map_or(0, |tail| {
                    lines.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX))
                });
                first = false;
                for (at, line) in lines.into_iter().skip(skip) {
                    if options.since.is_some_and(|since| at < since) {
                        continue;
                    }
                    let mut text =
                        if options.timestamps { format!("{at} {line}\n") } else { line + "\n" };
                    text.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(text.len()));
                    left -= text.len() as u64;
                    let output = Output { channel: Channel::Stdout, data: Bytes::from(text) };
                    if send.send(Ok(output)).await.is_err() || left == 0 {
                        return;
                    }
                }
                if !options.follow || !running {
                    return;
                }
                tokio::select! {
                    () = notified => {}
                    () = send.closed() => return,
                }
            }
        });
        Ok(receive)
    }

    async fn exec(&self, id: &str, options: ExecOptions) -> Result<Session> {
        let not_running = {
            let mut state = self.up()?;
            !state.container(id)?.view.is_running()
        };
        if not_running {
            return Err(RuntimeError::Failed {
                operation: "exec",
                reason: format!("container {id} is not running"),
            });
        }
        let (input, mut from) = mpsc::channel::<Input>(STREAM_BUFFER);
        let (to, output) = mpsc::channel(STREAM_BUFFER);
        let (done, exit) = oneshot::channel();
        self.engine.tasks.spawn("simulated-exec", async move {
            let say =
                |channel, text: String| to.send(Ok(Output { channel, data: Bytes::from(text) }));
            let script = script::read(&options.command, &[]);
            if options.command.first().is_some_and(|c| c == "cat") {
                while let Some(Input::Data(data)) = from.recv().await {
                    if to.send(Ok(Output { channel: Channel::Stdout, data })).await.is_err() {
                        break;
                    }
                }
                let _ = done.send(Ok(0));
            } else if script.known {
                for line in script.says {
                    let _ = say(Channel::Stdout, line + "\n").await;
                }
                if let Some(time) = script.ends_after.filter(|t| !t.is_zero()) {
                    tokio::time::sleep(time).await;
                }
                let _ = done.send(Ok(script.exit_code));
            } else {
                let command = options.command.first().map_or("", String::as_str);
                let text = format!("{command}: this container is simulated, it has no programs\n");
                let _ = say(Channel::Stderr, text).await;
                let _ = done.send(Ok(127));
            }
        });
        Ok(Session { input, output, exit })
    }

    async fn attach(&self, id: &str, _stdin: bool, _tty: bool) -> Result<Session> {
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let output = self.logs(id, options).await?;
        let (input, mut from) = mpsc::channel::<Input>(STREAM_BUFFER);
        let (done, exit) = oneshot::channel();
        self.engine.tasks.spawn("simulated-attach", async move {
            while from.recv().await.is_some() {}
            let _ = done.send(Ok(0));
        });
        Ok(Session { input, output, exit })
    }

    async fn stats(&self, id: &str) -> Result<ContainerStats> {
        let now = self.engine.clock.now();
        let mut state = self.up()?;
        let State::Running { started_at } = state.container(id)?.view.state else {
            return Ok(ContainerStats::default());
        };
        // A thousandth of a cpu and a MiB.
        let nanos = until(started_at, now).as_nanos() / 1000;
        Ok(ContainerStats {
            cpu_nanos: u64::try_from(nanos).unwrap_or(u64::MAX),
            memory_working_set: 1 << 20,
            memory_usage: 1 << 20,
        })
    }

    fn simulated_probe(&self, id: &str) -> Option<bool> {
        let now = self.engine.clock.now();
        let mut state = self.engine.state.lock();
        let Ok(container) = state.container(id) else { return Some(false) };
        let State::Running { started_at } = container.view.state else { return Some(false) };
        let behaviour = &container.behaviour;
        Some(behaviour.ready.unwrap_or(true) && later(started_at, behaviour.ready_after) <= now)
    }
}

#[cfg(test)]
mod tests;
