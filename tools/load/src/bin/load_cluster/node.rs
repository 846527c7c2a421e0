//! A node: a server for stations, and a REST API that calls them.

use std::{collections::HashSet, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderName, HeaderValue},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ocpp_rpc::RpcServer;
use ocpp_rpc_nats::Nats;
use serde_json::{Value, json};

use crate::{Result, process::until_parent_ends};

/// The header of a response that says if the station was connected to this node.
pub(crate) const PLACE: HeaderName = HeaderName::from_static("x-place");
pub(crate) const LOCAL: &str = "local";
const REMOTE: &str = "remote";

/// The longest time that a call takes.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The open files of a node besides its sessions: connections of the REST API, and those that are no sessions yet.
pub(crate) const OTHER_CONNECTIONS: u32 = 2048;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    nats: String,
    #[arg(long)]
    name: String,
}

pub(crate) async fn run(Args { nats, name }: Args) -> Result<()> {
    // All stations and callers have the same address here.
    let most = OTHER_CONNECTIONS as usize;
    let server = RpcServer::builder(load::router())
        .protocols(["ocpp1.6"])
        .max_connections(most)
        .max_connections_per_address(most)
        .max_pending_handshakes(most)
        .max_pending_handshakes_per_address(most)
        .cluster(Nats::connect(nats).await?.node_name(&name))
        .build()?;
    let app = Router::new()
        .route("/stations", get(list))
        .route("/stations/{id}/calls/{action}", post(call))
        .route_service("/ocpp/{*identity}", server.clone())
        .with_state(server.clone());
    let listener = server.bind("127.0.0.1:0").app(app).serve().await?;
    println!("{}", listener.local_addr());
    until_parent_ends().await
}

/// Calls a station, on whichever node it is.
async fn call(
    State(server): State<RpcServer>,
    Path((id, action)): Path<(String, String)>,
    Json(params): Json<Value>,
) -> Response {
    let station = server.station(id);
    let place = if station.session().is_some() { LOCAL } else { REMOTE };
    let result = station.call::<Value>(&action, &params).total_timeout(CALL_TIMEOUT).await;
    let mut response = result.map(Json).into_response();
    response.headers_mut().insert(PLACE, HeaderValue::from_static(place));
    response
}

/// Counts the stations of all nodes.
async fn list(State(server): State<RpcServer>) -> Json<Value> {
    let (mut stations, mut sessions) = (server.stations(), 0);
    let mut keys = HashSet::new();
    while let Some(page) = stations.next().await {
        sessions += page.len();
        keys.extend(page.into_iter().map(|station| station.key));
    }
    Json(json!({"stations": keys.len(), "sessions": sessions, "missing_nodes": stations.missing_nodes()}))
}
