//! The handlers for the calls of stations, by functional block of OCPP.

mod authorisation;
mod availability;
mod certificates;
mod metering;
mod provisioning;
mod reports;
mod smart_charging;
mod transactions;

use std::convert::Infallible;

use ocpp_rpc::RpcRouter;
use serde_json::{Value, json};
use sqlx::AnyPool;

/// The state that handlers share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) database: AnyPool,
}

/// Returns the router for all versions.
pub(crate) fn router(database: AnyPool) -> RpcRouter {
    let app = App { database };
    RpcRouter::new()
        .merge(provisioning::router(app.clone()))
        .merge(authorisation::router(app.clone()))
        .merge(transactions::router(app.clone()))
        .merge(metering::router(app))
        .merge(availability::router())
        .merge(smart_charging::router())
        .merge(certificates::router())
        .merge(reports::router())
}

/// Accepts a report. The journal has its content.
async fn acknowledge() -> Result<(), Infallible> {
    Ok(())
}

/// Rejects a request for a service that the backend does not have.
async fn reject() -> Result<Value, Infallible> {
    Ok(json!({"status": "Rejected"}))
}
