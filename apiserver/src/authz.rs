//! Who may do what: the fixed authorizer of `docs/architecture.md`, section 9. Pure but for the [`Facts`] it asks.
//!
//! It answers with [`Authorized`], which nothing else can make and which every commit demands: a write that was not
//! authorised does not compile.

use std::sync::Arc;

use warren_api::{Fence, GroupResource, Reason, Status};

use crate::authn::{BROKER_ANONYMOUS, BROKER_PREFIX, CONTROLLERS, EVENT_TTL, MASTERS, User};
use crate::request::{ResourceRequest, Verb};

/// Proof that a request was authorised, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct Authorized {
    user: Arc<User>,
    fence: Option<Fence>,
    request: Option<Arc<Accepted>>,
}

/// The request that brought the proof, for the hops of what it writes.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Microseconds since 1970.
    pub time: i64,
    /// Who asked for what.
    pub detail: String,
}

impl Authorized {
    pub(crate) fn user(&self) -> &User {
        &self.user
    }

    /// The term that a commit must find.
    pub(crate) fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }

    pub(crate) fn within(self, fence: Option<Fence>) -> Self {
        Self { fence, ..self }
    }

    pub(crate) fn of(self, request: Accepted) -> Self {
        Self { request: Some(Arc::new(request)), ..self }
    }

    pub(crate) fn request(&self) -> Option<&Accepted> {
        self.request.as_deref()
    }
}

/// What the authorizer must know of the cluster's state.
pub(crate) trait Facts {
    /// The node that a pod is bound to, empty where none is chosen yet; `None` where there is no such pod.
    fn node_of_pod(&self, namespace: &str, name: &str) -> Option<String>;
    /// Whether a pod of the node refers to this ConfigMap or Secret.
    fn node_refers_to(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool;
    /// Whether the API listens on loopback only.
    fn loopback_only(&self) -> bool;
}

/// `field_selector` is the request's; a node may list pods only where it pins its own name.
pub(crate) fn authorize(
    user: &Arc<User>,
    request: &ResourceRequest,
    field_selector: &str,
    facts: &dyn Facts,
) -> Result<Authorized, Status> {
    if allows(user, request, field_selector, facts) {
        Ok(Authorized { user: Arc::clone(user), fence: None, request: None })
    } else {
        Err(forbidden(user, request))
    }
}

/// Paths that are no resources: discovery and documents for everybody with a credential, metrics for few.
pub(crate) fn authorize_path(user: Option<&User>, path: &str) -> Result<(), Status> {
    // As Kubernetes' system:public-info-viewer: probes and version need no credential.
    let public = ["/livez", "/readyz", "/healthz", "/version"]
        .iter()
        .any(|p| path == *p || path.strip_prefix(p).is_some_and(|rest| rest.starts_with('/')));
    let Some(user) = user else {
        return if public { Ok(()) } else { Err(crate::authn::unauthorized()) };
    };
    let known = ["/api", "/apis", "/openapi", "/"]
        .iter()
        .any(|p| path == *p || (*p != "/" && path.starts_with(&format!("{p}/"))));
    if public || known || user.is_in(MASTERS) || user.is_in(CONTROLLERS) {
        return Ok(());
    }
    let why = format!("forbidden: User {:?} cannot get path {path:?}", user.name);
    Err(Status { details: Some(Box::default()), ..Status::new(Reason::Forbidden, why) })
}

pub(crate) fn may_impersonate(user: &User, wanted: &str, groups: &[&str]) -> Result<(), Status> {
    let broker = wanted.starts_with(BROKER_PREFIX) || wanted == BROKER_ANONYMOUS;
    let allowed = user.is_in(MASTERS) || (user.as_node().is_some() && broker && groups.is_empty());
    if allowed {
        return Ok(());
    }
    Err(Status::forbidden(
        &GroupResource::new("", "users"),
        wanted,
        &format!(
            "User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        ),
    ))
}

/// The answer of an access review as well as of a request.
pub(crate) fn allows(
    user: &User,
    request: &ResourceRequest,
    field_selector: &str,
    facts: &dyn Facts,
) -> bool {
    if user.is_in(MASTERS) || is_about_oneself(request) {
        return true;
    }
    if user.is_in(CONTROLLERS) {
        let sub = request.subresource.as_str();
        return !matches!(sub, "exec" | "attach" | "portforward" | "proxy");
    }
    if let Some(node) = user.as_node() {
        return allows_node(node, request, field_selector, facts);
    }
    if user.name == EVENT_TTL {
        return deletes_events(request);
    }
    user.is_broker() && allows_broker(user, request, field_selector, facts)
}

/// Reviews that say what the asker itself is and may.
fn is_about_oneself(request: &ResourceRequest) -> bool {
    request.verb == Verb::Create
        && matches!(
            (request.group.as_str(), request.resource.as_str()),
            ("authentication.k8s.io", "selfsubjectreviews")
                | ("authorization.k8s.io", "selfsubjectaccessreviews" | "selfsubjectrulesreviews")
        )
}

fn deletes_events(r: &ResourceRequest) -> bool {
    (r.group.as_str(), r.resource.as_str(), r.subresource.as_str()) == ("", "events", "")
        && matches!(r.verb, Verb::Delete | Verb::DeleteCollection)
}

fn allows_node(node: &str, r: &ResourceRequest, field_selector: &str, facts: &dyn Facts) -> bool {
    let own_name = r.name == node;
    match (r.group.as_str(), r.resource.as_str(), r.subresource.as_str()) {
        // A create carries its name in the body; admission compares it.
        ("", "nodes", "" | "status") => match r.verb {
            Verb::Create => true,
            Verb::Delete | Verb::DeleteCollection => false,
            _ => own_name,
        },
        ("coordination.k8s.io", "leases", "") if r.namespace == "kube-node-lease" => {
            r.verb == Verb::Create || own_name
        }
        ("", "pods", sub @ ("" | "status")) => match r.verb {
            Verb::Create => sub.is_empty(),
            Verb::List | Verb::Watch => pins_node(field_selector, node),
            // Of a pod that is there, a node says how it is, not what it should be.
            Verb::Update | Verb::Patch if sub.is_empty() => false,
            Verb::DeleteCollection => false,
            // A pod that is gone is answered by 404, so that an agent can tell.
            _ => facts.node_of_pod(&r.namespace, &r.name).is_none_or(|bound| bound == node),
        },
        ("", "services" | "endpoints" | "namespaces", "")
        | ("discovery.k8s.io", "endpointslices", "") => r.verb.is_read(),
        ("", "configmaps" | "secrets", "") => {
            // A list over all namespaces that pins a name would show the others' objects of that name.
            r.verb.is_read()
                && !r.namespace.is_empty()
                && !r.name.is_empty()
                && facts.node_refers_to(node, &r.resource, &r.namespace, &r.name)
        }
        ("" | "events.k8s.io", "events", "") => {
            matches!(r.verb, Verb::Create | Verb::Update | Verb::Patch)
        }
        _ => false,
    }
}

/// Pods of the node that handed the command in; through the server's own queue pods anywhere, for nobody in
/// particular only where the API is on loopback.
fn allows_broker(
    user: &User,
    r: &ResourceRequest,
    field_selector: &str,
    facts: &dyn Facts,
) -> bool {
    if (r.group.as_str(), r.resource.as_str(), r.subresource.as_str()) != ("", "pods", "")
        || r.verb == Verb::DeleteCollection
    {
        return false;
    }
    match &user.via_node {
        None => user.name != BROKER_ANONYMOUS || facts.loopback_only(),
        // Admission compares the node of a pod that is created.
        Some(node) => match r.verb {
            Verb::Create => true,
            Verb::List | Verb::Watch => pins_node(field_selector, &node.0),
            _ => facts.node_of_pod(&r.namespace, &r.name).is_none_or(|bound| *bound == *node.0),
        },
    }
}

fn pins_node(field_selector: &str, node: &str) -> bool {
    field_selector
        .split(',')
        .filter_map(|term| term.strip_prefix("spec.nodeName="))
        .any(|value| value.trim_start_matches('=') == node)
}

fn forbidden(user: &User, r: &ResourceRequest) -> Status {
    let sub = if r.subresource.is_empty() {
        r.resource.clone()
    } else {
        format!("{}/{}", r.resource, r.subresource)
    };
    let scope = if r.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", r.namespace)
    };
    Status::forbidden(
        &GroupResource::new(r.group.as_str(), r.resource.as_str()),
        &r.name,
        &format!(
            "User {:?} cannot {} resource {sub:?} in API group {:?} {scope}",
            user.name,
            r.verb.name(),
            r.group
        ),
    )
}

#[cfg(test)]
mod tests;
