//! In which form an answer is wanted.

use http::HeaderMap;
use warren_api::{Reason, Status};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    #[default]
    Object,
    /// `as=Table`, what `kubectl get` asks for.
    Table,
    /// `as=PartialObjectMetadata`, also as a list.
    Metadata,
    /// `as=APIGroupDiscoveryList`
    AggregatedDiscovery,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accept {
    pub form: Form,
    pub yaml: bool,
    pub pretty: bool,
    /// For types that have a protobuf form.
    pub protobuf: Option<Protobuf>,
}

/// What happens to types without a protobuf form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protobuf {
    /// A later range takes JSON.
    OrJson,
    Only,
}

const PROTOBUF: &str = warren_api::protobuf::MEDIA_TYPE;

/// The first range that can be served.
pub(crate) fn accept(headers: &HeaderMap, pretty: &str) -> Result<Accept, Status> {
    let text: Vec<&str> = headers
        .get_all(http::header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .collect();
    let pretty = matches!(pretty, "1" | "true");
    let mut protobuf = None;
    let of = |form, yaml| Accept { form, yaml, pretty, protobuf: None };
    if text.is_empty() {
        return Ok(of(Form::Object, false));
    }
    for range in text {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let parameter = |wanted: &str| {
            range.split(';').skip(1).find_map(|part| {
                let (key, value) = part.trim().split_once('=')?;
                (key == wanted).then_some(value)
            })
        };
        let yaml = match media.as_str() {
            "application/json" | "*/*" | "application/*" => false,
            "application/yaml" => true,
            PROTOBUF => false,
            _ => continue,
        };
        let form = match (parameter("as"), parameter("g"), parameter("v")) {
            (None, _, _) => Form::Object,
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) if media != PROTOBUF => Form::Table,
            (
                Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                Some("meta.k8s.io"),
                Some("v1"),
            ) => Form::Metadata,
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2"))
                if media != PROTOBUF =>
            {
                Form::AggregatedDiscovery
            }
            _ => continue,
        };
        match protobuf {
            // Another form would be another answer.
            Some(first) if form == first && media != PROTOBUF => {
                return Ok(Accept { protobuf: Some(Protobuf::OrJson), ..of(form, false) });
            }
            Some(_) => {}
            None if media == PROTOBUF => protobuf = Some(form),
            None => return Ok(of(form, yaml)),
        }
    }
    if let Some(form) = protobuf {
        return Ok(Accept { protobuf: Some(Protobuf::Only), ..of(form, false) });
    }
    Err(not_acceptable())
}

pub(crate) fn not_acceptable() -> Status {
    Status::new(
        Reason::NotAcceptable,
        "only the following media types are accepted: application/json, application/yaml, \
         application/vnd.kubernetes.protobuf",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_range_that_can_be_served_wins() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("accept", text.parse().unwrap());
            accept(&headers, "").map(|a| (a.form, a.yaml)).map_err(|e| e.reason)
        };
        let protobuf = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("accept", text.parse().unwrap());
            accept(&headers, "").unwrap().protobuf
        };
        for (text, expected) in [
            ("application/json,application/vnd.kubernetes.protobuf", None),
            ("application/vnd.kubernetes.protobuf", Some(Protobuf::Only)),
            ("application/vnd.kubernetes.protobuf;stream=watch", Some(Protobuf::Only)),
            ("application/vnd.kubernetes.protobuf, */*", Some(Protobuf::OrJson)),
            (
                "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json",
                None,
            ),
        ] {
            assert_eq!(protobuf(text), expected, "{text}");
        }
        for (text, expected) in [
            ("application/json", Ok((Form::Object, false))),
            ("*/*", Ok((Form::Object, false))),
            ("application/yaml", Ok((Form::Object, true))),
            ("application/vnd.kubernetes.protobuf", Ok((Form::Object, false))),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Ok((Form::Table, false)),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
                Ok((Form::Metadata, false)),
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
                Ok((Form::AggregatedDiscovery, false)),
            ),
            ("text/csv", Err(Reason::NotAcceptable)),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
        assert_eq!(accept(&HeaderMap::new(), "").unwrap().form, Form::Object);
    }
}
