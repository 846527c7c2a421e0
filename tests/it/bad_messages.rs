//! Messages that cannot be served, and invalid frames.

use futures_util::SinkExt;
use ocpp_rpc::{
    Error, ErrorCode, Options, RpcRouter,
    close::{CloseCause, CloseInfo},
    event::EventKind,
    message::MessageError,
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{SECOND, Station, connected, echo, server, server_with};

#[tokio::test]
async fn b38_malformed_message_gets_the_dialects_error_and_an_event() {
    const NO_RESPONSE: Option<(&str, &str)> = None;
    let formation = Some(("1", "FormationViolation"));
    let format = Some(("1", "FormatViolation"));
    let unknown = Some(("1", "MessageTypeNotSupported"));
    let rpc = |id| Some((id, "RpcFrameworkError"));
    // The id and code of the responses in 1.6, 2.0.1 and 2.1.
    for (text, fault, v16, v201, v21) in [
        ("hello", MessageError::NotJson, NO_RESPONSE, rpc("-1"), rpc("-1")),
        ("{}", MessageError::NotAnArray, NO_RESPONSE, rpc("-1"), rpc("-1")),
        (r#"["2","1","A",{}]"#, MessageError::NoMessageType, NO_RESPONSE, rpc("1"), rpc("1")),
        (r#"[2,5,"A",{}]"#, MessageError::NoMessageId, NO_RESPONSE, rpc("-1"), rpc("-1")),
        (r#"[2,"1"]"#, MessageError::NoAction, formation, rpc("1"), rpc("1")),
        (r#"[2,"1",7,{}]"#, MessageError::NoAction, formation, rpc("1"), rpc("1")),
        (r#"[2,"1","A",["m"]]"#, MessageError::PayloadNotAnObject, formation, format, format),
        (r#"[2,"1","A",{},{}]"#, MessageError::TooManyElements, formation, rpc("1"), rpc("1")),
        (r#"[9,"1","A",{}]"#, MessageError::UnknownMessageType, NO_RESPONSE, unknown, NO_RESPONSE),
        (r#"[3,"1",{"cut":"#, MessageError::NotJson, NO_RESPONSE, NO_RESPONSE, NO_RESPONSE),
    ] {
        for (protocol, expected) in [("ocpp1.6", v16), ("ocpp2.0.1", v201), ("ocpp2.1", v21)] {
            let server = server(RpcRouter::new().on("Echo", echo));
            let (mut station, _session) = connected(&server, protocol).await;
            let mut events = server.events();
            station.send(text).await;
            if let Some((id, code)) = expected {
                let response: Value = serde_json::from_str(&station.receive().await).expect("JSON");
                assert_eq!(response, json!([4, id, code, fault.to_string(), {}]), "{protocol} {text}");
            }
            assert_eq!(
                station.ask(r#"[2,"9","Echo",{}]"#).await,
                r#"[3,"9",{}]"#,
                "{protocol} {text}: the connection stays open"
            );
            let bad = events.expect(|event| match event.kind {
                EventKind::BadMessage { text, error, response, .. } => Some((text.to_string(), error, response)),
                _ => None,
            });
            let response = expected.map(|(_, code)| ErrorCode::new(code));
            assert_eq!(bad.await, (text.to_owned(), fault, response), "{protocol}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b40_response_to_unknown_id_is_an_event_and_no_bad_message() {
    for text in [r#"[3,"other",{}]"#, r#"[4,"other","X","",{}]"#, r#"[3,"",{}]"#, r#"[4,"-1","X","",{}]"#] {
        for protocol in ["ocpp1.6", "ocpp2.0.1", "ocpp2.1"] {
            let server = server_with(RpcRouter::new(), Options::server().max_bad_messages(0));
            let (mut station, session) = connected(&server, protocol).await;
            let mut events = server.events();
            for _ in 0..3 {
                station.send(text).await;
                let unmatched = events.expect(|event| match event.kind {
                    EventKind::UnmatchedResponse(id) => Some(id),
                    EventKind::BadMessage { error, .. } => panic!("{text}: {error}"),
                    _ => None,
                });
                let id = unmatched.await;
                assert!(text.contains(&format!("\"{id}\"")), "{text}: {id}");
            }
            station.silent().await;
            assert!(session.is_open());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b40_error_without_id_ends_the_only_call_in_flight() {
    let server = server_with(RpcRouter::new(), Options::server().call_concurrency(2));
    let (mut station, session) = connected(&server, "ocpp2.0.1").await;
    let call = |action: &'static str| tokio::spawn(session.call::<Value>(action, &()));
    let (one, two) = (call("One"), call("Two"));
    let (first, _) = station.receive_call().await;
    station.receive_call().await;
    let error = r#"[4,"-1","RpcFrameworkError","unreadable",{}]"#;
    // It could be for either call.
    station.send(error).await;
    station.send(format!(r#"[3,"{first}",{{}}]"#)).await;
    one.await.expect("no panic").expect("a result");
    station.send(error).await;
    let Error::Rejected(rejected) = two.await.expect("no panic").expect_err("rejected") else {
        panic!("another error")
    };
    assert_eq!(rejected.description(), "unreadable");
}

#[tokio::test(start_paused = true)]
async fn b39_late_responses_and_empty_messages_are_not_counted() {
    let server = server_with(RpcRouter::new(), Options::server().max_bad_messages(1));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let mut late = Vec::new();
    for _ in 0..10 {
        let call = tokio::spawn(session.call::<Value>("Slow", &()).timeout(SECOND));
        late.push(station.receive_call().await.0);
        assert!(call.await.expect("no panic").is_err());
    }
    for id in &late {
        station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
        station.send("").await;
    }
    station.send("bad").await;
    station.send("").await;
    station.silent().await;
    assert!(session.is_open(), "the limit allows one bad message");
    station.send("bad").await;
    assert_eq!(
        station.closed().await,
        (1002, "too many bad messages".to_owned()),
        "an empty message does not reset the count"
    );
}

#[tokio::test]
async fn b39_limit_of_zero_tolerates_no_bad_message() {
    let server = server_with(RpcRouter::new(), Options::server().max_bad_messages(0));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    station.send("bad").await;
    assert_eq!(station.closed().await.0, 1002);
}

#[tokio::test]
async fn b39_empty_message_is_ignored() {
    let server = server_with(RpcRouter::new().on("Echo", echo), Options::server().max_bad_messages(0));
    let mut station = Station::connect(&server, "CP-1", "ocpp2.0.1").await;
    station.send("").await;
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#);
}

#[tokio::test]
async fn b51_binary_or_too_large_message_closes_with_its_code() {
    let binary = Message::binary(vec![1]);
    let big = Message::text("x".repeat(2000));
    for (message, code, reason, cause) in [
        (binary, 1003, "OCPP-J is text", CloseCause::ProtocolError),
        (big, 1009, "message too large", CloseCause::TooLarge),
    ] {
        let server = server_with(RpcRouter::new(), Options::server().max_message_size(1000));
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        station.ws.send(message).await.expect("open");
        assert_eq!(station.closed().await, (code, reason.to_owned()));
        let closed = session.closed().await;
        assert_eq!((closed.code, closed.cause), (code, cause));
    }
}

/// Sends bytes and the end of the input. Returns code and reason of the server's close frame, and its report.
async fn close_after(bytes: &[u8]) -> (u16, String, CloseInfo) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = server(RpcRouter::new());
    let (station, session) = connected(&server, "ocpp1.6").await;
    let mut stream = station.ws.into_inner();
    // The server must not reset the connection because of what it leaves unread.
    stream.write_all(&[bytes, &[0; 200]].concat()).await.expect("open");
    stream.shutdown().await.expect("open");
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen).await.expect("a close without a reset");
    let start = seen.iter().position(|&byte| byte == 0x88).unwrap_or_else(|| panic!("{bytes:x?}: {seen:x?}"));
    let payload = &seen[start + 2..start + 2 + usize::from(seen[start + 1])];
    let (code, reason) =
        payload.split_first_chunk().map_or((1005, &[][..]), |(code, reason)| (u16::from_be_bytes(*code), reason));
    (code, String::from_utf8(reason.to_vec()).expect("UTF-8"), session.closed().await)
}

#[tokio::test]
async fn b51_invalid_frame_closes_with_its_code_and_reason() {
    for (frame, code, reason) in [
        (&[0x81, 0x01, b'x'][..], 1002_u16, "frame of a client without a mask"),
        (&[0xc1, 0x81, 0, 0, 0, 0, b'x'], 1002, "RSV1 set although no compression was agreed"),
        (&[0xa1, 0x81, 0, 0, 0, 0, b'x'], 1002, "RSV2 or RSV3 set although no extension defines them"),
        (&[0x83, 0x80, 0, 0, 0, 0], 1002, "reserved opcode 3"),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007, "text that is not UTF-8"),
        (&[0x89, 0xfe, 0x00, 0x7e, 0, 0, 0, 0], 1002, "control frame of more than 125 bytes"),
        (&[0x09, 0x80, 0, 0, 0, 0], 1002, "fragmented control frame"),
        (&[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], 1009, "message too large"),
        (
            &[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
            1002,
            "frame of 2^63 bytes or more",
        ),
        (&[0x80, 0x81, 0, 0, 0, 0, b'x'], 1002, "continuation frame without a message"),
        (&[0x01, 0x80, 0, 0, 0, 0, 0x81, 0x80, 0, 0, 0, 0], 1002, "new message before the last frame of another"),
    ] {
        let (sent_code, sent_reason, closed) = close_after(frame).await;
        assert_eq!((sent_code, &*sent_reason), (code, reason), "{frame:x?}");
        assert_eq!((closed.code, &*closed.reason), (code, reason));
        let cause = if code == 1009 { CloseCause::TooLarge } else { CloseCause::ProtocolError };
        assert_eq!(closed.cause, cause);
    }
}

#[tokio::test]
async fn b51_close_frame_is_reported_as_sent_and_answered_with_a_valid_code() {
    let close = |payload: &[u8]| [&[0x88, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat();
    let with_code = |code: u16, reason: &[u8]| close(&[&code.to_be_bytes(), reason].concat());
    let long = [0xff; 123];
    for (frame, code, reason, reply_code, reply_reason) in [
        (close(&[]), 1005, "", 1005, ""),
        (close(&[3]), 1005, "", 1002, ""),
        (with_code(1000, "tschüß".as_bytes()), 1000, "tschüß", 1000, "tschüß"),
        (with_code(4711, b""), 4711, "", 4711, ""),
        (with_code(1006, b"lost"), 1006, "lost", 1002, ""),
        (with_code(0, b""), 0, "", 1002, ""),
        (with_code(1000, b"caf\xe9"), 1000, "caf\u{fffd}", 1007, ""),
        (with_code(1007, &long), 1007, &*"\u{fffd}".repeat(123), 1007, ""),
    ] {
        let (sent_code, sent_reason, closed) = close_after(&frame).await;
        assert_eq!((sent_code, &*sent_reason), (reply_code, reply_reason), "{frame:x?}");
        assert_eq!((closed.code, &*closed.reason, closed.cause), (code, reason, CloseCause::Remote), "{frame:x?}");
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
    assert_eq!(session.closed().await.cause, CloseCause::ProtocolError);
}

#[tokio::test]
async fn result_that_the_peer_cannot_read_is_an_event() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (mut station, _session) = connected(&server, "ocpp2.1").await;
    let mut events = server.events();
    station.ask(r#"[2,"1","Echo",{}]"#).await;
    station.send(r#"[5,"1","FormatViolation","no status",{}]"#).await;
    let reported = events.expect(|event| match event.kind {
        EventKind::CallResultError { id, error, .. } => Some((id.to_string(), error.code().clone())),
        _ => None,
    });
    assert_eq!(reported.await, ("1".to_owned(), ErrorCode::FORMAT_VIOLATION));
}
