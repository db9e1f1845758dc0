//! GET and LIST: slices of the cache.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use http::{Response, StatusCode};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use warren_api::{ErrorList, GroupResource, Kind, Reason, Revision, Status, protobuf};

use crate::accept::{Accept, Form};
use crate::api::{Api, Call};
use crate::cache::Entry;
use crate::codec;
use crate::commit::key_of;
use crate::request::{Query, ResourceRequest, no_number};
use crate::response::{self, Body, ListBody};
use crate::selection::Selection;
use crate::table::{self, Include};
use crate::write::resource;

/// Snapshots that paged lists go on from. Each holds references, so its cost is what has changed since. Where there are
/// more, the oldest of whoever has most goes, and its readers get 410 with a token to go on.
const MAX_SNAPSHOTS: usize = 64;
/// As long as Kubernetes lets a token live.
const SNAPSHOT_SECONDS: i64 = 300;

#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// The oldest first.
    kept: Mutex<VecDeque<Snapshot>>,
}

#[derive(Clone, Debug)]
struct Snapshot {
    /// By chance, so that a token from before a restart means no other list.
    id: u64,
    resource: GroupResource,
    selection: Selection,
    revision: Revision,
    taken: Timestamp,
    /// Whose list it is.
    user: Arc<str>,
    entries: Arc<Vec<Arc<Entry>>>,
}

impl Snapshots {
    /// Answers the snapshot's id; a list that is kept already has one.
    fn keep(&self, snapshot: Snapshot) -> u64 {
        let mut kept = self.kept.lock();
        let fresh = |s: &Snapshot| (snapshot.taken - s.taken).get_seconds() < SNAPSHOT_SECONDS;
        kept.retain(fresh);
        let same = |s: &&Snapshot| {
            (s.revision, &s.resource, &s.selection)
                == (snapshot.revision, &snapshot.resource, &snapshot.selection)
        };
        if let Some(known) = kept.iter().find(same) {
            return known.id;
        }
        if kept.len() == MAX_SNAPSHOTS {
            let of = |user: &str| kept.iter().filter(|s| *s.user == *user).count();
            let most = kept.iter().map(|s| of(&s.user)).max();
            let oldest = kept.iter().position(|s| Some(of(&s.user)) == most);
            oldest.and_then(|at| kept.remove(at));
        }
        let id = snapshot.id;
        kept.push_back(snapshot);
        id
    }

    fn find(
        &self,
        token: &Token,
        resource: &GroupResource,
        selection: &Selection,
        now: Timestamp,
    ) -> Option<Snapshot> {
        let kept = self.kept.lock();
        let is_it = |s: &&Snapshot| {
            (s.id, s.revision) == (token.snapshot, token.revision)
                && (&s.resource, &s.selection) == (resource, selection)
        };
        let found = kept.iter().find(is_it)?;
        ((now - found.taken).get_seconds() < SNAPSHOT_SECONDS).then(|| found.clone())
    }
}

/// Where a paged list goes on: the snapshot's revision and the last key that was given. Revision 0: no snapshot, the
/// state of now from that key on.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    #[serde(rename = "rv")]
    revision: Revision,
    #[serde(rename = "id", default)]
    snapshot: u64,
    #[serde(rename = "ns")]
    namespace: String,
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json)
    }

    fn decode(text: &str) -> Result<Self, Status> {
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or_else(|| invalid_token(text))
    }
}

/// Whether it is a token, of whatever list.
pub(crate) fn check_token(text: &str) -> Result<(), Status> {
    Token::decode(text).map(drop)
}

/// What is no base64 is told where it goes wrong.
fn invalid_token(text: &str) -> Status {
    const HEAD: &str = "invalid continue token: continue key is not valid";
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    Status::bad_request(match text.find(|c| !is_letter(c)) {
        Some(at) => format!("{HEAD}: illegal base64 data at input byte {at}"),
        None => format!("{HEAD}: it was not given by this server"),
    })
}

pub(crate) fn get(
    api: &Api,
    call: &Call,
    kind: &'static dyn Kind,
) -> Result<Response<Body>, Status> {
    let request = resource(call)?;
    not_newer_than(api, revision(call.info.query.get("resourceVersion"))?)?;
    let key = key_of(kind, &request.namespace, &request.name);
    let entry = api
        .cache
        .get(&key.resource, &key.namespace, &key.name)
        .ok_or_else(|| Status::not_found(&key.resource, &key.name))?;
    Ok(match call.accept.form {
        Form::Object | Form::AggregatedDiscovery => {
            let body = codec::served(kind, entry.body().clone());
            response::encoded(StatusCode::OK, body, call.accept)
        }
        Form::Metadata => {
            response::tree(StatusCode::OK, &table::metadata_of(&entry.object()), call.accept)
        }
        Form::Table => {
            let mut meta = Map::new();
            meta.insert("resourceVersion".to_owned(), entry.revision().to_string().into());
            let object = entry.object();
            let objects = [&object].into_iter();
            let include = Include::parse(call.info.query.get("includeObject"));
            let table = table::of_objects(kind, objects, api.clock.now(), &meta, include);
            response::tree(StatusCode::OK, &table, call.accept)
        }
    })
}

pub(crate) fn list(
    api: &Api,
    call: &Call,
    kind: &'static dyn Kind,
) -> Result<Response<Body>, Status> {
    let include = Include::parse(call.info.query.get("includeObject"));
    let (request, query) = (resource(call)?, &call.info.query);
    Ok(match page(api, request, query, &call.allowed.user().name, kind)? {
        Page::Expired(answer) => answer,
        Page::Found { entries, meta } => {
            render(kind, entries, &meta, call.accept, include, api.clock.now())
        }
    })
}

/// What a list answers with.
pub(crate) enum Page {
    Found {
        entries: Vec<Arc<Entry>>,
        meta: Map<String, Value>,
    },
    /// The token is too old.
    Expired(Response<Body>),
}

/// The objects that a list or a deletecollection is about, within its limit and from its token on.
pub(crate) fn page(
    api: &Api,
    request: &ResourceRequest,
    query: &Query,
    user: &str,
    kind: &'static dyn Kind,
) -> Result<Page, Status> {
    let selection = Selection::of(kind, request, query)?;
    let exact = list_revision(api, query)?;
    // Below zero is no limit either.
    let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(0);
    let stored = kind.stored();
    let name = stored.resource();
    let now = api.clock.now();
    let token = match query.get("continue") {
        "" => None,
        text => Some(Token::decode(text)?),
    };
    let kept = match &token {
        Some(token) if token.revision.0 > 0 => {
            match api.snapshots.find(token, &name, &selection, now) {
                Some(snapshot) => Some(snapshot),
                None => return Ok(Page::Expired(expired(token))),
            }
        }
        _ => None,
    };
    let (all, revision) = match &kept {
        Some(snapshot) => (Arc::clone(&snapshot.entries), snapshot.revision),
        None => {
            let (mut all, revision) = api.cache.list(&name, selection.scope(stored));
            if !selection.is_plain() {
                all.retain(|entry| selection.matches(stored, entry));
            }
            (Arc::new(all), revision)
        }
    };
    if exact.is_some_and(|exact| exact != revision) && token.is_none() {
        return Err(gone());
    }
    let start = token.as_ref().map_or(0, |token| {
        let last = (token.namespace.as_str(), token.name.as_str());
        all.partition_point(|entry| (&*entry.change.key.namespace, &*entry.change.key.name) <= last)
    });
    let rest = &all[start..];
    let mut meta = Map::new();
    meta.insert("resourceVersion".to_owned(), revision.to_string().into());
    if limit == 0 || rest.len() <= limit {
        let entries = match start {
            0 => Arc::unwrap_or_clone(all),
            _ => rest.to_vec(),
        };
        return Ok(Page::Found { entries, meta });
    }
    let entries = rest[..limit].to_vec();
    let last = &rest[limit - 1].change.key;
    let (namespace, last) = (last.namespace.to_string(), last.name.to_string());
    if selection.is_plain() {
        // Kubernetes counts only where it need not look at what remains.
        meta.insert("remainingItemCount".to_owned(), (rest.len() - limit).into());
    }
    // The pages of a list share what the first kept.
    let snapshot = match kept {
        Some(snapshot) => snapshot.id,
        None => api.snapshots.keep(Snapshot {
            id: rand::random(),
            resource: name,
            selection,
            revision,
            taken: now,
            user: user.into(),
            entries: Arc::clone(&all),
        }),
    };
    let token = Token { revision, snapshot, namespace, name: last };
    meta.insert("continue".to_owned(), token.encode().into());
    Ok(Page::Found { entries, meta })
}

pub(crate) fn render(
    kind: &'static dyn Kind,
    entries: Vec<Arc<Entry>>,
    meta: &Map<String, Value>,
    accept: Accept,
    include: Include,
    now: Timestamp,
) -> Response<Body> {
    let served = |entry: &Arc<Entry>| {
        let mut object = entry.object();
        kind.to_served(&mut object);
        object
    };
    let value = match accept.form {
        Form::Object
            if accept.protobuf.is_some()
                && protobuf::has_type(&kind.api_version(), kind.kind()) =>
        {
            let items = entries.iter().map(|entry| Cow::Owned(served(entry).0));
            return match protobuf::encode_list(&kind.api_version(), kind.kind(), meta, items) {
                Ok(bytes) => response::protobuf(StatusCode::OK, bytes),
                Err(error) => {
                    response::error(&Status::internal(error.to_string()), Accept::default())
                }
            };
        }
        Form::Object | Form::AggregatedDiscovery
            if !accept.yaml
                && !accept.pretty
                && accept.protobuf.is_none()
                && kind.conversion().is_none() =>
        {
            let mut head = serde_json::to_vec(&json!({
                "kind": format!("{}List", kind.kind()), "apiVersion": kind.api_version(), "metadata": meta,
            }))
            .unwrap_or_default();
            head.pop();
            head.extend_from_slice(b",\"items\":[");
            let body = ListBody::new(head, entries);
            let length = body.len();
            let mut response = response::json(StatusCode::OK, bytes::Bytes::new());
            response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
            *response.body_mut() = http_body_util::BodyExt::boxed_unsync(body);
            return response;
        }
        Form::Object | Form::AggregatedDiscovery => json!({
            "kind": format!("{}List", kind.kind()), "apiVersion": kind.api_version(), "metadata": meta,
            "items": entries.iter().map(|e| Value::from(served(e))).collect::<Vec<_>>(),
        }),
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
            "items": entries.iter().map(|e| table::metadata_of(&e.object())).collect::<Vec<_>>(),
        }),
        Form::Table => {
            let objects: Vec<_> = entries.iter().map(|e| e.object()).collect();
            table::of_objects(kind, objects.iter(), now, meta, include)
        }
    };
    response::tree(StatusCode::OK, &value, accept)
}

/// What a LIST may say of revisions, as `ValidateListOptions` of k8s.io/apimachinery has it. `Some` where exactly this
/// revision is wanted.
fn list_revision(api: &Api, query: &Query) -> Result<Option<Revision>, Status> {
    const MATCH: &str = "resourceVersionMatch";
    let (text, matching) = (query.get("resourceVersion"), query.get(MATCH));
    let continues = !query.get("continue").is_empty();
    let mut errors = ErrorList::default();
    if !matching.is_empty() {
        if text.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.forbidden(MATCH, why);
        }
        if continues {
            errors.forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided");
        }
        if !matches!(matching, "NotOlderThan" | "Exact") {
            errors.not_supported(MATCH, matching, &["Exact", "NotOlderThan", ""]);
        }
        if matching == "Exact" && text == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.forbidden(MATCH, why);
        }
    }
    if query.has("sendInitialEvents") {
        errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    if !errors.is_empty() {
        return Err(Status::invalid("meta.k8s.io", "ListOptions", "", errors));
    }
    if continues && !matches!(text, "" | "0") {
        let why = "specifying resource version is not allowed when using continue";
        return Err(Status::bad_request(why));
    }
    let wanted = revision(text)
        .map_err(|status| Status::bad_request(format!("invalid resource version: {status}")))?;
    not_newer_than(api, wanted)?;
    Ok((matching == "Exact").then_some(wanted))
}

/// The cache is never older than what anybody was told, so "not older than" is always met; the future is refused.
fn not_newer_than(api: &Api, wanted: Revision) -> Result<(), Status> {
    let current = api.cache.revision();
    if wanted > current { Err(too_large(wanted, current)) } else { Ok(()) }
}

/// Empty is 0.
pub(crate) fn revision(text: &str) -> Result<Revision, Status> {
    if text.is_empty() {
        return Ok(Revision(0));
    }
    text.parse().map(Revision).map_err(|error: std::num::ParseIntError| {
        let why = no_number(error.kind());
        Status::new(
            Reason::Invalid,
            format!(
                "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {why}"
            ),
        )
    })
}

pub(crate) fn too_large(wanted: Revision, current: Revision) -> Status {
    let message = format!("Too large resource version: {wanted}, current: {current}");
    let mut status = Status::new(Reason::Timeout, format!("Timeout: {message}"));
    status.details = Some(Box::new(warren_api::Details {
        causes: vec![warren_api::FieldError {
            kind: warren_api::Cause::ResourceVersionTooLarge,
            field: String::new(),
            message: "Too large resource version".to_owned(),
        }],
        retry_after_seconds: Some(1),
        ..Default::default()
    }));
    status
}

fn gone() -> Status {
    Status::new(Reason::Expired, "The resourceVersion for the provided list is too old.")
}

/// With a token that goes on from the same key in the state of now.
fn expired(token: &Token) -> Response<Body> {
    let fresh = Token {
        revision: Revision(0),
        snapshot: 0,
        namespace: token.namespace.clone(),
        name: token.name.clone(),
    };
    let status = Status::new(
        Reason::Expired,
        "The provided continue parameter is too old to display a consistent list result. You can \
         start a new list without the continue parameter, or use the continue token in this \
         response to retrieve the remainder of the results. Continuing with the provided token \
         results in an inconsistent list - objects that were created, modified, or deleted between \
         the time the first chunk was returned and now may show up in the list.",
    );
    let mut value = status.to_json();
    value["metadata"]["continue"] = fresh.encode().into();
    response::json(StatusCode::GONE, serde_json::to_vec(&value).unwrap_or_default())
}
