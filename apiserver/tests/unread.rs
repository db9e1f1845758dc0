//! Answers that are known before the request's body has come: clients that write all of it first read them too.
#![expect(clippy::unwrap_used, reason = "a test fails where anything is not as it should be")]

mod support;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use support::{World, tls};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use warren_process::Tasks;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MIB: usize = 1 << 20;

/// The head and the body of one answer over HTTP/1.1.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> (u16, Value) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
            });
            if length.is_some_and(|length: usize| body.len() >= length) {
                let code = head.split(' ').nth(1).unwrap().parse().unwrap();
                return (code, serde_json::from_str(body).unwrap_or_default());
            }
        }
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.unwrap();
        assert!(read > 0, "the connection ended within {text:?}");
        bytes.extend_from_slice(&chunk[..read]);
    }
}

/// Each row: who asks, the content type, how much; the code and the reason.
#[tokio::test]
async fn a_client_that_writes_all_first_reads_the_answer() {
    let world = World::start().await;
    let admin = world.authority.issue("admin", &["system:masters"]);
    let jane = world.authority.issue("jane", &[]);
    for (who, kind, mib, code, reason) in [
        (Some(&admin), "application/json", 8, 413, "RequestEntityTooLarge"),
        (Some(&admin), "application/json", 16, 413, "RequestEntityTooLarge"),
        (Some(&admin), "text/csv", 8, 415, "UnsupportedMediaType"),
        (Some(&jane), "application/json", 8, 403, "Forbidden"),
        (None, "application/json", 8, 401, "Unauthorized"),
    ] {
        for chunked in [false, true] {
            let mut stream = tls(&world, who.cloned()).await;
            let length = match chunked {
                true => "transfer-encoding: chunked".to_owned(),
                false => format!("content-length: {}", mib * MIB),
            };
            let head = format!(
                "POST {MAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n{length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let piece = vec![b' '; MIB];
            for _ in 0..mib {
                if chunked {
                    stream.write_all(format!("{MIB:x}\r\n").as_bytes()).await.unwrap();
                }
                stream.write_all(&piece).await.unwrap();
                if chunked {
                    stream.write_all(b"\r\n").await.unwrap();
                }
            }
            if chunked {
                stream.write_all(b"0\r\n\r\n").await.unwrap();
            }
            stream.flush().await.unwrap();
            let (got, status) = read_answer(&mut stream).await;
            let about = format!("{kind}, {mib} MiB, chunked {chunked}: {status}");
            assert_eq!((got, status["reason"].as_str()), (code, Some(reason)), "{about}");
            // The connection is as good as before.
            stream.write_all(b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            stream.flush().await.unwrap();
            assert_eq!(read_answer(&mut stream).await.0, 200, "{about}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn http_2_answers_too_large_as_well() {
    let world = World::start().await;
    let stream = tls(&world, Some(world.authority.issue("admin", &["system:masters"]))).await;
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    Tasks::new().spawn("client", async move {
        let _ = connection.await;
    });
    for (kind, code) in [("application/json", 413), ("text/csv", 415), ("application/json", 413)] {
        let request = http::Request::post(format!("https://localhost{MAPS}"))
            .header("content-type", kind)
            .body(Full::new(Bytes::from(vec![b' '; 8 * MIB])))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), code);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let status: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)));
    }
    world.stop().await;
}

/// What is drained has a bound: who sends far more is cut off, and has been told why.
#[tokio::test]
async fn nobody_is_listened_to_for_ever() {
    let world = World::start().await;
    let stream = tls(&world, Some(world.authority.issue("admin", &["system:masters"]))).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        128 * MIB
    );
    writer.write_all(head.as_bytes()).await.unwrap();
    let write = async {
        let piece = vec![b' '; MIB];
        for mib in 0..128 {
            if writer.write_all(&piece).await.is_err() {
                return mib;
            }
        }
        128
    };
    let (written, (code, _)) = tokio::join!(write, read_answer(&mut reader));
    assert_eq!(code, 413);
    assert!(written < 128, "all of it was taken");
    world.stop().await;
}
