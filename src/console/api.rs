//! The JSON of the console.

pub(crate) mod error;
mod handshakes;
mod json;
mod live;
mod messages;
mod overview;
mod stations;

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{any, get},
};

use crate::console::{guard, state::ConsoleState};

/// Returns the routes of the API.
pub(crate) fn router() -> Router<Arc<ConsoleState>> {
    Router::new()
        .route("/overview", get(overview::overview))
        .route("/live", get(live::live))
        .route("/stations", get(stations::stations))
        .route("/stations/{key}", get(stations::station))
        .route("/stations/{key}/messages", get(messages::messages))
        .route("/stations/{key}/messages.jsonl", get(messages::file))
        .route("/handshakes", get(handshakes::handshakes))
        // axum drops the fallback of a router that is nested twice.
        .route("/{*path}", any(async || error::ApiError::not_found("no such path")))
        .layer(middleware::from_fn(guard::api))
}
