//! Questions that are answered and not stored: who am I, may I.

use http::{Response, StatusCode};
use serde_json::{Value, json};
use warren_api::Status;

use crate::api::{Api, Call};
use crate::authn::{self, User};
use crate::authz;
use crate::request::{ResourceRequest, Verb};
use crate::response::{self, Body};
use crate::write;

/// (group, plural, kind, namespaced), all `v1` and create only.
pub(crate) const REVIEWS: [(&str, &str, &str, bool); 5] = [
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", false),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", true),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", false),
];

pub(crate) fn is_served(request: &ResourceRequest) -> bool {
    request.version == "v1"
        && request.subresource.is_empty()
        && !request.named
        && REVIEWS.iter().any(|(group, plural, _, namespaced)| {
            *group == request.group
                && *plural == request.resource
                && *namespaced != request.namespace.is_empty()
        })
}

pub(crate) async fn answer(api: &Api, call: Call) -> Result<Response<Body>, Status> {
    let request = write::resource(&call)?.clone();
    let Call { allowed, http, accept, .. } = call;
    let mut review = write::value(http).await?;
    if review.is_null() {
        review = json!({});
    }
    if !review.is_object() {
        return Err(Status::bad_request("the body is not an object"));
    }
    let user = allowed.user();
    let (_, _, kind, _) = REVIEWS
        .into_iter()
        .find(|(_, plural, _, _)| *plural == request.resource)
        .ok_or_else(|| Status::internal("no such review"))?;
    match review["kind"].as_str() {
        None | Some("") => {}
        Some(given) if given == kind => {}
        Some(given) => {
            return Err(Status::bad_request(format!("{given} cannot be handled as a {kind}")));
        }
    }
    review["kind"] = kind.into();
    review["apiVersion"] = format!("{}/v1", request.group).into();
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    review["status"] = match kind {
        "SelfSubjectReview" => {
            review["metadata"]["creationTimestamp"] =
                crate::prepare::instant(api.clock.now()).into();
            json!({"userInfo": {"username": user.name, "groups": user.groups}})
        }
        "SelfSubjectRulesReview" => rules(user),
        "SelfSubjectAccessReview" => access(api, user, &review["spec"])?,
        _ => access(api, &subject(&review["spec"])?, &review["spec"])?,
    };
    Ok(response::tree(StatusCode::CREATED, &review, accept))
}

fn subject(spec: &Value) -> Result<User, Status> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let groups: Vec<String> = spec["groups"].as_array().into_iter().flatten().map(text).collect();
    let name = text(&spec["user"]);
    if name.is_empty() && groups.is_empty() {
        let mut errors = warren_api::ErrorList::default();
        errors.invalid("spec.user", "", "at least one of user or group must be specified");
        return Err(Status::invalid("authorization.k8s.io", "SubjectAccessReview", "", errors));
    }
    Ok(User { name, groups, via_node: None })
}

fn access(api: &Api, user: &User, spec: &Value) -> Result<Value, Status> {
    let attributes = &spec["resourceAttributes"];
    if let Some(path) = spec["nonResourceAttributes"]["path"].as_str() {
        let allowed = authz::authorize_path(Some(user), path).is_ok();
        return Ok(verdict(allowed));
    }
    if !attributes.is_object() {
        let mut errors = warren_api::ErrorList::default();
        errors.invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
        return Err(Status::invalid("authorization.k8s.io", "SelfSubjectAccessReview", "", errors));
    }
    let text = |field: &str| attributes[field].as_str().unwrap_or_default().to_owned();
    let verb = match text("verb").as_str() {
        "get" => Some(Verb::Get),
        "list" => Some(Verb::List),
        "watch" => Some(Verb::Watch),
        "create" => Some(Verb::Create),
        "update" => Some(Verb::Update),
        "patch" => Some(Verb::Patch),
        "delete" => Some(Verb::Delete),
        "deletecollection" => Some(Verb::DeleteCollection),
        _ => None,
    };
    // Other verbs (`*`, `impersonate`, …) are for those who may do everything.
    let Some(verb) = verb else { return Ok(verdict(user.is_in(authn::MASTERS))) };
    let request = ResourceRequest {
        verb,
        group: text("group"),
        version: text("version"),
        resource: text("resource"),
        namespace: text("namespace"),
        named: !text("name").is_empty(),
        name: text("name"),
        subresource: text("subresource"),
    };
    let selector = attributes["fieldSelector"]["rawSelector"].as_str().unwrap_or_default();
    Ok(verdict(authz::allows(user, &request, selector, api)))
}

fn verdict(allowed: bool) -> Value {
    match allowed {
        true => json!({"allowed": true}),
        false => {
            json!({"allowed": false, "reason": "the fixed authorizer has no rule that allows it"})
        }
    }
}

/// What `kubectl auth can-i --list` shows. Rules that depend on a node's own objects cannot be said in this form.
fn rules(user: &User) -> Value {
    let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    let paths = |list: &[&str]| json!([{"verbs": ["get"], "nonResourceURLs": list}]);
    let (resources, urls, incomplete) = if user.is_in(authn::MASTERS) {
        (all, json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]), false)
    } else if user.is_in(authn::CONTROLLERS) {
        (all, paths(&["*"]), true)
    } else {
        let own = json!([
            {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
            {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
             "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]},
        ]);
        let urls = paths(&[
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/healthz",
            "/livez",
            "/openapi",
            "/openapi/*",
            "/readyz",
            "/version",
        ]);
        (own, urls, user.as_node().is_some() || user.is_broker())
    };
    json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": incomplete})
}
