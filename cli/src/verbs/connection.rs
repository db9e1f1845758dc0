//! The way to the API: a kubeconfig, requests, and errors as people know them.

use std::fmt;
use std::path::{Path, PathBuf};

use http::{HeaderMap, Method, Request, StatusCode};
use kube::client::Body;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::files::DataDir;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ConnectionArgs {
    /// The kubeconfig; else $KUBECONFIG, else admin.conf of the data folder, else ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The data folder whose admin.conf is taken.
    #[arg(long, env = "WARREN_DATA_DIR", value_name = "DIR", default_value_os_t = DataDir::default_path())]
    data_dir: PathBuf,
    /// Another context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// Why a request did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server's own words.
    Status { code: u16, status: Value },
    /// No answer, or none that could be read.
    Unreachable { server: String, reason: String, remedy: String },
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, status) = match self {
            Failure::Status { code, status } => (*code, status),
            Failure::Unreachable { server, reason, remedy } => {
                return write!(
                    f,
                    "The server {server} cannot be reached: {reason}. Does it run? {remedy}, or name another with \
                     --kubeconfig"
                );
            }
        };
        let message = status["message"].as_str().unwrap_or_default();
        let reason = status["reason"].as_str().unwrap_or_default();
        let details = &status["details"];
        let causes = details["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
        if reason == "Invalid" && !causes.is_empty() {
            let text = |cause: &Value| {
                let field = cause["field"].as_str().unwrap_or_default();
                let message = cause["message"].as_str().unwrap_or_default();
                if field.is_empty() { message.to_owned() } else { format!("{field}: {message}") }
            };
            write!(
                f,
                "The {} {:?} is invalid:",
                details["kind"].as_str().unwrap_or("object"),
                details["name"].as_str().unwrap_or_default()
            )?;
            if let [cause] = causes {
                return write!(f, " {}", text(cause));
            }
            for cause in causes {
                write!(f, "\n* {}", text(cause))?;
            }
            return Ok(());
        }
        if reason.is_empty() {
            write!(f, "Error from server: {code} {message}")
        } else {
            write!(f, "Error from server ({reason}): {message}")
        }
    }
}

impl Failure {
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Failure::Status { code: 404, .. })
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Failure::Status { code: 410, .. })
    }

    /// The revision that was asked for is one that the server does not have yet.
    pub(crate) fn is_ahead(&self) -> bool {
        let Failure::Status { code: 504, status } = self else { return false };
        let causes = status["details"]["causes"].as_array();
        causes.into_iter().flatten().any(|cause| cause["reason"] == "ResourceVersionTooLarge")
    }

    /// From what a server says with a code that is no success.
    pub(crate) fn from_answer(code: u16, body: &[u8]) -> Self {
        let status = serde_json::from_slice::<Value>(body)
            .ok()
            .filter(|value| value["kind"] == "Status")
            .unwrap_or_else(|| {
                let text: String = String::from_utf8_lossy(body).chars().take(500).collect();
                serde_json::json!({ "message": text.trim() })
            });
        Self::Status { code, status }
    }
}

pub(crate) struct Connection {
    client: kube::Client,
    server: String,
    namespace: String,
    /// What is advised where the server does not answer.
    remedy: String,
    /// Whether the server's warnings are told.
    warns: bool,
}

impl Connection {
    pub(crate) async fn open(args: &ConnectionArgs) -> anyhow::Result<Self> {
        Self::to(args, Self::config(args).await?)
    }

    /// For who asks again by itself: each answer is told as it comes, 429, 503 and 504 too. Without warnings where the
    /// person named nothing that they could be about.
    pub(crate) async fn open_once(args: &ConnectionArgs, warns: bool) -> anyhow::Result<Self> {
        let mut config = Self::config(args).await?;
        config.default_retry = false;
        Ok(Self { warns, ..Self::to(args, config)? })
    }

    async fn config(args: &ConnectionArgs) -> anyhow::Result<Config> {
        let options =
            KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let admin = DataDir::new(&args.data_dir).kubeconfig("admin");
        let environment = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
        let config = match (&args.kubeconfig, &environment) {
            (Some(path), _) => Kubeconfig::read_from(path).map_err(|error| unusable(path, &error))?,
            (None, None) if admin.exists() => {
                Kubeconfig::read_from(&admin).map_err(|error| unusable(&admin, &error))?
            }
            (None, Some(paths)) => {
                Kubeconfig::read().map_err(|error| unusable(Path::new(paths), &error))?
            }
            (None, None) => Kubeconfig::read().map_err(|error| {
                anyhow::anyhow!(
                    "no kubeconfig: neither --kubeconfig nor $KUBECONFIG names one, {} is not there (`warren up` makes \
                     it), and of the usual one: {}",
                    admin.display(),
                    chain(&error)
                )
            })?,
        };
        Ok(Config::from_custom_kubeconfig(config, &options).await?)
    }

    fn to(args: &ConnectionArgs, mut config: Config) -> anyhow::Result<Self> {
        // Watches and logs may be silent for as long as they like.
        config.read_timeout = None;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let namespace = config.default_namespace.clone();
        let client = kube::Client::try_from(config)?;
        let remedy = remedy(&args.data_dir, &server);
        Ok(Self { client, server, namespace, remedy, warns: true })
    }

    /// The namespace that the kubeconfig's context names, else `default`.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.get_as(path, "application/json").await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Result<Value, Failure> {
        let call = Call { accept, ..Call::new(Method::GET, path) };
        self.call(call).await.map(|(_, value)| value)
    }

    /// Sends a request and reads a JSON answer. The server's warnings go to standard error.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<(StatusCode, Value), Failure> {
        let answer = self.send(call).await?;
        let code = answer.status();
        if self.warns {
            warn(answer.headers());
        }
        let body = self.collect(answer).await?;
        let value = serde_json::from_slice(&body)
            .map_err(|error| self.unreachable(&format!("it answered no JSON ({error})")))?;
        Ok((code, value))
    }

    /// The answer as text, whatever its code.
    pub(crate) async fn text(&self, path: &str) -> Result<(StatusCode, String), Failure> {
        let answer = self.send_any(Call { accept: "*/*", ..Call::new(Method::GET, path) }).await?;
        let code = answer.status();
        let body = self.collect(answer).await?;
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }

    /// The answer's body as it comes; an answer that is no success is a failure.
    pub(crate) async fn send(&self, call: Call<'_>) -> Result<http::Response<Body>, Failure> {
        let answer = self.send_any(call).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status().as_u16();
        Err(Failure::from_answer(code, &self.collect(answer).await?))
    }

    async fn send_any(&self, call: Call<'_>) -> Result<http::Response<Body>, Failure> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(http::header::ACCEPT, call.accept);
        if let Some(content_type) = call.content_type {
            request = request.header(http::header::CONTENT_TYPE, content_type);
        }
        let request = request
            .body(Body::from(call.body))
            .map_err(|error| self.unreachable(&error.to_string()))?;
        self.client.send(request).await.map_err(|error| self.unreachable(&chain(&error)))
    }

    async fn collect(&self, answer: http::Response<Body>) -> Result<bytes::Bytes, Failure> {
        answer.into_body().collect_bytes().await.map_err(|error| self.unreachable(&chain(&error)))
    }

    pub(crate) fn unreachable(&self, reason: &str) -> Failure {
        Failure::Unreachable {
            server: self.server.clone(),
            reason: reason.to_owned(),
            remedy: self.remedy.clone(),
        }
    }
}

/// A request, with what most have.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) accept: &'a str,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) body: Vec<u8>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, accept: "application/json", content_type: None, body: vec![] }
    }
}

/// What starts the server: the installer where it has put up this one, and notes so in the data folder.
fn remedy(data_dir: &Path, server: &str) -> String {
    let options = std::fs::read_to_string(data_dir.join("options")).unwrap_or_default();
    let port = options.lines().find_map(|line| line.strip_prefix("api_port="));
    if port.is_none_or(|port| server != format!("https://127.0.0.1:{port}")) {
        return "Start one with `warren up`".to_owned();
    }
    let named = match data_dir == DataDir::default_path() {
        true => String::new(),
        false => format!(" --data-dir {}", data_dir.display()),
    };
    format!("What was installed here is started by `./installer.sh{named}`")
}

/// The path may be a list of files, as `$KUBECONFIG` is.
fn unusable(path: &Path, error: &kube::config::KubeconfigError) -> anyhow::Error {
    anyhow::anyhow!("kubeconfig {}: {}", path.display(), chain(error))
}

/// One segment of a path, or a value of a query.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// `Warning: 299 - "text"`, RFC 7234 section 5.5.
fn warn(headers: &HeaderMap) {
    for value in headers.get_all(http::header::WARNING) {
        let Ok(value) = value.to_str() else { continue };
        let text = value.split_once('"').map_or(value, |(_, rest)| rest.trim_end_matches('"'));
        crate::note!("Warning: {}", text.replace("\\\"", "\""));
    }
}

/// The innermost cause is the one that helps.
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_as_kubectl_words_them() {
        let table = [
            (
                404,
                r#"{"kind":"Status","reason":"NotFound","message":"pods \"x\" not found"}"#,
                "Error from server (NotFound): pods \"x\" not found",
            ),
            (
                422,
                r#"{"kind":"Status","reason":"Invalid","message":"…","details":{"kind":"Pod","name":"x","causes":[
                   {"field":"spec.containers","message":"Required value"}]}}"#,
                "The Pod \"x\" is invalid: spec.containers: Required value",
            ),
            (
                422,
                r#"{"kind":"Status","reason":"Invalid","message":"…","details":{"kind":"Pod","name":"x","causes":[
                   {"field":"a","message":"b"},{"field":"c","message":"d"}]}}"#,
                "The Pod \"x\" is invalid:\n* a: b\n* c: d",
            ),
            (502, "gone away", "Error from server: 502 gone away"),
        ];
        for (code, body, expected) in table {
            assert_eq!(Failure::from_answer(code, body.as_bytes()).to_string(), expected);
        }
    }

    #[test]
    fn what_was_installed_is_started_by_the_installer() {
        let dir = tempfile::tempdir().unwrap();
        let advice = |server: &str| remedy(dir.path(), server);
        let up = "Start one with `warren up`";
        assert_eq!(advice("https://127.0.0.1:6443"), up);
        std::fs::write(dir.path().join("options"), "node=n\napi_port=6443\n").unwrap();
        let installer = format!(
            "What was installed here is started by `./installer.sh --data-dir {}`",
            dir.path().display()
        );
        for (server, wanted) in [
            ("https://127.0.0.1:6443", installer.as_str()),
            ("https://127.0.0.1:64430", up),
            ("https://api.example.org:6443", up),
        ] {
            assert_eq!(advice(server), wanted, "{server}");
        }
        let server = "https://127.0.0.1:6443".to_owned();
        let failure =
            Failure::Unreachable { remedy: advice(&server), server, reason: "refused".to_owned() };
        assert_eq!(
            failure.to_string(),
            format!(
                "The server https://127.0.0.1:6443 cannot be reached: refused. Does it run? {installer}, or name another \
                 with --kubeconfig"
            )
        );
    }

    #[test]
    fn escapes_what_a_query_cannot_hold() {
        assert_eq!(escape("a in (b,c),d!=e"), "a%20in%20%28b%2Cc%29%2Cd%21%3De");
    }
}
