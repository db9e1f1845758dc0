"""What programs do with the official Python client, against the cluster of $KUBECONFIG. Run by the suite `clients`."""

import json
import threading
import time
import unittest

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream, ws_client

NAMESPACE = "python"
PATIENCE = 60


def until(what, check):
    """The first true answer of `check`."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def feature(*names):
    """Tells the suite what has been seen to work, for docs/compatibility.md."""
    for name in names:
        print(f"feature: {name} ok", flush=True)


def config_map(name, labels=None, **data):
    meta = client.V1ObjectMeta(name=name, labels=labels)
    return client.V1ConfigMap(metadata=meta, data=data)


def pod(name, command, **spec):
    container = client.V1Container(name="c", image="any", command=command)
    meta = client.V1ObjectMeta(name=name, labels={"app": name})
    return client.V1Pod(metadata=meta, spec=client.V1PodSpec(containers=[container], **spec))


def deployment(name, replicas):
    labels = {"app": name}
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels),
        spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="any:1")]),
    )
    spec = client.V1DeploymentSpec(
        replicas=replicas, selector=client.V1LabelSelector(match_labels=labels), template=template
    )
    return client.V1Deployment(metadata=client.V1ObjectMeta(name=name), spec=spec)


class Official(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        config.load_kube_config()
        cls.core, cls.apps = client.CoreV1Api(), client.AppsV1Api()
        cls.batch, cls.discovery = client.BatchV1Api(), client.DiscoveryV1Api()
        meta = client.V1ObjectMeta(name=NAMESPACE)
        cls.core.create_namespace(client.V1Namespace(metadata=meta))

    @classmethod
    def tearDownClass(cls):
        cls.core.delete_namespace(NAMESPACE)

        def gone():
            try:
                return cls.core.read_namespace(NAMESPACE) is None
            except ApiException as error:
                return error.status == 404

        until("the namespace is gone", gone)

    def refused(self, status, reason, call, *args, **named):
        with self.assertRaises(ApiException) as raised:
            call(*args, **named)
        self.assertEqual(raised.exception.status, status, raised.exception.body)
        body = json.loads(raised.exception.body)
        self.assertEqual((body["kind"], body["code"], body["reason"]), ("Status", status, reason))
        return body

    def test_server(self):
        self.assertEqual(client.VersionApi().get_code().minor, "34")
        groups = {group.name for group in client.ApisApi().get_api_versions().groups}
        self.assertLessEqual({"apps", "batch", "coordination.k8s.io", "discovery.k8s.io"}, groups)
        resources = {r.name: r for r in self.core.get_api_resources().resources}
        self.assertIn("po", resources["pods"].short_names)
        self.assertIn("pods/log", resources)
        feature("discovery")

    def test_objects(self):
        made = self.core.create_namespaced_config_map(NAMESPACE, config_map("one", a="1"))
        self.assertTrue(made.metadata.uid and made.metadata.creation_timestamp.tzinfo)
        read = self.core.read_namespaced_config_map("one", NAMESPACE)
        self.assertEqual(read.data, {"a": "1"})
        self.refused(409, "AlreadyExists", self.core.create_namespaced_config_map, NAMESPACE, config_map("one"))
        read.data["b"] = "2"
        replaced = self.core.replace_namespaced_config_map("one", NAMESPACE, read)
        self.assertNotEqual(replaced.metadata.resource_version, made.metadata.resource_version)
        # It has changed since it was read.
        self.refused(409, "Conflict", self.core.replace_namespaced_config_map, "one", NAMESPACE, read)
        merged = self.core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"a": None, "c": "3"}})
        self.assertEqual(merged.data, {"b": "2", "c": "3"})
        steps = [{"op": "test", "path": "/data/b", "value": "2"}, {"op": "remove", "path": "/data/b"}]
        self.assertEqual(self.core.patch_namespaced_config_map("one", NAMESPACE, steps).data, {"c": "3"})
        ended = self.core.delete_namespaced_config_map("one", NAMESPACE)
        self.assertEqual(ended.status, "Success")
        self.refused(404, "NotFound", self.core.read_namespaced_config_map, "one", NAMESPACE)
        feature("objects: create, get, update, delete", "JSON patch")

    def test_generated_names_and_secrets(self):
        meta = client.V1ObjectMeta(generate_name="some-")
        secret = client.V1Secret(metadata=meta, string_data={"password": "hunter2"}, type="Opaque")
        made = self.core.create_namespaced_secret(NAMESPACE, secret)
        self.assertRegex(made.metadata.name, r"^some-[a-z0-9]{5}$")
        self.assertEqual(made.data, {"password": "aHVudGVyMg=="})
        dry = self.core.create_namespaced_secret(NAMESPACE, secret, dry_run="All")
        self.refused(404, "NotFound", self.core.read_namespaced_secret, dry.metadata.name, NAMESPACE)
        feature("generated names", "dry run")

    def test_invalid(self):
        bad = pod("bad", ["true"])
        bad.spec.containers[0].image = None
        bad.spec.restart_policy = "Sometimes"
        body = self.refused(422, "Invalid", self.core.create_namespaced_pod, NAMESPACE, bad)
        fields = {cause["field"] for cause in body["details"]["causes"]}
        self.assertEqual(fields, {"spec.containers[0].image", "spec.restartPolicy"})
        feature("refusals with reason and causes")

    def test_lists(self):
        for number in range(7):
            labels = {"set": "listed", "odd": str(number % 2)}
            self.core.create_namespaced_config_map(NAMESPACE, config_map(f"item-{number}", labels))
        names, token, revision = [], None, None
        while True:
            page = self.core.list_namespaced_config_map(
                NAMESPACE, label_selector="set=listed", limit=3, _continue=token
            )
            revision = revision or page.metadata.resource_version
            self.assertEqual(page.metadata.resource_version, revision, "one snapshot")
            names += [item.metadata.name for item in page.items]
            token = page.metadata._continue
            if not token:
                break
        self.assertEqual(names, [f"item-{n}" for n in range(7)])

        def listed(**selection):
            found = self.core.list_namespaced_config_map(NAMESPACE, **selection).items
            return [item.metadata.name for item in found]

        self.assertEqual(listed(label_selector="set in (listed),odd!=0"), ["item-1", "item-3", "item-5"])
        self.assertEqual(listed(field_selector="metadata.name=item-4"), ["item-4"])
        self.refused(400, "BadRequest", self.core.list_namespaced_config_map, NAMESPACE, label_selector="a==b==c")
        self.core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="set=listed")
        self.assertEqual(listed(label_selector="set=listed"), [])
        feature("label and field selectors", "pages", "delete collection")

    def test_watch(self):
        start = self.core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
        seen = []

        def follow():
            stream = watch.Watch().stream(
                self.core.list_namespaced_config_map,
                NAMESPACE,
                resource_version=start,
                label_selector="watched",
                timeout_seconds=PATIENCE,
            )
            for event in stream:
                seen.append((event["type"], event["object"].metadata.labels.get("watched")))
                if event["type"] == "DELETED":
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        self.core.create_namespaced_config_map(NAMESPACE, config_map("other"))
        self.core.create_namespaced_config_map(NAMESPACE, config_map("seen", {"watched": "1"}))
        for value in ("2", None):
            labels = {"metadata": {"labels": {"watched": value}}}
            self.core.patch_namespaced_config_map("seen", NAMESPACE, labels)
        thread.join(PATIENCE)
        # It leaves the selection with the state that it had in it.
        self.assertEqual(seen, [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")])
        for name in ("other", "seen"):
            self.core.delete_namespaced_config_map(name, NAMESPACE)
        feature("watch")

    def test_deployment(self):
        self.apps.create_namespaced_deployment(NAMESPACE, deployment("web", 2))

        def available(count):
            status = self.apps.read_namespaced_deployment_status("web", NAMESPACE).status
            return (status.available_replicas or 0) == count and (status.replicas or 0) == count

        until("two pods", lambda: available(2))
        scale = self.apps.read_namespaced_deployment_scale("web", NAMESPACE)
        self.assertEqual((scale.spec.replicas, scale.status.selector), (2, "app=web"))
        scale.spec.replicas = 3
        self.apps.replace_namespaced_deployment_scale("web", NAMESPACE, scale)
        until("three pods", lambda: available(3))
        image = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "any:2"}]}}}}
        patched = self.apps.patch_namespaced_deployment("web", NAMESPACE, image)
        self.assertEqual(patched.spec.template.spec.containers[0].image, "any:2")

        def rolled_out():
            pods = self.core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items
            return len(pods) == 3 and all(p.spec.containers[0].image == "any:2" for p in pods)

        until("the new image", rolled_out)
        self.apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Foreground")
        until("all are gone", lambda: not self.core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items)
        feature("scale", "status")

    def test_job(self):
        spec = client.V1PodSpec(
            containers=[client.V1Container(name="c", image="any", command=["sh", "-c", "echo done"])],
            restart_policy="Never",
        )
        job = client.V1Job(
            metadata=client.V1ObjectMeta(name="once"),
            spec=client.V1JobSpec(template=client.V1PodTemplateSpec(spec=spec), backoff_limit=0),
        )
        self.batch.create_namespaced_job(NAMESPACE, job)
        until("it succeeds", lambda: self.batch.read_namespaced_job("once", NAMESPACE).status.succeeded)
        pods = self.core.list_namespaced_pod(NAMESPACE, label_selector="job-name=once").items
        self.assertEqual(self.core.read_namespaced_pod_log(pods[0].metadata.name, NAMESPACE), "done\n")

    def test_pod(self):
        self.core.create_namespaced_pod(NAMESPACE, pod("talks", ["sh", "-c", "echo hello; sleep 3600"]))
        read = lambda: self.core.read_namespaced_pod("talks", NAMESPACE)
        until("it runs", lambda: read().status.phase == "Running")
        self.assertTrue(read().status.pod_ip and read().status.host_ip)
        until("its log", lambda: self.core.read_namespaced_pod_log("talks", NAMESPACE) == "hello\n")
        connect = self.core.connect_get_namespaced_pod_exec
        said = stream(connect, "talks", NAMESPACE, command=["echo", "from inside"], stdout=True, stderr=True)
        self.assertEqual(said, "from inside\n")
        session = stream(
            connect, "talks", NAMESPACE, command=["sh", "-c", "exit 7"], stdout=True, stderr=True, _preload_content=False
        )
        session.run_forever(timeout=PATIENCE)
        self.assertEqual(session.returncode, 7)
        eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name="talks"))
        self.core.create_namespaced_pod_eviction("talks", NAMESPACE, eviction)
        until("it is evicted", lambda: "talks" not in [p.metadata.name for p in self.core.list_namespaced_pod(NAMESPACE).items])
        feature("logs", "exec", "eviction, drain")

    def test_ports_are_forwarded(self):
        body = pod("listens", ["sleep", "3600"])
        body.metadata.annotations = {"simulated.warren.dev/listen": "7000"}
        self.core.create_namespaced_pod(NAMESPACE, body)
        until("it runs", lambda: self.core.read_namespaced_pod("listens", NAMESPACE).status.phase == "Running")
        connect = self.core.connect_get_namespaced_pod_portforward
        forwarded = portforward(connect, "listens", NAMESPACE, ports="7000,7001")
        sent = bytes(range(256)) * 4096
        connection = forwarded.socket(7000)
        connection.settimeout(PATIENCE)
        sender = threading.Thread(target=connection.sendall, args=(sent,))
        sender.start()
        came = b""
        while len(came) < len(sent):
            came += connection.recv(65536)
        sender.join()
        self.assertEqual(came, sent)
        self.assertIsNone(forwarded.error(7000))
        until("the other port's error", lambda: forwarded.error(7001))
        self.assertIn("connection refused", forwarded.error(7001))
        forwarded.close()
        self.large_messages()
        feature("port-forward")

    def large_messages(self):
        """As the client makes them where a program writes faster than they are sent, or writes much at once."""
        url = f"{client.Configuration.get_default_copy().host}/api/v1/namespaces/{NAMESPACE}/pods/listens/portforward"
        url = ws_client.get_websocket_url(url, [("ports", "7000")])
        socket = ws_client.create_websocket(client.Configuration.get_default_copy(), url)
        socket.settimeout(PATIENCE)
        sent = bytes(range(256)) * (3 << 12)
        socket.send_binary(b"\x00" + sent)
        came = {0: b"", 1: b""}
        while len(came[0]) < 2 + len(sent):
            message = socket.recv()
            came[message[0]] += message[1:]
        port = (7000).to_bytes(2, "little")
        self.assertEqual((came[0], came[1]), (port + sent, port))
        socket.close()

    def test_ephemeral_containers(self):
        self.core.create_namespaced_pod(NAMESPACE, pod("debugged", ["sleep", "3600"]))
        read = self.core.read_namespaced_pod_ephemeralcontainers
        patch = self.core.patch_namespaced_pod_ephemeralcontainers
        patch("debugged", NAMESPACE, {"spec": {"ephemeralContainers": [{"name": "d", "image": "any"}]}})

        def runs():
            said = read("debugged", NAMESPACE).status.ephemeral_container_statuses
            return said and said[0].name == "d" and said[0].state.running

        until("the ephemeral container runs", runs)
        with self.assertRaises(ApiException) as raised:
            patch("debugged", NAMESPACE, {"spec": {"ephemeralContainers": [{"name": "d", "image": "other"}]}})
        self.assertEqual(raised.exception.status, 422)
        self.assertIn('"d" may not be changed', json.loads(raised.exception.body)["message"])
        seen = read("debugged", NAMESPACE)
        more = client.V1EphemeralContainer(name="e", image="any")
        seen.spec.ephemeral_containers.append(more)
        # The status may have come in between.
        seen.metadata.resource_version = None
        put = self.core.replace_namespaced_pod_ephemeralcontainers
        names = [c.name for c in put("debugged", NAMESPACE, seen).spec.ephemeral_containers]
        self.assertEqual(names, ["d", "e"])

    def test_service(self):
        port = client.V1ServicePort(port=80, target_port=8080)
        spec = client.V1ServiceSpec(selector={"app": "behind"}, ports=[port])
        meta = client.V1ObjectMeta(name="front")
        made = self.core.create_namespaced_service(NAMESPACE, client.V1Service(metadata=meta, spec=spec))
        self.assertTrue(made.spec.cluster_ip)
        self.core.create_namespaced_pod(NAMESPACE, pod("behind", ["sleep", "3600"]))

        def addresses():
            slices = self.discovery.list_namespaced_endpoint_slice(
                NAMESPACE, label_selector="kubernetes.io/service-name=front"
            ).items
            return [a for s in slices for e in s.endpoints or [] if e.conditions.ready for a in e.addresses]

        until("its pod is behind it", lambda: len(addresses()) == 1)

    def test_nodes_and_leases(self):
        node = self.core.list_node().items[0]
        self.assertTrue(any(c.type == "Ready" and c.status == "True" for c in node.status.conditions))
        lease = client.CoordinationV1Api().read_namespaced_lease(node.metadata.name, "kube-node-lease")
        self.assertEqual(lease.spec.holder_identity, node.metadata.name)
        self.assertTrue(lease.spec.renew_time.microsecond is not None)

    def test_events(self):
        self.core.create_namespaced_pod(NAMESPACE, pod("noisy", ["sleep", "3600"]))
        fields = "involvedObject.name=noisy,reason=Scheduled"
        found = until("it was scheduled", lambda: self.core.list_namespaced_event(NAMESPACE, field_selector=fields).items)
        self.assertEqual(found[0].involved_object.kind, "Pod")
        feature("Events")

    def test_dynamic(self):
        dyn = dynamic.DynamicClient(client.ApiClient())
        maps = dyn.resources.get(api_version="v1", kind="ConfigMap")

        def apply(manager, data, **named):
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shared"}, "data": data}
            return maps.server_side_apply(body, namespace=NAMESPACE, field_manager=manager, **named)

        apply("one", {"a": "1"})
        apply("two", {"b": "2"})
        with self.assertRaises(dynamic.exceptions.ConflictError) as raised:
            apply("two", {"a": "changed"})
        causes = json.loads(raised.exception.body)["details"]["causes"]
        self.assertEqual([(c["reason"], c["field"]) for c in causes], [("FieldManagerConflict", ".data.a")])
        forced = apply("two", {"a": "changed"}, force_conflicts=True)
        self.assertEqual(forced.data.to_dict(), {"a": "changed"}, "what two no longer names and nobody else has is gone")
        managers = {entry.manager for entry in forced.metadata.managedFields}
        self.assertEqual(managers, {"two"})
        feature("server-side apply")

    def test_several_objects_from_one_file(self):
        documents = [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "first"}, "data": {"x": "y"}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "second"}, "spec": {"ports": [{"port": 1}]}},
        ]
        utils.create_from_yaml(client.ApiClient(), yaml_objects=documents, namespace=NAMESPACE)
        self.assertEqual(self.core.read_namespaced_service("second", NAMESPACE).spec.ports[0].protocol, "TCP")


if __name__ == "__main__":
    unittest.main(verbosity=2)
