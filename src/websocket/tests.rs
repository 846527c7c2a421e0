//! Tests of the codec: what it reads, what it refuses, and an independent implementation as the oracle.

use std::io::{self, ErrorKind, Read, Write};

use bytes::Bytes;
use proptest::{prelude::*, test_runner::RngSeed};
use tungstenite::protocol::{Role as OracleRole, WebSocketConfig, WebSocketContext};

use crate::{
    message::tolerance::{Deviation, Deviations, Tolerance},
    websocket::{
        codec,
        compression::Compression,
        deflate::InflateError,
        extension::{DeflateParams, Direction},
        head::{Head, HeadError, Opcode, Role, apply_mask},
        reader::{CloseFrame, Message, ReadError, Reader, TextMessage},
        writer::Writer,
    },
};

const LIMIT: usize = 1000;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Returns a frame of a client.
fn frame(opcode: Opcode, is_final: bool, payload: &[u8]) -> Vec<u8> {
    frame_with(Some(MASK), opcode, is_final, payload)
}

fn frame_with(mask: Option<[u8; 4]>, opcode: Opcode, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Head { opcode, is_final, is_compressed: false, mask, payload_len: payload.len() as u64 }.write(&mut bytes);
    let head_len = bytes.len();
    bytes.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut bytes[head_len..], mask);
    }
    bytes
}

fn text(text: &'static str) -> Message {
    text_with(text, &[])
}

fn text_with(text: &str, deviations: &[Deviation]) -> Message {
    let mut set = Deviations::default();
    deviations.iter().for_each(|deviation| set.add(*deviation));
    Message::Text(TextMessage { text: text.into(), deviations: set, compressed_len: None })
}

fn server(tolerance: Tolerance) -> Reader {
    Reader::new(Role::Server, tolerance, LIMIT, None)
}

/// Reads all messages that come in these parts, and the error that ends them.
fn read<'a>(mut reader: Reader, parts: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Message>, Option<ReadError>) {
    let mut messages = Vec::new();
    for part in parts {
        reader.put(part);
        loop {
            match reader.take() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) if reader.is_inflating() => {}
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fn read_all(frames: &[Vec<u8>]) -> (Vec<Message>, Option<ReadError>) {
    read(server(Tolerance::Lenient), [&*frames.concat()])
}

#[test]
fn fragments_are_joined_with_control_frames_between_them() {
    let frames = [
        frame(Opcode::Text, false, b"[2,\"1\","),
        frame(Opcode::Ping, true, b"a"),
        frame(Opcode::Continuation, false, "\"é".as_bytes().split_last().expect("bytes").1),
        frame(Opcode::Pong, true, b"b"),
        frame(Opcode::Continuation, false, &"é".as_bytes()[1..]),
        frame(Opcode::Continuation, true, b"\",{}]"),
        frame(Opcode::Binary, false, b""),
        frame(Opcode::Continuation, true, b""),
        frame(Opcode::Text, true, b""),
    ];
    let messages = vec![
        Message::Ping(Bytes::from_static(b"a")),
        Message::Pong(Bytes::from_static(b"b")),
        text("[2,\"1\",\"é\",{}]"),
        Message::Binary(Bytes::new()),
        text(""),
    ];
    assert_eq!(read_all(&frames), (messages, None));
}

#[test]
fn frame_that_violates_the_protocol_ends_the_input_with_its_code() {
    let compressed = |opcode, is_final| {
        let mut bytes = frame(opcode, is_final, b"x");
        bytes[0] |= 0x40;
        bytes
    };
    let begin = frame(Opcode::Text, false, b"x");
    for (frames, error, code) in [
        (vec![compressed(Opcode::Text, true)], ReadError::NotAgreed, 1002),
        (vec![compressed(Opcode::Ping, true)], ReadError::NotAgreed, 1002),
        (vec![vec![0xa1, 0x80]], HeadError::ReservedBits.into(), 1002),
        (vec![vec![0x8b, 0x80]], HeadError::ReservedOpcode(11).into(), 1002),
        (vec![vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]], HeadError::Length.into(), 1002),
        (vec![frame_with(None, Opcode::Text, true, b"x")], ReadError::Unmasked, 1002),
        (vec![frame(Opcode::Continuation, true, b"x")], ReadError::NothingToContinue, 1002),
        (vec![begin.clone(), frame(Opcode::Text, true, b"x")], ReadError::Unfinished, 1002),
        (vec![begin.clone(), frame(Opcode::Binary, false, b"x")], ReadError::Unfinished, 1002),
        (vec![frame(Opcode::Text, true, b"\xff")], ReadError::NotUtf8, 1007),
        (vec![begin, frame(Opcode::Continuation, true, b"\xc3")], ReadError::NotUtf8, 1007),
    ] {
        assert_eq!(read_all(&frames), (Vec::new(), Some(error)), "{frames:?}");
        assert_eq!(error.close_code(), code);
    }
    let masked =
        read(Reader::new(Role::Client, Tolerance::Permissive, LIMIT, None), [&*frame(Opcode::Text, true, b"x")]);
    assert_eq!(masked, (Vec::new(), Some(ReadError::Masked)));
}

#[test]
fn message_over_the_limit_is_an_error_before_its_payload_arrives() {
    let longest = frame(Opcode::Text, true, &[b'x'; LIMIT]);
    assert_eq!(read_all(&[longest]).0.len(), 1);
    let too_long = frame(Opcode::Text, true, &[b'x'; LIMIT + 1]);
    for head in [&too_long[..8], &[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]] {
        assert_eq!(read_all(&[head.to_vec()]), (Vec::new(), Some(ReadError::TooLarge)));
    }
    let half = [b'x'; LIMIT / 2];
    let fragments = [frame(Opcode::Text, false, &half), frame(Opcode::Continuation, false, &half)];
    assert_eq!(read_all(&fragments), (Vec::new(), None));
    let one_more = frame(Opcode::Continuation, false, b"x");
    assert_eq!(read_all(&[fragments.concat(), one_more]), (Vec::new(), Some(ReadError::TooLarge)));
    assert_eq!(ReadError::TooLarge.close_code(), 1009);
}

#[test]
fn close_frame_is_reported_as_sent_and_gets_a_valid_reply() {
    let close = |code: u16, reason: &[u8]| [&code.to_be_bytes(), reason].concat();
    for (payload, code, reason, reply) in [
        (vec![], None, "", None),
        (vec![3], None, "", Some(1002)),
        (close(1000, b""), Some(1000), "", Some(1000)),
        (close(4999, "é".as_bytes()), Some(4999), "é", Some(4999)),
        (close(1005, b"none"), Some(1005), "none", Some(1002)),
        (close(0, b""), Some(0), "", Some(1002)),
        (close(1016, b""), Some(1016), "", Some(1002)),
        (close(65_535, b"\xff"), Some(65_535), "\u{fffd}", Some(1002)),
        (close(1000, b"caf\xe9"), Some(1000), "caf\u{fffd}", Some(1007)),
    ] {
        let expected = CloseFrame { code, reason: reason.to_owned(), reply };
        let read = read_all(&[frame(Opcode::Close, true, &payload)]);
        assert_eq!(read, (vec![Message::Close(expected)], None), "{payload:?}");
    }
}

#[test]
fn deviations_are_read_if_permissive() {
    let permissive = |frames: &[Vec<u8>]| read(server(Tolerance::Permissive), [&*frames.concat()]).0;
    let frames = [
        frame(Opcode::Text, true, b"caf\xe9"),
        frame_with(None, Opcode::Text, true, b"plain"),
        frame_with(None, Opcode::Text, false, b"\xff"),
        frame(Opcode::Continuation, true, b"!"),
        frame(Opcode::Text, true, b"tidy"),
    ];
    assert_eq!(
        permissive(&frames),
        [
            text_with("caf\u{fffd}", &[Deviation::InvalidUtf8]),
            text_with("plain", &[Deviation::UnmaskedFrame]),
            text_with("\u{fffd}!", &[Deviation::UnmaskedFrame, Deviation::InvalidUtf8]),
            text("tidy"),
        ]
    );
}

#[test]
fn text_that_grows_by_replacement_over_the_limit_is_an_error() {
    let read = |len| read(server(Tolerance::Permissive), [&*frame(Opcode::Text, true, &vec![0xff; len])]);
    assert_eq!(read(LIMIT / 3).0, [text_with(&"\u{fffd}".repeat(LIMIT / 3), &[Deviation::InvalidUtf8])]);
    assert_eq!(read(LIMIT / 2), (Vec::new(), Some(ReadError::TooLarge)));
}

#[test]
fn text_that_does_not_compress_is_read_up_to_the_limit() {
    let params = DeflateParams {
        server: Direction { window_bits: 10, context_takeover: true },
        client: Direction { window_bits: 10, context_takeover: true },
    };
    let deflate = Some((params, Compression::new()));
    // Characters that zlib writes in 9 bits for a byte.
    let noise: String = (0..20_000_u32).map(|n| char::from_u32(0x4e00 + n * 7919 % 20_000).expect("CJK")).collect();
    let (_, mut writer) = codec(Role::Client, Tolerance::Lenient, noise.len(), deflate);
    let compressed_len = writer.text(noise.clone()).expect("compressed");
    assert!(compressed_len > noise.len() + noise.len() / 64 + 64, "{compressed_len} of {}", noise.len());
    let (reader, _) = codec(Role::Server, Tolerance::Lenient, noise.len(), deflate);
    let (messages, error) = read(reader, [writer.unsent()]);
    let [Message::Text(message)] = &messages[..] else { panic!("{error:?}") };
    assert!(message.text == noise);
    let (reader, _) = codec(Role::Server, Tolerance::Lenient, noise.len() - 1, deflate);
    assert_eq!(read(reader, [writer.unsent()]), (Vec::new(), Some(InflateError::TooLarge.into())));
}

#[test]
fn message_that_is_inflated_in_steps_keeps_its_place_or_is_skipped() {
    let direction = Direction { window_bits: 10, context_takeover: true };
    let deflate = Some((DeflateParams { server: direction, client: direction }, Compression::new().max_ratio(None)));
    let large = "x".repeat(200_000);
    let frames = || {
        let (mut reader, _) = codec(Role::Server, Tolerance::Lenient, large.len(), deflate);
        let (_, mut writer) = codec(Role::Client, Tolerance::Lenient, large.len(), deflate);
        writer.text(large.clone());
        writer.ping(b"p");
        writer.text("small".to_owned());
        reader.put(writer.unsent());
        assert!(matches!(reader.take(), Ok(None)) && reader.is_inflating());
        reader
    };
    let (messages, error) = read(frames(), [&[][..]]);
    let [Message::Text(first), Message::Ping(_), Message::Text(second)] = &messages[..] else { panic!("{error:?}") };
    assert!(first.text == large && second.text == "small");

    let mut reader = frames();
    reader.skip_messages();
    assert_eq!(read(reader, [&[][..]]), (vec![Message::Ping(Bytes::from_static(b"p"))], None));
}

#[test]
fn skipped_messages_leave_control_frames() {
    let mut reader = server(Tolerance::Lenient);
    reader.skip_messages();
    let frames = [
        frame(Opcode::Text, true, b"\xff"),
        frame(Opcode::Text, false, b"a"),
        frame(Opcode::Ping, true, b"p"),
        frame(Opcode::Continuation, true, b"b"),
        frame(Opcode::Binary, true, b"c"),
        frame(Opcode::Close, true, &[]),
    ];
    let close = CloseFrame { code: None, reason: String::new(), reply: None };
    let expected = vec![Message::Ping(Bytes::from_static(b"p")), Message::Close(close)];
    assert_eq!(read(reader, [&*frames.concat()]), (expected, None));
}

#[test]
fn small_message_does_not_keep_the_memory_of_a_large_neighbour() {
    let large = frame(Opcode::Text, true, &vec![b'x'; 100_000]);
    let mut reader = Reader::new(Role::Server, Tolerance::Lenient, 1 << 20, None);
    reader.put(&[large, frame(Opcode::Binary, true, b"small")].concat());
    let Ok(Some(Message::Text(TextMessage { text: large, .. }))) = reader.take() else { panic!("no text") };
    let Ok(Some(Message::Binary(small))) = reader.take() else { panic!("no binary message") };
    let memory = |bytes: &[u8]| bytes.as_ptr() as usize;
    let large = memory(large.as_bytes())..memory(large.as_bytes()) + 200_000;
    assert!(!large.contains(&memory(&small)));
}

#[test]
fn writer_sends_frames_in_order_and_frees_its_buffer() {
    for role in [Role::Server, Role::Client] {
        let mut writer = Writer::new(role, None);
        let mut sent = Vec::new();
        writer.text("first".to_owned());
        writer.ping(b"ping");
        for step in [1, 4, 3] {
            sent.extend_from_slice(&writer.unsent()[..step]);
            writer.mark_sent(step);
        }
        writer.text("é".repeat(400));
        writer.pong(b"");
        writer.close(Some(1000), "bye");
        sent.extend_from_slice(writer.unsent());
        writer.mark_sent(writer.unsent().len());
        assert!(writer.unsent().is_empty());

        let peer = if role == Role::Server { Role::Client } else { Role::Server };
        let (messages, error) = read(Reader::new(peer, Tolerance::Strict, LIMIT, None), [&*sent]);
        let close = CloseFrame { code: Some(1000), reason: "bye".to_owned(), reply: Some(1000) };
        let expected = [
            text("first"),
            Message::Ping(Bytes::from_static(b"ping")),
            text_with(&"é".repeat(400), &[]),
            Message::Pong(Bytes::new()),
            Message::Close(close),
        ];
        assert_eq!((messages, error), (expected.to_vec(), None));
    }
}

/// A stream with bytes to read, and without end. It accepts all writes.
struct Input<'a>(&'a [u8]);

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Input<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The outcome of a read, as far as both implementations define it.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    Message(tungstenite::Message),
    Closed,
    /// The close code for the error.
    Error(u16),
}

/// Reads like [`Reader`], by another implementation.
fn oracle(bytes: &[u8]) -> Vec<Reading> {
    let config =
        WebSocketConfig::default().read_buffer_size(128).max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT));
    let mut context = WebSocketContext::new(OracleRole::Server, Some(config));
    let mut input = Input(bytes);
    let mut results = Vec::new();
    loop {
        results.push(match context.read(&mut input) {
            Ok(tungstenite::Message::Close(_)) => Reading::Closed,
            Ok(message) => {
                results.push(Reading::Message(message));
                continue;
            }
            Err(tungstenite::Error::Io(_)) => return results,
            Err(tungstenite::Error::Utf8(_)) => Reading::Error(1007),
            Err(tungstenite::Error::Capacity(_)) => Reading::Error(1009),
            // It refuses a close frame that this codec reports.
            Err(tungstenite::Error::Protocol(tungstenite::error::ProtocolError::InvalidCloseSequence)) => {
                Reading::Closed
            }
            Err(_) => Reading::Error(1002),
        });
        return results;
    }
}

fn own(bytes: &[u8]) -> Vec<Reading> {
    let (messages, error) = read(server(Tolerance::Lenient), [bytes]);
    let mut results = Vec::new();
    for message in messages {
        results.push(Reading::Message(match message {
            Message::Text(TextMessage { text, .. }) => tungstenite::Message::text(text.to_string()),
            Message::Binary(bytes) => tungstenite::Message::Binary(bytes),
            Message::Ping(bytes) => tungstenite::Message::Ping(bytes),
            Message::Pong(bytes) => tungstenite::Message::Pong(bytes),
            Message::Close(_) => {
                results.push(Reading::Closed);
                return results;
            }
        }));
    }
    results.extend(error.map(|error| Reading::Error(error.close_code())));
    results
}

/// Frames that are mostly valid, with payloads of which few are UTF-8.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![
        5 => Just(0u8), 5 => Just(1), 5 => Just(2), 1 => Just(8), 3 => Just(9), 3 => Just(10), 1 => 0..16u8
    ];
    let reserved = prop_oneof![20 => Just(0u8), 1 => 0..8u8];
    let payload = prop_oneof![
        "[a-zé🔌]{0,60}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..60),
        prop::collection::vec(Just(b'x'), 0..LIMIT + 10),
    ];
    let frame = (opcode, any::<bool>(), reserved, prop_oneof![20 => Just(true), 1 => Just(false)], payload).prop_map(
        |(opcode, is_final, reserved, is_masked, payload)| {
            let mut bytes = frame_with(is_masked.then_some(MASK), Opcode::Binary, is_final, &payload);
            bytes[0] = bytes[0] & 0x80 | reserved << 4 | opcode;
            bytes
        },
    );
    prop::collection::vec(frame, 0..12).prop_map(|frames| frames.concat())
}

proptest! {
    // Always the same cases. The fuzz target `websocket_oracle` looks for others.
    #![proptest_config(ProptestConfig {
        cases: 2000,
        rng_seed: RngSeed::Fixed(6455),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn bytes_give_the_same_messages_however_they_are_split(
        bytes in frames(),
        splits in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        is_compressed in any::<bool>(),
    ) {
        let server = || {
            let direction = Direction { window_bits: 11, context_takeover: true };
            let params = DeflateParams { server: direction, client: direction };
            let deflate = is_compressed.then_some((params, Compression::new()));
            codec(Role::Server, Tolerance::Lenient, LIMIT, deflate).0
        };
        let whole = read(server(), [&*bytes]);
        let one_by_one = read(server(), bytes.chunks(1));
        let mut splits: Vec<usize> = splits.iter().map(|split| split.index(bytes.len() + 1)).collect();
        splits.extend([0, bytes.len()]);
        splits.sort_unstable();
        let parts = splits.windows(2).map(|ends| &bytes[ends[0]..ends[1]]);
        prop_assert_eq!(&read(server(), parts), &whole);
        prop_assert_eq!(&one_by_one, &whole);
    }

    #[test]
    fn bytes_give_the_messages_that_the_oracle_reads(bytes in frames()) {
        let (own, mut oracle) = (own(&bytes), oracle(&bytes));
        // A head may have two errors: the oracle looks at its length first, this codec at its first byte.
        if let (Some(error @ Reading::Error(1009)), Some(Reading::Error(1002))) = (oracle.last_mut(), own.last()) {
            *error = Reading::Error(1002);
        }
        // The oracle finds text that is not UTF-8 in a fragment, this codec in the whole message.
        if let Some((Reading::Error(1007), before)) = oracle.split_last() {
            prop_assert_eq!(&own[..before.len()], before);
            prop_assert!(!own[before.len()..].iter().any(|read| matches!(read, Reading::Message(m) if m.is_text())));
        } else {
            prop_assert_eq!(own, oracle);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), role in any::<bool>()) {
        let role = if role { Role::Server } else { Role::Client };
        read(Reader::new(role, Tolerance::Permissive, LIMIT, None), bytes.chunks(7));
    }
}
