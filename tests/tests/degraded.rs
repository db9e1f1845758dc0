//! What is degraded on purpose, who says so and how soon: `/readyz?verbose`, `warren status`, the metrics. A cluster of
//! separate processes: a server, two controllers processes, two nodes, a RabbitMQ.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

use std::time::{Duration, Instant};

use serde_json::json;
use warren_tests::cluster::{Options, Role, SOON, free_port};
use warren_tests::{Cluster, Http, RabbitMq};

mod degraded {
    pub mod metrics;
}

/// From the end of the broker until informers and agents read by HTTP watch.
const FALLBACK_WITHIN: Duration = Duration::from_secs(2);
/// From a broker that answers again until all read from it again: tries to connect are 3 s apart at most.
const BACK_WITHIN: Duration = Duration::from_secs(6);
/// Exit codes of `warren status`.
const WELL: i32 = 0;
const DEGRADED: i32 = 3;

struct World {
    cluster: Cluster,
    rabbit: RabbitMq,
    http: Http,
    /// Where the controllers' metrics are.
    controllers: u16,
}

impl World {
    async fn new() -> Self {
        let controllers = free_port();
        let options = Options {
            nodes: 2,
            controllers: vec![format!("--metrics-bind=127.0.0.1:{controllers}")],
            ..Options::default()
        };
        let (mut cluster, rabbit) = Cluster::on_rabbitmq(options).await;
        cluster.kubectl(["create", "deployment", "web", "--image=any", "--replicas=4"]).ok();
        cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
        // The other's port is taken, so it has none.
        cluster.start_with::<&str>(&Role::Standby, &[]);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Http::of(&cluster.kubeconfig()).await;
        let world = Self { cluster, rabbit, http, controllers };
        world.until("the standby stands by", SOON, "leader ok: ", "1 standing by").await;
        world.all_well(SOON).await;
        world
    }

    async fn readyz(&self) -> String {
        self.get("/readyz?verbose").await
    }

    async fn get(&self, path: &str) -> String {
        let answer = self.http.send("GET", path, &[], vec![]).await;
        String::from_utf8(answer.body).unwrap()
    }

    /// Until a check's line says all this; answers how long it took.
    async fn until(&self, what: &str, limit: Duration, begin: &str, end: &str) -> Duration {
        let start = Instant::now();
        loop {
            let report = self.readyz().await;
            let is = |line: &str| {
                line.trim_start_matches("[+]").starts_with(begin) && line.contains(end)
            };
            if report.lines().any(is) {
                return start.elapsed();
            }
            assert!(start.elapsed() < limit, "{what}: not within {limit:?}:\n{report}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until nothing is degraded any more.
    async fn all_well(&self, limit: Duration) -> Duration {
        let start = Instant::now();
        loop {
            let report = self.readyz().await;
            if !report.contains("degraded") && report.contains("[+]node-queues ok") {
                return start.elapsed();
            }
            assert!(start.elapsed() < limit, "not well within {limit:?}:\n{report}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What people see: the exit code, and the lines.
    #[track_caller]
    fn status(&self, code: i32) -> Vec<String> {
        let output = self.cluster.warren(["status"]);
        assert_eq!(output.code, code, "{}{}", output.stdout, output.stderr);
        println!("{}", output.stdout);
        output.stdout.lines().map(str::to_owned).collect()
    }

    /// The values of a metric at the server, with their labels.
    async fn metric(&self, name: &str) -> Vec<(String, f64)> {
        metrics_named(&self.get("/metrics").await, name)
    }

    async fn one(&self, name: &str) -> f64 {
        let found = self.metric(name).await;
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found[0].1
    }
}

fn metrics_named(page: &str, name: &str) -> Vec<(String, f64)> {
    let each = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let is_whole = labels.is_empty() || labels.starts_with('{');
        is_whole.then(|| (labels.to_owned(), value.parse().unwrap()))
    });
    each.collect()
}

#[track_caller]
fn has(lines: &[String], begin: &str, part: &str) {
    let found = lines.iter().any(|line| line.starts_with(begin) && line.contains(part));
    assert!(found, "no line {begin:?} with {part:?} in\n{}", lines.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_degraded_is_named() {
    let mut world = World::new().await;
    well(&world).await;
    degraded::metrics::all_are_in_the_page(&world).await;
    a_dead_letter(&world).await;
    without_the_broker(&mut world).await;
    a_broker_that_hangs(&world).await;
    a_broker_that_takes_nothing(&world).await;
    a_node_that_nobody_reads_for(&mut world).await;
    without_the_server(&mut world).await;
    nobody_leads(&mut world).await;
}

async fn well(world: &World) {
    let lines = world.status(WELL);
    for (begin, part) in [
        ("ok    api           v1.", ", ready"),
        ("ok    database", ""),
        ("ok    broker", ""),
        ("ok    outbox", ""),
        ("ok    leader        kube-system/warren-controllers: ", " leads, term 1, 1 standing by"),
        ("ok    node-queues", ""),
        ("ok    dead-letters", ""),
        ("ok    nodes         2 of 2 ready", ""),
        ("ok    pods          4 Running", ""),
    ] {
        has(&lines, begin, part);
    }
    assert_eq!(world.one("warren_fabric_nodes_behind").await, 0.0);
    let standbys = world.metric("warren_fabric_leader_standbys").await;
    let lease = r#"{lease="kube-system/warren-controllers"}"#.to_owned();
    assert_eq!(standbys, [(lease.clone(), 1.0)]);
    assert_eq!(world.metric("warren_fabric_leader_term").await, [(lease.clone(), 1.0)]);
    assert_eq!(world.metric("warren_fabric_leader_held").await, [(lease, 1.0)]);
    // Names are nobody's business who is nobody.
    let nobody = Http::nobody(&world.cluster.kubeconfig()).await;
    let answer = nobody.send("GET", "/readyz?verbose", &[], vec![]).await;
    let report = String::from_utf8(answer.body).unwrap();
    assert!(report.contains("[+]broker ok") && !report.contains("warren-controllers"), "{report}");
}

async fn a_dead_letter(world: &World) {
    let publish = world.rabbit.publish("amq.default", "node.node-1", "gibberish", json!({}));
    assert!(publish.await.unwrap());
    world.until("the letter", SOON, "dead-letters noted: 1 in the queue", "x-reason").await;
    // Somebody's mistake: the cluster is well.
    has(&world.status(WELL), "note  dead-letters  1 in the queue warren.dead", "");
    assert_eq!(world.one("warren_fabric_dead_letters_waiting").await, 1.0);
    let page = world.get("/api/v1/nodes/node-1/proxy/metrics").await;
    let refused = metrics_named(&page, "warren_fabric_dead_letters_total");
    assert!(refused.contains(&(r#"{reason="refused"}"#.to_owned(), 1.0)), "{refused:?}");
    let purge = "/api/queues/%2f/warren.dead/contents";
    world.rabbit.http(hyper::Method::DELETE, purge, None).await.unwrap();
    world.until("no letter", SOON, "dead-letters ok", "").await;
}

async fn without_the_broker(world: &mut World) {
    world.rabbit.kill9();
    let killed = Instant::now();
    world.until("the broker", FALLBACK_WITHIN, "broker degraded: disconnected for", "").await;
    let told = killed.elapsed();
    world.until("informers", FALLBACK_WITHIN, "informers degraded: 2 processes on HTTP", "").await;
    world
        .until("agents", FALLBACK_WITHIN, "agents degraded: 2 nodes on HTTP watch: node-1", "")
        .await;
    let fell_back = killed.elapsed();
    println!("without the broker: told after {told:?}, all on HTTP watch after {fell_back:?}");
    assert!(fell_back < FALLBACK_WITHIN, "{fell_back:?}");

    world.cluster.kubectl(["scale", "deployment/web", "--replicas=6"]).ok();
    world.cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let lines = world.status(DEGRADED);
    has(&lines, "BAD   broker        disconnected for ", "Connection refused");
    has(&lines, "BAD   outbox        ", " events wait, ");
    has(&lines, "BAD   outbox        ", " of 512 MiB (0%), the oldest for ");
    has(&lines, "BAD   informers     2 processes on HTTP watch: controllers.", " (for ");
    has(&lines, "BAD   agents        2 nodes on HTTP watch: node-1 (for ", "node-2 (for ");
    has(&lines, "ok    leader        kube-system/warren-controllers: ", " leads, term ");
    has(&lines, "ok    pods          6 Running", "");
    let events = world.one("warren_fabric_outbox_events").await;
    let bytes = world.one("warren_fabric_outbox_bytes").await;
    assert!(events >= 10.0 && bytes > 500.0 * events, "{events} events, {bytes} bytes");
    assert_eq!(world.one("warren_fabric_outbox_limit_bytes").await, f64::from(512 << 20));
    assert!(world.one("warren_fabric_outbox_oldest_seconds").await > 0.1);
    let up = world.metric("warren_fabric_connections_up").await;
    let publish = r#"{connection="publish"}"#.to_owned();
    assert!(up.contains(&(publish.clone(), 0.0)), "{up:?}");
    let readers = world.metric("warren_fabric_fallback_readers").await;
    let of = |reader: &str| (format!(r#"{{reader="{reader}"}}"#), 2.0);
    assert_eq!(readers, [of("agent"), of("informers")]);
    // What waits is counted by a server that starts with it, too.
    world.cluster.kill9(&Role::Apiserver);
    world.cluster.start(&Role::Apiserver);
    world.cluster.wait_ready();
    let again = world.one("warren_fabric_outbox_events").await;
    assert!(again >= events, "{again} of {events} events");

    world.rabbit.restart().await.unwrap();
    let back = world.all_well(BACK_WITHIN).await;
    println!("the broker answers again: all read from it after {back:?}");
    // A broker that has just started takes its time to confirm.
    let start = Instant::now();
    while world.one("warren_fabric_outbox_events").await > 0.0 {
        assert!(
            start.elapsed() < BACK_WITHIN,
            "{:?}",
            world.metric("warren_fabric_outbox_events").await
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.one("warren_fabric_outbox_bytes").await, 0.0);
    assert_eq!(world.one("warren_fabric_outbox_oldest_seconds").await, 0.0);
    let up = world.metric("warren_fabric_connections_up").await;
    assert!(up.contains(&(publish, 1.0)), "{up:?}");
    world.status(WELL);
}

/// TCP says nothing there.
async fn a_broker_that_hangs(world: &World) {
    world.rabbit.pause(true);
    let stopped = Instant::now();
    // 0.6 s without a word, 0.9 s for the question, and then the patience of whoever has an alternative.
    let limit = FALLBACK_WITHIN;
    world.until("the broker", limit, "broker degraded: disconnected", "does not answer").await;
    let told = stopped.elapsed();
    world.until("informers", limit, "informers degraded: 2 processes", "").await;
    world.until("agents", limit, "agents degraded: 2 nodes", "").await;
    let fell_back = stopped.elapsed();
    println!("a broker that hangs: told after {told:?}, all on HTTP watch after {fell_back:?}");
    assert!(fell_back < limit, "{fell_back:?}");
    world.rabbit.pause(false);
    let back = world.all_well(BACK_WITHIN).await;
    println!("the broker goes on: all read from it after {back:?}");
}

async fn a_broker_that_takes_nothing(world: &World) {
    world.rabbit.ctl(&["set_vm_memory_high_watermark", "0.000001"]).await.unwrap();
    world.cluster.kubectl(["create", "configmap", "while-blocked"]).ok();
    world.until("blocked", SOON, "broker degraded: connected for", "blocked by the broker: ").await;
    has(&world.status(DEGRADED), "BAD   outbox        ", " wait");
    let blocked = world.metric("warren_fabric_connections_blocked").await;
    assert!(blocked.contains(&(r#"{connection="publish"}"#.to_owned(), 1.0)), "{blocked:?}");
    world.rabbit.ctl(&["set_vm_memory_high_watermark", "0.4"]).await.unwrap();
    world.all_well(SOON).await;
}

async fn a_node_that_nobody_reads_for(world: &mut World) {
    let agent = Role::Agent("node-2".to_owned());
    world.cluster.kill9(&agent);
    // A Service is for all nodes.
    let create = ["create", "service", "clusterip", "web", "--tcp=80"];
    world.cluster.kubectl(create).ok();
    let wait = "node-queues degraded: 1 of 2 nodes behind: node-2 (";
    world.until("node-2", SOON, wait, ", nobody reads)").await;
    has(&world.status(DEGRADED), "BAD   node-queues   1 of 2 nodes behind: node-2 (", "");
    assert_eq!(world.one("warren_fabric_nodes_behind").await, 1.0);
    assert!(world.one("warren_fabric_node_queue_messages").await >= 1.0);
    assert!(world.one("warren_fabric_node_queue_messages_max").await >= 1.0);
    world.cluster.start(&agent);
    world.all_well(SOON).await;
    world.cluster.wait_consumers(&world.rabbit).await;
}

async fn without_the_server(world: &mut World) {
    let pods = |world: &World| {
        let mut all: Vec<_> = world
            .cluster
            .objects("pods", "default")
            .iter()
            .map(|pod| {
                let containers = &pod["status"]["containerStatuses"][0];
                let started = containers["state"]["running"]["startedAt"].to_string();
                (pod["metadata"]["uid"].to_string(), started, containers["restartCount"].as_u64())
            })
            .collect();
        all.sort();
        all
    };
    let before = pods(world);
    world.cluster.kill9(&Role::Apiserver);
    let killed = Instant::now();
    let output = world.cluster.warren(["status"]);
    println!("{}", output.stderr);
    assert_eq!(output.code, 1, "{}", output.told());
    assert!(output.stderr.contains(&world.cluster.server()), "{}", output.stderr);
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    world.cluster.start(&Role::Apiserver);
    world.cluster.wait_ready();
    world.all_well(SOON).await;
    assert_eq!(pods(world), before, "what ran goes on");
}

async fn nobody_leads(world: &mut World) {
    world.until("two", SOON, "leader ok: ", " leads, term ").await;
    world.cluster.kill9(&Role::Controllers);
    world.until("the other", SOON, "leader ok: ", " 0 standing by").await;
    world.cluster.kill9(&Role::Standby);
    world.until("nobody", SOON, "leader degraded: ", "nobody reads the leader's queue").await;
    has(&world.status(DEGRADED), "BAD   leader        ", "nobody reads the leader's queue");
    world.cluster.start(&Role::Controllers);
    world.until("again", SOON, "leader ok: ", " 0 standing by").await;
    world.all_well(SOON).await;
}
