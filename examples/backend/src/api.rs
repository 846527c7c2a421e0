//! The REST API.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response, Sse, sse},
    routing::{delete, get, post},
};
use futures_util::{Stream, stream};
use jiff::Timestamp;
use ocpp_rpc::{
    Close, Error, Payload, RpcServer,
    event::{Event, EventKind, Events},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The number of messages that `GET /api/messages` can return.
const MAX_MESSAGES: usize = 1000;

/// Creates the router, and starts the task that stores messages.
pub(crate) fn router(server: &RpcServer) -> Router {
    let api = Api { server: server.clone(), messages: Arc::default() };
    tokio::spawn(store_messages(server.events(), api.messages.clone()));
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/api/stations", get(stations))
        .route("/api/stations/{identity}", delete(close))
        .route("/api/stations/{identity}/calls/{action}", post(call))
        .route("/api/messages", get(messages))
        .route("/api/events", get(events))
        .layer(middleware::from_fn(require_json))
        .with_state(api)
}

/// Rejects changes whose body is not declared as JSON, even if there is no body.
///
/// Otherwise a page of any site could reset stations from the browser of a visitor. A browser asks the server before it
/// sends JSON to another site, and this server does not consent.
async fn require_json(request: Request, next: Next) -> Response {
    if request.method().is_safe() || is_json(request.headers()) {
        next.run(request).await
    } else {
        ApiError::NotJson.into_response()
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split_once(';').map_or(content_type, |(media_type, _)| media_type);
    media_type.trim().eq_ignore_ascii_case("application/json")
}

#[derive(Clone)]
struct Api {
    server: RpcServer,
    messages: Arc<Mutex<VecDeque<Message>>>,
}

#[derive(Clone, Serialize)]
struct Message {
    at: Timestamp,
    station: String,
    direction: &'static str,
    text: String,
}

async fn stations(State(api): State<Api>) -> Json<Vec<Value>> {
    let mut sessions = api.server.sessions();
    sessions.sort_by_key(ocpp_rpc::Session::identity);
    let station = |session: &ocpp_rpc::Session| {
        json!({
            "identity": session.identity(),
            "protocol": session.protocol(),
            "remote_address": session.remote_address(),
            "connected_at": session.connected_at().map(timestamp),
            "last_seen_at": session.last_seen_at().map(timestamp),
        })
    };
    Json(sessions.iter().map(station).collect())
}

#[derive(Deserialize)]
struct CallQuery {
    timeout_ms: Option<u64>,
}

async fn call(
    State(api): State<Api>,
    Path((identity, action)): Path<(String, String)>,
    Query(CallQuery { timeout_ms }): Query<CallQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let params: Payload = match &body[..] {
        b"" => Payload::default(),
        json => serde_json::from_slice(json).map_err(|error| ApiError::BadBody(error.to_string()))?,
    };
    let session = api.server.session(&identity).ok_or(ApiError::NotConnected)?;
    let mut call = session.call::<Value>(&action, &params);
    if let Some(timeout_ms) = timeout_ms {
        call = call.total_timeout(Duration::from_millis(timeout_ms));
    }
    Ok(Json(json!({"result": call.await?})))
}

#[derive(Deserialize)]
struct CloseQuery {
    #[serde(default = "default_code")]
    code: u16,
    #[serde(default)]
    reason: String,
}

fn default_code() -> u16 {
    Close::normal().code()
}

async fn close(
    State(api): State<Api>,
    Path(identity): Path<String>,
    Query(CloseQuery { code, reason }): Query<CloseQuery>,
) -> Result<Json<Value>, ApiError> {
    let session = api.server.session(&identity).ok_or(ApiError::NotConnected)?;
    let closed = session.close(Close::new(code).reason(reason)).await;
    Ok(Json(json!({"code": closed.code, "reason": closed.reason})))
}

#[derive(Deserialize)]
struct MessagesQuery {
    station: Option<String>,
    #[serde(default = "default_limit")]
    limit: usize,
}

fn default_limit() -> usize {
    MAX_MESSAGES
}

async fn messages(State(api): State<Api>, Query(query): Query<MessagesQuery>) -> Json<Vec<Message>> {
    let messages = api.messages.lock().unwrap_or_else(PoisonError::into_inner);
    let is_match = |message: &&Message| query.station.as_ref().is_none_or(|station| *station == message.station);
    Json(messages.iter().rev().filter(is_match).take(query.limit).cloned().collect())
}

/// Streams messages, connects and disconnects as they happen. The stream ends when the server has closed.
async fn events(State(api): State<Api>) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let stream = stream::unfold(api.server.events(), async |mut events| {
        loop {
            if let Some(json) = event_json(&events.next().await?) {
                return Some((Ok(sse::Event::default().data(json.to_string())), events));
            }
        }
    });
    Sse::new(stream).keep_alive(sse::KeepAlive::default())
}

/// Stores the latest messages until the server has closed.
async fn store_messages(mut events: Events, messages: Arc<Mutex<VecDeque<Message>>>) {
    while let Some(event) = events.next().await {
        let Some(message) = message(&event) else { continue };
        let mut messages = messages.lock().unwrap_or_else(PoisonError::into_inner);
        if messages.len() == MAX_MESSAGES {
            messages.pop_front();
        }
        messages.push_back(message);
    }
}

fn message(event: &Event) -> Option<Message> {
    let (direction, text) = match &event.kind {
        EventKind::Received(text) => ("in", text),
        EventKind::Sent(text) => ("out", text),
        _ => return None,
    };
    let station = event.identity.as_deref().unwrap_or_default().to_owned();
    Some(Message { at: timestamp(event.at), station, direction, text: text.to_string() })
}

/// Returns an event as the API shows it, or `None` if the API leaves it out.
fn event_json(event: &Event) -> Option<Value> {
    let (at, station) = (timestamp(event.at), event.identity.as_deref());
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
        _ => message(event).and_then(|message| serde_json::to_value(message).ok()),
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or_default()
}

/// The error of a REST request.
enum ApiError {
    NotJson,
    BadBody(String),
    NotConnected,
    Call(Error),
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, body) = match self {
            Self::NotJson => {
                let description = "send the header content-type: application/json";
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, json!({"error": "not_json", "description": description}))
            }
            Self::BadBody(error) => (StatusCode::BAD_REQUEST, json!({"error": "bad_body", "description": error})),
            Self::NotConnected => (StatusCode::NOT_FOUND, json!({"error": "not_connected"})),
            Self::Call(Error::Rejected(e)) => {
                let (code, description) = (e.code().as_str(), e.description());
                let details = e.details().cloned().unwrap_or_default();
                let error = json!({"error": "rejected", "code": code, "description": description, "details": details});
                (StatusCode::BAD_GATEWAY, error)
            }
            Self::Call(Error::Encode(error)) => {
                (StatusCode::BAD_REQUEST, json!({"error": "bad_body", "description": error.to_string()}))
            }
            Self::Call(Error::Decode(error)) => {
                (StatusCode::BAD_GATEWAY, json!({"error": "bad_answer", "description": error.to_string()}))
            }
            Self::Call(Error::Invalid(violation)) => {
                let error =
                    json!({"error": "invalid", "pointer": violation.pointer(), "description": violation.reason()});
                (StatusCode::UNPROCESSABLE_ENTITY, error)
            }
            Self::Call(Error::QueueFull) => (StatusCode::SERVICE_UNAVAILABLE, json!({"error": "busy"})),
            Self::Call(error) if error.is_timeout() => (StatusCode::GATEWAY_TIMEOUT, json!({"error": "timeout"})),
            Self::Call(_) => (StatusCode::SERVICE_UNAVAILABLE, json!({"error": "disconnected"})),
        };
        (status, Json(body)).into_response()
    }
}
