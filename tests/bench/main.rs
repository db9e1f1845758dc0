//! The benchmark: `cargo run --release -p warren-tests --bin bench`. Measures the release build of the `warren` binary from
//! outside, and what can be run beside it in the same run. docs/benchmarks.md has a day's figures.

mod amqp;
mod amqp_api;
mod api;
mod figure;
mod load;
mod pod;
mod pods;
mod process;
mod reference;
mod scheduled;
mod server;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::figure::Figure;

/// All rows, in the order in which they run.
const ROWS: [&str; 23] = [
    "tls",
    "disk",
    "sqlite",
    "etcd",
    "create",
    "patch",
    "get",
    "list",
    "watcher",
    "watch",
    "memory",
    "startup",
    "binary",
    "idle",
    "lapin",
    "rabbitmq",
    "nodes",
    "backlog",
    "queues",
    "amqp-api",
    "docker",
    "scheduled",
    "simulated",
];

#[derive(Debug, Parser)]
#[command(
    name = "bench",
    about = "Measures Warren, and what can be run beside it",
    after_help = "ROWS:\n  tls disk sqlite etcd create patch get list watcher watch memory startup binary idle lapin \
                  rabbitmq nodes backlog queues amqp-api docker scheduled simulated"
)]
struct Args {
    /// Only these rows, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "ROWS")]
    only: Vec<String>,
    /// Small counts and one run: does it work, and about how fast.
    #[arg(long)]
    quick: bool,
    /// Also writes one line of JSON a figure.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs of each row, of which the median is shown.
    #[arg(long)]
    runs: Option<usize>,
    /// Pods in a run of creates.
    #[arg(long)]
    creates: Option<usize>,
    /// Pods stored where reading is measured.
    #[arg(long)]
    pods: Option<usize>,
    /// Events that wait for the broker in the row "backlog".
    #[arg(long)]
    backlog: Option<usize>,
    /// How many node queues there are in the row "queues", one after the other.
    #[arg(long, value_delimiter = ',', value_name = "COUNTS")]
    node_queues: Vec<usize>,
    /// Simulated nodes.
    #[arg(long)]
    nodes: Option<usize>,
    /// Pods on the simulated nodes.
    #[arg(long)]
    simulated_pods: Option<usize>,
    /// Do not build; measure the binary that is there.
    #[arg(long)]
    no_build: bool,
}

/// How much of everything.
#[derive(Clone, Debug)]
struct Scale {
    rows: Vec<String>,
    runs: usize,
    creates: usize,
    pods: usize,
    patches: usize,
    gets: usize,
    lists: usize,
    watchers: usize,
    events: usize,
    /// Where a latency is measured: this many writes at this rate.
    writes: usize,
    per_second: f64,
    starts: usize,
    idle: Duration,
    tls_bytes: u64,
    burst: usize,
    trials: usize,
    trial_seconds: f64,
    queues: usize,
    /// Events that are written while the broker, or a node, is away.
    backlog: usize,
    node_backlog: usize,
    node_queues: Vec<usize>,
    /// How long many queues are written to.
    busy: Duration,
    /// A server with many queues that is idle looks at all of them once a minute.
    idle_with_queues: Duration,
    docker_pods: usize,
    nodes: usize,
    simulated_pods: usize,
}

impl Scale {
    fn of(args: &Args) -> Result<Self> {
        if let Some(unknown) = args.only.iter().find(|row| !ROWS.contains(&row.as_str())) {
            bail!("--only: no row is named {unknown:?}; there are {}", ROWS.join(", "));
        }
        let rows: Vec<String> = match args.only.is_empty() {
            true => ROWS.map(str::to_owned).to_vec(),
            false => args.only.clone(),
        };
        let choose = |full: usize, quick: usize| if args.quick { quick } else { full };
        let pods = args.pods.unwrap_or(choose(5000, 500)).max(1);
        Ok(Self {
            rows,
            runs: args.runs.unwrap_or(choose(3, 1)).max(1),
            creates: args.creates.unwrap_or(choose(10_000, 1000)).max(10),
            pods,
            patches: choose(1000, 200).min(pods),
            gets: choose(20_000, 2000),
            lists: choose(20, 5),
            watchers: choose(100, 20),
            events: choose(1000, 200),
            writes: choose(2500, 250),
            per_second: 500.0,
            starts: choose(10, 3),
            idle: Duration::from_secs(if args.quick { 2 } else { 8 }),
            tls_bytes: if args.quick { 1 << 30 } else { 4 << 30 },
            burst: choose(10_000, 1000),
            trials: choose(6, 3),
            trial_seconds: if args.quick { 1.0 } else { 4.0 },
            queues: choose(100, 10),
            backlog: args.backlog.unwrap_or(choose(100_000, 12_000)).max(10_000),
            node_backlog: choose(12_000, 2000),
            node_queues: match (args.node_queues.is_empty(), args.quick) {
                (false, _) => args.node_queues.clone(),
                (true, false) => vec![0, 100, 1000],
                (true, true) => vec![0, 20],
            },
            busy: Duration::from_secs(if args.quick { 2 } else { 10 }),
            idle_with_queues: Duration::from_secs(if args.quick { 2 } else { 60 }),
            docker_pods: choose(10, 2),
            nodes: args.nodes.unwrap_or(choose(1000, 50)).max(1),
            simulated_pods: args.simulated_pods.unwrap_or(choose(5000, 100)).max(1),
        })
    }

    fn wants(&self, row: &str) -> bool {
        self.rows.iter().any(|wanted| wanted == row)
    }

    fn wants_any(&self, rows: &[&str]) -> bool {
        rows.iter().any(|row| self.wants(row))
    }
}

/// One thread: what is measured shall have the machine.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let scale = Scale::of(args)?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    if !args.no_build && std::env::var_os("WARREN").is_none() {
        server::build(&["-p", "warren"])?;
    }
    let mut out = Output { json: None, figures: Vec::new(), failed: Vec::new() };
    if let Some(path) = &args.json {
        out.json = Some(File::create(path).with_context(|| path.display().to_string())?);
    }
    if scale.wants("sqlite") {
        server::build(&["-p", "warren-store", "--example", "commit_rate"])?;
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores, load at the start {}", load.trim());
    if scale.wants("tls") {
        out.add("tls", reference::tls(&scale).await)?;
    }
    if scale.wants("disk") {
        out.add("disk", reference::disk(&scale))?;
    }
    if scale.wants("sqlite") {
        out.add("sqlite", reference::sqlite(&scale))?;
    }
    if scale.wants("etcd") {
        out.add("etcd", reference::etcd(&scale).await)?;
    }
    if scale.wants("create") {
        out.add("create", api::create(&scale).await)?;
    }
    if scale.wants_any(&["patch", "get", "list", "watcher", "watch", "memory", "startup"]) {
        out.add("loaded server", api::loaded(&scale).await)?;
    }
    if scale.wants("binary") {
        out.add("binary", api::empty_start(&scale).await)?;
    }
    if scale.wants("idle") {
        out.add("idle", api::idle(&scale).await)?;
    }
    if scale.wants_any(&["lapin", "rabbitmq", "nodes", "backlog", "queues", "amqp-api"]) {
        out.add("rabbitmq", amqp::rows(&scale).await)?;
    }
    if scale.wants("docker") {
        out.add("docker", pods::docker(&scale).await)?;
    }
    if scale.wants("scheduled") {
        out.add("scheduled", scheduled::scheduled(&scale).await)?;
    }
    if scale.wants("simulated") {
        out.add("simulated", pods::simulated(&scale).await)?;
    }
    println!("\n{}", figure::table(&out.figures));
    match out.failed.is_empty() {
        true => Ok(()),
        false => bail!("failed: {}", out.failed.join(", ")),
    }
}

struct Output {
    json: Option<File>,
    figures: Vec<Figure>,
    failed: Vec<&'static str>,
}

impl Output {
    /// Shows figures as they come; what fails does not keep the others from being measured.
    fn add(&mut self, row: &'static str, figures: Result<Vec<Figure>>) -> Result<()> {
        match figures {
            Err(error) => {
                println!("{row}: failed: {error:#}");
                self.failed.push(row);
            }
            Ok(figures) => {
                for figure in &figures {
                    println!("{}: {} {:.3} {}", figure.row, figure.what, figure.value, figure.unit);
                    if let Some(json) = &mut self.json {
                        writeln!(json, "{}", serde_json::to_string(figure)?)?;
                    }
                }
                self.figures.extend(figures);
            }
        }
        Ok(())
    }
}
