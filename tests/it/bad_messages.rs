//! Messages that cannot be served, and frames that are none.

use futures_util::SinkExt;
use ocpp_rpc::{Cause, ErrorCode, EventKind, Fault, Options, RpcRouter};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Station, connected, echo, server, server_with};

#[tokio::test]
async fn b38_a_message_that_is_no_ocpp_gets_the_dialects_answer_and_an_event() {
    let rpc = |id| Some(format!(r#"[4,"{id}","RpcFrameworkError""#));
    for (text, fault, v16, v201) in [
        ("hello", Fault::NotJson, None, rpc("-1")),
        ("{}", Fault::NotAnArray, None, rpc("-1")),
        (r#"[2,"1"]"#, Fault::NoAction, Some(r#"[4,"1","FormationViolation""#.to_owned()), rpc("1")),
        (r#"[2,5,"A",{}]"#, Fault::NoMessageId, None, rpc("-1")),
        (r#"[9,"1","A",{}]"#, Fault::UnknownMessageType, None, Some(r#"[4,"1","MessageTypeNotSupported""#.to_owned())),
        (r#"[3,"nobody",{}]"#, Fault::UnknownMessageId, None, None),
        (r#"[4,"","X","",{}]"#, Fault::UnknownMessageId, None, None),
        (r#"[3,"1",{"cut":"#, Fault::NotJson, None, None),
    ] {
        for (protocol, expected) in [("ocpp1.6", v16), ("ocpp2.0.1", v201)] {
            let server = server(RpcRouter::new().on("Echo", echo));
            let (mut station, _session) = connected(&server, protocol).await;
            let mut events = server.events();
            station.send(text).await;
            if let Some(expected) = &expected {
                let answer = station.receive().await;
                assert!(answer.starts_with(expected), "{protocol} {text}: {answer}");
            }
            assert_eq!(station.ask(r#"[2,"9","Echo",{}]"#).await, r#"[3,"9",{}]"#, "{protocol} {text}: it lives");
            loop {
                if let EventKind::BadMessage { text: seen, fault: why, answer, .. } =
                    events.next().await.expect("more").kind
                {
                    assert_eq!((seen.as_str(), why, answer.is_some()), (text, fault, expected.is_some()));
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn b39_an_empty_message_is_nothing() {
    let server = server_with(RpcRouter::new().on("Echo", echo), Options::server().max_bad_messages(0));
    let mut station = Station::connect(&server, "CP-1", "ocpp2.0.1").await;
    station.send("").await;
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#);
}

#[tokio::test]
async fn b51_what_breaks_the_websocket_is_told_to_the_peer() {
    let binary = Message::binary(vec![1]);
    let big = Message::text("x".repeat(2000));
    for (message, code, reason, cause) in
        [(binary, 1003, "OCPP-J is text", Cause::ProtocolError), (big, 1009, "message too large", Cause::TooLarge)]
    {
        let server = server_with(RpcRouter::new(), Options::server().max_message_size(1000));
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        station.ws.send(message).await.expect("open");
        assert_eq!(station.closed().await, (code, reason.to_owned()));
        let closed = session.closed().await;
        assert_eq!((closed.code, closed.cause), (code, cause));
    }
}

#[tokio::test]
async fn b51_broken_frames_are_told_to_the_peer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for (frame, code) in [
        (&[0x81, 0x01, b'x'][..], 1002_u16),           // not masked
        (&[0xc1, 0x81, 0, 0, 0, 0, b'x'], 1002),       // a reserved bit
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),       // not UTF-8
        (&[0x89, 0xfe, 0x00, 0x7e, 0, 0, 0, 0], 1002), // a ping of 126 bytes
        (&[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], 1009), // 2^63 bytes
        (&[0x80, 0x81, 0, 0, 0, 0, b'x'], 1002),       // a continuation of nothing
    ] {
        let server = server(RpcRouter::new());
        let (station, session) = connected(&server, "ocpp1.6").await;
        let mut stream = station.ws.into_inner();
        let padded = [frame, &[0; 200][..]].concat();
        stream.write_all(&padded).await.expect("open");
        stream.shutdown().await.expect("open");
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).await.expect("an end without a reset");
        let start = seen.iter().position(|&byte| byte == 0x88).unwrap_or_else(|| panic!("{frame:x?}: {seen:x?}"));
        assert_eq!(u16::from_be_bytes([seen[start + 2], seen[start + 3]]), code, "{frame:x?}");
        assert_eq!(session.closed().await.code, code);
    }
}

#[tokio::test]
async fn b39_too_many_bad_messages_in_a_row_close_the_connection() {
    let server = server_with(RpcRouter::new().on("Echo", echo), Options::server().max_bad_messages(2));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    for text in ["bad", "bad", r#"[2,"1","Echo",{}]"#, "bad", "bad", "bad"] {
        station.send(text).await;
    }
    assert_eq!(station.closed().await, (1002, "too many bad messages".to_owned()));
    assert_eq!(session.closed().await.cause, Cause::ProtocolError);
}

#[tokio::test]
async fn a_result_that_the_peer_cannot_read_is_an_event() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (mut station, _session) = connected(&server, "ocpp2.1").await;
    let mut events = server.events();
    station.ask(r#"[2,"1","Echo",{}]"#).await;
    station.send(r#"[5,"1","FormatViolation","no status",{}]"#).await;
    loop {
        if let EventKind::CallResultError { id, error, .. } = events.next().await.expect("more").kind {
            assert_eq!((id.as_str(), error.code()), ("1", &ErrorCode::FORMAT_VIOLATION));
            return;
        }
    }
}
