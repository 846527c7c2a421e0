//! `GET api/stations/{key}/messages`: the recorded messages of a station.

use std::sync::Arc;

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use serde::Deserialize;

use crate::console::{
    api::{error::ApiError, json::Json, stations::StationPath},
    history::{HistoryQuery, StationHistory},
    state::ConsoleState,
};

/// The messages of a page, unless it says otherwise.
const DEFAULT_LIMIT: usize = 200;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Selection {
    action: Option<Box<str>>,
    limit: Option<usize>,
}

pub(super) async fn messages(
    Path(StationPath { key }): Path<StationPath>,
    selection: Result<Query<Selection>, QueryRejection>,
    State(console): State<Arc<ConsoleState>>,
) -> Result<Json<StationHistory>, ApiError> {
    read(&console, &key, selection?.0, DEFAULT_LIMIT).await.map(Json)
}

/// `GET api/stations/{key}/messages.jsonl`: all of them as a file of JSON Lines.
pub(super) async fn file(
    Path(StationPath { key }): Path<StationPath>,
    selection: Result<Query<Selection>, QueryRejection>,
    State(console): State<Arc<ConsoleState>>,
) -> Result<Response, ApiError> {
    let history = read(&console, &key, selection?.0, usize::MAX).await?;
    let mut text = String::new();
    for message in history.messages {
        text.push_str(message.get());
        text.push('\n');
    }
    let name = HeaderValue::try_from(format!("attachment; filename=\"{}.jsonl\"", file_name(&key)));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl")),
        (header::CONTENT_DISPOSITION, name.map_err(ApiError::internal)?),
    ];
    Ok((headers, text).into_response())
}

async fn read(
    console: &ConsoleState,
    key: &Arc<str>,
    selection: Selection,
    default_limit: usize,
) -> Result<StationHistory, ApiError> {
    let limit = selection.limit.unwrap_or(default_limit);
    let query = HistoryQuery { action: selection.action, limit, after: None };
    let history = console.history(key, &query).await?;
    let node = console.recording.node.clone();
    Ok(history.unwrap_or(StationHistory { messages: Vec::new(), node, forgotten: 0, count: 0 }))
}

/// Returns a key as the name of a file, with the characters that all systems allow.
fn file_name(key: &str) -> String {
    let is_allowed = |place, character: char| {
        character.is_ascii_alphanumeric() || "-_".contains(character) || (character == '.' && place > 0)
    };
    let characters = key.chars().take(100).enumerate();
    characters.map(|(place, character)| if is_allowed(place, character) { character } else { '_' }).collect()
}
