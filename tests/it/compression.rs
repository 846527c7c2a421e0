//! Compressed messages (RFC 7692), with a peer that writes its frames by hand and has zlib states of its own.

use axum::{Router, extract::State, response::Response, routing::any};
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress};
use futures_util::FutureExt;
use ocpp_rpc::{
    Accept, Handshake, Options, RpcRouter, RpcServer, RpcUpgrade,
    client::ConnectError,
    close::CloseCause,
    compression::{CompressedMessages, Compression},
    server::RpcServerBuilder,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use crate::{
    csms::{self, Dials, UPGRADE},
    fairness::next_turn,
    support::{dial_with_buffer, echo},
    tcp::{Client, Site, offering, soon, with},
};

pub const OFFER: &str = "permessage-deflate; client_max_window_bits";

fn builder() -> RpcServerBuilder {
    RpcServer::builder(RpcRouter::new().on("Echo", echo)).protocols(["ocpp1.6"])
}

/// Returns the head of a handshake with this header of extensions.
fn extensions(path: &str, offer: &str) -> String {
    with(&offering(path, "ocpp1.6"), &format!("Sec-WebSocket-Extensions: {offer}"))
}

/// A peer after the handshake, with contexts over all of its messages.
pub struct Peer<S> {
    stream: Client<S>,
    deflate: Compress,
    inflate: Decompress,
    /// The mask of a client.
    is_client: bool,
    /// The payload of the last received message.
    payload: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub fn new(stream: Client<S>, is_client: bool) -> Self {
        let deflate = Compress::new_with_window_bits(flate2::Compression::default(), false, 11);
        Self { stream, deflate, inflate: Decompress::new(false), is_client, payload: Vec::new() }
    }

    /// Sends a frame with this first byte.
    async fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        let mask = if self.is_client { 0x80 } else { 0 };
        match payload.len() {
            len @ 0..=125 => frame.push(mask | len as u8),
            len @ 126..=0xffff => {
                frame.push(mask | 126);
                frame.extend((len as u16).to_be_bytes());
            }
            len => {
                frame.push(mask | 127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        // The mask is zero and changes nothing.
        frame.extend(vec![0; usize::from(mask / 32)]);
        frame.extend(payload);
        self.stream.send(frame).await;
    }

    fn deflate(&mut self, text: &str) -> Vec<u8> {
        let mut payload = Vec::with_capacity(text.len() + 100);
        self.deflate.compress_vec(text.as_bytes(), &mut payload, FlushCompress::Sync).expect("deflated");
        payload.truncate(payload.len() - 4);
        payload
    }

    async fn send(&mut self, text: &str) {
        let payload = self.deflate(text);
        self.frame(0xc1, &payload).await;
    }

    /// Receives a frame, and returns its first byte.
    async fn receive_frame(&mut self) -> u8 {
        let head = self.stream.read(2).await;
        let len = match head[1] & 0x7f {
            126 => u16::from_be_bytes(self.stream.read(2).await.try_into().expect("two")).into(),
            127 => u64::from_be_bytes(self.stream.read(8).await.try_into().expect("eight")) as usize,
            len => usize::from(len),
        };
        let mask = if head[1] & 0x80 == 0 { vec![0; 4] } else { self.stream.read(4).await };
        let payload = self.stream.read(len).await;
        self.payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        head[0]
    }

    /// Receives a compressed message.
    async fn receive(&mut self) -> String {
        assert_eq!(self.receive_frame().await, 0xc1);
        self.inflate()
    }

    /// Inflates the payload of the last frame.
    fn inflate(&mut self) -> String {
        let input = [&*self.payload, &[0, 0, 0xff, 0xff]].concat();
        let mut text = Vec::with_capacity(1 << 20);
        self.inflate.decompress_vec(&input, &mut text, FlushDecompress::None).expect("valid");
        String::from_utf8(text).expect("UTF-8")
    }

    pub async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.receive().await
    }

    /// Receives a close frame.
    async fn closed(&mut self) -> (u16, String) {
        assert_eq!(self.receive_frame().await, 0x88);
        let (code, reason) = self.payload.split_first_chunk().expect("a code");
        (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).expect("UTF-8"))
    }
}

/// Opens a session whose handshake has this header of extensions.
pub async fn enter(site: &Site, path: &str, offer: &str) -> (String, Peer<tokio::net::TcpStream>) {
    let mut client = site.dial().await;
    let response = client.ask(&extensions(path, offer)).await;
    assert_eq!(response.status, 101, "{response:?}");
    (response.header("sec-websocket-extensions").to_owned(), Peer::new(client, true))
}

fn call(id: usize, text: &str) -> String {
    json!([2, id.to_string(), "Echo", {"text": text}]).to_string()
}

fn result(id: usize, text: &str) -> String {
    format!(r#"[3,"{id}",{}]"#, json!({"text": text}))
}

#[tokio::test]
async fn b80_messages_are_compressed_with_context_both_ways() {
    let site = Site::of(builder()).await;
    let (response, mut station) = enter(&site, "/CP-1", OFFER).await;
    assert_eq!(response, "permessage-deflate; client_max_window_bits=11");
    let session = site.server.session("CP-1").expect("registered");
    let texts = ["", "Straße 🔌", &"meter ".repeat(20_000), "a", "a"];
    for (id, text) in texts.iter().enumerate() {
        assert_eq!(station.ask(&call(id, text)).await, result(id, text));
    }
    let first = call(0, "").len();
    assert!(station.payload.len() < first / 2, "the response repeats the one before it");

    let calling = session.call::<Value>("Reset", &json!({"type": "Soft"}));
    let responding = async {
        let call: Value = serde_json::from_str(&station.receive().await).expect("JSON");
        assert_eq!((&call[2], &call[3]), (&json!("Reset"), &json!({"type": "Soft"})));
        station.send(&json!([3, call[1], {"status": "Accepted"}]).to_string()).await;
    };
    assert_eq!(tokio::join!(calling, responding).0.expect("a result"), json!({"status": "Accepted"}));

    let info = session.info();
    let compression = info.compression().expect("agreed");
    let received: usize = (0..texts.len()).map(|id| call(id, texts[id]).len()).sum();
    assert!(compression.received.text_bytes > received as u64, "{compression:?}");
    for (messages, window_bits) in [(compression.sent, 10), (compression.received, 11)] {
        assert!(messages.payload_bytes > 0 && messages.payload_bytes < messages.text_bytes / 50, "{compression:?}");
        assert_eq!((messages.window_bits, messages.context_takeover), (window_bits, true));
    }
}

/// Returns the payload of a text in deflate blocks that do not compress (RFC 1951 §3.2.4).
fn stored(text: &[u8]) -> Vec<u8> {
    let block = |part: &[u8]| {
        let len = part.len() as u16;
        [&[0][..], &len.to_le_bytes(), &(!len).to_le_bytes(), part].concat()
    };
    [text.chunks(50_000).flat_map(block).collect(), vec![0]].concat()
}

#[tokio::test(start_paused = true)]
async fn b81_other_tasks_run_while_a_large_message_is_inflated() {
    let options = Options::server().compression(Compression::new().max_ratio(None));
    let server = builder().options(options).build().expect("a valid configuration");
    let mut client = Client::over(dial_with_buffer(&server, 4 << 20));
    assert_eq!(client.ask(&extensions("/CP", OFFER)).await.status, 101);
    let mut peer = Peer::new(client, true);
    let text = "x".repeat(1_000_000);
    for id in 1..=2 {
        // Few bytes of the payload are needed for much text, and many for little.
        let payload = if id == 1 { stored(call(id, &text).as_bytes()) } else { peer.deflate(&call(id, &text)) };
        let mut events = server.events();
        // This task and that of the connection run in turn.
        let turns = tokio::spawn(async move {
            let mut turns = 0;
            while turns < 1000 && events.next().now_or_never().is_none() {
                next_turn().await;
                turns += 1;
            }
            turns
        });
        peer.frame(0xc1, &payload).await;
        let turns = turns.await.expect("no panic");
        assert!((16..=40).contains(&turns), "{turns} turns");
        assert_eq!(peer.receive().await, result(id, &text));
    }
}

#[tokio::test]
async fn b80_offer_is_accepted_by_service_and_extractor() {
    async fn connect(upgrade: RpcUpgrade, State(server): State<RpcServer>) -> Response {
        server.accept(upgrade, Accept::new())
    }
    let server = builder().build().expect("valid settings");
    let app = Router::new()
        .route_service("/service/{*identity}", server.clone())
        .route("/extractor/{*identity}", any(connect))
        .with_state(server.clone());
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let site = Site { events: server.events(), listener, server };
    for path in ["/service/CP-1", "/extractor/CP-2"] {
        let (response, mut station) = enter(&site, path, OFFER).await;
        assert_eq!(response, "permessage-deflate; client_max_window_bits=11", "{path}");
        assert_eq!(station.ask(&call(1, "a")).await, result(1, "a"), "{path}");
    }
}

#[tokio::test]
async fn b80_offer_that_cannot_be_met_leaves_the_session_uncompressed() {
    let site = Site::of(builder()).await;
    for (at, offer) in [
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; client_max_window_bits=99",
        "permessage-deflate; client_max_window_bits=10; client_max_window_bits=10",
        "permessage-deflate; unknown",
        "x-webkit-deflate-frame",
        "\"",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/CP-{at}");
        let mut client = site.dial().await;
        let response = client.ask(&extensions(&path, offer)).await;
        assert_eq!(response.header("sec-websocket-extensions"), "", "{offer}");
        let mut station = client.upgraded(&response).await;
        assert_eq!(station.ask(call(1, "a")).await, result(1, "a"), "{offer}");
        let session = site.server.session(&path[1..]).expect("registered");
        assert_eq!(session.info().compression(), None);
    }
}

#[tokio::test]
async fn b80_compression_is_set_for_the_server_or_a_session() {
    let authenticator = async |handshake: Handshake| {
        let options = match handshake.identity() {
            "small" => Options::server().compression(Compression::new().window_bits(9)),
            "alone" => Options::server().compression(Compression::new().context_takeover(false)),
            "none" => Options::server().compression(None),
            _ => return Ok(Accept::new()),
        };
        Ok(Accept::new().options(options))
    };
    let options = Options::server().compression(Compression::new().window_bits(12));
    let site = Site::of(builder().options(options).auth(authenticator)).await;
    for (identity, response) in [
        ("other", "permessage-deflate; client_max_window_bits=12"),
        ("small", "permessage-deflate; client_max_window_bits=9"),
        (
            "alone",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=11",
        ),
        ("none", ""),
    ] {
        assert_eq!(enter(&site, &format!("/{identity}"), OFFER).await.0, response, "{identity}");
    }
}

#[tokio::test]
async fn b81_bad_compressed_input_closes_with_code_and_reason() {
    const LIMIT: usize = 1 << 20;
    let site = Site::of(builder()).await;
    // Blocks that do not refer to each other, so that they can be repeated.
    let block = |text: &[u8]| {
        let mut payload = Vec::with_capacity(text.len() + 100);
        let mut deflate = Compress::new(flate2::Compression::best(), false);
        deflate.compress_vec(text, &mut payload, FlushCompress::Full).expect("deflated");
        payload
    };
    let spaces = block(&[b' '; 1 << 16]);
    let refers_to_an_earlier_message = {
        let mut sender = Compress::new(flate2::Compression::best(), false);
        let mut payload = Vec::with_capacity(1000);
        sender.compress_vec(&b"earlier".repeat(20), &mut payload, FlushCompress::Sync).expect("deflated");
        payload.clear();
        sender.compress_vec(b"earlierearlier", &mut payload, FlushCompress::Sync).expect("deflated");
        payload
    };
    let noise: Vec<u8> =
        (0..LIMIT as u32 + LIMIT as u32 / 4).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let invalid = (1002, "invalid compressed data");
    let cases = [
        ("on a ping", vec![(0xc9, vec![])], (1002, "RSV1 set on a frame that does not begin a message")),
        (
            "on a continuation",
            vec![(0x41, vec![0]), (0xc0, vec![0])],
            (1002, "RSV1 set on a frame that does not begin a message"),
        ),
        ("not deflate", vec![(0xc1, b"text".to_vec())], invalid),
        ("garbage after the final block", vec![(0xc1, b"\x03\x00garbage".to_vec())], invalid),
        ("100,000 final blocks", vec![(0xc1, b"\x03\x00".repeat(100_000))], invalid),
        ("too far back", vec![(0xc1, refers_to_an_earlier_message)], invalid),
        ("cut short", vec![(0xc1, spaces[..spaces.len() / 2].to_vec())], invalid),
        (
            "1 MB of 2 KB",
            vec![(0xc1, spaces.repeat(15))],
            (1009, "message too large: more than 256 times its compressed payload"),
        ),
        ("655 MB of 600 KB", vec![(0xc1, spaces.repeat(10_000))], (1009, "message too large")),
        ("compressed beyond the limit", vec![(0xc1, noise)], (1009, "message too large")),
    ];
    for (name, frames, (code, reason)) in cases {
        let (_, mut station) = enter(&site, "/CP-1", OFFER).await;
        let session = site.server.session("CP-1").expect("registered");
        for (first, payload) in frames {
            station.frame(first, &payload).await;
        }
        assert_eq!(station.closed().await, (code, reason.to_owned()), "{name}");
        drop(station);
        let closed = soon(session.closed()).await;
        let cause = if code == 1009 { CloseCause::TooLarge } else { CloseCause::ProtocolError };
        assert_eq!((closed.code, &*closed.reason, closed.cause), (code, reason, cause), "{name}");
    }
    // Without an agreement.
    let mut client = site.dial().await;
    client.ask(&offering("/CP-1", "ocpp1.6")).await;
    let mut station = Peer::new(client, true);
    station.send(&call(1, "a")).await;
    assert_eq!(station.closed().await, (1002, "RSV1 set although no compression was agreed".to_owned()));
}

/// Reads the request of the next dial, and responds with these lines. Returns the request's head.
async fn respond(dials: &mut Dials, lines: &str) -> (String, Peer<DuplexStream>) {
    let mut stream = Client::over(dials.next().await);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        request.push(char::from(stream.read(1).await[0]));
    }
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let response = format!("{UPGRADE}Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: ocpp1.6\r\n{lines}\r\n");
    stream.send(response).await;
    (request, Peer::new(stream, false))
}

#[tokio::test(start_paused = true)]
async fn b82_client_offers_compression_on_request_and_uses_it() {
    let (plain, mut dials) = csms::client();
    let (_client, (request, _csms)) = tokio::join!(plain.connect(), respond(&mut dials, ""));
    assert!(!request.contains("Sec-WebSocket-Extensions"), "{request}");

    for (response, sent, received) in [
        ("permessage-deflate; client_max_window_bits=9", (9, true), (15, true)),
        ("permessage-deflate; server_no_context_takeover; server_max_window_bits=9", (10, true), (9, false)),
        ("permessage-deflate; client_no_context_takeover", (10, false), (15, true)),
    ] {
        let (client, mut dials) = csms::client();
        let client = client.options(Options::client().compression(Compression::new()));
        let lines = format!("Sec-WebSocket-Extensions: {response}\r\n");
        let (client, (request, mut csms)) = tokio::join!(client.connect(), respond(&mut dials, &lines));
        assert!(request.contains("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"));
        let client = client.expect("connected");
        for text in ["Straße 🔌", "again", "again"] {
            let calling = client.call::<Value>("Echo", &json!({"text": text}));
            let responding = async {
                if !sent.1 {
                    csms.inflate.reset(false);
                }
                if !received.1 {
                    csms.deflate.reset();
                }
                let call: Value = serde_json::from_str(&csms.receive().await).expect("JSON");
                csms.send(&json!([3, call[1], call[3]]).to_string()).await;
            };
            assert_eq!(tokio::join!(calling, responding).0.expect("a result"), json!({"text": text}));
        }
        let info = client.session().info();
        let info = info.compression().expect("agreed");
        let direction = |messages: &CompressedMessages| (messages.window_bits, messages.context_takeover);
        assert_eq!((direction(&info.sent), direction(&info.received)), (sent, received), "{response}");
    }
}

#[tokio::test(start_paused = true)]
async fn b82_client_that_must_use_8_bits_sends_uncompressed_messages() {
    let (client, mut dials) = csms::client();
    let client = client.options(Options::client().compression(Compression::new()));
    let response = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=8\r\n";
    let (client, (_, mut csms)) = tokio::join!(client.connect(), respond(&mut dials, response));
    let client = client.expect("connected");
    let calling = client.call::<Value>("Echo", &json!({"text": "a"}));
    let responding = async {
        assert_eq!(csms.receive_frame().await, 0x81);
        let call: Value = serde_json::from_slice(&csms.payload).expect("JSON");
        csms.send(&json!([3, call[1], call[3]]).to_string()).await;
    };
    assert_eq!(tokio::join!(calling, responding).0.expect("a result"), json!({"text": "a"}));
    let info = client.session().info();
    let info = info.compression().expect("agreed");
    assert!(info.sent.text_bytes == 0 && info.received.text_bytes > 0, "{info:?}");
}

#[tokio::test(start_paused = true)]
async fn b09_client_keeps_its_compression_and_limits_if_options_change() {
    let (client, mut dials) = csms::client();
    let client = client.options(Options::client().compression(Compression::new()));
    let response = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let (client, (_, csms)) = tokio::join!(client.connect(), respond(&mut dials, response));
    let client = client.expect("connected");
    client.update(|settings| settings.options(Options::client())).expect("valid");
    drop(csms);
    let (request, mut csms) = respond(&mut dials, response).await;
    assert!(request.contains("Sec-WebSocket-Extensions: permessage-deflate"), "{request}");
    let bomb = csms.deflate(&" ".repeat(200_000));
    csms.frame(0xc1, &bomb).await;
    assert_eq!(csms.closed().await.1, "message too large: more than 256 times its compressed payload");
}

#[tokio::test(start_paused = true)]
async fn b82_client_connects_without_compression_if_the_server_declines() {
    for lines in ["", "Sec-WebSocket-Extensions: \r\n"] {
        let (client, mut dials) = csms::client();
        let client = client.options(Options::client().compression(Compression::new()));
        let (client, (_, mut csms)) = tokio::join!(client.connect(), respond(&mut dials, lines));
        let client = client.expect("connected");
        assert_eq!(client.session().info().compression(), None);
        let calling = client.call::<Value>("Echo", &());
        let responding = async {
            assert_eq!(csms.receive_frame().await, 0x81);
            let call: Value = serde_json::from_slice(&csms.payload).expect("JSON");
            csms.frame(0x81, json!([3, call[1], {}]).to_string().as_bytes()).await;
        };
        assert_eq!(tokio::join!(calling, responding).0.expect("a result"), json!({}));
    }
}

#[tokio::test(start_paused = true)]
async fn b82_client_refuses_an_extension_that_it_did_not_offer() {
    let offers = Options::client().compression(Compression::new());
    for (options, response) in [
        (Options::client(), "permessage-deflate"),
        (offers.clone(), "permessage-deflate, permessage-deflate"),
        (offers.clone(), "x-webkit-deflate-frame"),
        (offers.clone(), "permessage-deflate; client_max_window_bits"),
        (offers.clone(), "permessage-deflate; server_max_window_bits=99"),
        (offers, "permessage-deflate; unknown"),
    ] {
        let (client, mut dials) = csms::client();
        let lines = format!("Sec-WebSocket-Extensions: {response}\r\n");
        let (client, _) = tokio::join!(client.options(options).connect(), respond(&mut dials, &lines));
        let error = client.expect_err("refused");
        assert!(matches!(error, ConnectError::Handshake(_)), "{response}: {error}");
    }
}
