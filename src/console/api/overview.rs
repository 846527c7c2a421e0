//! `GET api/overview`: the figures of all stations.

use std::{sync::Arc, time::SystemTime};

use axum::extract::State;
use serde::Serialize;
use serde_json::Value;

use crate::{
    console::{api::json::Json, state::ConsoleState, statistics::Point},
    unix_time,
};

#[derive(Serialize)]
pub(super) struct Overview {
    at: u64,
    version: &'static str,
    node: Option<Arc<str>>,
    calls_allowed: bool,
    close_allowed: bool,
    nodes: Value,
    missing_nodes: Value,
    points: Vec<Point>,
    totals: Value,
}

pub(super) async fn overview(State(console): State<Arc<ConsoleState>>) -> Json<Overview> {
    let recording = &console.recording;
    let (nodes, missing_nodes, points, totals) = {
        let facts = recording.facts();
        let (nodes, missing_nodes) = recording.nodes(&facts);
        (nodes, missing_nodes, facts.statistics.points(), recording.totals(&facts))
    };
    Json(Overview {
        at: unix_time::millis(SystemTime::now()),
        version: env!("CARGO_PKG_VERSION"),
        node: recording.node.clone(),
        calls_allowed: console.allowed.calls,
        close_allowed: console.allowed.close,
        nodes,
        missing_nodes,
        points,
        totals,
    })
}
