//! `GET api/stations/{key}/messages`: the recorded messages of a station.

use std::{fmt::Write, sync::Arc};

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::console::{
    api::{error::ApiError, json::Json},
    state::ConsoleState,
    store::Records,
};

#[derive(Deserialize)]
#[serde(default)]
pub(super) struct Selection {
    action: Option<String>,
    limit: usize,
}

impl Default for Selection {
    fn default() -> Self {
        Self { action: None, limit: 200 }
    }
}

#[derive(Serialize)]
pub(super) struct Messages {
    messages: Vec<Box<RawValue>>,
    node: Option<Arc<str>>,
    forgotten: u64,
}

pub(super) async fn messages(
    Path(key): Path<String>,
    selection: Result<Query<Selection>, QueryRejection>,
    State(console): State<Arc<ConsoleState>>,
) -> Result<Json<Messages>, ApiError> {
    let Query(selection) = selection?;
    let records = read(&console, &key, &selection);
    let lines = lines(&console, &records)?;
    let messages = lines.into_iter().map(RawValue::from_string).collect::<Result<_, _>>();
    let messages = messages.map_err(ApiError::internal)?;
    Ok(Json(Messages { messages, node: console.recording.node.clone(), forgotten: records.forgotten }))
}

/// `GET api/stations/{key}/messages.jsonl`: the same as a file of JSON Lines.
pub(super) async fn file(
    Path(key): Path<String>,
    selection: Result<Query<Selection>, QueryRejection>,
    State(console): State<Arc<ConsoleState>>,
) -> Result<Response, ApiError> {
    let Query(selection) = selection?;
    let records = read(&console, &key, &Selection { limit: usize::MAX, ..selection });
    let mut text = String::new();
    for line in lines(&console, &records)? {
        text.push_str(&line);
        text.push('\n');
    }
    let name = HeaderValue::try_from(format!("attachment; filename=\"{}.jsonl\"", file_name(&key)));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl")),
        (header::CONTENT_DISPOSITION, name.map_err(ApiError::internal)?),
    ];
    Ok((headers, text).into_response())
}

fn read(console: &ConsoleState, key: &str, selection: &Selection) -> Records {
    let facts = console.recording.facts();
    facts.store.latest(key, selection.action.as_deref(), selection.limit).unwrap_or_default()
}

/// Returns the records as JSON, without tokens and secrets.
fn lines(console: &ConsoleState, records: &Records) -> Result<Vec<String>, ApiError> {
    let mask = console.server.state.telemetry.mask();
    records.records.iter().map(|record| record.to_json(mask).map_err(ApiError::internal)).collect()
}

/// Returns a key as the name of a file, with the characters that all systems allow.
fn file_name(key: &str) -> String {
    let mut name = String::new();
    for character in key.chars().take(100) {
        if character.is_ascii_alphanumeric() || "-_.".contains(character) && !name.is_empty() {
            name.push(character);
        } else {
            let _ = write!(name, "_");
        }
    }
    name
}
