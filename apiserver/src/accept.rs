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
}

/// The first range that can be served; what names protobuf alone gets JSON.
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
    let of = |form, yaml| Accept { form, yaml, pretty };
    if text.is_empty() {
        return Ok(of(Form::Object, false));
    }
    let mut protobuf = false;
    for range in text {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let parameter = |wanted: &str| {
            range.split(';').skip(1).find_map(|part| {
                let (key, value) = part.trim().split_once('=')?;
                (key == wanted).then_some(value)
            })
        };
        protobuf |= media == "application/vnd.kubernetes.protobuf";
        let yaml = match media.as_str() {
            "application/json" | "*/*" | "application/*" => false,
            "application/yaml" => true,
            _ => continue,
        };
        match (parameter("as"), parameter("g"), parameter("v")) {
            (None, _, _) => return Ok(of(Form::Object, yaml)),
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) => return Ok(of(Form::Table, yaml)),
            (
                Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                Some("meta.k8s.io"),
                Some("v1"),
            ) => return Ok(of(Form::Metadata, yaml)),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                return Ok(of(Form::AggregatedDiscovery, yaml));
            }
            _ => {}
        }
    }
    if protobuf {
        return Ok(of(Form::Object, false));
    }
    Err(Status::new(
        Reason::NotAcceptable,
        "only the following media types are accepted: application/json, application/yaml",
    ))
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
