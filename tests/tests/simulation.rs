//! A cluster in one thread, in virtual time, from one seed: the server's pure core, the real relay, envelope and consumer
//! rule over a model of RabbitMQ, the real decisions of controllers, scheduler and agents, many faults. See
//! `docs/architecture.md`, section 8.
//!
//! `WARREN_SEED=17 cargo test --test simulation` runs one seed and shows how it ended; `WARREN_SEEDS=50000` runs so many.

#[path = "simulation/agent.rs"]
mod agent;
#[path = "simulation/broker.rs"]
mod broker;
#[path = "simulation/check.rs"]
mod check;
#[path = "simulation/cluster.rs"]
mod cluster;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/machine.rs"]
mod machine;
#[path = "simulation/process.rs"]
mod process;
#[path = "simulation/readers.rs"]
mod readers;
#[path = "simulation/rng.rs"]
mod rng;
#[path = "simulation/server.rs"]
mod server;
#[path = "simulation/session.rs"]
mod session;
#[path = "simulation/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use faults::LONGEST;
use world::World;

/// So long the world may take to settle, in virtual milliseconds: a crash loop's longest pause, twice.
const SETTLES_WITHIN: u64 = 900_000;
/// So long nothing may change then.
const QUIET: u64 = 45_000;
const SEEDS: u64 = 250;
/// What a run of the test may take: where the machine is slow, fewer seeds are tried.
const AT_MOST: Duration = Duration::from_secs(60);

struct Outcome {
    counts: BTreeMap<&'static str, u64>,
    hours: f64,
    /// What everything that happened adds up to: the same for the same seed.
    sum: u64,
}

/// Runs a seed to its end; the violation and the trace's end where there is one.
fn run(seed: u64, tracing: bool) -> Result<Outcome, (String, Vec<String>)> {
    let mut world = World::new(seed, tracing);
    let end = world.calm_at;
    while world.step(end) {}
    let deadline = end + LONGEST + SETTLES_WITHIN;
    let mut at = end + LONGEST + 5_000;
    while world.step(at) {}
    // It settles: nothing is committed for a while, and all is as it should be.
    let mut quiet_since = (world.server.disk.last, at);
    let mut why = String::new();
    while world.violation.is_none() && at < deadline {
        at += 5_000;
        while world.step(at) {}
        if world.server.disk.last != quiet_since.0 {
            quiet_since = (world.server.disk.last, at);
            continue;
        }
        if at - quiet_since.1 < 10_000 {
            continue;
        }
        let wrong = world.difference().or_else(|| world.unfinished());
        let Some(wrong) = wrong else {
            why.clear();
            break;
        };
        why = wrong;
    }
    if world.violation.is_none() {
        if !why.is_empty() || at >= deadline {
            world.violate(format!("the world does not settle: {why}"));
        } else {
            // An idle world publishes nothing.
            let before = (world.server.disk.last, world.broker.published);
            while world.step(at + QUIET) {}
            if (world.server.disk.last, world.broker.published) != before {
                world.violate("an idle world writes or publishes".to_owned());
            } else if let Some(wrong) = world.difference() {
                world.violate(format!("idle, and {wrong}"));
            }
        }
    }
    if let Some(violation) = world.violation.take() {
        return Err((violation, world.trace.into()));
    }
    let mut counts = std::mem::take(&mut world.counts);
    counts.insert("commits", world.server.commits);
    counts.insert("writes fenced", world.server.fenced);
    counts.insert("messages lost to a queue's bound", world.broker.overflowed);
    counts.insert("gaps seen", world.readers.iter().map(|r| r.session.gaps).sum());
    counts.insert("decisions", world.processes.iter().map(|p| p.decisions).sum());
    let sum = counts.values().fold(world.rng.next(), |sum, n| {
        sum.rotate_left(5).wrapping_add(*n).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    Ok(Outcome { counts, hours: world.now as f64 / 3_600_000.0, sum })
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

fn fail(seed: u64, violation: &str) -> ! {
    let again = run(seed, true);
    match again {
        Err((_, trace)) => trace.iter().for_each(|line| eprintln!("{line}")),
        Ok(_) => {
            eprintln!("the seed passes when it is run again: the simulation is not deterministic")
        }
    }
    panic!(
        "seed {seed}: {violation}\nrun it again: WARREN_SEED={seed} cargo test --test simulation"
    );
}

#[test]
fn invariants_hold_for_every_seed() {
    if let Some(seed) = number("WARREN_SEED") {
        match run(seed, true) {
            Ok(outcome) => report(1, &outcome.counts, outcome.hours, Duration::ZERO),
            Err((violation, _)) => fail(seed, &violation),
        }
        return;
    }
    let (seeds, bounded) = match number("WARREN_SEEDS") {
        Some(seeds) => (seeds, false),
        None => (SEEDS, true),
    };
    let first = number("WARREN_FIRST_SEED").unwrap_or(1);
    let (start, mut total, mut hours, mut done) = (Instant::now(), BTreeMap::new(), 0.0, 0);
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        if bounded && start.elapsed() > AT_MOST {
            break;
        }
        match run(seed, false) {
            Ok(outcome) => {
                for (what, n) in outcome.counts {
                    *total.entry(what).or_default() += n;
                }
                hours += outcome.hours;
                done += 1;
            }
            Err((violation, _)) if number("WARREN_KEEP_GOING").is_some() => {
                failed.push((seed, violation.chars().take(220).collect::<String>()));
            }
            Err((violation, _)) => fail(seed, &violation),
        }
    }
    report(done, &total, hours, start.elapsed());
    assert!(failed.is_empty(), "{} failed: {failed:#?}", failed.len());
}

fn report(seeds: u64, counts: &BTreeMap<&'static str, u64>, hours: f64, took: Duration) {
    println!("{seeds} seeds, {hours:.1} virtual hours, {:.1} s", took.as_secs_f64());
    for (what, n) in counts {
        println!("{n:>12} {what}");
    }
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    for seed in 1..6 {
        let sums: Vec<u64> = (0..2)
            .map(|_| run(seed, false).map(|outcome| outcome.sum).unwrap_or_default())
            .collect();
        assert_eq!(sums[0], sums[1], "seed {seed}");
    }
}
