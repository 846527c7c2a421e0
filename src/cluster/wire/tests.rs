use std::time::SystemTime;

use serde_json::{Value, json};

use crate::{
    close::intent::Close,
    cluster::{
        epoch::{HybridClock, NodeId},
        wire::{
            Announced, Announcement, Broadcast, CloseRequest, Control, Mode, Request, Response, WireError, decode,
            encode, encode_result,
        },
    },
    connection::calls_out::{Kind, Timeout},
    error::{CallError, Error, ErrorCode, Violation},
    message::payload::Payload,
};

fn json_of(message: &impl serde::Serialize) -> Value {
    serde_json::from_slice(&encode(message)).expect("JSON")
}

#[test]
fn every_error_arrives_as_it_was() {
    let details = json!({"a": 1});
    let errors = [
        Error::Rejected(CallError::new(ErrorCode::NOT_SUPPORTED, "no").with_details(&details)),
        Error::Rejected(CallError::new(ErrorCode::new("Own".to_owned()), "")),
        Error::Timeout,
        Error::NeverSent,
        Error::Disconnected { maybe_delivered: true },
        Error::Disconnected { maybe_delivered: false },
        Error::NotConnected,
        Error::Unreachable,
        Error::TooLarge { maybe_delivered: true },
        Error::TooLarge { maybe_delivered: false },
        Error::Closing,
        Error::Closed,
        Error::Cancelled,
        Error::QueueFull,
        Error::SendNotSupported,
        Error::InvalidMessageId { reason: "another pending call has it" },
        serde_json::from_str::<u8>("{}").expect_err("no number").into(),
        Violation::new(ErrorCode::FORMAT_VIOLATION, "/a", "is wrong").into(),
    ];
    for error in errors {
        let response = Response { error: Some(WireError::from(&error)), ..Response::default() };
        let arrived = decode::<Response>(&encode(&response)).expect("readable").error.expect("an error");
        let arrived = Error::from(arrived);
        assert_eq!(arrived.to_string(), error.to_string());
        assert_eq!(arrived.name(), error.name());
        let (is, was) = ([&arrived, &error])
            .map(|error| (error.is_retryable(), error.maybe_delivered(), error.http_status()))
            .into();
        assert_eq!(is, was, "{error}");
    }
}

#[test]
fn error_of_a_later_release_may_have_been_carried_out() {
    let error = decode::<WireError>(br#"{"kind":"new","more":[]}"#).expect("readable");
    assert!(matches!(Error::from(error), Error::Disconnected { maybe_delivered: true }));
}

#[test]
fn call_is_written_with_its_timeouts_in_milliseconds() {
    let call = |timeout, total_timeout| crate::route::RemoteCall {
        key: "CP-1".into(),
        action: "Reset".to_owned(),
        params: Payload::encode(&json!({"type": "Soft"})).expect("an object"),
        kind: Kind::Immediate,
        id: None,
        timeout,
        total_timeout,
    };
    let micros = std::time::Duration::from_micros;
    let request = Request::call(call(Timeout::After(micros(1500)), Some(micros(1))), SystemTime::UNIX_EPOCH);
    assert_eq!(
        json_of(&request),
        json!({
            "key": "CP-1", "mode": "bypass_queue", "expires": 0, "action": "Reset", "params": {"type": "Soft"},
            "timeout": 2, "total_timeout": 1,
        })
    );
    for (timeout, json, read) in [
        (Timeout::Default, None, None),
        (Timeout::Never, Some(Value::Null), Some(None)),
        (Timeout::After(micros(0)), Some(json!(0)), Some(Some(0))),
    ] {
        let request = Request::call(call(timeout, None), SystemTime::UNIX_EPOCH);
        assert_eq!(json_of(&request).get("timeout"), json.as_ref());
        assert_eq!(decode::<Request>(&encode(&request)).expect("readable").timeout, read);
    }
}

#[test]
fn kinds_of_calls_are_read_back() {
    for (mode, kind) in [
        (Mode::Call, Some(Kind::Call)),
        (Mode::BypassQueue, Some(Kind::Immediate)),
        (Mode::FireAndForget, Some(Kind::FireAndForget)),
        (Mode::BypassAndForget, Some(Kind::ImmediateAndForget)),
        (Mode::Send, Some(Kind::Send)),
        (Mode::Info, None),
        (Mode::Look, None),
        (Mode::Close, None),
        (Mode::Recorded, None),
    ] {
        let request = Request::new("CP-1", mode, SystemTime::UNIX_EPOCH);
        assert_eq!(decode::<Request>(&encode(&request)).expect("readable").kind(), kind);
    }
}

#[test]
fn close_is_read_back() {
    let second = std::time::Duration::from_secs(1);
    for close in [Close::new(4001).reason("moved"), Close::restart().drain(second), Close::forced()] {
        let request = decode::<CloseRequest>(&encode(&CloseRequest::from(&close))).expect("readable");
        assert_eq!(Close::from(request), close);
    }
}

#[test]
fn result_keeps_the_text_of_its_payload() {
    let payload: Payload = serde_json::from_str(r#"{"a":1.50, "b":"\u00e9"}"#).expect("JSON");
    let node = NodeId::random();
    for rejectable_at in [None, Some(node)] {
        let response = decode::<Response>(&encode_result(&payload, rejectable_at)).expect("readable");
        assert_eq!((response.result.as_ref(), response.rejectable_at), (Some(&payload), rejectable_at));
    }
}

#[test]
fn announcements_name_their_fields() {
    let node = NodeId::random();
    let epoch = HybridClock::new(node).next(SystemTime::UNIX_EPOCH);
    let sessions = |over| vec![Announced { key: "CP-1".into(), epoch, over }];
    let announcement = |over| Announcement { from: node, after: 6, until: 7, sessions: sessions(over) };
    let session = json!({"key": "CP-1", "epoch": epoch.to_string()});
    let open = json!({"open": {"from": node.to_string(), "after": 6, "until": 7, "sessions": [session]}});
    assert_eq!(json_of(&Broadcast::Open(announcement(None))), open);
    assert_eq!(json_of(&Control::Open(announcement(None))), open);
    let claim = json_of(&Broadcast::Open(announcement(Some(epoch))));
    assert_eq!(claim["open"]["sessions"][0]["over"], json!(epoch.to_string()));
}

#[test]
fn foreign_message_is_unreadable() {
    for text in [
        "",
        "{}",
        "[]",
        "null",
        "{\"open\":{}}",
        "{\"open\":{\"from\":\"x\",\"after\":0,\"until\":1,\"sessions\":[]}}",
        "\u{0}",
    ] {
        assert!(decode::<Broadcast>(text.as_bytes()).is_err(), "{text}");
        assert!(decode::<Control>(text.as_bytes()).is_err(), "{text}");
        assert!(decode::<Request>(text.as_bytes()).is_err(), "{text}");
    }
}
