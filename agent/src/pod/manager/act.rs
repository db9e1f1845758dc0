//! What the manager does: it spawns what a decision says, and takes note of how it ended.

use std::borrow::Cow;

use super::*;

impl Manager {
    pub(super) fn perform(
        &mut self,
        uid: &str,
        action: Action,
        observed: &Arc<Observed>,
        now: Timestamp,
    ) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        self.context.hop(Step::Decided, &slot.pod, said(&action));
        let (context, pod) = (Arc::clone(&self.context), Arc::clone(&slot.pod));
        let memory = &mut slot.memory;
        let send = self.send.clone();
        let uid: Arc<str> = uid.into();
        let spawn = |uid: Arc<str>, work: futures::future::BoxFuture<'static, Done>| {
            self.context.tasks.spawn("pod-action", async move {
                let done = work.await;
                let _ = send.send(Message::Done { uid, done }).await;
            });
        };
        match action {
            Action::CreateSandbox { attempt } => {
                memory.sandbox_busy = true;
                spawn(
                    uid,
                    Box::pin(async move {
                        Done::Sandbox(execute::create_sandbox(&context, &pod, attempt).await)
                    }),
                );
            }
            Action::RemoveSandbox { id } => {
                memory.sandbox_busy = true;
                spawn(
                    uid,
                    Box::pin(async move {
                        let result = context.runtime.remove_sandbox(&id).await;
                        Done::Sandbox(result.map_err(|e| ("ContainerCreating", e.to_string())))
                    }),
                );
            }
            Action::Start { name, attempt, existing, after } => {
                let observed = Arc::clone(observed);
                let container = memory.container(&name);
                if container.busy.is_some() {
                    return;
                }
                container.busy = Some(Busy::Starting);
                if after.is_some() {
                    let next = decide::next_crash(container.crash, &context.config.backoffs, now);
                    container.crash = Some(next);
                }
                let cancel = CancellationToken::new();
                slot.cancels.insert(name.clone(), cancel.clone());
                spawn(
                    uid,
                    Box::pin(async move {
                        let started = execute::start(
                            &context, &pod, &name, attempt, existing, &observed, &cancel,
                        );
                        let result = started.await;
                        Done::Start(name, result)
                    }),
                );
            }
            Action::CancelStart { name } => {
                if let Some(cancel) = slot.cancels.get(&name) {
                    cancel.cancel();
                }
            }
            Action::Stop { name, id, deadline, why, again } => {
                let container = memory.container(&name);
                container.busy = Some(Busy::Stopping { deadline });
                container.stopped = Some(id.clone());
                let ip = observed.sandbox().and_then(|s| s.ip);
                let (hurry, deadline) = watch::channel(deadline);
                slot.hurries.insert(name.clone(), hurry);
                spawn(
                    uid,
                    Box::pin(async move {
                        let stop = execute::Stop { name: &name, id: &id, ip, why: &why, again };
                        let result = execute::stop(&context, &pod, stop, deadline).await;
                        Done::Stop(name, result.map_err(|e| e.to_string()))
                    }),
                );
            }
            Action::Hurry { name, deadline } => {
                memory.container(&name).busy = Some(Busy::Stopping { deadline });
                if let Some(hurry) = slot.hurries.get(&name) {
                    hurry.send_replace(deadline);
                }
            }
            Action::Remove { name, id } => {
                let container = memory.container(&name);
                if container.busy.is_some() {
                    return;
                }
                container.busy = Some(Busy::Removing);
                spawn(
                    uid,
                    Box::pin(async move {
                        if let Err(error) = context.runtime.remove_container(&id).await {
                            tracing::warn!(%id, %error, "a dead container was not removed");
                        }
                        Done::Remove(name)
                    }),
                );
            }
            Action::Fail(terminal) => {
                let (reason, message) = (&terminal.reason, &terminal.message);
                context.events.pod(&pod, Level::Normal, reason, message, None);
                memory.terminal = Some(terminal);
            }
            Action::CleanUp => {
                memory.cleaning = true;
                spawn(
                    uid,
                    Box::pin(async move { Done::CleanUp(execute::clean_up(&context, &pod).await) }),
                );
            }
        }
    }

    pub(super) fn done(&mut self, uid: &str, done: Done) {
        let (now, backoffs) = (self.context.now(), self.context.config.backoffs);
        let Some(slot) = self.slots.get_mut(uid) else { return };
        if let Some(done) = outcome(&done) {
            self.context.hop(Step::Acted, &slot.pod, done);
        }
        slot.version += 1;
        slot.fresh = false;
        let memory = &mut slot.memory;
        match done {
            Done::Sandbox(result) => {
                memory.sandbox_busy = false;
                memory.sandbox_failure = result.err().map(|(reason, message)| {
                    let before = memory.sandbox_failure.as_ref();
                    Failure::next(before, reason, message, now, backoffs.other)
                });
            }
            Done::Start(name, result) => {
                slot.cancels.remove(&name);
                let container = memory.container(&name);
                container.busy = None;
                match result {
                    Ok(started) => {
                        container.failure = None;
                        if let Some(why) = started.hook_failed {
                            container.kill = Some((started.id.clone(), why));
                        }
                        let spec = spec::find_container(spec::spec(&slot.pod), &name);
                        if spec.is_some_and(|c| c.startup_probe.is_none()) {
                            container.started = Some(started.id);
                        }
                    }
                    Err(error) if error.kind == execute::Kind::Cancelled || error.made => {
                        container.failure = None;
                    }
                    Err(error) => {
                        let backoff = match error.kind {
                            execute::Kind::Image => backoffs.image,
                            _ => backoffs.other,
                        };
                        container.failure = Some(Failure::next(
                            container.failure.as_ref(),
                            error.reason,
                            error.message,
                            now,
                            backoff,
                        ));
                    }
                }
            }
            Done::Stop(name, result) => {
                memory.container(&name).busy = None;
                slot.hurries.remove(&name);
                if let Err(error) = result {
                    tracing::warn!(pod = uid, container = %name, %error, "a stop failed");
                    // Not at once again: the observation that follows decides, a wake is the net.
                    let at = later(now, RUNTIME_RETRY);
                    slot.fresh = false;
                    slot.wake = Some(at);
                    self.due.push(Reverse((at, Due::Step(uid.into()))));
                    return;
                }
            }
            Done::Remove(name) => memory.container(&name).busy = None,
            Done::CleanUp(Ok(())) => {
                memory.cleaning = false;
                return self.cleaned(uid);
            }
            Done::CleanUp(Err(error)) => {
                tracing::warn!(pod = uid, %error, "cleaning up after a pod failed");
                memory.cleaning = false;
                let before = memory.cleanup_failure.as_ref();
                let failure = Failure::next(before, "CleanUpFailed", error, now, backoffs.other);
                memory.cleanup_failure = Some(failure);
            }
        }
        self.observe(uid);
    }

    /// Nothing is left of the pod on this machine.
    pub(super) fn cleaned(&mut self, uid: &str) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        slot.cleaned = true;
        slot.probes.clear();
        if slot.removed || slot.source == Source::Static {
            return self.drop_slot(uid);
        }
        self.writer.put(uid.into(), update(slot, true));
        self.context.index.remove(uid);
        let pod = spec::pod_ref(&slot.pod);
        let next = self.names.get(&(pod.namespace, pod.name)).into_iter().flatten();
        let next: Vec<_> = next.filter(|u| ***u != *uid).cloned().collect();
        for uid in next {
            self.step(&uid);
        }
    }

    pub(super) fn refresh_volumes(&mut self, uid: &str) {
        let Some(slot) = self.slots.get(uid) else { return };
        if self.context.config.simulated
            || slot.cleaned
            || slot.removed
            || slot.observed.as_ref().is_none_or(|o| o.sandbox().is_none())
            || !Volumes::follows_objects(&slot.pod)
        {
            return;
        }
        let (context, pod) = (Arc::clone(&self.context), Arc::clone(&slot.pod));
        self.context.tasks.spawn("pod-volumes", async move {
            let prepared = context.volumes.prepare(&pod, &context.fields(), &context.objects).await;
            if let Err(error) = prepared {
                tracing::debug!(%error, "volumes were not brought up to date");
            }
        });
    }
}

/// For the hops of a pod.
fn said(action: &Action) -> Cow<'static, str> {
    match action {
        Action::CreateSandbox { .. } => "create the sandbox".into(),
        Action::RemoveSandbox { .. } => "remove the sandbox".into(),
        Action::Start { name, .. } => format!("start container {name}").into(),
        Action::CancelStart { name } => format!("do not start container {name} after all").into(),
        Action::Stop { name, why, .. } => format!("stop container {name}: {why}").into(),
        Action::Hurry { name, .. } => format!("stop container {name} sooner").into(),
        Action::Remove { name, .. } => format!("remove what is left of container {name}").into(),
        Action::Fail(terminal) => format!("the pod fails: {}", terminal.reason).into(),
        Action::CleanUp => "clean up".into(),
    }
}

/// What ended otherwise than [`execute`] has told.
fn outcome(done: &Done) -> Option<Cow<'static, str>> {
    Some(match done {
        Done::Sandbox(Ok(())) | Done::Start(_, Ok(_)) => return None,
        Done::Sandbox(Err((reason, message))) => format!("sandbox: {reason}: {message}").into(),
        Done::Start(name, Err(error)) => {
            format!("container {name}: {}: {}", error.reason, error.message).into()
        }
        Done::Stop(name, Ok(_)) => format!("container {name} stopped").into(),
        Done::Stop(name, Err(error)) => format!("container {name} not stopped: {error}").into(),
        Done::Remove(name) => format!("container {name} removed").into(),
        Done::CleanUp(Ok(())) => "nothing is left on the node".into(),
        Done::CleanUp(Err(error)) => format!("not cleaned up: {error}").into(),
    })
}
