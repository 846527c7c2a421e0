//! Stations, and calls to them.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    response::IntoResponse,
};
use ocpp_rpc::{Close, Payload, StationInfo};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{Api, error::ApiError};
use crate::{database, date};

/// A connected station.
#[derive(Serialize, ToSchema)]
pub(super) struct Connected {
    identity: String,
    protocol: Option<String>,
    remote_address: Option<String>,
    connected_at: String,
    last_seen_at: String,
    /// The node of the cluster that the station is connected to. Null without a cluster.
    node: Option<String>,
}

impl From<StationInfo> for Connected {
    fn from(station: StationInfo) -> Self {
        Self {
            identity: station.identity,
            protocol: station.protocol,
            remote_address: station.remote_address.map(|address| address.to_string()),
            connected_at: date::of(station.connected_at),
            last_seen_at: date::of(station.last_seen_at),
            node: station.node,
        }
    }
}

/// The header with the nodes that did not answer.
const MISSING_NODES: HeaderName = HeaderName::from_static("x-missing-nodes");

/// Returns the connected stations, of all nodes of the cluster.
#[utoipa::path(
    get,
    path = "/api/stations",
    responses((
        status = 200,
        description = "the stations",
        body = Vec<Connected>,
        headers(("x-missing-nodes" = Option<String>, description = "the name of each node that did not answer")),
    ))
)]
pub(super) async fn stations(State(api): State<Api>) -> impl IntoResponse {
    let mut stations = api.server.stations();
    let mut connected = Vec::new();
    while let Some(page) = stations.next().await {
        connected.extend(page.into_iter().map(Connected::from));
    }
    connected.sort_by(|a, b| a.identity.cmp(&b.identity));
    let mut headers = HeaderMap::new();
    for name in stations.missing_nodes() {
        // A name may have characters that a header must not have.
        let name = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("?"));
        headers.append(MISSING_NODES, name);
    }
    (headers, Json(connected))
}

/// A station that has booted once or is connected.
#[derive(Serialize, ToSchema)]
pub(super) struct Station {
    identity: String,
    /// The latest boot.
    boot: Option<Boot>,
    /// Null if the station is not connected.
    connection: Option<Connected>,
}

#[derive(Serialize, Deserialize, ToSchema)]
struct Boot {
    booted_at: String,
    protocol: String,
    vendor: String,
    model: String,
    serial_number: Option<String>,
    firmware_version: Option<String>,
}

/// Returns a station, connected or not.
#[utoipa::path(
    get,
    path = "/api/stations/{identity}",
    responses((status = 200, description = "the station", body = Station), ApiError)
)]
pub(super) async fn station(State(api): State<Api>, Path(identity): Path<String>) -> Result<Json<Station>, ApiError> {
    let rows = sqlx::query(
        "SELECT booted_at, protocol, vendor, model, serial_number, firmware_version FROM stations WHERE identity = $1",
    )
    .bind(&identity)
    .fetch_all(&api.database)
    .await?;
    let boot = database::read(&rows)?.pop();
    let connection = api.server.station(&*identity).info().await?.map(Connected::from);
    if boot.is_none() && connection.is_none() {
        return Err(ApiError::not_found());
    }
    Ok(Json(Station { identity, boot, connection }))
}

#[derive(Deserialize, IntoParams)]
pub(super) struct CallQuery {
    /// The timeout in milliseconds, from the request on. By default 30 s from the moment that the call is sent.
    timeout_ms: Option<u64>,
}

/// The response of a station.
#[derive(Serialize, ToSchema)]
pub(super) struct CallResult {
    result: Value,
}

/// Calls an action of a station. The body has the parameters.
#[utoipa::path(
    post,
    path = "/api/stations/{identity}/calls/{action}",
    params(("identity" = String, Path), ("action" = String, Path), CallQuery),
    request_body(content = Object, content_type = "application/json"),
    responses((status = 200, description = "the response", body = CallResult), ApiError)
)]
pub(super) async fn call_station(
    State(api): State<Api>,
    Path((identity, action)): Path<(String, String)>,
    Query(CallQuery { timeout_ms }): Query<CallQuery>,
    body: Bytes,
) -> Result<Json<CallResult>, ApiError> {
    let params: Payload = match &body[..] {
        b"" => Payload::default(),
        json => serde_json::from_slice(json).map_err(|error| ApiError::bad_body(error.to_string()))?,
    };
    let mut call = api.server.station(identity).call::<Value>(&action, &params);
    if let Some(timeout_ms) = timeout_ms {
        call = call.total_timeout(Duration::from_millis(timeout_ms));
    }
    Ok(Json(CallResult { result: call.await? }))
}

#[derive(Deserialize, IntoParams)]
pub(super) struct CloseQuery {
    /// The WebSocket close code. By default 1000.
    code: Option<u16>,
    #[serde(default)]
    reason: String,
}

/// The end of a connection.
#[derive(Serialize, ToSchema)]
pub(super) struct Closed {
    code: u16,
    reason: String,
}

/// Closes the connection of a station.
#[utoipa::path(
    delete,
    path = "/api/stations/{identity}",
    params(("identity" = String, Path), CloseQuery),
    responses((status = 200, description = "closed", body = Closed), ApiError)
)]
pub(super) async fn close_station(
    State(api): State<Api>,
    Path(identity): Path<String>,
    Query(CloseQuery { code, reason }): Query<CloseQuery>,
) -> Result<Json<Closed>, ApiError> {
    let close = Close::new(code.unwrap_or(1000)).reason(reason);
    let closed = api.server.station(identity).close(close).await?;
    Ok(Json(Closed { code: closed.code, reason: closed.reason }))
}
