"""Runs the operator of tenants.py against the cluster of $KUBECONFIG and looks at what it does. Run by the suite `clients`."""

import pathlib
import subprocess
import sys
import time

from kubernetes import client, config
from kubernetes.client.rest import ApiException

NAMESPACE = "kopf"
PATIENCE = 60


def until(what, check):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            found = check()
        except ApiException as error:
            if error.status != 404:
                raise
            found = None
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def service(name, tenant):
    spec = {"ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"tenant": tenant}}, "spec": spec}


def tenant(core, name):
    return core.read_namespaced_config_map(name, NAMESPACE).data["tenant"]


def gone(read):
    try:
        return read() is None
    except ApiException as error:
        return error.status == 404


def lives(core):
    core.create_namespaced_service(NAMESPACE, service("web", "alice"))
    until("the child is made", lambda: tenant(core, "web-tenant") == "alice")
    made = until(
        "progress is kept in the object",
        lambda: [s for s in [core.read_namespaced_service("web", NAMESPACE)] if s.metadata.finalizers == ["warren.dev/tenants"]],
    )[0]
    owners = core.read_namespaced_config_map("web-tenant", NAMESPACE).metadata.owner_references
    assert [owner.uid for owner in owners] == [made.metadata.uid], owners

    def told():
        events = core.list_namespaced_event(NAMESPACE, field_selector="reason=Tenant").items
        return [event for event in events if event.involved_object.name == "web" and "alice moved in" in event.message]

    until("an Event tells it", told)
    core.patch_namespaced_service("web", NAMESPACE, {"metadata": {"labels": {"tenant": "bob"}}})
    until("the child follows", lambda: tenant(core, "web-tenant") == "bob")
    core.delete_namespaced_service("web", NAMESPACE)
    until("the operator writes it off", lambda: tenant(core, "web-left") == "bob")
    until("it is let go", lambda: gone(lambda: core.read_namespaced_service("web", NAMESPACE)))
    until("its child goes with it", lambda: gone(lambda: core.read_namespaced_config_map("web-tenant", NAMESPACE)))


def main():
    config.load_kube_config()
    core = client.CoreV1Api()
    core.create_namespace({"metadata": {"name": NAMESPACE}})
    # What was there before the operator is found by its list.
    core.create_namespaced_service(NAMESPACE, service("early", "carol"))
    operator = pathlib.Path(__file__).with_name("tenants.py")
    command = [sys.executable, "-m", "kopf", "run", "--standalone", "--namespace", NAMESPACE, str(operator)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until("what was there is seen", lambda: tenant(core, "early-tenant") == "carol")
        lives(core)
    finally:
        process.terminate()
        log, _ = process.communicate(timeout=PATIENCE)
        print(log)
    assert process.returncode == 0, process.returncode
    assert "Traceback" not in log, "the operator met an error"
    for name in ("watch", "informer, controller", "finalizers, owners", "Events"):
        print(f"feature: {name} ok")
    core.delete_namespace(NAMESPACE)


if __name__ == "__main__":
    main()
