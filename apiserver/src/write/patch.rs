//! PATCH: four content types, one way.

use http::Response;
use serde_json::Value;
use warren_api::schema;
use warren_api::{Kind, Object, Reason, Status, Subresource};

use super::{Place, WriteOptions, answer, body, resource, update_object};
use crate::api::{Api, Call};
use crate::codec;
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
        use warren_api::patch;
        let patched = match self {
            Patch::Json(patch) => patch::json(old, patch),
            Patch::Merge(patch) => patch::merge(old, patch),
            Patch::Strategic(patch) => patch::strategic(schema::builtin(), type_name, old, patch),
        };
        patched.map_err(|error| error.status())
    }

    /// The resourceVersion that the patch itself demands.
    fn demands_version(&self) -> bool {
        match self {
            Patch::Json(_) => false,
            Patch::Merge(patch) | Patch::Strategic(patch) => patch["metadata"]["resourceVersion"]
                .as_str()
                .is_some_and(|v| !v.is_empty() && v != "0"),
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
    let options = WriteOptions::read(&info.query, http.headers())?;
    let media_type = codec::media_type(http.headers());
    let body = body(http).await?;
    let patch = Patch::read(&media_type, &body)?;
    let mut warnings = Vec::new();
    let place = Place { kind, request: &request, subresource };
    let conditional = patch.demands_version();
    let done = update_object(api, &allowed, place, &options, conditional, &mut |old| {
        let patched = patch.apply(kind.schema_type(), &Value::from(old.clone()))?;
        let (object, found): (Object, _) =
            codec::object_of_tree(kind, patched, options.validation)?;
        warnings = found;
        Ok(object)
    })
    .await?;
    answer(kind, done, accept, &warnings)
}
