//! A request's line, the headers that are read and its body. An input has up to five parts: method, path and query, media
//! type, body, what is accepted.

use http::{Method, Uri};

pub(crate) fn run(data: &[u8]) {
    let mut parts = crate::parts(data);
    let Some(method) = parts.next().and_then(|word| word.parse::<Method>().ok()) else { return };
    let Some(uri) = parts.next().and_then(|text| text.parse::<Uri>().ok()) else { return };
    let mut next = || parts.next().unwrap_or_default();
    let (media_type, body, accept) = (next(), next(), next());
    warren_apiserver::read_request(&method, &uri, [media_type, accept], body.as_bytes());
}
