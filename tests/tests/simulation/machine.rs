//! What a node has beside its agent: a disk, a clock that may be wrong, and a container runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use warren_agent::pod::spec;
use warren_agent::runtime::{Container, Exit, Observed, PodRef, Sandbox, State};

/// What an agent has its runtime do.
#[derive(Clone, Debug)]
pub enum Op {
    CreateSandbox { pod: PodRef, attempt: u32 },
    RemoveSandbox { id: Arc<str> },
    Start { pod: Arc<Pod>, name: Arc<str>, attempt: u32, existing: Option<Arc<str>> },
    Stop { name: Arc<str>, id: Arc<str> },
    Remove { name: Arc<str>, id: Arc<str> },
    CleanUp,
}

#[derive(Default)]
pub struct Machine {
    /// The agent's database: the pods that were bound to this node.
    pub keep: BTreeMap<String, Bytes>,
    pub pods: BTreeMap<Arc<str>, (PodRef, Observed)>,
    /// Counts the machine's starts.
    pub boot: u64,
    /// Milliseconds by which its clock is wrong.
    pub skew: i64,
    /// Of the newest database that the node has heard of.
    epoch: u64,
    /// Pods that were cleaned up here for good, as that database wanted it: they must not come again.
    pub over: BTreeSet<Arc<str>>,
    ids: u64,
}

pub fn running(observed: &Observed) -> impl Iterator<Item = &Container> {
    observed.containers.iter().filter(|container| container.is_running())
}

impl Machine {
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A restored database may want again what another one had ended.
    pub fn listed(&mut self, epoch: u64) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.over.clear();
        }
    }

    /// `epoch`: of the database that wanted it so.
    pub fn cleaned_up(&mut self, uid: &Arc<str>, epoch: u64) {
        if epoch == self.epoch {
            self.over.insert(uid.clone());
        }
    }

    pub fn observed(&self, uid: &str) -> Observed {
        self.pods.get(uid).map(|(_, observed)| observed.clone()).unwrap_or_default()
    }

    fn id(&mut self) -> Arc<str> {
        self.ids += 1;
        format!("c{:06}", self.ids).into()
    }

    /// As a container runtime: names are taken once, a dead sandbox starts nothing.
    pub fn run(
        &mut self,
        uid: &Arc<str>,
        op: &Op,
        now: Timestamp,
    ) -> Result<Option<Arc<str>>, String> {
        let id = self.id();
        match op {
            Op::CreateSandbox { pod, attempt } => {
                let of = (pod.clone(), Observed::default());
                let (_, observed) = self.pods.entry(uid.clone()).or_insert(of);
                if observed.sandboxes.iter().any(|sandbox| sandbox.attempt == *attempt) {
                    return Err("the name is in use".to_owned());
                }
                let ip = format!("10.0.{}.{}", self.ids / 250 % 250, self.ids % 250 + 1).parse();
                observed.sandboxes.push(Sandbox {
                    id,
                    attempt: *attempt,
                    ready: true,
                    ip: ip.ok(),
                    created_at: now,
                });
                Ok(None)
            }
            Op::RemoveSandbox { id } => {
                if let Some((_, observed)) = self.pods.get_mut(uid) {
                    observed.sandboxes.retain(|sandbox| sandbox.id != *id);
                    observed.containers.retain(|c| c.sandbox != *id || !c.is_running());
                }
                self.forget_empty(uid);
                Ok(None)
            }
            Op::Start { pod, name, attempt, existing } => {
                let Some((_, observed)) = self.pods.get_mut(uid) else {
                    return Err("no such pod".to_owned());
                };
                let sandbox = observed.sandbox().filter(|sandbox| sandbox.ready);
                let Some(sandbox) = sandbox.map(|sandbox| sandbox.id.clone()) else {
                    return Err("the sandbox is not there".to_owned());
                };
                if let Some(existing) = existing {
                    let found = observed.containers.iter_mut().find(|c| c.id == *existing);
                    let Some(container) = found else { return Err("it is gone".to_owned()) };
                    container.state = State::Running { started_at: now };
                    return Ok(Some(existing.clone()));
                }
                let same = |c: &Container| c.name == *name && c.attempt == *attempt;
                if observed.containers.iter().any(same) {
                    return Err("the name is in use".to_owned());
                }
                let wanted = spec::find_container(spec::spec(pod), name);
                let Some(wanted) = wanted else { return Err("no such container".to_owned()) };
                observed.containers.push(Container {
                    id: id.clone(),
                    name: name.clone(),
                    sandbox,
                    attempt: *attempt,
                    image: wanted.image.clone().unwrap_or_default().into(),
                    image_id: "image".into(),
                    hash: spec::hash(&wanted),
                    created_at: now,
                    state: State::Running { started_at: now },
                });
                Ok(Some(id))
            }
            Op::Stop { id, .. } => {
                self.end(uid, id, 137, now);
                Ok(None)
            }
            Op::Remove { id, .. } => {
                if let Some((_, observed)) = self.pods.get_mut(uid) {
                    observed.containers.retain(|c| c.id != *id || c.is_running());
                }
                self.forget_empty(uid);
                Ok(None)
            }
            Op::CleanUp => {
                self.pods.remove(uid);
                Ok(None)
            }
        }
    }

    fn forget_empty(&mut self, uid: &Arc<str>) {
        if self.pods.get(uid).is_some_and(|(_, observed)| observed.is_empty()) {
            self.pods.remove(uid);
        }
    }

    /// A container ends. Whether it ran.
    pub fn end(&mut self, uid: &str, id: &str, code: i32, now: Timestamp) -> bool {
        let Some((_, observed)) = self.pods.get_mut(uid) else { return false };
        let found = observed.containers.iter_mut().find(|c| *c.id == *id && c.is_running());
        let Some(container) = found else { return false };
        let State::Running { started_at } = container.state else { return false };
        container.state = State::Exited(Exit {
            code,
            reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: None,
            started_at: Some(started_at),
            finished_at: now,
        });
        true
    }

    /// The power was off: containers and sandboxes are there, and dead.
    pub fn reboot(&mut self, now: Timestamp) {
        self.boot += 1;
        let uids: Vec<_> = self.pods.keys().cloned().collect();
        for uid in uids {
            let observed = self.observed(&uid);
            for container in running(&observed) {
                self.end(&uid, &container.id, 137, now);
            }
            if let Some((_, observed)) = self.pods.get_mut(&uid) {
                observed.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false);
            }
        }
    }
}
