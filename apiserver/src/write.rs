//! The verbs that write: read the body once, then prepare and commit until it holds.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};
use warren_api::patch::Manager;
use warren_api::schema::FieldValidation;
use warren_api::{ErrorList, Kind, Object, Reason, Status, Subresource};

use crate::accept::{Accept, Form};
use crate::admission::{Admission, given_uid, release};
use crate::api::{Api, Call};
use crate::authz::Authorized;
use crate::cache::Entry;
use crate::codec::{self, Format};
use crate::commit::{Committed, Plan, commit, key_of};
use crate::prepare::{self, DeleteOptions, Outcome, Scene};
use crate::read::{Page, page, render};
use crate::request::{Query, ResourceRequest, Target};
use crate::response::{self, Body};
use crate::table;

mod heavy;
mod patch;

use heavy::heavy;
pub(crate) use patch::{Applied, Patch, options as patch_options, patch};

/// Kubernetes' own bound.
pub(crate) const MAX_BODY: usize = 3 << 20;

/// As long as Kubernetes lets a request take; its body holds one of the few permits.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// What a writer may say in the query.
#[derive(Clone, Debug)]
pub(crate) struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
    pub manager: String,
    /// Server-side apply, which computes managed fields itself.
    pub applied: bool,
    /// How large the body was.
    pub bytes: usize,
}

const MAX_MANAGER: usize = 128;

impl WriteOptions {
    /// `kind` is what Kubernetes calls them: `CreateOptions`, `UpdateOptions`.
    pub(crate) fn read(kind: &str, query: &Query, headers: &HeaderMap) -> Result<Self, Status> {
        let mut errors = ErrorList::default();
        let options = Self::check(query, headers, &mut errors);
        options_or(kind, options, errors)
    }

    fn check(query: &Query, headers: &HeaderMap, errors: &mut ErrorList) -> Self {
        let given = query.get("fieldManager");
        if given.len() > MAX_MANAGER {
            errors.too_long("fieldManager", MAX_MANAGER);
        }
        for (at, c) in given.char_indices().filter(|(_, c)| c.is_control()) {
            let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
            errors.invalid("fieldManager", given, &why);
        }
        let dry_run = prepare::dry_run(query.all("dryRun"), errors);
        let validation = query.get("fieldValidation");
        let known = validation.parse();
        if known.is_err() {
            let words = ["", "Ignore", "Strict", "Warn"];
            errors.not_supported("fieldValidation", validation, &words);
        }
        let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        Self {
            dry_run,
            validation: known.unwrap_or_default(),
            manager: Manager::name_of(given, agent),
            applied: false,
            bytes: 0,
        }
    }
}

fn options_or<T>(kind: &str, options: T, errors: ErrorList) -> Result<T, Status> {
    match errors.is_empty() {
        true => Ok(options),
        false => Err(Status::invalid("meta.k8s.io", kind, "", errors)),
    }
}

/// The request's body, within the limits.
pub(crate) async fn body(http: Request<Body>) -> Result<Bytes, Status> {
    timely(http.into_body(), MAX_BODY).await
}

/// A body of at most so many bytes, in the time that a request may take.
pub(crate) async fn timely(body: Body, limit: usize) -> Result<Bytes, Status> {
    let late = |_| {
        let message = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
        Status::new(Reason::Timeout, message)
    };
    tokio::time::timeout(BODY_TIMEOUT, collect(body, limit)).await.map_err(late)?
}

/// A body as one piece; usually it came as one. One that says beforehand that it is too large is not read.
pub(crate) async fn collect(mut body: Body, limit: usize) -> Result<Bytes, Status> {
    let too_large = || {
        let message = format!("Request entity too large: limit is {limit}");
        Status::new(Reason::RequestEntityTooLarge, message)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Status::bad_request(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + parts.len() + data.len() > limit {
            return Err(too_large());
        }
        if whole.is_empty() && parts.is_empty() {
            whole = data;
        } else {
            parts.extend_from_slice(&std::mem::take(&mut whole));
            parts.extend_from_slice(&data);
        }
    }
    Ok(if parts.is_empty() { whole } else { parts.freeze() })
}

/// The resource part of a call.
pub(crate) fn resource(call: &Call) -> Result<&ResourceRequest, Status> {
    match &call.info.target {
        Target::Resource(request) => Ok(request),
        Target::Path(path) => Err(Status::internal(format!("{path} is no resource"))),
    }
}

pub(crate) async fn create(
    api: &Api,
    call: Call,
    kind: &'static dyn Kind,
) -> Result<Response<Body>, Status> {
    let request = resource(&call)?.clone();
    let Call { info, accept, allowed, http } = call;
    let mut options = WriteOptions::read("CreateOptions", &info.query, http.headers())?;
    let format = codec::format(http.headers())?;
    let body = body(http).await?;
    options.bytes = body.len();
    let (object, mut warnings) =
        heavy(options.bytes, || codec::object(kind, &body, format, options.validation))?;
    // One attempt is the rule: the tree is used up by it, and read again where there is another.
    let mut first = Some(object);
    let mut wanted = || match first.take() {
        Some(object) => Ok(object),
        None => codec::object(kind, &body, format, options.validation).map(|(object, _)| object),
    };
    let mut said = Vec::new();
    let namespace = &request.namespace;
    let done =
        create_object(api, &allowed, kind, namespace, &options, &mut wanted, &mut said).await?;
    warnings.append(&mut said);
    answer(kind, done, accept, &warnings)
}

/// Creates an object; `wanted` gives it, decoded, on every attempt. `said` is what its writer should hear.
pub(crate) async fn create_object(
    api: &Api,
    allowed: &Authorized,
    kind: &'static dyn Kind,
    namespace: &str,
    options: &WriteOptions,
    wanted: &mut (dyn FnMut() -> Result<Object, Status> + Send),
    said: &mut Vec<String>,
) -> Result<Committed, Status> {
    let mut prepare = || {
        let object = wanted()?;
        let generated = object.name().is_empty();
        let from_prefix = !object.str_at(&["metadata", "generateName"]).is_empty();
        let given = given_uid(allowed.user(), kind, &object);
        let given = given.filter(|uid| !api.is_uid_of_a_pod(allowed.user(), uid));
        let uid = given.map_or_else(|| uuid::Uuid::new_v4().to_string(), |uid| uid.to_string());
        let suffix = warren_api::suffix(rand::random());
        let scene = Scene {
            kind: kind.stored(),
            served: kind,
            namespace,
            subresource: None,
            now: api.clock.now(),
            uid: &uid,
            suffix: &suffix,
            manager: &options.manager,
            applied: options.applied,
        };
        let mut admission = Admission::new(api, allowed.user());
        let object =
            prepare::create(&scene, object, &mut |new, old| admission.admit(&scene, new, old))?;
        *said = scene.kind.warnings(&object, None);
        let key = key_of(kind, namespace, object.name());
        if !generated && let Some(entry) = api.cache.get(&key.resource, namespace, &key.name) {
            let mut status = match from_prefix {
                true => Status::generated_name_conflict(&key.resource, &key.name),
                false => Status::already_exists(&key.resource, &key.name),
            };
            if entry.object().is_being_deleted() {
                status.message = format!("object is being deleted: {}", status.message);
            }
            return Err(status);
        }
        Ok(Plan {
            key,
            old: None,
            outcome: Outcome::Store(object),
            expects: admission.expects,
            writes: admission.writes,
        })
    };
    let mut prepare = || heavy(options.bytes, &mut prepare);
    commit(api, allowed, kind.stored(), true, options.dry_run, &mut prepare).await
}

pub(crate) async fn update(
    api: &Api,
    call: Call,
    kind: &'static dyn Kind,
    subresource: Option<Subresource>,
) -> Result<Response<Body>, Status> {
    let request = resource(&call)?.clone();
    let Call { info, accept, allowed, http } = call;
    let mut options = WriteOptions::read("UpdateOptions", &info.query, http.headers())?;
    let format = codec::format(http.headers())?;
    let body = body(http).await?;
    options.bytes = body.len();
    let (object, mut warnings) =
        heavy(options.bytes, || codec::object(kind, &body, format, options.validation))?;
    same_name(object.name(), &request.name)?;
    let conditional = object.resource_version().is_some_and(|rv| rv.0 != 0);
    let place = Place { kind, request: &request, subresource };
    let (mut wanted, mut said) = (|_: &Object| Ok(object.clone()), Vec::new());
    let done =
        update_object(api, &allowed, place, &options, conditional, &mut wanted, &mut said).await?;
    warnings.append(&mut said);
    answer(kind, done, accept, &warnings)
}

/// What a body calls the object must be what the path calls it.
pub(crate) fn same_name(given: &str, on_url: &str) -> Result<(), Status> {
    match given {
        "" => Err(Status::bad_request(format!(
            "the name of the object ({on_url} based on URL) was undeterminable: name must be provided"
        ))),
        given if given != on_url => Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({on_url})"
        ))),
        _ => Ok(()),
    }
}

/// Which object a write is about.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub kind: &'static dyn Kind,
    pub request: &'a ResourceRequest,
    pub subresource: Option<Subresource>,
}

/// Changes what is there. `wanted` gives the new object from the old one, on every attempt; `said` is what its writer should
/// hear.
pub(crate) async fn update_object(
    api: &Api,
    allowed: &Authorized,
    place: Place<'_>,
    options: &WriteOptions,
    conditional: bool,
    wanted: &mut (dyn FnMut(&Object) -> Result<Object, Status> + Send),
    said: &mut Vec<String>,
) -> Result<Committed, Status> {
    let Place { kind, request, subresource } = place;
    let key = key_of(kind, &request.namespace, &request.name);
    let mut prepare = |entry: Arc<Entry>| {
        let old = entry.object();
        let mut scene = scene(api, kind, &request.namespace, subresource, &options.manager);
        scene.applied = options.applied;
        let mut admission = Admission::new(api, allowed.user());
        let outcome = prepare::update(&scene, &old, wanted(&old)?, &mut |new, old| {
            admission.admit(&scene, new, old)
        })?;
        *said = match (&outcome, subresource) {
            (Outcome::Store(new), None) => scene.kind.warnings(new, Some(&old)),
            _ => Vec::new(),
        };
        let Admission { expects, mut writes, .. } = admission;
        if let (Outcome::Remove(_), "Service", "") = (&outcome, kind.kind(), kind.group()) {
            writes.extend(release(api, &old));
        }
        Ok(Plan { key: key.clone(), old: Some(entry), outcome, expects, writes })
    };
    let mut prepare = || {
        let entry = api
            .cache
            .get(&key.resource, &key.namespace, &key.name)
            .ok_or_else(|| Status::not_found(&key.resource, &key.name))?;
        heavy(options.bytes + entry.body().len(), || prepare(entry))
    };
    commit(api, allowed, kind.stored(), !conditional, options.dry_run, &mut prepare).await
}

pub(crate) fn scene<'a>(
    api: &Api,
    kind: &'static dyn Kind,
    namespace: &'a str,
    subresource: Option<Subresource>,
    manager: &'a str,
) -> Scene<'a> {
    Scene {
        kind: kind.stored(),
        served: kind,
        namespace,
        subresource,
        now: api.clock.now(),
        uid: "",
        suffix: "",
        manager,
        applied: false,
    }
}

pub(crate) async fn delete(
    api: &Api,
    call: Call,
    kind: &'static dyn Kind,
) -> Result<Response<Body>, Status> {
    let request = resource(&call)?.clone();
    let Call { info, accept, allowed, http } = call;
    let options = delete_options(http, &info.query).await?;
    let done =
        delete_object(api, &allowed, kind, &request.namespace, &request.name, &options).await?;
    answer(kind, done, accept, &[])
}

pub(crate) async fn delete_options(
    http: Request<Body>,
    query: &Query,
) -> Result<DeleteOptions, Status> {
    let format = codec::format(http.headers());
    let body = body(http).await?;
    let value = match body.is_empty() {
        true => Value::Null,
        // Kubernetes' own code is this one, as it does not say whose fault it is.
        false => codec::value(&body, format?).map_err(|status| match status.reason {
            Reason::BadRequest => Status::unknown(status.message),
            _ => status,
        })?,
    };
    DeleteOptions::read(&value, query)
}

pub(crate) async fn delete_object(
    api: &Api,
    allowed: &Authorized,
    kind: &'static dyn Kind,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Committed, Status> {
    let key = key_of(kind, namespace, name);
    let conditional = options.resource_version.is_some();
    commit(api, allowed, kind.stored(), !conditional, options.dry_run, &mut || {
        let entry = api
            .cache
            .get(&key.resource, namespace, name)
            .ok_or_else(|| Status::not_found(&key.resource, name))?;
        let old = entry.object();
        crate::admission::deletes(allowed.user(), kind.stored(), &old)?;
        let scene = scene(api, kind, namespace, None, "");
        let outcome = prepare::delete(&scene, &old, options)?;
        let released = match (&outcome, kind.kind(), kind.group()) {
            (Outcome::Remove(_), "Service", "") => release(api, &old),
            _ => Vec::new(),
        };
        let (key, old) = (key.clone(), Some(entry));
        Ok(Plan { key, old, outcome, expects: Vec::new(), writes: released })
    })
    .await
}

pub(crate) async fn delete_collection(
    api: &Api,
    call: Call,
    kind: &'static dyn Kind,
) -> Result<Response<Body>, Status> {
    let request = resource(&call)?.clone();
    let Call { info, accept, allowed, http } = call;
    if kind.is_namespaced() && request.namespace.is_empty() {
        return Err(crate::api::method_not_allowed());
    }
    let options = delete_options(http, &info.query).await?;
    let (entries, meta) = match page(api, &request, &info.query, &allowed.user().name, kind)? {
        Page::Expired(answer) => return Ok(answer),
        Page::Found { entries, meta } => (entries, meta),
    };
    let mut deleted = Vec::new();
    for entry in &entries {
        let name = &entry.change.key.name;
        let namespace = &entry.change.key.namespace;
        match delete_object(api, &allowed, kind, namespace, name, &options).await {
            Ok(_) => deleted.push(Arc::clone(entry)),
            Err(status) if status.reason == Reason::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    Ok(render(kind, deleted, &meta, accept, table::Include::default(), api.clock.now()))
}

/// The answer to a write.
pub(crate) fn answer(
    kind: &'static dyn Kind,
    done: Committed,
    accept: Accept,
    warnings: &[String],
) -> Result<Response<Body>, Status> {
    let (code, bytes) = match done {
        Committed::Unchanged(entry) => (StatusCode::OK, entry.body().clone()),
        Committed::Stored(change) => {
            let created = change.op == warren_store::Op::Added;
            let code = if created { StatusCode::CREATED } else { StatusCode::OK };
            (code, change.body.clone())
        }
        Committed::Removed(change) if returns_deleted(kind) => {
            (StatusCode::OK, change.body.clone())
        }
        Committed::Removed(change) => {
            (StatusCode::OK, codec::bytes(&deleted(kind, &change.key.name, &change.uid.0)))
        }
        Committed::Dry { object, removed: true } if !returns_deleted(kind) => {
            let uid = object.str_at(&["metadata", "uid"]).to_owned();
            (StatusCode::OK, codec::bytes(&deleted(kind, object.name(), &uid)))
        }
        Committed::Dry { object, .. } => {
            let created = object.resource_version().is_none();
            let code = if created { StatusCode::CREATED } else { StatusCode::OK };
            (code, codec::bytes(&object.into()))
        }
    };
    let response = match accept.form {
        Form::Object | Form::AggregatedDiscovery => {
            response::encoded(code, codec::served(kind, bytes), accept)
        }
        Form::Table | Form::Metadata => {
            let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let value = match (accept.form, Object::try_from(value)) {
                (_, Err(other)) => other,
                (_, Ok(status)) if status.kind() == "Status" => status.into(),
                (Form::Table, Ok(object)) => table::of_objects(
                    kind,
                    [&object].into_iter(),
                    jiff::Timestamp::now(),
                    &Map::new(),
                    table::Include::default(),
                ),
                (_, Ok(object)) => table::metadata_of(&object),
            };
            response::tree(code, &value, accept)
        }
    };
    Ok(response::warn(response, warnings))
}

/// Kinds whose DELETE answers with the object even where it is gone at once; all others answer with a Status.
fn returns_deleted(kind: &dyn Kind) -> bool {
    kind.group().is_empty()
        && matches!(
            kind.kind(),
            "Pod"
                | "Service"
                | "ServiceAccount"
                | "PodTemplate"
                | "PersistentVolume"
                | "PersistentVolumeClaim"
                | "ResourceQuota"
        )
}

fn deleted(kind: &dyn Kind, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": kind.plural(), "uid": uid});
    if !kind.group().is_empty() {
        details["group"] = kind.group().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// A Status that says that all is well.
pub(crate) fn success(code: StatusCode) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16(),
    });
    response::json(code, codec::bytes(&status))
}

/// The body's format, for requests whose content type is one of the plain ones.
pub(crate) async fn value(http: Request<Body>) -> Result<Value, Status> {
    let format: Format = codec::format(http.headers())?;
    codec::value(&body(http).await?, format)
}
