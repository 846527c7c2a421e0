//! The stream of events.

use std::convert::Infallible;

use axum::{
    extract::State,
    http::HeaderName,
    response::{IntoResponse, Sse, sse},
};
use futures_util::{StreamExt, stream};
use ocpp_rpc::event::{Event, EventKind};
use serde_json::{Value, json};

use super::Api;
use crate::{date, journal::Message};

/// Streams messages, connects and disconnects as they happen. The stream ends when the backend begins to stop.
#[utoipa::path(
    get,
    path = "/api/events",
    responses((status = 200, description = "events, each a JSON object", content_type = "text/event-stream"))
)]
pub(super) async fn events(State(api): State<Api>) -> impl IntoResponse {
    let events = stream::unfold(api.server.events(), async |mut events| {
        loop {
            if let Some(json) = to_json(&events.next().await?) {
                return Some((Ok::<_, Infallible>(sse::Event::default().data(json.to_string())), events));
            }
        }
    });
    let events = events.take_until(api.stopping.cancelled_owned());
    // nginx buffers responses, unless this header says otherwise.
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    (unbuffered, Sse::new(events).keep_alive(sse::KeepAlive::default()))
}

/// Returns an event as the API shows it, or `None` if the API leaves it out.
fn to_json(event: &Event) -> Option<Value> {
    let (at, station) = (date::of(event.at), event.identity.as_deref());
    match &event.kind {
        EventKind::Opened { protocol, .. } => {
            Some(json!({"at": at, "station": station, "event": "connected", "protocol": protocol.as_deref()}))
        }
        EventKind::Closed(closed) => {
            let (code, reason, cause) = (closed.code, &closed.reason, closed.cause.to_string());
            Some(json!({
                "at": at, "station": station, "event": "disconnected", "code": code, "reason": reason, "cause": cause
            }))
        }
        EventKind::Lagged(events) => Some(json!({"at": at, "event": "missed", "events": events})),
        _ => serde_json::to_value(Message::of(event)?).ok(),
    }
}
