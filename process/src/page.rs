//! The metrics of a process that serves nothing else: `GET /metrics` and `GET /healthz` in plain HTTP/1.1, a request a
//! connection. Whoever reaches the port may read, so it listens where the operator says and nowhere else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::{METRICS_CONTENT_TYPE, Metrics, Tasks};

/// Scrapers ask one at a time. Policy: beyond it connections wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// From its beginning to its end; who is slower is closed.
const LASTS: Duration = Duration::from_secs(5);
/// Of a request's head. Policy: beyond it, 431.
const HEAD_BYTES: usize = 8 << 10;

/// Serves until shutdown; answers where. Port 0 takes any.
pub async fn serve_metrics(
    listen: SocketAddr,
    metrics: Metrics,
    tasks: &Tasks,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let (tasks_of_connections, shutdown) = (tasks.clone(), tasks.shutdown().clone());
    tasks.spawn("metrics port", async move {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let stream = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.draining() => return,
            };
            let Ok((stream, _)) = stream else {
                // Out of descriptors, mostly: it passes when connections end.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let metrics = metrics.clone();
            tasks_of_connections.spawn("metrics connection", async move {
                let _place = place;
                // A client that goes away is its own affair.
                let _ = tokio::time::timeout(LASTS, answer(stream, &metrics)).await;
            });
        }
    });
    Ok(address)
}

async fn answer(mut stream: TcpStream, metrics: &Metrics) -> io::Result<()> {
    let mut head = Vec::new();
    let (code, kind, body) = loop {
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            break page(&head, metrics);
        }
        if head.len() >= HEAD_BYTES {
            break ("431 Request Header Fields Too Large", "text/plain", String::new());
        }
        let mut some = [0; 1024];
        let count = stream.read(&mut some).await?;
        if count == 0 {
            return Ok(());
        }
        head.extend_from_slice(some.get(..count).unwrap_or_default());
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn page(head: &[u8], metrics: &Metrics) -> (&'static str, &'static str, String) {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    match (method, path) {
        (b"GET", b"/metrics") => ("200 OK", METRICS_CONTENT_TYPE, metrics.text()),
        (b"GET", b"/healthz") => ("200 OK", "text/plain", "ok".to_owned()),
        (b"GET", _) => ("404 Not Found", "text/plain", "/metrics and /healthz\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn metrics_over_http() {
        let (metrics, tasks) = (Metrics::new(), Tasks::new());
        metrics.counter("commits", "Committed items").inc_by(3);
        let address = serve_metrics("127.0.0.1:0".parse().unwrap(), metrics, &tasks).await.unwrap();
        let text = ask(address, b"GET /metrics?x HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.ends_with("warren_commits_total 3\n# EOF\n"), "{text}");
        assert!(ask(address, b"GET /healthz HTTP/1.1\r\n\r\n").await.ends_with("\r\n\r\nok"));
        assert!(ask(address, b"GET /x HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, b"PUT /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        assert!(ask(address, &[b'x'; HEAD_BYTES]).await.starts_with("HTTP/1.1 431 "));
        tasks.shutdown().trigger();
        tasks.wait(Duration::from_secs(5)).await.unwrap();
        TcpStream::connect(address).await.unwrap_err();
    }
}
