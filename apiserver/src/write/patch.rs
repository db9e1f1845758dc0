//! PATCH: five content types, one way.

use http::{HeaderMap, Response};
use serde_json::Value;
use warren_api::patch::{self as patches, Manager};
use warren_api::schema::{self, FieldValidation};
use warren_api::{Kind, Object, Reason, Status, Subresource};

use super::{Place, WriteOptions, answer, body, create_object, resource, scene, update_object};
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
        let json = || codec::value(body, codec::Format::Json);
        match media_type {
            "application/json-patch+json" => Ok(Patch::Json(json()?)),
            "application/merge-patch+json" => Ok(Patch::Merge(json()?)),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic(json()?)),
            _ => Err(Status::new(Reason::UnsupportedMediaType, TYPES)),
        }
    }

    pub(crate) fn apply(&self, type_name: &str, old: &Value) -> Result<Value, Status> {
        let patched = match self {
            Patch::Json(patch) => patches::json(old, patch),
            Patch::Merge(patch) => patches::merge(old, patch),
            Patch::Strategic(patch) => patches::strategic(schema::builtin(), type_name, old, patch),
        };
        patched.map_err(|error| error.status())
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
    let options = options(&info.query, http.headers())?;
    let media_type = codec::media_type(http.headers());
    let body = body(http).await?;
    let mut warnings = Vec::new();
    let place = Place { kind, request: &request, subresource };
    if options.applied {
        let applied = Applied::read(place, &body, options.validation, &mut warnings)?;
        let force = info.query.flag("force");
        let done = applied.write(api, &allowed, place, &options, force).await?;
        return answer(kind, done, accept, &warnings);
    }
    let patch = Patch::read(&media_type, &body)?;
    let conditional = patch.demands_version();
    let done = update_object(api, &allowed, place, &options, conditional, &mut |old| {
        let mut old = old.clone();
        kind.to_served(&mut old);
        let patched = patch.apply(kind.schema_type(), &Value::from(old))?;
        let (object, found): (Object, _) =
            codec::object_of_tree(kind, patched, options.validation)?;
        warnings = found;
        Ok(object)
    })
    .await?;
    answer(kind, done, accept, &warnings)
}

fn options(query: &Query, headers: &HeaderMap) -> Result<WriteOptions, Status> {
    let mut options = WriteOptions::read(query, headers)?;
    options.applied = codec::media_type(headers) == APPLY;
    let mut errors = warren_api::ErrorList::default();
    if options.applied && !options.manager_given {
        errors.required("fieldManager", "is required for apply patch");
    }
    if !options.applied && query.has("force") {
        errors.forbidden("force", "may not be specified for non-apply patch");
    }
    match errors.is_empty() {
        true => Ok(options),
        false => Err(Status::invalid("meta.k8s.io", "PatchOptions", "", errors)),
    }
}

/// What a manager wants of an object: server-side apply.
struct Applied {
    object: Object,
    /// What the configuration demands of the object that is there.
    resource_version: String,
}

impl Applied {
    fn read(
        place: Place<'_>,
        body: &[u8],
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Status> {
        let Place { kind, request, subresource } = place;
        let tree = codec::yaml(body)?;
        let decoded =
            schema::decode_keeping_zeros(schema::builtin(), kind.schema_type(), tree, validation);
        let (mut object, found) =
            decoded.map_err(|error| error.status(&kind.api_version(), kind.kind()))?;
        *warnings = found;
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

    /// Creates what is not there; else merges into what is.
    async fn write(
        &self,
        api: &Api,
        allowed: &Authorized,
        place: Place<'_>,
        options: &WriteOptions,
        force: bool,
    ) -> Result<Committed, Status> {
        let Place { kind, request, subresource } = place;
        let key = key_of(kind, &request.namespace, &request.name);
        let mut now = scene(api, kind, &request.namespace, subresource, &options.manager);
        now.applied = true;
        let manager = manager(&now);
        for _ in 0..MAX_ATTEMPTS {
            let there = api.cache.get(&key.resource, &key.namespace, &key.name).is_some();
            let done = if there {
                let conditional = !self.resource_version.is_empty();
                update_object(api, allowed, place, options, conditional, &mut |old| {
                    self.merge(kind, Some(old), &manager, force)
                })
                .await
            } else if subresource.is_some() {
                return Err(Status::not_found(&key.resource, &key.name));
            } else {
                create_object(api, allowed, kind, &request.namespace, options, &mut || {
                    self.merge(kind, None, &manager, force)
                })
                .await
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
