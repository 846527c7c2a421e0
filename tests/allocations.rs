//! Allocations of connections and calls: exact limits, so that a regression fails a test and not only a benchmark.
//!
//! The tests count only the allocations of their own thread. The station's side allocates nothing.
// Only on Linux: on other systems, the mutexes of the standard library and tokio's sockets allocate as well.
#![cfg(all(feature = "server", target_os = "linux"))]

use std::{
    convert::Infallible,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use allocation_counter::{AllocationInfo, measure};
use ocpp_rpc::{Options, Payload, RpcRouter, RpcServer, Session, extract::Params, server::Listener};
use serde::{Serialize, de::IgnoredAny};
use serde_json::Value;
use tokio::{runtime::Runtime, task::yield_now};

/// A server with a listener that runs on this thread only.
struct Site {
    runtime: Runtime,
    server: RpcServer,
    listener: Listener,
}

impl Site {
    fn new() -> Self {
        #[derive(Serialize)]
        struct Done {
            done: bool,
        }
        async fn heartbeat() -> Result<Done, Infallible> {
            Ok(Done { done: true })
        }
        async fn slow() -> Result<Done, Infallible> {
            yield_now().await;
            Ok(Done { done: true })
        }
        async fn large(Params(params): Params<Value>) -> Result<Value, Infallible> {
            Ok(params)
        }
        async fn hold(Params(_): Params<IgnoredAny>) -> Result<Done, Infallible> {
            std::future::pending().await
        }
        let router = RpcRouter::new().on("Heartbeat", heartbeat).on("Slow", slow).on("Large", large).on("Hold", hold);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let options = Options::server().ping_interval(None);
        let server =
            RpcServer::builder(router).protocols(["ocpp1.6"]).options(options).build().expect("valid settings");
        let listener = runtime.block_on(server.listen("127.0.0.1:0")).expect("a port");
        Self { runtime, server, listener }
    }

    /// Connects a station, which makes one call.
    fn connect(&self, identity: usize) -> (Station, Session) {
        self.runtime.block_on(async {
            let mut station = Station::connect(self.listener.local_addr(), identity).await;
            assert_eq!(station.ask(br#"[2,"1","Heartbeat",{}]"#).await, br#"[3,"1",{"done":true}]"#);
            (station, self.server.session(&format!("CP-{identity:06}")).expect("registered"))
        })
    }
}

/// A station that allocates only once, for its receive buffer.
struct Station {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Station {
    async fn connect(address: SocketAddr, identity: usize) -> Self {
        Self::connect_with(address, identity, "").await
    }

    /// Connects with more header lines.
    async fn connect_with(address: SocketAddr, identity: usize, headers: &str) -> Self {
        let socket = TcpStream::connect(address).expect("a listener");
        socket.set_nonblocking(true).expect("a socket");
        socket.set_nodelay(true).expect("a socket");
        let mut station = Self { socket, buffer: vec![0; 256 << 10] };
        let head = format!(
            "GET /ocpp/CP-{identity:06} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Protocol: ocpp1.6\r\n{headers}\r\n"
        );
        station.socket.write_all(head.as_bytes()).expect("buffer space for the head");
        let mut read = 0;
        while !station.buffer[..read].ends_with(b"\r\n\r\n") {
            read += station.read(read..read + 1).await;
        }
        assert!(station.buffer.starts_with(b"HTTP/1.1 101 "));
        station
    }

    async fn ask(&mut self, text: &[u8]) -> &[u8] {
        self.send(text).await;
        self.receive().await
    }

    /// Sends a text in one frame that is masked with zeros (RFC 6455 §5.2).
    async fn send(&mut self, text: &[u8]) {
        let (head, frame) = self.buffer.split_at_mut(14);
        head.fill(0);
        let front = match text.len() {
            length @ 0..126 => {
                head[8..10].copy_from_slice(&[0x81, 0x80 | length as u8]);
                8
            }
            length => {
                head[..2].copy_from_slice(&[0x81, 0x80 | 127]);
                head[2..10].copy_from_slice(&(length as u64).to_be_bytes());
                0
            }
        };
        frame[..text.len()].copy_from_slice(text);
        let mut unsent = front..14 + text.len();
        while !unsent.is_empty() {
            match self.socket.write(&self.buffer[unsent.clone()]) {
                Ok(written) => unsent.start += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Receives a text.
    async fn receive(&mut self) -> &[u8] {
        self.read(0..2).await;
        assert_eq!(self.buffer[0], 0x81);
        let length = match self.buffer[1] {
            126 => {
                self.read(0..2).await;
                u16::from_be_bytes([self.buffer[0], self.buffer[1]]).into()
            }
            127 => {
                self.read(0..8).await;
                u64::from_be_bytes(self.buffer[..8].try_into().expect("eight")) as usize
            }
            length => length.into(),
        };
        self.read(0..length).await;
        &self.buffer[..length]
    }

    async fn read(&mut self, range: std::ops::Range<usize>) -> usize {
        let mut buffer = &mut self.buffer[range.clone()];
        while !buffer.is_empty() {
            match self.socket.read(buffer) {
                Ok(0) => panic!("unexpected end of the stream"),
                Ok(read) => buffer = &mut buffer[read..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
        range.len()
    }
}

/// Number of calls, or connections, in each measurement.
const COUNT: u64 = 100;

/// Allocations of a call: the received text, its reference count, the handler's future, the result, its reference count,
/// and the text of the response, which becomes the frame.
const PER_CALL: u64 = 6;

/// Measures the allocations of calls from a station.
fn calls_in(site: &Site, station: &mut Station, action: &str) -> AllocationInfo {
    let call = format!(r#"[2,"1","{action}",{{}}]"#);
    let calls = async {
        for _ in 0..COUNT {
            assert_eq!(station.ask(call.as_bytes()).await, br#"[3,"1",{"done":true}]"#);
        }
    };
    measure(|| site.runtime.block_on(calls))
}

/// Measures the allocations of calls to a station.
fn calls_out(site: &Site, station: &mut Station, session: &Session) -> AllocationInfo {
    let calls = async {
        for _ in 0..COUNT {
            let call = session.call::<Payload>("Reset", &());
            let responding = async {
                let mut response = *br#"[3,"123456789012345678901234567890123456",{}]"#;
                response[3..41].copy_from_slice(&station.receive().await[3..41]);
                station.send(&response).await;
            };
            let (result, ()) = tokio::join!(call, responding);
            assert_eq!(result.expect("a result").as_str(), "{}");
        }
    };
    measure(|| site.runtime.block_on(calls))
}

#[test]
fn b60_events_without_reader_allocate_nothing() {
    let site = Site::new();
    let (mut station, _) = site.connect(0);
    calls_in(&site, &mut station, "Heartbeat");
    let never_read = calls_in(&site, &mut station, "Heartbeat").count_total;
    let events = site.server.events();
    let read = calls_in(&site, &mut station, "Heartbeat").count_total;
    drop(events);
    let no_longer_read = calls_in(&site, &mut station, "Heartbeat").count_total;
    assert_eq!(never_read, no_longer_read);
    // The runtime allocates at most once more for all calls together.
    assert!(never_read - COUNT * PER_CALL <= 1, "{never_read} allocations of {COUNT} calls");
    assert!(read >= never_read + 3 * COUNT, "events copy their texts if there is a reader: {read}");
}

#[test]
fn idle_connection_keeps_few_allocations() {
    let site = Site::new();
    // The first connection makes the allocations that a server makes only once.
    let first = site.connect(0);
    let mut connected = Vec::with_capacity(COUNT as usize);
    let idle = measure(|| {
        connected.extend((1..=COUNT as usize).map(|identity| site.connect(identity)));
        // The buffers of the stations do not count.
        connected.iter_mut().for_each(|(station, _)| station.buffer = Vec::new());
    });
    let (blocks, bytes) = (idle.count_current as u64 / COUNT, idle.bytes_current as u64 / COUNT);
    // Task, driver, shared state, socket and its registration with tokio, identity, and an entry in the registry.
    assert_eq!(blocks, 8);
    assert!(bytes <= 2_104, "{bytes} bytes");
    drop(first);
}

#[test]
fn finished_calls_leave_few_allocations() {
    let site = Site::new();
    let (mut station, session) = site.connect(0);
    calls_in(&site, &mut station, "Heartbeat");
    assert_eq!(calls_in(&site, &mut station, "Heartbeat").bytes_current, 0);

    let slow = calls_in(&site, &mut station, "Slow").bytes_current;
    assert!(slow <= 250, "{slow} bytes after calls with slow handlers");
    assert_eq!(calls_in(&site, &mut station, "Slow").bytes_current, 0);

    let out = calls_out(&site, &mut station, &session).bytes_current;
    assert!(out <= 350, "{out} bytes after calls from the server");
    assert_eq!(calls_out(&site, &mut station, &session).bytes_current, 0);

    let large = format!(r#"[2,"1","Large",{{"text":"{}"}}]"#, "x".repeat(200_000));
    let each_way = measure(|| assert!(site.runtime.block_on(station.ask(large.as_bytes())).len() > 200_000));
    assert!(each_way.bytes_max > 400_000, "the payload was both received and sent");
    // The station reads the end of the response before the server sees that the write has completed.
    let next = calls_in(&site, &mut station, "Heartbeat").bytes_current;
    assert_eq!(each_way.bytes_current + next, 0);
}

#[test]
fn b78_message_is_not_reserved_by_its_head() {
    let site = Site::new();
    let (mut station, session) = site.connect(0);
    let head = [&[0x81, 0xff][..], &1_000_000_u64.to_be_bytes(), &[0; 4], b"[2,"].concat();
    let begun = measure(|| {
        station.socket.write_all(&head).expect("buffer space for the head");
        // The server has read the head when it sees the end.
        station.socket.shutdown(Shutdown::Write).expect("open");
        assert_eq!(site.runtime.block_on(session.closed()).code, 1006);
    });
    assert!(begun.bytes_max < 100_000, "{} bytes", begun.bytes_max);
}

#[test]
fn handler_that_waits_keeps_nothing_of_a_large_message() {
    let site = Site::new();
    let (mut station, _) = site.connect(0);
    let large = format!(r#"[2,"1","Hold",{{"text":"{}"}}]"#, "x".repeat(200_000));
    let held = measure(|| {
        site.runtime.block_on(async {
            station.send(large.as_bytes()).await;
            station.ask(br#"[2,"2","Heartbeat",{}]"#).await;
        });
    });
    assert!(held.bytes_max > 200_000, "the payload was received");
    assert!(held.bytes_current < 2_000, "{} bytes", held.bytes_current);
}

/// Returns the frame of a text in a deflate block that does not compress, which needs no zlib (RFC 1951 §3.2.4).
fn stored(text: &[u8]) -> Vec<u8> {
    let len = text.len() as u16;
    let payload = [&[0][..], &len.to_le_bytes(), &(!len).to_le_bytes(), text, &[0]].concat();
    // The mask is zero.
    [&[0xc1, 0xfe], &(payload.len() as u16).to_be_bytes()[..], &[0; 4], &payload].concat()
}

#[test]
fn idle_connection_with_compression_keeps_the_end_of_its_text() {
    let site = Site::new();
    let connect = |identity: usize| {
        site.runtime.block_on(async {
            let extension = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
            let mut station = Station::connect_with(site.listener.local_addr(), identity, extension).await;
            let call = stored(format!(r#"[2,"1","Large",{{"text":"{}"}}]"#, "x".repeat(5000)).as_bytes());
            station.socket.write_all(&call).expect("buffer space for a call");
            station.read(0..2).await;
            assert_eq!(station.buffer[0], 0xc1);
            station.read(0..usize::from(station.buffer[1])).await;
            station
        })
    };
    // The zlib states of the thread.
    let first = connect(0);
    let mut connected = Vec::with_capacity(COUNT as usize);
    let idle = measure(|| {
        connected.extend((1..=COUNT as usize).map(connect));
        connected.iter_mut().for_each(|station| station.buffer = Vec::new());
    });
    let bytes = idle.bytes_current as u64 / COUNT;
    // Beside the plain connection: windows of 2 KiB and 1 KiB, and the state around them.
    assert!((2_100 + 2_048..=2_100 + 2_048 + 1_024).contains(&bytes), "{bytes} bytes");
    drop(first);
}
