//! Measures a call through a whole session in memory: WebSocket frame, JSON, router, handler and response.
//!
//!     cargo bench --bench dispatch

mod handlers;

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use criterion::{Bencher, Criterion, criterion_group, criterion_main};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use ocpp_rpc::{Payload, RpcServer};
use serde::de::IgnoredAny;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    runtime::Runtime,
};

/// A station at the other end of an in-memory connection, with almost no cost of its own.
struct Station {
    stream: DuplexStream,
    buffer: Vec<u8>,
}

impl Station {
    async fn connect(server: &RpcServer) -> Self {
        let (mut stream, far) = tokio::io::duplex(64 * 1024);
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(far), TowerToHyperService::new(server.clone()))
            .with_upgrades();
        tokio::spawn(connection);
        let head = "GET /CP-1 HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Protocol: ocpp1.6\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("open");
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            response.push(stream.read_u8().await.expect("open"));
        }
        assert!(response.starts_with(b"HTTP/1.1 101 "));
        Self { stream, buffer: vec![0; 64 * 1024] }
    }

    /// Sends a frame that [`frame`] created.
    async fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).await.expect("open");
    }

    /// Receives a text frame of less than 64 KiB.
    async fn receive(&mut self) -> &[u8] {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).await.expect("open");
        assert_eq!(head[0], 0x81, "a text in one frame");
        let length = match head[1] {
            126 => self.stream.read_u16().await.expect("open").into(),
            short => usize::from(short),
        };
        let text = &mut self.buffer[..length];
        self.stream.read_exact(text).await.expect("open");
        text
    }
}

/// Returns the frame of a text as a client sends it, masked with zeros (RFC 6455 §5.3).
fn frame(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("less than 64 KiB");
    let mut frame = if length < 126 {
        vec![0x81, 0x80 | length as u8]
    } else {
        [[0x81, 0x80 | 126], length.to_be_bytes()].concat()
    };
    frame.extend([0; 4]);
    frame.extend(text);
    frame
}

async fn ignore() -> Result<(), Infallible> {
    Ok(())
}

/// Creates a server with handlers for this number of actions. OCPP 2.1 has 91.
fn server(actions: usize) -> RpcServer {
    let others = 2..actions;
    let router = others.fold(handlers::router(), |router, number| router.on(&format!("Action{number}"), ignore));
    RpcServer::builder(router).protocols(["ocpp1.6"]).build().expect("sound")
}

/// Measures many rounds in one go, because entering the runtime should not count.
fn rounds(bencher: &mut Bencher<'_>, runtime: &Runtime, mut round: impl AsyncFnMut()) {
    bencher.iter_custom(|count| -> Duration {
        runtime.block_on(async {
            let begin = Instant::now();
            for _ in 0..count {
                round().await;
            }
            begin.elapsed()
        })
    });
}

fn inbound(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("inbound");
    for actions in [3, 91] {
        let mut station = runtime.block_on(Station::connect(&server(actions)));
        for (name, text) in [
            ("Heartbeat", r#"[2,"6f1c1f0e-31a5-4a53-9f0b-0d6c4f6b8a11","Heartbeat",{}]"#),
            ("MeterValues", METER_VALUES),
        ] {
            let call = frame(text.as_bytes());
            group.bench_function(format!("{name}, one of {actions} actions"), |bencher| {
                rounds(bencher, &runtime, async || {
                    station.send(&call).await;
                    assert!(station.receive().await.starts_with(b"[3,"));
                });
            });
        }
    }
    group.finish();
}

fn outbound(criterion: &mut Criterion) {
    let runtime = runtime();
    let server = server(3);
    let mut station = runtime.block_on(Station::connect(&server));
    let session = server.session("CP-1").expect("connected");
    let reset = Payload::encode(&serde_json::json!({"type": "Soft"})).expect("an object");
    criterion.bench_function("outbound/Reset", |bencher| {
        rounds(bencher, &runtime, async || {
            let respond = async {
                let call = station.receive().await;
                // The message begins with `[2,"<id>",`, and the id is a UUID.
                let response = frame(&[b"[3,\"", &call[4..40], b"\",{\"status\":\"Accepted\"}]"].concat());
                station.send(&response).await;
            };
            let (result, ()) = tokio::join!(session.call::<IgnoredAny>("Reset", &reset), respond);
            result.expect("a result");
        });
    });
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

const METER_VALUES: &str = r#"[2,"6f1c1f0e-31a5-4a53-9f0b-0d6c4f6b8a11","MeterValues",{"connectorId":1,"transactionId":4711,"meterValue":[{"timestamp":"2026-01-01T00:00:00.000Z","sampledValue":[{"value":"1234567","context":"Sample.Periodic","measurand":"Energy.Active.Import.Register","unit":"Wh"},{"value":"16.0","context":"Sample.Periodic","measurand":"Current.Import","phase":"L1","unit":"A"},{"value":"15.9","context":"Sample.Periodic","measurand":"Current.Import","phase":"L2","unit":"A"},{"value":"16.1","context":"Sample.Periodic","measurand":"Current.Import","phase":"L3","unit":"A"}]}]}]"#;

criterion_group!(benches, inbound, outbound);
criterion_main!(benches);
