//! `/exec` and `/attach`: a process' streams over a WebSocket.

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::channels;
use super::route::{Body, Query, Refusal, Service};
use crate::pod::index::PodEntry;
use crate::runtime::{Container, ExecOptions, Input, Session};

/// What one message of a client may have; terminals and `kubectl cp` send 32 KiB.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
const MAX_COMMAND_WORDS: usize = 1024;

pub(super) async fn exec(
    service: &Service,
    entry: &PodEntry,
    container: &str,
    query: &Query,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let command = query.all("command");
    if command.is_empty() || command.len() > MAX_COMMAND_WORDS {
        return Err(Refusal::bad(format!(
            "command: must have 1 to {MAX_COMMAND_WORDS} words, has {}",
            command.len()
        )));
    }
    let options =
        ExecOptions { command, stdin: wants(query, "stdin", "input"), tty: query.flag("tty") };
    let id = running(entry, container)?.id.clone();
    let upgrade = Upgrade::of(request)?;
    let session = entry.runtime.exec(&id, options).await;
    let session = session.map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(upgrade.serve(service, session))
}

pub(super) async fn attach(
    service: &Service,
    entry: &PodEntry,
    container: &str,
    query: &Query,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let id = running(entry, container)?.id.clone();
    let upgrade = Upgrade::of(request)?;
    let stdin = wants(query, "stdin", "input");
    let session = entry.runtime.attach(&id, stdin, query.flag("tty")).await;
    let session = session.map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(upgrade.serve(service, session))
}

/// The API's name of a stream, or the kubelet's.
fn wants(query: &Query, api: &str, kubelet: &str) -> bool {
    query.flag(api) || query.flag(kubelet)
}

fn running<'a>(entry: &'a PodEntry, name: &str) -> Result<&'a Container, Refusal> {
    let container = entry.container(name, false);
    container.filter(|container| container.is_running()).ok_or_else(|| {
        let pod = entry.pod.metadata.name.as_deref().unwrap_or_default();
        Refusal::bad(format!("container {name:?} of pod {pod:?} is not running"))
    })
}

/// A request that asked for a WebSocket with a protocol that we speak.
struct Upgrade {
    protocol: &'static str,
    accept: String,
    connection: hyper::upgrade::OnUpgrade,
}

impl Upgrade {
    fn of(request: &mut Request<Incoming>) -> Result<Self, Refusal> {
        let header = |name: header::HeaderName| -> String {
            let values = request.headers().get_all(name).iter();
            values.filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",")
        };
        let upgrade = header(header::UPGRADE);
        if upgrade.to_ascii_lowercase().contains("spdy/3.1") {
            return Err(Refusal::bad(
                "SPDY is not served; use a client that speaks WebSocket (kubectl 1.30 or newer)",
            ));
        }
        if !upgrade.eq_ignore_ascii_case("websocket") {
            return Err(Refusal::bad("Upgrade: websocket is required"));
        }
        let offered = header(header::SEC_WEBSOCKET_PROTOCOL);
        let Some(protocol) = channels::choose(&offered) else {
            return Err(Refusal::bad(format!(
                "Sec-WebSocket-Protocol: none of {offered:?} is served; {:?} are",
                channels::PROTOCOLS
            )));
        };
        let key = header(header::SEC_WEBSOCKET_KEY);
        if key.is_empty() {
            return Err(Refusal::bad("Sec-WebSocket-Key: is required"));
        }
        let accept = derive_accept_key(key.as_bytes());
        Ok(Self { protocol, accept, connection: hyper::upgrade::on(request) })
    }

    /// Answers the upgrade; a task carries the streams.
    fn serve(self, service: &Service, session: Session) -> Response<Body> {
        let Self { protocol, accept, connection } = self;
        let shutdown = service.tasks.shutdown().clone();
        service.tasks.spawn("terminal", async move {
            let connection = match connection.await {
                Ok(connection) => TokioIo::new(connection),
                Err(error) => return tracing::debug!(%error, "an upgrade failed"),
            };
            let config = WebSocketConfig::default()
                .max_message_size(Some(MAX_MESSAGE_BYTES))
                .max_frame_size(Some(MAX_MESSAGE_BYTES));
            let socket =
                WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await;
            tokio::select! {
                () = carry(socket, session) => {}
                () = shutdown.draining() => {}
            }
        });
        let mut response = Response::new(Empty::<Bytes>::new().boxed_unsync());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        if let Ok(accept) = HeaderValue::from_str(&accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }
}

/// Both directions until the process has ended or the client has gone.
async fn carry<S>(socket: WebSocketStream<S>, session: Session)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut write, mut read) = socket.split();
    let Session { input, mut output, exit } = session;
    let receive = async {
        // A process that takes no more input must not stop the reading of pings and of the end.
        let mut input = Some(input);
        while let Some(message) = read.next().await {
            let data = match message {
                Ok(Message::Binary(data)) => data,
                Ok(Message::Close(_)) | Err(_) => return,
                Ok(_) => continue,
            };
            match channels::decode(&data) {
                Ok(Some(Input::Close)) => input = None,
                Ok(Some(event)) => {
                    if let Some(sender) = &input
                        && sender.send(event).await.is_err()
                    {
                        input = None;
                    }
                }
                Ok(None) => {}
                Err(reason) => return tracing::debug!(reason, "a client spoke out of turn"),
            }
        }
    };
    let send = async {
        let mut failure = None;
        while let Some(piece) = output.recv().await {
            match piece {
                Ok(piece) => {
                    let message = channels::output(piece.channel, &piece.data);
                    if write.send(Message::Binary(message)).await.is_err() {
                        return;
                    }
                }
                Err(error) => failure = Some(error.to_string()),
            }
        }
        let ended = match (failure, exit.await) {
            (Some(reason), _) => Err(reason),
            (None, Ok(Ok(code))) => Ok(code),
            (None, Ok(Err(error))) => Err(error.to_string()),
            (None, Err(_)) => Err("the process was lost".to_owned()),
        };
        if write.send(Message::Binary(channels::ended(ended))).await.is_ok() {
            // kubectl takes any other code for a broken stream.
            let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
            let _ = write.send(Message::Close(Some(normal))).await;
        }
    };
    // The reader goes on while output is written, and is dropped with its input when the process has ended.
    let mut send = std::pin::pin!(send);
    tokio::select! {
        () = &mut send => {}
        () = receive => {}
    }
}
