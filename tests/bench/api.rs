//! The API by itself: no broker, no controllers, no agent.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};

use crate::Scale;
use crate::figure::{Figure, Sample, millis};
use crate::load::Client;
use crate::pod;
use crate::server::Server;

pub const CONNECTIONS: usize = 8;
pub const IN_FLIGHT: usize = 32;
const PODS: &str = "/api/v1/namespaces/default/pods";

pub fn creates(
    client: &Client,
    prefix: &str,
    count: usize,
    node: impl Fn(usize) -> Option<String>,
) -> Vec<Request<Full<Bytes>>> {
    (0..count)
        .map(|n| client.post(PODS, pod::pod(&pod::name(prefix, n), node(n).as_deref())))
        .collect()
}

/// Creates, each on disk before its answer.
pub async fn create(scale: &Scale) -> Result<Vec<Figure>> {
    let server = Server::start(&["apiserver"]).await?;
    let client = server.client(CONNECTIONS).await?;
    // The first requests find everything cold.
    client.closed_loop(creates(&client, "warm-", 200, |_| None), IN_FLIGHT).await?;
    let mut runs = Vec::new();
    let cpu = server.cpu_seconds()?;
    for run in 0..scale.runs {
        let requests = creates(&client, &format!("r{run}-"), scale.creates, |_| None);
        runs.push(client.closed_loop(requests, IN_FLIGHT).await?);
    }
    let micros = (server.cpu_seconds()? - cpu) * 1e6 / (scale.runs * scale.creates) as f64;
    let bytes = client.ok(client.get(&format!("{PODS}/r0-000000"))).await?.len();
    let what = format!("create, durable, embedded ({IN_FLIGHT} in flight, {CONNECTIONS} TLS)");
    let note = format!("{bytes} B stored; server CPU {micros:.0} µs each");
    let mut one = Vec::new();
    let alone = server.client(1).await?;
    for run in 0..scale.runs {
        let requests = creates(&alone, &format!("one{run}-"), scale.creates / 10, |_| None);
        one.push(alone.closed_loop(requests, 1).await?);
    }
    Ok(vec![
        Figure::of_rates("create", what, "1/s", &runs).note(note),
        Figure::of_rates("create", "create, one at a time", "1/s", &one),
    ])
}

/// What is read and watched, on one server with many pods.
pub async fn loaded(scale: &Scale) -> Result<Vec<Figure>> {
    let mut server = Server::start(&["apiserver"]).await?;
    let client = server.client(CONNECTIONS).await?;
    client.closed_loop(creates(&client, "p-", scale.pods, |_| None), IN_FLIGHT).await?;
    let mut figures = Vec::new();
    if scale.wants("patch") {
        figures.push(patch(scale, &client).await?);
    }
    if scale.wants("get") {
        figures.push(get(scale, &client).await?);
    }
    if scale.wants("list") {
        figures.push(list(scale, &server).await?);
    }
    if scale.wants("watcher") {
        figures.push(watcher(scale, &server, &client).await?);
    }
    if scale.wants("watch") {
        figures.push(watchers(scale, &server, &client).await?);
    }
    if scale.wants("memory") {
        let (rss, pss) = server.memory()?;
        let what = format!("server, {} pods, after the load", scale.pods);
        let note = format!("RSS {rss:.1}, PSS {pss:.1}");
        figures.push(Figure::new("memory", what, pss, "MB PSS").note(note));
    }
    drop(client);
    if scale.wants("startup") {
        let mut times = Vec::new();
        for _ in 0..scale.starts {
            times.push(server.restart().await?);
        }
        let what = format!("API ready after start, {} pods stored", scale.pods);
        figures.push(Figure::of_times("startup", what, times));
    }
    if scale.wants("memory") {
        server.restart().await?;
        let (rss, pss) = server.memory()?;
        let what = format!("server, {} pods, just started", scale.pods);
        let note = format!("RSS {rss:.1}, PSS {pss:.1}");
        figures.push(Figure::new("memory", what, pss, "MB PSS").note(note));
    }
    server.stop().await?;
    Ok(figures)
}

async fn patch(scale: &Scale, client: &Client) -> Result<Figure> {
    let mut runs = Vec::new();
    for run in 0..scale.runs {
        let body = Bytes::from(format!("{{\"metadata\":{{\"labels\":{{\"run\":\"r{run}\"}}}}}}"));
        let requests = (0..scale.patches)
            .map(|n| {
                let path = format!("{PODS}/{}", pod::name("p-", n));
                client.request(Method::PATCH, &path, "application/merge-patch+json", body.clone())
            })
            .collect();
        runs.push(client.closed_loop(requests, IN_FLIGHT).await?);
    }
    let what = format!("merge-patch a label on {} pods", scale.patches);
    Ok(Figure::of_rates("patch", what, "1/s", &runs))
}

async fn get(scale: &Scale, client: &Client) -> Result<Figure> {
    let mut runs = Vec::new();
    for _ in 0..scale.runs {
        let path = |n| format!("{PODS}/{}", pod::name("p-", n % scale.pods));
        let requests = (0..scale.gets).map(|n| client.get(&path(n * 7))).collect();
        runs.push(client.closed_loop(requests, IN_FLIGHT).await?);
    }
    Ok(Figure::of_rates("get", "GET one pod", "1/s", &runs))
}

async fn list(scale: &Scale, server: &Server) -> Result<Figure> {
    let client = server.client(1).await?;
    let requests = |n| (0..n).map(|_| client.get(PODS)).collect();
    client.closed_loop(requests(1), 1).await?;
    let mut runs = Vec::new();
    for _ in 0..scale.runs {
        runs.push(client.closed_loop(requests(scale.lists), 1).await?);
    }
    let speeds: Vec<f64> = runs.iter().map(Sample::gigabytes_per_second).collect();
    let megabytes = runs[0].bytes as f64 / runs[0].count as f64 / 1e6;
    let speed = crate::figure::median(&speeds);
    let what = format!("LIST {} pods ({megabytes:.1} MB)", scale.pods);
    Ok(Figure::of_rates("list", what, "1/s", &runs).note(format!("{speed:.2} GB/s")))
}

/// From the sending of a write until one HTTP watcher has its event.
async fn watcher(scale: &Scale, server: &Server, client: &Client) -> Result<Figure> {
    let watching = server.client(1).await?;
    let path = format!("{PODS}?watch=true&resourceVersion={}", revision(&watching).await?);
    let mut body = watching.start(watching.get(&path)).await?.into_body();
    let sent = RefCell::new(vec![None; scale.writes]);
    let requests = creates(client, "w-", scale.writes, |_| None);
    let write = client.paced(requests, IN_FLIGHT, scale.per_second, |n| {
        sent.borrow_mut()[n] = Some(Instant::now());
    });
    let read = async {
        let (mut times, mut line) = (Vec::new(), Vec::new());
        while times.len() < scale.writes {
            let Some(frame) = body.frame().await else { break };
            let Ok(data) = frame?.into_data() else { continue };
            let now = Instant::now();
            line.extend_from_slice(&data);
            while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let number = pod::number_in(&line[..end], "w-");
                let at = number.and_then(|n| sent.borrow().get(n).copied().flatten());
                times.extend(at.map(|at| now - at));
                line.drain(..=end);
            }
        }
        ensure!(times.len() == scale.writes, "the watch ended after {} events", times.len());
        Ok(times)
    };
    let (written, times) = futures::future::try_join(write, read).await?;
    let what = format!("write → one HTTP watcher, {:.0} writes/s", scale.per_second);
    let note = format!("{:.0}/s written", written.rate());
    Ok(Figure::of_times("watcher", what, times).note(note))
}

/// Many watchers, each of which gets every event.
async fn watchers(scale: &Scale, server: &Server, client: &Client) -> Result<Figure> {
    let watching = server.client(CONNECTIONS).await?;
    let path = format!("{PODS}?watch=true&resourceVersion={}", revision(&watching).await?);
    let mut runs = Vec::new();
    let mut bodies = Vec::new();
    for _ in 0..scale.watchers {
        bodies.push(watching.start(watching.get(&path)).await?.into_body());
    }
    for run in 0..scale.runs {
        let started = Instant::now();
        let requests = creates(client, &format!("e{run}-"), scale.events, |_| None);
        let write = client.closed_loop(requests, IN_FLIGHT);
        let read = try_join_all(bodies.iter_mut().map(async |body| {
            let (mut events, mut bytes) = (0, 0);
            while events < scale.events {
                let Some(frame) = body.frame().await else { break };
                let Ok(data) = frame?.into_data() else { continue };
                bytes += data.len() as u64;
                events += data.iter().filter(|byte| **byte == b'\n').count();
            }
            ensure!(events == scale.events, "a watch got {events} events");
            Ok(bytes)
        }));
        let (_, bytes) = futures::future::try_join(write, read).await?;
        let count = scale.watchers * scale.events;
        let (took, bytes) = (started.elapsed(), bytes.iter().sum());
        runs.push(Sample { count, took, latencies: vec![], bytes });
    }
    let speeds: Vec<f64> = runs.iter().map(Sample::gigabytes_per_second).collect();
    let speed = crate::figure::median(&speeds);
    let what = format!("{} watchers × {} events", scale.watchers, scale.events);
    Ok(Figure::of_rates("watch", what, "events/s", &runs).note(format!("{speed:.2} GB/s")))
}

async fn revision(client: &Client) -> Result<u64> {
    Ok(client.metric("warren_revision").await? as u64)
}

/// The whole control plane and a node with nothing to do.
pub async fn idle(scale: &Scale) -> Result<Vec<Figure>> {
    let mut arguments = vec!["up"];
    let mut what = "idle control plane";
    if crate::server::knows("up", "--runtime")? {
        arguments.extend(["--runtime", "simulated"]);
        what = "idle control plane and agent (simulated runtime), one process";
    }
    let mut server = Server::start(&arguments).await?;
    tokio::time::sleep(scale.idle).await;
    let before = server.cpu_seconds()?;
    let begun = Instant::now();
    tokio::time::sleep(scale.idle).await;
    let cpu = (server.cpu_seconds()? - before) / begun.elapsed().as_secs_f64();
    let (rss, pss) = server.memory()?;
    server.stop().await?;
    let note = format!("RSS {rss:.1}, PSS {pss:.1}, {:.1} % of a core", cpu * 100.0);
    Ok(vec![Figure::new("idle", what, pss, "MB PSS").note(note)])
}

/// Beside what a whole start costs.
pub async fn empty_start(scale: &Scale) -> Result<Vec<Figure>> {
    let mut times: Vec<Duration> = Vec::new();
    let mut server = Server::start(&["apiserver"]).await?;
    for _ in 0..scale.starts {
        times.push(server.restart().await?);
    }
    let size = std::fs::metadata(crate::server::warren()?)?.len() as f64 / 1e6;
    let note = format!("slowest {:.0} ms", times.iter().max().map_or(0.0, |t| millis(*t)));
    Ok(vec![
        Figure::of_times("startup", "API ready after start, empty", times).note(note),
        Figure::new("binary", "size of the binary", size, "MB"),
    ])
}
