//! `/exec` and `/attach`: a process' streams over a WebSocket or over SPDY.

use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

use super::channels::{self, Form};
use super::route::{Body, Query, Refusal, Service};
use super::terminal::{self, Wanted};
use super::upgrade::{Offers, Transport, Upgrade};
use crate::pod::index::PodEntry;
use crate::runtime::{Container, ExecOptions, Input, Session};

/// As many parameters as the API server takes.
const MAX_COMMAND_WORDS: usize = 8192;

const OFFERS: Offers = Offers { websocket: &channels::PROTOCOLS, spdy: &terminal::PROTOCOLS };

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
    let wanted = wanted(query)?;
    let options = ExecOptions { command, stdin: wanted.stdin, tty: wanted.tty };
    let id = running(entry, container)?.id.clone();
    let upgrade = Upgrade::of(request, &OFFERS)?;
    let session = entry.runtime.exec(&id, options).await;
    let session = session.map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(serve(upgrade, service, wanted, session))
}

pub(super) async fn attach(
    service: &Service,
    entry: &PodEntry,
    container: &str,
    query: &Query,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let wanted = wanted(query)?;
    let id = running(entry, container)?.id.clone();
    let upgrade = Upgrade::of(request, &OFFERS)?;
    let session = entry.runtime.attach(&id, wanted.stdin, wanted.tty).await;
    let session = session.map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(serve(upgrade, service, wanted, session))
}

/// By the API's name of a stream, or by the kubelet's.
fn wanted(query: &Query) -> Result<Wanted, Refusal> {
    let wants = |api: &str, kubelet: &str| query.flag(api) || query.flag(kubelet);
    let tty = query.flag("tty");
    let (stdin, stdout) = (wants("stdin", "input"), wants("stdout", "output"));
    let stderr = wants("stderr", "error");
    if !(stdin || stdout || stderr) {
        return Err(Refusal::bad("you must specify at least 1 of stdin, stdout, stderr"));
    }
    // A terminal has one output.
    Ok(Wanted { stdin, stdout, stderr: stderr && !tty, tty })
}

/// Answers the upgrade; a task carries the streams.
fn serve(upgrade: Upgrade, service: &Service, wanted: Wanted, session: Session) -> Response<Body> {
    let protocol = upgrade.protocol;
    upgrade.serve(service, "terminal", move |transport| async move {
        match transport {
            Transport::WebSocket(socket) => carry(*socket, protocol, session).await,
            spdy @ Transport::Spdy(_) => terminal::carry(spdy, protocol, wanted, session).await,
        }
    })
}

fn running<'a>(entry: &'a PodEntry, name: &str) -> Result<&'a Container, Refusal> {
    let container = entry.container(name, false);
    container.filter(|container| container.is_running()).ok_or_else(|| {
        let pod = entry.pod.metadata.name.as_deref().unwrap_or_default();
        Refusal::bad(format!("container {name:?} of pod {pod:?} is not running"))
    })
}

/// Both directions until the process has ended or the client has gone.
async fn carry<S>(socket: WebSocketStream<S>, protocol: &str, session: Session)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut write, mut read) = socket.split();
    let Session { input, mut output, exit } = session;
    let form = Form::of(protocol);
    let receive = async {
        // A process that takes no more input must not stop the reading of pings and of the end.
        let mut input = Some(input);
        while let Some(message) = read.next().await {
            let said = match message {
                Ok(Message::Close(_)) | Err(_) => return,
                Ok(message) => form.read(message),
            };
            let Some((channel, data)) = said else { continue };
            match channels::decode(channel, data) {
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
                    let message = channels::output(form, piece.channel, &piece.data);
                    if write.send(message).await.is_err() {
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
        if let Some(message) = channels::ended(protocol, ended)
            && write.send(message).await.is_err()
        {
            return;
        }
        // kubectl takes any other code for a broken stream.
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let _ = write.send(Message::Close(Some(normal))).await;
    };
    // The reader goes on while output is written, and is dropped with its input when the process has ended.
    let mut send = std::pin::pin!(send);
    tokio::select! {
        () = &mut send => {}
        () = receive => {}
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::{mpsc, oneshot};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::runtime::{Channel, Output};

    /// Types "in", is told "out", and that it ended with that code.
    async fn talk(protocol: &str, typed: Message, code: i32) -> Vec<Message> {
        let (ours, theirs) = tokio::io::duplex(4096);
        let server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let (input, mut typed_in) = mpsc::channel(1);
        let (says, output) = mpsc::channel(1);
        let (ends, exit) = oneshot::channel();
        let process = async {
            let Some(Input::Data(data)) = typed_in.recv().await else { panic!("{protocol}") };
            assert_eq!(data, "in", "{protocol}");
            let piece = Output { channel: Channel::Stdout, data: Bytes::from_static(b"out") };
            says.send(Ok(piece)).await.unwrap();
            drop(says);
            ends.send(Ok(code)).unwrap();
        };
        let client = async {
            client.send(typed).await.unwrap();
            let mut told = Vec::new();
            while let Some(Ok(message)) = client.next().await {
                told.push(message);
            }
            told
        };
        let carried = carry(server, protocol, Session { input, output, exit });
        tokio::join!(carried, process, client).2
    }

    #[tokio::test]
    async fn every_protocol_of_a_websocket() {
        const FAILED: &str = "command terminated with non-zero exit code: exit status 3";
        for protocol in channels::PROTOCOLS {
            let form = Form::of(protocol);
            let typed = match protocol.contains("base64") {
                true => Message::Text("0aW4=".into()),
                false => Message::Binary(Bytes::from_static(b"\x00in")),
            };
            for code in [0, 3] {
                let told = talk(protocol, typed.clone(), code).await;
                let out = match form {
                    Form::Binary => Message::Binary(Bytes::from_static(b"\x01out")),
                    Form::Base64 => Message::Text("1b3V0".into()),
                };
                assert_eq!(told[0], out, "{protocol}");
                let ended: Vec<_> =
                    told.iter().filter_map(|m| form.read(m.clone())).skip(1).collect();
                let ended = ended.iter().map(|(_, data)| std::str::from_utf8(data).unwrap());
                let ended: Vec<_> = ended.collect();
                match (protocol.starts_with('v'), code) {
                    (false, 0) => assert!(ended.is_empty(), "{protocol}: {ended:?}"),
                    (false, _) => assert_eq!(ended, [FAILED], "{protocol}"),
                    (true, 0) => assert!(ended[0].contains("Success"), "{protocol}: {ended:?}"),
                    (true, _) => assert!(ended[0].contains("ExitCode"), "{protocol}: {ended:?}"),
                }
                let closed = matches!(told.last(), Some(Message::Close(Some(close))) if close.code == CloseCode::Normal);
                assert!(closed, "{protocol}: {told:?}");
            }
        }
    }
}
