//! Heartbeats, the status of connectors, and reservations.

use std::convert::Infallible;

use ocpp_rpc::RpcRouter;
use serde_json::{Value, json};

use super::acknowledge;
use crate::date;

pub(super) fn router() -> RpcRouter {
    RpcRouter::new()
        .on("Heartbeat", heartbeat)
        .on("StatusNotification", acknowledge)
        .on("ReservationStatusUpdate", acknowledge)
}

async fn heartbeat() -> Result<Value, Infallible> {
    Ok(json!({"currentTime": date::now()}))
}
