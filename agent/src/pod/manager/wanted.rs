//! What the manager is told to run: pods come, change and go; those of one name follow each other.

use super::*;

impl Manager {
    pub(super) fn change(&mut self, change: Change) {
        match change {
            Change::Upsert(pod, source) => self.upsert(pod, source),
            Change::Remove(uid, last) => {
                let Some(slot) = self.slots.get_mut(&uid) else { return };
                if let Some(last) = last {
                    slot.pod = last;
                }
                slot.removed = true;
                if slot.cleaned {
                    return self.drop_slot(&uid);
                }
                self.step(&uid);
            }
            Change::Ended(pod) => {
                let pod_ref = spec::pod_ref(&pod);
                let uid = pod_ref.uid.clone();
                if !self.slots.contains_key(&uid) {
                    let status = Arc::new(pod.status.clone().unwrap_or_default());
                    self.insert(pod_ref, pod, Source::Api, true, Memory::default(), status);
                    if self.listed {
                        self.observe(&uid);
                    }
                }
            }
            Change::Mirrored(uid) => {
                if let Some(slot) = self.slots.get(&uid).filter(|s| s.observed.is_some()) {
                    self.writer.put(uid, update(slot, false));
                }
            }
            Change::Told(uid, status) => {
                if let Some(slot) = self.slots.get_mut(&uid) {
                    slot.told = Some(status);
                    self.insist(&uid);
                }
            }
            Change::Complete(listed) => {
                self.complete = true;
                if let Some(listed) = listed {
                    self.agreement.listed(listed);
                }
                self.list();
                for (uid, slot) in &self.slots {
                    let stored = slot.pod.status.as_ref();
                    let differs = stored.is_none_or(|s| !status::same(s, &slot.status));
                    if slot.source == Source::Api && slot.observed.is_some() && differs {
                        self.writer.put(uid.clone(), update(slot, slot.cleaned));
                    }
                }
            }
            Change::Object(namespace, _name) => {
                let with: Vec<_> = self
                    .slots
                    .iter()
                    .filter(|(_, s)| s.pod.metadata.namespace.as_deref() == Some(&namespace))
                    .map(|(uid, _)| uid.clone())
                    .collect();
                for uid in with {
                    self.refresh_volumes(&uid);
                    let Some(slot) = self.slots.get_mut(&uid) else { continue };
                    // Somebody may have mended what a container waits for.
                    let now = self.context.clock.now();
                    let config = |m: &&mut Box<ContainerMemory>| {
                        m.failure.as_ref().is_some_and(|f| f.reason == "CreateContainerConfigError")
                    };
                    for memory in slot.memory.containers.values_mut().filter(config) {
                        if let Some(failure) = &mut memory.failure {
                            failure.retry_at = now;
                        }
                    }
                    if let Some(failure) = &mut slot.memory.sandbox_failure {
                        failure.retry_at = now;
                    }
                    self.step(&uid);
                }
            }
        }
    }

    fn upsert(&mut self, pod: Arc<Pod>, source: Source) {
        let pod_ref = spec::pod_ref(&pod);
        let uid = pod_ref.uid.clone();
        let lives = source == Source::Api && pod.metadata.deletion_timestamp.is_none();
        if lives && self.slots.get(&uid).is_some_and(|slot| slot.cleaned) {
            // A restore has undone its deletion: it begins anew, and is not ended once more.
            self.drop_slot(&uid);
        }
        if let Some(slot) = self.slots.get_mut(&uid) {
            let (old, new) = (&slot.pod.metadata, &pod.metadata);
            let same = old.generation == new.generation
                && old.deletion_timestamp == new.deletion_timestamp
                && old.deletion_grace_period_seconds == new.deletion_grace_period_seconds
                && old.labels == new.labels
                && old.annotations == new.annotations
                && (new.generation.is_some() || slot.pod.spec == pod.spec)
                && spec::spec(&pod).readiness_gates.is_none();
            slot.pod = Arc::clone(&pod);
            self.context.index.update(&uid, |entry| entry.pod = Arc::clone(&pod));
            if !same || slot.removed {
                slot.removed = false;
                let agreed = self.agreement.gone(&uid);
                self.agrees(agreed);
                self.refresh_volumes(&uid);
                self.step(&uid);
            }
            self.insist(&uid);
            return;
        }
        let status = Arc::new(pod.status.clone().unwrap_or_default());
        let mut memory =
            Memory { start_time: status.start_time.as_ref().map(|t| t.0), ..Memory::default() };
        seed(&mut memory, &status, self.context.runtime_name);
        if source == Source::Static {
            let unclaimed = std::mem::take(&mut self.unclaimed);
            for other in unclaimed {
                if is_version_of(&other, &pod_ref) {
                    self.end_orphan(&other);
                    self.observe(&other.uid);
                } else {
                    self.unclaimed.push(other);
                }
            }
        }
        self.insert(pod_ref, pod, source, false, memory, status);
        if self.listed {
            self.observe(&uid);
        }
    }

    fn insert(
        &mut self,
        pod_ref: PodRef,
        pod: Arc<Pod>,
        source: Source,
        removed: bool,
        memory: Memory,
        status: Arc<PodStatus>,
    ) {
        let uid = pod_ref.uid.clone();
        let same_name = self.names.entry((pod_ref.namespace, pod_ref.name)).or_default();
        let orphan = pod.spec.is_none();
        // Who asks for a name means the pod that is wanted.
        if !orphan || same_name.is_empty() {
            self.context.index.insert(PodEntry {
                node: self.context.node.0.clone(),
                pod: Arc::clone(&pod),
                observed: Arc::default(),
                status: Arc::clone(&status),
                runtime: Arc::clone(&self.context.runtime),
            });
        }
        same_name.insert(if orphan { 0 } else { same_name.len() }, uid.clone());
        self.slots.insert(
            uid,
            Slot {
                pod,
                source,
                removed,
                observed: None,
                version: 0,
                fresh: false,
                observing: false,
                memory,
                status,
                told: None,
                stop_by: None,
                wake: None,
                cancels: BTreeMap::new(),
                hurries: BTreeMap::new(),
                probes: Vec::new(),
                cleaned: false,
            },
        );
    }

    /// Whether a pod that nobody has asked for is a version of a static pod from before this agent started. It goes
    /// first, and now: both would want the same ports, and the API itself may be among them.
    pub(super) fn is_replaced(&self, pod: &PodRef) -> bool {
        let key = (pod.namespace.clone(), pod.name.clone());
        let mut uids = self.names.get(&key).into_iter().flatten();
        uids.any(|uid| {
            let slot = self.slots.get(uid).filter(|slot| slot.source == Source::Static);
            slot.is_some_and(|slot| is_version_of(pod, &spec::pod_ref(&slot.pod)))
        })
    }

    pub(super) fn end_orphan(&mut self, pod: &PodRef) {
        tracing::info!(%pod, uid = %pod.uid, "ending a pod that nobody wants any more");
        let body = Arc::new(orphan(pod));
        self.insert(pod.clone(), body, Source::Api, true, Memory::default(), Arc::default());
    }

    pub(super) fn drop_slot(&mut self, uid: &str) {
        let Some(slot) = self.slots.remove(uid) else { return };
        let agreed = self.agreement.gone(uid);
        self.agrees(agreed);
        self.context.index.remove(uid);
        self.writer.forget(uid);
        let pod = spec::pod_ref(&slot.pod);
        let key = (pod.namespace, pod.name);
        let Some(uids) = self.names.get_mut(&key) else { return };
        uids.retain(|u| **u != *uid);
        match uids.first().cloned() {
            Some(next) => self.step(&next),
            None => {
                self.names.remove(&key);
            }
        }
    }

    /// Whether an earlier pod of the same name is still there.
    pub(super) fn must_wait(&self, uid: &str, slot: &Slot) -> bool {
        let pod = spec::pod_ref(&slot.pod);
        let uids = self.names.get(&(pod.namespace, pod.name)).map(Vec::as_slice);
        let before = uids.unwrap_or_default().iter().take_while(|u| ***u != *uid);
        before.into_iter().any(|u| self.slots.get(u).is_some_and(|s| !s.cleaned))
    }
}

/// Takes over what the stored status knows of containers that run since before the agent did.
fn seed(memory: &mut Memory, status: &PodStatus, runtime: &str) {
    let statuses = status.init_container_statuses.iter().chain(&status.container_statuses);
    for said in statuses.flatten() {
        let id = said.container_id.as_deref().and_then(|id| id.split_once("://"));
        let Some((scheme, id)) = id else { continue };
        let container = memory.container(&said.name);
        // What a simulated node ran is gone with its process, and that is no restart.
        if scheme == runtime && runtime != "simulated" {
            container.attempt = u32::try_from(said.restart_count).ok();
        }
        if said.started == Some(true) {
            container.started = Some(id.into());
        }
        if said.ready {
            container.ready = Some(id.into());
        }
    }
}

/// Whether a pod that runs came from another version of a static pod's manifest. The uids of static pods are hashes,
/// those of the API have dashes.
fn is_version_of(runs: &PodRef, wanted: &PodRef) -> bool {
    runs.uid != wanted.uid
        && !runs.uid.contains('-')
        && (&runs.namespace, &runs.name) == (&wanted.namespace, &wanted.name)
}

/// A pod that only the runtime knows: all there is to do is to end it.
fn orphan(pod: &PodRef) -> Pod {
    Pod {
        metadata: ObjectMeta {
            namespace: Some(pod.namespace.to_string()),
            name: Some(pod.name.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}
