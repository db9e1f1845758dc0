use super::*;
use crate::Number;

fn about(name: &str, revision: u64) -> About {
    About { subject: Subject::new("", "pods", "default", name), uid: "u".into(), revision }
}

#[test]
fn the_ring_holds_the_last_hops_only() {
    let trace = Trace::new("agent", "a");
    for n in 0..MAX_HOPS as i64 + 7 {
        trace.push_at(n, Step::Delivered, about(if n % 2 == 0 { "even" } else { "odd" }, 1), "");
    }
    let report = trace.report(&about("even", 0).subject);
    assert_eq!(report.since, Some(7));
    assert_eq!(report.hops.len(), MAX_TOLD);
    let last = report.hops.last().unwrap();
    assert_eq!(last.time, MAX_HOPS as i64 + 6, "the newest are told");
    assert!(report.hops.is_sorted_by_key(|hop| hop.time));
    let families = trace.families("x");
    let count = |n: usize| families[n].samples[0].number.clone();
    assert_eq!((count(0), count(2)), (Number::Count(MAX_HOPS as u64), Number::Count(7)));
    assert_eq!(trace.report(&about("other", 0).subject).hops, []);
}

#[test]
fn the_ring_is_bounded_in_bytes() {
    let trace = Trace::new("agent", "a");
    let name = "n".repeat(253);
    for _ in 0..MAX_HOPS {
        trace.push(Step::Acted, about(&name, 0), "ä".repeat(5_000));
    }
    let ring = trace.ring.lock();
    assert!(ring.bytes <= MAX_BYTES && ring.bytes > MAX_BYTES - 1_000, "{}", ring.bytes);
    assert_eq!(ring.bytes, ring.hops.iter().map(Hop::bytes).sum::<usize>());
    assert!(ring.hops.len() < MAX_HOPS && ring.pushed_out > 0);
    assert!(ring.hops.iter().all(|hop| hop.detail.len() <= MAX_DETAIL));
    assert!(ring.hops[0].detail.ends_with('…'));
}

#[test]
fn an_instance_is_told_by_its_name_and_shares_the_ring() {
    let trace = Trace::new("agent", "process");
    trace.of("node-1").push(Step::Acted, about("x", 0), "sandbox created");
    let report = trace.report(&about("x", 0).subject);
    assert_eq!((&*report.instance, &*report.hops[0].instance), ("process", "node-1"));
    assert_eq!(report.since, None, "nothing was forgotten");
}

fn record(time: i64, component: &str, step: Step, revision: u64) -> Record {
    let (component, instance) = (component.to_owned(), "a".to_owned());
    Record { time, component, instance, step, uid: "u".into(), revision, detail: "d".into() }
}

fn answered(component: &str, now: i64, hops: Vec<Record>) -> Answered {
    let (component, instance) = (component.to_owned(), "a".to_owned());
    Answered {
        report: Report { component, instance, now, since: None, hops },
        asked: 0,
        had: 2_000,
    }
}

#[test]
fn several_rings_become_one_story() {
    let server = vec![
        // Told when it was done, with the time at which it began.
        record(1_000, "apiserver", Step::Committed, 5),
        record(900, "apiserver", Step::Accepted, 5),
        record(1_000, "apiserver", Step::Published, 5),
        record(3_500, "apiserver", Step::Confirmed, 5),
    ];
    let agent = vec![
        record(3_000, "agent", Step::Delivered, 5),
        record(3_000, "agent", Step::Acknowledged, 5),
        record(4_000_000, "agent", Step::Acted, 0),
    ];
    let story = Story {
        reports: vec![answered("agent", 1_000, agent), answered("apiserver", 1_000, server)],
        missing: vec![],
    };
    let rows: Vec<String> = story.told().iter().map(|told| told.row().join(" ")).collect();
    expect_test::expect![[r#"
        00:00:00.000900 +0.000 apiserver a accepted 5 d
        00:00:00.001000 +0.100 apiserver a committed 5 d
        00:00:00.001000 +0.000 apiserver a published 5 d
        00:00:00.003000 +2.000 agent a delivered 5 d
        00:00:00.003000 +0.000 agent a acknowledged 5 d
        00:00:00.003500 +0.500 apiserver a confirmed 5 d
        00:00:04.000000 +3996.500 agent a acted - d"#]]
    .assert_eq(&rows.join("\n"));
    assert_eq!(story.notes(), Vec::<String>::new());
    let text = serde_json::to_string(&story).unwrap();
    assert_eq!(serde_json::from_str::<Story>(&text).unwrap(), story);
}

#[test]
fn what_is_missing_and_whose_clock_differs_is_said() {
    let mut forgetful = answered("controllers", 1_500, vec![]);
    forgetful.report.since = Some(61_000_001);
    let who = "node n".to_owned();
    let story = Story {
        reports: vec![answered("agent", -2_001_000, vec![]), forgetful],
        missing: vec![Missing { who, why: "no port".to_owned() }],
    };
    expect_test::expect![[r#"
        not here: node n: no port
        clocks differ: agent a is -2002.000 ms ahead of the server (give or take 1.001); its times stand as it told them
        controllers a remembers nothing before 00:01:01.000001"#]]
    .assert_eq(&story.notes().join("\n"));
    // Within what the question itself took, nothing can be said.
    assert_eq!(answered("agent", 2_000, vec![]).skew(), (1_000, 1_001));
}
