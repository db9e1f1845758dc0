//! What every runtime must do: one suite, run against each implementor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;

/// What a suite runs with.
pub(crate) struct Subject {
    /// Two handles on the same node: the second stands for an agent that was started again.
    pub runtime: Arc<dyn Runtime>,
    pub again: Arc<dyn Runtime>,
    /// Another node of the same daemon.
    pub other_node: Arc<dyn Runtime>,
    /// Has `sh`, `sleep`, `echo`, `cat`.
    pub image: String,
    /// Distinguishes runs that share a daemon.
    pub tag: String,
}

impl Subject {
    fn pod(&self, name: &str) -> PodRef {
        PodRef {
            namespace: "contract".into(),
            name: name.into(),
            uid: format!("{}-{name}", self.tag).into(),
        }
    }

    fn sandbox(&self, name: &str) -> SandboxConfig {
        let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "namespace": "contract", "uid": self.pod(name).uid},
            "spec": {"containers": []},
        }))
        .unwrap();
        crate::pod::execute::sandbox_config(&pod, 0)
    }

    fn container(&self, pod: &str, name: &str, command: &[&str]) -> ContainerConfig {
        ContainerConfig {
            pod: self.pod(pod),
            name: name.into(),
            attempt: 0,
            image: self.image.as_str().into(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            args: Vec::new(),
            env: vec![("A".into(), "b".into())],
            working_dir: None,
            mounts: Vec::new(),
            limits: Limits { oom_score_adj: 1000, ..Limits::default() },
            security: Security::default(),
            stdin: false,
            stdin_once: false,
            tty: false,
            stop_signal: None,
            hash: 0xfeed_0000_0000_0001,
            termination_message: None,
            target: None,
            annotations: Arc::default(),
        }
    }

    async fn until(&self, pod: &str, what: &str, check: impl Fn(&Observed) -> bool) -> Observed {
        let uid = self.pod(pod).uid;
        let wait = async {
            loop {
                let observed = self.runtime.pod(&uid).await.unwrap();
                if check(&observed) {
                    return observed;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(30), wait).await {
            Ok(observed) => observed,
            Err(_) => panic!("{what}: {:?}", self.runtime.pod(&uid).await),
        }
    }

    async fn start(&self, sandbox: &Sandbox, config: ContainerConfig) -> Id {
        let id = self.runtime.create_container(sandbox, false, config).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    async fn remove(&self, pod: &str) {
        let observed = self.runtime.pod(&self.pod(pod).uid).await.unwrap();
        for container in &observed.containers {
            self.runtime.remove_container(&container.id).await.unwrap();
        }
        for sandbox in &observed.sandboxes {
            self.runtime.remove_sandbox(&sandbox.id).await.unwrap();
        }
    }
}

async fn text(mut stream: OutputStream) -> String {
    let mut all = Vec::new();
    while let Some(output) = stream.recv().await {
        all.extend_from_slice(&output.unwrap().data);
    }
    String::from_utf8(all).unwrap()
}

fn exit(observed: &Observed, name: &str) -> Option<Exit> {
    match &observed.container(name)?.state {
        State::Exited(exit) => Some(exit.clone()),
        _ => None,
    }
}

/// The whole suite. What it makes it removes, unless it fails.
pub(crate) async fn run(subject: &Subject) {
    version_and_images(subject).await;
    a_life(subject).await;
    ends(subject).await;
    sessions(subject).await;
    belongings(subject).await;
}

async fn version_and_images(subject: &Subject) {
    assert!(!subject.runtime.version().await.unwrap().version.is_empty());
    let runtime = &subject.runtime;
    let pulls = AtomicUsize::new(0);
    let begins = &|| {
        pulls.fetch_add(1, Ordering::Relaxed);
    };
    let there =
        runtime.ensure_image(&subject.image, PullPolicy::IfNotPresent, begins).await.unwrap();
    assert_eq!(there.took, None);
    let error =
        runtime.ensure_image("Not an image", PullPolicy::IfNotPresent, begins).await.unwrap_err();
    assert_eq!(error.waiting_reason(), "InvalidImageName");
    let missing = "missing.invalid/nothing:1";
    let error = runtime.ensure_image(missing, PullPolicy::Never, begins).await.unwrap_err();
    assert_eq!(error.waiting_reason(), "ErrImageNeverPull");
    assert_eq!(pulls.load(Ordering::Relaxed), 0, "nothing is pulled so far");
    let error = runtime.ensure_image(missing, PullPolicy::IfNotPresent, begins).await.unwrap_err();
    assert_eq!(error.waiting_reason(), "ErrImagePull", "{error}");
    assert_eq!(pulls.load(Ordering::Relaxed), 1);
}

async fn a_life(subject: &Subject) {
    let mut events = subject.runtime.events();
    let config = subject.sandbox("life");
    let sandbox = subject.runtime.create_sandbox(config.clone()).await.unwrap();
    assert!(sandbox.ready && sandbox.ip.is_some(), "{sandbox:?}");
    let same = subject.runtime.create_sandbox(config).await.unwrap();
    assert_eq!(same.id, sandbox.id, "a repeated create makes no second one");

    let config = subject.container("life", "c", &["sleep", "1000"]);
    let id = subject.runtime.create_container(&sandbox, false, config.clone()).await.unwrap();
    let same = subject.runtime.create_container(&sandbox, false, config).await.unwrap();
    assert_eq!(id, same);
    let observed = subject.runtime.pod(&subject.pod("life").uid).await.unwrap();
    let container = observed.container("c").unwrap();
    assert_eq!(container.state, State::Created);
    assert_eq!(container.hash, 0xfeed_0000_0000_0001);
    assert_eq!(container.sandbox, sandbox.id);
    subject.runtime.start_container(&id).await.unwrap();
    subject.runtime.start_container(&id).await.unwrap();
    subject.until("life", "running", |o| o.container("c").is_some_and(Container::is_running)).await;
    let told = async {
        while let Some(event) = events.recv().await {
            if event == RuntimeEvent::Pod(subject.pod("life").uid) {
                return;
            }
        }
        panic!("the events ended");
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("an event");
    subject.runtime.stats(&id).await.unwrap();

    subject.runtime.stop_container(&id, None, Duration::from_secs(1)).await.unwrap();
    let observed = subject.until("life", "stopped", |o| exit(o, "c").is_some()).await;
    let ended = exit(&observed, "c").unwrap();
    assert!(matches!(ended.code, 137 | 143), "{ended:?}");
    assert!(ended.started_at.is_some_and(|at| at <= ended.finished_at), "{ended:?}");
    subject.runtime.stop_container(&id, None, Duration::ZERO).await.unwrap();
    subject.remove("life").await;
    subject.runtime.remove_container(&id).await.unwrap();
    subject.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    assert!(subject.runtime.pod(&subject.pod("life").uid).await.unwrap().is_empty());
}

async fn ends(subject: &Subject) {
    let sandbox = subject.runtime.create_sandbox(subject.sandbox("ends")).await.unwrap();
    let config = subject.container("ends", "three", &["sh", "-c", "echo hello; exit 3"]);
    let three = subject.start(&sandbox, config).await;
    subject.start(&sandbox, subject.container("ends", "zero", &["true"])).await;
    let observed = subject
        .until("ends", "ended", |o| exit(o, "three").is_some() && exit(o, "zero").is_some())
        .await;
    let (three_exit, zero) = (exit(&observed, "three").unwrap(), exit(&observed, "zero").unwrap());
    assert_eq!((three_exit.code, &*three_exit.reason), (3, "Error"));
    assert_eq!((zero.code, &*zero.reason), (0, "Completed"));
    let logs = subject.runtime.logs(&three, LogOptions::default()).await.unwrap();
    assert_eq!(text(logs).await, "hello\n");
    let options = LogOptions { timestamps: true, limit_bytes: Some(5), ..LogOptions::default() };
    let logs = text(subject.runtime.logs(&three, options).await.unwrap()).await;
    assert!(logs.len() == 5 && logs.starts_with("20"), "{logs}");
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    assert_eq!(text(subject.runtime.logs(&three, follow).await.unwrap()).await, "hello\n");
    subject.remove("ends").await;
}

async fn sessions(subject: &Subject) {
    let sandbox = subject.runtime.create_sandbox(subject.sandbox("talk")).await.unwrap();
    let id = subject.start(&sandbox, subject.container("talk", "c", &["sleep", "1000"])).await;
    let run = |command: &[&str]| {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let (runtime, id) = (subject.runtime.clone(), id.clone());
        async move { super::run(&*runtime, &id, command, Duration::from_secs(10), 1024).await }
    };
    assert_eq!(run(&["echo", "a", "b"]).await.unwrap(), Some((0, "a b\n".into())));
    assert_eq!(run(&["sh", "-c", "exit 7"]).await.unwrap(), Some((7, String::new())));
    let options = ExecOptions { command: vec!["cat".into()], stdin: true, tty: false };
    let session = subject.runtime.exec(&id, options).await.unwrap();
    session.input.send(Input::Data("in and out".into())).await.unwrap();
    session.input.send(Input::Close).await.unwrap();
    assert_eq!(text(session.output).await, "in and out");
    assert_eq!(session.exit.await.unwrap().unwrap(), 0);
    let quick = super::run(
        &*subject.runtime,
        &id,
        vec!["sleep".into(), "1000".into()],
        Duration::from_millis(300),
        10,
    );
    assert_eq!(quick.await.unwrap(), None);
    subject.remove("talk").await;
    assert!(run(&["true"]).await.is_err(), "it is gone");
}

/// A restarted agent finds its own, and nobody else's.
async fn belongings(subject: &Subject) {
    let sandbox = subject.runtime.create_sandbox(subject.sandbox("own")).await.unwrap();
    subject.start(&sandbox, subject.container("own", "c", &["sleep", "1000"])).await;
    let own = subject.pod("own");
    let found = subject.again.pods().await.unwrap();
    let (_, observed) = found.iter().find(|(pod, _)| *pod == own).expect("found again");
    assert!(observed.container("c").unwrap().is_running());
    assert!(!subject.other_node.pods().await.unwrap().iter().any(|(pod, _)| *pod == own));
    assert!(subject.other_node.pod(&own.uid).await.unwrap().is_empty());
    // The sandbox goes with what runs in it; the containers' remains stay for their logs.
    subject.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    let observed = subject.until("own", "ended", |o| exit(o, "c").is_some()).await;
    assert!(observed.sandboxes.is_empty());
    subject.remove("own").await;
    assert!(subject.again.pod(&own.uid).await.unwrap().is_empty());
}
