//! Reading of messages that arrive in arbitrary pieces.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use ocpp_rpc::{Options, Payload, RpcRouter};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    task::yield_now,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    csms,
    support::{Station, connected, echo, serve, server_with},
};

/// A frame with an extended length of `length_bytes` bytes (RFC 6455 §5.2).
fn frame_with(length_bytes: usize, mask: &[u8], opcode: u8, payload: &str) -> Vec<u8> {
    let is_masked = if mask.is_empty() { 0 } else { 0x80 };
    let length = payload.len().to_be_bytes();
    let mut frame = vec![opcode];
    match length_bytes {
        0 => frame.push(is_masked | length[7]),
        2 => frame.extend([is_masked | 126, length[6], length[7]]),
        _ => frame.extend([&[is_masked | 127][..], &length].concat()),
    }
    frame.extend(mask);
    frame.extend(payload.as_bytes());
    frame
}

fn frame(mask: &[u8], opcode: u8, payload: &str) -> Vec<u8> {
    let length_bytes = match payload.len() {
        0..126 => 0,
        126..0x1_0000 => 2,
        _ => 8,
    };
    frame_with(length_bytes, mask, opcode, payload)
}

/// A mask of zeros leaves the payload of a client unchanged.
const MASK: &[u8] = &[0; 4];
/// A server does not mask.
const NO_MASK: &[u8] = &[];

const TEXT: u8 = 0x81;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

fn call(id: usize, size: usize) -> String {
    format!(r#"[2,"{id}","Echo",{{"x":"{}"}}]"#, "x".repeat(size))
}

/// Receives one response per size, and returns the number of pongs in between.
async fn expect_responses(station: &mut Station, sizes: &[usize]) -> usize {
    let mut pongs = 0;
    for (id, size) in sizes.iter().enumerate() {
        let response = loop {
            match station.next().await {
                Message::Text(text) => break text,
                Message::Pong(_) => pongs += 1,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(response.as_str(), format!(r#"[3,"{id}",{{"x":"{}"}}]"#, "x".repeat(*size)));
    }
    pongs
}

#[tokio::test]
async fn messages_cut_at_any_byte_are_read() {
    // Sizes below one buffer, sizes that fill a buffer to the last byte, and sizes of several buffers.
    let sizes = [0, 1, 100, 990, 994, 1000, 4070, 8150, 8170, 20_000, 3, 70_000, 5];
    for piece in [1, 13, 14, 15, 512, 1023, 1024, 1025, 8191, 8192, 8193, usize::MAX] {
        // Single bytes are slow, so four messages have to suffice.
        let sizes = if piece == 1 { &sizes[..4] } else { &sizes };
        let mut bytes = Vec::new();
        for (id, &size) in sizes.iter().enumerate() {
            bytes.extend(frame(MASK, TEXT, &call(id, size)));
            bytes.extend(frame(MASK, PONG, "unsolicited!"));
        }
        let server = server_with(RpcRouter::new().on("Echo", echo), Options::server().ping_interval(None));
        let (mut station, _session) = connected(&server, "ocpp1.6").await;
        // The server buffers its responses until the test reads them.
        for piece in bytes.chunks(piece.min(bytes.len())) {
            station.ws.get_mut().write_all(piece).await.expect("open");
            yield_now().await;
        }
        expect_responses(&mut station, sizes).await;
    }
}

#[tokio::test]
async fn fragmented_messages_with_interleaved_pings_are_read() {
    let server = server_with(RpcRouter::new().on("Echo", echo), Options::server().ping_interval(None));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    let sizes = [50, 2000, 10];
    let long = call(1, 2000);
    let (start, rest) = long.split_at(300);
    let (middle, end) = rest.split_at(900);
    for bytes in [
        frame(MASK, TEXT, &call(0, 50)),
        frame(MASK, 0x01, start),
        frame(MASK, PING, "in between"),
        frame(MASK, 0x00, middle),
        // The length field may be longer than necessary.
        frame_with(8, MASK, 0x80, end),
        frame_with(2, MASK, TEXT, &call(2, 10)),
    ] {
        station.ws.get_mut().write_all(&bytes).await.expect("open");
        for _ in 0..10 {
            yield_now().await;
        }
    }
    assert_eq!(expect_responses(&mut station, &sizes).await, 1);
}

#[tokio::test]
async fn client_reads_large_fragmented_messages_and_the_next_one() {
    let (builder, mut dials) = csms::client();
    let (_client, mut csms) = csms::connected(builder.router(RpcRouter::new().on("Echo", echo)), &mut dials).await;
    let large = call(0, 80_000);
    for split in [1, 40_000, 65_535] {
        let (start, rest) = large.split_at(split);
        let whole = [frame(NO_MASK, 0x01, start), frame(NO_MASK, 0x80, rest)].concat();
        let next = frame(NO_MASK, TEXT, &call(1, 3));
        // The head of the next frame arrives together with the end of the large message, or separately.
        for early in [0, 2] {
            csms.0.get_mut().write_all(&[&whole, &next[..early]].concat()).await.expect("open");
            assert_eq!(csms.receive().await[1], "0", "split at {split}");
            for piece in [&next[early..2], &next[2..]] {
                // The client must consume everything it has before the next bytes arrive.
                for _ in 0..10 {
                    yield_now().await;
                }
                csms.0.get_mut().write_all(piece).await.expect("open");
            }
            assert_eq!(csms.receive().await[1], "1", "split at {split}, {early} bytes early");
        }
    }
}

/// A stream that limits each read to `most` bytes, even if more are available.
struct ShortReads {
    stream: DuplexStream,
    most: usize,
}

impl AsyncRead for ShortReads {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [0; 256];
        let mut chunk = ReadBuf::new(&mut chunk[..self.most.min(buffer.remaining())]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk))?;
        buffer.put_slice(chunk.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ShortReads {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn short_reads_do_not_stop_reading() {
    // All frames have one length. A read returns several whole frames, or ends within a frame.
    let length = |size| frame(MASK, TEXT, &call(10, size)).len();
    let whole = (0..24).flat_map(|size| [1, 2, 3].map(|frames| (size, frames * length(size))));
    let cut = [1, 13, 14, 15, length(7) - 1, length(7) + 1].map(|most| (7, most));
    for (size, most) in whole.chain(cut) {
        let server = server_with(RpcRouter::new().on("Echo", echo), Options::server().ping_interval(None));
        let (near, stream) = duplex(64 << 10);
        serve(&server, ShortReads { stream, most });
        let mut station = Station::open(near, "CP-1", "ocpp1.6").await;
        while server.session("CP-1").is_none() {
            yield_now().await;
        }
        // A pending call keeps the driver from becoming idle.
        let session = server.session("CP-1").expect("registered");
        let reset = tokio::spawn(session.call::<Payload>("Reset", &()));
        let (reset_id, _) = station.receive_call().await;
        let calls: Vec<_> = (10..99).map(|id| frame(MASK, TEXT, &call(id, size))).collect();
        station.ws.get_mut().write_all(&calls.concat()).await.expect("open");
        for id in 10..99 {
            let echoed = format!(r#"[3,"{id}",{{"x":"{}"}}]"#, "x".repeat(size));
            assert_eq!(station.receive().await, echoed, "{most} bytes at a time");
        }
        station.send(format!(r#"[3,"{reset_id}",{{}}]"#)).await;
        assert_eq!(reset.await.expect("no panic").expect("a response").as_str(), "{}");
    }
}
