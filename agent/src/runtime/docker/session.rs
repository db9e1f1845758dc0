//! Logs, exec and attach: bytes between the daemon and whoever asks.

use std::pin::Pin;

use bollard::container::{AttachContainerResults, LogOutput};
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use bollard::query_parameters::{AttachContainerOptions, LogsOptions, ResizeContainerTTYOptions};
use futures::Stream;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::runtime::{Channel, Input, Output, STREAM_BUFFER, TerminalSize};

/// How long the size of a terminal is waited for before its command starts. It comes on a stream of its own, which a
/// client opens with the others, and many programs ask for it once only.
const SIZE_WAIT: Duration = Duration::from_millis(200);

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
    let (to, receive) = mpsc::channel(STREAM_BUFFER);
    let (send, mut inputs) = mpsc::channel(STREAM_BUFFER);
    let (done, exit) = oneshot::channel();
    let (docker, shutdown) = (docker.clone(), tasks.shutdown().clone());
    let started = if options.tty {
        // An unknown container is an error now; what else fails is told by the session.
        docker.inspect_container(id, None).await.map_err(|e| failed("exec", e))?;
        None
    } else {
        Some(start(&docker, id, &options, None).await?)
    };
    let id = id.to_owned();
    tasks.spawn("docker-exec", async move {
        let (started, before) = match started {
            Some(started) => (Ok(started), Vec::new()),
            None => {
                let (size, mut before) = size(&mut inputs).await;
                let started = start(&docker, &id, &options, size).await;
                // Daemons before 23.0 take it by itself only, and hold it back until there is a terminal.
                before.splice(0..0, size.map(Input::Resize));
                (started, before)
            }
        };
        let (exec, output, input) = match started {
            Ok(started) => started,
            Err(error) => {
                let _ = done.send(Err(error));
                return;
            }
        };
        let resize = |size: TerminalSize| {
            let (docker, exec) = (docker.clone(), exec.clone());
            async move {
                let size = ResizeExecOptions { height: size.height, width: size.width };
                let _ = docker.resize_exec(&exec, size).await;
            }
        };
        let feed = feed(before, inputs, input, options.stdin, resize);
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

type Started = (String, Outputs, Pin<Box<dyn AsyncWrite + Send>>);

async fn start(
    docker: &Docker,
    id: &str,
    options: &ExecOptions,
    size: Option<TerminalSize>,
) -> Result<Started> {
    let create = ExecConfig {
        attach_stdin: Some(options.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(!options.tty),
        tty: Some(options.tty),
        // From API 1.42 on; others pass it over.
        console_size: size.map(|size| vec![size.height.into(), size.width.into()]),
        cmd: Some(options.command.clone()),
        ..ExecConfig::default()
    };
    let exec = docker.create_exec(id, create).await.map_err(|e| failed("exec", e))?.id;
    let start = StartExecOptions { detach: false, tty: options.tty, output_capacity: None };
    let started = docker.start_exec(&exec, Some(start)).await.map_err(|e| failed("exec", e))?;
    match started {
        StartExecResults::Attached { output, input } => Ok((exec, output, input)),
        StartExecResults::Detached => {
            let reason = "the daemon detached".to_owned();
            Err(RuntimeError::Failed { operation: "exec", reason })
        }
    }
}

/// The first size that is told, and all that came before it.
async fn size(inputs: &mut mpsc::Receiver<Input>) -> (Option<TerminalSize>, Vec<Input>) {
    let mut before = Vec::new();
    let told = async {
        while before.len() < STREAM_BUFFER {
            match inputs.recv().await? {
                Input::Resize(size) => return Some(size),
                other => before.push(other),
            }
        }
        None
    };
    let size = tokio::time::timeout(SIZE_WAIT, told).await.ok().flatten();
    (size, before)
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
        let feed = feed(Vec::new(), inputs, input, stdin, resize);
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
    before: Vec<Input>,
    mut inputs: mpsc::Receiver<Input>,
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    stdin: bool,
    resize: impl Fn(TerminalSize) -> F,
) where
    F: Future<Output = ()>,
{
    let mut writer = Some(writer).filter(|_| stdin);
    let mut before = before.into_iter();
    loop {
        let input = match before.next() {
            Some(input) => input,
            None => match inputs.recv().await {
                Some(input) => input,
                None => break,
            },
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: TerminalSize = TerminalSize { width: 97, height: 31 };

    #[tokio::test(start_paused = true)]
    async fn a_size_is_waited_for_but_not_long() {
        let typed = |text: &'static str| Input::Data(text.into());
        let many = || (0..STREAM_BUFFER).map(|_| typed("x"));
        for (sent, open, expected, kept, waited) in [
            (vec![Input::Resize(SIZE), typed("a")], true, Some(SIZE), 0, false),
            (vec![typed("a"), Input::Close, Input::Resize(SIZE)], true, Some(SIZE), 2, false),
            (vec![typed("a")], true, None, 1, true),
            (vec![], true, None, 0, true),
            (vec![typed("a")], false, None, 1, false),
            (many().collect(), true, None, STREAM_BUFFER, false),
        ] {
            let (send, mut inputs) = mpsc::channel(STREAM_BUFFER);
            for input in sent.clone() {
                send.send(input).await.unwrap();
            }
            let _held = Some(send).filter(|_| open);
            let start = tokio::time::Instant::now();
            let (size, before) = size(&mut inputs).await;
            assert_eq!((size, before.len()), (expected, kept), "{sent:?}");
            let took = if waited { SIZE_WAIT } else { Duration::ZERO };
            assert!(start.elapsed() >= took && start.elapsed() <= took * 2, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn what_came_before_the_start_is_written_first() {
        let (send, inputs) = mpsc::channel(STREAM_BUFFER);
        send.send(Input::Data("second".into())).await.unwrap();
        drop(send);
        let (near, mut far) = tokio::io::duplex(64);
        let before = vec![Input::Resize(SIZE), Input::Data("first ".into())];
        let sizes = std::cell::RefCell::new(Vec::new());
        let resize = |size| {
            sizes.borrow_mut().push(size);
            std::future::ready(())
        };
        feed(before, inputs, Box::pin(near), true, resize).await;
        let mut written = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut far, &mut written).await.unwrap();
        assert_eq!((written.as_str(), sizes.into_inner()), ("first second", vec![SIZE]));
    }
}
