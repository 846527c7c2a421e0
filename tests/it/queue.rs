//! The outcome of a call in each state of the client, for each incident that can end the call.

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

/// The state of the call when the incident occurs.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// The client connects for the first time.
    Connecting,
    /// The call is queued behind a pending call.
    Queued,
    /// The call was sent and is pending.
    InFlight,
    /// The client was disconnected and waits before it connects again.
    Reconnecting,
}

/// The event that affects the call.
#[derive(Debug, Clone, Copy)]
enum Incident {
    Dropped,
    TokenCancelled,
    TimedOut,
    /// The connection, or the attempt to connect, fails.
    ConnectionLost,
    Closed,
    ClosedAfterPending,
    ForceClosed,
}

/// The result that the caller receives.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    /// The call was dropped, so no caller waits.
    Nothing,
    Responded,
    Cancelled,
    Timeout,
    NeverSent,
    MaybeDelivered,
    NeverWritten,
}

use Incident::{Closed, ClosedAfterPending, ConnectionLost, Dropped, ForceClosed, TimedOut, TokenCancelled};
use Outcome::{Cancelled, MaybeDelivered, NeverSent, NeverWritten, Nothing, Responded, Timeout};
use Place::{Connecting, InFlight, Queued, Reconnecting};

/// Each case with the expected outcome, and `true` if the call is ever sent.
const CELLS: [(Place, Incident, Outcome, bool); 28] = [
    (Connecting, Dropped, Nothing, false),
    (Connecting, TokenCancelled, Cancelled, false),
    (Connecting, TimedOut, NeverSent, false),
    (Connecting, ConnectionLost, NeverWritten, false),
    (Connecting, Closed, NeverWritten, false),
    (Connecting, ClosedAfterPending, NeverWritten, false),
    (Connecting, ForceClosed, NeverWritten, false),
    (Queued, Dropped, Nothing, false),
    (Queued, TokenCancelled, Cancelled, false),
    (Queued, TimedOut, NeverSent, false),
    (Queued, ConnectionLost, Responded, true),
    (Queued, Closed, NeverWritten, false),
    (Queued, ClosedAfterPending, Responded, true),
    (Queued, ForceClosed, NeverWritten, false),
    (InFlight, Dropped, Nothing, true),
    (InFlight, TokenCancelled, Cancelled, true),
    (InFlight, TimedOut, Timeout, true),
    (InFlight, ConnectionLost, MaybeDelivered, true),
    (InFlight, Closed, MaybeDelivered, true),
    (InFlight, ClosedAfterPending, Responded, true),
    (InFlight, ForceClosed, MaybeDelivered, true),
    (Reconnecting, Dropped, Nothing, false),
    (Reconnecting, TokenCancelled, Cancelled, false),
    (Reconnecting, TimedOut, NeverSent, false),
    (Reconnecting, ConnectionLost, Responded, true),
    (Reconnecting, Closed, NeverWritten, false),
    (Reconnecting, ClosedAfterPending, NeverWritten, false),
    (Reconnecting, ForceClosed, NeverWritten, false),
];

fn outcome_of(outcome: &Result<Value, Error>) -> Outcome {
    match outcome {
        Ok(_) => Responded,
        Err(Error::Cancelled) => Cancelled,
        Err(Error::Timeout) => Timeout,
        Err(Error::NeverSent) => NeverSent,
        Err(Error::Disconnected { maybe_delivered: true }) => MaybeDelivered,
        Err(Error::Disconnected { maybe_delivered: false }) => NeverWritten,
        Err(other) => panic!("{other:?}"),
    }
}

/// The server's end of the connection.
enum Side {
    Nothing,
    Dialled(DuplexStream),
    /// An open connection, with the id of a pending call.
    Open(Box<Csms>, Option<String>),
}

/// Brings a client into the state in which the next call will be in this place.
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
        Queued => {
            tokio::spawn(client.call::<Value>("Ahead", &()));
            let id = csms.receive_call("Ahead").await;
            Side::Open(Box::new(csms), Some(id))
        }
        Reconnecting => {
            drop(csms);
            becomes(&client, ClientState::Connecting).await;
            Side::Nothing
        }
        Connecting | InFlight => Side::Open(Box::new(csms), None),
    };
    (client, dials, side)
}

/// Serves the client for a minute, on any number of connections, responds to every call, and returns the actions of
/// the received calls.
async fn serve(mut dials: Dials, side: Side) -> Vec<String> {
    let end = Instant::now() + 60 * SECOND;
    let mut seen = Vec::new();
    let mut next = match side {
        Side::Nothing => None,
        Side::Dialled(stream) => try_accept(stream, "ocpp1.6").await.map(Csms),
        Side::Open(mut csms, pending) => {
            if let Some(id) = pending {
                respond(&mut csms, id).await;
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
            respond(&mut csms, call[1].as_str().expect("an id").to_owned()).await;
        }
    }
}

/// Responds to a call. Ignores errors, because the client may have disconnected.
async fn respond(csms: &mut Csms, id: String) {
    let _ = csms.0.send(Message::text(json!([3, id, {}]).to_string())).await;
}

#[tokio::test(start_paused = true)]
async fn b24_call_outcome_depends_on_place_and_incident() {
    for (place, incident, expected, is_sent) in CELLS {
        let (client, mut dials, mut side) = reach(place).await;
        let token = CancellationToken::new();
        let mut call = client.call::<Value>("Observed", &()).timeout(20 * SECOND).cancel_on(&token);
        if let (TimedOut, Connecting | Queued | Reconnecting) = (incident, place) {
            call = call.total_timeout(SECOND / 2);
        }
        let mut call = Some(tokio::spawn(call));
        let mut seen = Vec::new();
        match &mut side {
            Side::Open(csms, pending) if place == InFlight => {
                *pending = Some(csms.receive_call("Observed").await);
                seen.push("Observed".to_owned());
            }
            _ => tokio::task::yield_now().await,
        }
        let start = Instant::now();
        let mut closing = None;
        let mut close = |close: Close| {
            let client = client.clone();
            closing = Some(tokio::spawn(async move { client.close(close).await }));
        };
        match incident {
            Dropped => {
                let dropped = call.take().expect("a call");
                dropped.abort();
                assert!(dropped.await.expect_err("aborted").is_cancelled());
            }
            TokenCancelled => token.cancel(),
            TimedOut => {}
            // The server disconnects; if the client was disconnected already, its next attempt fails.
            ConnectionLost if place == Reconnecting => drop(dials.next().await),
            ConnectionLost => side = Side::Nothing,
            Closed => close(Close::normal()),
            ClosedAfterPending => close(Close::normal().drain(30 * SECOND)),
            ForceClosed => close(Close::forced()),
        }
        tokio::task::yield_now().await;
        let case = format!("{place:?}, {incident:?}");
        // The timeout elapses while the server sends nothing.
        let serving = tokio::spawn(async move {
            let delay = if let TimedOut = incident { 30 * SECOND } else { Duration::ZERO };
            sleep(delay).await;
            serve(dials, side).await
        });
        let outcome = match call {
            Some(call) => outcome_of(&call.await.expect("no panic")),
            None => Nothing,
        };
        assert_eq!(outcome, expected, "{case}");
        let at_once = matches!(expected, Cancelled | MaybeDelivered | NeverWritten);
        assert!(!at_once || start.elapsed().is_zero(), "{case}: after {:?}", start.elapsed());
        if let (TimedOut, place) = (incident, place) {
            let due = if place == InFlight { 20 * SECOND } else { SECOND / 2 };
            assert_eq!(start.elapsed(), due, "{case}");
        }
        seen.extend(serving.await.expect("no panic"));
        if let Some(closing) = closing {
            closing.await.expect("no panic");
        }
        assert_eq!(
            seen.iter().filter(|action| *action == "Observed").count(),
            usize::from(is_sent),
            "{case}: {seen:?}"
        );
    }
}
