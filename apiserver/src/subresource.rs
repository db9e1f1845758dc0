//! What stands behind an object's name: scale, binding, eviction, and the verbs that reach the node.

use http::{Response, StatusCode};
use serde_json::{Value, json};
use warren_api::{GroupResource, Kind, Object, Reason, Status, Subresource, schema};

use crate::accept::{Accept, Form};
use crate::api::{Api, Call};
use crate::codec;
use crate::commit::{Committed, Plan, commit, key_of};
use crate::prepare::{self, DeleteOptions, Outcome};
use crate::request::{Query, Verb};
use crate::response::{self, Body};
use crate::table::{self, Include};
use crate::write::{self, Place, WriteOptions, delete_object, resource, update_object};

mod http_proxy;
mod nodes;
mod proxy;

pub(crate) use http_proxy::{Proxied, answer as proxy};
pub(crate) use nodes::{Nodes, address_of as node_address};
pub(crate) use proxy::connect;

/// `autoscaling/v1` Scale of an object: get, update, patch.
pub(crate) async fn scale(
    api: &Api,
    call: Call,
    kind: &'static dyn Kind,
) -> Result<Response<Body>, Status> {
    let request = resource(&call)?.clone();
    if request.verb == Verb::Get {
        let key = key_of(kind, &request.namespace, &request.name);
        let entry = api
            .cache
            .get(&key.resource, &key.namespace, &key.name)
            .ok_or_else(|| Status::not_found(&key.resource, &key.name))?;
        return Ok(answer_scale(api, &entry.object(), &call.info.query, call.accept));
    }
    if !matches!(request.verb, Verb::Update | Verb::Patch) {
        return Err(crate::api::method_not_allowed());
    }
    let Call { info, accept, allowed, http } = call;
    let options = match request.verb {
        Verb::Update => WriteOptions::read("UpdateOptions", &info.query, http.headers())?,
        _ => write::patch_options(&info.query, http.headers())?,
    };
    let media_type = codec::media_type(http.headers());
    let whole = match request.verb {
        Verb::Update => Some(codec::format(http.headers())?),
        _ => None,
    };
    let body = write::body(http).await?;
    // Through the object's own path: spec.replicas is its spec. Its managed fields name the subresource.
    let place = Place { kind, request: &request, subresource: Some(Subresource::Scale) };
    if options.applied {
        let applied = write::Applied::scale(place, &body)?;
        let (force, mut said) = (info.query.flag("force"), Vec::new());
        let done = applied.write(api, &allowed, place, &options, force, &mut said).await?;
        return Ok(answer_scale(api, &object_of(done), &info.query, accept));
    }
    let change = match whole {
        Some(format) => Change::Put(read_scale(codec::value(&body, format)?)?),
        None => Change::Patch(write::Patch::read(&media_type, &body)?),
    };
    let conditional = match &change {
        Change::Put(scale) => !text(&scale["metadata"]["resourceVersion"]).is_empty(),
        Change::Patch(_) => false,
    };
    let mut wanted = |old: &Object| {
        let wanted = match &change {
            Change::Put(scale) => scale.clone(),
            Change::Patch(patch) => {
                read_scale(patch.apply("autoscaling/v1.Scale", scale_of(old))?)?
            }
        };
        scaled(kind, old, &wanted)
    };
    // The template is as it was: there is nothing new to say of it.
    let mut said = Vec::new();
    let done =
        update_object(api, &allowed, place, &options, conditional, &mut wanted, &mut said).await?;
    Ok(answer_scale(api, &object_of(done), &info.query, accept))
}

/// In the form that the client wants.
fn answer_scale(api: &Api, object: &Object, query: &Query, accept: Accept) -> Response<Body> {
    let scale = scale_of(object);
    let include = match accept.form {
        Form::Object | Form::AggregatedDiscovery => {
            return response::tree(StatusCode::OK, &scale, accept);
        }
        Form::Table => Include::parse(query.get("includeObject")),
        Form::Metadata => Include::Metadata,
    };
    let mut table = table::of_scale(&scale, api.clock.now(), include);
    let shown = match accept.form {
        Form::Metadata => table["rows"][0]["object"].take(),
        _ => table,
    };
    response::tree(StatusCode::OK, &shown, accept)
}

fn object_of(done: Committed) -> Object {
    match done {
        Committed::Unchanged(entry) => entry.object(),
        Committed::Stored(change) | Committed::Removed(change) => {
            crate::cache::Entry::new(change).object()
        }
        Committed::Dry { object, .. } => object,
    }
}

/// What is no Scale would be one without a number, and end all pods.
fn read_scale(value: Value) -> Result<Value, Status> {
    typed("autoscaling/v1.Scale", "autoscaling/v1", "Scale", value)
}

/// Reads a tree along its type; an absent `kind` is the type's.
fn typed(type_name: &str, api_version: &str, kind: &str, value: Value) -> Result<Value, Status> {
    let ignore = schema::FieldValidation::Ignore;
    let (object, _) = schema::decode(schema::builtin(), type_name, value, ignore)
        .map_err(|error| error.status(api_version.rsplit('/').next().unwrap_or_default(), kind))?;
    if !matches!(object.kind(), "") && object.kind() != kind
        || !matches!(object.api_version(), "") && object.api_version() != api_version
    {
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {kind}",
            object.kind(),
            object.api_version()
        )));
    }
    Ok(object.into())
}

enum Change {
    Put(Value),
    Patch(write::Patch),
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The object with the number of replicas that the scale asks for.
fn scaled(kind: &dyn Kind, old: &Object, scale: &Value) -> Result<Object, Status> {
    let mut errors = warren_api::ErrorList::default();
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().ok_or_else(|| {
            Status::bad_request("Scale in version \"v1\" cannot be handled as a Scale: spec.replicas must be an integer")
        })?,
    };
    if !(0..=i64::from(i32::MAX)).contains(&replicas) {
        errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", old.name(), errors));
    }
    let name = text(&scale["metadata"]["name"]);
    write::same_name(name, old.name())?;
    let mut new = old.clone();
    new.set_at(&["spec", "replicas"], replicas);
    // What the scale says of them must be so.
    for field in ["namespace", "uid"] {
        let given = text(&scale["metadata"][field]);
        if !given.is_empty() {
            new.set_at(&["metadata", field], given);
        }
    }
    let version = text(&scale["metadata"]["resourceVersion"]);
    match version.is_empty() {
        true => drop(new.remove_at(&["metadata", "resourceVersion"])),
        false => new.set_at(&["metadata", "resourceVersion"], version),
    }
    codec::identify(kind, &mut new)?;
    Ok(new)
}

fn scale_of(object: &Object) -> Value {
    let number = |path: &[&str]| object.at(path).and_then(Value::as_i64).unwrap_or(0);
    let selector = warren_api::LabelSelector::from_object(object.at(&["spec", "selector"]));
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", field]) {
            metadata[field] = value.clone();
        }
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": number(&["spec", "replicas"])},
        "status": {"replicas": number(&["status", "replicas"])},
    });
    if let Ok(selector) = selector {
        scale["status"]["selector"] = selector.to_string().into();
    }
    scale
}

/// `pods/binding`: gives a pod its node, once.
pub(crate) async fn bind(api: &Api, call: Call) -> Result<Response<Body>, Status> {
    let request = resource(&call)?.clone();
    let Call { info, allowed, http, .. } = call;
    let options = WriteOptions::read("CreateOptions", &info.query, http.headers())?;
    let binding = typed("core/v1.Binding", "v1", "Binding", write::value(http).await?)?;
    if text(&binding["metadata"]["name"]) != request.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let node = text(&binding["target"]["name"]).to_owned();
    let mut errors = warren_api::ErrorList::default();
    if !matches!(text(&binding["target"]["kind"]), "" | "Node") {
        let kind = text(&binding["target"]["kind"]);
        errors.not_supported("target.kind", kind, &["Node", "<empty>"]);
    }
    if node.is_empty() {
        errors.required("target.name", "");
    }
    if !errors.is_empty() {
        // Kubernetes hands these on as they are, as an error without a reason.
        let shown: Vec<String> =
            errors.0.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        return Err(Status::unknown(match shown.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        }));
    }
    let pods = api.pods();
    let kind = pod_kind(api)?;
    let uid = text(&binding["metadata"]["uid"]).to_owned();
    let key = key_of(kind, &request.namespace, &request.name);
    commit(api, &allowed, kind, true, options.dry_run, &mut || {
        let entry = api
            .cache
            .get(&pods, &request.namespace, &request.name)
            .ok_or_else(|| Status::not_found(&pods, &request.name))?;
        let old = entry.object();
        let bindings = GroupResource::new("", "pods/binding");
        let conflict = |why: String| Status::conflict(&bindings, &request.name, &why);
        if !uid.is_empty() && uid != old.str_at(&["metadata", "uid"]) {
            return Err(prepare::other_uid(&pods, &old, &uid));
        }
        if old.is_being_deleted() {
            return Err(conflict(format!(
                "pod {} is being deleted, cannot be assigned to a host",
                request.name
            )));
        }
        let bound = old.str_at(&["spec", "nodeName"]);
        if !bound.is_empty() {
            return Err(conflict(format!(
                "pod {} is already assigned to node {bound:?}",
                request.name
            )));
        }
        let gates = old.at(&["spec", "schedulingGates"]).and_then(Value::as_array);
        if gates.is_some_and(|gates| !gates.is_empty()) {
            return Err(conflict(format!(
                "pod {} has non-empty .spec.schedulingGates",
                request.name
            )));
        }
        let mut new = old.clone();
        new.set_at(&["spec", "nodeName"], node.as_str());
        if let Some(annotations) = binding["metadata"]["annotations"].as_object() {
            for (key, value) in annotations {
                new.set_at(&["metadata", "annotations", key], value.clone());
            }
        }
        api.held.may_bind(&request.name, old.str_at(&["metadata", "uid"]))?;
        set_condition(&mut new, &prepare::instant(api.clock.now()));
        let outcome = Outcome::Store(new);
        let (expects, writes) = (Vec::new(), Vec::new());
        Ok(Plan { key: key.clone(), old: Some(entry), outcome, expects, writes })
    })
    .await?;
    Ok(write::success(StatusCode::CREATED))
}

/// `PodScheduled` is true from now on.
fn set_condition(pod: &mut Object, now: &str) {
    let mut conditions = match pod.at(&["status", "conditions"]) {
        Some(Value::Array(conditions)) => conditions.clone(),
        _ => Vec::new(),
    };
    conditions.retain(|c| c["type"] != "PodScheduled");
    conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now}));
    pod.set_at(&["status", "conditions"], conditions);
}

/// `pods/eviction`: a delete. There are no disruption budgets yet that could refuse it.
pub(crate) async fn evict(api: &Api, call: Call) -> Result<Response<Body>, Status> {
    let request = resource(&call)?.clone();
    let Call { info, allowed, http, .. } = call;
    let dry_run = WriteOptions::read("CreateOptions", &info.query, http.headers())?.dry_run;
    let eviction = typed("policy/v1.Eviction", "policy/v1", "Eviction", write::value(http).await?)?;
    if text(&eviction["metadata"]["name"]) != request.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut options = DeleteOptions::read(&eviction["deleteOptions"], &Query::default())?;
    options.dry_run |= dry_run;
    let kind = pod_kind(api)?;
    delete_object(api, &allowed, kind, &request.namespace, &request.name, &options).await?;
    Ok(write::success(StatusCode::CREATED))
}

fn pod_kind(api: &Api) -> Result<&'static dyn Kind, Status> {
    api.registry
        .by_group_resource(&api.pods())
        .ok_or_else(|| Status::new(Reason::NotFound, "pods are not served"))
}
