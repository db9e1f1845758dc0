//! What many node queues cost: memory and processor time of server and broker, and the time to declare them. Beside it
//! queues of the same arguments, bindings and load that bare lapin makes, classic and quorum.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use http::Method;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use warren_tests::RabbitMq;

use super::bare::{EXCHANGE, Message, Publisher};
use super::consumer::{From, Reading};
use super::{DRAINS_WITHIN, node_queue, relayed};
use crate::Scale;
use crate::api::{CONNECTIONS, IN_FLIGHT};
use crate::figure::Figure;
use crate::load::Client;
use crate::pod;
use crate::process::{self, Share};
use crate::server::Server;

const ROW: &str = "queues";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// Declared at the same time by bare lapin.
const CONCURRENCY: usize = 8;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Of one process.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    megabytes: f64,
    /// Percent of a core.
    idle: f64,
    busy: f64,
}

/// Of one number of queues.
#[derive(Clone, Copy, Debug, Default)]
struct Costs {
    queues: usize,
    server: Cost,
    broker: Cost,
    /// To declare all.
    seconds: f64,
}

pub async fn rows(scale: &Scale) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut costs = Vec::new();
    for &queues in &scale.node_queues {
        costs.push(of_warren(scale, queues).await?);
    }
    figures.extend(told("Warren, classic", scale, &costs, true));
    for kind in ["classic", "quorum"] {
        let mut costs = Vec::new();
        for &queues in &scale.node_queues {
            costs.push(of_lapin(scale, queues, kind).await?);
        }
        figures.extend(told(&format!("bare lapin, {kind}"), scale, &costs, false));
    }
    Ok(figures)
}

fn told(whose: &str, scale: &Scale, costs: &[Costs], has_server: bool) -> Vec<Figure> {
    let figure = |what: String, cost: Cost| {
        let Cost { megabytes, idle, busy } = cost;
        let rate = scale.per_second;
        let note = format!("idle {idle:.1} % of a core, at {rate:.0} events/s {busy:.1} %");
        Figure::new(ROW, what, megabytes, "MB PSS")
            .note(note)
            .also("idle_percent_of_a_core", idle)
            .also("busy_percent_of_a_core", busy)
    };
    let mut figures = Vec::new();
    for at in costs {
        let queues = at.queues;
        if has_server {
            figures.push(figure(format!("{whose}, {queues} node queues: server"), at.server));
        }
        figures.push(figure(format!("{whose}, {queues} node queues: broker"), at.broker));
        if queues > 0 {
            let what = format!("{whose}, {queues} node queues: declared and bound");
            figures.push(Figure::new(ROW, what, at.seconds, "s"));
        }
    }
    if let (Some(few), Some(many)) = (costs.first(), costs.last())
        && many.queues > few.queues
    {
        if has_server {
            let cost = per_thousand(few.queues, few.server, many.queues, many.server);
            figures.push(figure(format!("{whose}, per 1,000 node queues: server"), cost));
        }
        let cost = per_thousand(few.queues, few.broker, many.queues, many.broker);
        figures.push(figure(format!("{whose}, per 1,000 node queues: broker"), cost));
    }
    figures
}

/// What more queues add.
fn per_thousand(few: usize, less: Cost, many: usize, more: Cost) -> Cost {
    let scaled = |less: f64, more: f64| (more - less) * 1000.0 / (many - few) as f64;
    Cost {
        megabytes: scaled(less.megabytes, more.megabytes),
        idle: scaled(less.idle, more.idle),
        busy: scaled(less.busy, more.busy),
    }
}

/// A broker that only this is measured on, and its process. Its statistics are collected as often as they are where nobody
/// configures it, not as the suites need it.
async fn broker() -> Result<(RabbitMq, u32)> {
    let rabbit = RabbitMq::start().await?;
    let interval = "application:set_env(rabbit, collect_statistics_interval, 5000).";
    rabbit.ctl(&["eval", interval]).await?;
    let pid = rabbit.ctl(&["eval", "os:getpid()."]).await?;
    let pid = pid.trim().trim_matches('"').parse().with_context(|| format!("pid {pid:?}"))?;
    Ok((rabbit, pid))
}

/// All queues of the broker.
async fn queues(rabbit: &RabbitMq) -> Result<usize> {
    let (status, overview) = rabbit.http(Method::GET, "/api/overview", None).await?;
    let queues = overview["object_totals"]["queues"].as_u64();
    queues.map(|queues| queues as usize).with_context(|| format!("/api/overview: {status}"))
}

/// Memory, and the share of a core while nothing is to do, after some time in which what was done before ends.
async fn idle<const N: usize>(
    settle: Duration,
    over: Duration,
    pids: [u32; N],
) -> Result<[Cost; N]> {
    tokio::time::sleep(settle).await;
    let mut costs = [Cost::default(); N];
    let shares: Vec<Share> = pids.iter().map(|pid| Share::of(*pid)).collect::<Result<_>>()?;
    tokio::time::sleep(over).await;
    for ((cost, share), pid) in costs.iter_mut().zip(&shares).zip(pids) {
        cost.idle = share.percent()?;
        cost.megabytes = process::memory(pid)?.1;
    }
    Ok(costs)
}

fn some_node(nodes: usize) -> Option<String> {
    (nodes > 0).then(|| node(rand::random::<u32>() as usize % nodes))
}

fn node(number: usize) -> String {
    format!("node-{number}")
}

/// Readers of all queues, in this process.
async fn readers(rabbit: &RabbitMq, names: Vec<String>) -> Result<Option<Reading>> {
    match names.is_empty() {
        true => Ok(None),
        false => {
            let from = From::Nodes(names);
            Ok(Some(Reading::start(rabbit.amqp_url("admin"), from, |_| {}).await?))
        }
    }
}

async fn of_warren(scale: &Scale, nodes: usize) -> Result<Costs> {
    let (rabbit, pid) = broker().await?;
    let mut server = Server::start(&["apiserver", "--broker", &rabbit.amqp_url("server")]).await?;
    let client = server.client(CONNECTIONS).await?;
    served(&client, &rabbit).await?;
    let others = queues(&rabbit).await?;
    let requests = (0..nodes).map(|n| client.post("/api/v1/nodes", pod::node(&node(n)))).collect();
    let started = Instant::now();
    client.closed_loop(requests, IN_FLIGHT).await?;
    loop {
        let there = queues(&rabbit).await? - others;
        if there >= nodes {
            break;
        }
        ensure!(started.elapsed() < DRAINS_WITHIN, "{there} of {nodes} queues are declared");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let seconds = started.elapsed().as_secs_f64();

    let pids = [server.pid()?, pid];
    let [mut of_server, mut of_broker] = idle(scale.idle, scale.idle_with_queues, pids).await?;
    let names = (0..nodes).map(|n| format!("node.{}", node(n))).collect();
    let reading = readers(&rabbit, names).await?;
    let count = (scale.per_second * scale.busy.as_secs_f64()) as usize;
    let requests = (0..count)
        .map(|n| client.post(PODS, pod::pod(&pod::name("s-", n), some_node(nodes).as_deref())))
        .collect();
    let shares = [Share::of(pids[0])?, Share::of(pids[1])?];
    client.paced(requests, IN_FLIGHT, scale.per_second, |_| {}).await?;
    relayed(&client).await?;
    (of_server.busy, of_broker.busy) = (shares[0].percent()?, shares[1].percent()?);
    if let Some(reading) = reading {
        reading.end()?;
    }
    drop(client);
    server.stop().await?;
    Ok(Costs { queues: nodes, server: of_server, broker: of_broker, seconds })
}

/// Until the server has declared what is shared, and has published what it made at its start.
async fn served(client: &Client, rabbit: &RabbitMq) -> Result<()> {
    relayed(client).await?;
    // The API's queue comes last.
    let started = Instant::now();
    while rabbit.http(Method::GET, "/api/queues/%2f/warren.api", None).await?.0 != 200 {
        ensure!(started.elapsed() < DRAINS_WITHIN, "warren.api is not declared");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn of_lapin(scale: &Scale, nodes: usize, kind: &'static str) -> Result<Costs> {
    let (rabbit, pid) = broker().await?;
    let publisher = Publisher::connect(&rabbit.amqp_url("server")).await?;
    let channel = &publisher.channel;
    let started = Instant::now();
    futures::stream::iter(0..nodes)
        .map(Ok)
        .try_for_each_concurrent(CONCURRENCY, async |n| {
            let (queue, node) = (format!("bench.{n}"), node(n));
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare(queue.as_str().into(), options, node_queue(kind)).await?;
            let keys = [&node, "all", &format!("ref~{node}")].map(|word| format!("*.*.*.{word}.*"));
            for key in keys.into_iter().chain(["bench.floor.-.all.floor".to_owned()]) {
                let (queue, key) = (queue.as_str().into(), key.as_str().into());
                let (options, none) = (QueueBindOptions::default(), Default::default());
                channel.queue_bind(queue, EXCHANGE.into(), key, options, none).await?;
            }
            anyhow::Ok(())
        })
        .await?;
    let seconds = started.elapsed().as_secs_f64();
    let [mut of_broker] = idle(scale.idle, scale.idle, [pid]).await?;
    let reading = readers(&rabbit, (0..nodes).map(|n| format!("bench.{n}")).collect()).await?;
    let count = (scale.per_second * scale.busy.as_secs_f64()) as usize;
    let messages: Vec<_> =
        (0..count).map(|n| Message::pod(n, some_node(nodes).as_deref().unwrap_or("-"))).collect();
    let share = Share::of(pid)?;
    publisher.send(count, scale.per_second, |n| messages[n].clone()).await?;
    of_broker.busy = share.percent()?;
    if let Some(reading) = reading {
        reading.end()?;
    }
    publisher.end().await?;
    Ok(Costs { queues: nodes, server: Cost::default(), broker: of_broker, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_queues_cost_what_they_add() {
        let less = Cost { megabytes: 100.0, idle: 1.0, busy: 10.0 };
        let more = Cost { megabytes: 130.0, idle: 2.0, busy: 10.0 };
        let Cost { megabytes, idle, busy } = per_thousand(100, less, 600, more);
        assert_eq!((megabytes, idle, busy), (60.0, 2.0, 0.0));
    }
}
