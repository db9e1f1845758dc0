//! PATCH: five content types, one way.

use http::{HeaderMap, Response};
use serde_json::Value;
use warren_api::patch::{self as patches, Manager};
use warren_api::schema::{self, FieldValidation};
use warren_api::{Kind, Object, Reason, Status, Subresource};

use super::{
    Place, WriteOptions, answer, body, create_object, heavy, resource, scene, update_object,
};
use crate::api::{Api, Call};
use crate::authz::Authorized;
use crate::codec;
use crate::commit::{Committed, MAX_ATTEMPTS, key_of};
use crate::prepare::manager;
use crate::request::Query;
use crate::response::Body;

/// A patch, read once.
pub(crate) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

const TYPES: &str = "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json, application/apply-patch+yaml";
const APPLY: &str = "application/apply-patch+yaml";

impl Patch {
    pub(crate) fn read(media_type: &str, body: &[u8]) -> Result<Self, Status> {
        let json = |head: &str| {
            let syntax = |error| format!("{head}{}", codec::syntax_error(body, &error));
            serde_json::from_slice(body).map_err(|error| Status::bad_request(syntax(error)))
        };
        const DECODING: &str = "error decoding patch: ";
        match media_type {
            "application/json-patch+json" => Ok(Patch::Json(json(DECODING)?)),
            "application/merge-patch+json" => Ok(Patch::Merge(json(DECODING)?)),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic(json("")?)),
            _ => Err(Status::new(Reason::UnsupportedMediaType, TYPES)),
        }
    }

    pub(crate) fn apply(&self, type_name: &str, old: Value) -> Result<Value, Status> {
        let patched = match self {
            Patch::Json(patch) => patches::json(old, patch),
            Patch::Merge(patch) => patches::merge(old, patch),
            Patch::Strategic(patch) => patches::strategic(schema::builtin(), type_name, old, patch),
        };
        patched.map_err(|error| error.status())
    }

    /// The patched object, read along its type.
    fn decoded(
        &self,
        kind: &dyn Kind,
        old: &Object,
        validation: FieldValidation,
    ) -> Result<(Object, Vec<String>), Status> {
        let served = || {
            let mut old = old.clone();
            kind.to_served(&mut old);
            Value::from(old)
        };
        let patched = self.apply(kind.schema_type(), served())?;
        let decoded = schema::decode(schema::builtin(), kind.schema_type(), patched, validation);
        let (mut object, found) = decoded.map_err(|error| {
            // Kubernetes shows a strategic patch itself, of the others what they made of the object.
            let shown = match self {
                Patch::Strategic(patch) => patches::go_print(patch),
                _ => self
                    .apply(kind.schema_type(), served())
                    .map_or_else(|error| error.to_string(), |value| value.to_string()),
            };
            let mut errors = warren_api::ErrorList::default();
            errors.invalid("patch", shown, &error.to_string());
            Status::invalid("", "", "", errors)
        })?;
        codec::identify(kind, &mut object)?;
        kind.to_stored(&mut object);
        Ok((object, found))
    }

    /// The resourceVersion that the patch itself demands.
    fn demands_version(&self) -> bool {
        match self {
            Patch::Json(_) => false,
            Patch::Merge(patch) | Patch::Strategic(patch) => patch["metadata"]["resourceVersion"]
                .as_str()
                .is_some_and(|version| !version.is_empty() && version != "0"),
        }
    }
}

pub(crate) async fn patch(
    api: &Api,
    call: Call,
    kind: &'static dyn Kind,
    subresource: Option<Subresource>,
) -> Result<Response<Body>, Status> {
    let request = resource(&call)?.clone();
    let Call { info, accept, allowed, http } = call;
    let mut options = options(&info.query, http.headers())?;
    let media_type = codec::media_type(http.headers());
    let body = body(http).await?;
    options.bytes = body.len();
    let mut warnings = Vec::new();
    let place = Place { kind, request: &request, subresource };
    if options.applied {
        let applied = heavy(body.len(), || Applied::read(place, &body))?;
        let force = info.query.flag("force");
        let done = applied.write(api, &allowed, place, &options, force, &mut warnings).await?;
        return answer(kind, done, accept, &warnings);
    }
    let patch = heavy(body.len(), || Patch::read(&media_type, &body))?;
    let conditional = patch.demands_version();
    let mut wanted = |old: &Object| {
        let (object, found) = patch.decoded(kind, old, options.validation)?;
        warnings = found;
        Ok(object)
    };
    let mut said = Vec::new();
    let done =
        update_object(api, &allowed, place, &options, conditional, &mut wanted, &mut said).await?;
    warnings.append(&mut said);
    answer(kind, done, accept, &warnings)
}

pub(crate) fn options(query: &Query, headers: &HeaderMap) -> Result<WriteOptions, Status> {
    let applied = codec::media_type(headers) == APPLY;
    let mut errors = warren_api::ErrorList::default();
    if !applied && query.has("force") {
        errors.forbidden("force", "may not be specified for non-apply patch");
    }
    if applied && query.get("fieldManager").is_empty() {
        errors.required("fieldManager", "is required for apply patch");
    }
    let options = WriteOptions { applied, ..WriteOptions::check(query, headers, &mut errors) };
    super::options_or("PatchOptions", options, errors)
}

/// What a manager wants of an object: server-side apply.
pub(crate) struct Applied {
    object: Object,
    /// What the configuration demands of the object that is there.
    resource_version: String,
}

impl Applied {
    fn read(place: Place<'_>, body: &[u8]) -> Result<Self, Status> {
        let Place { kind, request, subresource } = place;
        let tree = codec::yaml(body).map_err(|status| Status {
            message: format!("error decoding YAML: {}", status.message),
            ..status
        })?;
        let (schema, type_name) = (schema::builtin(), kind.schema_type());
        let version = tree["apiVersion"].as_str().unwrap_or_default();
        if version != kind.api_version() {
            return Err(Status::bad_request(format!(
                "Incorrect version specified in apply patch. Specified patch version: {version}, \
                 expected: {}",
                kind.api_version()
            )));
        }
        if let Value::Object(map) = &tree {
            patches::check_applied(schema, type_name, map).map_err(|error| error.status())?;
        }
        let ignore = FieldValidation::Ignore;
        let decoded = schema::decode_keeping_zeros(schema, type_name, tree, ignore);
        let (mut object, _) = decoded.map_err(|error| error.status(kind.version(), kind.kind()))?;
        codec::identify(kind, &mut object)?;
        let name = object.name();
        if !name.is_empty() && name != request.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                request.name
            )));
        }
        object.set_at(&["metadata", "name"], request.name.as_str());
        let given = object.namespace();
        if !given.is_empty() && given != request.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        if kind.is_namespaced() {
            object.set_at(&["metadata", "namespace"], request.namespace.as_str());
        }
        let version = object.remove_at(&["metadata", "resourceVersion"]);
        // What this path does not write, nobody owns through it.
        match subresource {
            Some(Subresource::Status) => object.retain(|key, _| {
                matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")
            }),
            _ if kind.has(Subresource::Status) => drop(object.remove("status")),
            _ => {}
        }
        let resource_version = version.as_ref().and_then(Value::as_str).unwrap_or_default();
        Ok(Self { resource_version: resource_version.to_owned(), object })
    }

    /// The part of the object that an applied Scale is about: its number of replicas.
    pub(crate) fn scale(place: Place<'_>, body: &[u8]) -> Result<Self, Status> {
        const TYPE: &str = "autoscaling/v1.Scale";
        let Place { kind, request, .. } = place;
        let tree = codec::yaml(body).map_err(|status| Status {
            message: format!("error decoding YAML: {}", status.message),
            ..status
        })?;
        let version = tree["apiVersion"].as_str().unwrap_or_default();
        if version != "autoscaling/v1" {
            return Err(Status::bad_request(format!(
                "Incorrect version specified in apply patch. Specified patch version: {version}, \
                 expected: autoscaling/v1"
            )));
        }
        if let Value::Object(map) = &tree {
            patches::check_applied(schema::builtin(), TYPE, map).map_err(|error| error.status())?;
        }
        let ignore = FieldValidation::Ignore;
        let decoded = schema::decode_keeping_zeros(schema::builtin(), TYPE, tree, ignore);
        let (scale, _) = decoded.map_err(|error| error.status("v1", "Scale"))?;
        let mut object = Object::default();
        codec::identify(kind, &mut object)?;
        for field in ["name", "namespace", "uid"] {
            if let Some(value) = scale.at(&["metadata", field]) {
                object.set_at(&["metadata", field], value.clone());
            }
        }
        if object.name().is_empty() {
            object.set_at(&["metadata", "name"], request.name.as_str());
        }
        if let Some(replicas) = scale.at(&["spec", "replicas"]) {
            if replicas.as_i64().is_some_and(|replicas| replicas < 0) {
                let mut errors = warren_api::ErrorList::default();
                errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
                return Err(Status::invalid("autoscaling", "Scale", &request.name, errors));
            }
            object.set_at(&["spec", "replicas"], replicas.clone());
        }
        let version = scale.str_at(&["metadata", "resourceVersion"]).to_owned();
        Ok(Self { object, resource_version: version })
    }

    /// Creates what is not there; else merges into what is.
    pub(crate) async fn write(
        &self,
        api: &Api,
        allowed: &Authorized,
        place: Place<'_>,
        options: &WriteOptions,
        force: bool,
        said: &mut Vec<String>,
    ) -> Result<Committed, Status> {
        let Place { kind, request, subresource } = place;
        let key = key_of(kind, &request.namespace, &request.name);
        let uid = self.object.str_at(&["metadata", "uid"]);
        let mut now = scene(api, kind, &request.namespace, subresource, &options.manager);
        now.applied = true;
        let manager = manager(&now);
        for _ in 0..MAX_ATTEMPTS {
            let there = api.cache.get(&key.resource, &key.namespace, &key.name).is_some();
            let done = if there {
                let conditional = !self.resource_version.is_empty();
                let mut merged = |old: &Object| self.merge(kind, Some(old), &manager, force);
                update_object(api, allowed, place, options, conditional, &mut merged, said).await
            } else if subresource.is_some() {
                return Err(Status::not_found(&key.resource, &key.name));
            } else if !uid.is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object \
                     was found"
                );
                return Err(Status::conflict(&key.resource, &key.name, &why));
            } else {
                let mut merged = || self.merge(kind, None, &manager, force);
                let namespace = &request.namespace;
                create_object(api, allowed, kind, namespace, options, &mut merged, said).await
            };
            match done {
                // It came or went in between.
                Err(status) if matches!(status.reason, Reason::AlreadyExists) && !there => {}
                Err(status) if matches!(status.reason, Reason::NotFound) && there => {}
                done => return done,
            }
        }
        Err(Status::conflict(&key.resource, &key.name, crate::prepare::MODIFIED))
    }

    fn merge(
        &self,
        kind: &dyn Kind,
        live: Option<&Object>,
        manager: &Manager,
        force: bool,
    ) -> Result<Object, Status> {
        let live = live.map(|live| {
            let mut live = live.clone();
            kind.to_served(&mut live);
            live
        });
        let merged = patches::apply(
            schema::builtin(),
            kind.schema_type(),
            live.as_ref(),
            &self.object,
            manager,
            force,
        );
        let mut object = merged.map_err(|error| error.status())?;
        kind.to_stored(&mut object);
        if !self.resource_version.is_empty() {
            object.set_at(&["metadata", "resourceVersion"], self.resource_version.as_str());
        }
        Ok(object)
    }
}
