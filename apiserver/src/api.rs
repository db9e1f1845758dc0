//! What every request has at hand, and the path of a request.

use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use parking_lot::Mutex;
use warren_api::{GroupResource, Kind, ObjectKey, Reason, Registry, Status, Subresource, Uid};
use warren_broker::ServerLink;
use warren_broker::heads::Asked;
use warren_process::trace::{self, Trace};
use warren_process::{Clock, Shutdown, Tasks};
use warren_store::Journal;

use crate::accept::accept;
use crate::admission::{AddressRange, DefaultTolerations, PortRange};
use crate::authn::{self, User};
use crate::authz::{self, Accepted, Facts};
use crate::cache::{Cache, Scope};
use crate::degraded::Looked;
use crate::fabric::{Backlog, NodeStreams, Waiting};
use crate::flow::Flow;
use crate::metrics::Metrics;
use crate::read::Snapshots;
use crate::readers::Readers;
use crate::request::{RequestInfo, ResourceRequest, Target, Verb};
use crate::response::{self, Body};
use crate::subresource::{self, Nodes};
use crate::{
    discovery, fence, heads, health, hops, metrics_api, read, restored, review, watch, write,
};

/// What an operator chooses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub service_range: AddressRange,
    pub node_ports: PortRange,
    pub tolerations: DefaultTolerations,
    pub loopback_only: bool,
    /// What the journal holds for the relay at most.
    pub outbox_bytes: u64,
}

pub(crate) struct Api {
    pub registry: Registry,
    pub cache: Arc<Cache>,
    pub node_streams: Arc<NodeStreams>,
    pub journal: Journal,
    pub flow: Flow,
    pub clock: Arc<dyn Clock>,
    pub settings: Settings,
    pub snapshots: Snapshots,
    pub nodes: Nodes,
    pub proxied: subresource::Proxied,
    pub readiness: warren_process::Readiness,
    pub trace: Trace,
    pub questions: hops::Questions,
    pub held: restored::Held,
    pub discovery: discovery::Documents,
    pub metrics: Metrics,
    /// Where there is a broker.
    pub broker: OnceLock<ServerLink>,
    /// What the relay has before it; empty where there is none.
    pub backlog: Arc<Mutex<Backlog>>,
    /// Those whose broker is away.
    pub readers: Readers,
    pub looked: Looked,
    pub shutdown: Shutdown,
    pub tasks: Tasks,
}

/// A request on its way: who, what, and in which form the answer is wanted.
pub(crate) struct Call {
    pub info: RequestInfo,
    pub accept: crate::accept::Accept,
    pub allowed: authz::Authorized,
    pub http: Request<Body>,
}

/// The path of every request, whichever way it came.
pub(crate) fn handle(
    api: Arc<Api>,
    connection: Option<Arc<User>>,
    request: Request<Body>,
) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        let started = std::time::Instant::now();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let errors_in = response::error_form(request.headers());
        let id = request_id(request.headers());
        let agent = match tracing::enabled!(tracing::Level::DEBUG) {
            true => request.headers().get(header::USER_AGENT).cloned(),
            false => None,
        };
        let (mut user, mut asked) = (None, None);
        let answer = respond(Arc::clone(&api), connection, request, &id, &mut user, &mut asked);
        let mut response = match answer.await {
            Ok(response) => response,
            Err(status) => response::error(&status, errors_in),
        };
        if let Some(asked) = asked {
            heads::tell(&api, &asked, &mut response);
        }
        let took = started.elapsed();
        // Who waits for questions is no slow request.
        if path != hops::QUESTIONS {
            api.metrics.observe(&method, response.status(), took);
        }
        // The access log. A watch or a session is told of when it begins.
        tracing::debug!(
            %method, path, code = response.status().as_u16(), ?took, user = user.as_deref().map(|user| &*user.name),
            ?agent, id = ?id, "request"
        );
        response.headers_mut().insert(REQUEST_ID, id);
        response
    })
}

/// By which a request is found in the log: the client's own, else a new one. Kubernetes' name for it.
const REQUEST_ID: HeaderName = HeaderName::from_static("audit-id");
/// As long as Kubernetes lets a client's be.
const MAX_REQUEST_ID: usize = 64;

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|id| (1..=MAX_REQUEST_ID).contains(&id.len()));
    given.cloned().unwrap_or_else(|| {
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = id.hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
    })
}

async fn respond(
    api: Arc<Api>,
    connection: Option<Arc<User>>,
    http: Request<Body>,
    id: &HeaderValue,
    seen: &mut Option<Arc<User>>,
    asked: &mut Option<Asked>,
) -> Result<Response<Body>, Status> {
    let api = &api;
    let began = trace::now();
    let info = RequestInfo::of(http.method(), http.uri())?;
    let user = authn::authenticate(connection.as_ref(), http.headers())?;
    seen.clone_from(&user);
    *asked = heads::asked(http.headers(), user.as_deref())?;
    let accept = accept(http.headers(), info.query.get("pretty"));
    let resource = match &info.target {
        Target::Path(path) => {
            authz::authorize_path(user.as_deref(), path)?;
            if hops::is_served(path) {
                return hops::answer(api, http, path, &info.query).await;
            }
            // Documents have types of their own; who asks for one gets it, or JSON.
            let accept = accept.unwrap_or_default();
            let headers = http.headers();
            return Ok(serve_path(api, headers, path, &info, user.is_some(), accept).await);
        }
        Target::Resource(resource) => resource,
    };
    let user = user.ok_or_else(authn::unauthorized)?;
    let permit = match is_long_running(resource) {
        true => None,
        false => Some(api.flow.admit(&user, resource.verb.is_read()).await?),
    };
    let selector = info.query.get("fieldSelector");
    let allowed = authz::authorize(&user, resource, selector, api.as_ref())?;
    let allowed = match resource.verb.is_read() {
        true => allowed,
        false => {
            let fence = fence::of(http.headers(), &user, api.as_ref())?;
            let detail = hops::of_request(resource, &user, id);
            allowed.within(fence).of(Accepted { time: began, detail })
        }
    };
    // Also what commits nothing, as a session in a pod; a commit looks again.
    allowed.fence().map(|fence| fence::check(fence, api)).transpose()?;
    let route = route(api.registry, resource)?;
    let verb = resource.verb;
    let deprecation = route.deprecation();
    let accept = match route {
        // What is wanted there is for the other side to say.
        Route::Proxy => accept.unwrap_or_default(),
        _ => accept?,
    };
    let call = Call { info: info.clone(), accept, allowed, http };
    let answer = match (route, verb) {
        (Route::NotServed, _) => not_served(api.registry, &call.info),
        (Route::Proxy, _) => subresource::proxy(api, call).await,
        (Route::NoDefinitions, Verb::List) => Ok(no_definitions(call.accept)),
        (Route::Review, Verb::Create) => review::answer(api, call).await,
        (Route::Usage, Verb::Get | Verb::List) => metrics_api::answer(Arc::clone(api), call).await,
        (Route::Connect(subresource), _) => subresource::connect(api, call, subresource).await,
        (Route::Scale(kind), _) => subresource::scale(api, call, kind).await,
        (Route::Binding, Verb::Create) => subresource::bind(api, call).await,
        (Route::Eviction, Verb::Create) => subresource::evict(api, call).await,
        (Route::Stored(kind, _), Verb::Get) => read::get(api, &call, kind),
        (Route::Stored(kind, None), Verb::List) => read::list(api, &call, kind),
        (Route::Stored(kind, None), Verb::Watch) => watch::start(api, &call, kind),
        (Route::Stored(kind, None), Verb::Create) => write::create(api, call, kind).await,
        (Route::Stored(kind, sub), Verb::Update) => write::update(api, call, kind, sub).await,
        (Route::Stored(kind, sub), Verb::Patch) => write::patch(api, call, kind, sub).await,
        (Route::Stored(kind, None), Verb::Delete) => write::delete(api, call, kind).await,
        (Route::Stored(kind, None), Verb::DeleteCollection) => {
            write::delete_collection(api, call, kind).await
        }
        _ => Err(method_not_allowed()),
    };
    let mut response = answer?;
    if let Some(permit) = permit.filter(|_| response::is_made(&response)) {
        let permit = api.flow.for_writing(&user, permit)?;
        response = response.map(|body| response::keeping(body, permit, &api.tasks));
    }
    Ok(response::warn(response, deprecation.as_slice()))
}

/// What stands behind a resource's path.
enum Route {
    Stored(&'static dyn Kind, Option<Subresource>),
    Scale(&'static dyn Kind),
    Binding,
    Eviction,
    /// To the node: log, exec, attach, portforward.
    Connect(Subresource),
    /// Questions that are answered and not stored.
    Review,
    /// `metrics.k8s.io`
    Usage,
    /// The definitions of custom resources: there are none.
    NoDefinitions,
    /// `proxy` of pods, Services and nodes.
    Proxy,
    NotServed,
}

impl Route {
    fn deprecation(&self) -> Option<String> {
        match self {
            Route::Stored(kind, _) | Route::Scale(kind) => kind.deprecation().map(str::to_owned),
            _ => None,
        }
    }
}

fn route(registry: Registry, request: &ResourceRequest) -> Result<Route, Status> {
    if matches!(request.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io") {
        return Ok(if review::is_served(request) { Route::Review } else { Route::NotServed });
    }
    if request.group == metrics_api::GROUP {
        return Ok(if metrics_api::is_served(request) { Route::Usage } else { Route::NotServed });
    }
    let asked = (request.group.as_str(), request.version.as_str(), request.resource.as_str());
    if asked == ("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        && !request.named
        && request.namespace.is_empty()
    {
        return Ok(Route::NoDefinitions);
    }
    let kind = registry.by_resource(&request.group, &request.version, &request.resource);
    let Some(kind) = kind else { return Ok(Route::NotServed) };
    if !kind.is_namespaced() && !request.namespace.is_empty() {
        return Ok(Route::NotServed);
    }
    if kind.is_namespaced()
        && request.namespace.is_empty()
        && (request.named || !request.verb.is_read())
    {
        // Namespaced objects are named, made and removed within a namespace.
        return if request.named { Ok(Route::NotServed) } else { Err(method_not_allowed()) };
    }
    if request.subresource.is_empty() {
        return match (request.verb, request.named) {
            (Verb::DeleteCollection, _) if crate::prepare::is_namespace(kind) => {
                Err(method_not_allowed())
            }
            (Verb::Create, true) | (Verb::Update | Verb::Patch, false) => Err(method_not_allowed()),
            _ => Ok(Route::Stored(kind, None)),
        };
    }
    let found = kind.subresources().iter().find(|sub| sub.name() == request.subresource);
    Ok(match found.copied() {
        None => Route::NotServed,
        Some(Subresource::Scale) => Route::Scale(kind),
        Some(Subresource::Binding) => Route::Binding,
        Some(Subresource::Eviction) => Route::Eviction,
        Some(Subresource::Proxy) => Route::Proxy,
        Some(
            sub @ (Subresource::Log
            | Subresource::Exec
            | Subresource::Attach
            | Subresource::PortForward),
        ) => Route::Connect(sub),
        Some(sub) => Route::Stored(kind, Some(sub)),
    })
}

/// What the paths of a group do not have is told in a Status, all else in plain text.
fn not_served(registry: Registry, info: &RequestInfo) -> Result<Response<Body>, Status> {
    let Target::Resource(request) = &info.target else { return Ok(response::no_such_path()) };
    let (group, version) = (request.group.as_str(), request.version.as_str());
    let served = registry.iter().any(|k| k.group() == group && k.version() == version)
        || (version == "v1" && review::REVIEWS.iter().any(|(of, ..)| *of == group))
        || (group, version) == (metrics_api::GROUP, metrics_api::VERSION);
    match served {
        true => Err(Status::generic(Reason::NotFound)),
        false => Ok(response::no_such_path()),
    }
}

/// kubectl looks for a definition before it says that a kind is unknown; without the list it says that it has no list.
fn no_definitions(accept: crate::accept::Accept) -> Response<Body> {
    let list = serde_json::json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinitionList",
        "metadata": {"resourceVersion": "0"}, "items": [],
    });
    response::tree(StatusCode::OK, &list, accept)
}

async fn serve_path(
    api: &Api,
    headers: &HeaderMap,
    path: &str,
    info: &RequestInfo,
    is_known: bool,
    accept: crate::accept::Accept,
) -> Response<Body> {
    if let Some(answer) = health::answer(api, path, &info.query, is_known).await {
        return answer;
    }
    discovery::answer(api, path, headers, accept).unwrap_or_else(response::no_such_path)
}

pub(crate) fn method_not_allowed() -> Status {
    Status::generic(Reason::MethodNotAllowed)
}

/// These hold no permit: a watcher is no load while nothing happens.
fn is_long_running(request: &ResourceRequest) -> bool {
    request.verb == Verb::Watch
        || matches!(
            request.subresource.as_str(),
            "log" | "exec" | "attach" | "portforward" | "proxy"
        )
}

impl Api {
    /// What is committed and the broker has not confirmed.
    pub(crate) fn waiting(&self) -> Waiting {
        let mut backlog = self.backlog.lock();
        // What is compacted will not be published either.
        backlog.forget(self.journal.relay_cursor().max(self.journal.floor()));
        backlog.waiting()
    }

    pub(crate) fn pods(&self) -> GroupResource {
        GroupResource::new("", "pods")
    }

    /// Whether a pod of the node that hands it in has this uid.
    pub(crate) fn is_uid_of_a_pod(&self, user: &User, uid: &Uid) -> bool {
        let Some(node) = &user.via_node else { return false };
        let (entries, _) = self.cache.list(&self.pods(), Scope::Node(&node.0, ""));
        entries.iter().any(|entry| entry.change.uid == *uid)
    }

    /// The nodes that must see a change of this object because a pod of theirs refers to it.
    pub(crate) fn nodes_that_refer_to(&self, key: &ObjectKey) -> Vec<Arc<str>> {
        if !key.resource.group.is_empty()
            || !matches!(
                &*key.resource.resource,
                "configmaps" | "secrets" | "persistentvolumeclaims"
            )
        {
            return Vec::new();
        }
        let reference = format!("{}/{}", key.resource.resource, key.name);
        self.cache.refs().nodes(&key.namespace, &reference)
    }
}

impl Facts for Api {
    fn node_of_pod(&self, namespace: &str, name: &str) -> Option<String> {
        let entry = self.cache.get(&self.pods(), namespace, name)?;
        Some(crate::cache::node_of(&entry.change).map_or(String::new(), |node| node.to_string()))
    }

    fn node_refers_to(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        self.cache.refs().uses(node, namespace, &format!("{resource}/{name}"))
    }

    fn loopback_only(&self) -> bool {
        self.settings.loopback_only
    }
}
