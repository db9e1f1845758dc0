//! The API by way of the broker, and beside it over HTTPS, on one server.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use warren_tests::RabbitMq;
use warren_tests::amqp::{Asker, Request};

use crate::Scale;
use crate::api::{CONNECTIONS, IN_FLIGHT, creates};
use crate::figure::{Figure, Sample};
use crate::load::Client;
use crate::pod;
use crate::server::Server;

const ROW: &str = "amqp-api";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// On a busy machine.
const CONNECTS_WITHIN: Duration = Duration::from_secs(90);

pub async fn rows(scale: &Scale, rabbit: &RabbitMq) -> Result<Vec<Figure>> {
    let server = Server::start(&["apiserver", "--broker", &rabbit.amqp_url("server")]).await?;
    let client = server.client(CONNECTIONS).await?;
    let mut asker = served(&rabbit.amqp_url("admin")).await?;
    let mut figures = Vec::new();
    for (what, gets, in_flight) in [
        ("GET one pod", true, IN_FLIGHT),
        ("create", false, IN_FLIGHT),
        ("GET one pod", true, 1),
        ("create", false, 1),
    ] {
        let count = if in_flight == 1 { scale.creates / 10 } else { scale.creates };
        let prefix = |way: &str, run: usize| format!("{way}-{in_flight}-{run}-");
        client.closed_loop(creates(&client, "warm-", 200, |_| None), IN_FLIGHT).await.ok();
        let (mut amqp, mut https) = (Vec::new(), Vec::new());
        for run in 0..scale.runs {
            let requests = match gets {
                true => vec![Request::get(&format!("{PODS}/warm-000000")); count],
                false => (0..count).map(|n| create(&pod::name(&prefix("a", run), n))).collect(),
            };
            amqp.push(closed_loop(&mut asker, &requests, in_flight).await?);
            https.push(over_https(&client, gets, &prefix("h", run), count, in_flight).await?);
        }
        let named = |way: &str| format!("{what}, {way}, {in_flight} in flight");
        figures.push(Figure::of_rates(ROW, named("AMQP"), "1/s", &amqp));
        figures.push(Figure::of_rates(ROW, named("HTTPS, the same server"), "1/s", &https));
    }
    Ok(figures)
}

async fn over_https(
    client: &Client,
    gets: bool,
    prefix: &str,
    count: usize,
    in_flight: usize,
) -> Result<Sample> {
    let requests = match gets {
        true => (0..count).map(|_| client.get(&format!("{PODS}/warm-000000"))).collect(),
        false => creates(client, prefix, count, |_| None),
    };
    client.closed_loop(requests, in_flight).await
}

fn create(name: &str) -> Request {
    Request {
        method: "POST".to_owned(),
        path: PODS.to_owned(),
        content_type: Some("application/json".to_owned()),
        body: pod::pod(name, None).to_vec(),
        message_id: Some(name.to_owned()),
        ..Request::default()
    }
}

/// As soon as the broker listens, and the server has declared the queue and reads it.
async fn served(url: &str) -> Result<Asker> {
    let start = Instant::now();
    loop {
        if let Ok(mut asker) = Asker::connect(url, "admin").await
            && asker.ask(&Request::get("/readyz")).await.is_ok()
        {
            return Ok(asker);
        }
        ensure!(start.elapsed() < CONNECTS_WITHIN, "no requests over AMQP are answered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All requests over one connection, so many at a time, each of which must succeed.
async fn closed_loop(asker: &mut Asker, requests: &[Request], in_flight: usize) -> Result<Sample> {
    let started = Instant::now();
    let (mut open, mut confirms) = (HashMap::new(), Vec::new());
    let (mut latencies, mut waiting) = (Vec::with_capacity(requests.len()), requests.iter());
    while latencies.len() < requests.len() {
        while open.len() < in_flight
            && let Some(request) = waiting.next()
        {
            confirms.push(asker.publish(request).await?);
            open.insert(asker.asked(), Instant::now());
        }
        let (number, answer) = asker.next().await?;
        ensure!(
            (200..300).contains(&answer.code),
            "answered {}: {}",
            answer.code,
            answer.message()
        );
        latencies.extend(open.remove(&number).map(|sent: Instant| sent.elapsed()));
    }
    let took = started.elapsed();
    try_join_all(confirms).await?;
    Ok(Sample { count: requests.len(), took, latencies, bytes: 0 })
}
