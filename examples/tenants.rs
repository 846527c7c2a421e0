//! Tenants: stations connect to `/ocpp/{tenant}/{identity}` with a password (OCPP's security profile 1), and a REST
//! caller reaches the stations of its own tenant alone. Two stations have the same identity, and both connect.
//!
//!     cargo run --example tenants

use std::{collections::HashMap, error::Error, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, header, request::Parts},
    routing::{get, post},
};
use ocpp_rpc::{Accept, Authenticate, Close, Handshake, Reject, RpcClient, RpcRouter, RpcServer, StationInfo};
use serde_json::{Value, json};

/// The name of a tenant. Handlers of stations can take `Extension<Tenant>`.
#[derive(Clone)]
pub(crate) struct Tenant(String);

impl Tenant {
    /// Returns the key of a station. A name has no `/`, so no two stations have the same key.
    fn key(&self, identity: &str) -> String {
        format!("{}/{identity}", self.0)
    }
}

/// The passwords of stations by tenant and identity. A database takes its place.
#[derive(Clone)]
struct Passwords(Arc<HashMap<(&'static str, &'static str), &'static str>>);

impl Authenticate for Passwords {
    async fn authenticate(&self, handshake: Handshake) -> Result<Accept, Reject> {
        // The endpoint of `/ocpp/acme/CP-1` is `/ocpp/acme`.
        let tenant = handshake.endpoint().strip_prefix("/ocpp/").ok_or_else(Reject::not_found)?;
        // Some stations send surplus slashes.
        let tenant = tenant.trim_matches('/');
        let password = self.0.get(&(tenant, handshake.identity())).ok_or_else(Reject::not_found)?;
        if !handshake.password_is(password.as_bytes()) {
            return Err(Reject::unauthorized());
        }
        let tenant = Tenant(tenant.to_owned());
        Ok(Accept::new().key(tenant.key(handshake.identity())).extension(tenant))
    }
}

#[derive(Clone)]
pub(crate) struct App {
    server: RpcServer,
    /// The tenants by the tokens of their REST callers.
    tokens: Arc<HashMap<&'static str, &'static str>>,
}

/// Takes the tenant from the token of a REST request, and never from its path.
impl FromRequestParts<App> for Tenant {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, StatusCode> {
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer "));
        let tenant = token.and_then(|token| app.tokens.get(token)).ok_or(StatusCode::UNAUTHORIZED)?;
        Ok(Self(tenant.to_string()))
    }
}

/// Lists the connected stations of the caller's tenant.
async fn list(State(app): State<App>, tenant: Tenant) -> Json<Vec<StationInfo>> {
    let mut stations = app.server.stations().key_prefix(&tenant.key(""));
    let mut listed = Vec::new();
    while let Some(page) = stations.next().await {
        listed.extend(page);
    }
    Json(listed)
}

/// Resets a station of the caller's tenant.
async fn reset(
    State(app): State<App>,
    tenant: Tenant,
    Path(identity): Path<String>,
) -> Result<Json<Value>, ocpp_rpc::Error> {
    let call = app.server.station(tenant.key(&identity)).call("Reset", &json!({"type": "Soft"}));
    Ok(Json(call.total_timeout(Duration::from_secs(20)).await?))
}

/// Returns the server, and the application that it is part of.
pub(crate) fn app() -> Result<(RpcServer, Router), ocpp_rpc::BuildError> {
    let passwords = [(("acme", "CP-1"), "secret"), (("globex", "CP-1"), "hidden")];
    let passwords = Passwords(Arc::new(passwords.into()));
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).auth(passwords).build()?;
    let tokens = Arc::new([("token-of-acme", "acme"), ("token-of-globex", "globex")].into());
    let app = Router::new()
        .route("/api/stations", get(list))
        .route("/api/stations/{identity}/reset", post(reset))
        .route_service("/ocpp/{*station}", server.clone())
        .with_state(App { server: server.clone(), tokens });
    Ok((server, app))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (server, app) = app()?;
    let listener = server.bind("127.0.0.1:0").app(app).serve().await?;
    let mut stations = Vec::new();
    for (tenant, password) in [("acme", "secret"), ("globex", "hidden"), ("acme", "hidden")] {
        let endpoint = format!("ws://{}/ocpp/{tenant}", listener.local_addr());
        match RpcClient::builder(endpoint, "CP-1").protocols(["ocpp1.6"]).password(password).connect().await {
            Ok(client) => stations.push(client),
            Err(error) => println!("{tenant}/CP-1: {error}"),
        }
    }
    for session in server.sessions() {
        println!("{} is connected", session.key());
    }
    listener.close(Close::going_away()).await;
    Ok(())
}
