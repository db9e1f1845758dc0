//! Logs, exec and attach: bytes between the daemon and whoever asks.

use std::pin::Pin;

use bollard::container::{AttachContainerResults, LogOutput};
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::{AttachContainerOptions, LogsOptions, ResizeContainerTTYOptions};
use futures::Stream;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::runtime::{Channel, Input, Output, STREAM_BUFFER, TerminalSize};

type Outputs = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;

pub(super) async fn logs(
    docker: &Docker,
    tasks: &Tasks,
    id: &str,
    options: LogOptions,
) -> Result<OutputStream> {
    // An unknown container is an error now, not in the stream.
    docker.inspect_container(id, None).await.map_err(|e| failed("logs", e))?;
    let seconds = options.since.map_or(0, |t| i32::try_from(t.as_second()).unwrap_or(i32::MAX));
    let query = LogsOptions {
        follow: options.follow,
        stdout: options.stream != Some(Channel::Stderr),
        stderr: options.stream != Some(Channel::Stdout),
        since: seconds.max(0),
        until: 0,
        timestamps: options.timestamps,
        tail: options.tail_lines.map_or_else(|| "all".to_owned(), |n| n.to_string()),
    };
    let stream: Outputs = Box::pin(docker.logs(id, Some(query)));
    let (send, receive) = mpsc::channel(STREAM_BUFFER);
    let limit = options.limit_bytes.unwrap_or(u64::MAX);
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("docker-logs", async move {
        tokio::select! {
            () = forward(stream, &send, limit) => {}
            () = send.closed() => {}
            () = shutdown.draining() => {}
        }
    });
    Ok(receive)
}

async fn forward(mut from: Outputs, to: &mpsc::Sender<Result<Output>>, mut left: u64) {
    while let Some(output) = from.next().await {
        let output = match output {
            Ok(LogOutput::StdErr { message }) => Ok((Channel::Stderr, message)),
            Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
                Ok((Channel::Stdout, message))
            }
            Ok(LogOutput::StdIn { .. }) => continue,
            Err(error) => Err(failed("read output", error)),
        };
        let is_error = output.is_err();
        let output = output.map(|(channel, mut data)| {
            data.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(data.len()));
            left -= data.len() as u64;
            Output { channel, data }
        });
        if to.send(output).await.is_err() || is_error || left == 0 {
            return;
        }
    }
}

pub(super) async fn exec(
    docker: &Docker,
    tasks: &Tasks,
    id: &str,
    options: ExecOptions,
) -> Result<Session> {
    let create = CreateExecOptions {
        attach_stdin: Some(options.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(!options.tty),
        tty: Some(options.tty),
        cmd: Some(options.command),
        ..CreateExecOptions::default()
    };
    let exec = docker.create_exec(id, create).await.map_err(|e| failed("exec", e))?.id;
    let start = StartExecOptions { detach: false, tty: options.tty, output_capacity: None };
    let started = docker.start_exec(&exec, Some(start)).await.map_err(|e| failed("exec", e))?;
    let StartExecResults::Attached { output, input } = started else {
        let reason = "the daemon detached".to_owned();
        return Err(RuntimeError::Failed { operation: "exec", reason });
    };
    let (to, receive) = mpsc::channel(STREAM_BUFFER);
    let (send, inputs) = mpsc::channel(STREAM_BUFFER);
    let (done, exit) = oneshot::channel();
    let (docker, shutdown) = (docker.clone(), tasks.shutdown().clone());
    tasks.spawn("docker-exec", async move {
        let resize = |size: TerminalSize| {
            let (docker, exec) = (docker.clone(), exec.clone());
            async move {
                let size = ResizeExecOptions { height: size.height, width: size.width };
                let _ = docker.resize_exec(&exec, size).await;
            }
        };
        let feed = feed(inputs, input, options.stdin, resize);
        let talk = async {
            tokio::pin!(feed);
            let out = forward(output, &to, u64::MAX);
            tokio::pin!(out);
            tokio::select! {
                () = &mut out => {}
                () = &mut feed => out.await,
            }
        };
        tokio::select! {
            () = talk => {}
            () = to.closed() => {}
            () = shutdown.draining() => {}
        }
        drop(to);
        let _ = done.send(exit_code(&docker, &exec).await);
    });
    Ok(Session { input: send, output: receive, exit })
}

/// The daemon closes the stream a moment before it knows the code.
async fn exit_code(docker: &Docker, exec: &str) -> Result<i32> {
    for wait in [0, 5, 20, 50, 100, 200, 400, 800] {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let found = docker.inspect_exec(exec).await.map_err(|e| failed("exec", e))?;
        if let Some(code) = found.exit_code.filter(|_| found.running != Some(true)) {
            return Ok(i32::try_from(code).unwrap_or(-1));
        }
    }
    Err(RuntimeError::Failed { operation: "exec", reason: "it goes on without us".into() })
}

pub(super) async fn attach(
    docker: &Docker,
    tasks: &Tasks,
    id: &str,
    stdin: bool,
    _tty: bool,
) -> Result<Session> {
    let options = AttachContainerOptions {
        detach_keys: None,
        logs: false,
        stream: true,
        stdin,
        stdout: true,
        stderr: true,
    };
    let attached = docker.attach_container(id, Some(options)).await;
    let AttachContainerResults { output, input } = attached.map_err(|e| failed("attach", e))?;
    let (to, receive) = mpsc::channel(STREAM_BUFFER);
    let (send, inputs) = mpsc::channel(STREAM_BUFFER);
    let (done, exit) = oneshot::channel();
    let (docker, id, shutdown) = (docker.clone(), id.to_owned(), tasks.shutdown().clone());
    tasks.spawn("docker-attach", async move {
        let resize = |size: TerminalSize| {
            let (docker, id) = (docker.clone(), id.clone());
            async move {
                let size =
                    ResizeContainerTTYOptions { h: size.height.into(), w: size.width.into() };
                let _ = docker.resize_container_tty(&id, size).await;
            }
        };
        let feed = feed(inputs, input, stdin, resize);
        let talk = async {
            tokio::pin!(feed);
            let out = forward(output, &to, u64::MAX);
            tokio::pin!(out);
            tokio::select! {
                () = &mut out => {}
                () = &mut feed => out.await,
            }
        };
        tokio::select! {
            () = talk => {}
            () = to.closed() => {}
            () = shutdown.draining() => {}
        }
        let _ = done.send(Ok(0));
    });
    Ok(Session { input: send, output: receive, exit })
}

/// Writes what comes in until it ends, then closes the other side's standard input. Resizing goes on after that.
async fn feed<F>(
    mut inputs: mpsc::Receiver<Input>,
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    stdin: bool,
    resize: impl Fn(TerminalSize) -> F,
) where
    F: Future<Output = ()>,
{
    let mut writer = Some(writer).filter(|_| stdin);
    while let Some(input) = inputs.recv().await {
        match input {
            Input::Data(data) => {
                let Some(open) = &mut writer else { continue };
                if open.write_all(&data).await.is_err() || open.flush().await.is_err() {
                    writer = None;
                }
            }
            Input::Resize(size) => resize(size).await,
            Input::Close => {
                if let Some(mut open) = writer.take() {
                    let _ = open.shutdown().await;
                }
            }
        }
    }
    if let Some(mut open) = writer.take() {
        let _ = open.shutdown().await;
    }
}
