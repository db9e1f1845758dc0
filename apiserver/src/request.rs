//! What a request asks for, read off its method and URI. Pure.

use http::{Method, Uri};
use warren_api::{Reason, Status};

/// As the authorizer names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    pub(crate) fn is_read(self) -> bool {
        matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

/// The decoded query string, in its order; at most [`Query::MAX`] parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Exec repeats `command` for each word. At 8 bytes each they fill the longest URI (64 KiB).
    const MAX: usize = 8192;

    pub(crate) fn parse(query: &str) -> Result<Self, Status> {
        let pairs = || query.split('&').filter(|pair| !pair.is_empty());
        let many = pairs().count();
        if many > Self::MAX {
            return Err(Status::bad_request(format!(
                "the query has {many} parameters, at most {} are taken",
                Self::MAX
            )));
        }
        let decoded = pairs().map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key, true), percent_decode(value, true))
        });
        Ok(Self(decoded.collect()))
    }

    /// The first value; empty where there is none.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Kubernetes reads `true`, `1` and the bare name as true, `false`, `0` and all else as false.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.has(key) && !matches!(self.get(key), "0" | "false" | "False" | "FALSE")
    }

    /// `Ok(None)` where it is absent or empty.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>, Status> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|error: std::num::ParseIntError| {
                let why = no_number(error.kind());
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
            }),
        }
    }
}

/// Why a text is no number, in Go's words.
pub(crate) fn no_number(kind: &std::num::IntErrorKind) -> &'static str {
    match kind {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
            "value out of range"
        }
        _ => "invalid syntax",
    }
}

/// A request for objects of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResourceRequest {
    pub verb: Verb,
    pub group: String,
    pub version: String,
    /// The plural name.
    pub resource: String,
    /// Empty for cluster-scoped resources and for lists over all namespaces.
    pub namespace: String,
    /// Empty for collections. A list whose field selector pins `metadata.name` has that name, as in Kubernetes.
    pub name: String,
    /// Whether the name stood in the path.
    pub named: bool,
    /// Empty where there is none.
    pub subresource: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Resource(ResourceRequest),
    /// `/version`, `/apis`, `/metrics`, …: the path without a trailing slash.
    Path(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    pub method: Method,
    pub target: Target,
    pub query: Query,
}

/// Longer paths than this name nothing that exists (two names of 253 bytes, a group, a subresource).
const MAX_PATH: usize = 4096;

impl RequestInfo {
    pub(crate) fn of(method: &Method, uri: &Uri) -> Result<Self, Status> {
        if uri.path().len() > MAX_PATH {
            return Err(Status::bad_request("the path is too long"));
        }
        // A tunnel to a host has no path; none is opened here.
        if method == Method::CONNECT {
            return Err(Status::generic(Reason::MethodNotAllowed));
        }
        let query = Query::parse(uri.query().unwrap_or_default())?;
        let segments: Vec<String> = uri
            .path()
            .split('/')
            .filter(|s| !s.is_empty())
            .map(|s| percent_decode(s, false))
            .collect();
        let target = match target(method, &segments, &query) {
            Some(request) => Target::Resource(request),
            None => Target::Path(format!("/{}", segments.join("/"))),
        };
        Ok(Self { method: method.clone(), target, query })
    }
}

fn target(method: &Method, segments: &[String], query: &Query) -> Option<ResourceRequest> {
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, rest) = match words.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..]
            if !rest.is_empty() && !matches!(rest, ["status" | "finalize"]) =>
        {
            (*namespace, rest)
        }
        rest => ("", rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, "", String::new()),
        [resource, name] => (*resource, *name, String::new()),
        // What follows is the path at the other side.
        [resource, name, "proxy", ..] => (*resource, *name, "proxy".to_owned()),
        [resource, name, sub @ ..] => (*resource, *name, sub.join("/")),
        [] => return None,
    };
    let named = !name.is_empty();
    let verb = match *method {
        Method::GET | Method::HEAD if named => Verb::Get,
        Method::OPTIONS if subresource == "proxy" => Verb::Get,
        Method::GET | Method::HEAD if query.flag("watch") => Verb::Watch,
        Method::GET | Method::HEAD => Verb::List,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if named => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ => return None,
    };
    let pinned = if named { name } else { pinned_name(query.get("fieldSelector")) };
    Some(ResourceRequest {
        verb,
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: pinned.to_owned(),
        named,
        subresource,
    })
}

/// The name in a field selector `metadata.name=x`.
fn pinned_name(selector: &str) -> &str {
    selector
        .split(',')
        .find_map(|term| term.strip_prefix("metadata.name="))
        .map_or("", |name| name.trim_start_matches('='))
}

/// Invalid escapes stay as they are; invalid UTF-8 becomes U+FFFD, which no name contains.
fn percent_decode(text: &str, plus_is_space: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        let escaped = (byte == b'%').then(|| bytes.get(i + 1..i + 3)).flatten();
        let decoded = escaped
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match decoded {
            Some(value) => {
                out.push(value);
                i += 2;
            }
            None if byte == b'+' && plus_is_space => out.push(b' '),
            None => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::expect;

    use super::*;

    #[test]
    fn requests_are_read_off_method_and_uri() {
        let mut shown = String::new();
        for (method, uri) in [
            ("GET", "/api/v1/pods"),
            ("GET", "/api/v1/pods?watch=true"),
            ("GET", "/api/v1/pods?watch=0"),
            ("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Drabbit"),
            ("GET", "/api/v1/namespaces/default"),
            ("PUT", "/api/v1/namespaces/default/finalize"),
            ("POST", "/api/v1/namespaces/default/pods"),
            ("GET", "/api/v1/namespaces/default/pods/web"),
            ("PATCH", "/api/v1/namespaces/default/pods/web/status"),
            ("POST", "/api/v1/namespaces/default/pods/web/exec?command=ls&command=%2Fa+b"),
            ("DELETE", "/api/v1/namespaces/default/pods/https:web:8080/proxy/a/b?watch=1"),
            ("OPTIONS", "/api/v1/nodes/one/proxy"),
            ("DELETE", "/apis/apps/v1/namespaces/default/deployments"),
            ("DELETE", "/apis/apps/v1/namespaces/default/deployments/web"),
            ("GET", "/apis/apps/v1"),
            ("GET", "/apis/"),
            ("GET", "/"),
        ] {
            let info = RequestInfo::of(&method.parse().unwrap(), &uri.parse().unwrap()).unwrap();
            let line = match info.target {
                Target::Path(path) => format!("path {path}"),
                Target::Resource(r) => format!(
                    "{} {}/{} {} ns={:?} name={:?} sub={:?}",
                    r.verb.name(),
                    r.group,
                    r.version,
                    r.resource,
                    r.namespace,
                    r.name,
                    r.subresource
                ),
            };
            writeln!(shown, "{method} {uri}\n  {line}").unwrap();
        }
        expect![[r#"
            GET /api/v1/pods
              list /v1 pods ns="" name="" sub=""
            GET /api/v1/pods?watch=true
              watch /v1 pods ns="" name="" sub=""
            GET /api/v1/pods?watch=0
              list /v1 pods ns="" name="" sub=""
            GET /api/v1/nodes?fieldSelector=metadata.name%3Drabbit
              list /v1 nodes ns="" name="rabbit" sub=""
            GET /api/v1/namespaces/default
              get /v1 namespaces ns="" name="default" sub=""
            PUT /api/v1/namespaces/default/finalize
              update /v1 namespaces ns="" name="default" sub="finalize"
            POST /api/v1/namespaces/default/pods
              create /v1 pods ns="default" name="" sub=""
            GET /api/v1/namespaces/default/pods/web
              get /v1 pods ns="default" name="web" sub=""
            PATCH /api/v1/namespaces/default/pods/web/status
              patch /v1 pods ns="default" name="web" sub="status"
            POST /api/v1/namespaces/default/pods/web/exec?command=ls&command=%2Fa+b
              create /v1 pods ns="default" name="web" sub="exec"
            DELETE /api/v1/namespaces/default/pods/https:web:8080/proxy/a/b?watch=1
              delete /v1 pods ns="default" name="https:web:8080" sub="proxy"
            OPTIONS /api/v1/nodes/one/proxy
              get /v1 nodes ns="" name="one" sub="proxy"
            DELETE /apis/apps/v1/namespaces/default/deployments
              deletecollection apps/v1 deployments ns="default" name="" sub=""
            DELETE /apis/apps/v1/namespaces/default/deployments/web
              delete apps/v1 deployments ns="default" name="web" sub=""
            GET /apis/apps/v1
              path /apis/apps/v1
            GET /apis/
              path /apis
            GET /
              path /
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn no_tunnel_is_opened() {
        let asked = RequestInfo::of(&Method::CONNECT, &"127.0.0.1:22".parse().unwrap());
        assert_eq!(asked.unwrap_err().reason, Reason::MethodNotAllowed);
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("command=ls&command=%2Fa+b&tty&x=%zz%").unwrap();
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["ls", "/a b"]);
        assert!(query.flag("tty"));
        assert_eq!(query.get("x"), "%zz%");
        assert!(Query::parse("limit=x").unwrap().number("limit").is_err());
    }

    #[test]
    fn a_query_is_whole_or_refused() {
        let words = |count: usize| Query::parse(&format!("{}stdout=1", "command=x&".repeat(count)));
        let query = words(Query::MAX - 1).unwrap();
        assert_eq!(query.all("command").count(), Query::MAX - 1);
        assert!(query.flag("stdout"), "what comes last counts as well");
        assert_eq!(
            words(Query::MAX).unwrap_err().message,
            "the query has 8193 parameters, at most 8192 are taken"
        );
    }
}
