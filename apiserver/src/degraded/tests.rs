use std::time::SystemTime;

use warren_api::{NodeName, Revision};

use super::*;

fn status(connected: bool) -> FabricStatus {
    FabricStatus {
        connected,
        since: SystemTime::now() - Duration::from_secs(12),
        blocked: None,
        backlog: None,
        cursor: Revision(42),
        last_error: (!connected).then(|| "connection refused".to_owned()),
    }
}

fn depth(messages: u32, consumers: u32) -> Option<QueueDepth> {
    Some(QueueDepth { messages, consumers })
}

fn well() -> Facts {
    let depths = Depths {
        nodes: [(NodeName("a".into()), depth(3, 1)), (NodeName("b".into()), depth(0, 0))].into(),
        left_out: 0,
        dead_letters: depth(0, 0),
        leaders: [("controllers".to_owned(), depth(0, 2))].into(),
    };
    Facts {
        broker: Some(Link {
            publishes: status(true),
            reads: status(true),
            waiting: Waiting::default(),
            bound: 512 << 20,
            now_ms: 100_000,
            depths: Some(Arc::new(depths)),
        }),
        readers: vec![],
        leaders: vec![Leader {
            lease: "kube-system/warren-controllers".to_owned(),
            holder: Some("host_1".to_owned()),
            term: 3,
            renewed: Duration::from_secs(900),
            queue: Some("controllers".to_owned()),
        }],
    }
}

fn link(facts: &mut Facts) -> &mut Link {
    facts.broker.as_mut().unwrap()
}

fn depths(facts: &mut Facts) -> &mut Depths {
    Arc::make_mut(link(facts).depths.as_mut().unwrap())
}

/// The one line of this name.
fn line(facts: &Facts, name: &str) -> String {
    let found: Vec<_> = reports(facts).into_iter().filter(|report| report.name == name).collect();
    let [one] = found.as_slice() else { panic!("{name}: {found:?}") };
    one.to_string()
}

#[test]
fn nothing_is_degraded() {
    let all: Vec<_> = reports(&well()).iter().map(ToString::to_string).collect();
    let leader =
        "[+]leader ok: kube-system/warren-controllers: host_1 leads, term 3, 1 standing by";
    let wanted =
        ["[+]broker ok", "[+]outbox ok", leader, "[+]node-queues ok", "[+]dead-letters ok"];
    assert_eq!(all, wanted);
    // In one process there is no broker to speak of, and nobody is elected.
    assert_eq!(reports(&Facts { broker: None, readers: vec![], leaders: vec![] }), []);
}

#[test]
fn the_broker_is_away() {
    let mut facts = well();
    link(&mut facts).publishes = status(false);
    link(&mut facts).depths = None;
    link(&mut facts).waiting = Waiting { events: 12, bytes: 34 << 10, oldest_ms: Some(89_000) };
    let why = "disconnected for 12s: connection refused; published up to revision 42";
    assert_eq!(line(&facts, "broker"), format!("[+]broker degraded: {why}"));
    let outbox = "12 events wait, 34 KiB of 512 MiB (0%), the oldest for 11s";
    assert_eq!(line(&facts, "outbox"), format!("[+]outbox degraded: {outbox}"));
    // What only the broker knows is not spoken of.
    let names: Vec<_> = reports(&facts).iter().map(|report| report.name).collect();
    assert_eq!(names, ["broker", "outbox", "leader"]);
    assert!(line(&facts, "leader").ends_with(
        "degraded: kube-system/warren-controllers: host_1 leads, term 3, not renewed for 15m"
    ));

    // One that hangs is known by the connection that reads, long before.
    let mut facts = well();
    link(&mut facts).reads = status(false);
    assert_eq!(
        line(&facts, "broker"),
        "[+]broker degraded: disconnected for 12s: connection refused; published up to revision 42"
    );
}

#[test]
fn the_broker_takes_nothing() {
    let mut facts = well();
    link(&mut facts).publishes.blocked = Some("low on memory".to_owned());
    assert!(
        line(&facts, "broker")
            .contains("degraded: connected for 12s; blocked by the broker: low on memory")
    );
    link(&mut facts).waiting = Waiting { events: 1, bytes: 700, oldest_ms: Some(99_990) };
    assert_eq!(
        line(&facts, "outbox"),
        "[+]outbox degraded: 1 event waits, 700 B of 512 MiB (0%), the oldest for 0s"
    );
    link(&mut facts).publishes.blocked = None;
    assert!(line(&facts, "outbox").starts_with("[+]outbox ok: 1 event waits"));
}

#[test]
fn the_outbox_is_near_its_bound() {
    let mut facts = well();
    link(&mut facts).waiting = Waiting { events: 400_000, bytes: 410 << 20, oldest_ms: Some(0) };
    assert_eq!(
        line(&facts, "outbox"),
        "[+]outbox degraded: 400000 events wait, 410 MiB of 512 MiB (80%), the oldest for 100s; history is given up at its bound"
    );
    link(&mut facts).waiting.bytes = 409 << 20;
    assert!(line(&facts, "outbox").starts_with("[+]outbox ok"));
}

#[test]
fn readers_on_http_watch() {
    let mut facts = well();
    let secs = Duration::from_secs;
    facts.readers = (1..=7).map(|n| (Reader::Node(format!("n{n}")), secs(n))).collect();
    facts.readers.push((Reader::Informers("controllers.1".to_owned()), secs(180)));
    assert_eq!(
        line(&facts, "informers"),
        "[+]informers degraded: 1 process on HTTP watch: controllers.1 (for 3m)"
    );
    assert_eq!(
        line(&facts, "agents"),
        "[+]agents degraded: 7 nodes on HTTP watch: n1 (for 1s), n2 (for 2s), n3 (for 3s), n4 (for 4s), n5 (for 5s) and 2 more"
    );
}

#[test]
fn leaders() {
    let mut facts = well();
    depths(&mut facts).leaders.insert("controllers".to_owned(), depth(0, 0));
    assert!(line(&facts, "leader").ends_with("and nobody reads the leader's queue"));
    // Their queue is not there at all.
    depths(&mut facts).leaders.insert("controllers".to_owned(), None);
    assert!(line(&facts, "leader").contains("degraded"));
    // As while the broker takes no publishes: the leader cannot be heard by it, and renews the Lease.
    facts.leaders[0].renewed = Duration::from_secs(1);
    assert!(line(&facts, "leader").contains("leader ok: "), "{}", line(&facts, "leader"));
    facts.leaders[0].holder = None;
    assert_eq!(
        line(&facts, "leader"),
        "[+]leader degraded: kube-system/warren-controllers: nobody leads; the last term was 3"
    );
    // Without a broker the Lease alone tells.
    let mut facts = Facts { broker: None, ..well() };
    facts.leaders[0].queue = None;
    assert!(line(&facts, "leader").contains("degraded"));
    facts.leaders[0].renewed = Duration::from_secs(3);
    assert_eq!(
        line(&facts, "leader"),
        "[+]leader ok: kube-system/warren-controllers: host_1 leads, term 3"
    );
}

#[test]
fn nodes_that_are_behind() {
    let mut facts = well();
    let nodes = &mut depths(&mut facts).nodes;
    nodes.insert(NodeName("c".into()), depth(1_000, 1));
    nodes.insert(NodeName("d".into()), depth(1, 0));
    nodes.insert(NodeName("e".into()), None);
    nodes.insert(NodeName("f".into()), depth(999, 1));
    assert_eq!(
        line(&facts, "node-queues"),
        "[+]node-queues degraded: 3 of 6 nodes behind: e (has no queue), c (1000 messages wait), d (1 message waits, nobody reads)"
    );
    let mut facts = well();
    depths(&mut facts).left_out = 8;
    assert_eq!(
        line(&facts, "node-queues"),
        "[+]node-queues ok: 2 of 10 nodes keep up; 8 were not looked at"
    );
}

#[test]
fn dead_letters_are_noted() {
    let mut facts = well();
    for (messages, wanted) in [
        (1, "[+]dead-letters noted: 1 in the queue warren.dead; its header x-reason says why"),
        (3, "[+]dead-letters noted: 3 in the queue warren.dead; their header x-reason says why"),
        (
            9_000,
            "[+]dead-letters degraded: 9000 of at most 10000 in the queue warren.dead, which drops the oldest",
        ),
    ] {
        depths(&mut facts).dead_letters = depth(messages, 0);
        assert_eq!(line(&facts, "dead-letters"), wanted);
    }
    depths(&mut facts).dead_letters = None;
    assert!(line(&facts, "dead-letters").contains("degraded"));
}
