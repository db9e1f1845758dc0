//! The end of a run: the cluster comes to rest, is started once more from what is on the disk, and is compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use warren_tests::Role;
use warren_tests::chaos::containers::{self, Event};
use warren_tests::chaos::{State, Violation, Written, Wrong, worlds};
use warren_tests::docker::BUSYBOX;

use super::clients::{KINDS, Kind, call, revision};
use super::follower::{Followed, states};
use crate::{AMQP_ONLY, DOCKER, LOOK, SETTLES, World};

/// Binds no pod.
const NOBODY: &str = "nobody";

impl World {
    pub async fn ending(mut self, told: &Mutex<Followed>, took: Duration) {
        let rests = self.comes_to_rest().await;
        println!("rest: {rests:?}");
        // What answers from now on was read from the disk.
        self.cluster.kill9(&Role::Apiserver);
        let check = self.on_the_database(&["check"]);
        self.cluster.start(&Role::Apiserver);
        self.cluster.wait_ready();
        let stored = self.stored().await;
        let last = self.mark("mark").await;
        self.follower_is_there(told, &last).await;

        let history = self.shared.history.lock().clone();
        let written = Written::of(&history);
        let checked = worlds::check(&history, &stored);
        let mut wrong = checked.wrong;
        let (heard, missing) = self.follower(told, &written, &stored);
        wrong.extend(heard);
        let starts = self.docker();
        wrong.extend(containers::check(&starts));

        let report = self.report(took, &written, checked.undone, missing, told, &wrong, &starts);
        println!("{report}");
        let strange = self.shared.strange.lock().clone();
        let (heard_strange, messages) = {
            let told = told.lock();
            (told.strange.clone(), told.reader.messages)
        };
        let claims = [
            (check.succeeded() && check.stdout.contains("whole"), check.told()),
            (rests.is_ok(), format!("the cluster comes to rest: {rests:?}")),
            (strange.is_empty(), format!("answers that nobody expects: {strange:#?}")),
            (heard_strange.is_empty(), format!("the follower heard {heard_strange:#?}")),
            (wrong.is_empty(), format!("{wrong:#?}")),
            (written.writes > 100, "too few writes".to_owned()),
            (messages > 100, "too few messages".to_owned()),
        ];
        let failed: Vec<_> =
            claims.into_iter().filter(|(holds, _)| !holds).map(|(_, why)| why).collect();
        // With the report: it is read where only the failure is shown.
        assert!(failed.is_empty(), "{}\n{report}", failed.join("\n"));
    }

    /// All that should run runs, once, where it should; nothing else does.
    async fn comes_to_rest(&mut self) -> Result<(), String> {
        while !self.stopped.is_empty() {
            self.supervise(&[]);
            tokio::time::sleep(LOOK).await;
        }
        let start = Instant::now();
        loop {
            self.supervise(&[]);
            match self.at_rest().await {
                Ok(()) => {
                    println!("at rest after {:?}", start.elapsed());
                    return Ok(());
                }
                Err(why) if start.elapsed() > SETTLES => return Err(why),
                Err(_) => tokio::time::sleep(LOOK * 10).await,
            }
        }
    }

    async fn at_rest(&self) -> Result<(), String> {
        let client = self.client().await;
        let list = async |path: &str| match call(&client, Method::GET, path, &Value::Null).await {
            Some((200, list)) => Ok(list["items"].as_array().cloned().unwrap_or_default()),
            other => Err(format!("{path}: {other:?}")),
        };
        let pods = list("/api/v1/pods").await?;
        let mut wanted = BTreeMap::new();
        for deployment in list(&Kind::Deployments.path()).await? {
            let name = text(&deployment["metadata"]["name"]);
            wanted.insert(name, deployment["spec"]["replicas"].as_u64().unwrap_or_default());
        }
        let mut have: BTreeMap<String, u64> = wanted.keys().map(|name| (name.clone(), 0)).collect();
        let mut uids: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in &pods {
            if pod["spec"]["nodeName"].is_null() && pod["spec"]["schedulerName"] == NOBODY {
                continue;
            }
            let meta = &pod["metadata"];
            let name = text(&meta["name"]);
            if pod["status"]["phase"] != "Running" || !meta["deletionTimestamp"].is_null() {
                let (node, status) = (&pod["spec"]["nodeName"], &pod["status"]);
                return Err(format!(
                    "{name} on {node}, deleted {}: {status}",
                    meta["deletionTimestamp"]
                ));
            }
            if let Some(app) = meta["labels"]["app"].as_str() {
                *have.entry(app.to_owned()).or_default() += 1;
            }
            uids.entry(text(&pod["spec"]["nodeName"])).or_default().push(text(&meta["uid"]));
        }
        if have != wanted {
            return Err(format!("deployments want {wanted:?} and have {have:?}"));
        }
        for node in self.cluster.node_names().into_iter().filter(|node| node != AMQP_ONLY) {
            let mut wanted = uids.remove(&node).unwrap_or_default();
            let mut runs = self.runs_on(&node)?;
            wanted.sort();
            runs.sort();
            if wanted != runs {
                return Err(format!("{node} should run {wanted:#?} and runs {runs:#?}"));
            }
        }
        DOCKER.iter().try_for_each(|node| self.containers_as_wanted(node, &pods))
    }

    /// What the node itself says, at its port, to the API server only.
    fn runs_on(&self, node: &str) -> Result<Vec<String>, String> {
        let summary = self.cluster.summary(node)?.json();
        let pods = summary["pods"].as_array().into_iter().flatten();
        Ok(pods.map(|pod| text(&pod["podRef"]["uid"])).collect())
    }

    fn containers_as_wanted(&self, node: &str, pods: &[Value]) -> Result<(), String> {
        let on = pods.iter().filter(|pod| pod["spec"]["nodeName"] == *node);
        let mut wanted: Vec<_> = on.map(|pod| text(&pod["metadata"]["uid"])).collect();
        let all = self.cluster.containers();
        let running = all.into_iter().filter(|c| c.node == node && c.running && c.name.is_some());
        let mut running: Vec<_> = running.map(|c| c.uid).collect();
        wanted.sort();
        running.sort();
        if wanted != running {
            return Err(format!(
                "containers of {wanted:#?} should run on {node}, and of {running:#?} do"
            ));
        }
        Ok(())
    }

    async fn stored(&self) -> BTreeMap<String, State> {
        let client = self.client().await;
        let mut stored = BTreeMap::new();
        for kind in KINDS {
            let (_, list) =
                self.until_answered(&client, Method::GET, &kind.path(), &Value::Null).await;
            stored.extend(states(kind, &list));
        }
        stored
    }

    async fn until_answered(
        &self,
        client: &kube::Client,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (u16, Value) {
        let start = Instant::now();
        loop {
            let answer = call(client, method.clone(), path, body).await;
            if let Some((status @ ..300, body)) = answer {
                return (status, body);
            }
            assert!(start.elapsed() < SETTLES, "{path}: {answer:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// An event in every stream, after which a reader that keeps to the rule knows what it has missed. They are objects of
    /// no client. Answers their revisions.
    async fn mark(&self, name: &str) -> Vec<u64> {
        let client = self.client().await;
        let labels = json!({"app": name});
        let metadata = json!({"name": name});
        let spec = json!({"containers": [{"name": "main", "image": BUSYBOX}]});
        let mut marks = vec![
            (Kind::ConfigMaps, json!({"metadata": metadata})),
            (
                Kind::Deployments,
                json!({"metadata": metadata, "spec": {
                    "replicas": 0, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": spec}}}),
            ),
        ];
        let mut pod = json!({"metadata": metadata, "spec": spec});
        pod["spec"]["schedulerName"] = NOBODY.into();
        marks.push((Kind::Pods, pod.clone()));
        for node in self.cluster.node_names() {
            pod["metadata"]["name"] = format!("{name}-{node}").into();
            pod["spec"]["nodeName"] = node.into();
            pod["spec"]["containers"][0]["command"] = json!(["sleep", "1000000"]);
            pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
            marks.push((Kind::Pods, pod.clone()));
        }
        let mut made = Vec::new();
        for (kind, object) in marks {
            let answer = self.until_answered(&client, Method::POST, &kind.path(), &object).await;
            made.extend(revision(&answer.1));
        }
        made
    }

    async fn follower_is_there(&self, told: &Mutex<Followed>, last: &[u64]) {
        let start = Instant::now();
        while !last.iter().all(|revision| told.lock().reader.has_heard(*revision)) {
            let waits = start.elapsed() < SETTLES;
            assert!(waits, "the follower has not heard {last:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    fn follower(
        &self,
        told: &Mutex<Followed>,
        written: &Written,
        stored: &BTreeMap<String, State>,
    ) -> (Vec<Violation>, usize) {
        let told = told.lock();
        let (mut wrong, missing) = told.reader.judge(written);
        if told.objects != *stored {
            let differ = |key: &&String| told.objects.get(*key) != stored.get(*key);
            let keys = told.objects.keys().chain(stored.keys()).filter(differ);
            for key in keys {
                let (follows, is) = (told.objects.get(key), stored.get(key));
                let what = format!("{key} is {is:?} and the follower has {follows:?}");
                wrong.push(Violation::new(Wrong::Undetected, what));
            }
        }
        for (key, token) in &told.events {
            if !written.knows(key, token) {
                let what = format!("an event says {key} = {token}, which nobody wrote");
                wrong.push(Violation::new(Wrong::Invented, what));
            }
        }
        (wrong, missing)
    }

    /// Starts and deaths in the order in which the daemon told them.
    fn docker(&self) -> Vec<Event> {
        let output = self.docker_events.output();
        let events = output.lines().filter_map(|line| {
            let event: Value = serde_json::from_str(line).ok()?;
            let attributes = &event["Actor"]["Attributes"];
            let label = |name: &str| attributes[format!("io.warren.{name}")].as_str();
            Some(Event {
                id: text(&event["Actor"]["ID"]),
                of: (label("pod.uid")?.to_owned(), label("container.name")?.to_owned()),
                starts: event["Action"] == "start",
            })
        });
        events.filter(|event| !event.of.1.is_empty()).collect()
    }

    #[expect(clippy::too_many_arguments, reason = "all that there is to tell")]
    fn report(
        &self,
        took: Duration,
        written: &Written,
        undone: usize,
        missing: usize,
        told: &Mutex<Followed>,
        wrong: &[Violation],
        starts: &[Event],
    ) -> String {
        let count = |kind: Wrong| wrong.iter().filter(|violation| violation.wrong == kind).count();
        let told = told.lock();
        let reader = &told.reader;
        let mut out = format!("--- {:.0} s\n", took.as_secs_f64());
        let faults: usize = self.injected.values().sum();
        let _ = writeln!(out, "faults: {faults}");
        for (kind, times) in &self.injected {
            let _ = writeln!(out, "  {times:4} {kind}");
        }
        let _ = writeln!(
            out,
            "writes: {} acknowledged ({undone} of them undone by {} restores), {} refused, {} without an answer",
            written.writes, self.restores, written.refused, written.unknown
        );
        let _ = writeln!(
            out,
            "lost {}, invented {}, out of order {}, undetected {}, running twice {}",
            count(Wrong::Lost),
            count(Wrong::Invented),
            count(Wrong::OutOfOrder),
            count(Wrong::Undetected),
            count(Wrong::Twice)
        );
        let _ = writeln!(
            out,
            "the follower: {} messages, {} again, {missing} missed and known to be, {} connections, lists {:?}",
            reader.messages, reader.again, told.connections, reader.relists
        );
        let started = starts.iter().filter(|event| event.starts).count();
        let _ = writeln!(out, "containers started: {started}");
        let _ = writeln!(
            out,
            "longest time without an acknowledged write: {:?}",
            self.longest_silence()
        );
        let slowest = self.outages.iter().max_by_key(|(took, _)| *took);
        if let Some((took, round)) = slowest {
            let _ = writeln!(out, "slowest to write again after a fault: {took:?}, {round}");
        }
        let _ = write!(out, "ended by themselves: {:?}", self.ended_by_themselves);
        out
    }

    fn longest_silence(&self) -> Duration {
        let acknowledged = self.shared.acknowledged.lock();
        let pairs = acknowledged.windows(2).map(|pair| pair[1].duration_since(pair[0]));
        pairs.max().unwrap_or_default()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
