//! Probes: a pure machine that counts, and a shell that asks.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, HTTPHeader, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::memory::later;
use crate::runtime::{self, Runtime, dial};

/// How much of a probe's output is kept for its event.
const OUTPUT_LIMIT: usize = 10 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
        }
    }

    /// As events name it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// What one question found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Success,
    Failure(String),
    /// It could not be asked; counts for nothing, as the kubelet has it.
    Error(String),
}

/// What a probe says by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Success,
    Failure,
}

/// The counters of one probe of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub verdict: Option<Verdict>,
    last: Option<Verdict>,
    run: i32,
}

impl Counter {
    /// Counts an answer. `Some` where the verdict is new.
    pub fn count(&mut self, probe: &Probe, answer: &Answer) -> Option<Verdict> {
        let found = match answer {
            Answer::Success => Verdict::Success,
            Answer::Failure(_) => Verdict::Failure,
            Answer::Error(_) => return None,
        };
        self.run = if self.last == Some(found) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(found);
        let threshold = match found {
            Verdict::Success => probe.success_threshold.unwrap_or(1),
            Verdict::Failure => probe.failure_threshold.unwrap_or(3),
        };
        if self.run < threshold.max(1) || self.verdict == Some(found) {
            return None;
        }
        self.verdict = Some(found);
        Some(found)
    }
}

pub fn period(probe: &Probe) -> Duration {
    Duration::from_secs(probe.period_seconds.unwrap_or(10).max(1).unsigned_abs().into())
}

pub fn timeout(probe: &Probe) -> Duration {
    Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1).unsigned_abs().into())
}

/// When a container that started then is asked first.
pub fn first(probe: &Probe, started_at: Timestamp) -> Timestamp {
    let delay = probe.initial_delay_seconds.unwrap_or(0).max(0).unsigned_abs();
    later(started_at, Duration::from_secs(delay.into()))
}

/// Where a probe or a hook looks.
#[derive(Clone, Debug)]
pub struct Target {
    pub container_id: Arc<str>,
    pub ip: IpAddr,
}

/// Asks once.
pub async fn ask(
    runtime: &dyn Runtime,
    container: &Container,
    probe: &Probe,
    target: &Target,
) -> Answer {
    let timeout = timeout(probe);
    if let Some(answer) = runtime.simulated_probe(&target.container_id) {
        return if answer {
            Answer::Success
        } else {
            Answer::Failure("the simulated container says no".into())
        };
    }
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match runtime::run(runtime, &target.container_id, command, timeout, OUTPUT_LIMIT)
            .await
        {
            Ok(Some((0, _))) => Answer::Success,
            Ok(Some((_, output))) => Answer::Failure(output),
            Ok(None) => Answer::Failure(format!(
                "command timed out: {:?} timed out after {}",
                exec.command.clone().unwrap_or_default(),
                super::status::go_duration(timeout),
            )),
            Err(error) => Answer::Error(error.to_string()),
        };
    }
    if let Some(get) = &probe.http_get {
        return http(container, get, target, timeout).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let Some(port) = port(container, &tcp.port) else {
            return Answer::Error(format!(
                "no port {:?} in container {}",
                tcp.port, container.name
            ));
        };
        let host = tcp.host.clone().unwrap_or_else(|| target.ip.to_string());
        return match connect(&host, port, timeout).await {
            Ok(_) => Answer::Success,
            Err(error) => Answer::Failure(error),
        };
    }
    if let Some(grpc) = &probe.grpc {
        return grpc_health(
            grpc.port,
            grpc.service.as_deref().unwrap_or_default(),
            target,
            timeout,
        )
        .await;
    }
    Answer::Error("the probe names nothing to ask".into())
}

/// A number, or the name of one of the container's ports.
pub fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|n| *n > 0),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|p| p.name.as_deref() == Some(name));
            named
                .and_then(|p| u16::try_from(p.container_port).ok())
                .or_else(|| name.parse().ok().filter(|n| *n > 0))
        }
    }
}

async fn connect(
    host: &str,
    port: u16,
    timeout: Duration,
) -> Result<tokio::net::TcpStream, String> {
    let dial = async {
        let found = tokio::net::lookup_host((host, port)).await;
        let found = found.map_err(|error| dial::unknown(host, Some(&error)))?;
        let mut failure = dial::unknown(host, None);
        for address in found {
            match tokio::net::TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = dial::failed(address, &error),
            }
        }
        Err(failure)
    };
    match tokio::time::timeout(timeout, dial).await {
        Ok(dialled) => dialled,
        Err(_) => Err(format!("dial tcp {}:{port}: i/o timeout", shown(host))),
    }
}

/// As it stands before a port.
fn shown(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// A path as it stands in a request: a probe is not to say more to whatever listens there.
fn one_word(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        match c.is_control() || c == ' ' {
            true => c.to_string().bytes().for_each(|byte| out.push_str(&format!("%{byte:02X}"))),
            false => out.push(c),
        }
    }
    out
}

/// A GET: 200 to 399 is success. HTTPS is asked without checking the certificate, as the kubelet does.
pub async fn http(
    container: &Container,
    get: &HTTPGetAction,
    target: &Target,
    timeout: Duration,
) -> Answer {
    let Some(port) = port(container, &get.port) else {
        return Answer::Error(format!("no port {:?} in container {}", get.port, container.name));
    };
    let host = get.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| target.ip.to_string());
    let path = get.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into());
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let path = one_word(&path);
    let tls = get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https"));
    let scheme = if tls { "https" } else { "http" };
    let shown_host = shown(&host);
    let url = format!("{scheme}://{shown_host}:{port}{path}");
    let headers = get.http_headers.iter().flatten();
    let clean = |s: &str| !s.contains(['\r', '\n']);
    let header = |name: &str| {
        let named = |h: &&HTTPHeader| h.name.eq_ignore_ascii_case(name) && clean(&h.value);
        headers.clone().find(named).map(|h| h.value.clone())
    };
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {}\r\nAccept: {}\r\nConnection: close\r\n",
        header("host").unwrap_or_else(|| format!("{shown_host}:{port}")),
        header("user-agent").unwrap_or_else(|| "kube-probe/1.34".into()),
        header("accept").unwrap_or_else(|| "*/*".into()),
    );
    for h in headers.clone() {
        let known = ["host", "user-agent", "accept", "connection"];
        if !known.iter().any(|k| h.name.eq_ignore_ascii_case(k))
            && clean(&h.name)
            && clean(&h.value)
        {
            request.push_str(&format!("{}: {}\r\n", h.name, h.value));
        }
    }
    request.push_str("\r\n");
    if path.contains(['\r', '\n', ' ']) {
        return Answer::Error(format!("not a path: {path:?}"));
    }
    let whole = async {
        let stream = connect(&host, port, timeout).await?;
        let ends = (stream.local_addr(), stream.peer_addr());
        let answer = if tls {
            let stream = tls::connect(stream, &host).await?;
            exchange(stream, &request).await
        } else {
            exchange(stream, &request).await
        };
        answer.map_err(|broken| match (broken, ends) {
            (Broken::Off(verb, error), (Ok(near), Ok(far))) => {
                format!("{verb} tcp {near}->{far}: {verb}: {}", dial::words(&error))
            }
            (Broken::Off(verb, error), _) => format!("{verb} tcp: {verb}: {}", dial::words(&error)),
            (Broken::Other(text), _) => text.to_owned(),
        })
    };
    match tokio::time::timeout(timeout, whole).await {
        Ok(Ok((status, _))) if (200..400).contains(&status) => Answer::Success,
        Ok(Ok((status, _))) => {
            Answer::Failure(format!("HTTP probe failed with statuscode: {status}"))
        }
        Ok(Err(error)) => Answer::Failure(format!("Get \"{url}\": {error}")),
        Err(_) => Answer::Failure(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

enum Broken {
    /// While this was done: `read`, `write`.
    Off(&'static str, std::io::Error),
    Other(&'static str),
}

/// Sends the request and reads the status line; the rest of the answer is of no interest.
async fn exchange<S>(mut stream: S, request: &str) -> Result<(u16, Vec<u8>), Broken>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(request.as_bytes()).await.map_err(|e| Broken::Off("write", e))?;
    let mut head = Vec::with_capacity(1024);
    let mut buffer = [0; 1024];
    while head.len() < 4096 && !head.windows(2).any(|w| w == b"\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(n) => head.extend_from_slice(&buffer[..n]),
            Err(error) => return Err(Broken::Off("read", error)),
        }
    }
    if head.is_empty() {
        return Err(Broken::Other("EOF"));
    }
    let line = String::from_utf8_lossy(&head);
    let mut words = line.split_ascii_whitespace();
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|word| word.parse().ok());
    match status {
        Some(status) if version.starts_with("HTTP/") => Ok((status, head)),
        _ => Err(Broken::Other(
            "net/http: HTTP/1.x transport connection broken: malformed HTTP response",
        )),
    }
}

/// The gRPC health protocol needs an HTTP/2 exchange with protobuf of two fields.
async fn grpc_health(port: i32, service: &str, target: &Target, timeout: Duration) -> Answer {
    let Ok(port) = u16::try_from(port) else {
        return Answer::Error(format!("not a port: {port}"));
    };
    let host = target.ip.to_string();
    let whole = async {
        let stream = connect(&host, port, timeout).await?;
        grpc::check(stream, &host, port, service).await
    };
    match tokio::time::timeout(timeout, whole).await {
        Ok(Ok(1)) => Answer::Success,
        Ok(Ok(status)) => {
            let word = match status {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Answer::Failure(format!("service unhealthy (responded with \"{word}\")"))
        }
        Ok(Err(error)) => {
            Answer::Failure(format!("failed to connect service \"{host}:{port}\": {error}"))
        }
        Err(_) => Answer::Failure(format!(
            "timeout: failed to connect service \"{host}:{port}\" within {}",
            super::status::go_duration(timeout)
        )),
    }
}

mod grpc;
mod tls;

#[cfg(test)]
mod tests;
