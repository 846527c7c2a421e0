//! The REST API. Its OpenAPI document is at `/api/openapi.json`.

mod error;
mod events;
mod health;
mod messages;
mod stations;
mod tokens;
mod transactions;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::{HeaderMap, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use ocpp_rpc::RpcServer;
use serde::Deserialize;
use sqlx::AnyPool;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, OpenApi, openapi::OpenApi as Document};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::error::ApiError;
use crate::journal::Journal;

/// The most entries of a list.
const MAX_LIMIT: i64 = 1000;

/// The state that handlers share.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) server: RpcServer,
    pub(crate) database: AnyPool,
    pub(crate) journal: Journal,
    /// Cancelled when the backend begins to stop.
    pub(crate) stopping: CancellationToken,
}

#[derive(OpenApi)]
#[openapi(info(
    title = "backend",
    description = "A backend for charging stations. POST, PUT and DELETE need `content-type: application/json`."
))]
struct Description;

/// The hosts that requests to the API may name. `None` accepts all.
type Hosts = Option<Arc<[String]>>;

/// Returns the router of the API.
pub(crate) fn router(api: Api, hosts: Option<[&str; 4]>) -> Router {
    let hosts: Hosts = hosts.map(|hosts| hosts.map(normalize).into());
    let (router, document) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(stations::stations))
        .routes(routes!(stations::station, stations::close_station))
        .routes(routes!(stations::call_station))
        .routes(routes!(messages::station_messages))
        .routes(routes!(messages::messages))
        .routes(routes!(transactions::transactions))
        .routes(routes!(transactions::meter_values))
        .routes(routes!(tokens::tokens, tokens::add_token))
        .routes(routes!(tokens::delete_token))
        .routes(routes!(events::events))
        .routes(routes!(openapi))
        .split_for_parts();
    let document: Arc<Document> = Arc::new(document);
    router
        .layer(Extension(document))
        .layer(middleware::from_fn(require_json))
        .layer(middleware::from_fn_with_state(hosts, require_known_host))
        .with_state(api)
}

/// Returns this document.
#[utoipa::path(get, path = "/api/openapi.json", responses((status = 200, description = "the document", body = Object)))]
async fn openapi(Extension(document): Extension<Arc<Document>>) -> Response {
    Json(&*document).into_response()
}

/// Rejects requests to the API that name another host. Health checks may name any.
///
/// A site can let its own name point to the address of this backend (DNS rebinding). For a browser, requests to that
/// name come from the same site, so only the name tells them apart.
async fn require_known_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let is_known = hosts.is_none_or(|hosts| {
        // HTTP/2 has the host in the URI. A request may have both.
        let in_headers = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().ok()?.parse().ok());
        let mut named = in_headers.chain(request.uri().authority().cloned().map(Some)).peekable();
        let is_known = |host: Option<Authority>| host.is_some_and(|host| hosts.contains(&normalize(host.host())));
        named.peek().is_some() && named.all(is_known)
    });
    if is_known || !request.uri().path().starts_with("/api/") {
        next.run(request).await
    } else {
        ApiError::unknown_host().into_response()
    }
}

/// Returns a host as it is compared.
fn normalize(host: &str) -> String {
    let host = host.trim_matches(['[', ']']);
    let address = host.parse::<IpAddr>().map(|address| address.to_string());
    address.unwrap_or_else(|_| host.trim_end_matches('.').to_ascii_lowercase())
}

/// Rejects changes whose body is not declared as JSON, even if there is no body.
///
/// Otherwise a page of any site could reset stations from the browser of a visitor. A browser asks the server before it
/// sends JSON to another site, and this server does not consent.
async fn require_json(request: Request, next: Next) -> Response {
    if request.method().is_safe() || is_json(request.headers()) {
        next.run(request).await
    } else {
        ApiError::not_json().into_response()
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split_once(';').map_or(content_type, |(media_type, _)| media_type);
    media_type.trim().eq_ignore_ascii_case("application/json")
}

#[derive(Deserialize, IntoParams)]
struct StationQuery {
    /// Returns only the entries of this station.
    station: Option<String>,
}

/// The part of a list, the newest entries first.
#[derive(Deserialize, IntoParams)]
struct Page {
    /// The most entries to return. At most 1000, the default.
    limit: Option<i64>,
    /// Returns entries that are older than the one with this `id`.
    before: Option<i64>,
}

impl Page {
    fn limit(&self) -> i64 {
        self.limit.unwrap_or(MAX_LIMIT).clamp(0, MAX_LIMIT)
    }

    fn before(&self) -> i64 {
        self.before.unwrap_or(i64::MAX)
    }
}

/// Returns the condition for the entries of one or all stations, whose parameter is the station or empty. A condition
/// for both would not use an index.
fn of_station(station: Option<&str>) -> &'static str {
    if station.is_some() { "station = $3" } else { "$3 = ''" }
}
