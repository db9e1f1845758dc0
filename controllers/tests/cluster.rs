//! All controllers and the scheduler against a real API server in this process, with a kubelet that only pretends.
#![expect(clippy::unwrap_used, reason = "a test fails where anything is not as it should be")]

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use warren_apiserver::{Config, Pem, Server, Tls, User};
use warren_client::{Connection, in_process};
use warren_process::Tasks;

struct Cluster {
    client: kube::Client,
    server: Server,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start(nodes: usize) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter("warn").with_test_writer().try_init();
        let folder = tempfile::tempdir().unwrap();
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "apiserver");
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        let pem = |text: String| Pem::Bytes(text.into_bytes());
        let tls = Tls {
            client_ca: pem(ca),
            certificate: pem(certificate),
            key: pem(key.serialize_pem()),
        };
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = Config::new(folder.path().join("warren.db"), listen, tls);
        let tasks = Tasks::new();
        let server = Server::start(config, &tasks).await.unwrap();
        let user = |name, group| User::new(name, &[group]);
        let controllers = user("system:controllers", "system:controllers");
        let connection =
            Connection::new(in_process(server.local_service(controllers)), server.fabric());
        warren_controllers::start(connection, Default::default(), &tasks).unwrap();
        let client = in_process(server.local_service(user("admin", "system:masters")));
        let cluster = Self { client, server, tasks, _folder: folder };
        for i in 0..nodes {
            cluster.join(&format!("n{i}")).await;
        }
        let kubelet = cluster.client.clone();
        cluster.tasks.spawn("kubelet", async move {
            loop {
                pretend(&kubelet).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        cluster
    }

    async fn join(&self, name: &str) {
        let node: Node = of(json!({"metadata": {"name": name}}));
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": {
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "20"},
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "20"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let patch = Patch::Merge(status);
        nodes.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
        let lease: Lease = of(json!({"metadata": {"name": name},
            "spec": {"holderIdentity": name, "renewTime": "2026-01-01T00:00:00.000000Z"}}));
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        leases.create(&PostParams::default(), &lease).await.unwrap();
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create<K>(&self, object: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + DeserializeOwned,
    {
        self.api::<K>().create(&PostParams::default(), &of(object)).await.unwrap();
    }

    async fn list<K>(&self) -> Vec<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        self.api::<K>().list(&ListParams::default()).await.unwrap().items
    }

    async fn stop(self) {
        self.tasks.shutdown().trigger();
        let _ = self.tasks.wait(Duration::from_secs(5)).await;
        self.server.close().await;
    }
}

fn of<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Runs what is bound, ends Jobs' pods well, and lets go what is to go.
async fn pretend(client: &kube::Client) {
    let Ok(pods) = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await else {
        return;
    };
    for pod in pods {
        let meta = &pod.metadata;
        let (name, namespace) = (meta.name.as_deref().unwrap(), meta.namespace.as_deref().unwrap());
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let spec = pod.spec.as_ref().unwrap();
        if spec.node_name.is_none() {
            continue;
        }
        if meta.deletion_timestamp.is_some() {
            let _ = api.delete(name, &DeleteParams::default().grace_period(0)).await;
            continue;
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase.unwrap_or("Pending") != "Pending" {
            continue;
        }
        let is_job = meta.owner_references.iter().flatten().any(|owner| owner.kind == "Job");
        let broken = spec.containers[0].image.as_deref() == Some("broken");
        let hash = name.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31) + u32::from(byte));
        let ip = format!("10.9.{}.{}", hash >> 8 & 255, hash & 255);
        let patch = if is_job {
            json!({"status": {"phase": "Succeeded"}})
        } else {
            json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if broken { "False" } else { "True" },
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
        };
        let _ = api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    }
}

/// Waits for a state; panics with the last one seen where it does not come.
async fn until<T: std::fmt::Debug>(
    what: &str,
    mut look: impl AsyncFnMut() -> T,
    good: impl Fn(&T) -> bool,
) -> T {
    let start = std::time::Instant::now();
    loop {
        let state = look().await;
        if good(&state) {
            return state;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{what}; last seen: {state:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn deployment(image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image,
                    "ports": [{"containerPort": 80}]}]}}},
    })
}

fn complete(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == Some(4)
        && status.replicas == Some(4)
        && status.available_replicas == Some(4)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_out_serves_and_goes_with_all_it_owns() {
    let cluster = Cluster::start(2).await;
    cluster
        .create::<Service>(json!({"metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}))
        .await;
    cluster.create::<Deployment>(deployment("one")).await;
    let web = cluster.api::<Deployment>();
    until("the first rollout", async || web.get("web").await.unwrap(), complete).await;

    let patch = Patch::Merge(json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": "two", "ports": [{"containerPort": 80}]}]}}}}));
    web.patch("web", &PatchParams::default(), &patch).await.unwrap();
    until("the second rollout", async || web.get("web").await.unwrap(), complete).await;
    let pods =
        until("old pods are gone", async || cluster.list::<Pod>().await, |pods| pods.len() == 4)
            .await;
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    assert!(pods.iter().all(|pod| image(pod) == "two"));
    let nodes: std::collections::BTreeSet<_> =
        pods.iter().map(|pod| pod.spec.as_ref().unwrap().node_name.clone()).collect();
    assert_eq!(nodes.len(), 2, "spread over the nodes");
    assert_eq!(cluster.list::<ReplicaSet>().await.len(), 2);

    let ready = async || {
        let slices = cluster.list::<EndpointSlice>().await;
        let of_web = slices.iter().filter(|slice| {
            slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"))
                == Some(&"web".to_owned())
        });
        of_web.map(|slice| slice.endpoints.len()).sum::<usize>()
    };
    until("endpoints", ready, |ready| *ready == 4).await;
    let endpoints = cluster.api::<Endpoints>().get("web").await.unwrap();
    assert_eq!(endpoints.subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 4);

    let events = async || {
        let events = cluster.list::<Event>().await;
        events.into_iter().filter_map(|e| e.reason).collect::<std::collections::BTreeSet<_>>()
    };
    let wanted = ["ScalingReplicaSet", "Scheduled", "SuccessfulCreate", "SuccessfulDelete"];
    until("events", events, |seen| wanted.iter().all(|reason| seen.contains(*reason))).await;

    // A settled cluster writes nothing.
    let revision = async || {
        let list = cluster.api::<Pod>().list(&ListParams::default()).await.unwrap();
        list.metadata.resource_version.unwrap()
    };
    let calm = async || {
        let before = revision().await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        before == revision().await
    };
    until("calm", calm, |calm| *calm).await;

    let delete = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    web.delete("web", &delete).await.unwrap();
    until("the deployment is gone", async || web.get_opt("web").await.unwrap(), Option::is_none)
        .await;
    assert!(cluster.list::<ReplicaSet>().await.is_empty(), "the foreground goes first");
    until("pods are gone", async || cluster.list::<Pod>().await, Vec::is_empty).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_completes_and_what_fits_nowhere_says_why() {
    let cluster = Cluster::start(1).await;
    cluster
        .create::<Job>(json!({"metadata": {"name": "work"}, "spec": {"completions": 5,
            "parallelism": 2, "template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "c", "image": "i"}]}}}}))
        .await;
    let jobs = cluster.api::<Job>();
    let done = until(
        "the job",
        async || jobs.get("work").await.unwrap(),
        |job| {
            let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Complete"))
        },
    )
    .await;
    assert_eq!(done.status.unwrap().succeeded, Some(5));
    let finalizers = async || {
        let pods = cluster.list::<Pod>().await;
        pods.iter().flat_map(|pod| pod.metadata.finalizers.clone().unwrap_or_default()).count()
    };
    until("no finalizer stays", finalizers, |count| *count == 0).await;

    cluster
        .create::<Pod>(json!({"metadata": {"name": "large"}, "spec": {"containers": [
            {"name": "c", "image": "i", "resources": {"requests": {"cpu": "64"}}}]}}))
        .await;
    let pods = cluster.api::<Pod>();
    let reason = async || {
        let pod = pods.get("large").await.unwrap();
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        let scheduled = conditions.into_iter().find(|c| c.type_ == "PodScheduled");
        scheduled.and_then(|condition| condition.message).unwrap_or_default()
    };
    until("a reason", reason, |reason| reason == "0/1 nodes are available: 1 Insufficient cpu.")
        .await;
    // Room comes with a node.
    cluster.join("large").await;
    let patch = Patch::Merge(json!({"status": {"allocatable": {"cpu": "96"}}}));
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.patch_status("large", &PatchParams::default(), &patch).await.unwrap();
    until(
        "a node",
        async || pods.get("large").await.unwrap(),
        |pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("large"),
    )
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_gets_its_account_and_is_emptied_when_it_goes() {
    let cluster = Cluster::start(1).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace: Namespace = of(json!({"metadata": {"name": "team"}}));
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "team");
    until("an account", async || accounts.get_opt("default").await.unwrap(), Option::is_some).await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "team");
    let map: ConfigMap = of(json!({"metadata": {"name": "settings"}}));
    maps.create(&PostParams::default(), &map).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "team");
    let pod: Pod = of(json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "i"}]}}));
    pods.create(&PostParams::default(), &pod).await.unwrap();
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    let left = async || {
        let pods = pods.list(&ListParams::default()).await.unwrap().items;
        (namespaces.get_opt("team").await.unwrap().is_some(), pods)
    };
    until("it is gone", left, |(there, _)| !there).await;
    assert!(maps.get_opt("settings").await.unwrap().is_none());
    cluster.stop().await;
}
