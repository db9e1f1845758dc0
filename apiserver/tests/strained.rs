//! Clients that take no answers, send half of what they say, or more than they should.
#![expect(clippy::unwrap_used, reason = "a test fails where anything is not as it should be")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use support::{Client, World, tls};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;
use warren_process::Tasks;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Longer than anything takes here that does not hang.
const SOON: Duration = Duration::from_secs(30);

async fn asked(world: &World, text: &str) -> TlsStream<TcpStream> {
    let identity = world.authority.issue("admin", &["system:masters"]);
    let mut stream = tls(world, Some(identity)).await;
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

/// What comes until that is in it.
async fn until(stream: &mut (impl AsyncRead + Unpin), wanted: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while !text.contains(wanted) {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "it ended within {text:?}");
            text.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    };
    let read = tokio::time::timeout(SOON, reading).await;
    assert!(read.is_ok(), "{wanted:?} did not come, but {text:?}");
    text
}

/// More than the kernel takes for a client that does not read.
async fn large_list(admin: &mut Client) {
    let text = "x".repeat(900 << 10);
    for n in 0..20 {
        let map = json!({"metadata": {"name": format!("m{n}")}, "data": {"a": text}});
        admin.post(MAPS, map).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_was_made_for_a_client_keeps_its_permit_until_it_is_read() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    large_list(&mut admin).await;
    let reading = async |admin: &mut Client, wanted: usize| {
        let line = format!("inflight_requests{{request_kind=\"readOnly\"}} {wanted}\n");
        let asking = async {
            while !String::from_utf8_lossy(&admin.get("/metrics").await.body).contains(&line) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, asking).await.is_ok()
    };
    for (form, held) in [
        ("application/json", 0),
        ("application/yaml", 1),
        ("application/vnd.kubernetes.protobuf", 1),
    ] {
        let mut client = world.admin().await;
        let list = client.send("GET", MAPS, &[("accept", form)], "").await;
        assert_eq!(list.status(), 200);
        assert!(reading(&mut admin, held).await, "{form}");
        let length = list.into_body().collect().await.unwrap().to_bytes().len();
        assert!(length > 20 * (900 << 10), "{form}: {length}");
        assert!(reading(&mut admin, 0).await, "{form}, when it is read");
    }
    drop(admin);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_holds_up_a_server_that_stops() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    large_list(&mut admin).await;
    drop(admin);
    let get = format!("GET {MAPS} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let _half_a_head = asked(&world, "GET /version HTTP/1.1\r\nhost: ").await;
    let mut half_a_body = asked(
        &world,
        &format!(
            "POST {MAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             expect: 100-continue\r\ncontent-length: 100\r\n\r\n"
        ),
    )
    .await;
    until(&mut half_a_body, "100 Continue").await;
    half_a_body.write_all(b"{").await.unwrap();
    let mut unread = asked(&world, &get).await;
    until(&mut unread, "200 OK").await;
    let _no_handshake = TcpStream::connect(world.server.address()).await.unwrap();
    let mut reader = world.admin().await;
    let read = reader.send("GET", MAPS, &[], "").await;
    let length: usize = read.headers()["content-length"].to_str().unwrap().parse().unwrap();
    // It fails where the tasks have not ended in 10 s.
    let (_, body) = tokio::join!(world.stop(), read.into_body().collect());
    assert_eq!(body.unwrap().to_bytes().len(), length, "who reads gets all");
}

/// A node's port, as far as one connection: what is in it when the body has come, and an upgrade.
async fn node_takes_one(listener: TcpListener, tls: ServerConfig) -> String {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = TlsAcceptor::from(Arc::new(tls)).accept(stream).await.unwrap();
    let got = until(&mut stream, "\r\n\r\nhello").await;
    let answer =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: foo\r\n\r\nbye";
    stream.write_all(answer).await.unwrap();
    stream.flush().await.unwrap();
    // The other side ends it.
    let _ = stream.read(&mut [0]).await;
    got
}

fn node_tls(world: &World) -> ServerConfig {
    let (certificate, key) = world.authority.issue("system:node:a", &["system:nodes"]);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap()
}

async fn node_is_at(admin: &mut Client, address: SocketAddr) {
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address.ip().to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    }});
    admin.patch("merge-patch+json", "/api/v1/nodes/a/status", status).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_with_an_upgrade_goes_on() {
    let world = World::start().await;
    let mut admin = world.admin().await;
    admin.post("/api/v1/nodes", json!({"metadata": {"name": "a"}})).await.ok();
    let pod = json!({"metadata": {"name": "web"},
                     "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    admin.post("/api/v1/namespaces/default/pods", pod).await.ok();
    let pod = "/api/v1/namespaces/default/pods/web";
    for path in ["/api/v1/nodes/a/proxy/x".to_owned(), format!("{pod}/exec?command=x&stdout=1")] {
        for framed in [
            "content-length: 5\r\n\r\nhello",
            "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            node_is_at(&mut admin, listener.local_addr().unwrap()).await;
            let taking = node_takes_one(listener, node_tls(&world));
            let asking = async {
                let head = "host: x\r\nconnection: Upgrade\r\nupgrade: foo";
                let text = format!("POST {path} HTTP/1.1\r\n{head}\r\n{framed}");
                until(&mut asked(&world, &text).await, "\r\n\r\nbye").await
            };
            let (got, _) = tokio::join!(taking, asking);
            assert!(got.contains("content-length: 5\r\n"), "{path}: {got}");
            assert!(!got.contains("transfer-encoding"), "{path}: {got}");
        }
    }
    // What the server itself says to a node, no client says through it.
    let text = format!(
        "GET {pod}/portforward?port=80 HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: TCP\r\n\r\n"
    );
    let refused = until(&mut asked(&world, &text).await, "is required").await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    drop(admin);
    world.stop().await;
}

#[tokio::test]
async fn no_tunnel_is_opened() {
    let world = World::start().await;
    let text = "CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: x\r\n\r\n";
    let refused = until(&mut asked(&world, text).await, "\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
    world.stop().await;
}

#[tokio::test]
async fn headers_have_a_bound() {
    let world = World::start().await;
    for (bytes, code) in [(84 << 10, 200), (136 << 10, 431)] {
        let long = "x".repeat(bytes);
        let text = format!("GET /version HTTP/1.1\r\nhost: x\r\nx-long: {long}\r\n\r\n");
        let answer = until(&mut asked(&world, &text).await, "\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{bytes}: {answer}");

        let stream = asked(&world, "").await;
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        Tasks::new().spawn("client", async move {
            let _ = connection.await;
        });
        let request = http::Request::get("https://localhost/version").header("x-long", long);
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), code, "{bytes} in HTTP/2");
    }
    world.stop().await;
}
