//! Sends heads of requests to a server. Each must have a response or a session, and the authenticator must see the
//! credentials as they were sent.
#![no_main]

use std::sync::{Arc, Mutex};

use arbitrary::{Result, Unstructured};
use base64::{Engine, prelude::BASE64_STANDARD};
use libfuzzer_sys::fuzz_target;
use ocpp_rpc::{Accept, Handshake, Options, RpcRouter, RpcServer, compression::Compression};
use ocpp_rpc_fuzz::{Connection, in_runtime};

/// The parts of a request, of which most inputs take the first.
const METHODS: &[&str] = &["GET", "GET", "GET", "POST", "CONNECT", "get"];
const PATHS: &[&str] =
    &["/ocpp/CP-1", "/", "//CP-1//", "/ocpp/%43P", "/ocpp/%ff", "/%00", "/ocpp/é", "*", "http://x/CP", "/a?b=/c"];
const VERSIONS: &[&str] = &["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9"];
const HEADERS: &[&str] = &[
    "Connection: Upgrade",
    "Connection: keep-alive, upgrade",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Version: 8",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Key: AAAA",
    "Sec-WebSocket-Protocol: ocpp1.6",
    "Sec-WebSocket-Protocol: ocpp2.0.1,, ocpp1.6",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    "Host: csms",
    "Content-Length: 5",
    "Transfer-Encoding: chunked",
    "Authorization: Bearer x",
    "Authorization: Basic",
    "Authorization: Basic ====",
];
const VALID: &[usize] = &[0, 2, 4, 6, 8, 11];
/// A password that no response may contain.
const PASSWORD: &str = "correct horse";

/// The identity of a handshake, and its credentials.
type Seen = (String, Option<(Vec<u8>, Vec<u8>)>);

fuzz_target!(|input: &[u8]| {
    // An error means that the input is used up.
    _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let (head, user_name) = head(input)?;
    let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let received = in_runtime(async {
        let seen = seen.clone();
        let authenticate = move |handshake: Handshake| {
            let credentials = handshake.credentials();
            let credentials = credentials.map(|found| (found.user_name().to_vec(), found.password().to_vec()));
            seen.lock().expect("no panic").push((handshake.identity().to_owned(), credentials));
            async { Ok(Accept::new()) }
        };
        let server = RpcServer::builder(RpcRouter::new())
            .protocols(["ocpp2.0.1", "ocpp1.6"])
            .options(Options::server().compression(Compression::new()))
            .auth(authenticate)
            .build()
            .expect("valid settings");
        let mut connection = Connection::open(&server);
        connection.send(&head).await;
        connection.end().await
    });
    let seen = seen.lock().expect("no panic");
    let text = String::from_utf8_lossy(&received);
    assert!(text.is_empty() || text.starts_with("HTTP/1."), "{text:?}");
    assert!(!text.contains(PASSWORD), "{text:?} contains the password");
    if text.starts_with("HTTP/1.1 101 ") {
        assert!(!seen.is_empty(), "no authenticator before {text:?}");
    }
    for (identity, credentials) in &*seen {
        assert!(!identity.is_empty() && !identity.chars().any(char::is_control), "{identity:?}");
        if let Some(user_name) = &user_name {
            let sent = (user_name.as_bytes().to_vec(), PASSWORD.as_bytes().to_vec());
            // The identity may end behind another colon.
            assert_eq!(credentials.as_ref(), Some(&sent), "of {identity:?}");
        }
    }
    Ok(())
}

/// Returns the head of a request. If it has valid credentials and nothing else that could be, returns their user name.
fn head(input: &mut Unstructured<'_>) -> Result<(Vec<u8>, Option<String>)> {
    let mut head = Vec::new();
    let line = [*input.choose(METHODS)?, *input.choose(PATHS)?, *input.choose(VERSIONS)?];
    head.extend_from_slice(line.join(" ").as_bytes());
    let mut lines: Vec<Vec<u8>> = VALID.iter().map(|index| HEADERS[*index].into()).collect();
    for _ in 0..input.int_in_range(0..=4)? {
        match input.int_in_range(0..=4)? {
            0 if !lines.is_empty() => _ = lines.remove(input.choose_index(lines.len())?),
            1 => lines.push(input.arbitrary::<Vec<u8>>()?),
            _ => lines.push((*input.choose(HEADERS)?).into()),
        }
    }
    let is_plain = lines.iter().all(|line| HEADERS.iter().any(|header| header.as_bytes() == line))
        && !lines.iter().any(|line| line.starts_with(b"Authorization"));
    let mut user_name = None;
    if input.arbitrary()? {
        let name: String = input.arbitrary::<&str>()?.chars().filter(|c| *c != ':').collect();
        let encoded = BASE64_STANDARD.encode(format!("{name}:{PASSWORD}"));
        lines.push(format!("Authorization: Basic {encoded}").into_bytes());
        user_name = Some(name).filter(|_| is_plain);
    }
    for line in lines {
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(&line);
    }
    head.extend_from_slice(b"\r\n\r\n");
    head.extend_from_slice(input.arbitrary::<&[u8]>()?);
    Ok((head, user_name))
}
