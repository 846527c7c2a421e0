//! Connections through a proxy that sends a PROXY header, and connections of load balancers that send nothing.

use std::time::Duration;

use futures_util::StreamExt;
use ocpp_rpc::{
    Close, RpcRouter, RpcServer,
    event::EventKind,
    server::{ListenerBuilder, RpcServerBuilder},
};
#[cfg(feature = "tls")]
use tokio::net::TcpStream;
use tokio::{io::AsyncWriteExt, net::TcpSocket};
#[cfg(feature = "tls")]
use tokio_rustls::TlsConnector;

use crate::{
    support::{Log, closed, log_to},
    tcp::{Site, head, soon},
};

const V1: &[u8] = b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 9220\r\n";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";
/// From [2001:db8::5]:4711, with an extension.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x29\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x05\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x06\x12\x67\x23\xf4\x05\0\x02ab";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn builder() -> RpcServerBuilder {
    RpcServer::builder(RpcRouter::new())
}

async fn site(
    builder: RpcServerBuilder,
    change: impl FnOnce(ListenerBuilder<&'static str>) -> ListenerBuilder<&'static str>,
) -> Site {
    let server = builder.build().expect("valid settings");
    let listener = change(server.bind("127.0.0.1:0")).serve().await.expect("a port");
    Site { events: server.events(), listener, server }
}

/// A site whose listener expects PROXY headers from the tests.
async fn behind_proxy(builder: RpcServerBuilder) -> Site {
    site(builder, |listener| listener.proxy_protocol(["192.0.2.0/24", "127.0.0.1"]).expect("networks")).await
}

#[tokio::test]
async fn b71_address_in_proxy_header_is_the_clients() {
    let mut site = behind_proxy(builder().max_sessions_per_address(1)).await;
    for (header, address) in [(V1, Some("203.0.113.9:4711")), (V2, Some("[2001:db8::5]:4711")), (UNKNOWN, None)] {
        let mut client = site.dial().await;
        let address = address.map_or_else(|| client.address(), |address| address.parse().expect("an address"));
        client.send([header, head("/CP").as_bytes()].concat()).await;
        let response = client.answer().await;
        let mut station = client.upgraded(&response).await;
        let opened = soon(site.events.next()).await.expect("an event");
        assert!(matches!(opened.kind, EventKind::Opened { .. }), "{opened:?}");
        assert_eq!(opened.remote_address, Some(address));
        let session = site.server.session("CP").expect("registered");
        assert_eq!(session.remote_address(), Some(address));
        // Limits count the client's address, not that of the proxy.
        let mut second = site.dial().await;
        second.send([header, head("/CP-2").as_bytes()].concat()).await;
        assert_eq!(second.answer().await.status, 429);
        assert_eq!(
            soon(site.events.next()).await.expect("an event").remote_address.map(|a| a.ip()),
            Some(address.ip())
        );
        station.close(1000, "").await;
        drop(station);
        soon(session.closed()).await;
        closed(&mut site.events).await;
    }
}

#[tokio::test]
async fn b71_header_may_arrive_byte_by_byte() {
    let mut site = behind_proxy(builder()).await;
    for header in [V1, V2] {
        let mut client = site.dial().await;
        for byte in [header, head("/CP").as_bytes()].concat() {
            client.send([byte]).await;
        }
        assert_eq!(client.answer().await.status, 101);
        let opened = soon(site.events.next()).await.expect("an event");
        assert_eq!(opened.remote_address.map(|address| address.port()), Some(4711));
        drop(client);
        closed(&mut site.events).await;
    }
}

#[tokio::test]
async fn b71_connection_without_valid_header_is_refused() {
    let mut listed = behind_proxy(builder().handshake_timeout(Duration::from_millis(300))).await;
    let request = head("/CP").into_bytes();
    let begun = V1[..20].to_vec();
    for (sent, expected) in [
        (request.clone(), "the proxy sent no PROXY header"),
        ([&V1.replace_byte(b'4', b'5')[..], &request].concat(), "the proxy sent a malformed PROXY header"),
        (vec![0x16; 200], "the proxy sent no PROXY header"),
        (begun, "the PROXY header timed out"),
    ] {
        let mut client = listed.dial().await;
        client.send(&sent).await;
        let (identity, status, reason) = listed.refused().await;
        assert_eq!((identity, status), (None, None));
        assert!(reason.contains(expected), "{reason}");
        assert!(client.rest().await.is_empty());
    }
    let mut other = site(builder(), |listener| listener.proxy_protocol(["192.0.2.1"]).expect("an address")).await;
    for sent in [[V1, &request].concat(), request.clone()] {
        let mut client = other.dial().await;
        client.send(sent).await;
        let (_, _, reason) = other.refused().await;
        assert!(reason.contains("the address is not in `proxy_protocol`"), "{reason}");
        assert!(client.rest().await.is_empty());
    }
    // A listener without the setting names it.
    let mut plain = site(builder(), |listener| listener).await;
    for header in [V1, V2] {
        let mut client = plain.dial().await;
        client.send([header, &request].concat()).await;
        assert_eq!(client.answer().await.status, 400);
        drop(client);
        let (_, _, reason) = plain.refused().await;
        assert!(reason.contains("unexpected PROXY header: set `proxy_protocol`"), "{reason}");
    }
}

trait ReplaceByte {
    fn replace_byte(&self, from: u8, to: u8) -> Vec<u8>;
}

impl ReplaceByte for [u8] {
    fn replace_byte(&self, from: u8, to: u8) -> Vec<u8> {
        self.iter().map(|byte| if *byte == from { to } else { *byte }).collect()
    }
}

#[test]
fn invalid_proxies_are_build_errors() {
    let server = builder().build().expect("valid settings");
    for (proxies, text) in [(&["localhost"][..], "invalid proxy \"localhost\""), (&[], "names no proxy")] {
        let error = server.bind("127.0.0.1:0").proxy_protocol(proxies).expect_err("invalid settings");
        assert!(error.to_string().contains(text), "{error}");
    }
}

/// Connects and closes without a byte, by a regular end or a reset.
async fn check_port(site: &Site, header: &[u8]) {
    for is_reset in [false, true] {
        let socket = TcpSocket::new_v4().expect("a socket");
        let mut stream = soon(socket.connect(site.listener.local_addr())).await.expect("a listener");
        stream.write_all(header).await.expect("open");
        if is_reset {
            stream.set_zero_linger().expect("a socket");
        }
    }
}

#[cfg(feature = "tls")]
async fn secure_site() -> Site {
    let authority = crate::tls::Authority::new();
    let tls = ocpp_rpc::tls::ServerTls::builder().certificate(authority.issue("127.0.0.1").certificate());
    let tls = tls.build().expect("valid settings");
    site(builder(), |listener| listener.tls(tls)).await
}

#[tokio::test]
async fn b70_bare_connect_is_no_refused_handshake() {
    let log = Log::default();
    let writer = log.clone();
    let _guard = log_to(
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(writer).with_ansi(false).finish(),
    );
    let sites = [
        (site(builder(), |listener| listener).await, &b""[..]),
        (behind_proxy(builder()).await, b""),
        (behind_proxy(builder()).await, LOCAL),
        #[cfg(feature = "tls")]
        (secure_site().await, b""),
    ];
    for (site, header) in sites {
        check_port(&site, header).await;
        // The listener has accepted the connections before this one, and its close waits for all.
        let mut last = site.dial().await;
        last.send([0xff; 100]).await;
        last.rest().await;
        soon(site.listener.close(Close::going_away())).await;
        let events: Vec<_> = StreamExt::collect(site.events).await;
        assert_eq!(events.len(), 1, "only the last connection is refused: {events:?}");
    }
    let text = log.text();
    assert_eq!(text.matches("handshake refused").count(), 4, "{text}");
    assert!(!text.contains("closed"), "{text}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn b71_tls_follows_proxy_header() {
    use ocpp_rpc::tls::rustls::pki_types::ServerName;

    let authority = crate::tls::Authority::new();
    let tls = ocpp_rpc::tls::ServerTls::builder().certificate(authority.issue("127.0.0.1").certificate());
    let tls = tls.build().expect("valid settings");
    let mut site =
        site(builder(), |listener| listener.tls(tls).proxy_protocol(["127.0.0.1"]).expect("an address")).await;
    for header in [V1, V2] {
        let mut stream = soon(TcpStream::connect(site.listener.local_addr())).await.expect("a listener");
        stream.write_all(header).await.expect("open");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let stream = TlsConnector::from(crate::tls::trust(&authority)).connect(name, stream);
        let mut client = crate::tcp::Client::over(soon(stream).await.expect("a stream"));
        assert_eq!(client.ask(&head("/CP")).await.status, 101);
        let opened = soon(site.events.next()).await.expect("an event");
        assert_eq!(opened.remote_address.map(|address| address.port()), Some(4711), "{opened:?}");
        drop(client);
        closed(&mut site.events).await;
    }
    // A failed TLS handshake names the client, not the proxy.
    let mut client = site.dial().await;
    client.send([V1, &[0xff; 100]].concat()).await;
    let event = soon(site.events.next()).await.expect("an event");
    assert_eq!(event.remote_address.map(|address| address.to_string()).as_deref(), Some("203.0.113.9:4711"));
}
