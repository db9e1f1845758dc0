//! From `apply` to Running: with Docker, beside the bare calls, and with simulated nodes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptions};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::Scale;
use crate::api::IN_FLIGHT;
use crate::figure::{Figure, median, millis};
use crate::load::Client;
use crate::pod;
use crate::server::{Server, knows};

const PODS: &str = "/api/v1/namespaces/default/pods";
const PAUSE: &str = "warren/pause:1";
const IMAGE: &str = "warren/busybox:1";
const IN_TIME: Duration = Duration::from_secs(120);

pub async fn docker(scale: &Scale) -> Result<Vec<Figure>> {
    let skipped = |why: &str| Ok(vec![Figure::skipped("docker", why)]);
    if !knows("up", "--runtime")? {
        return skipped("this `warren up` has no agent");
    }
    let Ok(docker) = Docker::connect_with_unix_defaults() else {
        return skipped("no Docker socket");
    };
    for image in [PAUSE, IMAGE] {
        if docker.inspect_image(image).await.is_err() {
            return skipped("the images warren/pause:1 and warren/busybox:1 are not built");
        }
    }
    let mut server = Server::start(&["up", "--runtime", "docker"]).await?;
    let client = server.client(2).await?;
    wait_for(&client, "/api/v1/nodes", 1, is_ready).await?;
    let (mut bare, mut pods, mut above) = (Vec::new(), Vec::new(), Vec::new());
    // One after the other, so that what else the machine does meets both. The first of each is not counted.
    for run in 0..=scale.docker_pods {
        let calls = bare_calls(&docker, run).await?;
        let pod = one_pod(&client, &format!("bench-{run}")).await?;
        if run > 0 {
            bare.push(calls);
            pods.push(pod);
            above.push(millis(pod) - millis(calls));
        }
    }
    gone(&client).await?;
    drop(client);
    server.stop().await?;
    // The agent may have had a sandbox still to remove; the network and the rules stay for the next start otherwise.
    warren_tests::docker::remove_all(None, &server.data());
    let above = median(&above);
    let note = format!("{above:.0} ms above the bare calls (median of the pairs)");
    let what = "bare Docker: create and start pause and container";
    Ok(vec![
        Figure::of_times("docker", what, bare),
        Figure::of_times("docker", "apply → Running, Docker, cold", pods).note(note),
    ])
}

/// What any runtime on Docker must do for a pod of one container.
async fn bare_calls(docker: &Docker, run: usize) -> Result<Duration> {
    let name = |what: &str| format!("warren-bench-{}-{run}-{what}", std::process::id());
    let started = Instant::now();
    let pause = create(docker, &name("pause"), PAUSE, None, None).await?;
    docker.start_container(&pause, None).await?;
    let sleep = vec!["sleep".to_owned(), "3600".to_owned()];
    let network = Some(format!("container:{pause}"));
    let main = create(docker, &name("main"), IMAGE, Some(sleep), network).await?;
    docker.start_container(&main, None).await?;
    let took = started.elapsed();
    for container in [&main, &pause] {
        let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        docker.remove_container(container, Some(options)).await?;
    }
    Ok(took)
}

async fn create(
    docker: &Docker,
    name: &str,
    image: &str,
    cmd: Option<Vec<String>>,
    network_mode: Option<String>,
) -> Result<String> {
    let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd,
        host_config: Some(HostConfig { network_mode, ..Default::default() }),
        ..Default::default()
    };
    Ok(docker.create_container(Some(options), body).await?.id)
}

/// From the sending of the POST until a watch shows the pod Running; then the pod is deleted.
async fn one_pod(client: &Client, name: &str) -> Result<Duration> {
    let path = format!("{PODS}?watch=true&fieldSelector=metadata.name%3D{name}");
    let mut body = client.start(client.get(&path)).await?.into_body();
    let started = Instant::now();
    client.ok(client.post(PODS, pod::small(name, IMAGE))).await?;
    let mut line = Vec::new();
    let running = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            line.extend_from_slice(&data);
            while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let event: Value = serde_json::from_slice(&line[..end])?;
                line.drain(..=end);
                if is_running(&event["object"]) {
                    return Ok(());
                }
            }
        }
        anyhow::bail!("the watch ended before the pod ran")
    };
    tokio::time::timeout(IN_TIME, running).await??;
    let took = started.elapsed();
    delete(client, name).await?;
    Ok(took)
}

async fn delete(client: &Client, name: &str) -> Result<()> {
    let path = format!("{PODS}/{name}?gracePeriodSeconds=1");
    let none = bytes::Bytes::new();
    client.ok(client.request(http::Method::DELETE, &path, "application/json", none)).await?;
    Ok(())
}

async fn gone(client: &Client) -> Result<()> {
    let started = Instant::now();
    while !items(client, PODS).await?.is_empty() {
        ensure!(started.elapsed() < IN_TIME, "deleted pods do not go");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

pub async fn simulated(scale: &Scale) -> Result<Vec<Figure>> {
    if !knows("up", "--nodes")? {
        return Ok(vec![Figure::skipped("simulated", "this `warren up` has no agent")]);
    }
    let (nodes, pods) = (scale.nodes.to_string(), scale.simulated_pods);
    let started = Instant::now();
    let mut server = Server::start(&["up", "--runtime", "simulated", "--nodes", &nodes]).await?;
    let client = server.client(8).await?;
    wait_for(&client, "/api/v1/nodes", scale.nodes, is_ready).await?;
    let ready = started.elapsed();
    let requests = (0..pods)
        .map(|n| client.post(PODS, pod::small(&pod::name("s-", n), "example/any:1")))
        .collect();
    let started = Instant::now();
    client.closed_loop(requests, IN_FLIGHT).await?;
    let created = started.elapsed();
    wait_for(&client, PODS, pods, is_running).await?;
    let running = started.elapsed();
    let cpu = server.cpu_seconds()?;
    tokio::time::sleep(scale.idle).await;
    let idle = (server.cpu_seconds()? - cpu) / scale.idle.as_secs_f64();
    let (rss, pss) = server.memory()?;
    drop(client);
    server.stop().await?;
    let what = format!("{nodes} simulated nodes Ready, from the start of the process");
    let note = format!("{idle:.2} of a core afterwards, RSS {rss:.0} MB, PSS {pss:.0} MB");
    Ok(vec![
        Figure::new("simulated", what, ready.as_secs_f64(), "s"),
        Figure::new("simulated", format!("{pods} pods Running"), running.as_secs_f64(), "s")
            .note(format!("created in {:.1} s; {note}", created.as_secs_f64())),
    ])
}

/// Looks at a list until `count` of its items are as wished. The look is part of the load, so it is not made often.
async fn wait_for(
    client: &Client,
    path: &str,
    count: usize,
    wished: fn(&Value) -> bool,
) -> Result<()> {
    let started = Instant::now();
    loop {
        let there = items(client, path).await?.iter().filter(|item| wished(item)).count();
        if there >= count {
            return Ok(());
        }
        ensure!(started.elapsed() < IN_TIME, "{path}: {there} of {count} after {IN_TIME:?}");
        let pause = Duration::from_millis(if count > 100 { 250 } else { 25 });
        tokio::time::sleep(pause).await;
    }
}

async fn items(client: &Client, path: &str) -> Result<Vec<Value>> {
    let mut list: Value = serde_json::from_str(&client.ok(client.get(path)).await?)?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

fn is_ready(node: &Value) -> bool {
    node["status"]["conditions"].as_array().is_some_and(|conditions| {
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
}
