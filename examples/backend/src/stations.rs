//! The handlers for the calls of stations.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use jiff::Timestamp;
use ocpp_rpc::{
    CallError, RpcRouter, Session,
    extract::{Params, State},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// The actions of all versions that get an empty response.
const REPORTS: &[&str] = &[
    "BatterySwap",
    "ClearedChargingLimit",
    "DiagnosticsStatusNotification",
    "FirmwareStatusNotification",
    "LogStatusNotification",
    "MeterValues",
    "NotifyChargingLimit",
    "NotifyCustomerInformation",
    "NotifyDERAlarm",
    "NotifyDERStartStop",
    "NotifyDisplayMessages",
    "NotifyEvent",
    "NotifyMonitoringReport",
    "NotifyPeriodicEventStream",
    "NotifyPriorityCharging",
    "NotifyReport",
    "PublishFirmwareStatusNotification",
    "ReportChargingProfiles",
    "ReportDERControl",
    "ReservationStatusUpdate",
    "SecurityEventNotification",
    "SignedFirmwareStatusNotification",
    "StatusNotification",
];

/// Returns the router for all versions.
pub(crate) fn router() -> RpcRouter<App> {
    let router = RpcRouter::with_state(App::default())
        .on("BootNotification", boot)
        .on("Heartbeat", heartbeat)
        .on("Authorize", authorize)
        .on("StartTransaction", start_transaction)
        .on("StopTransaction", stop_transaction)
        .on("TransactionEvent", transaction_event)
        .on("DataTransfer", data_transfer);
    REPORTS.iter().fold(router, |router, action| router.on(action, acknowledge))
}

/// The state that handlers share.
#[derive(Clone, Default)]
pub(crate) struct App {
    transactions: Arc<AtomicI32>,
}

async fn boot(Params(boot): Params<Value>, session: Session) -> Result<Value, Infallible> {
    tracing::info!(station = &*session.identity(), %boot, "booted");
    Ok(json!({"status": "Accepted", "interval": 300, "currentTime": now()}))
}

async fn heartbeat() -> Result<Value, Infallible> {
    Ok(json!({"currentTime": now()}))
}

/// Accepts every `idTag` (1.6) and `idToken` (2.x).
async fn authorize(session: Session) -> Result<Value, Infallible> {
    let info = if session.protocol().as_deref() == Some("ocpp1.6") { "idTagInfo" } else { "idTokenInfo" };
    Ok(json!({info: {"status": "Accepted"}}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StartTransaction {
    connector_id: u32,
    id_tag: String,
}

async fn start_transaction(
    Params(start): Params<StartTransaction>,
    State(app): State<App>,
    session: Session,
) -> Result<Value, CallError> {
    let transaction = app.transactions.fetch_add(1, Ordering::Relaxed) + 1;
    let StartTransaction { connector_id, id_tag } = start;
    tracing::info!(station = &*session.identity(), transaction, connector_id, id_tag, "charging");
    Ok(json!({"transactionId": transaction, "idTagInfo": {"status": "Accepted"}}))
}

async fn stop_transaction(Params(stop): Params<Value>, session: Session) -> Result<Value, Infallible> {
    tracing::info!(station = &*session.identity(), %stop, "charged");
    Ok(json!({"idTagInfo": {"status": "Accepted"}}))
}

/// Accepts the token of an event, if it has one.
async fn transaction_event(Params(event): Params<Value>) -> Result<Value, Infallible> {
    Ok(match event.get("idToken") {
        Some(_) => json!({"idTokenInfo": {"status": "Accepted"}}),
        None => json!({}),
    })
}

async fn data_transfer() -> Result<Value, Infallible> {
    Ok(json!({"status": "UnknownVendorId"}))
}

async fn acknowledge() -> Result<(), Infallible> {
    Ok(())
}

/// Returns the current time in milliseconds, because some stations cannot parse more digits.
fn now() -> String {
    format!("{:.3}", Timestamp::now())
}
