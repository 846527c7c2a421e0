//! Redirects: limits, targets and credentials of the redirected request.

use http::{HeaderValue, StatusCode};
use ocpp_rpc::{
    RpcClient,
    client::{ConnectError, RpcClientBuilder, Target},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
};

type Dials = mpsc::UnboundedReceiver<(Target, DuplexStream)>;

/// A client with credentials, and the targets and streams of its dials.
fn client(endpoint: &str) -> (RpcClientBuilder, Dials) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let client = RpcClient::builder(endpoint, "CP-1")
        .protocols(["ocpp1.6"])
        .password("secret")
        .header(http::header::COOKIE, HeaderValue::from_static("session=1"))
        .header(http::HeaderName::from_static("x-api-key"), HeaderValue::from_static("key"))
        .secure_connector(move |target: Target| {
            let (near, far) = duplex(64 << 10);
            let sent = sender.send((target, far));
            async move { sent.map(|()| near).map_err(std::io::Error::other) }
        });
    (client, receiver)
}

/// Responds to a dial with this status and location, and returns the target and the head of the request.
async fn respond(dials: &mut Dials, status: u16, location: &str) -> (String, String) {
    let (target, mut stream) = dials.recv().await.expect("a dial");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let response = format!("HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(response.as_bytes()).await.expect("open");
    (format!("{}{target}", if target.is_secure() { "wss://" } else { "ws://" }), String::from_utf8(head).expect("text"))
}

fn has_secrets(head: &str) -> bool {
    let secrets = ["Authorization: Basic", "Cookie:", "x-api-key:"].map(|secret| head.contains(secret));
    assert!(secrets.iter().all(|has| *has == secrets[0]), "{head}");
    secrets[0]
}

#[tokio::test(start_paused = true)]
async fn b58_redirects_are_followed_up_to_limit() {
    for (limit, dialled) in [(0, 1), (1, 2), (3, 4)] {
        let (client, mut dials) = client("ws://one.test/ocpp");
        let attempt = tokio::spawn(client.max_redirects(limit).connect());
        for n in 0..dialled {
            respond(&mut dials, 302, &format!("/hop/{n}/CP-1")).await;
        }
        match attempt.await.expect("no panic") {
            Err(ConnectError::Refused { status, headers, .. }) => {
                assert_eq!(status, StatusCode::FOUND);
                assert_eq!(headers["location"], format!("/hop/{}/CP-1", dialled - 1));
            }
            other => panic!("{other:?}"),
        }
        assert!(dials.recv().await.is_none(), "no other dial");
    }
}

#[tokio::test(start_paused = true)]
async fn b58_redirects_to_other_host_or_plain_ws_expose_no_secrets() {
    // Endpoint, location, and the request that follows: target, request line, and `true` if it has the credentials.
    for (endpoint, location, expected) in [
        ("ws://one.test/ocpp", "/there/CP-1?a=b", Some(("ws://one.test:80", "GET /there/CP-1?a=b ", true))),
        ("ws://one.test/ocpp", "ws://ONE.test:80/CP-1", Some(("ws://ONE.test:80", "GET /CP-1 ", true))),
        ("ws://one.test/ocpp", "http://one.test/CP-1", Some(("ws://one.test:80", "GET /CP-1 ", true))),
        ("ws://one.test/ocpp", "wss://one.test/CP-1", Some(("wss://one.test:443", "GET /CP-1 ", true))),
        ("ws://one.test/ocpp", "ws://one.test:8080/CP-1", Some(("ws://one.test:8080", "GET /CP-1 ", false))),
        ("ws://one.test/ocpp", "//two.test/CP-1", Some(("ws://two.test:80", "GET /CP-1 ", false))),
        ("wss://one.test/ocpp", "https://two.test:99/CP-1", Some(("wss://two.test:99", "GET /CP-1 ", false))),
        ("wss://one.test/ocpp", "//one.test/CP-1", Some(("wss://one.test:443", "GET /CP-1 ", true))),
        ("wss://one.test/ocpp", "ws://one.test/CP-1", None),
        ("wss://one.test/ocpp", "http://two.test/CP-1", None),
        ("ws://one.test/ocpp", "ftp://one.test/CP-1", None),
        ("ws://one.test/ocpp", "ws://user:word@one.test/CP-1", None),
        ("ws://one.test/ocpp", "there/CP-1", None),
        ("ws://one.test/ocpp", "", None),
    ] {
        let (client, mut dials) = client(endpoint);
        let attempt = tokio::spawn(client.max_redirects(1).connect());
        let (_, first) = respond(&mut dials, 307, location).await;
        assert!(has_secrets(&first));
        if let Some((target, line, secrets)) = expected {
            let (dialled, head) = respond(&mut dials, 403, "").await;
            assert_eq!(dialled, target, "{location}");
            assert!(head.starts_with(line), "{location}: {head}");
            assert_eq!(has_secrets(&head), secrets, "{location}");
            let (_, host) = target.split_once("://").expect("a scheme");
            let host = host.trim_end_matches(":80").trim_end_matches(":443");
            assert!(head.contains(&format!("Host: {host}")), "{location}: {head}");
            assert!(head.contains("User-Agent: ocpp-rpc/"), "{location}: {head}");
        }
        let status = attempt.await.expect("no panic").expect_err("refused").status();
        assert_eq!(
            status.map(|status| status.as_u16()),
            Some(if expected.is_some() { 403 } else { 307 }),
            "{location}"
        );
        assert!(dials.recv().await.is_none(), "{location}: no other dial");
    }
}
