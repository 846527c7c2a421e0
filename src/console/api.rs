//! The JSON of the console.

mod actions;
mod calls;
pub(crate) mod error;
mod handshakes;
mod json;
mod live;
mod messages;
mod overview;
mod stations;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{any, get, post},
};

use crate::console::{guard, state::ConsoleState};

/// The bytes of a request, at most.
const MAX_BODY: usize = 64 * 1024;

/// Returns the routes of the API.
pub(crate) fn router() -> Router<Arc<ConsoleState>> {
    Router::new()
        .route("/overview", get(overview::overview))
        .route("/live", get(live::live))
        .route("/stations", get(stations::stations))
        .route("/stations/{console_station}", get(stations::station))
        .route("/stations/{console_station}/messages", get(messages::messages))
        .route("/stations/{console_station}/messages.jsonl", get(messages::file))
        .route("/stations/{console_station}/calls/{console_action}", post(calls::call))
        .route("/stations/{console_station}/close", post(calls::close))
        .route("/handshakes", get(handshakes::handshakes))
        .route("/actions", get(actions::actions))
        // axum drops the fallback of a router that is nested twice.
        .route("/{*path}", any(async || error::ApiError::not_found("no such path")))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(guard::api))
}
