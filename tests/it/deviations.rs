//! Deviations of real charging stations, with presets that tolerate them and presets that do not.

use futures_util::SinkExt;
use ocpp_rpc::{
    CallError, Error, ErrorCode, Options, Payload, RpcRouter, RpcServer, Session,
    Tolerance::{self, Lenient, Permissive, Strict},
    close::CloseCause,
    event::{EventKind, Events},
    message::{Deviation, MessageError},
};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    support::{SECOND, Station, connected, echo, server_with},
    tcp,
};

async fn tolerating(tolerance: Tolerance, protocol: &str) -> (RpcServer, Station, Session, Events) {
    let options = Options::server().tolerance(tolerance).call_timeout(10 * SECOND);
    let server = server_with(RpcRouter::new().on("Echo", echo), options);
    let (station, session) = connected(&server, protocol).await;
    let events = server.events();
    (server, station, session, events)
}

/// Closes the server, and returns the deviations and faults that it has reported.
async fn close_and_collect(server: RpcServer, mut events: Events) -> (Vec<Deviation>, Vec<MessageError>) {
    server.close(ocpp_rpc::Close::forced()).await;
    let (mut deviations, mut faults) = (Vec::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event.kind {
            EventKind::Deviation { deviation, .. } => deviations.push(deviation),
            EventKind::BadMessage { error, .. } => faults.push(error),
            _ => {}
        }
    }
    (deviations, faults)
}

#[tokio::test(start_paused = true)]
async fn b38_deviating_calls_are_served_if_preset_tolerates_them() {
    use Deviation::*;
    let served = |id: &str, payload: &str| Some(format!(r#"[3,{id},{payload}]"#));
    let (one, escaped) = (served("\"1\"", "{}"), served("\"1\"", r#"{"s":"a\u0000b"}"#));
    // The message, the least tolerant preset that serves it, the response and the deviation.
    for (text, from, response, deviation) in [
        ("\u{feff}[2,\"1\",\"Echo\",{}]", Lenient, &one, ByteOrderMark),
        ("[2,\"1\",\"Echo\",null]", Lenient, &one, MissingPayload),
        ("[2,\"1\",\"Echo\"]", Lenient, &one, MissingPayload),
        ("[2,17,\"Echo\",{}]", Permissive, &served("17", "{}"), NumericMessageId),
        ("[2,1.50,\"Echo\",{}]", Permissive, &served("1.50", "{}"), NumericMessageId),
        ("[2,\"1\",\"Echo\",{\"s\":\"a\0b\"}]", Permissive, &escaped, ControlCharacters),
        ("[2,\"1\",\"Echo\",{}]\0\0", Permissive, &one, ControlCharacters),
    ] {
        for tolerance in [Strict, Lenient, Permissive] {
            let (server, mut station, _session, events) = tolerating(tolerance, "ocpp1.6").await;
            station.send(text).await;
            station.send(r#"[2,"next","Echo",{}]"#).await;
            let first = station.receive().await;
            let (deviations, faults) = close_and_collect(server, events).await;
            if tolerance >= from {
                assert_eq!(Some(&first), response.as_ref(), "{text:?}");
                assert_eq!((&deviations[..], &faults[..]), (&[deviation][..], &[][..]), "{text:?} {tolerance:?}");
            } else {
                let is_refused = first.starts_with(r#"[4,"1","FormationViolation","#) || first == r#"[3,"next",{}]"#;
                assert!(is_refused, "{text:?}: {first}");
                assert_eq!((deviations.len(), faults.len()), (0, 1), "{text:?} {tolerance:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b67_repaired_calls_are_served_if_permissive() {
    use Deviation::*;
    // The message, the payload that the handler gets, and the deviation.
    for (text, payload, deviation) in [
        (r#"[2,"1","Echo",{"a":1},]"#, r#"{"a":1}"#, StrayComma),
        (r#"[2,"1","Echo",{"a":[1,,2,],}]"#, r#"{"a":[1,2]}"#, StrayComma),
        (r#"[,2,"1","Echo",{"a":1}]"#, r#"{"a":1}"#, StrayComma),
        (r#"[2,"1","Echo",{"a":NaN,"b":[-Infinity]}]"#, r#"{"a":null,"b":[null]}"#, NotANumber),
        (r#"[2,"1","Echo",{"a":007,"b":+5}]"#, r#"{"a":7,"b":5}"#, MalformedNumber),
        (r#"[2,"1","Echo",{"a":.5,"b":-5.}]"#, r#"{"a":0.5,"b":-5}"#, MalformedNumber),
        (r#"[2,"1","Echo",{"a":1}]Status","old":1}]"#, r#"{"a":1}"#, TrailingData),
        (r#"[2,"1","Echo",{"a":1}][2,"2","Echo",{"a":2}]"#, r#"{"a":1}"#, TrailingData),
    ] {
        for (tolerance, protocol) in
            [(Strict, "ocpp1.6"), (Lenient, "ocpp1.6"), (Lenient, "ocpp2.0.1"), (Permissive, "ocpp1.6")]
        {
            let (server, mut station, _session, mut events) = tolerating(tolerance, protocol).await;
            let response = station.ask(text).await;
            station.silent().await;
            if tolerance == Permissive {
                assert_eq!(response, format!(r#"[3,"1",{payload}]"#), "{text}");
                let reported = events.expect(|event| match event.kind {
                    EventKind::Deviation { deviation, text, .. } => {
                        Some((deviation, text.map(|text| text.to_string())))
                    }
                    _ => None,
                });
                assert_eq!(reported.await, (deviation, Some(text.to_owned())));
            } else {
                let code = if protocol == "ocpp1.6" { "FormationViolation" } else { "RpcFrameworkError" };
                assert!(response.starts_with(&format!(r#"[4,"1","{code}","#)), "{text}: {response}");
            }
            let (deviations, faults) = close_and_collect(server, events).await;
            let fault = if tolerance == Permissive { vec![] } else { vec![MessageError::NotJson] };
            assert_eq!((deviations, faults), (vec![], fault), "{text} {tolerance:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b67_repaired_responses_end_their_call_if_permissive() {
    for (response, deviation) in [
        (r#"[3,"ID",{"a":null},]"#, Deviation::StrayComma),
        (r#"[3,"ID",{"a":NaN}]"#, Deviation::NotANumber),
        (r#"[03,"ID",{"a":null}]"#, Deviation::MalformedNumber),
        (r#"[3,"ID",{"a":null}]"}]"#, Deviation::TrailingData),
    ] {
        let (result, deviations, faults) = call_with_response(Permissive, response).await;
        assert_eq!(result.expect("a result"), serde_json::json!({"a": null}), "{response}");
        assert_eq!((deviations, faults), (vec![deviation], vec![]), "{response}");
        let (failed, deviations, faults) = call_with_response(Lenient, response).await;
        assert!(failed.expect_err("no response").is_timeout(), "{response}");
        assert_eq!((deviations, faults), (vec![], vec![MessageError::NotJson]), "{response}");
    }
}

#[tokio::test(start_paused = true)]
async fn b67_unreadable_call_with_a_readable_id_is_rejected() {
    let format = Some("FormationViolation");
    // The message, and the code for 1.6 and 2.0.1 if the preset is lenient and if it is permissive.
    for (text, id, lenient, permissive) in [
        (r#"[2,"1","Echo",{"cut":"#, "\"1\"", format, format),
        (r#"[,2,,"1","Echo",{"cut":"#, "\"1\"", format, format),
        ("\0[2,\"1\",'Echo',{}]", "\"1\"", format, format),
        ("[2,\"a\0\",\"Echo\",{a:1}]", "\"a\\u0000\"", format, format),
        (r#"[2,007,"Echo",{"cut":"#, "7", None, format),
        (r#"[2,x,"Echo",{}]"#, "", None, None),
    ] {
        for (tolerance, code) in [(Lenient, lenient), (Permissive, permissive)] {
            for protocol in ["ocpp1.6", "ocpp2.0.1"] {
                let (_server, mut station, _session, _events) = tolerating(tolerance, protocol).await;
                station.send(text).await;
                let expected = match (code, protocol) {
                    (Some(code), "ocpp1.6") => Some(format!(r#"[4,{id},"{code}","#)),
                    (Some(_), _) => Some(format!(r#"[4,{id},"RpcFrameworkError","#)),
                    (None, "ocpp1.6") => None,
                    (None, _) => Some(r#"[4,"-1","RpcFrameworkError","#.to_owned()),
                };
                if let Some(expected) = expected {
                    let response = station.receive().await;
                    assert!(response.starts_with(&expected), "{text:?} {tolerance:?} {protocol}: {response}");
                }
                station.silent().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b38_white_space_is_not_a_deviation() {
    let (server, mut station, _session, events) = tolerating(Strict, "ocpp1.6").await;
    let text = "\r\n [ 2 ,\t\"1\" , \"Echo\" ,\r\n{ \"a\" : 1 } ]\r\n";
    assert_eq!(station.ask(text).await, r#"[3,"1",{"a":1}]"#);
    assert_eq!(close_and_collect(server, events).await, (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn b39_empty_message_is_tolerated_unless_strict() {
    for (tolerance, deviations, faults) in
        [(Strict, vec![], vec![MessageError::NotJson]), (Lenient, vec![Deviation::EmptyMessage], vec![])]
    {
        let (server, mut station, _session, events) = tolerating(tolerance, "ocpp1.6").await;
        station.send("").await;
        assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#);
        assert_eq!(close_and_collect(server, events).await, (deviations, faults));
    }
}

#[tokio::test(start_paused = true)]
async fn b35_numeric_id_in_flight_is_duplicate_but_its_text_is_not() {
    let (router, gate) = crate::support::gated();
    let server = server_with(router, Options::server().tolerance(Permissive));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    station.send(r#"[2,7,"Wait",{}]"#).await;
    let response = station.ask(r#"[2,7,"Echo",{}]"#).await;
    assert!(response.starts_with(r#"[4,7,"GenericError","#), "{response}");
    assert_eq!(station.ask(r#"[2,"7","Echo",{}]"#).await, r#"[3,"7",{}]"#);
    gate.add_permits(1);
    assert_eq!(station.receive().await, "[3,7,{}]");
}

#[tokio::test(start_paused = true)]
async fn b38_numeric_id_of_invalid_call_is_echoed_only_if_permissive() {
    for (tolerance, protocol, response) in [
        (Permissive, "ocpp1.6", Some(r#"[4,5,"FormationViolation","#)),
        (Permissive, "ocpp2.0.1", Some(r#"[4,5,"FormatViolation","#)),
        (Lenient, "ocpp1.6", None),
        (Lenient, "ocpp2.0.1", Some(r#"[4,"-1","RpcFrameworkError","#)),
    ] {
        let (_server, mut station, _session, _events) = tolerating(tolerance, protocol).await;
        station.send(r#"[2,5,"Echo",[]]"#).await;
        if let Some(response) = response {
            let seen = station.receive().await;
            assert!(seen.starts_with(response), "{protocol} {tolerance:?}: {seen}");
        }
        station.silent().await;
    }
}

/// Makes a call that the station responds to with this text, in which `ID` is replaced by the id of the call.
async fn call_with_response(
    tolerance: Tolerance,
    response: &str,
) -> (Result<Value, Error>, Vec<Deviation>, Vec<MessageError>) {
    let (server, mut station, session, events) = tolerating(tolerance, "ocpp1.6").await;
    let call = tokio::spawn(session.call::<Value>("GetConfiguration", &()));
    let (id, _) = station.receive_call().await;
    station.send(response.replace("ID", &id)).await;
    let result = call.await.expect("no panic");
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#, "the connection must stay open");
    let (deviations, faults) = close_and_collect(server, events).await;
    (result, deviations, faults)
}

#[tokio::test(start_paused = true)]
async fn b26_deviating_responses_end_their_call_if_tolerated() {
    use Deviation::*;
    let seen = |error: &CallError| {
        (error.code().to_string(), error.description().to_owned(), error.details().map(|d| d.as_str().to_owned()))
    };
    // Missing elements, or a string as details.
    for (response, description, details, deviation) in [
        (r#"[4,"ID","NotSupported","no"]"#, "no", None, IncompleteError),
        (r#"[4,"ID","NotSupported"]"#, "", None, IncompleteError),
        (r#"[4,"ID","NotSupported","no","why"]"#, "no", Some(r#""why""#.to_owned()), DetailsNotAnObject),
    ] {
        let (Err(Error::Rejected(error)), deviations, faults) = call_with_response(Lenient, response).await else {
            panic!("{response}")
        };
        assert_eq!(seen(&error), ("NotSupported".to_owned(), description.to_owned(), details), "{response}");
        assert_eq!((deviations, faults), (vec![deviation], vec![]), "{response}");
        let (failed, deviations, faults) = call_with_response(Strict, response).await;
        assert!(failed.expect_err("no response").is_timeout(), "{response}");
        assert_eq!((deviations, faults), (vec![], vec![MessageError::Deviation(deviation)]), "{response}");
    }
    // Truncated JSON, and quotes that are not escaped.
    for response in [r#"[3,"ID",{"configurationKey":[]"#, r#"[4,"ID","NotSupported","say "no"",{}]"#] {
        let (failed, deviations, faults) = call_with_response(Lenient, response).await;
        assert!(failed.expect_err("no response").is_timeout(), "{response}");
        assert_eq!((deviations, faults), (vec![], vec![MessageError::NotJson]), "{response}");
        let (failed, deviations, faults) = call_with_response(Permissive, response).await;
        match failed.expect_err("no response") {
            Error::Rejected(error) => assert_eq!(*error.code(), ErrorCode::NOT_SUPPORTED),
            Error::Decode(_) => assert!(response.starts_with("[3"), "{response}"),
            other => panic!("{response}: {other}"),
        }
        assert_eq!((deviations, faults), (vec![UnreadableResponse], vec![]), "{response}");
    }
}

#[tokio::test(start_paused = true)]
async fn b40_responses_to_no_call_are_events_and_get_no_response() {
    for protocol in ["ocpp1.6", "ocpp2.0.1", "ocpp2.1"] {
        let (server, mut station, _session, events) = tolerating(Permissive, protocol).await;
        assert_eq!(station.ask(r#"[2,"theirs","Echo",{}]"#).await, r#"[3,"theirs",{}]"#);
        // The third one is a CALLERROR for the server's own CALLRESULT. The last two are not JSON.
        let responses = [
            r#"[3,"",{}]"#,
            r#"[4,"","InternalError","",{}]"#,
            r#"[4,"theirs","FormationViolation","",{}]"#,
            r#"[3,"unknown",{"cut":["#,
            r#"[4,"unknown","X","say "no"",{}]"#,
        ];
        for response in responses {
            station.send(response).await;
        }
        assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#);
        let (deviations, faults) = close_and_collect(server, events).await;
        assert_eq!((deviations, faults), (vec![], vec![MessageError::NotJson, MessageError::NotJson]));
    }
}

#[tokio::test(start_paused = true)]
async fn b51_binary_frames_end_connection_unless_permissive() {
    for tolerance in [Strict, Lenient, Permissive] {
        let (server, mut station, session, events) = tolerating(tolerance, "ocpp1.6").await;
        station.ws.send(Message::binary(&br#"[2,"1","Echo",{}]"#[..])).await.expect("open");
        if tolerance == Permissive {
            assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
            station.ws.send(Message::binary(&b"\xff\xfe"[..])).await.expect("open");
        }
        assert_eq!(station.closed().await, (1003, "OCPP-J is text".to_owned()));
        assert_eq!(session.closed().await.cause, CloseCause::ProtocolError);
        let (deviations, _) = close_and_collect(server, events).await;
        assert_eq!(deviations, if tolerance == Permissive { &[Deviation::BinaryMessage][..] } else { &[] });
    }
}

#[tokio::test]
async fn b38_unmasked_and_non_utf8_frames_are_read_if_permissive() {
    let unmasked = [&[0x81, 17][..], br#"[2,"1","Echo",{}]"#].concat();
    let mut not_utf8 = tcp::frame(r#"[2,"1","Echo",{"s":"?"}]"#);
    let at = not_utf8.len() - 4;
    not_utf8[at] ^= b'?' ^ 0xe9;
    for (frame, response, deviation, close) in [
        (unmasked, r#"[3,"1",{}]"#, Deviation::UnmaskedFrame, (1002, "frame of a client without a mask")),
        (not_utf8, "[3,\"1\",{\"s\":\"\u{fffd}\"}]", Deviation::InvalidUtf8, (1007, "text that is not UTF-8")),
    ] {
        for tolerance in [Strict, Lenient, Permissive] {
            let options = Options::server().tolerance(tolerance);
            let builder = RpcServer::builder(RpcRouter::new().on("Echo", echo)).options(options);
            let site = tcp::Site::of(builder).await;
            let mut client = site.dial().await;
            let handshake = client.ask(&tcp::head("/CP-1")).await;
            client.send(&frame).await;
            let mut station = client.upgraded(&handshake).await;
            if tolerance == Permissive {
                assert_eq!(tcp::soon(station.receive()).await, response);
            } else {
                let closed = tcp::soon(station.closed()).await;
                assert_eq!(closed, (close.0, close.1.to_owned()), "{tolerance:?}");
            }
            let (deviations, _) = close_and_collect(site.server, site.events).await;
            assert_eq!(deviations, if tolerance == Permissive { vec![deviation] } else { vec![] });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b20_station_with_changed_protocol_gets_matching_dialect() {
    let server = server_with(RpcRouter::new(), Options::server());
    for (protocol, spelling) in [("ocpp1.6", "FormationViolation"), ("ocpp2.0.1", "FormatViolation")] {
        let mut station = Station::connect(&server, "CP-1", protocol).await;
        assert_eq!(station.protocol.as_deref(), Some(protocol));
        let response = station.ask(r#"[2,"1","A",["m"]]"#).await;
        assert!(response.starts_with(&format!(r#"[4,"1","{spelling}","#)), "{response}");
        assert_eq!(server.session("CP-1").expect("there").protocol().as_deref(), Some(protocol));
    }
}

#[tokio::test(start_paused = true)]
async fn b22_large_result_is_read_unless_over_set_message_limit() {
    let big = format!(r#"{{"configurationKey":"{}"}}"#, "x".repeat(20_000));
    let (result, ..) = call_with_response(Strict, &format!(r#"[3,"ID",{big}]"#)).await;
    assert_eq!(Payload::encode(&result.expect("a result")).expect("an object").as_str(), big);

    let server = server_with(RpcRouter::new(), Options::server().max_message_size(10_000));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let call = tokio::spawn(session.call::<Value>("GetConfiguration", &()));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[3,"{id}",{big}]"#)).await;
    assert_eq!(station.closed().await.0, 1009);
    assert!(call.await.expect("no panic").expect_err("too large").maybe_delivered());
    assert_eq!(session.closed().await.cause, CloseCause::TooLarge);
}

// Handshakes.

#[tokio::test]
async fn b16_other_key_lengths_and_missing_connection_need_tolerance() {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    let other_length = Deviation::KeyLength;
    let no_connection = Deviation::MissingConnectionUpgrade;
    for (valid, deviating, from, deviation) in [
        (KEY, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", Lenient, other_length), // 32 bytes
        (KEY, "dGhlIHNhbXBsZSBub25j", Lenient, other_length),                         // 15 bytes
        ("Connection: Upgrade\r\n", "", Permissive, no_connection),
        ("Connection: Upgrade", "Connection: keep-alive", Permissive, no_connection),
        ("Connection: Upgrade", "Connection: close", Permissive, no_connection),
    ] {
        let head = tcp::head("/CP-1").replace(valid, deviating);
        for tolerance in [Strict, Lenient, Permissive] {
            let router = RpcRouter::new().on("Echo", echo);
            // The tolerance is that of the session, which may differ from the server's.
            let options = Options::server().tolerance(tolerance);
            let authenticator = move |_| {
                let options = options.clone();
                async { Ok(ocpp_rpc::Accept::new().options(options)) }
            };
            let mut site = tcp::Site::of(RpcServer::builder(router).auth(authenticator)).await;
            let mut client = site.dial().await;
            let response = client.ask(&head).await;
            if tolerance < from {
                assert_eq!(response.status, 400, "{deviating} {tolerance:?}");
                let reason = site.refused().await.2;
                assert!(reason.contains(&deviation.to_string()), "{reason}");
                continue;
            }
            if deviation == other_length {
                let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(deviating.as_bytes());
                assert_eq!(response.header("sec-websocket-accept"), accept);
            }
            let mut station = client.upgraded(&response).await;
            assert_eq!(tcp::soon(station.ask(r#"[2,"1","Echo",{}]"#)).await, r#"[3,"1",{}]"#, "{deviating}");
            let (deviations, _) = close_and_collect(site.server, site.events).await;
            assert_eq!(deviations, [deviation], "{deviating} {tolerance:?}");
        }
    }
}

#[tokio::test]
async fn b20_deviating_handshakes_are_reported_or_refused_if_strict() {
    for (path, offer, deviation) in [
        ("//CP-1", "ocpp1.6", Deviation::ExtraSlashes),
        ("///CP-1", "ocpp1.6", Deviation::ExtraSlashes),
        ("/ocpp/CP-1/", "ocpp1.6", Deviation::ExtraSlashes),
        ("/ocpp/CP-1", ",ocpp1.6", Deviation::EmptyProtocolElement),
        ("/ocpp/CP-1", "", Deviation::MissingProtocol),
    ] {
        let head = match offer {
            "" => tcp::head(path),
            offer => tcp::offering(path, offer),
        };
        let builder = |tolerance| {
            let server = RpcServer::builder(RpcRouter::new().on("Echo", echo)).protocols(["ocpp1.6"]);
            server.default_protocol("ocpp1.6").options(Options::server().tolerance(tolerance))
        };
        let mut site = tcp::Site::of(builder(Lenient)).await;
        let mut station = site.enter(&head).await;
        assert_eq!(station.protocol.as_deref(), (!offer.is_empty()).then_some("ocpp1.6"), "{path} {offer}");
        assert_eq!(
            tcp::soon(station.ask(r#"[2,"1","Echo",["m"]]"#)).await.get(..24),
            Some(r#"[4,"1","FormationViolati"#)
        );
        assert_eq!(site.server.session("CP-1").expect("there").protocol().as_deref(), Some("ocpp1.6"));
        let reported = site.events.expect(|event| match event.kind {
            EventKind::Deviation { deviation, text: None, .. } => Some((deviation, event.identity)),
            _ => None,
        });
        assert_eq!(reported.await, (deviation, Some("CP-1".into())), "{path} {offer}");

        let mut site = tcp::Site::of(builder(Strict)).await;
        assert_eq!(site.ask(&head).await.status, 400, "{path} {offer}");
        let (identity, status, reason) = site.refused().await;
        assert_eq!((identity.as_deref(), status), (Some("CP-1"), Some(400)));
        assert!(reason.contains(&deviation.to_string()), "{reason}");
    }
}
