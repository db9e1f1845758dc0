//! What the manager sees: the runtime's state, and the answers of probes.

use tokio::io::AsyncReadExt as _;

use super::*;
use crate::runtime::{Container, LogOptions};

/// How much of a termination message is kept, as Kubernetes bounds it.
const MESSAGE_LIMIT: usize = 4096;
/// And how much of a log stands in for one.
const TAIL_LINES: u64 = 80;
const TAIL_BYTES: usize = 2048;

impl Manager {
    /// Something about this pod may have changed.
    pub(super) fn touch(&mut self, uid: &str) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        slot.version += 1;
        slot.fresh = false;
        self.observe(uid);
    }

    pub(super) fn observe(&mut self, uid: &str) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        if slot.observing || slot.cleaned {
            return;
        }
        slot.observing = true;
        let (version, uid, send) = (slot.version, Arc::<str>::from(uid), self.send.clone());
        let (context, pod, before) =
            (Arc::clone(&self.context), Arc::clone(&slot.pod), slot.observed.clone());
        self.context.tasks.spawn("pod-observe", async move {
            let result = match context.runtime.pod(&uid).await {
                Ok(observed) => Ok(with_messages(&context, &pod, observed, before).await),
                Err(error) => Err(error.to_string()),
            };
            let _ = send.send(Message::Observed { uid, version, result }).await;
        });
    }

    pub(super) fn observed(&mut self, uid: &str, version: u64, result: Result<Observed, String>) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        slot.observing = false;
        match result {
            Ok(observed) => {
                slot.fresh = version == slot.version;
                if !slot.fresh {
                    return self.observe(uid);
                }
                self.learn(uid, observed);
                self.down(None);
                self.step(uid);
            }
            Err(error) => {
                let at = later(self.context.now(), RUNTIME_RETRY);
                slot.wake = Some(at);
                self.due.push(Reverse((at, Due::Step(uid.into()))));
                self.down(Some(error));
            }
        }
    }

    /// Lists the whole runtime: at the start, after lost events, and now and then.
    pub(super) fn list(&mut self) {
        let (runtime, send) = (Arc::clone(&self.context.runtime), self.send.clone());
        self.context.tasks.spawn("runtime-list", async move {
            let result = runtime.pods().await.map_err(|e| e.to_string());
            let _ = send.send(Message::Listed(result)).await;
        });
    }

    pub(super) fn on_list(&mut self, result: Result<Vec<(PodRef, Observed)>, String>) {
        let now = self.context.now();
        let pods = match result {
            Ok(pods) => pods,
            Err(error) => {
                self.down(Some(error));
                return self.due.push(Reverse((later(now, RUNTIME_RETRY), Due::Relist)));
            }
        };
        self.down(None);
        self.due.retain(|Reverse((_, due))| *due != Due::Relist);
        self.due.push(Reverse((later(now, self.context.config.relist_every), Due::Relist)));
        let first = !std::mem::replace(&mut self.listed, true);
        self.unclaimed.clear();
        for (pod, _) in &pods {
            if self.slots.contains_key(&pod.uid) {
                continue;
            }
            if self.complete || self.is_replaced(pod) {
                self.end_orphan(pod);
            } else {
                self.unclaimed.push(pod.clone());
            }
        }
        if self.complete {
            let ending = self.slots.iter().filter(|(_, s)| s.removed && s.source == Source::Api);
            let agreed = self.agreement.looked(ending.map(|(uid, _)| uid.clone()));
            self.agrees(agreed);
        }
        let mut seen: HashMap<Arc<str>, Observed> =
            pods.into_iter().map(|(pod, observed)| (pod.uid, observed)).collect();
        let uids: Vec<Arc<str>> = self.slots.keys().cloned().collect();
        for uid in uids {
            let observed = seen.remove(&uid).unwrap_or_default();
            let known = self.slots.get(&uid).and_then(|slot| slot.observed.as_ref());
            if first || known.is_none_or(|known| differ(known, &observed)) {
                self.touch(&uid);
            }
        }
    }

    /// Takes note of what a pod's containers have become.
    fn learn(&mut self, uid: &str, observed: Observed) {
        let now = self.context.now();
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let spec = spec::spec(&slot.pod);
        let first = slot.observed.is_none();
        if slot.memory.start_time.is_none() {
            slot.memory.start_time = observed.sandboxes.iter().map(|s| s.created_at).min();
        }
        let mut wanted = Vec::new();
        for container in spec::all_containers(spec) {
            let Some(newest) = observed.container(&container.name) else { continue };
            let memory = slot.memory.container(&container.name);
            memory.attempt = Some(newest.attempt);
            let older = observed
                .containers
                .iter()
                .filter(|c| *c.name == *container.name && c.attempt < newest.attempt)
                .max_by_key(|c| c.attempt);
            if first && memory.crash.is_none() {
                memory.crash = decide::crash_found(newest, older, &self.context.config.backoffs);
            }
            if let Some(Container { id, state: State::Exited(exit), .. }) = older {
                memory.last = Some((id.clone(), exit.clone()));
            }
            let State::Running { started_at } = newest.state else {
                if memory.kill.as_ref().is_some_and(|(id, _)| *id == newest.id) {
                    memory.kill = None;
                }
                continue;
            };
            let adopted = memory.busy.is_none() && container.startup_probe.is_none();
            if adopted && memory.started.as_ref() != Some(&newest.id) {
                memory.started = Some(newest.id.clone());
            }
            let started = memory.started.as_ref() == Some(&newest.id);
            for kind in Kind::ALL {
                let Some(probe) = kind.of(container) else { continue };
                if (kind == Kind::Startup) != started {
                    let name = Arc::<str>::from(&*container.name);
                    let first = probe::first(probe, started_at);
                    wanted.push((name, kind, newest.id.clone(), first));
                }
            }
        }
        slot.probes.retain(|p| {
            wanted.iter().any(|(name, kind, id, _)| (name, kind, id) == (&p.name, &p.kind, &p.id))
        });
        for (name, kind, id, first) in wanted {
            if slot.probes.iter().any(|p| p.name == name && p.kind == kind) {
                continue;
            }
            let mut counter = Counter::default();
            if kind == Kind::Readiness && slot.memory.is_ready(&name, &id) {
                counter.verdict = Some(Verdict::Success);
            }
            slot.probes.push(ProbeSlot { name: name.clone(), kind, id, counter, asking: false });
            self.due.push(Reverse((first.max(now), Due::Probe(uid.into(), name, kind))));
        }
        let observed = Arc::new(observed);
        slot.observed = Some(Arc::clone(&observed));
        self.context.index.update(uid, |entry| entry.observed = observed);
    }

    /// Asks a probe that is due.
    pub(super) fn probe(&mut self, uid: &str, name: &str, kind: Kind) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let stopping = slot.stop_by.is_some();
        let found = slot.probes.iter_mut().find(|p| *p.name == *name && p.kind == kind);
        let Some(entry) = found else { return };
        if entry.asking || (stopping && kind != Kind::Readiness) {
            return;
        }
        entry.asking = true;
        let ip = slot.observed.as_ref().and_then(|o| o.sandbox().and_then(|s| s.ip));
        let ip = ip.unwrap_or(self.context.host_ip);
        let target = Target { container_id: entry.id.clone(), ip };
        let (context, pod, send) =
            (Arc::clone(&self.context), Arc::clone(&slot.pod), self.send.clone());
        let (uid, name) = (Arc::<str>::from(uid), entry.name.clone());
        self.context.tasks.spawn("pod-probe", async move {
            let container = spec::find_container(spec::spec(&pod), &name);
            let container = container.as_deref();
            let asked = container.and_then(|c| kind.of(c).map(|p| (c, p)));
            let Some((container, probe)) = asked else { return };
            let answer = probe::ask(&*context.runtime, container, probe, &target).await;
            let id = target.container_id;
            let _ = send.send(Message::Probed { uid, name, kind, id, answer }).await;
        });
    }

    pub(super) fn probed(
        &mut self,
        uid: &str,
        name: &str,
        kind: Kind,
        id: &Arc<str>,
        answer: &Answer,
    ) {
        let now = self.context.now();
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let pod = Arc::clone(&slot.pod);
        let Some(container) = spec::find_container(spec::spec(&pod), name) else { return };
        let Some(probe) = kind.of(&container) else { return };
        let found = slot.probes.iter_mut().find(|p| *p.name == *name && p.kind == kind);
        let Some(entry) = found.filter(|p| p.id == *id) else { return };
        entry.asking = false;
        let text = match answer {
            Answer::Success => None,
            Answer::Failure(why) => Some(format!("{} probe failed: {why}", kind.name())),
            Answer::Error(why) => Some(format!("{} probe errored: {why}", kind.name())),
        };
        if let Some(text) = text {
            let field = execute::container_field(&pod, name);
            self.context.events.pod(&pod, Level::Warning, "Unhealthy", &text, Some(&field));
        }
        let verdict = entry.counter.count(probe, answer);
        let memory = slot.memory.container(name);
        let mut over = false;
        match (kind, verdict) {
            (Kind::Startup, Some(Verdict::Success)) => {
                memory.started = Some(id.clone());
                over = true;
            }
            (Kind::Startup | Kind::Liveness, Some(Verdict::Failure)) => {
                let word = if kind == Kind::Startup { "startup" } else { "liveness" };
                let why = format!("Container {name} failed {word} probe, will be restarted");
                memory.kill = Some((id.clone(), why));
                over = true;
            }
            (Kind::Readiness, Some(Verdict::Success)) => memory.ready = Some(id.clone()),
            (Kind::Readiness, Some(Verdict::Failure)) => memory.ready = None,
            _ => {}
        }
        if !over {
            let next = later(now, probe::period(probe));
            self.due.push(Reverse((next, Due::Probe(uid.into(), name.into(), kind))));
        }
        match (verdict, kind) {
            (None, _) => {}
            // A started container has other probes: look again.
            (Some(_), Kind::Startup) => self.touch(uid),
            (Some(_), _) => self.step(uid),
        }
    }

    /// Says again what somebody else has overruled: a node that nobody heard of, or whose runtime was away, has its pods
    /// marked as not ready, and only the agent can tell that they are. Not while the runtime is away.
    pub(super) fn insist(&self, uid: &str) {
        let Some(slot) = self.slots.get(uid) else { return };
        if slot.observed.is_none()
            || slot.cleaned
            || slot.removed
            || self.runtime_down.borrow().is_some()
        {
            return;
        }
        let stored = match slot.source {
            Source::Api => slot.pod.status.as_ref(),
            Source::Static => slot.told.as_deref(),
        };
        let overruled = stored.is_some_and(|s| status::overruled(s, &slot.status));
        if overruled {
            self.writer.put(uid.into(), update(slot, false));
        }
    }

    pub(super) fn down(&mut self, why: Option<String>) {
        let changed = self.runtime_down.send_if_modified(|now| {
            if *now == why || (now.is_some() && why.is_some()) {
                return false;
            }
            match &why {
                Some(why) => tracing::warn!(%why, "the container runtime does not answer"),
                None => tracing::info!("the container runtime answers again"),
            }
            *now = why;
            true
        });
        if changed {
            self.slots.keys().for_each(|uid| self.insist(uid));
        }
    }
}

/// Whether a list shows something else than what is known. Messages of exits are not in a list.
fn differ(a: &Observed, b: &Observed) -> bool {
    let kind = |state: &State| std::mem::discriminant(state);
    a.sandboxes != b.sandboxes
        || a.containers.len() != b.containers.len()
        || b.containers
            .iter()
            .any(|b| !a.containers.iter().any(|a| a.id == b.id && kind(&a.state) == kind(&b.state)))
}

/// Adds what ended containers left in their termination messages, or at the end of their logs.
async fn with_messages(
    context: &Context,
    pod: &Pod,
    mut observed: Observed,
    before: Option<Arc<Observed>>,
) -> Observed {
    if context.config.simulated {
        return observed;
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    for container in &mut observed.containers {
        let State::Exited(exit) = &mut container.state else { continue };
        let known =
            before.as_ref().and_then(|b| b.containers.iter().find(|c| c.id == container.id));
        if let Some(State::Exited(known)) = known.map(|c| &c.state) {
            exit.message.clone_from(&known.message);
            continue;
        }
        let Some(spec) = spec::find_container(spec::spec(pod), &container.name) else { continue };
        let file = context.volumes.termination_file(uid, &container.name, container.attempt);
        let mut text = match file {
            Some(file) => head(&file).await.unwrap_or_default(),
            None => Vec::new(),
        };
        let fall_back = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if text.is_empty() && fall_back && exit.code != 0 {
            text = tail(context, &container.id).await;
        }
        text.truncate(MESSAGE_LIMIT);
        if !text.is_empty() {
            exit.message = Some(String::from_utf8_lossy(&text).into_owned());
        }
    }
    observed
}

/// The beginning of a file that a container wrote, and which may say that it is terabytes long.
async fn head(file: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = tokio::fs::File::open(file).await?;
    file.take(MESSAGE_LIMIT as u64).read_to_end(&mut text).await?;
    Ok(text)
}

/// The last lines of a log, as Kubernetes bounds them.
async fn tail(context: &Context, id: &str) -> Vec<u8> {
    let options = LogOptions { tail_lines: Some(TAIL_LINES), ..LogOptions::default() };
    let Ok(mut stream) = context.runtime.logs(id, options).await else { return Vec::new() };
    let mut text = Vec::new();
    while let Some(Ok(output)) = stream.recv().await {
        text.extend_from_slice(&output.data);
        // Lines may be as long as they like.
        text.drain(..text.len().saturating_sub(TAIL_BYTES));
    }
    text
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn of_a_message_without_end_the_beginning_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message");
        std::fs::File::create(&path).unwrap().set_len(1 << 42).unwrap();
        assert_eq!(super::head(&path).await.unwrap().len(), super::MESSAGE_LIMIT);
        std::fs::write(&path, "why").unwrap();
        assert_eq!(super::head(&path).await.unwrap(), b"why");
    }
}
