//! A client with several endpoints.

use std::io;

use ocpp_rpc::{
    RpcClient,
    client::{ClientState, ConnectError, Reconnect, RpcClientBuilder, Target},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::{
    csms::{accept, becomes, connecting, reconnect},
    support::SECOND,
};

const ENDPOINTS: [&str; 3] = ["ws://a.test/one", "ws://b.test:81/two?x=y", "ws://c.test"];

/// The dials of a client, with the hosts and the times since the dial before.
struct Dials {
    dials: mpsc::UnboundedReceiver<(String, DuplexStream)>,
    last: Instant,
}

fn client() -> (RpcClientBuilder, Dials) {
    let (sender, dials) = mpsc::unbounded_channel();
    let connector = move |target: Target| {
        let (near, far) = duplex(64 << 10);
        let dialled = sender.send((target.to_string(), far));
        async move { dialled.map(|()| near).map_err(io::Error::other) }
    };
    let client = RpcClient::builder("ws://unused.test", "CP-1").endpoints(ENDPOINTS).connector(connector);
    let client = client.protocols(["ocpp1.6"]).reconnect(reconnect().retry_first_connect(true));
    (client, Dials { dials, last: Instant::now() })
}

impl Dials {
    /// Returns the stream of the next dial, which must go to this host after this time.
    #[track_caller]
    fn next(&mut self, host: &str, seconds: u64) -> impl Future<Output = DuplexStream> {
        let caller = std::panic::Location::caller();
        async move {
            let dial = timeout(3600 * SECOND, self.dials.recv()).await;
            let (target, stream) = dial.expect("a dial").expect("a client");
            let waited = std::mem::replace(&mut self.last, Instant::now()).elapsed();
            assert_eq!((target.split(':').next(), waited.as_secs()), (Some(host), seconds), "{caller}");
            stream
        }
    }

    /// Responds to the next dial with a status and headers.
    async fn refuse(&mut self, host: &str, seconds: u64, head: &str) -> String {
        let mut stream = self.next(host, seconds).await;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("a head"));
        }
        let response = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(response.as_bytes()).await.expect("open");
        String::from_utf8(request).expect("text")
    }
}

#[tokio::test(start_paused = true)]
async fn b106_client_dials_the_next_endpoint_after_a_failed_attempt() {
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder);
    for (host, seconds) in [("a.test", 0), ("b.test", 1), ("c.test", 2), ("a.test", 4)] {
        drop(dials.next(host, seconds).await);
    }
    let lasting = accept(dials.next("b.test", 8).await, "ocpp1.6").await;
    attempt.await.expect("no panic").expect("connected");
    tokio::time::sleep(60 * SECOND).await;
    drop(lasting);
    // The endpoint of the lost connection, and not that of the last success before it.
    let short = accept(dials.next("b.test", 61).await, "ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
    drop(short);
    drop(dials.next("c.test", 2).await);
    drop(dials.next("a.test", 4).await);
}

#[tokio::test(start_paused = true)]
async fn b106_endpoint_has_its_own_path_and_host() {
    let (builder, mut dials) = client();
    let (_client, _attempt) = connecting(builder.query("q", "1"));
    for (host, seconds, path, authority) in [
        ("a.test", 0, "/one/CP-1?q=1", "a.test"),
        ("b.test", 1, "/two/CP-1?x=y&q=1", "b.test:81"),
        ("c.test", 2, "/CP-1?q=1", "c.test"),
    ] {
        let head = dials.refuse(host, seconds, "503 Busy").await;
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
        assert!(head.contains(&format!("\r\nHost: {authority}\r\n")), "{head}");
    }
}

#[tokio::test(start_paused = true)]
async fn b106_refusal_of_one_endpoint_delays_the_next_round() {
    let (builder, mut dials) = client();
    let (_client, _attempt) = connecting(builder);
    dials.refuse("a.test", 0, "503 Busy\r\nRetry-After: 100").await;
    dials.refuse("b.test", 1, "403 Forbidden").await;
    drop(dials.next("c.test", 2).await);
    dials.refuse("a.test", 100, "503 Busy").await;
    drop(dials.next("b.test", 8).await);
}

#[tokio::test(start_paused = true)]
async fn b106_first_connect_fails_after_an_attempt_at_each_endpoint() {
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder.reconnect(reconnect()));
    drop(dials.next("a.test", 0).await);
    drop(dials.next("b.test", 1).await);
    dials.refuse("c.test", 2, "403 Forbidden").await;
    let error = attempt.await.expect("no panic").expect_err("all have failed");
    assert!(matches!(&error, ConnectError::Refused { status, .. } if *status == 403), "{error}");
    assert_eq!(client.state(), ClientState::Closed);

    let (builder, mut dials) = self::client();
    let (_client, attempt) = connecting(builder.reconnect(Reconnect::never()));
    drop(dials.next("a.test", 0).await);
    attempt.await.expect("no panic").expect_err("no attempts left");
}

#[tokio::test(start_paused = true)]
async fn b106_new_list_of_endpoints_begins_with_its_first() {
    let (builder, mut dials) = client();
    let (client, _attempt) = connecting(builder);
    let first = dials.next("a.test", 0).await;
    client.update(|settings| settings.password("secret")).expect("valid settings");
    drop(first);
    let second = dials.next("b.test", 1).await;
    let list = ["ws://d.test", "ws://e.test", "ws://f.test"];
    client.update(|settings| settings.endpoints(list)).expect("valid settings");
    drop(second);
    drop(dials.next("d.test", 2).await);
    let last = dials.next("e.test", 4).await;
    client.update(|settings| settings.endpoint("ws://g.test")).expect("valid settings");
    drop(last);
    drop(dials.next("g.test", 8).await);
    drop(dials.next("g.test", 10).await);
}

#[test]
fn b106_every_endpoint_must_be_valid() {
    let build = |endpoints: &[&str]| RpcClient::builder("ws://a.test", "CP-1").endpoints(endpoints.to_vec()).build();
    for (endpoints, reason) in
        [(&[][..], "there is no endpoint"), (&["ws://a.test", "http://b.test"], "invalid endpoint \"http://b.test\"")]
    {
        let error = build(endpoints).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(build(&["ws://a.test", "wss://b.test"]).is_ok(), cfg!(feature = "tls"));
}
