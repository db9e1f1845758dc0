//! Frames byte by byte, streams as a table of conversations, and what no peer may be able to do.

use std::fmt::Write as _;

use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::headers::dictionary;
use crate::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn unhex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn encoded(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = FrameEncoder::new();
    frames.iter().for_each(|frame| encoder.encode(frame, &mut out));
    out
}

fn decoded(bytes: &[u8], step: usize) -> Result<Vec<Frame>, Error> {
    let (mut decoder, mut frames) = (FrameDecoder::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        decoder.push(piece);
        while let Some(frame) = decoder.next()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

/// Pieces of data that follow each other become one.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut all: Vec<Frame> = Vec::new();
    for frame in frames {
        match (all.last_mut(), frame) {
            (
                Some(Frame::Data { stream, fin, data }),
                Frame::Data { stream: same, fin: last, data: more },
            ) if *stream == same && !*fin => {
                *fin = last;
                *data = [data.as_ref(), more.as_ref()].concat().into();
            }
            (_, frame) => all.push(frame),
        }
    }
    all
}

fn named(pairs: &[(&str, &str)]) -> Headers {
    Headers::from_iter(pairs.iter().copied())
}

#[test]
fn the_dictionary_is_the_drafts() {
    let dictionary = dictionary();
    assert_eq!(dictionary.len(), 1423);
    // Adler-32, which zlib writes into the stream as the dictionary's id.
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in &dictionary {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    assert_eq!(b << 16 | a, 0xe3c6_a7c2);
}

#[test]
fn frames_have_their_bytes() {
    let check = |frame: Frame, bytes: &str| {
        assert_eq!(hex(&encoded(std::slice::from_ref(&frame))), bytes, "{frame:?}");
        assert_eq!(decoded(&unhex(bytes), 1).unwrap(), [frame]);
    };
    check(Frame::Ping(7), "80 03 00 06 00 00 00 04 00 00 00 07");
    check(
        Frame::RstStream { stream: 3, status: Reset::Cancel as u32 },
        "80 03 00 03 00 00 00 08 00 00 00 03 00 00 00 05",
    );
    check(
        Frame::GoAway { last_stream: 9, status: 0 },
        "80 03 00 07 00 00 00 08 00 00 00 09 00 00 00 00",
    );
    check(
        Frame::WindowUpdate { stream: 5, delta: 65536 },
        "80 03 00 09 00 00 00 08 00 00 00 05 00 01 00 00",
    );
    check(
        Frame::Settings(vec![Setting { flags: 1, id: 4, value: 100 }]),
        "80 03 00 04 00 00 00 0c 00 00 00 01 01 00 00 04 00 00 00 64",
    );
    check(Frame::data(1, "", true), "00 00 00 01 01 00 00 00");
    check(Frame::Unknown(77), "80 03 00 4d 00 00 00 00");
    assert_eq!(hex(&encoded(&[Frame::data(1, "ls", false)])), "00 00 00 01 00 00 00 02 6c 73");
}

/// Two streams as a client opens them, their blocks made by C's zlib at level 9 with the dictionary.
#[test]
fn what_another_zlib_wrote_is_read() {
    let stream = |id: u32, block: &str| {
        let block = unhex(block);
        let mut frame = unhex("80 03 00 01 00");
        frame.extend_from_slice(&u32::try_from(10 + block.len()).unwrap().to_be_bytes()[1..]);
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&block);
        frame
    };
    let mut bytes = stream(1, FIRST_BLOCK);
    bytes.extend_from_slice(&stream(3, SECOND_BLOCK));
    let frames = decoded(&bytes, 7).unwrap();
    assert_eq!(
        frames,
        [
            Frame::open(1, named(&[("streamtype", "error")])),
            Frame::open(3, named(&[("streamtype", "stdin")])),
        ]
    );
}

const FIRST_BLOCK: &str =
    "78 f9 e3 c6 a7 c2 02 a6 23 46 70 3a 2b 29 4a 4d cc 85 16 25 ac a9 a0 80 06 00 00 00 ff ff";
const SECOND_BLOCK: &str = "c2 2e 55 5c 02 cc 2e 00 00 00 00 ff ff";

#[test]
fn headers_are_looked_up_without_regard_to_case() {
    let headers = named(&[("streamType", "error"), ("PORT", "80"), ("port", "81")]);
    assert_eq!(headers.iter().collect::<Vec<_>>(), [("streamtype", "error"), ("port", "81")]);
    assert_eq!(headers.get("StreamType"), Some("error"));
    assert_eq!(headers.get("requestID"), None);
}

#[test]
fn malformed_frames_are_errors() {
    let check = |bytes: &str, expected: Error| {
        assert_eq!(decoded(&unhex(bytes), 3), Err(expected), "{bytes}");
    };
    let length = |kind, length| Error::FrameLength { kind, length };
    check("80 02 00 06 00 00 00 04 00 00 00 01", Error::Version(2));
    check("80 03 00 06 00 00 00 05 00 00 00 01 00", length(6, 5));
    check("80 03 00 06 00 00 00 00", length(6, 0));
    check("80 03 00 03 00 00 00 04 00 00 00 01", length(3, 4));
    check("80 03 00 01 00 00 00 09 00 00 00 01 00 00 00 00 00", length(1, 9));
    check("80 03 00 02 00 00 00 02 00 00", length(2, 2));
    // Settings that say more than they have.
    check("80 03 00 04 00 00 00 04 ff ff ff ff", length(4, 4));
    // Refused by what it says, before it arrives.
    check("80 03 00 01 00 ff ff ff", length(1, 0xff_ffff));
    let plain = "80 03 00 02 00 00 00 08 00 00 00 01 00 00 00 00";
    check(plain, Error::Headers("not compressed"));
    let nothing = "80 03 00 02 00 00 00 04 00 00 00 01";
    check(nothing, Error::Headers("cut off within a length"));
}

#[test]
fn header_blocks_are_checked() {
    let check = |plain: &[u8], expected: &str| {
        let mut compress = flate2::Compress::new(flate2::Compression::best(), true);
        compress.set_dictionary(&dictionary()).unwrap();
        let mut block = Vec::with_capacity(1 << 20);
        compress.compress_vec(plain, &mut block, flate2::FlushCompress::Sync).unwrap();
        let result = crate::headers::Inflater::new().block(&block);
        assert_eq!(format!("{result:?}"), expected);
    };
    let error = |why: &str| format!("Err(Headers({why:?}))");
    check(b"\0\0\0\0", "Ok(Headers([]))");
    check(b"\0\0\0\x01\0\0\0\x01a\0\0\0\x01b", r#"Ok(Headers([("a", "b")]))"#);
    check(b"\0\0\0\x01", &error("fewer than they say"));
    check(b"\xff\xff\xff\xff\0\0\0\x01a\0\0\0\x01b", &error("fewer than they say"));
    check(b"\0\0\0\0\0", &error("more than they say"));
    check(b"\0\0\0\x01\0\0\0\x01a\0\0\xff\xffb", &error("cut off within a text"));
    check(b"\0\0\0\x01\0\0\0\0\0\0\0\x01b", &error("a name is empty or not in lower case"));
    check(b"\0\0\0\x01\0\0\0\x01A\0\0\0\x01b", &error("a name is empty or not in lower case"));
    check(b"\0\0\0\x01\0\0\0\x01\xff\0\0\0\x01b", &error("not UTF-8"));
    let twice = b"\0\0\0\x02\0\0\0\x01a\0\0\0\x01b\0\0\0\x01a\0\0\0\x01b";
    check(twice, &error("a name comes twice"));
    // A thousand times what arrives.
    check(&vec![0; 10 << 20][..], &error("too long"));
}

/// What the client sends, then what the server saw and what it sent.
fn conversation(frames: &[Frame], expected: &Expect) {
    let mut server = Server::new();
    let mut decoder = FrameDecoder::new();
    let mut text = String::new();
    let mut encoder = FrameEncoder::new();
    for frame in frames {
        let mut bytes = Vec::new();
        encoder.encode(frame, &mut bytes);
        server.push(&bytes);
        loop {
            match server.poll() {
                Ok(Some(event)) => {
                    writeln!(text, "{event:?}").unwrap();
                    if let Event::Opened { stream, headers } = event {
                        match headers.get("streamtype") {
                            Some("unwanted") => server.reset(stream, Reset::RefusedStream),
                            _ => assert!(server.accept(stream)),
                        }
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    writeln!(text, "{error}").unwrap();
                    server.go_away();
                    break;
                }
            }
        }
        decoder.push(&server.take_output());
        while let Some(frame) = decoder.next().unwrap() {
            writeln!(text, "  {frame:?}").unwrap();
        }
    }
    expected.assert_eq(&text);
}

fn open(stream: StreamId, kind: &str) -> Frame {
    Frame::open(stream, named(&[("streamtype", kind)]))
}

fn fin(stream: StreamId) -> Frame {
    Frame::data(stream, "", true)
}

#[test]
fn streams_are_opened_and_ended() {
    conversation(
        &[
            open(1, "error"),
            open(3, "stdin"),
            fin(1),
            Frame::data(3, "ls\n", false),
            Frame::data(3, "exit\n", true),
            open(5, "unwanted"),
            Frame::data(5, "already on its way", false),
            Frame::RstStream { stream: 3, status: 5 },
            Frame::data(3, "after its end", true),
        ],
        &expect![[r#"
            Opened { stream: 1, headers: Headers([("streamtype", "error")]) }
              SynReply { stream: 1, fin: false, headers: Headers([]) }
            Opened { stream: 3, headers: Headers([("streamtype", "stdin")]) }
              SynReply { stream: 3, fin: false, headers: Headers([]) }
            Finished { stream: 1 }
            Data { stream: 3, data: b"ls\n" }
            Data { stream: 3, data: b"exit\n" }
            Finished { stream: 3 }
            Opened { stream: 5, headers: Headers([("streamtype", "unwanted")]) }
              RstStream { stream: 5, status: 3 }
            Reset { stream: 3 }
        "#]],
    );
}

#[test]
fn pings_windows_and_unknown_frames() {
    conversation(
        &[
            Frame::Ping(1),
            Frame::Ping(2),
            Frame::Settings(vec![Setting { flags: 0, id: 7, value: 1 }]),
            Frame::WindowUpdate { stream: 1, delta: 1 },
            Frame::Unknown(99),
            open(1, "data"),
            Frame::Headers { stream: 1, fin: true, headers: named(&[("late", "yes")]) },
            Frame::GoAway { last_stream: 0, status: 0 },
            Frame::data(9, "nobody", false),
        ],
        &expect![[r#"
              Ping(1)
            Opened { stream: 1, headers: Headers([("streamtype", "data")]) }
              SynReply { stream: 1, fin: false, headers: Headers([]) }
            Finished { stream: 1 }
            GoAway
              RstStream { stream: 9, status: 2 }
        "#]],
    );
}

#[test]
fn data_after_the_end_resets_the_stream() {
    conversation(
        &[open(1, "data"), fin(1), Frame::data(1, "more", false), Frame::data(1, "more", false)],
        &expect![[r#"
            Opened { stream: 1, headers: Headers([("streamtype", "data")]) }
              SynReply { stream: 1, fin: false, headers: Headers([]) }
            Finished { stream: 1 }
            Reset { stream: 1 }
              RstStream { stream: 1, status: 9 }
        "#]],
    );
}

#[test]
fn wrong_numbers_end_the_connection() {
    let even = expect![[r#"
        stream 2: not an odd and rising number
          GoAway { last_stream: 0, status: 1 }
        stream 2: not an odd and rising number
    "#]];
    conversation(&[open(2, "data"), open(3, "data")], &even);
    let again = expect![[r#"
        Opened { stream: 3, headers: Headers([("streamtype", "data")]) }
          SynReply { stream: 3, fin: false, headers: Headers([]) }
        stream 3: not an odd and rising number
          GoAway { last_stream: 3, status: 1 }
    "#]];
    conversation(&[open(3, "data"), open(3, "data")], &again);
    let reply = Frame::SynReply { stream: 1, fin: false, headers: Headers::default() };
    let nobodys = expect![[r#"
        stream 1: a reply to a stream that nobody opened
          GoAway { last_stream: 0, status: 1 }
    "#]];
    conversation(&[reply], &nobodys);
}

fn pushed(frames: &[Frame]) -> Server {
    let mut server = Server::new();
    server.push(&encoded(frames));
    while let Ok(Some(event)) = server.poll() {
        if let Event::Opened { stream, .. } = event {
            server.accept(stream);
        }
    }
    server
}

#[test]
fn a_stream_of_headers_alone_leaves_nothing() {
    let (fin, unidirectional, headers) = (true, true, named(&[("streamtype", "data")]));
    let alone =
        Frame::SynStream { stream: 1, associated: 0, priority: 0, fin, unidirectional, headers };
    let mut server = pushed(&[alone]);
    assert!(!server.is_open(1) && !server.accept(1));
    assert_eq!(server.output_len(), 0, "nobody waits for a reply");
}

#[test]
fn what_the_server_sends() {
    let mut server = pushed(&[open(1, "stdout")]);
    assert!(server.sends(1) && !server.sends(3));
    assert!(!server.accept(1), "accepted already");
    assert!(!server.send(3, Bytes::from_static(b"x"), false));
    assert!(server.send(1, vec![7; 100_000].into(), false));
    assert!(server.send(1, Bytes::new(), false), "nothing to send");
    assert!(server.send(1, Bytes::from_static(b"end"), true));
    assert!(!server.send(1, Bytes::from_static(b"more"), false), "it was the last");
    assert!(server.is_open(1), "the client may still send");
    server.go_away();
    server.go_away();
    let sent = decoded(&server.take_output(), 1000).unwrap();
    let lengths: Vec<usize> = joined(sent.clone())
        .iter()
        .filter_map(|frame| match frame {
            Frame::Data { data, .. } => Some(data.len()),
            _ => None,
        })
        .collect();
    assert_eq!(lengths, [100_003]);
    assert_eq!(sent.last(), Some(&Frame::GoAway { last_stream: 1, status: 0 }));
    assert_eq!(server.output_len(), 0);
}

#[test]
fn streams_are_bounded() {
    let streams = u32::try_from(MAX_STREAMS).unwrap();
    let frames: Vec<Frame> = (0..=streams).map(|n| open(2 * n + 1, "data")).collect();
    let mut server = pushed(&frames);
    let refused = Frame::RstStream { stream: 2 * streams + 1, status: Reset::RefusedStream as u32 };
    assert_eq!(decoded(&server.take_output(), 4096).unwrap().last(), Some(&refused));
    // There is room again.
    let mut again = FrameEncoder::new();
    let mut bytes = encoded(&frames);
    frames.iter().for_each(|frame| again.encode(frame, &mut Vec::new()));
    let sent = bytes.len();
    again.encode(&Frame::RstStream { stream: 1, status: 5 }, &mut bytes);
    again.encode(&open(2 * streams + 3, "data"), &mut bytes);
    server.push(&bytes[sent..]);
    assert_eq!(server.poll().unwrap(), Some(Event::Reset { stream: 1 }));
    assert!(matches!(server.poll().unwrap(), Some(Event::Opened { .. })));
}

#[test]
fn a_peer_that_asks_and_never_reads_is_left() {
    let mut server = Server::new();
    let pings = encoded(&vec![Frame::Ping(1); 1000]);
    let error = loop {
        server.push(&pings);
        if let Err(error) = server.poll() {
            break error;
        }
    };
    assert_eq!(error, Error::Unread);
    assert!(server.output_len() <= MAX_UNREAD + 12, "{}", server.output_len());
    server.push(&pings);
    assert_eq!(server.poll(), Err(Error::Unread), "for good");
}

/// Each that is opened is accepted and reset, and the client reads nothing of it.
#[test]
fn a_client_that_opens_and_does_not_read_is_not_served() {
    let (mut client, mut server, mut bytes) = (FrameEncoder::new(), Server::new(), Vec::new());
    for stream in (1..).step_by(2) {
        bytes.clear();
        client.encode(&Frame::open(stream, Headers::default()), &mut bytes);
        server.push(&bytes);
        match server.poll() {
            Ok(opened) => assert!(matches!(opened, Some(Event::Opened { .. })), "{opened:?}"),
            Err(error) => {
                assert_eq!(error, Error::Unread);
                break;
            }
        }
        server.accept(stream);
        server.reset(stream, Reset::Cancel);
        assert!(server.output_len() <= MAX_UNREAD + 100, "{}", server.output_len());
    }
}

fn any_headers() -> impl Strategy<Value = Headers> {
    vec(("[a-z0-9-]{1,12}", ".{0,40}"), 0..6).prop_map(Headers::from_iter)
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let id = 0..0x7fff_ffff_u32;
    prop_oneof![
        (id.clone(), 0..8_u8, any::<(bool, bool)>(), any_headers()).prop_map(
            |(stream, priority, (fin, unidirectional), headers)| Frame::SynStream {
                stream,
                associated: 0,
                priority,
                fin,
                unidirectional,
                headers
            }
        ),
        (id.clone(), any::<bool>(), any_headers())
            .prop_map(|(stream, fin, headers)| Frame::SynReply { stream, fin, headers }),
        (id.clone(), any::<bool>(), any_headers())
            .prop_map(|(stream, fin, headers)| Frame::Headers { stream, fin, headers }),
        (id.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
        any::<u32>().prop_map(Frame::Ping),
        (id.clone(), any::<u32>())
            .prop_map(|(last_stream, status)| Frame::GoAway { last_stream, status }),
        (id.clone(), id.clone()).prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
        vec((any::<u8>(), 0..1_u32 << 24, any::<u32>()), 0..4).prop_map(|all| {
            let setting = |(flags, id, value)| Setting { flags, id, value };
            Frame::Settings(all.into_iter().map(setting).collect())
        }),
        (id, vec(any::<u8>(), 0..300), any::<bool>())
            .prop_map(|(stream, data, fin)| Frame::data(stream, data, fin)),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(frames in vec(any_frame(), 0..12), step in 1..200_usize) {
        let read = decoded(&encoded(&frames), step).unwrap();
        prop_assert_eq!(joined(read), joined(frames));
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..600), step in 1..100_usize) {
        let mut server = Server::new();
        for piece in bytes.chunks(step) {
            server.push(piece);
            while let Ok(Some(event)) = server.poll() {
                if let Event::Opened { stream, .. } = event {
                    server.accept(stream);
                }
            }
        }
    }

    /// Frames that are right, with some bytes that are not.
    #[test]
    fn no_damage_does_harm(
        frames in vec(any_frame(), 1..12),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = encoded(&frames);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let mut server = Server::new();
        server.push(&bytes);
        while let Ok(Some(event)) = server.poll() {
            match event {
                Event::Opened { stream, .. } if stream % 4 == 1 => drop(server.accept(stream)),
                Event::Opened { stream, .. } => server.reset(stream, Reset::Cancel),
                Event::Data { stream, data } => drop(server.send(stream, data, false)),
                Event::Finished { stream } => drop(server.send(stream, Bytes::new(), true)),
                Event::Reset { .. } | Event::GoAway => {}
            }
        }
    }
}
