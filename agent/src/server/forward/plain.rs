//! One connection to a port of a pod, as it is: how the API server reaches what it proxies to.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Body, Query, READ_BYTES, Refusal, Service, Target, channels};

const TCP: &str = "tcp";

/// A pod that takes nothing for so long takes nothing more; that its client has gone is not seen meanwhile.
const MAX_STALL: Duration = Duration::from_secs(600);

pub(super) fn is_asked<B>(request: &Request<B>) -> bool {
    request.headers().get(header::UPGRADE).is_some_and(|to| to == TCP)
}

/// Answers when the pod has taken the connection; a pod that has not is told in plain text.
pub(super) async fn answer(
    service: &Service,
    target: &Target,
    query: &Query,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let ports = channels::ports(query)?;
    let [port] = *ports.as_slice() else {
        return Err(Refusal::bad("ports: one, for a connection as it is"));
    };
    let pod = target.reach(port).await.map_err(|why| Refusal(StatusCode::BAD_GATEWAY, why))?;
    let client = hyper::upgrade::on(request);
    let shutdown = service.tasks.shutdown().clone();
    service.tasks.spawn("proxied", async move {
        let carried = async {
            let client = client.await.map_err(io::Error::other)?;
            carry(TokioIo::new(client), pod).await
        };
        tokio::select! {
            ended = carried => if let Err(error) = ended {
                tracing::debug!(%error, "a proxied connection broke");
            },
            () = shutdown.draining() => {}
        }
    });
    let mut response = Response::new(Empty::<Bytes>::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(TCP));
    Ok(response)
}

/// Ends with either side: HTTP closes no half of a connection, and a pod that has nothing to say would hold it for ever.
async fn carry<C, P>(client: C, pod: P) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    P: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_pod, mut to_pod) = tokio::io::split(pod);
    let up = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            if from_client.read_buf(&mut buffer).await? == 0 {
                return io::Result::Ok(());
            }
            let taken = async {
                to_pod.write_all_buf(&mut buffer).await?;
                to_pod.flush().await
            };
            match tokio::time::timeout(MAX_STALL, taken).await {
                Ok(Ok(())) => {}
                // It takes no more, and what it has said is still to arrive.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    };
    let down = async {
        tokio::io::copy(&mut from_pod, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn either_end_is_the_end() {
        let (client, far) = duplex(64);
        let (pod, near) = duplex(64);
        let carried = carry(far, near);
        let talk = async {
            let (mut client, mut pod) = (client, pod);
            let mut said = [0; 4];
            client.write_all(b"ping").await.unwrap();
            pod.read_exact(&mut said).await.unwrap();
            pod.write_all(&said).await.unwrap();
            client.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"ping");
            drop(client);
            // It stays, and says nothing.
            pod
        };
        let (ended, mut pod) = tokio::join!(carried, talk);
        ended.unwrap();
        assert_eq!(pod.read(&mut [0]).await.unwrap(), 0);
    }
}
