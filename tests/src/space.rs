//! A namespace of a cluster that several tests share.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value;

use crate::cluster::{Cluster, Options, Runtime, SOON};
use crate::kubectl::{self, Output};
use crate::running::Running;
use crate::wait::{until, until_some};

/// Goes with all that is in it when dropped.
pub struct Space {
    pub cluster: Arc<Cluster>,
    pub name: String,
}

impl Space {
    /// A namespace of one cluster over Docker, which is there for as long as a test of this process uses it.
    pub fn on_docker(name: &str) -> Self {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = shared.upgrade().unwrap_or_else(|| {
            let options = Options { runtime: Runtime::Docker, ..Options::default() };
            let cluster = Arc::new(Cluster::up(options));
            *shared = Arc::downgrade(&cluster);
            cluster
        });
        drop(shared);
        Self::of(cluster, name)
    }

    pub fn of(cluster: Arc<Cluster>, name: &str) -> Self {
        cluster.kubectl(["create", "namespace", name]).ok();
        Self { cluster, name: name.to_owned() }
    }

    /// Runs `kubectl` in the namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        kubectl::run(self.command(arguments), None)
    }

    /// Words are separated by blanks.
    pub fn line(&self, line: &str) -> Output {
        self.kubectl(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// With something on its standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        kubectl::run(self.command(arguments), Some(input))
    }

    pub fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = kubectl::command(&self.cluster.kubeconfig());
        command.args(["-n", &self.name]).args(arguments);
        command
    }

    /// A `kubectl` that goes on until dropped.
    pub fn going_on(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null());
        self.cluster.going_on(command)
    }

    /// The same, with [`Running::say`].
    pub fn talking(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        self.cluster.going_on(command)
    }

    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        self.kubectl_with(&["apply", "-f", "-"], manifest).ok();
    }

    #[track_caller]
    pub fn object(&self, kind: &str, name: &str) -> Option<Value> {
        self.cluster.object(kind, &self.name, name)
    }

    /// Waits until a pod is as wished.
    #[track_caller]
    pub fn pod(&self, name: &str, mut wished: impl FnMut(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let start = std::time::Instant::now();
        loop {
            if let Some(pod) = self.object("pod", name) {
                if wished(&pod) {
                    return pod;
                }
                last = pod;
            }
            assert!(start.elapsed() < SOON, "pod {name} is not as wished: {:#}", last["status"]);
            crate::wait::nap();
        }
    }

    /// Waits until a pod is Ready.
    #[track_caller]
    pub fn ready(&self, name: &str) -> Value {
        self.pod(name, is_ready)
    }

    /// Waits until a pod has succeeded or failed.
    #[track_caller]
    pub fn ended(&self, name: &str) -> Value {
        self.pod(name, |pod| {
            matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        })
    }

    #[track_caller]
    pub fn gone(&self, kind: &str, name: &str) {
        until(&format!("{kind} {name} is gone"), SOON, || self.object(kind, name).is_none());
    }

    /// What a shell in a pod's first container prints; `pod` may be `pod -c container`.
    pub fn sh(&self, pod: &str, script: &str) -> Output {
        let mut arguments = vec!["exec"];
        arguments.extend(pod.split_whitespace());
        arguments.extend(["--", "sh", "-c", script]);
        self.kubectl(&arguments)
    }

    /// Messages of the Events about an object, with this reason.
    #[track_caller]
    pub fn events(&self, name: &str, reason: &str) -> Vec<String> {
        let events = self.cluster.objects("events", &self.name);
        let about = events
            .iter()
            .filter(|e| e["involvedObject"]["name"] == name && e["reason"] == reason)
            .map(|e| e["message"].as_str().unwrap_or_default().to_owned());
        about.collect()
    }

    /// Waits for an Event whose message contains this.
    #[track_caller]
    pub fn event(&self, name: &str, reason: &str, text: &str) {
        let what = format!("an Event {reason} of {name} with {text:?}");
        until_some(&what, SOON, || {
            self.events(name, reason).iter().any(|message| message.contains(text)).then_some(())
        });
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in ["pods", "events"] {
                eprintln!("--- {what} of {}\n{}", self.name, self.kubectl(&["get", what]).stdout);
            }
        }
        // Its pods end while other tests run; what is left goes with the cluster.
        self.cluster.kubectl(["delete", "namespace", &self.name, "--wait=false"]);
    }
}

pub fn is_ready(object: &Value) -> bool {
    condition(object, "Ready") == "True"
}

/// The status of a condition; empty where there is none.
pub fn condition<'a>(object: &'a Value, name: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == name);
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}

/// The status of a container of a pod, init containers too.
pub fn status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let of = |field: &str| pod["status"][field].as_array().into_iter().flatten();
    let all = of("initContainerStatuses").chain(of("containerStatuses"));
    all.into_iter().find(|s| s["name"] == name).unwrap_or(&Value::Null)
}
