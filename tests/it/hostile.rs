//! Hostile clients over real sockets. The server refuses or disconnects each of them, and still serves a station.

use std::{convert::Infallible, sync::Arc, time::Duration};

use ocpp_rpc::{
    Accept, Handshake, Options, RpcRouter, RpcServer, close::CloseCause, event::EventKind, server::RpcServerBuilder,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::interval,
};

use crate::{
    support::{closed, opened},
    tcp::{Client, Site, frame, head, soon, with},
};

const PING: &str = r#"[2,"1","Ping",{}]"#;

fn builder() -> RpcServerBuilder {
    async fn ping() -> Result<(), Infallible> {
        Ok(())
    }
    RpcServer::builder(RpcRouter::new().on("Ping", ping))
}

/// Asserts that the server still serves a station.
async fn serves(site: &Site) {
    let mut station = site.enter(&head("/good")).await;
    assert_eq!(soon(station.ask(PING)).await, r#"[3,"1",{}]"#);
}

/// Sends one byte at a time until the server closes the connection, and returns its response.
pub async fn drip(mut stream: TcpStream, bytes: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let (mut reader, mut writer) = stream.split();
    let writing = async {
        let mut pace = interval(Duration::from_millis(10));
        for byte in bytes {
            pace.tick().await;
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
        }
        std::future::pending().await
    };
    let mut seen = Vec::new();
    let reading = reader.read_to_end(&mut seen);
    soon(async {
        tokio::select! {
            () = writing => {}
            // A reset ends the connection as well.
            _ = reading => {}
        }
    })
    .await;
    seen
}

// Before the handshake.

#[tokio::test]
async fn b17_head_sent_byte_by_byte_is_refused_at_deadline() {
    let mut site = Site::of(builder().handshake_timeout(Duration::from_millis(300))).await;
    let stream = TcpStream::connect(site.listener.local_addr()).await.expect("a listener");
    let endless = with(&head("/CP"), "X-More: ").trim_end().to_owned().into_bytes();
    let endless = endless.into_iter().chain(std::iter::repeat(b'x'));
    let (seen, ()) = tokio::join!(drip(stream, endless), serves(&site));
    assert!(seen.is_empty() || seen.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&seen));
    let (identity, _, reason) = site.refused().await;
    assert!(identity.is_none() && reason.starts_with("no request received: "), "{reason}");
}

#[tokio::test]
async fn b17_oversized_or_invalid_head_is_reported() {
    let mut site = Site::of(builder()).await;
    for (head, status) in
        [(with(&head("/CP"), &format!("X: {}", "x".repeat(70_000))), 431), ("\u{1}\r\n\r\n".to_owned(), 400)]
    {
        assert_eq!(site.ask(&head).await.status, status);
        let (_, _, reason) = site.refused().await;
        assert!(reason.starts_with("no request received: "), "{reason}");
    }
}

#[tokio::test]
async fn requests_with_smuggling_headers_are_refused_and_open_nothing() {
    let mut site = Site::of(builder()).await;
    let smuggled = head("/smuggled");
    for line in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: 5",
        "Content-Length: +0",
        "Content-Length: -1",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: xchunked",
        "Content-Length : 0",
        "X: y\r\n folded: z",
        "X: a\0b",
        ": no name",
    ] {
        let mut client = site.dial().await;
        client.send([with(&head("/CP"), line), smuggled.clone()].concat()).await;
        let response = client.answer().await;
        assert_eq!(response.status, 400, "{line}");
        // Later responses on this connection must not be upgrades.
        let rest = client.rest().await;
        assert!(!String::from_utf8_lossy(&rest).contains("101"), "{line}: {}", String::from_utf8_lossy(&rest));
        assert!(site.server.sessions().is_empty(), "{line}");
    }
    serves(&site).await;
    assert_eq!(&*opened(&mut site.events).await.identity(), "good");
}

#[tokio::test]
async fn handshake_with_content_length_zero_is_accepted() {
    let site = Site::of(builder()).await;
    let mut station = site.enter(&with(&head("/CP"), "Content-Length: 0")).await;
    assert_eq!(soon(station.ask(PING)).await, r#"[3,"1",{}]"#);
}

#[tokio::test]
async fn b16_identities_are_accepted_unchanged_or_refused() {
    let site = Site::of(builder()).await;
    let long = "x".repeat(10_000);
    let escaped = "%C3%A9".repeat(5_000);
    for (path, identity) in [
        ("/ocpp/a%2Fb", Some("a/b")),
        ("/ocpp/%2F", Some("/")),
        ("/ocpp/%2e%2e", Some("..")),
        ("/ocpp/..", Some("..")),
        ("/ocpp/../../etc/passwd", Some("passwd")),
        ("/ocpp/%F0%9F%94%8C", Some("🔌")),
        ("/ocpp/%E2%80%AE", Some("\u{202e}")),
        ("/ocpp/;DROP%20TABLE%20stations", Some(";DROP TABLE stations")),
        ("/ocpp/%00", None),
        ("/ocpp/a%0d%0ab", None),
        ("/ocpp/%E0%A4%A", None),
        ("/ocpp/%C0%AF", None),
        ("/ocpp/%ED%A0%80", None),
        (&*format!("/ocpp/{long}"), None),
        (&*format!("/ocpp/{escaped}"), None),
    ] {
        let mut client = site.dial().await;
        let response = client.ask(&head(path)).await;
        match identity {
            Some(identity) => {
                let mut station = client.upgraded(&response).await;
                soon(station.ask(PING)).await;
                assert_eq!(site.server.session(identity).expect(path).identity().as_ref(), identity);
            }
            None => assert_eq!(response.status, 404, "{path}"),
        }
    }
    assert_eq!(site.ask(&head(&format!("/{}", "x".repeat(70_000)))).await.status, 431);
}

#[tokio::test]
async fn b13_late_authenticator_leaves_no_session_of_gone_client() {
    let (entered, mut entering) = mpsc::unbounded_channel();
    let open = Arc::new(Semaphore::new(0));
    let authenticator = {
        let open = open.clone();
        move |_: Handshake| {
            let (entered, open) = (entered.clone(), open.clone());
            async move {
                entered.send(()).expect("a test");
                open.acquire().await.expect("an open gate").forget();
                Ok(Accept::new())
            }
        }
    };
    let mut site = Site::of(builder().auth(authenticator)).await;
    let mut client = site.dial().await;
    // With frames behind the head, the server does not read on and cannot detect the disconnect.
    client.send([head("/CP").into_bytes(), frame(PING)].concat()).await;
    soon(entering.recv()).await.expect("entered");
    drop(client);
    open.add_permits(1);
    let (mut opened, mut ended) = (0, 0);
    while opened == 0 && ended == 0 || ended < opened {
        match soon(site.events.next()).await.expect("an event").kind {
            EventKind::Opened { .. } => opened += 1,
            EventKind::Closed(_) | EventKind::HandshakeRefused { .. } => ended += 1,
            _ => {}
        }
    }
    assert!(site.server.sessions().is_empty());
    open.add_permits(1);
    serves(&site).await;
}

// After the handshake.

/// A frame as a client sends it, with a mask of zeros.
fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        long => frame.extend([0x80 | 126].into_iter().chain((long as u16).to_be_bytes())),
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The code of the close frame in the bytes from a server.
fn close_code(seen: &[u8]) -> Option<u16> {
    let mut rest = seen;
    while let [first, length, payload @ ..] = rest {
        let length = usize::from(*length);
        match (first, payload) {
            (0x88, [high, low, ..]) => return Some(u16::from_be_bytes([*high, *low])),
            _ => rest = payload.get(length..)?,
        }
    }
    None
}

#[tokio::test]
async fn b51_invalid_frames_end_session_with_code() {
    let mut site = Site::of(builder().options(Options::server().max_message_size(100_000))).await;
    for (bytes, code, cause) in [
        (vec![0x81, 0x02, b'h', b'i'], 1002, CloseCause::ProtocolError), // not masked
        (raw(0xc1, b"x"), 1002, CloseCause::ProtocolError),              // the compression bit
        (raw(0xa1, b"x"), 1002, CloseCause::ProtocolError),
        (raw(0x91, b"x"), 1002, CloseCause::ProtocolError),
        (raw(0x83, b"x"), 1002, CloseCause::ProtocolError), // a reserved opcode
        (raw(0x8b, b"x"), 1002, CloseCause::ProtocolError),
        (raw(0x81, &[0xc3]), 1007, CloseCause::ProtocolError),
        (raw(0x81, &[0xed, 0xa0, 0x80]), 1007, CloseCause::ProtocolError), // half a surrogate
        (raw(0x89, &[0; 126]), 1002, CloseCause::ProtocolError),
        (raw(0x8a, &[0; 1000]), 1002, CloseCause::ProtocolError),
        (raw(0x88, &[0; 126]), 1002, CloseCause::ProtocolError),
        (raw(0x09, b"x"), 1002, CloseCause::ProtocolError), // a fragmented ping
        (raw(0x80, b"x"), 1002, CloseCause::ProtocolError), // a continuation without a start
        ([raw(0x01, b"["), raw(0x81, b"]")].concat(), 1002, CloseCause::ProtocolError), // an interleaved message
        (vec![0x81, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009, CloseCause::TooLarge), // 2^63 bytes
        ([raw(0x01, &[b'x'; 60_000]), raw(0x80, &[b'x'; 60_000])].concat(), 1009, CloseCause::TooLarge),
    ] {
        let station = site.enter(&head("/bad")).await;
        let shown = format!("{:x?}", &bytes[..bytes.len().min(16)]);
        let mut stream = station.ws.into_inner();
        stream.write_all(&bytes).await.expect("open");
        stream.shutdown().await.expect("open");
        let mut seen = Vec::new();
        soon(stream.read_to_end(&mut seen)).await.expect("the stream must end without a reset");
        assert_eq!(close_code(&seen), Some(code), "{shown}: {seen:x?}");
        let closed = closed(&mut site.events).await;
        assert_eq!((closed.code, closed.cause), (code, cause), "{shown}");
    }
    serves(&site).await;
}

#[tokio::test]
async fn message_of_a_million_fragments_is_read() {
    // The raw reads below do not expect pings.
    let site = Site::of(builder().options(Options::server().ping_interval(None))).await;
    let station = site.enter(&head("/CP")).await;
    let stream = station.ws.into_inner();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let fragments = tokio::spawn(async move {
        let (first, rest) = PING.split_at(1);
        let mut bytes = raw(0x01, first.as_bytes());
        // Most fragments are empty, so the limit on the message size does not apply.
        let empty = raw(0x00, b"").repeat(1000);
        for _ in 0..1000 {
            bytes.extend(&empty);
            writer.write_all(&bytes).await.expect("open");
            bytes.clear();
        }
        writer.write_all(&raw(0x80, rest.as_bytes())).await.expect("open");
        writer
    });
    let mut response = vec![0; 2 + r#"[3,"1",{}]"#.len()];
    soon(reader.read_exact(&mut response)).await.expect("a response");
    assert_eq!(&response[2..], br#"[3,"1",{}]"#);
    soon(fragments).await.expect("written");
    serves(&site).await;
}

#[tokio::test]
async fn endless_message_is_too_large_before_it_is_buffered() {
    let site = Site::of(builder().options(Options::server().max_message_size(10_000))).await;
    let station = site.enter(&head("/CP")).await;
    let (mut reader, mut writer) = tokio::io::split(station.ws.into_inner());
    let endless = tokio::spawn(async move {
        let mut bytes = raw(0x01, b"x");
        // The write fails once the server has closed the connection.
        while writer.write_all(&bytes).await.is_ok() {
            bytes = raw(0x00, b"x").repeat(100);
        }
    });
    let mut seen = Vec::new();
    let _ = soon(reader.read_to_end(&mut seen)).await;
    assert_eq!(close_code(&seen), Some(1009));
    soon(endless).await.expect("no panic");
}

#[tokio::test]
async fn silent_connections_end_at_deadline_and_delay_no_station() {
    let site = Site::of(builder().handshake_timeout(Duration::from_millis(500))).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(Client::dial(site.listener.local_addr()).await);
    }
    serves(&site).await;
    for client in silent {
        assert!(client.rest().await.is_empty());
    }
}
