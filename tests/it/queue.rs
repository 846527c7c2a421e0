//! A call at each place where it can stand, and everything that can become of it there.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use ocpp_rpc::{Close, Error, RpcClient, client::ClientState, extract::CancellationToken};
use serde_json::{Value, json};
use tokio::{
    io::DuplexStream,
    time::{Instant, sleep, timeout_at},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    csms::{Csms, Dials, accept, becomes, client, connecting, try_accept},
    support::SECOND,
};

/// Where the call stands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// The client dials for the first time.
    Connecting,
    /// Behind a call that is not answered.
    InLine,
    /// On the wire, not answered.
    Written,
    /// The client has lost its connection, and waits before it dials again.
    Reconnecting,
}

/// What happens then.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Dropped,
    TakenBack,
    OutOfTime,
    /// The connection, or the attempt to get one, fails.
    Lost,
    Closed,
    ClosedAfterPending,
    Forced,
}

/// What the caller hears.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Heard {
    /// It is not there any more.
    Nothing,
    Responder,
    Cancelled,
    Timeout,
    NeverSent,
    MaybeDelivered,
    NeverWritten,
}

use Fate::{Closed, ClosedAfterPending, Dropped, Forced, Lost, OutOfTime, TakenBack};
use Heard::{Cancelled, MaybeDelivered, NeverSent, NeverWritten, Nothing, Responder, Timeout};
use Place::{Connecting, InLine, Reconnecting, Written};

/// With what the caller hears, and whether the call is ever on the wire.
const CELLS: [(Place, Fate, Heard, bool); 28] = [
    (Connecting, Dropped, Nothing, false),
    (Connecting, TakenBack, Cancelled, false),
    (Connecting, OutOfTime, NeverSent, false),
    (Connecting, Lost, NeverWritten, false),
    (Connecting, Closed, NeverWritten, false),
    (Connecting, ClosedAfterPending, NeverWritten, false),
    (Connecting, Forced, NeverWritten, false),
    (InLine, Dropped, Nothing, false),
    (InLine, TakenBack, Cancelled, false),
    (InLine, OutOfTime, NeverSent, false),
    (InLine, Lost, Responder, true),
    (InLine, Closed, NeverWritten, false),
    (InLine, ClosedAfterPending, Responder, true),
    (InLine, Forced, NeverWritten, false),
    (Written, Dropped, Nothing, true),
    (Written, TakenBack, Cancelled, true),
    (Written, OutOfTime, Timeout, true),
    (Written, Lost, MaybeDelivered, true),
    (Written, Closed, MaybeDelivered, true),
    (Written, ClosedAfterPending, Responder, true),
    (Written, Forced, MaybeDelivered, true),
    (Reconnecting, Dropped, Nothing, false),
    (Reconnecting, TakenBack, Cancelled, false),
    (Reconnecting, OutOfTime, NeverSent, false),
    (Reconnecting, Lost, Responder, true),
    (Reconnecting, Closed, NeverWritten, false),
    (Reconnecting, ClosedAfterPending, NeverWritten, false),
    (Reconnecting, Forced, NeverWritten, false),
];

fn heard(outcome: &Result<Value, Error>) -> Heard {
    match outcome {
        Ok(_) => Responder,
        Err(Error::Cancelled) => Cancelled,
        Err(Error::Timeout) => Timeout,
        Err(Error::NeverSent) => NeverSent,
        Err(Error::Disconnected { maybe_delivered: true }) => MaybeDelivered,
        Err(Error::Disconnected { maybe_delivered: false }) => NeverWritten,
        Err(other) => panic!("{other:?}"),
    }
}

/// What the server has of the client at this moment.
enum Side {
    Nothing,
    Dialled(DuplexStream),
    /// With the id of a call that is not answered yet.
    Open(Box<Csms>, Option<String>),
}

/// Brings a client to where a call will stand at this place, once it is made.
async fn reach(place: Place) -> (RpcClient, Dials, Side) {
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder);
    let stream = dials.next().await;
    if place == Connecting {
        return (client, dials, Side::Dialled(stream));
    }
    let mut csms = Csms(accept(stream, "ocpp1.6").await);
    attempt.await.expect("no panic").expect("connected");
    let side = match place {
        InLine => {
            tokio::spawn(client.call::<Value>("Ahead", &()));
            let ahead = csms.receive_call("Ahead").await;
            Side::Open(Box::new(csms), Some(ahead))
        }
        Reconnecting => {
            drop(csms);
            becomes(&client, ClientState::Connecting).await;
            Side::Nothing
        }
        Connecting | Written => Side::Open(Box::new(csms), None),
    };
    (client, dials, side)
}

/// Serves the client for a minute, on as many connections as it likes, and answers every call. Gives the actions that
/// came in.
async fn survey(mut dials: Dials, side: Side) -> Vec<String> {
    let end = Instant::now() + 60 * SECOND;
    let mut seen = Vec::new();
    let mut next = match side {
        Side::Nothing => None,
        Side::Dialled(stream) => try_accept(stream, "ocpp1.6").await.map(Csms),
        Side::Open(mut csms, unanswered) => {
            if let Some(id) = unanswered {
                answer(&mut csms, id).await;
            }
            Some(*csms)
        }
    };
    loop {
        let mut csms = match next.take() {
            Some(csms) => csms,
            None => match timeout_at(end, dials.0.recv()).await {
                Ok(Some(stream)) => Csms(accept(stream, "ocpp1.6").await),
                _ => return seen,
            },
        };
        while let Ok(Some(Ok(message))) = timeout_at(end, csms.0.next()).await {
            let Message::Text(text) = message else { continue };
            let call: Value = serde_json::from_str(&text).expect("JSON");
            seen.push(call[2].as_str().expect("a call").to_owned());
            answer(&mut csms, call[1].as_str().expect("an id").to_owned()).await;
        }
    }
}

/// Answers a call; the client may have left.
async fn answer(csms: &mut Csms, id: String) {
    let _ = csms.0.send(Message::text(json!([3, id, {}]).to_string())).await;
}

#[tokio::test(start_paused = true)]
async fn b24_what_becomes_of_a_call_depends_on_where_it_stands() {
    for (place, fate, expected, on_the_wire) in CELLS {
        let (client, mut dials, mut side) = reach(place).await;
        let token = CancellationToken::new();
        let mut call = client.call::<Value>("PayloadContext", &()).timeout(20 * SECOND).cancel_on(&token);
        if let (OutOfTime, Connecting | InLine | Reconnecting) = (fate, place) {
            call = call.total_timeout(SECOND / 2);
        }
        let mut call = Some(tokio::spawn(call));
        let mut seen = Vec::new();
        match &mut side {
            Side::Open(csms, unanswered) if place == Written => {
                *unanswered = Some(csms.receive_call("PayloadContext").await);
                seen.push("PayloadContext".to_owned());
            }
            _ => tokio::task::yield_now().await,
        }
        let start = Instant::now();
        let mut closing = None;
        let mut close = |close: Close| {
            let client = client.clone();
            closing = Some(tokio::spawn(async move { client.close(close).await }));
        };
        match fate {
            Dropped => {
                let dropped = call.take().expect("a call");
                dropped.abort();
                assert!(dropped.await.expect_err("aborted").is_cancelled());
            }
            TakenBack => token.cancel(),
            OutOfTime => {}
            // A server that is not there any more; where there was none, the next attempt fails as well.
            Lost if place == Reconnecting => drop(dials.next().await),
            Lost => side = Side::Nothing,
            Closed => close(Close::normal()),
            ClosedAfterPending => close(Close::normal().drain(30 * SECOND)),
            Forced => close(Close::forced()),
        }
        tokio::task::yield_now().await;
        let case = format!("{place:?}, {fate:?}");
        // Time runs out while nothing comes from the server.
        let survey = tokio::spawn(async move {
            let late = if let OutOfTime = fate { 30 * SECOND } else { Duration::ZERO };
            sleep(late).await;
            survey(dials, side).await
        });
        let outcome = match call {
            Some(call) => heard(&call.await.expect("no panic")),
            None => Nothing,
        };
        assert_eq!(outcome, expected, "{case}");
        let at_once = matches!(expected, Cancelled | MaybeDelivered | NeverWritten);
        assert!(!at_once || start.elapsed().is_zero(), "{case}: after {:?}", start.elapsed());
        if let (OutOfTime, place) = (fate, place) {
            let due = if place == Written { 20 * SECOND } else { SECOND / 2 };
            assert_eq!(start.elapsed(), due, "{case}");
        }
        seen.extend(survey.await.expect("no panic"));
        if let Some(closing) = closing {
            closing.await.expect("no panic");
        }
        assert_eq!(
            seen.iter().filter(|action| *action == "PayloadContext").count(),
            usize::from(on_the_wire),
            "{case}: {seen:?}"
        );
    }
}
