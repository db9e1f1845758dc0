//! A process' streams over SPDY, as kubectl up to 1.29 opens them: `error`, `stdin`, `stdout`, `stderr`, `resize`.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::channels::{self, V1, V4};
use super::spdy::{self, Read, Reader, Stream, Writer};
use super::upgrade::Transport;
use crate::runtime::{Channel, Input, Session};

const V3: &str = "v3.channel.k8s.io";

/// v4 ends with a Status, those before it with words; a terminal's size came with v3.
pub(super) const PROTOCOLS: [&str; 4] = [V4, V3, "v2.channel.k8s.io", V1];

/// As long as the kubelet waits.
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// The streams that a client has said that it will open, besides `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// Both directions until the process has ended or the client has gone.
pub(super) async fn carry(
    transport: Transport,
    protocol: &'static str,
    wanted: Wanted,
    session: Session,
) {
    let consume = |mut opened: mpsc::Receiver<Stream>| async move {
        let resizes = wanted.tty && matches!(protocol, V4 | V3);
        let streams = Streams::collect(&mut opened, wanted, resizes);
        match tokio::time::timeout(CREATION_TIMEOUT, streams).await {
            Ok(Some(streams)) => streams.carry(protocol, session).await,
            Ok(None) => {}
            Err(_) => tracing::debug!("a client did not open the streams that it asked for"),
        }
    };
    spdy::serve(transport, consume).await;
}

struct Streams {
    error: Stream,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    /// Waits for all that were announced, in whichever order. `None` where the client went.
    async fn collect(
        opened: &mut mpsc::Receiver<Stream>,
        wanted: Wanted,
        resizes: bool,
    ) -> Option<Self> {
        let (mut error, mut stdin, mut stdout, mut stderr, mut resize) =
            (None, None, None, None, None);
        loop {
            let complete = (stdin.is_some() || !wanted.stdin)
                && (stdout.is_some() || !wanted.stdout)
                && (stderr.is_some() || !wanted.stderr)
                && (resize.is_some() || !resizes);
            error = match error {
                Some(error) if complete => {
                    return Some(Self { error, stdin, stdout, stderr, resize });
                }
                other => other,
            };
            let stream = opened.recv().await?;
            let place = match stream.headers.get("streamtype").unwrap_or_default() {
                "error" => &mut error,
                "stdin" => &mut stdin,
                "stdout" => &mut stdout,
                "stderr" => &mut stderr,
                "resize" => &mut resize,
                // It is dropped, and with that reset.
                _ => continue,
            };
            *place = Some(stream);
        }
    }

    async fn carry(self, protocol: &str, session: Session) {
        let Session { input, mut output, exit } = session;
        let Self { error, stdin, stdout, stderr, resize } = self;
        let (mut stdin, stdin_end) = ends(stdin);
        let (mut resize, resize_end) = ends(resize);
        let (_, stdout) = ends(stdout);
        let (_, stderr) = ends(stderr);
        let typed = async {
            if let Some(reader) = &mut stdin {
                forward_input(reader, &input).await;
            }
        };
        let resized = async {
            if let Some(reader) = &mut resize {
                forward_sizes(reader, &input).await;
            }
        };
        let said = async {
            let mut failure = None;
            while let Some(piece) = output.recv().await {
                let writer = match &piece {
                    Ok(piece) if piece.channel == Channel::Stdout => &stdout,
                    Ok(_) => &stderr,
                    Err(error) => {
                        failure = Some(error.to_string());
                        continue;
                    }
                };
                // Nobody may want it; the process goes on, as with the kubelet.
                if let (Ok(piece), Some(writer)) = (piece, writer) {
                    let _ = writer.send(piece.data).await;
                }
            }
            match (failure, exit.await) {
                (Some(reason), _) => Err(reason),
                (None, Ok(Ok(code))) => Ok(code),
                (None, Ok(Err(error))) => Err(error.to_string()),
                (None, Err(_)) => Err("the process was lost".to_owned()),
            }
        };
        let input_ends = async {
            tokio::join!(typed, resized);
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            ended = said => ended,
            () = input_ends => return,
        };
        // All that was written is read before the end is known; a client waits for the end of every stream.
        for writer in [stdout, stderr].into_iter().flatten() {
            writer.finish().await;
        }
        let told = channels::told(protocol, ended);
        if !told.is_empty() {
            let _ = error.writer.send(Bytes::from(told)).await;
        }
        for writer in [Some(error.writer), stdin_end, resize_end].into_iter().flatten() {
            writer.finish().await;
        }
    }
}

fn ends(stream: Option<Stream>) -> (Option<Reader>, Option<Writer>) {
    stream.map(|stream| (stream.reader, stream.writer)).unzip()
}

async fn forward_input(reader: &mut Reader, input: &mpsc::Sender<Input>) {
    loop {
        let event = match reader.next().await {
            Read::Data(data) => Input::Data(data),
            Read::Finished | Read::Gone => Input::Close,
        };
        let last = matches!(event, Input::Close);
        if input.send(event).await.is_err() || last {
            // What still comes is read, so that the other streams go on.
            return reader.gone().await;
        }
    }
}

async fn forward_sizes(reader: &mut Reader, input: &mpsc::Sender<Input>) {
    let mut arrived = Vec::new();
    while let Read::Data(data) = reader.next().await {
        arrived.extend_from_slice(&data);
        match channels::last_size(&mut arrived) {
            Ok(None) => {}
            Ok(Some(size)) => {
                if input.send(size).await.is_err() {
                    break;
                }
            }
            Err(reason) => {
                tracing::debug!(reason, "a client spoke out of turn");
                break;
            }
        }
    }
    reader.gone().await;
}
