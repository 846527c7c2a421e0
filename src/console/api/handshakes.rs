//! `GET api/handshakes`: the latest refused handshakes.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::console::{
    api::{error::ApiError, json::Json},
    state::ConsoleState,
};

#[derive(Serialize)]
pub(super) struct Handshakes {
    handshakes: Vec<Box<RawValue>>,
}

pub(super) async fn handshakes(State(console): State<Arc<ConsoleState>>) -> Result<Json<Handshakes>, ApiError> {
    let latest = console.recording.facts().handshakes.newest_first();
    let latest = latest.iter().map(|json| RawValue::from_string((**json).to_owned()));
    let handshakes = latest.collect::<Result<_, _>>().map_err(ApiError::internal)?;
    Ok(Json(Handshakes { handshakes }))
}
