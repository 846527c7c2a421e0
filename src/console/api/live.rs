//! `GET api/live`: what happens, as server-sent events.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response, Sse, sse},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, pending},
    stream,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until},
};

use crate::{
    console::{
        api::error::ApiError,
        history::{HistoryQuery, StationHistory},
        recorder::Watch,
        state::ConsoleState,
    },
    error::Error,
    info::StationInfo,
};

/// The messages that are read at once. More wait until these are sent.
const BATCH: usize = 100;

/// The time between the requests for the messages of a station at another node.
const POLL: Duration = Duration::from_millis(500);

/// The time between the comments that keep an idle stream alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Selection {
    station: Option<Arc<str>>,
    after: Option<u64>,
}

pub(super) async fn live(
    selection: Result<Query<Selection>, QueryRejection>,
    headers: HeaderMap,
    State(console): State<Arc<ConsoleState>>,
) -> Result<Response, ApiError> {
    let Query(selection) = selection?;
    let Ok(permit) = console.streams.clone().try_acquire_owned() else {
        let error = "too many live streams are open: close another page of the console";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error));
    };
    // An empty stream would let the browser connect again at once.
    if console.server.state.closing.is_cancelled() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server closes"));
    }
    // A browser that connects again tells what it has received.
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let stream = Stream::new(console, permit, selection, last_id);
    let stream = stream::unfold(stream, async |mut stream| {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    // nginx buffers responses, unless this header says otherwise.
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    Ok((unbuffered, Sse::new(stream).keep_alive(sse::KeepAlive::new().interval(KEEP_ALIVE))).into_response())
}

/// A live stream. It holds no more than what was read at once.
struct Stream {
    console: Arc<ConsoleState>,
    _permit: OwnedSemaphorePermit,
    changed: watch::Receiver<()>,
    /// The events that were read and not sent.
    ready: VecDeque<sse::Event>,
    /// The number of the latest point.
    point: u64,
    /// The number of handshakes that had been refused.
    handshakes: u64,
    station: Option<StationReader>,
}

/// The part of a stream about one station.
struct StationReader {
    key: Arc<str>,
    /// The number of the latest message. `None` until it was asked for.
    after: Option<u64>,
    /// The latest information on the station, as JSON.
    info: Option<String>,
    /// The request for messages that is under way. Another node may take seconds.
    messages_request: Option<BoxFuture<'static, Result<Option<StationHistory>, Error>>>,
    /// The request for information that is under way.
    info_request: Option<BoxFuture<'static, Result<Option<StationInfo>, Error>>>,
    /// The time at which to ask another node for messages again.
    poll_at: Instant,
    _watch: Watch,
}

impl Stream {
    fn new(
        console: Arc<ConsoleState>,
        permit: OwnedSemaphorePermit,
        selection: Selection,
        last_id: Option<u64>,
    ) -> Self {
        let changed = console.recording.changed();
        let station = selection.station.map(|key| {
            let watch = console.recording.watch(&key);
            // Other nodes are asked later.
            let own_end = || {
                let is_here = !console.is_elsewhere(&key);
                is_here.then(|| console.recording.facts().store.last_seq(&key).unwrap_or_default())
            };
            StationReader {
                after: last_id.or(selection.after).or_else(own_end),
                info: None,
                messages_request: None,
                info_request: Some(request_info(&console, &key)),
                poll_at: Instant::now(),
                _watch: watch,
                key,
            }
        });
        let handshakes = console.recording.facts().handshakes.total();
        let mut stream =
            Self { console, _permit: permit, changed, ready: VecDeque::new(), point: 0, handshakes, station };
        // The first read waits for nothing.
        stream.read();
        stream
    }

    /// Waits for the next event. `None` if the server closes.
    async fn next(&mut self) -> Option<sse::Event> {
        let closing = self.console.server.state.closing.clone();
        loop {
            if closing.is_cancelled() {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let idle = self.station.as_ref().filter(|station| station.messages_request.is_none());
            let poll_at = idle.filter(|station| self.console.is_elsewhere(&station.key)).map(|station| station.poll_at);
            let (messages_request, info_request) = match &mut self.station {
                Some(station) => (&mut station.messages_request, &mut station.info_request),
                None => (&mut None, &mut None),
            };
            // Messages come before the information on the station that has sent them.
            tokio::select! {
                biased;
                () = closing.cancelled() => return None,
                history = complete(messages_request) => self.read_messages(history),
                info = complete(info_request) => self.read_info(info),
                changed = self.changed.changed() => {
                    changed.ok()?;
                    self.read();
                }
                () = sleep_until(poll_at.unwrap_or_else(Instant::now)), if poll_at.is_some() => self.request_messages(),
            }
        }
    }

    /// Reads what is new, and requests what may come from another node.
    fn read(&mut self) {
        let (point, (refused, lost)) = {
            let facts = self.console.recording.facts();
            let refused = facts.handshakes.after(self.handshakes);
            self.handshakes = facts.handshakes.total();
            (facts.point.clone(), refused)
        };
        let is_new_second = point.0 > self.point;
        if is_new_second {
            self.point = point.0;
            self.push("point", &point.1);
        }
        self.lost(lost);
        refused.iter().for_each(|json| self.push("handshake", json));
        self.request_messages();
        if is_new_second
            && let Some(station) = &mut self.station
            && station.info_request.is_none()
        {
            station.info_request = Some(request_info(&self.console, &station.key));
        }
    }

    /// Requests the new messages of the station, unless such a request is under way.
    fn request_messages(&mut self) {
        let Some(station) = &mut self.station else { return };
        if station.messages_request.is_some() {
            return;
        }
        if self.console.is_elsewhere(&station.key) {
            let now = Instant::now();
            if now < station.poll_at {
                return;
            }
            station.poll_at = now + POLL;
        }
        let limit = if station.after.is_some() { BATCH } else { 1 };
        let query = HistoryQuery { action: None, after: station.after, limit };
        let (console, key) = (self.console.clone(), station.key.clone());
        let request = async move { console.history(&key, &query).await };
        station.messages_request = Some(request.boxed());
    }

    /// Reads the new messages of the station.
    fn read_messages(&mut self, history: Result<Option<StationHistory>, Error>) {
        let Some(station) = &mut self.station else { return };
        // Another node may not respond now. Its messages are read later.
        let Ok(history) = history else { return };
        let Some(StationHistory { messages, forgotten, .. }) = history else {
            // Everything from now on is new.
            station.after.get_or_insert_default();
            return;
        };
        let Some(last) = messages.last().and_then(|message| seq(message)) else { return };
        if station.after.replace(last).is_none() {
            // A stream without a beginning begins here.
            return;
        }
        if messages.len() == BATCH {
            station.poll_at = Instant::now();
            self.changed.mark_changed();
        }
        self.lost(forgotten);
        for message in messages {
            let id = seq(&message).unwrap_or_default().to_string();
            self.ready.push_back(event("message", message.get()).id(id));
        }
    }

    /// Reads the information on the station.
    fn read_info(&mut self, info: Result<Option<StationInfo>, Error>) {
        let (Some(station), Ok(info)) = (&mut self.station, info) else { return };
        let json = serde_json::to_string(&info).unwrap_or_default();
        if station.info.as_ref() != Some(&json) {
            self.ready.push_back(sse::Event::default().event("station").data(&json));
            station.info = Some(json);
        }
    }

    fn push(&mut self, name: &str, json: &str) {
        self.ready.push_back(event(name, json));
    }

    /// Sends the number of events that this reader has lost, if there are any.
    fn lost(&mut self, events: u64) {
        if events > 0 {
            self.push("lost", &format!("{{\"events\":{events}}}"));
        }
    }
}

/// Creates an event. JSON of other nodes may have line breaks between its tokens, and axum 0.8.4 panics for carriage
/// returns.
fn event(name: &str, json: &str) -> sse::Event {
    let event = sse::Event::default().event(name);
    if json.contains(['\n', '\r']) { event.data(json.replace(['\n', '\r'], " ")) } else { event.data(json) }
}

fn request_info(console: &ConsoleState, key: &Arc<str>) -> BoxFuture<'static, Result<Option<StationInfo>, Error>> {
    let station = console.server.station(key.clone());
    async move { station.info().await }.boxed()
}

/// Waits for a request, and takes it away. Never completes if there is none.
async fn complete<T>(request: &mut Option<BoxFuture<'static, T>>) -> T {
    let result = match request {
        Some(request) => request.await,
        None => pending().await,
    };
    *request = None;
    result
}

/// Returns the number of a message.
fn seq(message: &RawValue) -> Option<u64> {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    serde_json::from_str::<Numbered>(message.get()).ok().map(|message| message.seq)
}
