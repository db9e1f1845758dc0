//! The runtime that one simulated node sees: what is asked of it becomes states in the shared engine.

use tokio::io::AsyncWriteExt as _;

use super::*;

pub(super) struct SimulatedRuntime {
    pub(super) engine: Arc<Engine>,
    pub(super) node: Arc<str>,
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
        let listens = lookup(&config.annotations, "listen", "").unwrap_or_default();
        let listens = listens.split(',').filter_map(|port| port.trim().parse().ok());
        let pod = node.pods.entry(uid.clone()).or_insert_with(|| SimPod {
            pod: config.pod.clone(),
            listens: listens.collect(),
            ended: CancellationToken::new(),
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
        pod.ended = CancellationToken::new();
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
            if pod.sandboxes.last().is_some_and(|newest| *newest.id == *id) {
                pod.ended.cancel();
            }
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

    async fn ensure_image(
        &self,
        image: &str,
        policy: PullPolicy,
        begins: &(dyn Fn() + Send + Sync),
    ) -> Result<Pulled> {
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
                    begins();
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

    async fn connect(&self, sandbox: &Sandbox, _: bool, port: u16) -> Result<Connection> {
        /// Of a direction.
        const BUFFER: usize = 64 << 10;
        let ended = {
            let mut state = self.up()?;
            let pod = state.pod(&sandbox.id).filter(|pod| {
                pod.listens.contains(&port) && pod.containers.iter().any(|c| c.view.is_running())
            });
            let refused = || RuntimeError::Failed {
                operation: "connect to the pod",
                reason: format!(
                    "dial tcp 127.0.0.1:{port}: connect: connection refused (the pod is simulated; annotate it with {ANNOTATION}listen)"
                ),
            };
            pod.ok_or_else(refused)?.ended.clone()
        };
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        self.engine.tasks.spawn("simulated-listener", async move {
            let (mut read, mut write) = tokio::io::split(theirs);
            let echo = async {
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            };
            tokio::select! {
                () = echo => {}
                () = ended.cancelled() => {}
            }
        });
        Ok(Box::new(ours))
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
