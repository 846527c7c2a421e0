//! An axum handler that decides on each handshake: `RpcUpgrade` is an extractor, so the handler sees the request and
//! the state of the application before it accepts or refuses the station.
//!
//! Two stations connect, and the handler refuses one of them.
//!
//!     cargo run --example extractor

use std::{convert::Infallible, error::Error};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::any,
};
use ocpp_rpc::{Accept, Close, RpcClient, RpcRouter, RpcServer, RpcUpgrade, extract::Extension};
use serde_json::{Value, json};

#[derive(Clone)]
struct Site(String);

async fn connect(upgrade: RpcUpgrade, State(server): State<RpcServer>) -> Response {
    let Some((site, _)) = upgrade.handshake().identity().split_once('-') else {
        return StatusCode::FORBIDDEN.into_response();
    };
    // The handlers of the session can take the site as an argument.
    let accept = Accept::new().extension(Site(site.to_owned()));
    server.accept(upgrade, accept)
}

async fn authorize(Extension(Site(site)): Extension<Site>) -> Result<Value, Infallible> {
    Ok(json!({"idTagInfo": {"status": "Accepted", "parentIdTag": site}}))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let router = RpcRouter::new().on("Authorize", authorize);
    let server = RpcServer::builder(router).protocols(["ocpp1.6"]).build()?;
    let app = Router::new().route("/ocpp/{identity}", any(connect)).with_state(server.clone());
    let listener = server.bind("127.0.0.1:0").app(app).serve().await?;

    for identity in ["acme-1", "stranger"] {
        let endpoint = format!("ws://{}/ocpp", listener.local_addr());
        match RpcClient::builder(endpoint, identity).protocols(["ocpp1.6"]).connect().await {
            Ok(client) => {
                let result: Value = client.call("Authorize", &json!({"idTag": "A1B2"})).await?;
                println!("{identity}: {result}");
            }
            Err(error) => println!("{identity}: {error}"),
        }
    }
    listener.close(Close::going_away()).await;
    Ok(())
}
