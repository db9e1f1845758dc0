//! What the server makes of a request before it knows who sends it, and of the object in it, for the fuzz targets, which
//! have no server.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Uri};
use jiff::Timestamp;
use warren_api::schema::FieldValidation;
use warren_api::{ErrorList, Kind, Object, Registry, protobuf};

use crate::request::{Query, RequestInfo, Target};
use crate::selection::Selection;
use crate::table::Include;
use crate::{accept, codec, read, table};

/// Reads the line, the headers, the selectors and the body; an object is defaulted, validated and answered in every
/// form.
#[doc(hidden)]
pub fn read_request(method: &Method, uri: &Uri, media_types: [&str; 2], body: &[u8]) {
    let Ok(info) = RequestInfo::of(method, uri) else { return };
    let mut headers = HeaderMap::new();
    for (name, value) in [CONTENT_TYPE, ACCEPT].into_iter().zip(media_types) {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    let _ = accept::accept(&headers, info.query.get("pretty"));
    let Ok(format) = codec::format(&headers) else { return };
    let _ = codec::value(body, format);
    let Target::Resource(request) = &info.target else { return };
    let registry = Registry::builtin();
    let Some(kind) = registry.by_resource(&request.group, &request.version, &request.resource)
    else {
        return;
    };
    let _ = Selection::of(kind, request, &info.query);
    read_options(&info.query);
    read_object(kind, body, format);
}

fn read_options(query: &Query) {
    let _ = read::revision(query.get("resourceVersion"));
    let _ = read::check_token(query.get("continue"));
    let _ = (query.number("limit"), query.number("timeoutSeconds"));
}

fn read_object(kind: &'static dyn Kind, body: &[u8], format: codec::Format) {
    let Ok((mut object, _)) = codec::object(kind, body, format, FieldValidation::Strict) else {
        return;
    };
    kind.default(&mut object);
    let mut errors = ErrorList::default();
    kind.validate(&object, &mut errors);
    write_object(kind, &object);
}

/// Also what is not valid: objects that an older version took are still there.
fn write_object(kind: &'static dyn Kind, object: &Object) {
    let _ = table::row(kind, object, Timestamp::UNIX_EPOCH, Include::Object);
    let _ = table::metadata_of(object);
    let _ = codec::encode(object);
    let _ = protobuf::encode(object);
}
