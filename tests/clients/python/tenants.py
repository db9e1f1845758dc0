"""An operator of kopf's: every Service that is labelled `tenant` gets a ConfigMap of its own, kept in step, and is let go when
that is written off. `with_kopf.py` runs it."""

import kopf
from kubernetes import client, config


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_):
    config.load_kube_config()
    settings.posting.enabled = True
    settings.watching.server_timeout = 5
    settings.persistence.finalizer = "warren.dev/tenants"


@kopf.on.create("v1", "services", labels={"tenant": kopf.PRESENT})
def made(name, namespace, body, labels, **_):
    child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-tenant"}, "data": {"tenant": labels["tenant"]}}
    kopf.adopt(child, owner=body)
    client.CoreV1Api().create_namespaced_config_map(namespace, child)
    kopf.info(body, reason="Tenant", message=f"{labels['tenant']} moved in")


@kopf.on.field("v1", "services", field="metadata.labels.tenant")
def renamed(old, new, name, namespace, **_):
    if old and new:
        client.CoreV1Api().patch_namespaced_config_map(f"{name}-tenant", namespace, {"data": {"tenant": new}})


@kopf.on.delete("v1", "services", labels={"tenant": kopf.PRESENT})
def left(name, namespace, labels, **_):
    note = {"metadata": {"name": f"{name}-left"}, "data": {"tenant": labels["tenant"]}}
    client.CoreV1Api().create_namespaced_config_map(namespace, note)
