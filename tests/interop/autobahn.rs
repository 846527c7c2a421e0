//! The WebSocket codec alone with the cases of the Autobahn Testsuite, as server and as client.
//!
//! It echoes every message. The public interface cannot, because OCPP has no binary messages.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use http::header::{HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS};
use ocpp_rpc::{
    Tolerance,
    compression::Compression,
    unstable::websocket::{Codec, Message},
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    client::IntoClientRequest,
    handshake::{
        client::{Response, generate_request},
        derive_accept_key,
        machine::TryParse,
        server::{Request, create_response, write_response},
    },
};

use crate::harness::{Library, Process};

/// The number of cases in each group, so that none is left out unnoticed.
const ALL: [(u32, usize); 11] =
    [(1, 16), (2, 11), (3, 7), (4, 10), (5, 20), (6, 145), (7, 37), (9, 54), (10, 1), (12, 90), (13, 126)];

/// The groups that compress messages.
const COMPRESSION: [(u32, usize); 2] = [(12, 90), (13, 126)];

/// The cases with other results than `OK`, for the messages and for the close.
const NOT_OK: [(&str, &str, &str); 7] = [
    // The testsuite prefers an error at the first byte that is not UTF-8. The codec checks complete messages.
    ("6.4.1", "NON-STRICT", "OK"),
    ("6.4.2", "NON-STRICT", "OK"),
    ("6.4.3", "NON-STRICT", "OK"),
    ("6.4.4", "NON-STRICT", "OK"),
    // Messages right before a close frame may be lost. The codec reads them.
    ("7.1.6", "INFORMATIONAL", "INFORMATIONAL"),
    // The close codes 5000 and 65535 have no meaning in the standard. The codec replies with 1002.
    ("7.13.1", "INFORMATIONAL", "INFORMATIONAL"),
    ("7.13.2", "INFORMATIONAL", "INFORMATIONAL"),
];

/// The client's offer for the cases 13.2, 13.5 and 13.6, whose server demands `client_no_context_takeover`.
///
/// The codec accepts that parameter without having offered it (RFC 7692 §7.1.1.2). The testsuite sends it only to
/// clients that give this hint. All other cases accept the codec's own offer, which comes first.
const SECOND_OFFER: &[u8] = b"permessage-deflate; client_max_window_bits; client_no_context_takeover";

/// The maximum length of a message. The longest one has 16 MiB.
const MAX_SIZE: usize = 64 << 20;

/// The timeout of a case. The testsuite ends each case after at most 480 seconds.
const TIMEOUT: Duration = Duration::from_secs(600);

#[test]
fn server_passes_all_cases() {
    check(&server_results(largest_window(), "*"), &ALL, &NOT_OK);
}

#[test]
fn client_passes_all_cases() {
    check(&client_results(largest_window(), "*"), &ALL, &NOT_OK);
}

#[test]
fn server_with_default_window_passes_compression_cases() {
    check(&server_results(Compression::new(), "12.*,13.*"), &COMPRESSION, &[]);
}

#[test]
fn client_with_default_window_passes_compression_cases() {
    check(&client_results(Compression::new(), "12.*,13.*"), &COMPRESSION, &[]);
}

/// Returns the settings that leave the window to the cases, which select 9 or 15 bits.
fn largest_window() -> Compression {
    Compression::new().window_bits(15).max_ratio(None)
}

fn check(results: &[Value], groups: &[(u32, usize)], not_ok: &[(&str, &str, &str)]) {
    let mut found = BTreeMap::new();
    for result in results {
        let group = result["case"].as_str().and_then(|case| case.split('.').next()?.parse().ok());
        *found.entry(group.unwrap_or_else(|| panic!("no number of a case: {result}"))).or_default() += 1;
    }
    let is_ok = |result: &&Value| result["behavior"] == "OK" && result["behaviorClose"] == "OK";
    let others: Vec<_> = results.iter().filter(|result| !is_ok(result)).collect();
    let behaviors: Vec<_> =
        others.iter().map(|result| json!([result["case"], result["behavior"], result["behaviorClose"]])).collect();
    assert_eq!(json!(behaviors), json!(not_ok), "{others:#?}");
    assert_eq!(found.into_iter().collect::<Vec<(u32, usize)>>(), groups);
}

/// Tests the codec as server.
fn server_results(compression: Compression, cases: &str) -> Vec<Value> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            // Its errors fail the case at the peer.
            thread::spawn(move || Echo::accept(stream, &compression).and_then(|echo| echo.run(Some)));
        }
    });
    results(&testsuite(&[cases, &url]))
}

/// Tests the codec as client.
fn client_results(compression: Compression, cases: &str) -> Vec<Value> {
    let testsuite = testsuite(&[cases]);
    let listening = event(&testsuite).expect("an event before the end of the process");
    let address = format!("127.0.0.1:{}", listening["port"]);
    // Errors are not checked here. In a case, they fail it at the peer. On other paths, the testsuite closes the
    // connection without waiting for the reply to its close frame, which can reset it.
    let run = |path: &str, respond: &mut dyn FnMut(Message) -> Option<Message>| {
        _ = Echo::connect(&address, path, &compression).and_then(|echo| echo.run(respond));
    };
    let mut count = None;
    run("/getCaseCount", &mut |message| {
        let Message::Text(text) = message else { panic!("not a number: {message:?}") };
        count = text.parse().ok();
        None
    });
    for case in 1..=count.expect("the number of cases") {
        run(&format!("/runCase?case={case}&agent=ocpp-rpc"), &mut Some);
    }
    run("/updateReports?agent=ocpp-rpc", &mut Some);
    results(&testsuite)
}

/// Starts the testsuite. autobahn.py lists its arguments and events.
fn testsuite(arguments: &[&str]) -> Process {
    Process::start("the Autobahn Testsuite", Library::Python.script("autobahn").args(arguments))
}

/// Returns the next event, or `None` at the end of the process.
fn event(testsuite: &Process) -> Option<Value> {
    let line = testsuite.line(Instant::now() + TIMEOUT)?;
    Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
}

fn results(testsuite: &Process) -> Vec<Value> {
    std::iter::from_fn(|| event(testsuite)).collect()
}

/// A connection of the codec.
struct Echo {
    stream: TcpStream,
    codec: Codec,
    is_server: bool,
}

impl Echo {
    /// Accepts the handshake of a client.
    fn accept(mut stream: TcpStream, compression: &Compression) -> io::Result<Self> {
        let (request, rest) = read_head::<Request>(&mut stream)?;
        let (codec, extensions) = Codec::server(request.headers(), Some(compression), Tolerance::default(), MAX_SIZE);
        let mut response = create_response(&request).map_err(io::Error::other)?;
        if let Some(extensions) = extensions {
            response.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, extensions);
        }
        let mut head = Vec::new();
        write_response(&mut head, &response).map_err(io::Error::other)?;
        stream.write_all(&head)?;
        Self::new(stream, codec, true, &rest)
    }

    fn connect(address: &str, path: &str, compression: &Compression) -> io::Result<Self> {
        let mut request = format!("ws://{address}{path}").into_client_request().map_err(io::Error::other)?;
        // In one line, because the testsuite reads no second one.
        let offers = [Codec::offer(compression).as_bytes(), SECOND_OFFER].join(&b", "[..]);
        let offers = HeaderValue::from_bytes(&offers).map_err(io::Error::other)?;
        request.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, offers);
        let (head, key) = generate_request(request).map_err(io::Error::other)?;
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(&head)?;
        let (response, rest) = read_head::<Response>(&mut stream)?;
        let headers = response.headers();
        assert_eq!(headers[SEC_WEBSOCKET_ACCEPT], derive_accept_key(key.as_bytes()));
        let codec = Codec::client(headers, Some(compression), Tolerance::default(), MAX_SIZE);
        Self::new(stream, codec.map_err(io::Error::other)?, false, &rest)
    }

    fn new(stream: TcpStream, mut codec: Codec, is_server: bool, received: &[u8]) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        codec.put(received);
        Ok(Self { stream, codec, is_server })
    }

    /// Sends what `respond` returns for each message, until the connection ends.
    fn run(mut self, mut respond: impl FnMut(Message) -> Option<Message>) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let mut is_open = true;
        while is_open {
            is_open = self.take_messages(&mut respond);
            while !self.codec.unsent().is_empty() {
                let sent = self.stream.write(self.codec.unsent())?;
                self.codec.mark_sent(sent);
            }
            if is_open {
                let received = self.stream.read(&mut buffer)?;
                self.codec.put(&buffer[..received]);
                is_open = received > 0;
            }
        }
        // The server closes the TCP connection first (RFC 6455 §7.1.1).
        if self.is_server {
            self.stream.shutdown(Shutdown::Write)?;
        }
        // A close with unread input would reset the connection, and the peer could lose the close frame.
        while self.stream.read(&mut buffer)? > 0 {}
        Ok(())
    }

    /// Takes the messages that have arrived. Returns `false` if a close frame or an error ends the connection.
    fn take_messages(&mut self, respond: &mut impl FnMut(Message) -> Option<Message>) -> bool {
        let close = |reply, reason| Message::Close { code: None, reason, reply };
        loop {
            let response = match self.codec.take() {
                Ok(None) => return true,
                Ok(Some(Message::Ping(payload))) => Some(Message::Pong(payload)),
                Ok(Some(Message::Pong(_))) => None,
                Ok(Some(Message::Close { reply, .. })) => {
                    self.codec.queue(close(reply, String::new()));
                    return false;
                }
                Ok(Some(message)) => respond(message),
                Err((code, reason)) => {
                    self.codec.queue(close(Some(code), reason));
                    return false;
                }
            };
            if let Some(response) = response {
                self.codec.queue(response);
            }
        }
    }
}

/// Reads the head of a request or a response, and returns it with the bytes after it.
fn read_head<T: TryParse>(stream: &mut TcpStream) -> io::Result<(T, Vec<u8>)> {
    let mut received = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&buffer[..count]);
        if let Some((len, head)) = T::try_parse(&received).map_err(io::Error::other)? {
            return Ok((head, received.split_off(len)));
        }
    }
}
