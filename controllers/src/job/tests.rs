use super::*;
use crate::world::World;

#[test]
fn sets_of_indexes_are_written_as_ranges() {
    for (text, again) in
        [("", ""), ("1,2", "1,2"), ("0,1,2,5,7,8,9", "0-2,5,7-9"), ("x,3-1,4", "4")]
    {
        assert_eq!(Indexes::parse(text).to_string(), again);
    }
}

fn job(change: impl FnOnce(&mut Value)) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"},
        "spec": {"completions": 3, "parallelism": 2, "backoffLimit": 2,
            "template": {"metadata": {"labels": {"app": "work"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
    });
    change(&mut job["spec"]);
    job
}

fn world(job: Value, outcome: fn(&Pod) -> Option<&'static str>) -> World {
    let mut world = World::new();
    world.outcome = outcome;
    world.put("jobs", job);
    world
}

fn state(world: &World) -> String {
    let status = world.get::<Job>("work").status.unwrap_or_default();
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| condition.status == "True")
        .map(|c| format!("{}:{}", c.type_, c.reason.as_deref().unwrap_or_default()))
        .collect();
    let n = |n: Option<i32>| n.unwrap_or(0);
    format!(
        "active {} succeeded {} failed {} [{}]",
        n(status.active),
        n(status.succeeded),
        n(status.failed),
        conditions.join(" ")
    )
}

#[test]
fn a_job_runs_so_many_pods_to_their_end() {
    let mut world = world(job(|_| {}), |_| Some("Succeeded"));
    for _ in 0..60 {
        world.turn();
        let active = world.list::<Pod>().iter().filter(|pod| pods::is_active(pod)).count();
        assert!(active <= 2);
    }
    assert_eq!(
        state(&world),
        "active 0 succeeded 3 failed 0 [SuccessCriteriaMet:CompletionsReached \
         Complete:CompletionsReached]"
    );
    assert_eq!(world.list::<Pod>().len(), 3);
    assert!(world.list::<Pod>().iter().all(|pod| !tracked(pod)), "no finalizer stays");
    let status = world.get::<Job>("work").status.unwrap();
    assert!(status.completion_time.is_some() && status.start_time.is_some());
}

#[test]
fn failures_back_off_and_end_the_job_at_its_limit() {
    let mut world = world(job(|spec| spec["parallelism"] = json!(1)), |_| Some("Failed"));
    let start = world.now;
    for _ in 0..20 {
        while world.turn() {}
        let work: Job = world.get("work");
        let pods = world.pods_of(work.metadata.uid.as_deref().unwrap());
        let snapshot = Snapshot { job: &work, pods: &pods, taken: &|_| false };
        let Some(after) = decide(world.now, &snapshot).again_after else { break };
        world.now += SignedDuration::try_from(after).unwrap();
    }
    assert_eq!(
        state(&world),
        "active 0 succeeded 0 failed 3 [FailureTarget:BackoffLimitExceeded \
         Failed:BackoffLimitExceeded]"
    );
    // Ten seconds after the first failure and twenty after the second.
    assert_eq!(world.now.duration_since(start).as_secs(), 30);
}

#[test]
fn a_crash_between_any_two_writes_counts_no_pod_twice() {
    for crash in 0..40_usize {
        let mut world = world(job(|spec| spec["backoffLimit"] = json!(6)), |_| Some("Succeeded"));
        let mut writes = 0;
        for _ in 0..60 {
            let work: Job = world.get("work");
            let pods = world.pods_of(work.metadata.uid.as_deref().unwrap());
            let all = world.list::<Pod>();
            let taken = |name: &str| all.iter().any(|pod| pods::name(pod) == name);
            let plan = decide(world.now, &Snapshot { job: &work, pods: &pods, taken: &taken });
            for step in &plan.steps {
                writes += 1;
                if writes == crash || world.apply(&step.write).is_err() {
                    break;
                }
            }
            world.kubelet();
        }
        let state = state(&world);
        assert!(state.starts_with("active 0 succeeded 3 failed 0"), "crash at {crash}: {state}");
        assert_eq!(world.list::<Pod>().len(), 3, "crash at {crash}");
    }
}

#[test]
fn an_indexed_job_completes_each_index() {
    let mut world = world(job(|spec| spec["completionMode"] = json!("Indexed")), |pod| {
        // The first pod of index 1 fails.
        let second = index_of(pod) == Some(1)
            && pod.metadata.creation_timestamp.as_ref().unwrap().0
                < "2026-01-01T00:00:01Z".parse().unwrap();
        Some(if second { "Failed" } else { "Succeeded" })
    });
    for _ in 0..40 {
        world.turn();
        world.now += SignedDuration::from_secs(1);
    }
    let status = world.get::<Job>("work").status.unwrap();
    assert_eq!(status.completed_indexes.as_deref(), Some("0-2"));
    assert!(state(&world).starts_with("active 0 succeeded 3 failed 1"), "{}", state(&world));
    let pod = world.list::<Pod>()[0].clone();
    let env = &pod.spec.as_ref().unwrap().containers[0].env.as_ref().unwrap()[0];
    assert_eq!(env.name, "JOB_COMPLETION_INDEX");
    assert!(pods::name(&pod).starts_with("work-0-"));
}

#[test]
fn suspended_it_stops_and_resumed_it_goes_on() {
    let mut world = world(job(|_| {}), |_| None);
    world.settle();
    assert_eq!(state(&world), "active 2 succeeded 0 failed 0 []");
    world.edit("jobs", "work", |job| job["spec"]["suspend"] = json!(true));
    world.settle();
    assert_eq!(state(&world), "active 0 succeeded 0 failed 0 [Suspended:JobSuspended]");
    assert!(world.list::<Pod>().is_empty());
    world.edit("jobs", "work", |job| job["spec"]["suspend"] = json!(false));
    world.settle();
    assert_eq!(state(&world), "active 2 succeeded 0 failed 0 []");
}

#[test]
fn deadline_ttl_and_what_is_not_supported() {
    let mut world = world(
        job(|spec| {
            spec["activeDeadlineSeconds"] = json!(30);
            spec["ttlSecondsAfterFinished"] = json!(60);
        }),
        |_| None,
    );
    world.settle();
    world.now += SignedDuration::from_secs(31);
    world.settle();
    assert!(state(&world).ends_with("[FailureTarget:DeadlineExceeded Failed:DeadlineExceeded]"));
    world.now += SignedDuration::from_secs(61);
    world.settle();
    assert!(world.list::<Job>().is_empty());

    let mut world =
        self::world(job(|spec| spec["podFailurePolicy"] = json!({"rules": []})), |_| {
            Some("Succeeded")
        });
    world.settle();
    assert!(state(&world).contains("Failed:UnsupportedField"), "{}", state(&world));
}
