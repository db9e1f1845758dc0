//! `warren status`: what works, and what does not.

use anyhow::Result;
use serde_json::Value;

use super::{Connection, ConnectionArgs};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What a healthy thing and a degraded one look like on the page.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    good: bool,
    text: String,
}

/// Answers whether all is well.
pub(crate) async fn run(args: &Args) -> Result<bool> {
    let connection = Connection::open(&args.connection).await?;
    let (code, ready) = connection.text("/readyz?verbose").await?;
    let version = connection.get("/version").await?;
    let mut lines = vec![Line {
        good: code.is_success(),
        text: format!(
            "api {}: {}",
            version["gitVersion"].as_str().unwrap_or("of an unknown version"),
            if code.is_success() { "ready" } else { "not ready" }
        ),
    }];
    lines.extend(checks(&ready));
    lines.extend(nodes(&connection.get("/api/v1/nodes").await?));
    lines.extend(pods(&connection.get("/api/v1/pods").await?));
    for line in &lines {
        crate::say!("{} {}", if line.good { "ok  " } else { "BAD " }, line.text);
    }
    Ok(lines.iter().all(|line| line.good))
}

/// `[+]name ok`, `[+]name degraded: reason` and `[-]name failed: reason`, one a line.
fn checks(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let good = line.starts_with("[+]") && !line.contains(" degraded");
        let text = line.strip_prefix("[+]").or_else(|| line.strip_prefix("[-]"))?;
        Some(Line { good, text: text.trim().to_owned() })
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
            Some(condition) => bad.push(Line {
                good: false,
                text: format!(
                    "node {name}: not ready: {}",
                    condition["message"].as_str().unwrap_or_default()
                ),
            }),
            None => {
                bad.push(Line { good: false, text: format!("node {name}: has not reported yet") })
            }
        }
    }
    let summary = format!("nodes: {ready} of {} ready", items.len());
    let mut lines = vec![Line { good: ready > 0 && bad.is_empty(), text: summary }];
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
    Some(Line { good: true, text: format!("pods: {text}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn degraded_parts_are_named() {
        let text = "[+]ping ok\n[+]disk degraded: slow\n[-]broker failed: connection refused\nreadyz check failed\n";
        let found: Vec<_> = checks(text).into_iter().map(|l| (l.good, l.text)).collect();
        let expected = [
            (true, "ping ok".to_owned()),
            (false, "disk degraded: slow".to_owned()),
            (false, "broker failed: connection refused".to_owned()),
        ];
        assert_eq!(found, expected);
        let node = |name: &str, status: &str| {
            json!({"metadata": {"name": name}, "status": {"conditions": [
                {"type": "Ready", "status": status, "message": "no heartbeat"}]}})
        };
        let list = json!({"items": [node("a", "True"), node("b", "Unknown")]});
        let found: Vec<_> = nodes(&list).into_iter().map(|line| line.text).collect();
        assert_eq!(found, ["nodes: 1 of 2 ready", "node b: not ready: no heartbeat"]);
        assert!(!nodes(&json!({"items": []}))[0].good, "a cluster without nodes runs nothing");
    }
}
