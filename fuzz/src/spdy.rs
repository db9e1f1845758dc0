//! SPDY as a client speaks it to a node: frames, compressed headers, streams. The first byte says in which pieces the
//! rest arrives. What the server sends is right, whatever it was sent.

use warren_spdy::{Event, FrameDecoder, Reset, Server};

pub(crate) fn run(data: &[u8]) {
    let Some((step, data)) = data.split_first() else { return };
    let (mut server, mut sent) = (Server::new(), FrameDecoder::new());
    for piece in data.chunks(usize::from(*step).max(1)) {
        server.push(piece);
        loop {
            match server.poll() {
                Ok(None) => break,
                Ok(Some(event)) => react(&mut server, event),
                Err(error) => {
                    assert_eq!(server.poll(), Err(error), "an error is final");
                    server.go_away();
                    break;
                }
            }
        }
        sent.push(&server.take_output());
        while sent.next().expect("it sends what can be read").is_some() {}
    }
}

/// An echo, but for streams that it does not want.
fn react(server: &mut Server, event: Event) {
    match event {
        Event::Opened { stream, headers } if headers.get("streamtype") == Some("error") => {
            server.reset(stream, Reset::RefusedStream);
        }
        Event::Opened { stream, .. } => assert!(server.accept(stream), "{stream} was just opened"),
        Event::Data { stream, data } => {
            assert!(!data.is_empty());
            server.send(stream, data, false);
        }
        Event::Finished { stream } => {
            server.send(stream, bytes::Bytes::new(), true);
        }
        Event::Reset { stream } => assert!(!server.is_open(stream)),
        Event::GoAway => server.go_away(),
    }
}
