//! `warren status`: what works, and what does not.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::{Connection, ConnectionArgs};

/// Controllers that run have looked at everything within this.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Good,
    /// Somebody should look at it some time; nothing is degraded.
    Note,
    Bad,
}

impl Mark {
    fn of(good: bool) -> Self {
        if good { Mark::Good } else { Mark::Bad }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Line {
    mark: Mark,
    name: String,
    text: String,
}

impl Line {
    fn new(mark: Mark, name: &str, text: impl Into<String>) -> Self {
        Self { mark, name: name.to_owned(), text: text.into() }
    }
}

/// Answers whether all is well.
pub(crate) async fn run(args: &Args) -> Result<bool> {
    let connection = Connection::open(&args.connection).await?;
    let (code, ready) = connection.text("/readyz?verbose").await?;
    let version = connection.get("/version").await?;
    let mut lines = vec![Line::new(
        Mark::of(code.is_success()),
        "api",
        format!(
            "{}, {}",
            version["gitVersion"].as_str().unwrap_or("of an unknown version"),
            if code.is_success() { "ready" } else { "not ready" }
        ),
    )];
    lines.extend(checks(&ready));
    lines.extend(nodes(&connection.get("/api/v1/nodes").await?));
    lines.extend(pods(&connection.get("/api/v1/pods").await?));
    lines.extend(controllers(&connection).await?);
    for line in table(&lines) {
        crate::say!("{line}");
    }
    Ok(lines.iter().all(|line| line.mark != Mark::Bad))
}

/// As wide as the longest name that is there when all is well, so that nothing moves when it is not.
const NAME_WIDTH: usize = "dead-letters".len();

/// In three columns.
fn table(lines: &[Line]) -> Vec<String> {
    let each = lines.iter().map(|Line { mark, name, text }| {
        let mark = match mark {
            Mark::Good => "ok  ",
            Mark::Note => "note",
            Mark::Bad => "BAD ",
        };
        format!("{mark}  {name:NAME_WIDTH$}  {text}").trim_end().to_owned()
    });
    each.collect()
}

/// What controllers and the scheduler have not looked at a moment later either. They are no servers that could be asked.
async fn controllers(connection: &Connection) -> Result<Option<Line>> {
    let mut waiting = unseen_of_all(connection).await?;
    if !waiting.is_empty() {
        tokio::time::sleep(PATIENCE).await;
        let still = unseen_of_all(connection).await?;
        waiting.retain(|object| still.contains(object));
    }
    let Some(((_, first), others)) = waiting.split_first() else { return Ok(None) };
    let others = match others.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let text = format!("nobody looks at {first}{others}; do `warren controllers` run?");
    Ok(Some(Line::new(Mark::Bad, "controllers", text)))
}

/// Uid and generation, and what people call it.
type Unseen = ((String, u64), String);

async fn unseen_of_all(connection: &Connection) -> Result<Vec<Unseen>> {
    let mut found = Vec::new();
    for (kind, path) in [
        ("deployment", "/apis/apps/v1/deployments"),
        ("replicaset", "/apis/apps/v1/replicasets"),
        ("pod", "/api/v1/pods?fieldSelector=spec.nodeName%3D"),
    ] {
        found.extend(unseen(kind, &connection.get(path).await?));
    }
    Ok(found)
}

fn unseen(kind: &str, list: &Value) -> Vec<Unseen> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_unseen = |object: &&Value| {
        if kind == "pod" {
            // The scheduler notes its verdict, whatever it is.
            return object["spec"]["nodeName"].is_null()
                && object["spec"]["schedulingGates"].is_null()
                && object["status"]["conditions"].is_null();
        }
        object["metadata"]["generation"].as_u64() > object["status"]["observedGeneration"].as_u64()
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let unseen = items.iter().filter(is_unseen).map(|object| {
        let meta = &object["metadata"];
        let id = (text(&meta["uid"]), meta["generation"].as_u64().unwrap_or(0));
        (id, format!("{kind} {}/{}", text(&meta["namespace"]), text(&meta["name"])))
    });
    unseen.collect()
}

/// `[+]name ok`, `[+]name ok: text`, `[+]name noted: text`, `[+]name degraded: text` and `[-]name failed: text`, one a line.
fn checks(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let text = line.strip_prefix("[+]").or_else(|| line.strip_prefix("[-]"))?;
        let (name, state) = text.trim().split_once(' ')?;
        let (state, why) = state.split_once(": ").unwrap_or((state, ""));
        let mark = match state {
            "noted" => Mark::Note,
            state => Mark::of(state == "ok" && line.starts_with("[+]")),
        };
        Some(Line::new(mark, name, why))
    };
    text.lines().filter_map(line).collect()
}

fn nodes(list: &Value) -> Vec<Line> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let condition = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == "Ready")
    };
    let mut ready = 0;
    let mut bad = Vec::new();
    for node in items {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        match condition(node) {
            Some(condition) if condition["status"] == "True" => ready += 1,
            Some(condition) => {
                let message = condition["message"].as_str().unwrap_or_default();
                let text = format!("{name} is not ready: {message}");
                bad.push(Line::new(Mark::Bad, "node", text));
            }
            None => {
                bad.push(Line::new(Mark::Bad, "node", format!("{name} has not reported yet")));
            }
        }
    }
    let summary = format!("{ready} of {} ready", items.len());
    let mut lines = vec![Line::new(Mark::of(ready > 0 && bad.is_empty()), "nodes", summary)];
    lines.extend(bad);
    lines
}

/// Counts only; a pod that waits or failed is its owner's affair and no fault of the cluster.
fn pods(list: &Value) -> Option<Line> {
    let items = list["items"].as_array()?;
    let mut phases = std::collections::BTreeMap::<&str, usize>::new();
    for pod in items {
        *phases.entry(pod["status"]["phase"].as_str().unwrap_or("Unknown")).or_default() += 1;
    }
    let phases: Vec<_> = phases.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    let text = if phases.is_empty() { "none".to_owned() } else { phases.join(", ") };
    Some(Line::new(Mark::Good, "pods", text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn degraded_parts_are_named() {
        let text = "[+]database ok\n[+]leader ok: a/b: x leads, term 3\n[+]dead-letters noted: 3 wait\n\
                    [+]broker degraded: disconnected for 3s: refused\n[-]disk failed: full\nreadyz check failed\n";
        let expected = "ok    database
ok    leader        a/b: x leads, term 3
note  dead-letters  3 wait
BAD   broker        disconnected for 3s: refused
BAD   disk          full";
        assert_eq!(table(&checks(text)).join("\n"), expected);
        let node = |name: &str, status: &str| {
            json!({"metadata": {"name": name}, "status": {"conditions": [
                {"type": "Ready", "status": status, "message": "no heartbeat"}]}})
        };
        let list = json!({"items": [node("a", "True"), node("b", "Unknown")]});
        let expected = [
            "BAD   nodes         1 of 2 ready",
            "BAD   node          b is not ready: no heartbeat",
        ];
        assert_eq!(table(&nodes(&list)), expected);
        let empty = nodes(&json!({"items": []}));
        assert_eq!(empty[0].mark, Mark::Bad, "a cluster without nodes runs nothing");
    }

    #[test]
    fn what_no_controller_has_looked_at() {
        let of = |generation: u64, observed: Value| {
            json!({"metadata": {"name": "web", "namespace": "a", "uid": "u", "generation": generation},
                   "status": {"observedGeneration": observed}})
        };
        let list = json!({"items": [of(2, 2.into()), of(3, 2.into()), of(1, Value::Null)]});
        let found: Vec<_> = unseen("deployment", &list).into_iter().map(|(id, _)| id.1).collect();
        assert_eq!(found, [3, 1]);
        let pod = |spec: Value, conditions: Value| {
            json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec,
                   "status": {"conditions": conditions}})
        };
        let list = json!({"items": [
            pod(json!({}), Value::Null),
            pod(json!({}), json!([{"type": "PodScheduled", "status": "False"}])),
            pod(json!({"nodeName": "n"}), Value::Null),
            pod(json!({"schedulingGates": [{"name": "g"}]}), Value::Null),
        ]});
        let found: Vec<_> = unseen("pod", &list).into_iter().map(|(_, name)| name).collect();
        assert_eq!(found, ["pod a/p"]);
    }
}
