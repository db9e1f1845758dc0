//! `grpc.health.v1.Health/Check` over plain HTTP/2: one request with one string, one answer with one number.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// The serving status of a service: 1 is SERVING.
pub(super) async fn check(
    stream: TcpStream,
    host: &str,
    port: u16,
    service: &str,
) -> Result<u64, String> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
    let request = http::Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(encode(service)))
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.headers().get("grpc-status").cloned();
        let collected = response.into_body().collect().await.map_err(|e| e.to_string())?;
        let trailer = collected.trailers().and_then(|t| t.get("grpc-status")).cloned();
        match trailer.or(status) {
            Some(code) if code != "0" => Err(format!("rpc error: code = {code:?}")),
            _ => Ok(decode(&collected.to_bytes())),
        }
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(ended.err().map_or("EOF".into(), |e| e.to_string())),
    }
}

/// A gRPC frame around `{1: service}`.
fn encode(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

fn varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Field 1 of the answer; 0 (UNKNOWN) where there is none.
fn decode(frame: &[u8]) -> u64 {
    match frame.get(5..) {
        Some([0x08, value, ..]) => u64::from(*value),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn frames() {
        assert_eq!(&super::encode("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&super::encode("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(super::decode(&[0, 0, 0, 0, 2, 8, 1]), 1);
        assert_eq!(super::decode(&[]), 0);
    }
}
