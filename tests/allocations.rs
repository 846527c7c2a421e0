//! What a call costs in allocations, counted. Nothing else in this program uses the counting allocator.
#![cfg(feature = "server")]

use std::convert::Infallible;

use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use ocpp_rpc::{RpcRouter, RpcServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// A connection in memory to a server, whose client allocates nothing.
struct Line {
    stream: DuplexStream,
    buffer: Vec<u8>,
}

impl Line {
    async fn open(server: &RpcServer) -> Self {
        let (mut stream, far) = tokio::io::duplex(4096);
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(far), TowerToHyperService::new(server.clone()))
            .with_upgrades();
        tokio::spawn(connection);
        let head = "GET /ocpp/CP-1 HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Protocol: ocpp1.6\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("open");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("open"));
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        Self { stream, buffer: vec![0; 4096] }
    }

    /// Sends a short text, masked with zeros (RFC 6455 §5.3).
    async fn send(&mut self, text: &[u8]) {
        let length = u8::try_from(text.len()).expect("short");
        assert!(length < 126);
        self.stream.write_all(&[0x81, 0x80 | length, 0, 0, 0, 0]).await.expect("open");
        self.stream.write_all(text).await.expect("open");
    }

    /// Receives a short text.
    async fn receive(&mut self) -> &[u8] {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).await.expect("open");
        assert!(head[0] == 0x81 && head[1] < 126);
        let text = &mut self.buffer[..usize::from(head[1])];
        self.stream.read_exact(text).await.expect("open");
        text
    }
}

/// How many calls are counted over, and what each allocates: the text of the message, the count of those who share
/// it, the handler's future, and the text of the answer.
const CALLS: u64 = 100;
const PER_CALL: u64 = 4;

#[test]
fn b60_events_that_nobody_reads_cost_no_allocation() {
    async fn heartbeat() -> Result<(), Infallible> {
        Ok(())
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = RpcServer::builder(RpcRouter::new().on("Heartbeat", heartbeat)).protocols(["ocpp1.6"]);
    let server = server.build().expect("sound");
    let mut line = runtime.block_on(Line::open(&server));
    let mut calls = || {
        let calls = async {
            for _ in 0..CALLS {
                line.send(br#"[2,"1","Heartbeat",{}]"#).await;
                assert_eq!(line.receive().await, br#"[3,"1",{}]"#);
            }
        };
        allocation_counter::measure(|| runtime.block_on(calls)).count_total
    };
    calls();
    let never_read = calls();
    let events = server.events();
    let read = calls();
    drop(events);
    let no_longer_read = calls();
    assert_eq!(never_read, no_longer_read);
    assert_eq!(never_read, CALLS * PER_CALL);
    assert!(read >= never_read + 3 * CALLS, "a reader gets texts of its own: {read}");
}
