//! The handshake of the client: its request, and its reaction to every kind of response.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::HeaderValue;
use ocpp_rpc::{
    Accept, Close, Error, Handshake, Options, Reject, RpcClient, RpcRouter, RpcServer,
    client::{Backoff, ClientState, ConnectError, Reconnect, RpcClientBuilder, Target},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use crate::{
    csms::{UPGRADE, client, connected, connecting, reconnect},
    support::{SECOND, echo, says_nothing_twice, serve},
};

#[tokio::test]
async fn b07_handshake_carries_the_settings_of_the_client() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let server = RpcServer::builder(RpcRouter::new())
        .protocols(["ocpp1.6"])
        .auth(move |handshake: Handshake| {
            let header = |name| handshake.headers().get(name).cloned();
            record.lock().expect("no panic").push((
                handshake.identity().to_owned(),
                handshake.endpoint().to_owned(),
                handshake.query().map(str::to_owned),
                handshake.password(),
                header("host"),
                header("user-agent"),
                header("x-more"),
            ));
            async { Ok::<_, Reject>(Accept::new()) }
        })
        .build()
        .expect("valid settings");
    let (near, far) = duplex(4096);
    let near = Mutex::new(Some(near));
    serve(&server, far);
    let client = RpcClient::builder("ws://csms.test:8080/a/b/?x=1", "CP:1/ü")
        .protocols(["ocpp1.6"])
        .password([0, 0xff, b':'])
        .query("tag", "a&b")
        .header("x-more".parse().expect("a name"), HeaderValue::from_static("1"))
        .connector(move |target: Target| {
            assert_eq!((target.host(), target.port(), target.is_secure()), ("csms.test", 8080, false));
            let near = near.lock().expect("no panic").take();
            async { near.ok_or_else(|| io::ErrorKind::NotConnected.into()) }
        })
        .connect()
        .await
        .expect("connected");
    let seen = seen.lock().expect("no panic").pop().expect("a handshake");
    let text = |text| Some(HeaderValue::from_static(text));
    assert_eq!(seen.0, "CP:1/ü");
    assert_eq!((&*seen.1, seen.2.as_deref()), ("/a/b", Some("x=1&tag=a%26b")));
    assert_eq!(seen.3.as_deref(), Some(&[0, 0xff, b':'][..]));
    assert_eq!((seen.4, seen.6), (text("csms.test:8080"), text("1")));
    assert!(seen.5.expect("an agent").to_str().expect("text").starts_with("ocpp-rpc/"));
    assert!(!format!("{client:?}").contains("255"), "no password in Debug");
}

#[tokio::test(start_paused = true)]
async fn b53_server_without_websocket_is_an_error_and_not_retried() {
    for (response, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "refused with HTTP status 200"),
        ("HTTP/1.1 302 Found\r\nLocation: ws://other/\r\nContent-Length: 0\r\n\r\n", "refused with HTTP status 302"),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "refused with HTTP status 401"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "refused with HTTP status 404"),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "refused with HTTP status 503"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "the server does not speak HTTP"),
        ("", "no connection in time"),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upg", "no connection in time"),
        (&format!("{UPGRADE}Sec-WebSocket-Accept: d3Jvbmc=\r\n\r\n"), "the server does not speak WebSocket"),
        (&format!("{UPGRADE}\r\n"), "the server does not speak WebSocket"),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "does not speak WebSocket"),
    ] {
        let (builder, mut dials) = client();
        let (client, attempt) = connecting(builder);
        let start = Instant::now();
        let mut stream = dials.answer(response).await;
        let error = attempt.await.expect("no panic").expect_err(response);
        assert!(error.to_string().contains(expected), "{response:?}: {error}");
        let due = if expected.contains("in time") { 30 } else { 0 };
        assert_eq!(
            (error.is_timeout(), error.is_refused()),
            (due > 0, expected.starts_with("refused")),
            "{response:?}"
        );
        assert_eq!(start.elapsed().as_secs(), due, "{response:?}");
        assert_eq!(client.state(), ClientState::Closed);
        assert_eq!(stream.read(&mut [0; 1]).await.expect("the end of the stream"), 0, "the stream is closed");
        assert!(dials.none(), "{response:?}");
        assert!(matches!(client.call::<Value>("Any", &()).await, Err(Error::Closed)));
    }
}

#[tokio::test]
async fn b53_refusal_has_status_headers_and_a_bounded_body() {
    let (builder, mut dials) = client();
    let (_client, attempt) = connecting(builder);
    let long = "x".repeat(100_000);
    let head = format!("HTTP/1.1 403 Forbidden\r\nX-Why: unpaid\r\nContent-Length: {}\r\n\r\n", long.len());
    let mut stream = dials.answer(&head).await;
    // The client may disconnect before it has read the whole body.
    tokio::spawn(async move { drop(stream.write_all(long.as_bytes()).await) });
    match attempt.await.expect("no panic").expect_err("refused") {
        ConnectError::Refused { status, headers, body, .. } => {
            assert_eq!((status.as_u16(), body.len()), (403, 64 << 10));
            assert_eq!(headers["x-why"], "unpaid");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn b53_protocol_not_offered_or_missing_is_an_error() {
    for (named, expected) in [("ocpp2.1", Some("ocpp2.1")), ("", Some(""))] {
        let (builder, mut dials) = client();
        let (_client, attempt) = connecting(builder);
        dials.accept(if named.is_empty() { "" } else { "ocpp2.1" }).await;
        match attempt.await.expect("no panic").expect_err("another protocol") {
            ConnectError::Protocol { named, .. } => assert_eq!(named.as_deref(), expected),
            other => panic!("{other:?}"),
        }
    }
    // A server of this crate completes the handshake without a protocol before it closes.
    let server = RpcServer::builder(RpcRouter::new()).protocols(["acme"]).build().expect("valid settings");
    let (builder, mut dials) = client();
    let (_client, attempt) = connecting(builder);
    serve(&server, dials.next().await);
    let error = attempt.await.expect("no panic").expect_err("no common protocol");
    assert!(matches!(error, ConnectError::Protocol { named: None, .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn b53_first_connect_is_retried_if_set() {
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder.reconnect(reconnect().retry_first_connect(true)));
    let start = Instant::now();
    for waited in [0, 1, 3, 7, 15, 25, 35] {
        drop(dials.next().await);
        assert_eq!(start.elapsed().as_secs(), waited);
    }
    dials.accept("ocpp1.6").await;
    attempt.await.expect("no panic").expect("connected");
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn connector_panic_is_a_connect_error() {
    let connector = |_: Target| async {
        assert_eq!(1, 2, "a bug in the connector");
        Err::<DuplexStream, _>(io::ErrorKind::Other.into())
    };
    let client =
        RpcClient::builder("ws://csms.test/ocpp", "CP-1").connector(connector).build().expect("valid settings");
    for _ in 0..2 {
        assert!(matches!(client.connect().await, Err(ConnectError::Io(_))));
        assert_eq!(client.state(), ClientState::Closed);
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn b10_wss_endpoint_without_tls_needs_a_connector() {
    let error = RpcClient::builder("wss://csms.test", "CP").build().expect_err("no TLS").to_string();
    assert!(error.contains("`tls`"), "{error}");
}

#[test]
fn b10_client_settings_that_could_never_work_are_errors() {
    for (endpoint, identity, reason) in [
        ("http://csms.test", "CP", "neither ws:// nor wss://"),
        ("csms.test", "CP", "neither ws:// nor wss://"),
        ("ws://", "CP", "not a URL"),
        ("ws://user:secret@csms.test", "CP", "a user"),
        ("ws://csms.test", "", "identity"),
        ("ws://csms.test", "C\nP", "identity"),
    ] {
        let error = RpcClient::builder(endpoint, identity).build().expect_err(endpoint).to_string();
        assert!(error.contains(reason), "{endpoint}: {error}");
    }
    let speaks_tls = RpcClient::builder("wss://csms.test", "CP").build().is_ok();
    assert_eq!(speaks_tls, cfg!(feature = "tls"), "wss:// needs the feature `tls` or a connector");
    let base = || RpcClient::builder("ws://csms.test", "CP");
    assert!(base().protocols(["a b"]).build().is_err());
    assert!(base().protocols(["a"]).dialect("b", ocpp_rpc::message::Dialect::OCPP_1_6).build().is_err());
    for reserved in ["host", "upgrade", "sec-websocket-extensions", "content-length", "transfer-encoding"] {
        let error = base().header(reserved.parse().expect("a name"), HeaderValue::from_static("x")).build();
        assert!(error.expect_err(reserved).to_string().contains(reserved));
    }
    assert!(base().connect_timeout(Duration::ZERO).build().is_err());
    assert!(base().options(Options::client().max_message_size(0)).build().is_err());
    assert!(base().reconnect(Reconnect::always().backoff(Backoff::exponential().factor(0.1))).build().is_err());
}

#[tokio::test]
async fn tcp_is_dialled_directly_or_through_a_proxy() {
    let server =
        RpcServer::builder(RpcRouter::new().on("Echo", echo)).protocols(["ocpp1.6"]).build().expect("valid settings");
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("ws://localhost:{}/ocpp", listener.local_addr().port());

    // A proxy for one connection (RFC 9110 §9.3.6).
    let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy_address = proxy.local_addr().expect("an address");
    let upstream = listener.local_addr();
    tokio::spawn(async move {
        let (mut near, _) = proxy.accept().await.expect("a client");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.expect("a head"));
        }
        assert!(head.starts_with(b"CONNECT localhost:"));
        let mut far = TcpStream::connect(upstream).await.expect("the server");
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("open");
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    });
    let through_proxy = move |target: Target| async move {
        let mut stream = TcpStream::connect(proxy_address).await?;
        stream.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).await?;
        let mut response = [0; 19];
        stream.read_exact(&mut response).await?;
        Ok(stream)
    };
    let base = || RpcClient::builder(&endpoint, "CP-1").protocols(["ocpp1.6"]);
    for builder in [base(), base().connector(through_proxy)] {
        let client = builder.connect().await.expect("connected");
        assert_eq!(client.call::<Value>("Echo", &json!({"a": 1})).await.expect("a response"), json!({"a": 1}));
        client.close(Close::normal()).await;
    }
    listener.close(Close::going_away()).await;
    let error = base().connect().await.expect_err("no server");
    assert!(matches!(&error, ConnectError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(!error.is_refused() && !error.is_timeout(), "the operating system refused, not a server");
    says_nothing_twice(&error);
}

#[tokio::test]
async fn b07_identity_is_sent_as_one_path_segment() {
    for (identity, segment) in [
        ("CP-1", "CP-1"),
        ("a/b", "a%2Fb"),
        ("a b?c#d%e", "a%20b%3Fc%23d%25e"),
        ("..", ".."),
        ("Straße 7", "Stra%C3%9Fe%207"),
        ("CP:1", "CP%3A1"),
    ] {
        let (builder, mut dials) = client();
        let client = builder.build().expect("valid settings");
        let target = |settings: RpcClientBuilder| settings.endpoint("ws://csms.test/ocpp/").identity(identity);
        client.update(target).expect("valid settings");
        let attempt = tokio::spawn(async move { client.connect().await });
        let head = dials.head().await.0;
        assert!(head.starts_with(&format!("GET /ocpp/{segment} HTTP/1.1\r\n")), "{identity}: {head}");
        assert!(attempt.await.expect("no panic").is_err());
    }
    // The scheme of a URL ignores case (RFC 3986 §3.1).
    assert!(RpcClient::builder("WS://csms.test/ocpp", "CP").build().is_ok());
    for invalid in ["", "C\nP", "\u{7f}", "CP\0"] {
        assert!(RpcClient::builder("ws://csms.test", invalid).build().is_err(), "{invalid:?}");
    }
}

#[tokio::test]
async fn b07_credentials_query_headers_and_agent_are_sent_as_given() {
    let (builder, mut dials) = client();
    let builder = builder
        .password("open sesame")
        .query("a", "1 2")
        .query("b", "ü")
        .header(http::header::USER_AGENT, HeaderValue::from_static("station/7"))
        .header(http::HeaderName::from_static("x-site"), HeaderValue::from_static("north"))
        .header(http::HeaderName::from_static("x-site"), HeaderValue::from_static("gate"));
    let (_client, _attempt) = connecting(builder);
    let head = dials.head().await.0;
    assert!(head.starts_with("GET /ocpp/CP-1?a=1%202&b=%C3%BC HTTP/1.1\r\n"), "{head}");
    for line in [
        "Host: csms.test",
        // CP-1:open sesame
        "Authorization: Basic Q1AtMTpvcGVuIHNlc2FtZQ==",
        "User-Agent: station/7",
        "x-site: north",
        "x-site: gate",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: ocpp2.0.1, ocpp1.6",
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    assert_eq!(head.matches("User-Agent").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn b09_new_identity_applies_from_the_next_connect_after_a_close() {
    let (builder, mut dials) = client();
    let (client, csms) = connected(builder.password("open sesame"), &mut dials).await;
    client.update(|settings| settings.identity("CP-2")).expect("valid settings");
    assert!(client.update(|settings| settings.identity("")).is_err(), "an invalid identity changes nothing");
    // A reconnect still uses the earlier identity, and other new settings.
    client.update(|settings| settings.endpoint("ws://elsewhere.test:8080/other")).expect("valid settings");
    drop(csms);
    let head = dials.head().await.0;
    assert!(head.starts_with("GET /other/CP-1 ") && head.contains("Host: elsewhere.test:8080\r\n"), "{head}");
    // CP-1:open sesame
    assert!(head.contains("\r\nAuthorization: Basic Q1AtMTpvcGVuIHNlc2FtZQ==\r\n"), "{head}");
    assert_eq!(&*client.session().identity(), "CP-1");

    client.close(Close::normal()).await;
    while !dials.none() {}
    let attempt = tokio::spawn({
        let client = client.clone();
        async move { client.connect().await }
    });
    let head = dials.head().await.0;
    assert!(head.starts_with("GET /other/CP-2 "), "{head}");
    // CP-2:open sesame
    assert!(head.contains("\r\nAuthorization: Basic Q1AtMjpvcGVuIHNlc2FtZQ==\r\n"), "{head}");
    assert_eq!(&*client.session().identity(), "CP-2");
    assert!(attempt.await.expect("no panic").is_err());
}

#[tokio::test(start_paused = true)]
async fn b09_new_options_apply_to_the_open_and_later_connections() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let options = Options::client().call_timeout(3 * SECOND).call_concurrency(2);
    client.update(|settings| settings.options(options)).expect("valid settings");
    for connection in 0..3 {
        let start = Instant::now();
        let calls = ["A", "B"].map(|action| tokio::spawn(client.call::<Value>(action, &())));
        csms.receive_call("A").await;
        csms.receive_call("B").await;
        for call in calls {
            assert!(call.await.expect("no panic").expect_err("no response").is_timeout());
        }
        assert_eq!(start.elapsed().as_secs(), 3);
        // The client reconnects by itself the first time, and after a close and a connect the second time.
        if connection == 1 {
            client.close(Close::forced()).await;
            let client = client.clone();
            tokio::spawn(async move { client.connect().await });
        }
        drop(csms);
        csms = dials.accept("ocpp1.6").await;
    }
}
