use serde_json::json;

use super::*;

/// READY, STATUS and RESTARTS at 2026-01-01T01:00:00Z.
fn row(pod: Value) -> String {
    let pod = Object::try_from(pod).unwrap();
    let now = "2026-01-01T01:00:00Z".parse().unwrap();
    let cells: Vec<String> = ALL[..3]
        .iter()
        .map(|column| (column.cell)(&pod, now).as_str().unwrap().to_owned())
        .collect();
    cells.join(" | ")
}

#[test]
fn states_of_pods() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let init =
        json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let sidecar = json!({"containers": [{"name": "a"}],
        "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let done =
        json!({"ready": false, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    let crashed = json!({"ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:59:55Z"}}});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let table = [
        (json!({"spec": spec}), "0/2 |  | 0"),
        (json!({"spec": spec, "status": {"phase": "Pending"}}), "0/2 | Pending | 0"),
        (
            json!({"spec": spec, "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
            "0/2 | SchedulingGated | 0",
        ),
        (
            json!({"spec": spec, "status": {"phase": "Pending", "containerStatuses": [
                {"state": {"waiting": {"reason": "ContainerCreating"}}}]}}),
            "0/2 | ContainerCreating | 0",
        ),
        (
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [running, running]}}),
            "2/2 | Running | 0",
        ),
        (
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [running, crashed]}}),
            "1/2 | CrashLoopBackOff | 3 (5s ago)",
        ),
        (
            json!({"spec": spec, "status": {"phase": "Running", "conditions": ready,
                "containerStatuses": [running, done]}}),
            "1/2 | Running | 0",
        ),
        (
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [running, done]}}),
            "1/2 | NotReady | 0",
        ),
        (
            json!({"spec": spec, "status": {"phase": "Succeeded", "containerStatuses": [done, done]}}),
            "0/2 | Completed | 0",
        ),
        (
            json!({"spec": spec, "status": {"phase": "Failed", "containerStatuses": [
                {"state": {"terminated": {"exitCode": 7}}}]}}),
            "0/2 | ExitCode:7 | 0",
        ),
        (
            json!({"spec": spec, "status": {"phase": "Failed", "containerStatuses": [
                {"state": {"terminated": {"exitCode": 137, "signal": 9}}}]}}),
            "0/2 | Signal:9 | 0",
        ),
        (
            json!({"spec": spec, "status": {"phase": "Failed", "reason": "Evicted"}}),
            "0/2 | Evicted | 0",
        ),
        (
            json!({"spec": init, "status": {"phase": "Pending", "initContainerStatuses": [
                done, {"state": {"running": {}}}]}}),
            "0/1 | Init:1/2 | 0",
        ),
        (
            json!({"spec": init, "status": {"phase": "Pending", "initContainerStatuses": [
                {"restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}),
            "0/1 | Init:CrashLoopBackOff | 2",
        ),
        (
            json!({"spec": init, "status": {"phase": "Pending", "initContainerStatuses": [
                {"state": {"terminated": {"exitCode": 2, "reason": "Error"}}}]}}),
            "0/1 | Init:Error | 0",
        ),
        (
            json!({"spec": init, "status": {"phase": "Pending", "initContainerStatuses": [done, done],
                "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]}}),
            "0/1 | PodInitializing | 0",
        ),
        (
            json!({"spec": sidecar, "status": {"phase": "Running",
                "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1}],
                "containerStatuses": [running]}}),
            "2/2 | Running | 1",
        ),
        (
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec,
                "status": {"phase": "Running", "containerStatuses": [running, running]}}),
            "2/2 | Terminating | 0",
        ),
        (
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec,
                "status": {"phase": "Succeeded", "containerStatuses": [done, done]}}),
            "0/2 | Completed | 0",
        ),
        (
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec,
                "status": {"phase": "Running", "reason": "NodeLost"}}),
            "0/2 | Unknown | 0",
        ),
    ];
    for (pod, expected) in table {
        assert_eq!(row(pod.clone()), expected, "{pod}");
    }
}
