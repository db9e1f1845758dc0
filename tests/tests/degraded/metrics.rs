//! docs/metrics.md names every metric that is served, and no other; the benchmark asks for none but these.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{World, metrics_named};

/// Name and kind, as a page of metrics gives them: counters with `_total`, whichever text form it is.
fn served(page: &str) -> BTreeMap<String, String> {
    let each = page.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        let name = match kind {
            "counter" => format!("{}_total", name.trim_end_matches("_total")),
            _ => name.to_owned(),
        };
        Some((name, kind.to_owned()))
    });
    each.collect()
}

async fn of_controllers(port: u16) -> String {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}

/// The metrics that stand as literals in a folder's sources.
fn asked_for(folder: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(asked_for(&path));
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let literals = source.split('"').filter(|literal| {
            let prefixed = literal.starts_with("warren_") || literal.starts_with("apiserver_");
            prefixed && literal.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())
        });
        all.extend(literals.map(str::to_owned));
    }
    all
}

pub async fn all_are_in_the_page(world: &World) {
    let server = world.get("/metrics").await;
    let node = world.get("/api/v1/nodes/node-1/proxy/metrics").await;
    let controllers = of_controllers(world.controllers).await;
    let mut seen: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (who, page) in [("server", &server), ("agent", &node), ("controllers", &controllers)] {
        let all = served(page);
        assert!(all.len() > 10, "{who}: {page}");
        for (name, kind) in all {
            let (said, by) = seen.entry(name.clone()).or_insert((kind.clone(), String::new()));
            assert_eq!(*said, kind, "{name}");
            by.push_str(if by.is_empty() { "" } else { ", " });
            by.push_str(who);
        }
    }
    let text = include_str!("../../../docs/metrics.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`').to_owned();
        let (kind, by) = (cells.next()?.to_owned(), cells.next()?.to_owned());
        let [unit, meaning] = [cells.next()?, cells.next()?];
        assert!(!unit.is_empty() && meaning.len() > 10, "{line}");
        Some((name, (kind, by)))
    });
    let told: BTreeMap<String, (String, String)> = rows.collect();
    let row = |(name, (kind, by)): (&String, &(String, String))| {
        format!("| `{name}` | {kind} | {by} | … | … |")
    };
    let missing: Vec<_> =
        seen.iter().filter(|one| told.get(one.0) != Some(one.1)).map(row).collect();
    let gone: Vec<_> = told.iter().filter(|one| seen.get(one.0) != Some(one.1)).map(row).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "docs/metrics.md lacks\n{}\nand says what is not so\n{}",
        missing.join("\n"),
        gone.join("\n")
    );

    let asked = asked_for(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bench"));
    assert!(asked.contains("warren_relay_cursor"), "{asked:?}");
    let unknown: Vec<_> = asked.iter().filter(|name| !seen.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "the benchmark reads {unknown:?}, which nobody serves");

    // Of what was written to bring the cluster up.
    for name in [
        "warren_fabric_published_total",
        "warren_fabric_confirmed_total",
        "warren_fabric_confirm_seconds_count",
    ] {
        assert!(metrics_named(&server, name)[0].1 >= 20.0, "{name}");
    }
    let relists = metrics_named(&node, "warren_fabric_relists_total");
    assert!(relists.contains(&(r#"{reason="start"}"#.to_owned(), 1.0)), "{relists:?}");
    assert_eq!(metrics_named(&node, "warren_fabric_prefetch"), [(String::new(), 256.0)]);
    assert!(metrics_named(&node, "warren_fabric_events_total")[0].1 >= 2.0);
    assert_eq!(metrics_named(&controllers, "warren_leader_leads"), [(String::new(), 1.0)]);
    assert_eq!(metrics_named(&controllers, "warren_leader_term"), [(String::new(), 1.0)]);
    assert_eq!(
        metrics_named(&controllers, "warren_leader_takeovers_total"),
        [(String::new(), 1.0)]
    );
}
