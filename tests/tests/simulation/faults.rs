//! What people do, and what goes wrong. All of it is drawn from the seed.

use serde_json::{Value, json};
use warren_broker::election::Input;
use warren_controllers::plan::{Resource, Target, Write};

use super::agent::Agent;
use super::happens::{Caller, Happens, Token};
use super::server::Request;
use super::world::World;

/// What is broken is mended within this: a node that is cut off so long counts as lost.
pub const LONGEST: u64 = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    ConnectionLost(usize),
    RelayLost,
    QueuePurged(usize),
    BindingsRemoved(usize),
    QueueDeleted(usize),
    Refusals,
    Taken,
    BrokerDown,
    ServerKilled,
    Compacted,
    Backup,
    Restored,
    /// Nothing is left of the server's disk: the backup is restored in an empty place.
    DiskLost,
    AgentKilled(usize),
    Rebooted(usize),
    StateLost(usize),
    CutOff(usize),
    DiskErrors,
    ControllersKilled(usize),
    ControllersStopped(usize),
    ControllersLeave(usize),
    ClockJumps(usize),
}

/// One backup is restored, and much later again, after the disk was lost in between and while nodes are cut off: the
/// accidents of other seeds are over before a hold has ended once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restores {
    /// As soon as a pod has no node.
    Backup,
    First,
    Second,
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Fault::ConnectionLost(_) => "fault: connection lost",
            Fault::RelayLost => "fault: relay's connection lost",
            Fault::QueuePurged(_) => "fault: queue purged",
            Fault::BindingsRemoved(_) => "fault: bindings removed",
            Fault::QueueDeleted(_) => "fault: queue deleted",
            Fault::Refusals => "fault: queues refuse",
            Fault::Taken => "fault: somebody takes messages",
            Fault::BrokerDown => "fault: broker down",
            Fault::ServerKilled => "fault: server killed",
            Fault::Compacted => "fault: history compacted",
            Fault::Backup => "backup made",
            Fault::Restored => "fault: backup restored",
            Fault::DiskLost => "fault: server's disk lost, backup restored",
            Fault::AgentKilled(_) => "fault: agent killed",
            Fault::Rebooted(_) => "fault: node rebooted",
            Fault::StateLost(_) => "fault: node's state lost",
            Fault::CutOff(_) => "fault: cut off",
            Fault::DiskErrors => "fault: disk errors",
            Fault::ControllersKilled(_) => "fault: controllers killed",
            Fault::ControllersStopped(_) => "fault: controllers stopped",
            Fault::ControllersLeave(_) => "controllers told to end",
            Fault::ClockJumps(_) => "fault: clock jumps",
        }
    }
}

impl World {
    /// Each seed has its own mixture, and one in eight none; some of these restore one backup twice.
    pub fn choose_faults(&mut self) {
        let all = [
            Fault::ConnectionLost(0),
            Fault::RelayLost,
            Fault::QueuePurged(0),
            Fault::BindingsRemoved(0),
            Fault::QueueDeleted(0),
            Fault::Refusals,
            Fault::Taken,
            Fault::BrokerDown,
            Fault::ServerKilled,
            Fault::Compacted,
            Fault::Backup,
            Fault::Restored,
            Fault::DiskLost,
            Fault::AgentKilled(0),
            Fault::Rebooted(0),
            Fault::StateLost(0),
            Fault::CutOff(0),
            Fault::DiskErrors,
            Fault::ControllersKilled(0),
            Fault::ControllersStopped(0),
            Fault::ControllersLeave(0),
            Fault::ClockJumps(0),
        ];
        if self.rng.chance(125) {
            if self.rng.chance(160) {
                self.calm_at = 120_000;
                self.after(5_000, Happens::Restores(Restores::Backup));
            }
            return;
        }
        let share = self.rng.range(100, 700);
        for fault in all {
            if self.rng.chance(share) {
                self.enabled.push(fault);
            }
        }
    }

    pub fn accident(&mut self) {
        if self.now >= self.calm_at {
            return self.say(|| "calm".to_owned());
        }
        let next = self.rng.range(100, 5_000);
        self.after(next, Happens::Accident);
        let Some(fault) = self.rng.pick(&self.enabled.clone()).copied() else { return };
        let reader = self.rng.range(0, self.readers.len() as u64) as usize;
        let node = self.rng.range(0, self.agents.len() as u64) as usize;
        let process = self.rng.range(0, self.processes.len() as u64) as usize;
        let fault = match fault {
            Fault::ConnectionLost(_) => Fault::ConnectionLost(reader),
            Fault::QueuePurged(_) => Fault::QueuePurged(reader),
            Fault::BindingsRemoved(_) => Fault::BindingsRemoved(reader),
            Fault::QueueDeleted(_) => Fault::QueueDeleted(reader),
            Fault::CutOff(_) => Fault::CutOff(reader),
            Fault::AgentKilled(_) => Fault::AgentKilled(node),
            Fault::Rebooted(_) => Fault::Rebooted(node),
            Fault::StateLost(_) => Fault::StateLost(node),
            Fault::ClockJumps(_) => Fault::ClockJumps(node),
            Fault::ControllersKilled(_) => Fault::ControllersKilled(process),
            Fault::ControllersStopped(_) => Fault::ControllersStopped(process),
            Fault::ControllersLeave(_) => Fault::ControllersLeave(process),
            other => other,
        };
        self.strike(fault);
    }

    pub fn restores(&mut self, step: Restores) {
        match step {
            Restores::Backup => {
                let pods = self.server.list(&warren_api::GroupResource::new("", "pods"), None);
                let waits = pods.iter().any(|(_, pod)| {
                    !pod.object.is_being_deleted()
                        && pod.object.str_at(&["spec", "nodeName"]).is_empty()
                });
                if !waits {
                    return self.after(3, Happens::Restores(step));
                }
                self.strike(Fault::Backup);
                self.after(1_000, Happens::Restores(Restores::First));
            }
            Restores::First => {
                self.strike(Fault::Restored);
                // When what was held runs.
                let later = self.rng.range(55_000, 65_000);
                self.after(later, Happens::Restores(Restores::Second));
            }
            Restores::Second => {
                (0..self.agents.len()).for_each(|node| self.strike(Fault::CutOff(node)));
                self.strike(Fault::DiskLost);
            }
        }
    }

    fn strike(&mut self, fault: Fault) {
        self.count(fault.name());
        self.say(|| format!("{fault:?}"));
        let mut mended = None;
        match fault {
            Fault::ConnectionLost(reader) => self.lose_connection(reader),
            Fault::RelayLost => self.relay_lost(),
            Fault::QueuePurged(reader) => {
                let lost = self.broker.purge(&self.readers[reader].session.queue.clone());
                (0..lost).for_each(|_| self.count("messages purged"));
            }
            Fault::BindingsRemoved(reader) => {
                self.broker.unbind(&self.readers[reader].session.queue.clone());
            }
            Fault::QueueDeleted(reader) => {
                let queue = self.readers[reader].session.queue.clone();
                self.broker.delete(&queue);
                self.lose_connection(reader);
            }
            Fault::Refusals => {
                self.nacks = true;
                mended = Some(self.rng.range(100, 5_000));
            }
            Fault::Taken => {
                self.takes = true;
                mended = Some(self.rng.range(100, 5_000));
            }
            Fault::BrokerDown if self.broker.up => {
                self.broker.up = false;
                (0..self.readers.len()).for_each(|reader| self.lose_connection(reader));
                (0..self.processes.len()).for_each(|process| self.leave_line(process));
                self.relay_lost();
                mended = Some(self.rng.range(50, 15_000));
            }
            Fault::ServerKilled | Fault::Restored | Fault::DiskLost if self.server.up => {
                self.server.crash();
                self.relay_lost();
                if fault != Fault::ServerKilled {
                    let Some(backup) = self.backup.clone() else {
                        return self.after(500, Happens::Mended(Fault::ServerKilled));
                    };
                    let now = super::world::timestamp(self.now);
                    self.server.restore(backup, fault == Fault::DiskLost, now);
                }
                mended = Some(self.rng.range(100, 15_000));
            }
            Fault::Compacted => {
                if self.rng.chance(500) {
                    // What is committed until the relay is back is not published any more.
                    self.relay_lost();
                    self.compacts = true;
                } else {
                    self.server.compact();
                }
            }
            Fault::Backup => self.backup = Some(self.server.disk.clone()),
            Fault::AgentKilled(node) | Fault::Rebooted(node) | Fault::StateLost(node)
                if self.agents[node].up =>
            {
                self.agents[node].up = false;
                self.lose_connection(node);
                let now = self.node_time(node);
                if !matches!(fault, Fault::AgentKilled(_)) {
                    self.machines[node].reboot(now);
                }
                if matches!(fault, Fault::StateLost(_)) {
                    self.machines[node].keep.clear();
                }
                mended = Some(self.rng.range(50, 20_000));
            }
            Fault::CutOff(reader) if !self.readers[reader].cut_off => {
                self.readers[reader].cut_off = true;
                self.lose_connection(reader);
                if let Some(process) = self.process_of(reader) {
                    self.leave_line(process);
                }
                mended = Some(self.rng.range(100, LONGEST));
            }
            Fault::DiskErrors => {
                self.disk_errors = true;
                mended = Some(self.rng.range(500, 10_000));
            }
            Fault::ControllersKilled(process) if self.processes[process].up => {
                self.end_process(process);
                mended = Some(self.rng.range(50, 10_000));
            }
            Fault::ControllersStopped(process) if !self.processes[process].stopped => {
                self.processes[process].stopped = true;
                self.lose_connection(self.agents.len() + process);
                // So long the broker serves who does not read.
                let (missed, run) = (self.rng.range(1_000, 20_000), self.processes[process].run);
                self.after(missed, Happens::Missed { process, run });
                mended = Some(self.rng.range(500, 20_000));
            }
            Fault::ControllersLeave(process) => {
                let run = self.processes[process].run;
                self.candidates[process].leaving = true;
                self.inform(process, run, Input::Leave);
            }
            Fault::ClockJumps(node) => {
                let skew = self.rng.range(0, 240_000) as i64 - 120_000;
                self.machines[node].skew = skew;
                mended = Some(self.rng.range(1_000, 30_000));
            }
            _ => {}
        }
        if let Some(after) = mended {
            self.after(after, Happens::Mended(fault));
        }
    }

    pub fn mended(&mut self, fault: Fault) {
        self.say(|| format!("mended: {fault:?}"));
        match fault {
            Fault::Refusals => self.nacks = false,
            Fault::Taken => self.takes = false,
            Fault::BrokerDown => self.broker.up = true,
            Fault::ServerKilled | Fault::Restored | Fault::DiskLost if !self.server.up => {
                self.server.up = true;
                self.relay.run += 1;
                let run = self.relay.run;
                self.after(60_000, Happens::Heals { run });
                self.relay.core = warren_broker::relay::Core::new("server", self.server.cursor);
                self.relay.waiting = None;
                self.relay.told.forget();
                self.after(1, Happens::RelayConnects);
            }
            Fault::AgentKilled(node) | Fault::Rebooted(node) | Fault::StateLost(node)
                if !self.agents[node].up =>
            {
                let run = self.agents[node].run + 1;
                let name = self.agents[node].node.clone();
                self.agents[node] = Agent::new(&name, run);
                self.forget(node);
                let now = self.node_time(node);
                self.agents[node].start(&self.machines[node], now);
                self.carry_out(node);
                self.after(1, Happens::Connect(node));
                self.after(5, Happens::Beat { node, run, beat: 0 });
                self.after(60_000, Happens::Look { node, run });
            }
            Fault::CutOff(reader) => self.readers[reader].cut_off = false,
            Fault::DiskErrors => self.disk_errors = false,
            Fault::ControllersKilled(process) if !self.processes[process].up => {
                self.restart_process(process);
            }
            Fault::ControllersStopped(process) => {
                if !std::mem::take(&mut self.processes[process].stopped) {
                    return;
                }
                let (reader, run) = (self.agents.len() + process, self.processes[process].run);
                self.wakes(process);
                self.after(0, Happens::Work { reader, run });
                self.after(1, Happens::Decide { process, run });
            }
            Fault::ClockJumps(node) => self.machines[node].skew = 0,
            _ => {}
        }
    }

    // People.

    pub fn people(&mut self) {
        if self.now >= self.calm_at {
            return;
        }
        let next = self.rng.range(50, 2_000);
        self.after(next, Happens::People);
        let write = match self.rng.range(0, 10) {
            0 | 1 => self.new_deployment(),
            2 => self.new_job(),
            3 => self.new_pod(),
            4 | 5 => self.change("apps", "deployments"),
            6 => self.gone("apps", "deployments"),
            7 => self.gone("batch", "jobs"),
            8 => self.gone("", "pods"),
            _ if self.rng.chance(150) => self.gone("", "nodes"),
            _ => None,
        };
        if let Some(write) = write {
            self.count("wishes of people");
            self.ask(Caller::Person, Request::Write(write), Token::Forget, None);
        }
    }

    fn pod_spec(&mut self, policy: &str) -> Value {
        let grace = self.rng.range(0, 12);
        let image = format!("app:{}", self.rng.range(0, 4));
        let tolerate = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30});
        json!({"restartPolicy": policy, "terminationGracePeriodSeconds": grace,
            "containers": [{"name": "main", "image": image}],
            "tolerations": [tolerate("node.kubernetes.io/not-ready"),
                tolerate("node.kubernetes.io/unreachable")]})
    }

    fn created<K: kube::Resource<DynamicType = ()>>(
        &mut self,
        name: &str,
        mut object: Value,
    ) -> Write {
        object["apiVersion"] = json!(K::api_version(&()));
        object["kind"] = json!(K::kind(&()));
        object["metadata"]["name"] = json!(name);
        Write::Create { resource: Resource::of::<K>(), namespace: "default".to_owned(), object }
    }

    fn new_deployment(&mut self) -> Option<Write> {
        let name = format!("web-{}", self.rng.range(0, 3));
        let labels = json!({"app": name});
        let template = json!({"metadata": {"labels": labels}, "spec": self.pod_spec("Always")});
        let object = json!({"spec": {"replicas": self.rng.range(0, 4),
            "selector": {"matchLabels": labels}, "template": template}});
        Some(self.created::<k8s_openapi::api::apps::v1::Deployment>(&name, object))
    }

    fn new_job(&mut self) -> Option<Write> {
        self.names += 1;
        let name = format!("job-{}", self.names % 3);
        let completions = self.rng.range(1, 4);
        let object = json!({"spec": {"completions": completions, "parallelism": 2,
            "backoffLimit": 1000, "template": {"spec": self.pod_spec("OnFailure")}}});
        Some(self.created::<k8s_openapi::api::batch::v1::Job>(&name, object))
    }

    fn new_pod(&mut self) -> Option<Write> {
        let name = format!("pod-{}", self.rng.range(0, 3));
        let object = json!({"spec": self.pod_spec("Always")});
        Some(self.created::<k8s_openapi::api::core::v1::Pod>(&name, object))
    }

    fn any(&mut self, group: &str, plural: &str) -> Option<Target> {
        let all = self.server.list(&warren_api::GroupResource::new(group, plural), None);
        let (key, stored) = self.rng.pick(&all)?;
        let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
        Some(Target {
            resource: Resource {
                api_version: api_version.into(),
                plural: plural.to_owned().into(),
            },
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: stored.object.str_at(&["metadata", "uid"]).to_owned(),
        })
    }

    /// Scales, or brings a new template.
    fn change(&mut self, group: &str, plural: &str) -> Option<Write> {
        let target = self.any(group, plural)?;
        let patch = if self.rng.chance(500) {
            json!({"spec": {"replicas": self.rng.range(0, 5)}})
        } else {
            json!({"spec": {"template": {"spec": self.pod_spec("Always")}}})
        };
        Some(Write::Patch { target, subresource: None, resource_version: None, patch })
    }

    fn gone(&mut self, group: &str, plural: &str) -> Option<Write> {
        let target = self.any(group, plural)?;
        let propagation = Some("Background");
        Some(Write::Delete { target, resource_version: None, grace_seconds: None, propagation })
    }
}
