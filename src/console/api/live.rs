//! `GET api/live`: what happens, as server-sent events.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response, Sse, sse},
};
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::console::{api::error::ApiError, recorder::Watch, state::ConsoleState};

/// The messages that are read at once. More wait until these are sent.
const BATCH: usize = 100;

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
    /// The number of the latest message.
    after: u64,
    /// The latest information on the station, as JSON.
    info: Option<String>,
    _watch: Watch,
}

impl Stream {
    fn new(
        console: Arc<ConsoleState>,
        permit: OwnedSemaphorePermit,
        selection: Selection,
        last_id: Option<u64>,
    ) -> Self {
        let mut changed = console.recording.changed();
        // The first read waits for nothing.
        changed.mark_changed();
        let station = selection.station.map(|key| {
            let watch = console.recording.watch(&key);
            let last_seq = || console.recording.facts().store.last_seq(&key).unwrap_or_default();
            let after = last_id.or(selection.after).unwrap_or_else(last_seq);
            StationReader { after, info: None, _watch: watch, key }
        });
        let handshakes = console.recording.facts().handshakes.total();
        Self { console, _permit: permit, changed, ready: VecDeque::new(), point: 0, handshakes, station }
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
            tokio::select! {
                () = closing.cancelled() => return None,
                changed = self.changed.changed() => changed.ok()?,
            }
            self.read().await;
        }
    }

    /// Reads what is new.
    async fn read(&mut self) {
        let recording = self.console.recording.clone();
        let mask = self.console.server.state.telemetry.mask().clone();
        let (point, refused, records) = {
            let facts = recording.facts();
            let refused = facts.handshakes.after(self.handshakes);
            self.handshakes = facts.handshakes.total();
            let records = self.station.as_ref().map(|station| facts.store.after(&station.key, station.after, BATCH));
            (facts.point.clone(), refused, records)
        };
        let is_new_second = point.0 > self.point;
        if is_new_second {
            self.point = point.0;
            self.push("point", &point.1);
        }
        let (refused, lost) = refused;
        self.lost(lost);
        refused.iter().for_each(|json| self.push("handshake", json));
        if let Some(records) = records {
            self.lost(records.forgotten);
            if records.records.len() == BATCH {
                self.changed.mark_changed();
            }
            for record in &records.records {
                match record.to_json(&mask) {
                    Ok(json) => {
                        let id = record.seq.to_string();
                        self.ready.push_back(sse::Event::default().event("message").id(id).data(json));
                    }
                    Err(error) => tracing::error!(%error, "the console failed"),
                }
            }
            if let (Some(station), Some(last)) = (&mut self.station, records.records.last()) {
                station.after = last.seq;
            }
        }
        if let Some(station) = &mut self.station
            && (is_new_second || station.info.is_none())
            && let Ok(info) = self.console.server.station(station.key.clone()).info().await
        {
            let json = serde_json::to_string(&info).unwrap_or_default();
            if station.info.as_ref() != Some(&json) {
                self.ready.push_back(sse::Event::default().event("station").data(&json));
                station.info = Some(json);
            }
        }
    }

    fn push(&mut self, event: &str, json: &str) {
        self.ready.push_back(sse::Event::default().event(event).data(json));
    }

    /// Tells how many events this reader was too slow for.
    fn lost(&mut self, events: u64) {
        if events > 0 {
            self.push("lost", &format!("{{\"events\":{events}}}"));
        }
    }
}
