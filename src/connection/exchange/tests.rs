//! The rules of calling and responding, one case each.

use std::{sync::LazyLock, time::Duration};

use crate::connection::exchange::*;
use crate::{
    connection::{
        calls_out::{CallKey, Kind, Timeout},
        exchange::receive::Received,
        request::IncomingRequest,
    },
    message::{
        kinds::MessageError,
        tolerance::{Deviation, Tolerance},
    },
};

const SECOND: Duration = Duration::from_secs(1);

fn exchange(options: Options) -> Exchange<u64> {
    exchange_with_protocol("ocpp1.6", options)
}

fn exchange_with_protocol(protocol: &str, options: Options) -> Exchange<u64> {
    let negotiated = Negotiated { protocol: Some(protocol.into()), dialect: Dialect::for_protocol(Some(protocol)) };
    Exchange::new(Some(negotiated), Arc::new(options), *IDS, 0, false)
}

static IDS: LazyLock<CallIds> = LazyLock::new(CallIds::random);

fn call(n: u64) -> Box<Outgoing<u64>> {
    let call = Outgoing::new(Kind::Call, format!("Call{n}").into(), Payload::default(), n);
    Box::new(Outgoing { key: CallKey(n), id: IDS.id(n), ..call })
}

/// Returns a call with an id of its caller.
fn call_with_id(n: u64, id: &str) -> Box<Outgoing<u64>> {
    Box::new(Outgoing { id: MessageId::new(id.to_owned()), has_own_id: true, ..*call(n) })
}

/// Returns the calls that have expired, with the names of their errors.
fn expired(exchange: &mut Exchange<u64>, now: Instant) -> Vec<(u64, &'static str)> {
    exchange.calls_out.expire(now).into_iter().map(|(n, error)| (n, error.name())).collect()
}

/// Returns the number of the next call that is written.
fn written(exchange: &mut Exchange<u64>, now: Instant) -> Option<u64> {
    let (message, _) = exchange.next_write(now)?;
    let action = message.text.split('"').nth(3).expect("an action");
    Some(action.strip_prefix("Call").expect("ours").parse().expect("a number"))
}

fn respond(exchange: &mut Exchange<u64>, id: &MessageId) -> Received<u64> {
    receive(exchange, &format!(r#"[3,"{id}",{{}}]"#))
}

fn receive(exchange: &mut Exchange<u64>, text: &str) -> Received<u64> {
    exchange.receive(&text.into(), Instant::now())
}

/// Returns the only event.
fn only_event(exchange: &mut Exchange<u64>) -> EventKind {
    let mut events = exchange.take_events();
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

#[test]
fn calls_are_written_in_order_and_one_at_a_time() {
    let now = Instant::now();
    let mut exchange = exchange(Options::server());
    let calls = [call(1), call(2), call(3)];
    let ids = calls.each_ref().map(|call| call.id.clone());
    calls.into_iter().for_each(|call| assert!(exchange.submit(call).is_none()));
    for (n, id) in (1..).zip(&ids) {
        assert_eq!(written(&mut exchange, now), Some(n));
        assert_eq!(written(&mut exchange, now), None, "one is in flight");
        assert!(matches!(respond(&mut exchange, id), Received::Response(sender, Ok(_), None) if sender == n));
    }
    assert!(exchange.is_settled(0));
}

#[test]
fn calls_with_concurrency_are_written_up_to_the_limit() {
    let now = Instant::now();
    let mut exchange = exchange(Options::server().call_concurrency(2));
    (1..=3).for_each(|n| assert!(exchange.submit(call(n)).is_none()));
    assert_eq!([1, 2, 3].map(|_| written(&mut exchange, now)), [Some(1), Some(2), None]);
}

#[test]
fn cancelled_call_is_not_written_or_gets_a_late_response() {
    let now = Instant::now();
    let mut exchange = exchange(Options::server());
    let calls = [call(1), call(2), call(3)];
    let first = calls[0].id.clone();
    calls.into_iter().for_each(|call| assert!(exchange.submit(call).is_none()));
    assert_eq!(written(&mut exchange, now), Some(1));
    exchange.calls_out.cancel(CallKey(2));
    exchange.calls_out.cancel(CallKey(1));
    assert_eq!(written(&mut exchange, now), Some(3));
    respond(&mut exchange, &first);
    assert!(matches!(only_event(&mut exchange), EventKind::LateResponse(id) if id == first));
    respond(&mut exchange, &first);
    assert!(matches!(only_event(&mut exchange), EventKind::LateResponse(id) if id == first), "again");
}

#[test]
fn response_to_a_call_that_was_not_made_is_unmatched() {
    let mut exchange = exchange(Options::server());
    exchange.submit(call(1));
    written(&mut exchange, Instant::now());
    // The second is an id of this end that is not used yet.
    for id in [MessageId::new("1"), IDS.id(2), CallIds::random().id(1)] {
        respond(&mut exchange, &id);
        assert!(matches!(only_event(&mut exchange), EventKind::UnmatchedResponse(unmatched) if unmatched == id));
    }
}

#[test]
fn response_to_an_ended_call_is_late_after_any_number_of_calls() {
    let (now, mut exchange) = (Instant::now(), exchange(Options::server().call_concurrency(10_000)));
    for n in 0..10_000 {
        exchange.submit(call(n));
        written(&mut exchange, now);
    }
    for n in 0..10_000 {
        exchange.calls_out.cancel(CallKey(n));
    }
    for n in 0..10_000 {
        respond(&mut exchange, &IDS.id(n));
        assert!(matches!(only_event(&mut exchange), EventKind::LateResponse(_)));
    }
}

#[test]
fn response_to_a_call_of_an_earlier_connection_is_unmatched() {
    let now = Instant::now();
    let mut exchange = exchange(Options::client());
    for call in [call(1), call(2), call_with_id(3, "own")] {
        exchange.submit(call);
    }
    written(&mut exchange, now);
    exchange.disconnect(1, AfterDisconnect::Reconnect);
    respond(&mut exchange, &IDS.id(1));
    assert!(matches!(only_event(&mut exchange), EventKind::UnmatchedResponse(_)));
    // The others were queued, and are calls of this connection.
    for (n, id) in [(2, IDS.id(2)), (3, MessageId::new("own"))] {
        assert_eq!(written(&mut exchange, now), Some(n));
        exchange.calls_out.cancel(CallKey(n));
        respond(&mut exchange, &id);
        assert!(matches!(only_event(&mut exchange), EventKind::LateResponse(_)));
    }
    exchange.disconnect(2, AfterDisconnect::Reconnect);
    respond(&mut exchange, &MessageId::new("own"));
    assert!(matches!(only_event(&mut exchange), EventKind::UnmatchedResponse(_)));
}

#[test]
fn id_of_a_pending_call_cannot_be_given_to_another() {
    let now = Instant::now();
    let mut exchange = exchange(Options::server());
    let is_refused = |exchange: &mut Exchange<u64>, n, id: &str| {
        let refused = exchange.submit(call_with_id(n, id));
        assert!(matches!(refused, None | Some((_, Error::InvalidMessageId { .. }))));
        refused.is_some()
    };
    assert!(!is_refused(&mut exchange, 1, "own"));
    assert!(is_refused(&mut exchange, 2, "own"), "it is queued");
    exchange.submit(call(3));
    assert!(is_refused(&mut exchange, 4, IDS.id(3).as_str()), "a new id is queued");
    assert_eq!(written(&mut exchange, now), Some(1));
    assert!(is_refused(&mut exchange, 5, "own"), "it is in flight");
    assert!(matches!(respond(&mut exchange, &MessageId::new("own")), Received::Response(1, Ok(_), None)));
    assert!(!is_refused(&mut exchange, 6, "own"), "the call has ended");
    exchange.calls_out.cancel(CallKey(6));
    assert!(!is_refused(&mut exchange, 7, "own"), "the call was cancelled");
}

#[test]
fn only_the_latest_thousand_ids_of_callers_are_remembered() {
    let mut exchange = exchange(Options::server());
    for n in 0..1001 {
        exchange.submit(Box::new(Outgoing { kind: Kind::FireAndForget, ..*call_with_id(n, &n.to_string()) }));
        written(&mut exchange, Instant::now());
    }
    respond(&mut exchange, &MessageId::new("0"));
    assert!(matches!(only_event(&mut exchange), EventKind::UnmatchedResponse(_)));
    for n in [1, 1000] {
        respond(&mut exchange, &MessageId::new(n.to_string()));
        assert!(matches!(only_event(&mut exchange), EventKind::LateResponse(_)));
    }
}

#[test]
fn raw_text_is_written_as_it_is_before_queued_calls() {
    let now = Instant::now();
    let mut exchange = exchange(Options::server());
    (1..=2).for_each(|n| assert!(exchange.submit(call(n)).is_none()));
    written(&mut exchange, now);
    let raw = Outgoing::new(Kind::Raw, ByteString::new(), Payload("not even JSON".into()), 3);
    exchange.submit(Box::new(Outgoing { key: CallKey(3), ..raw }));
    exchange.set_observed(true);
    let (message, sender) = exchange.next_write(now).expect("a message");
    assert_eq!((message.text.as_str(), message.event.is_none(), sender), ("not even JSON", true, Some(3)));
    assert!(exchange.next_write(now).is_none());
}

#[test]
fn b78_many_queued_calls_are_cancelled_in_any_order() {
    const CALLS: u64 = 80_000;
    let now = Instant::now();
    for order in [|n| n, |n| CALLS - 1 - n, |n| n * 7919 % CALLS] {
        let mut exchange = exchange(Options::server());
        (0..CALLS).for_each(|n| assert!(exchange.submit(call(n)).is_none()));
        for n in (0..CALLS).map(order).filter(|n| n % 20_000 != 0) {
            exchange.calls_out.cancel(CallKey(n));
        }
        assert_eq!(exchange.calls_out.queued(), 4);
        for n in [0, 20_000, 40_000, 60_000] {
            assert_eq!(written(&mut exchange, now), Some(n));
            exchange.calls_out.cancel(CallKey(n));
        }
        assert!(exchange.is_settled(0));
    }
}

#[test]
fn many_calls_expire_together() {
    let now = Instant::now();
    let mut exchange = exchange(Options::server().call_concurrency(40_000));
    for n in 0..80_000 {
        exchange.submit(Box::new(Outgoing { deadline: Some(now + SECOND), ..*call(n) }));
        written(&mut exchange, now);
    }
    assert_eq!(exchange.calls_out.queued(), 40_000);
    let expired = exchange.calls_out.expire(now + SECOND);
    assert!(expired.into_iter().map(|(n, _)| n).eq(0..80_000));
    assert!(exchange.is_settled(0));
}

#[test]
fn timeout_starts_when_the_call_is_written() {
    let start = Instant::now();
    let mut exchange = exchange(Options::server().call_timeout(10 * SECOND));
    exchange.submit(call(1));
    exchange.submit(Box::new(Outgoing { deadline: Some(start + 15 * SECOND), ..*call(2) }));
    exchange.submit(Box::new(Outgoing { deadline: Some(start + 11 * SECOND), ..*call(3) }));
    written(&mut exchange, start);
    assert_eq!(expired(&mut exchange, start + 9 * SECOND), []);
    let at = start + 10 * SECOND;
    assert_eq!(expired(&mut exchange, at), [(1, "timeout")]);
    assert_eq!(expired(&mut exchange, at), []);
    assert_eq!(written(&mut exchange, at), Some(2));
    assert_eq!(exchange.calls_out.next_deadline(), Some(start + 11 * SECOND));
    assert_eq!(expired(&mut exchange, start + 11 * SECOND), [(3, "never_sent")]);
    assert_eq!(exchange.calls_out.next_deadline(), Some(start + 15 * SECOND));
    assert_eq!(expired(&mut exchange, start + 15 * SECOND), [(2, "timeout")]);
}

#[test]
fn call_without_timeout_has_no_deadline() {
    let now = Instant::now();
    let mut exchange = exchange(Options::server());
    exchange.submit(Box::new(Outgoing { timeout: Timeout::Never, ..*call(1) }));
    written(&mut exchange, now);
    assert_eq!(exchange.calls_out.next_deadline(), None);
}

#[test]
fn lost_connection_tells_calls_if_they_may_be_delivered() {
    let mut exchange = exchange(Options::server());
    (1..=2).for_each(|n| assert!(exchange.submit(call(n)).is_none()));
    written(&mut exchange, Instant::now());
    let failed: Vec<_> = exchange.calls_out.fail_in_flight().collect();
    assert!(matches!(failed[..], [(1, Error::Disconnected { maybe_delivered: true })]));
    let failed: Vec<_> = exchange.calls_out.fail_queued().collect();
    assert!(matches!(failed[..], [(2, Error::Disconnected { maybe_delivered: false })]));
}

#[test]
fn send_does_not_wait_for_calls() {
    let now = Instant::now();
    let mut exchange = exchange(Options::server());
    (1..=2).for_each(|n| assert!(exchange.submit(call(n)).is_none()));
    assert_eq!(written(&mut exchange, now), Some(1));
    exchange.submit(Box::new(Outgoing { kind: Kind::Send, ..*call(3) }));
    assert!(matches!(exchange.next_write(now), Some((_, Some(3)))));
    assert!(exchange.next_write(now).is_none());
}

#[test]
fn fire_and_forget_call_ends_when_it_is_written() {
    let mut exchange = exchange(Options::server());
    let call = Box::new(Outgoing { kind: Kind::FireAndForget, ..*call(1) });
    let id = call.id.clone();
    exchange.submit(call);
    assert!(matches!(exchange.next_write(Instant::now()), Some((_, Some(1)))));
    respond(&mut exchange, &id);
    assert!(matches!(only_event(&mut exchange), EventKind::LateResponse(late) if late == id));
}

#[test]
fn id_of_an_active_request_is_a_duplicate() {
    let mut exchange = exchange(Options::server());
    let text = r#"[2,"1","A",{}]"#;
    let Received::Request(first) = receive(&mut exchange, text) else { panic!("a call") };
    exchange.handler_started(&first.head, &first.payload);
    for other in [r#"[2,"1","B",{}]"#, r#"[2,"1","A",{"a":1}]"#] {
        match receive(&mut exchange, other) {
            Received::Rejected(error) => assert!(error.text.starts_with(r#"[4,"1","GenericError","#), "{error:?}"),
            other => panic!("{other:?}"),
        }
        let event = only_event(&mut exchange);
        assert!(matches!(event, EventKind::BadMessage { error: MessageError::DuplicateMessageId, .. }));
    }
    assert!(matches!(receive(&mut exchange, r#"[2, "1", "A", {}]"#), Received::Nothing), "the same call again");
    let event = only_event(&mut exchange);
    assert!(matches!(event, EventKind::Deviation { deviation: Deviation::RepeatedCall, .. }));
    exchange.handler_finished(&first.head);
    assert!(exchange.respond(&first.head, &Response::Result(Payload::default())).is_some());
    assert!(matches!(receive(&mut exchange, text), Received::Request(_)));
}

#[test]
fn requests_are_queued_and_rejected_if_the_queue_is_full() {
    let mut exchange = exchange(Options::server().handler_concurrency(1).handler_queue(1));
    let text = |n| format!(r#"[2,"{n}","A",{{}}]"#);
    let Received::Request(first) = receive(&mut exchange, &text(1)) else { panic!("a call") };
    exchange.handler_started(&first.head, &first.payload);
    assert!(matches!(receive(&mut exchange, &text(2)), Received::Nothing));
    assert!(matches!(receive(&mut exchange, &text(3)), Received::Unhandled(_)));
    assert!(exchange.take_events().is_empty(), "neither is a bad message");
    receive(&mut exchange, &text(2));
    let event = only_event(&mut exchange);
    assert!(matches!(event, EventKind::Deviation { deviation: Deviation::RepeatedCall, .. }));
    assert!(exchange.next_request().is_none());
    exchange.handler_finished(&first.head);
    assert!(exchange.respond(&first.head, &Response::Result(Payload::default())).is_some());
    assert_eq!(exchange.next_request().expect("the second").head.id.as_str(), "2");
    assert!(exchange.is_settled(0));
}

#[test]
fn requests_beyond_the_rate_are_rejected_for_a_time() {
    let start = Instant::now();
    let mut exchange = exchange(Options::server().call_rate(2, 10 * SECOND));
    let mut calls_at = |seconds| match exchange.receive(&r#"[2,"1","A",{}]"#.into(), start + seconds * SECOND) {
        Received::Request(_) => true,
        Received::Unhandled(Unhandled { response: Some(error), .. }) => {
            !error.text.contains(r#""GenericError","more than 2 calls in 10s""#)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [0, 0, 0, 4, 5, 5, 30, 30, 30].map(&mut calls_at),
        [true, true, false, false, true, false, true, true, false]
    );
}

#[test]
fn bad_messages_in_a_row_are_counted() {
    let mut exchange = exchange(Options::server().max_bad_messages(1));
    let mut are_too_many = |text| matches!(receive(&mut exchange, text), Received::TooManyBadMessages(_));
    assert!(!are_too_many("bad"));
    assert!(!are_too_many(r#"[2,"1","A",{}]"#));
    assert!(!are_too_many("bad"));
    assert!(!are_too_many(""), "an empty message is neither good nor bad");
    assert!(are_too_many("bad"));
}

#[test]
fn bad_messages_are_counted_anew_after_a_disconnect() {
    let mut exchange = exchange(Options::server().max_bad_messages(1));
    assert!(!matches!(receive(&mut exchange, "bad"), Received::TooManyBadMessages(_)));
    exchange.disconnect(1, AfterDisconnect::Reconnect);
    assert!(!matches!(receive(&mut exchange, "bad"), Received::TooManyBadMessages(_)));
    assert!(matches!(receive(&mut exchange, "bad"), Received::TooManyBadMessages(_)));
}

#[test]
fn result_that_is_no_object_fails_its_call() {
    for (protocol, error_code) in [("ocpp1.6", None), ("ocpp2.1", Some("FormatViolation"))] {
        let mut exchange = exchange_with_protocol(protocol, Options::server());
        let first = call(1);
        let id = first.id.clone();
        exchange.submit(first);
        exchange.next_write(Instant::now());
        match receive(&mut exchange, &format!(r#"[3,"{id}",["m"]]"#)) {
            Received::Response(1, Err(Error::Decode(_)), to_peer) => {
                let expected =
                    error_code.map(|code| format!(r#"[5,"{id}","{code}","the payload is not an object",{{}}]"#));
                assert_eq!(to_peer.map(|message| message.text), expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn message_types_5_and_6_depend_on_the_dialect() {
    let (send, error) = (r#"[6,"1","A",{}]"#, r#"[5,"1","X","",{}]"#);
    let mut old = exchange(Options::server());
    for text in [send, error] {
        receive(&mut old, text);
        let event = only_event(&mut old);
        assert!(matches!(event, EventKind::BadMessage { error: MessageError::UnknownMessageType, response: None, .. }));
    }
    let mut new = exchange_with_protocol("ocpp2.1", Options::server());
    assert!(matches!(
        receive(&mut new, send),
        Received::Request(IncomingRequest { head: RequestHead { expects_response: false, .. }, .. })
    ));
    assert!(matches!(receive(&mut new, error), Received::Nothing));
    assert!(new.take_events().is_empty());
}

#[test]
fn unreadable_response_ends_its_call_if_permissive() {
    for (tolerance, ends) in [(Tolerance::Lenient, false), (Tolerance::Permissive, true)] {
        let mut exchange = exchange(Options::server().tolerance(tolerance).call_concurrency(2));
        let calls = [call(1), call(2)];
        let [first, second] = calls.each_ref().map(|call| call.id.clone());
        for call in calls {
            exchange.submit(call);
            exchange.next_write(Instant::now());
        }
        let outcome = receive(&mut exchange, &format!(r#"[3,"{first}",{{"configurationKey":[]"#));
        assert_eq!(matches!(outcome, Received::Response(1, Err(Error::Decode(_)), None)), ends);
        let outcome = receive(&mut exchange, &format!(r#"[4,"{second}","NotSupported","say "no"",{{}}]"#));
        assert_eq!(
            matches!(&outcome, Received::Response(2, Err(Error::Rejected(error)), None)
            if *error.code() == ErrorCode::NOT_SUPPORTED),
            ends
        );
        receive(&mut exchange, r#"[3,"unknown",{"cut":["#);
        let deviations =
            exchange.take_events().iter().filter(|event| matches!(event, EventKind::Deviation { .. })).count();
        assert_eq!(deviations, if ends { 2 } else { 0 });
    }
}

#[test]
fn parts_of_a_message_that_are_kept_do_not_keep_all_of_it() {
    let mut exchange = exchange_with_protocol("ocpp2.0.1", Options::server().tolerance(Tolerance::Permissive));
    exchange.set_observed(true);
    for (id, is_number) in [(r#""17""#, false), ("17", true)] {
        let params = format!(r#"{{"text":"{}"}}"#, "x".repeat(10_000));
        let request = ByteString::from(format!(r#"[2,{id},"A",{params}]"#));
        let Received::Request(IncomingRequest { head, payload, .. }) = exchange.receive(&request, Instant::now())
        else {
            panic!("a call")
        };
        exchange.handler_started(&head, &payload);
        let malformed = ByteString::from(format!(r#"[2,{id},7,{params}]"#));
        let Received::Rejected(rejection) = exchange.receive(&malformed, Instant::now()) else { panic!("no action") };
        let rejected_id = rejection.described_response().expect("a response");
        assert_eq!((&rejected_id, rejected_id.is_number()), (&head.id, is_number));
        drop((payload, rejection, exchange.take_events()));
        assert!(request.into_bytes().is_unique(), "the handler keeps the request");
        assert!(malformed.into_bytes().is_unique(), "the id of the response keeps the request");
        exchange.respond(&head, &Response::Nothing);
    }
}

#[test]
fn responses_to_no_call_and_repeated_requests_leave_the_count_of_bad_messages() {
    let mut exchange = exchange(Options::server().max_bad_messages(1));
    exchange.submit(call(1));
    written(&mut exchange, Instant::now());
    exchange.calls_out.cancel(CallKey(1));
    let Received::Request(first) = receive(&mut exchange, r#"[2,"1","A",{}]"#) else { panic!("a call") };
    exchange.handler_started(&first.head, &first.payload);
    let late = format!(r#"[3,"{}",{{}}]"#, IDS.id(1));
    for text in [&*late, r#"[3,"other",{}]"#, r#"[4,"-1","X","",{}]"#, r#"[2,"1","A",{}]"#] {
        assert!(matches!(receive(&mut exchange, "bad"), Received::Nothing), "{text}");
        assert!(matches!(receive(&mut exchange, text), Received::Nothing));
        assert!(matches!(receive(&mut exchange, "bad"), Received::TooManyBadMessages(_)), "{text}");
        exchange.disconnect(0, AfterDisconnect::Reconnect);
        exchange.handler_started(&first.head, &first.payload);
    }
}

#[test]
fn kept_responses_end_with_the_last_connection() {
    for (after, is_kept) in [(AfterDisconnect::Reconnect, true), (AfterDisconnect::End, false)] {
        let negotiated = Negotiated { protocol: None, dialect: Dialect::for_protocol(None) };
        let mut exchange: Exchange<u64> = Exchange::new(Some(negotiated), Arc::new(Options::client()), *IDS, 0, true);
        let Received::Request(request) = receive(&mut exchange, r#"[2,"1","A",{}]"#) else { panic!("a call") };
        exchange.handler_started(&request.head, &request.payload);
        exchange.disconnect(1, after);
        let message = exchange.respond(&request.head, &Response::Result(Payload::default()));
        assert_eq!(message.is_some(), is_kept, "{after:?}");
    }
}
