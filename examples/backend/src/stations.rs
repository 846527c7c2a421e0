//! What stations say on a normal day, and what they are answered.

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

/// Reports that need no answer but a word that they arrived, of all versions.
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

pub(crate) fn router() -> RpcRouter<App> {
    let router = RpcRouter::with_state(App::default())
        .on("BootNotification", boot)
        .on("Heartbeat", heartbeat)
        .on("Authorize", authorize)
        .on("StartTransaction", start_transaction)
        .on("StopTransaction", stop_transaction)
        .on("TransactionEvent", transaction_event)
        .on("DataTransfer", data_transfer);
    REPORTS.iter().fold(router, |router, action| router.on(action, noted))
}

/// What the handlers share.
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

/// 1.6 asks with an `idTag`, 2.x with an `idToken`.
async fn authorize(session: Session) -> Result<Value, Infallible> {
    let info = match session.protocol().as_deref() {
        Some("ocpp1.6") => "idTagInfo",
        _ => "idTokenInfo",
    };
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

/// A token is judged where the event names one.
async fn transaction_event(Params(event): Params<Value>) -> Result<Value, Infallible> {
    Ok(match event.get("idToken") {
        Some(_) => json!({"idTokenInfo": {"status": "Accepted"}}),
        None => json!({}),
    })
}

async fn data_transfer() -> Result<Value, Infallible> {
    Ok(json!({"status": "UnknownVendorId"}))
}

async fn noted() -> Result<(), Infallible> {
    Ok(())
}

/// The time, to the millisecond: some stations can read no more digits.
fn now() -> String {
    format!("{:.3}", Timestamp::now())
}
