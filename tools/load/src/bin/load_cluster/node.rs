//! A node: a server for stations, and a REST API that calls them.

use std::{collections::HashSet, net::Ipv4Addr, time::Duration};

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
    /// The number of loopback addresses to listen on.
    #[arg(long)]
    addresses: u8,
}

/// Returns the loopback address with this number, from 0.
///
/// The stations of each process dial an address of their own. With all of them at one address, each connect would take
/// milliseconds of a processor from some 14,000 stations per node on: see "Ports" in the guide's page `scale`.
pub(crate) fn loopback(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, number.saturating_add(1))
}

pub(crate) async fn run(Args { nats, name, addresses }: Args) -> Result<()> {
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
    let mut listeners = vec![server.bind((loopback(0), 0)).app(app).serve().await?];
    let first = listeners[0].local_addr();
    for number in 1..addresses {
        let address = (loopback(number), first.port());
        let listener = server.bind(address).serve().await;
        let (ip, port) = address;
        listeners.push(listener.map_err(|error| format!("cannot listen on {ip}:{port}: {error}"))?);
    }
    println!("{first}");
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
