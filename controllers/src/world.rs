//! A model of the API for tests: objects in memory, writes with their preconditions, a clock that is moved by hand, and
//! a kubelet that runs whatever is bound.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::plan::{Plan, Target, Write, controller_of};
use crate::{deployment, job, replicaset};

type Address = (String, String, String);

pub(crate) struct World {
    pub now: Timestamp,
    pub objects: BTreeMap<Address, Value>,
    revision: u64,
    /// Pods of these names never become ready.
    pub broken: fn(&Pod) -> bool,
    /// How the containers of a Job's pod end.
    pub outcome: fn(&Pod) -> Option<&'static str>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Refused {
    Exists,
    Conflict,
}

impl World {
    pub fn new() -> Self {
        Self {
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            objects: BTreeMap::new(),
            revision: 0,
            broken: |_| false,
            outcome: |_| None,
        }
    }

    pub fn get<K: kube::Resource<DynamicType = ()> + DeserializeOwned>(&self, name: &str) -> K {
        let address = (K::plural(&()).into_owned(), "default".to_owned(), name.to_owned());
        serde_json::from_value(self.objects[&address].clone()).unwrap()
    }

    pub fn list<K: kube::Resource<DynamicType = ()> + DeserializeOwned>(&self) -> Vec<Arc<K>> {
        let plural = K::plural(&());
        let of = self.objects.iter().filter(|((p, ..), _)| *p == plural);
        of.map(|(_, value)| Arc::new(serde_json::from_value(value.clone()).unwrap())).collect()
    }

    pub fn pods_of(&self, uid: &str) -> Vec<Arc<Pod>> {
        let of = |pod: &Arc<Pod>| controller_of(&pod.metadata).is_some_and(|o| o.uid == uid);
        self.list::<Pod>().into_iter().filter(of).collect()
    }

    pub fn put(&mut self, plural: &str, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.revision));
            object["metadata"]["creationTimestamp"] = json!(self.now.to_string());
            object["metadata"]["namespace"] = json!("default");
            object["metadata"]["generation"] = json!(1);
        }
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.objects.insert((plural.to_owned(), "default".to_owned(), name), object);
    }

    /// Changes an object as a user would.
    pub fn edit(&mut self, plural: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let address = (plural.to_owned(), "default".to_owned(), name.to_owned());
        let mut object = self.objects[&address].clone();
        let spec = object["spec"].clone();
        change(&mut object);
        if object["spec"] != spec {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        self.put(plural, object);
    }

    pub fn apply(&mut self, write: &Write) -> Result<(), Refused> {
        match write {
            Write::Create { resource, namespace, object } => {
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                let address = (resource.plural.to_string(), namespace.clone(), name);
                if self.objects.contains_key(&address) {
                    return Err(Refused::Exists);
                }
                self.put(&resource.plural, object.clone());
            }
            Write::Patch { target, patch, .. } => {
                let name = self.check(target)?;
                self.edit(&target.resource.plural, &name, |object| merge(object, patch));
            }
            Write::Replace { target, object, .. } => {
                self.check(target)?;
                self.put(&target.resource.plural, object.clone());
            }
            Write::Delete { target, grace_seconds, .. } => {
                let Ok(name) = self.check(target) else { return Ok(()) };
                let plural = target.resource.plural.to_string();
                let address = (plural.clone(), "default".to_owned(), name.clone());
                let object = &self.objects[&address];
                let graceful = plural == "pods"
                    && *grace_seconds != Some(0)
                    && !object["spec"]["nodeName"].is_null();
                let held =
                    object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
                if graceful || held {
                    let now = self.now.to_string();
                    self.edit(&plural, &name, |o| o["metadata"]["deletionTimestamp"] = json!(now));
                } else {
                    self.objects.remove(&address);
                }
            }
        }
        Ok(())
    }

    fn check(&self, target: &Target) -> Result<String, Refused> {
        let address =
            (target.resource.plural.to_string(), target.namespace.clone(), target.name.clone());
        let object = self.objects.get(&address).ok_or(Refused::Conflict)?;
        let same = object["metadata"]["uid"] == json!(target.uid);
        same.then(|| target.name.clone()).ok_or(Refused::Conflict)
    }

    pub fn carry_out(&mut self, plan: &Plan) {
        for step in &plan.steps {
            if self.apply(&step.write).is_err() {
                return;
            }
        }
    }

    pub fn plan_deployment(&self, deployment: &Deployment) -> Plan {
        let replica_sets = self.list::<ReplicaSet>();
        let pods: Vec<_> = replica_sets
            .iter()
            .flat_map(|rs| self.pods_of(rs.metadata.uid.as_deref().unwrap()))
            .collect();
        let snapshot =
            deployment::Snapshot { deployment, replica_sets: &replica_sets, pods: &pods };
        deployment::decide(self.now, &snapshot)
    }

    pub fn plan_replica_set(&self, replica_set: &ReplicaSet) -> Plan {
        let all = self.list::<Pod>();
        let taken = |name: &str| all.iter().any(|pod| pod.metadata.name.as_deref() == Some(name));
        let snapshot = replicaset::Snapshot {
            replica_set,
            pods: &all,
            siblings_on: &Default::default(),
            taken: &taken,
        };
        replicaset::decide(self.now, &snapshot)
    }

    /// One turn of every controller and of the kubelet. Whether anything changed.
    pub fn turn(&mut self) -> bool {
        let before = self.revision;
        for deployment in self.list::<Deployment>() {
            let plan = self.plan_deployment(&deployment);
            self.carry_out(&plan);
        }
        for rs in self.list::<ReplicaSet>() {
            let plan = self.plan_replica_set(&rs);
            self.carry_out(&plan);
        }
        for job in self.list::<Job>() {
            let pods = self.pods_of(job.metadata.uid.as_deref().unwrap());
            let all = self.list::<Pod>();
            let taken =
                |name: &str| all.iter().any(|pod| pod.metadata.name.as_deref() == Some(name));
            let plan =
                job::decide(self.now, &job::Snapshot { job: &job, pods: &pods, taken: &taken });
            self.carry_out(&plan);
        }
        self.kubelet();
        self.revision != before
    }

    /// Runs what there is, one step of one pod each.
    pub fn kubelet(&mut self) {
        for pod in self.list::<Pod>() {
            let name = pod.metadata.name.clone().unwrap();
            let address = ("pods".to_owned(), "default".to_owned(), name.clone());
            let finalizers = pod.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty());
            let finished = matches!(crate::pods::phase(&pod), "Succeeded" | "Failed");
            let now = self.now.to_string();
            if pod.metadata.deletion_timestamp.is_some() {
                if !finalizers {
                    self.objects.remove(&address);
                    self.revision += 1;
                } else if !finished {
                    self.edit("pods", &name, |pod| pod["status"] = json!({"phase": "Failed"}));
                }
            } else if pod.spec.as_ref().unwrap().node_name.is_none() {
                self.edit("pods", &name, |pod| pod["spec"]["nodeName"] = json!("n1"));
            } else if crate::pods::phase(&pod) == "Pending" {
                let ready = if (self.broken)(&pod) { "False" } else { "True" };
                self.edit("pods", &name, |pod| {
                    pod["status"] = json!({"phase": "Running", "conditions": [
                        {"type": "Ready", "status": ready, "lastTransitionTime": now}]});
                });
            } else if let Some(phase) = (self.outcome)(&pod)
                && !finished
            {
                self.edit("pods", &name, |pod| pod["status"] = json!({"phase": phase}));
            }
        }
    }

    /// Turns until nothing changes; panics where that never comes.
    pub fn settle(&mut self) {
        for _ in 0..500 {
            if !self.turn() {
                return;
            }
            self.now += SignedDuration::from_secs(1);
        }
        panic!("the world does not settle");
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let into = into.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            into.remove(key);
        } else {
            merge(into.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
